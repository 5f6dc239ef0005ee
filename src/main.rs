//! The `anyproxy` program.
#![forbid(unsafe_code)]

fn main() {}
