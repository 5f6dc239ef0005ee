//! Behaviour of the real program, one file each.

mod cli;
