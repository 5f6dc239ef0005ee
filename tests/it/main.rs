//! Behaviour of the real program, one file each.

mod aborts;
mod cli;
mod closing;
mod garbage;
mod kill;
mod standalone;
mod stop;
#[allow(dead_code, unused_imports, reason = "what one file has no use for, another has")]
mod support;
