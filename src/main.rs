//! The `doorkeep` program.

fn main() {}
