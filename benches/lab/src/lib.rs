//! What the servers and the client of the lab share: the two protocols, sockets, arguments, a histogram.
//!
//! Nothing here is product code. The servers do the least that can be measured, and the client is light, so that the
//! difference between two servers is not hidden behind what both must do.

pub mod args;
pub mod histogram;
pub mod option;
pub mod socket;
pub mod wire;
