//! Every limit of the program, with its unit in its name. A test reaches each of them.

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
/// A tunnel that lived this long has earned a quick retry, whatever came before it; and a successor at once, when its gateway leaves.
pub const RECONNECT_QUICK_LIVED_MS: u64 = 5_000;
/// Until this much waiting has been handed out, no wait is longer than `RECONNECT_EARLY_MAX_MS`.
pub const RECONNECT_EARLY_MS: u64 = 10_000;
/// The longest wait while the gateway has not been missing for long: one that restarts is missed for hardly longer
/// than it takes to start. A little less than what its users may wait: the handshake and its ports come on top.
pub const RECONNECT_EARLY_MAX_MS: u64 = 220;
/// Tunnels whose gateway is leaving that a client keeps beside those that it uses, until their streams have ended; or as many as it uses,
/// where that is more. Of more, the oldest is closed.
pub const TUNNELS_LEFT_MAX: usize = 16;
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
/// The longest header of a frame: two bytes, a length of eight, a mask of four.
pub const WEBSOCKET_HEADER_BYTES_MAX: usize = 14;
/// The longest payload of a control frame (RFC 6455, section 5.5).
pub const WEBSOCKET_CONTROL_BYTES_MAX: usize = 125;
/// Less input than this at a time is copied behind what waits; it is what a linked piece may cost.
pub const WEBSOCKET_PACKED_BYTES_MAX: usize = 4 << 10;
/// A masked piece shorter than this is unmasked into memory of its own and not into a node: so much of a buffer is copied once more when
/// it is read.
pub const UNMASK_NODE_BYTES_MIN: usize = 4 << 10;
/// The head of the upgrade, the empty line included.
pub const WEBSOCKET_HEAD_BYTES_MAX: usize = 16 << 10;
/// Fields in the head of the upgrade.
pub const WEBSOCKET_HEADERS_MAX: usize = 64;
/// Control frames, and data frames with nothing in them, that a peer may send in one second.
pub const WEBSOCKET_IDLE_FRAMES_PER_S_MAX: u32 = 100;
// ---- logs ----

/// The longest value of one key in a log line, in bytes before escaping; the rest is cut.
pub const LOG_VALUE_BYTES_MAX: usize = 256;
/// The longest `msg="..."` of a log line, in bytes before escaping.
pub const LOG_MSG_BYTES_MAX: usize = 1024;
/// Access records that wait for the writer thread; further ones are dropped and counted.
pub const ACCESS_QUEUE_LEN_MAX: usize = 8192;
/// Formatted lines gathered for one write; a line begun below this size is still added.
pub const ACCESS_BATCH_BYTES_MAX: usize = 64 * 1024;
/// How long records gather after a write before the next one, unless that is for what was queued already.
pub const ACCESS_PAUSE_MS: u64 = 10;
/// How long closing the access log waits for its destination to take what is queued.
pub const ACCESS_CLOSE_MS: u64 = 1000;
/// The block in which `anyproxy logs` reads its input.
pub const REPORT_BLOCK_BYTES: usize = 256 * 1024;
/// The longest line that `anyproxy logs` looks at; a longer one counts as not parsed.
pub const REPORT_LINE_BYTES_MAX: usize = 64 * 1024;
/// Distinct keys that one top table of `anyproxy logs` holds before it forgets the rarest half.
pub const REPORT_KEYS_MAX: usize = 10_000;
/// Rows of one top table that are printed.
pub const REPORT_ROWS_MAX: usize = 5;

// ---- command line ----

/// The longest password: what a SOCKS5 user can send (RFC 1929, section 2).
pub const PASSWORD_BYTES_MAX: usize = 255;
/// The longest name of a group or a client.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest host name (RFC 1035, section 2.3.4, as text without the final dot).
pub const HOST_BYTES_MAX: usize = 253;
/// Patterns and forwards that one command line may name, of each kind.
pub const CLI_RULES_MAX: usize = 1024;

// ---- service ----

/// The longest line of status that the service manager is told.
pub const STATUS_BYTES_MAX: usize = 512;

