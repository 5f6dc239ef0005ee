//! The program as a service: signals that ask it to stop, and the service manager that wants to know.

pub mod signals;
pub mod systemd;
