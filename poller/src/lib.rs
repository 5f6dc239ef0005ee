//! A readiness event loop.
#![forbid(unsafe_code)]
