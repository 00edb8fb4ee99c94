//! The program. See the library for everything it does.
fn main() {}
