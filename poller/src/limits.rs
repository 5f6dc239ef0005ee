//! Every bound of the crate, with its unit in the name. Defaults that a builder can change say so.

/// Bytes that the read buffer of a thread at work holds: the most that one read takes.
///
/// Large enough that bulk transfers are bound by the copy and not by the call, small enough to stay in the second-level cache.
pub const READ_BYTES_MAX: usize = 64 * 1024;

/// Bytes that one connection reads in a turn before the others get theirs.
pub const TURN_BYTES_MAX: usize = 256 * 1024;

/// Turns that one owner gives a connection whose events keep coming, before it goes to the back of the queue.
pub const TURNS_MAX: usize = 8;

/// Unconsumed input bytes above which a connection is not read any more.
pub const INPUT_HIGH_BYTES: usize = 1024 * 1024;

/// Unsent output bytes above which a connection is not read any more and handles are told to wait.
pub const OUTPUT_HIGH_BYTES: usize = 256 * 1024;

/// Unsent output bytes below which `on_drain` runs after the high watermark had been passed.
pub const OUTPUT_LOW_BYTES: usize = 64 * 1024;

/// Bytes that a TCP socket keeps in the kernel and cannot send yet (`TCP_NOTSENT_LOWAT`): the rest waits in the output, where
/// it is bounded and can be dropped at once. What is on its way, and limits how fast a far peer gets it, does not count.
///
/// The kernel asks for more when half of this is left: time enough to come round at 1 Gbit/s. A process that puts many
/// streams into one connection has what is urgent wait behind no more than this.
pub const KERNEL_UNSENT_BYTES: usize = 128 * 1024;

/// Pieces given to one vectored send.
pub const IO_SLICES_MAX: usize = 64;

/// Readiness events taken from the kernel in one call.
pub const EVENTS_MAX: usize = 256;

/// Waits in a row that bring one event each, after which the jobs that such an event leaves are run without looking for
/// another event first.
pub const LONE_WAITS_MIN: usize = 8;

/// Connections accepted from one listener before the other operators of its poll get their turn.
pub const ACCEPT_TURN_MAX: usize = 64;

/// Milliseconds for which accepting rests when the process or the system is out of descriptors or memory, or the event
/// loop has all the connections that it may have.
pub const ACCEPT_PAUSE_MS: u64 = 100;

/// Connections of one event loop (builder: `connections_max`).
pub const CONNECTIONS_MAX: usize = 1 << 20;

/// Length of the kernel's queue of connections that wait to be accepted.
pub const LISTEN_BACKLOG_MAX: i32 = 4096;

/// Worker threads beyond one per poll, which take over the lead when a handler blocks (builder: `standby_max`).
pub const STANDBY_MAX: usize = 32;

/// Microseconds between two looks of the monitor for blocked callbacks, at most: while none block.
pub const TICK_MAX_US: u64 = 2000;

/// Microseconds between two looks of the monitor for blocked callbacks, at least: however many block.
pub const TICK_MIN_US: u64 = 100;

/// Microseconds between two looks of the monitor up to which it yields its core instead of sleeping: some 170 blocked
/// callbacks a second.
pub const TICK_YIELD_US: u64 = 200;

/// Microseconds below which a yield was one to nobody: with two switches and a request it takes longer.
pub const YIELD_US: u64 = 3;

/// One part in so many of its time may the monitor yield to nobody, instead of sleeping.
pub const YIELD_PARTS: u32 = 4;

/// Microseconds of such time that it may save up.
pub const YIELD_SPARE_US: u64 = 1_000;

/// Microseconds that one look of the monitor is reckoned to cost a busy core: little, because it waits for the core.
pub const MONITOR_COST_US: u64 = 10;

/// Milliseconds after which the monitor forgets how often callbacks blocked.
pub const PACE_MS: u64 = 100;

/// Blocked callbacks of one poll that are remembered to have been found, until they return.
pub(crate) const SUSPECTS_MAX: usize = 32;

/// Microseconds for which a callback that does not sleep keeps its poll before a standby worker takes over. Longer than
/// a thread waits for its turn on a busy core.
pub const RUN_LONG_US: u64 = 10_000;

/// What the monitor adds to its thread's nice value, so that it waits for a core instead of taking it from a leader.
pub const MONITOR_NICE: i32 = 10;

/// The highest nice value that there is.
pub const NICE_MAX: i32 = 19;

