//! Every limit of the program, with its unit at the end of its name.

// ---- credentials ----

/// A group's name: what a user can send as a name over SOCKS5 (RFC 1929).
pub const GROUP_NAME_BYTES_MAX: usize = 255;
/// A group's secret: what a user can send as a password over SOCKS5 (RFC 1929).
pub const SECRET_BYTES_MAX: usize = 255;
/// Groups of one gateway.
pub const GROUPS_MAX: usize = 4096;

// ---- reconnect ----

/// Where the back-off begins.
pub const RECONNECT_BASE_MS: u64 = 100;
/// The shortest wait that is ever handed out, so that no draw turns into a busy loop.
pub const RECONNECT_WAIT_MIN_MS: u64 = 10;
/// The longest wait, for ever.
pub const RECONNECT_WAIT_MAX_MS: u64 = 30_000;
/// The first retry after a tunnel that had been up is not later than this.
pub const RECONNECT_QUICK_MAX_MS: u64 = 200;
/// A tunnel that lived this long has earned a quick retry, whatever came before it.
pub const RECONNECT_QUICK_LIVED_MS: u64 = 5_000;
/// Until this much waiting has been handed out, no wait is longer than `RECONNECT_EARLY_MAX_MS`.
pub const RECONNECT_EARLY_MS: u64 = 10_000;
/// The longest wait while the gateway has not been missing for long.
pub const RECONNECT_EARLY_MAX_MS: u64 = 1_000;
/// A tunnel that lived this long ends the back-off.
pub const RECONNECT_RESET_LIVED_MS: u64 = 60_000;

// ---- targets and rules ----

/// A host name, without the dot at its end (RFC 1035, section 2.3.4).
pub const HOST_NAME_BYTES_MAX: usize = 253;
/// One label of a host name.
pub const HOST_LABEL_BYTES_MAX: usize = 63;
/// Patterns in one list of host rules.
pub const RULES_MAX: usize = 4096;

// ---- socks5 ----

/// The longest message of the handshake: a name and a password of 255 bytes each (RFC 1929).
pub const SOCKS5_MESSAGE_BYTES_MAX: usize = 513;

// ---- websocket ----

/// One frame and one message, by the length that is declared.
pub const WEBSOCKET_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The head of the upgrade, the empty line included.
pub const WEBSOCKET_HEAD_BYTES_MAX: usize = 16 << 10;
/// Fields in the head of the upgrade.
pub const WEBSOCKET_HEADERS_MAX: usize = 64;