/// Limits of HTTP/1.1 heads, bodies and proxied exchanges.
pub mod http {
    /// Longest request method. Longer ones are of no protocol that we could forward: 501.
    pub const METHOD_MAX_BYTES: usize = 32;
    /// Longest request target: 414 above.
    pub const TARGET_MAX_BYTES: usize = 8 << 10;
    /// Longest block of header fields, line ends included: 431 above.
    pub const FIELDS_MAX_BYTES: usize = 32 << 10;
    /// Most header fields in a head: 431 above.
    pub const FIELDS_MAX: usize = 100;
    /// Longest host name, in a target or in Host.
    pub const HOST_MAX_BYTES: usize = 255;
    /// Empty lines skipped before a request line (RFC 9112 section 2.2 asks for at least one).
    pub const EMPTY_LINES_MAX: usize = 2;
    /// Longest status line of a response.
    pub const STATUS_LINE_MAX_BYTES: usize = 8 << 10;
    /// Longest extension of one chunk.
    pub const CHUNK_EXTENSION_MAX_BYTES: usize = 256;
    /// Most chunk framing beyond what the payload is worth, in one body (see `ChunkReader`).
    pub const CHUNK_EXCESS_MAX_BYTES: u64 = 16 << 10;
    /// Framing that comes free with each chunk: a size, two line ends, and some more.
    pub const CHUNK_FREE_BYTES: u64 = 16;
    /// Hexadecimal digits in a chunk size: what a u64 holds.
    pub const CHUNK_SIZE_MAX_DIGITS: u8 = 16;
    /// Longest trailer section, line ends included.
    pub const TRAILERS_MAX_BYTES: usize = 8 << 10;
    /// Most trailer fields.
    pub const TRAILERS_MAX: usize = 32;

    /// All Connection fields of a head together: each is compared with every field when a message is passed on.
    pub const CONNECTION_MAX_BYTES: usize = 1 << 10;
    /// A user's whole request head must arrive within this: 408 after it.
    pub const REQUEST_HEAD_MAX_MS: u64 = 10_000;
    /// Output waiting for the user, or for the target, above which the proxy takes no more input.
    pub const OUTPUT_MAX_BYTES: usize = 64 << 10;
    /// Payload taken in one piece.
    pub const PIECE_MAX_BYTES: usize = 16 << 10;
    /// Interim (1xx) responses passed on in one exchange.
    pub const INTERIM_MAX: u32 = 8;
    /// Events waiting to be polled, above which no further request is begun.
    pub const EVENTS_MAX: usize = 8;
}

// ---- tunnel -------------------------------------------------------------------------------------------------

/// Most bytes in the body of one DATA frame.
pub const DATA_BODY_BYTES_MAX: usize = 16 * 1024;

/// Most bytes in the body of one DGRAM frame: the largest payload that UDP over IPv4 can carry.
pub const DGRAM_BODY_BYTES_MAX: usize = 65_507;

/// Most bytes in the body of any other frame.
pub const CONTROL_BODY_BYTES_MAX: usize = 512;

/// Bytes that wait to be read from one stream, above which further ones are copied together: what a reader that has stopped holds is then
/// its window and not the inputs that the window's bytes came in.
pub const BACKLOG_LINKED_BYTES_MAX: usize = 128 * 1024;

/// A received datagram shorter than this is copied out of the input, so that a few bytes do not keep a whole input alive. (Bodies of DATA
/// go into a `LinkBuffer`, which has such a limit of its own.)
pub const DATAGRAM_COPY_BYTES_MAX: usize = 1024;

/// Most bytes in a group's name.
pub const GROUP_BYTES_MAX: usize = 64;

/// Most bytes in a client's name.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

/// Most bytes in the reason that goes with a refusal or a farewell.
pub const REASON_BYTES_MAX: usize = 128;

/// Streams that may be open at once in one session; `--streams-max` may ask for less.
pub const STREAMS_MAX: usize = 16_384;

/// Ports that one session may own or ask for at once.
pub const PORTS_MAX: usize = 1024;

/// The window that each direction of a stream starts with while the budgets are far from used up.
pub const WINDOW_INITIAL_BYTES: u32 = 256 * 1024;

/// The window that it starts with when they are used up.
pub const WINDOW_MIN_BYTES: u32 = 16 * 1024;

/// The largest window that a peer may grant, and the largest that a window grows to.
pub const WINDOW_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// A window that was not used once within this time shrinks to what was used of it.
pub const WINDOW_IDLE_MS: u64 = 10_000;

/// All windows that one session grants, above which none grows.
pub const SESSION_WINDOW_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// All windows that the sessions of one process grant, above which none grows.
pub const PROCESS_WINDOW_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Most bytes that wait in one stream for their turn on the tunnel.
pub const SEND_QUEUE_BYTES_MAX: usize = 64 * 1024;

