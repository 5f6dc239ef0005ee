//! Behaviour of the real program, one file each.

mod auth;
mod cli;
mod forwards;
mod passing;
mod standalone;
mod statuses;
#[allow(dead_code, unused_imports, reason = "what one file has no use for, another has")]
mod support;
mod tunnels;
