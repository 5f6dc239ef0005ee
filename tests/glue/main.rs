//! The glue between connections and tunnels, over loopback inside this process: what happens at the edges.

// A test that cannot go on says where.
#![allow(clippy::unwrap_used)]

mod carriers;
mod fleet;
mod order;
mod streams;
mod support;
mod tls;
mod tunnels;