/// Most datagrams that wait in one stream, in each direction; then the oldest is dropped.
pub const DATAGRAM_QUEUE_LEN_MAX: usize = 64;

/// Most bytes of datagrams that wait in one stream, in each direction, each with its head; then the oldest is dropped.
pub const DATAGRAM_QUEUE_BYTES_MAX: usize = 128 * 1024;

/// Most bytes of datagrams that wait in all streams of one session, in both directions, each with its head; then the oldest of the
/// longest queue is dropped.
pub const SESSION_DATAGRAM_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Memory for control frames that is kept while few wait.
pub const CONTROL_QUEUE_KEPT_BYTES_MAX: usize = 4 * 1024;

/// What one turn of deficit round robin gives a stream.
pub const TURN_BYTES: usize = DATA_BODY_BYTES_MAX;

/// Most control frames that wait to be sent; a peer that makes us queue more is flooding.
pub const CONTROL_QUEUE_LEN_MAX: usize = 4 * STREAMS_MAX;

/// Above so many waiting control frames no new stream is opened, and no port may be asked for.
///
/// The other half is for what the open streams may still have to say: at most an answer and a closing message each.
pub const CONTROL_QUEUE_OPEN_LEN_MAX: usize = CONTROL_QUEUE_LEN_MAX / 2;

/// Most events that wait to be polled; a peer that causes more within one input is flooding.
pub const EVENT_QUEUE_LEN_MAX: usize = 8 * STREAMS_MAX;

/// PINGs and PONGs that a peer may send in one second.
pub const PINGS_PER_S_MAX: u32 = 100;

/// WINDOWs below `CREDIT_BYTES_MIN` that a peer may send in one second.
pub const SMALL_CREDITS_PER_S_MAX: u32 = 100;

/// PORT_OPENs that a client may send in one second. A client that gets none of its ports asks for all of them at once, and for all again
/// half a second later.
pub const PORT_OPENS_PER_S_MAX: u32 = 4 * PORTS_MAX as u32;

/// Less credit than this at a time is counted: a peer that gives a byte at a time makes us send a byte at a time.
pub const CREDIT_BYTES_MIN: u32 = WINDOW_MIN_BYTES / 4;

/// The whole handshake must be done within this time.
pub const HANDSHAKE_MS: u64 = 10_000;

/// After this long without a received frame, a PING asks whether the peer still lives.
pub const PING_IDLE_MS: u64 = 15_000;

/// So much later than the gateway a client asks: its PING is for a gateway that has stopped asking.
pub const PING_CLIENT_LATER_MS: u64 = 2_000;

/// After this long without a received frame behind an OPEN, a PING asks whether the client still lives.
pub const OPEN_QUIET_MS: u64 = 2_500;

/// The time that a PING has to be answered in.
pub const PING_ANSWER_MS: u64 = 10_000;

/// The round trip is measured again when it matters and the last time is longer ago than this.
pub const RTT_FRESH_MS: u64 = 1_000;

/// So many unanswered PINGs in a row lose the tunnel.
pub const PING_MISSES_MAX: u32 = 2;

// ---- glue ----

