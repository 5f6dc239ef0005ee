//! Behaviour of the real program, one file each.

mod aborts;
mod access;
mod auth;
mod bad_gateway;
mod cli;
mod closing;
mod descriptors;
mod forwards;
mod garbage;
mod gateways;
mod idle;
mod keys;
mod kill;
mod kill_load;
mod lines;
mod memory;
mod passing;
mod standalone;
mod statuses;
mod stop;
#[allow(dead_code, unused_imports, reason = "what one file has no use for, another has")]
mod support;
mod times;
mod tls;
mod transfer;
mod tunnels;
mod units;
mod usage;
