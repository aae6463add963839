//! Small pieces of a message on their way out, written as one: that is cheaper to the kernel than a list of them.
//! In: pieces. Out: what their writer says. Errors: the writer's. I/O: the writer's.

use std::cell::RefCell;
use std::io::IoSlice;

/// A head and a body that are so small together are written as one, in bytes.
const SMALL: usize = 2048;

thread_local! {
    /// Where small pieces are put together, one write after the other.
    static FLAT: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// Writes one piece as it is, and the bytes of several small ones as one. `None`: they are too many to be copied, or none.
pub fn gathered<T>(pieces: &[IoSlice<'_>], write: impl FnOnce(&[u8]) -> T) -> Option<T> {
    match pieces {
        [] => None,
        [one] => Some(write(one)),
        _ if pieces.iter().fold(0_usize, |sum, piece| sum.saturating_add(piece.len())) > SMALL => None,
        _ => Some(FLAT.with_borrow_mut(|flat| {
            flat.clear();
            pieces.iter().for_each(|piece| flat.extend_from_slice(piece));
            write(flat)
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_written_together_and_nothing_is_lost() {
        let pieces = |sizes: &[usize]| -> Vec<Vec<u8>> {
            sizes.iter().zip(1_u8..).map(|(size, byte)| vec![byte; *size]).collect()
        };
        for sizes in [&[5, 7][..], &[SMALL - 1, 1], &[0, 3, 0, 9], &[5], &[usize::from(u16::MAX)]] {
            let pieces = pieces(sizes);
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            assert_eq!(gathered(&slices, <[u8]>::to_vec), Some(pieces.concat()));
        }
        for sizes in [&[SMALL, 1][..], &[1, usize::from(u16::MAX)], &[]] {
            let pieces = pieces(sizes);
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            assert_eq!(gathered(&slices, <[u8]>::to_vec), None, "{sizes:?}");
        }
    }
}
