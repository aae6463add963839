//! Where the frames of a WebSocket begin and end, seen from their bytes as they pass.
//! In: bytes, in pieces of any size. Out: how far the present frame goes. Errors: none. I/O: none.
//! Source: RFC 6455 §5.2 (frames), §5.5.1 (nothing follows a close frame).

/// The opcode of a close frame, with the bits that say that it is whole.
const CLOSE: u8 = 0x88;

/// Longest head of a frame: two bytes, eight of a length, four of a mask.
const HEAD: usize = 14;

/// One direction of a WebSocket.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    /// The head of the present frame, as far as it has come.
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the present frame's payload that are still to come, once its head is whole.
    left: Option<u64>,
    closed: bool,
}

impl Frames {
    /// Bytes that have passed.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.step(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// Whether no frame is under way.
    pub(super) const fn between(&self) -> bool {
        self.have == 0
    }

    /// Whether a close frame has passed whole.
    pub(super) const fn closed(&self) -> bool {
        self.closed && self.between()
    }

    /// How many of these bytes, which come next, belong to the frame under way.
    pub(super) fn rest_of(&self, bytes: &[u8]) -> usize {
        if self.between() { 0 } else { self.clone().step(bytes) }
    }

    /// Takes what belongs to one frame, and says how many bytes that were: at least one.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        for byte in bytes {
            if self.left.is_some() {
                break;
            }
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            taken += 1;
            self.left = self.payload();
            self.closed |= self.have == 1 && *byte == CLOSE;
        }
        if let Some(left) = self.left {
            let here = left.min((bytes.len() - taken) as u64);
            self.left = Some(left - here);
            taken += usize::try_from(here).unwrap_or(usize::MAX);
            if left == here {
                (self.have, self.left) = (0, None);
            }
        }
        taken
    }

    /// The length of the payload, once the head is whole.
    fn payload(&self) -> Option<u64> {
        let [_, second, rest @ ..] = &self.head;
        if self.have < 2 {
            return None;
        }
        let (short, mask) = (second & 0x7f, if second & 0x80 == 0 { 0 } else { 4 });
        let wide = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.have < 2 + wide + mask {
            return None;
        }
        let number = rest.iter().take(wide).fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        Some(if wide == 0 { u64::from(short) } else { number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: usize, mask: Option<[u8; 4]>) -> Vec<u8> {
        let bit = if mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match payload {
            0..=125 => bytes.push(bit | u8::try_from(payload).expect("short")),
            126..=0xffff => {
                bytes.push(bit | 126);
                bytes.extend(u16::try_from(payload).expect("short").to_be_bytes());
            }
            _ => {
                bytes.push(bit | 127);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend(mask.into_iter().flatten());
        bytes.extend(std::iter::repeat_n(0x88, payload));
        bytes
    }

    #[test]
    fn ends_of_frames_are_found_however_the_bytes_are_cut() {
        let mask = Some([0x88, 0, 1, 2]);
        let all = [
            frame(0x81, 0, None),
            frame(0x81, 5, mask),
            frame(0x01, 125, None),
            frame(0x80, 126, mask),
            frame(0x82, 65_535, None),
            frame(0x82, 65_536, mask),
            frame(0x89, 0, mask),
        ];
        let bytes: Vec<u8> = all.concat();
        let mut ends = vec![0];
        all.iter().for_each(|frame| ends.push(ends.last().expect("one") + frame.len()));
        for piece in [1, 2, 3, 7, 1000, 70_000, bytes.len()] {
            let (mut frames, mut at) = (Frames::default(), 0);
            for part in bytes.chunks(piece) {
                let next = ends.iter().find(|end| **end >= at).expect("an end");
                let want = if *next == at { 0 } else { (next - at).min(part.len()) };
                assert_eq!(frames.rest_of(part), want, "at {at} in pieces of {piece}");
                frames.pass(part);
                at += part.len();
                assert_eq!(frames.between(), ends.contains(&at), "at {at} in pieces of {piece}");
                assert!(!frames.closed());
            }
        }
    }

    #[test]
    fn a_close_frame_counts_once_it_is_whole() {
        let mut frames = Frames::default();
        frames.pass(&[0x88, 2, 3]);
        assert!(!frames.closed());
        frames.pass(&[0xe8]);
        assert!(frames.closed());
    }

    #[test]
    fn a_length_that_no_frame_has_is_no_fault_of_ours() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255]);
        frames.pass(&[0; 1000]);
        assert!(!frames.between());
    }
}