/// Bytes of one tunnel message: whole frames, as many as fit, so that small ones share a write.
pub const TUNNEL_MESSAGE_BYTES: usize = 64 * 1024;
/// Unsent bytes of a tunnel's connection below which the session is asked for more. What waits in the session can
/// still be put in order; what waits in the socket cannot.
pub const TUNNEL_OUTPUT_BYTES: usize = 64 * 1024;
/// Bytes that one tunnel sends before the other connections of its poll get their turn.
pub const TUNNEL_TURN_BYTES_MAX: usize = 1024 * 1024;
/// Unsent bytes of a relayed connection below which its stream is read.
pub const RELAY_OUTPUT_BYTES: usize = 64 * 1024;
/// Connections at the tunnel's port that have not proved themselves; one more is turned away.
pub const PRE_AUTH_MAX: usize = 1_000;
/// Of these, as many as one address (IPv6: one /64) may have.
pub const PRE_AUTH_PER_ADDRESS_MAX: usize = 50;
/// What such a connection may send before it has: many times what the upgrade and the handshake are.
pub const PRE_AUTH_BYTES_MAX: u64 = 32 * 1024;
/// How long further refusals of one address are not said aloud.
pub const REFUSED_QUIET_MS: u64 = 60_000;
/// Lines in a minute that clients of one address can have written aloud by coming and going, and by opening and closing ports: more
/// than all the ports that one may have are worth, or a thousand clients behind one address.
pub const PEER_LINES_MAX: u64 = 4 * PORTS_MAX as u64;
/// Addresses of which it is known that they were refused; all others count as one.
pub const REFUSED_ADDRESSES_MAX: usize = 4_096;
/// How long the last words of a tunnel may take to leave before its connection is cut.
pub const TUNNEL_GOODBYE_MS: u64 = 2_000;
/// How long a side that stops waits for its peer to hear them and to end the connection too. It is counted from the beginning of the
/// stop, and a little less than [`STOP_GRACE_MS`], at which the connection would be reset.
pub const STOP_HEARD_MS: u64 = STOP_GRACE_MS - 100;
/// Bytes that have reached the kernel and were not reported to the session yet. At most half the smallest window: with
/// more unsaid, a peer could wait for credit that nobody thinks of giving.
pub const RELAY_CREDIT_BYTES: u64 = (WINDOW_MIN_BYTES / 2) as u64;
/// Bytes that one relay brings to its connection before the others of its poll get their turn.
pub const RELAY_TURN_BYTES_MAX: u64 = 1024 * 1024;
/// Clients of one group.
pub const CLIENTS_PER_GROUP_MAX: usize = 1024;
/// How long what a user still sends is read and dropped after the last answer, so that no reset overtakes it.
pub const LINGER_MS: u64 = 1_000;
/// A SOCKS5 user's request has to be complete by then.
pub const SOCKS5_HANDSHAKE_MS: u64 = 10_000;
/// Output of a stream's connection that the kernel takes nothing of for this long, unless another time is asked for.
pub const WRITE_STALL_MS: u64 = 30_000;
/// Output of a tunnel's connection likewise: a little longer than PINGs take to find out, as long as they can be sent.
pub const TUNNEL_STALL_MS: u64 = 40_000;
/// The shortest time that can be asked for.
pub const TIMEOUT_MS_MIN: u64 = 100;
/// The longest time that can be asked for.
pub const TIMEOUT_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// A target has to be connected by then, all its addresses together, unless another time is asked for.
pub const CONNECT_TIMEOUT_MS: u64 = 30_000;
/// Gateways that one client serves.
pub const GATEWAYS_MAX: usize = 16;
/// Tunnels that one client keeps.
pub const REPLICAS_MAX: usize = 64;
/// A client's connection to its gateway has to be there by then.
pub const GATEWAY_CONNECT_TIMEOUT_MS: u64 = 10_000;
/// A gateway that was lost is said to be missed when no tunnel to it comes up for so long: one that restarts is back sooner.
pub const GATEWAY_MISSED_MS: u64 = 5_000;
/// How long that is not said again.
pub const GATEWAY_MISSED_QUIET_MS: u64 = 60_000;
/// A name has to be resolved by then.
pub const RESOLVE_TIMEOUT_MS: u64 = 5_000;
/// Addresses of one name that are tried.
pub const RESOLVE_ADDRESSES_MAX: usize = 16;
/// Threads that look up names of targets: as many look-ups may hang at once without any harm to others.
pub const TARGET_LOOKUP_THREADS_MAX: usize = 8;
/// How long a thread that looks names up waits for the next one before it ends.
pub const RESOLVER_IDLE_MS: u64 = 10_000;
/// Names that may be asked for at once; a stream to one more is refused.
pub const LOOKUPS_MAX: usize = 256;
/// Streams that may wait for names at once.
pub const LOOKUP_WAITERS_MAX: usize = 4096;
/// Names that are known at once; the one that was not used for longest makes room.
pub const NAMES_MAX: usize = 1024;
/// How long a name's addresses are known.
pub const RESOLVED_MS: u64 = 30_000;
/// How long it is known that there is no such name.
pub const NOT_FOUND_MS: u64 = 5_000;
/// Users' addresses of one forwarded UDP port.
pub const UDP_FLOWS_MAX: usize = 1_024;
/// Datagrams of one address that wait for the target to be reached; the oldest makes room.
pub const UDP_EARLY_MAX: usize = 16;
/// A UDP flow on which nothing has passed for this long is over.
pub const UDP_IDLE_MS: u64 = 60_000;
/// How often UDP flows are looked at.
pub const UDP_SWEEP_MS: u64 = 10_000;
/// Ports of one tunnel of which it is known that they were refused, so that asking again is not said again.
pub const REFUSED_PORTS_MAX: usize = PORTS_MAX;
/// How long a client waits before it asks again for a port that it did not get; twice as long each time.
pub const PORT_RETRY_MS: u64 = 500;
/// The longest such wait.
pub const PORT_RETRY_MAX_MS: u64 = 30_000;
/// How often a gateway on which something happens says how it goes.
pub const STATS_MS: u64 = 10_000;
/// Streams that have to end between two such lines before their time-outs are worth an alarm.
pub const STATS_ALARM_STREAMS_MIN: u64 = 20;
/// As many of a hundred of these have to time out.
pub const STATS_ALARM_PERCENT_MIN: u64 = 25;
/// How long the standalone program waits for its own tunnel.
pub const FIRST_TUNNEL_MS: u64 = 5_000;
/// How long what is under way may take after a stop was asked for.
pub const STOP_GRACE_MS: u64 = 500;
// ---- serve ----

