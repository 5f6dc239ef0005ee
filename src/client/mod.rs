//! The client: dials out of a private network and reaches targets there.

pub mod reconnect;
