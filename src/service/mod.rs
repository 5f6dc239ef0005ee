//! The program as a service: what it may have, signals that ask it to stop, and the service manager that wants to know.

pub mod descriptors;
pub mod signals;
pub mod systemd;