/// From the first byte of a request to the end of its head; then 408.
pub const SERVE_HEAD_MS: u64 = 10_000;
/// The most of a head that is made contiguous; the parser refuses a longer one before this.
pub const SERVE_HEAD_BYTES_MAX: usize = 48 << 10;
/// How often an exchange under way is looked at: one that has not moved in between is ended.
pub const SERVE_STALL_MS: u64 = 30_000;
/// Payload that a request's body brings between two such looks, as long as it is the sender who is waited for.
pub const SERVE_STALL_BODY_BYTES_MIN: u64 = 30 << 10;
/// Answers of one turn beyond this are tried on the kernel at once, to see whether they are taken.
pub const SERVE_UNSENT_BYTES_MAX: usize = 16 << 10;
/// How long a connection reads on after its last answer, so that no reset overtakes it.
pub const SERVE_LINGER_MS: u64 = 1_000;
/// The longest `/delay/MS`.
pub const SERVE_DELAY_MS_MAX: u64 = 600_000;
/// What a peer may send ahead during a delay before it is not read any more.
pub const SERVE_AHEAD_BYTES_MAX: usize = 64 << 10;

// ---- TLS and keys ----

/// A file of certificates.
pub const CERTIFICATES_BYTES_MAX: usize = 1 << 20;
/// Certificates in one such file.
pub const CERTIFICATES_MAX: usize = 256;
/// A file with a certificate's private key.
pub const PRIVATE_KEY_BYTES_MAX: usize = 64 << 10;
/// Days that a certificate of `anyproxy cert` may be valid.
pub const CERTIFICATE_DAYS_MAX: u32 = 3650;
/// Names and addresses in one such certificate.
pub const CERTIFICATE_NAMES_MAX: usize = 64;
/// Fingerprints that a client may take its gateway by.
pub const PINS_MAX: usize = 16;
/// Memory that the derivation of one key takes, at least: what makes a guess dear.
pub const DERIVE_MEMORY_KIB_MIN: u32 = 1 << 10;
/// At most: what a gateway can have its clients spend.
pub const DERIVE_MEMORY_KIB_MAX: u32 = 256 << 10;
/// Passes over that memory.
pub const DERIVE_PASSES_MAX: u32 = 16;
/// Lanes of that memory.
pub const DERIVE_LANES_MAX: u32 = 4;
/// Keys that one client derives at once.
pub const DERIVATIONS_MAX: usize = 2;
/// A file of keys.
pub const KEYS_BYTES_MAX: usize = 4 << 20;
/// Entries in a file of keys.
pub const KEYS_MAX: usize = 4096;
/// Groups, and ports or ranges of ports, that one key may list.
pub const KEY_GRANTS_MAX: usize = 64;
/// Passwords that wait to be verified; one more is turned away.
pub const VERIFY_QUEUE_LEN_MAX: usize = 64;
/// Threads that verify passwords.
pub const VERIFY_THREADS_MAX: usize = 2;
/// Passwords that were verified and are remembered, right ones and wrong ones each.
pub const VERIFIED_LEN_MAX: usize = 4096;
/// Wrong passwords that an address may send in a minute.
pub const AUTH_FAILURES_MAX: u32 = 10;
/// That minute.
pub const AUTH_FAILURES_MS: u64 = 60_000;
/// Addresses whose wrong passwords are counted, each on its own.
pub const AUTH_ADDRESSES_MAX: usize = 4096;
/// Counts that all further addresses share.
pub const AUTH_SHARED_LEN_MAX: usize = 1024;
/// Users who wait for the same login to be verified.
pub const VERIFY_WAITING_MAX: usize = 1024;
