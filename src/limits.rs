//! Every limit of the program, with its unit at the end of its name.

// ---- credentials ----

/// A group's name: what a user can send as a name over SOCKS5 (RFC 1929).
pub const GROUP_NAME_BYTES_MAX: usize = 255;
/// A group's secret: what a user can send as a password over SOCKS5 (RFC 1929).
pub const SECRET_BYTES_MAX: usize = 255;
/// Groups of one gateway.
pub const GROUPS_MAX: usize = 4096;
