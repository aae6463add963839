//! Values that must not be seen: tokens, keys, passwords.
//! In: a value. Out: [`Secret`], which shows itself to nobody who does not ask by name. Errors: none. I/O: none.

use std::fmt;

/// A value that prints as `<redacted>`, has no `Display` and no `Serialize`, and is read with [`Secret::expose`] only,
/// so that every place that lets it out can be found by that word.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. What it goes into must be no log line, page or error text.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "<redacted>");
        assert_eq!(format!("{:?}", Some(Secret::new(7))), "Some(<redacted>)");
    }
}