/// Nanoseconds by which the monitor's timers may be late.
pub const MONITOR_SLACK_NS: u64 = 10_000;

/// Bytes read of a thread's state: its number and its name of at most 16 bytes stand before what is looked for.
pub const THREAD_STAT_BYTES: usize = 64;

/// Threads for blocking tasks (builder: `tasks_max`).
pub const TASKS_MAX: usize = 16;

/// Blocking tasks that wait for a thread; one more is refused.
pub const TASK_QUEUE_MAX: usize = 4096;

/// Milliseconds that a graceful close waits for unsent output to leave while nothing of it moves (builder: `close_stall`).
pub const CLOSE_STALL_MS: u64 = 30_000;

/// Bytes of the node that a thread keeps for the answers of the connections that it runs.
pub const ANSWER_BYTES: usize = 4 * 1024;

/// Milliseconds for which a connection that is closed gracefully, and all of whose output has left, still takes what its peer
/// is sending. A round trip to the other side of the earth, several times over.
pub const LINGER_MS: u64 = 2_000;

/// Bytes that are read and dropped meanwhile of a peer that does not end its stream; the rest stays in the kernel, which slows
/// it.
pub const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// Largest datagram that is received: the most that UDP can carry.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Calls of `on_drain` that one connection gets in a turn: a producer whose output the kernel always takes shares its thread.
pub const DRAINS_TURN_MAX: usize = 8;

/// Milliseconds for which a listener that cannot accept is silent after it said so.
pub const ACCEPT_WARN_MS: u64 = 10_000;

/// Seconds that a timer or a timeout reaches into the future; a longer one is cut to this (ten years).
pub const DELAY_SECONDS_MAX: u64 = 10 * 365 * 24 * 3600;

/// Milliseconds that a poll waits in one call: the kernel counts them in 32 bits. Nothing is due then; it waits again.
pub const WAIT_MS_MAX: u64 = 3_600_000;

/// Milliseconds that a stopping event loop gives idle task threads to end after its deadline.
pub const JOIN_MS: u64 = 100;

/// Datagrams taken from one socket in a turn.
pub const DATAGRAMS_TURN_MAX: usize = 64;

/// Handles that wait for one connection's output to drain when those whose connection has closed are let go for the first
/// time, and then whenever as many wait as were left, twice over.
pub const DRAIN_SWEEP_MIN: usize = 64;

/// Close callbacks of one connection; one more is refused.
pub const CLOSE_CALLBACKS_MAX: usize = 1024;

/// Timers of an event loop that are not tied to a connection (`Remote::after`); one more is refused.
pub const TASK_TIMERS_MAX: usize = 65_536;

/// Bits of nanoseconds that one slot of the finest level of the timer wheel spans (about a millisecond). Within a slot
/// timers are ordered to the nanosecond.
pub(crate) const TIMER_TICK_SHIFT: u32 = 20;

/// Milliseconds that a blocking read or flush lasts at most where no limit of the connection bounds it (builder:
/// `wait_limit`).
pub const WAIT_MS: u64 = 30_000;

/// Least space given to one read of a blocking read.
pub const WAIT_READ_BYTES_MIN: usize = 4 * 1024;

/// Milliseconds that a TLS handshake may take (per connection: `tls::Engine::with_handshake_timeout`).
pub const TLS_HANDSHAKE_MS: u64 = 5_000;

/// Bytes of incomplete TLS records that one connection keeps: a handshake message of 64 KiB, the longest that is taken.
pub const TLS_BACKLOG_BYTES_MAX: usize = 64 * 1024;

/// Bytes of plaintext in one TLS record, by RFC 8446, section 5.1.
pub const TLS_RECORD_BYTES_MAX: usize = 16 * 1024;

/// Bytes that sealing adds to a record: head, nonce, content type and tag are 30 at most. Where a record takes more, because
/// something goes out ahead of it or records were configured to be shorter, it is tried again with as much as it takes.
pub const TLS_RECORD_EXTRA_BYTES_MAX: usize = 64;

/// Bytes of records that are sealed ahead of the kernel; the output behind them waits as it is.
pub const TLS_SEALED_BYTES_MAX: usize = 128 * 1024;

/// Pieces of output shorter than this are joined before they are sealed: a record costs 22 bytes and a pass of the
/// cipher's set-up whatever its size.
pub const TLS_JOIN_BYTES_MIN: usize = 4 * 1024;
