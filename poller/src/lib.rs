//! A readiness event loop in the manner of [netpoll](https://github.com/cloudwego/netpoll), in safe Rust and
//! without async: file descriptors are watched by polls, handlers run on worker threads, and every connection
//! passes the same life cycle exactly once. It runs on Linux.
//!
//! ```text
//!   accept ─┐                                                      user, peer, error, timer, shutdown
//!   adopt ──┼─▶ on_prepare ─▶ on_connect ─▶ on_request ⟲ ── close ◀──────────┘ (the first one counts)
//!   dial ───┘    may refuse                                  └─▶ on_disconnect ─▶ close callbacks ─▶ on_close
//! ```
//!
//! # The contract
//! * **Readiness is remembered.** Polls are edge-triggered; what an event said is kept until it was acted upon, so a
//!   handler may stop early and nothing hangs. A handler is called for new bytes, the end of the stream or a wake, and never
//!   for what it left lying.
//! * **One owner.** A connection's buffers and context belong to one thread at a time; its callbacks never overlap.
//! * **A blocked handler blocks its connection only.** Announced by [`blocking`], another worker thread takes over
//!   the poll at once; otherwise a monitor finds it within milliseconds, and looks at that listener more closely. As many may
//!   block as there are standby workers.
//! * **Writes go out at once**, when the handler returns; only what the kernel did not take waits for writability.
//! * **Memory is bounded.** Reading stops above a watermark, [`Handle::send`] says `WouldBlock`, a handler that writes without
//!   being asked looks at [`is_congested`](Connection::is_congested), and an idle connection owns no buffer.
//! * **All that was said is heard.** What the peer sent before its end or its reset is handed over first, to a handler that
//!   consumes it.
//! * **One end.** The first closer's reason is the one that everybody is told. `on_connect` that said Ok is followed by exactly
//!   one `on_close`, in every ending. A [`Handle`] that outlives its connection says [`SendError::Closed`], also when another
//!   connection has its place.
//! * **A panic or an error ends the connection in which it happened**, and is one line in the log or one [`Reason`].
//!
//! Not promised: that a read is tried only when there is something (spurious readiness costs one call), and that a
//! handler runs on the same thread each time.
//!
//! [`Handler`] shows a complete server; [`guide`] says which thread runs what, how to choose the settings, and what is different
//! for those who come from netpoll.
//!
//! # Four errors that are common elsewhere
//! ## Forgetting to release what was read
//! There is no release. A borrowed slice ends with its borrow, and its memory is used again by the next call that changes the
//! buffer. So it cannot be kept:
//! ```compile_fail,E0521
//! fn on_request(conn: &mut poller::Connection) -> poller::Result {
//!     let head = conn.input().next(4)?;
//!     std::thread::spawn(move || println!("{head:?}"));
//!     Ok(())
//! }
//! ```
//! nor used after the buffer has changed:
//! ```compile_fail,E0499
//! fn on_request(conn: &mut poller::Connection) -> poller::Result {
//!     let head = conn.input().next(4)?;
//!     conn.input().clear();
//!     println!("{head:?}");
//!     Ok(())
//! }
//! ```
//! Who wants to keep bytes takes them as `Bytes`, which owns its memory and gives it back when it is dropped:
//! ```
//! fn on_request(conn: &mut poller::Connection) -> poller::Result {
//!     let head = conn.input().read_bytes(4)?;
//!     conn.input().clear();
//!     std::thread::spawn(move || println!("{head:?}"));
//!     Ok(())
//! }
//! ```
//!
//! ## Reading or writing in a close callback
//! A close callback gets what there is to know about the end, and neither reader nor writer:
//! ```compile_fail,E0599
//! fn on_connect(conn: &mut poller::Connection) {
//!     conn.handle().add_close_callback(|closed| println!("{:?}", closed.input()));
//! }
//! ```
//! and cannot bring the connection along:
//! ```compile_fail,E0521
//! fn on_connect(conn: &mut poller::Connection) {
//!     conn.handle().add_close_callback(|closed| println!("{:?}", conn.input().len()));
//! }
//! ```
//! The reason, the addresses and the byte counts are there:
//! ```
//! fn on_connect(conn: &mut poller::Connection) {
//!     let tell = |closed: &poller::Closed| println!("{} after {} bytes", closed.reason, closed.bytes_in);
//!     conn.handle().add_close_callback(tell).expect("room for one");
//! }
//! ```
//!
//! ## Blocking in a handler
//! It holds up this connection, whose bytes wait in the kernel, and no other: the handler says that it is going to block, and
//! another worker leads the poll. One that does not say so is found a little later. `a_handler_that_blocks_stops_its_connection_only` in `tests/leaders.rs` and `examples/blocking.rs` show it on one poll.
//! ```
//! fn on_request(conn: &mut poller::Connection) -> poller::Result {
//!     let answer = poller::blocking(|| std::fs::read("/etc/hostname"))?;
//!     conn.output().write(&answer);
//!     Ok(())
//! }
//! ```
//!
//! ## Assuming that `on_connect` ran
//! It has: no request comes before it. And the context does not depend on it, because `on_prepare` makes it, with its type. A
//! handler without a context to give is not a handler:
//! ```compile_fail,E0308
//! # use poller::{Connection, Handler, Prepare, Reject};
//! struct Session {
//!     requests: u64,
//! }
//! struct Server;
//! impl Handler for Server {
//!     type Context = Session;
//!     fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<Session, Reject> {
//!         Ok(()) // the session is to be made in on_connect
//!     }
//!     fn on_request(&self, session: &mut Session, _: &mut Connection) -> poller::Result {
//!         session.requests += 1;
//!         Ok(())
//!     }
//! }
//! ```
//! The same with a session, which every later callback gets, and `on_connect` may replace:
//! ```
//! # use poller::{Connection, Handler, Prepare, Reject};
//! struct Session {
//!     requests: u64,
//! }
//! struct Server;
//! impl Handler for Server {
//!     type Context = Session;
//!     fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<Session, Reject> {
//!         Ok(Session { requests: 0 })
//!     }
//!     fn on_request(&self, session: &mut Session, _: &mut Connection) -> poller::Result {
//!         session.requests += 1;
//!         Ok(())
//!     }
//! }
//! ```
//!
//! What is given away cannot be given twice: a listener, a socket, a connection and a timer move.
//! ```compile_fail,E0382
//! # use poller::{EventLoop, Handler};
//! fn serve_twice<H: Handler>(event_loop: &EventLoop, listener: std::net::TcpListener, one: H, two: H) {
//!     event_loop.serve(listener, one).expect("served");
//!     event_loop.serve(listener, two).expect("served");
//! }
//! ```
//! ```
//! # use poller::{EventLoop, Handler};
//! fn serve_twice<H: Handler>(event_loop: &EventLoop, listeners: [std::net::TcpListener; 2], one: H, two: H) {
//!     let [first, second] = listeners;
//!     event_loop.serve(first, one).expect("served");
//!     event_loop.serve(second, two).expect("served");
//! }
//! ```
//!
//! # Limits
//! Every bound stands in [`limits`] with its unit in its name. Those that one meets:
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | unconsumed input of a connection | [`INPUT_HIGH_BYTES`](limits::INPUT_HIGH_BYTES), 1 MiB | it is not read |
//! | unsent output of a connection | [`OUTPUT_HIGH_BYTES`](limits::OUTPUT_HIGH_BYTES), 256 KiB | it is not read, `send` says `WouldBlock` |
//! | bytes that a connection reads before others have their turn | [`TURN_BYTES_MAX`](limits::TURN_BYTES_MAX), 256 KiB | it goes on in its next turn |
//! | a close that waits for output of which nothing moves | `close_stall`, 30 s | what is left is dropped, the peer sees a reset |
//! | a close whose peer is still sending | [`LINGER_MS`](limits::LINGER_MS), 2 s | the peer may see a reset |
//! | a handler that waits in `wait_for` or `flush_all` | the connection's limits, or `wait_limit`, 30 s | the connection closes |
//! | a TLS handshake | [`TLS_HANDSHAKE_MS`](limits::TLS_HANDSHAKE_MS), 5 s | the connection closes |
//! | connections | `connections_max`, about a million | closed at once, not dialed, not adopted |
//! | handlers that block at the same time | `standby_max`, 32 | connections that are ready wait; `wait_for` is an error |
//! | blocking tasks that wait | [`TASK_QUEUE_MAX`](limits::TASK_QUEUE_MAX), 4,096 | `spawn_blocking` is an error |
//! | timers that are not a connection's | [`TASK_TIMERS_MAX`](limits::TASK_TIMERS_MAX), 65,536 | `after` is an error |
//! | descriptors of the process | the system's | accepting rests for 100 ms at a time |
#![forbid(unsafe_code)]

mod adopt;
mod builder;
mod busy;
mod cleanup;
mod clock;
mod close;
mod connection;
mod detach;
mod dialer;
mod event_loop;
mod flags;
pub mod guide;
mod handle;
mod handler;
mod handover;
mod held;
mod hint;
mod insight;
mod job;
mod kept;
pub mod limits;
mod listener;
mod live;
mod monitor;
mod operator;
mod options;
mod peer;
mod poll;
mod pool;
mod remote;
mod service;
mod socket;
mod state;
mod sync;
mod tcp;
mod timer;
#[cfg(feature = "tls")]
pub mod tls;
mod token;
mod transport;
mod udp;
mod wait;
mod waiters;
mod watch;
mod worker;

/// What [`Handle::send`] takes.
pub use bytes::Bytes;

pub use builder::Builder;
pub use close::{Closed, Fault, Limit, Reason};
pub use connection::Connection;
pub use detach::Detached;
pub use dialer::{DialOptions, Targets};
pub use event_loop::EventLoop;
pub use handle::{Handle, SendError};
pub use handler::{Error, Handler, Prepare, Reject, Result};
pub use insight::{PollStats, WorkerStats};
pub use linkbuffer::LinkBuffer;
pub use listener::Listener;
pub use options::{ListenOptions, Placement};
pub use remote::{IntoHandler, Remote, Timer};
pub use socket::{Address, DatagramSocket, Listen, bind_shared};
pub use udp::{DatagramHandler, Datagrams};
pub use worker::blocking;

#[cfg(all(test, poller_shuttle))]
mod shuttle_tests;

/// The examples of the README are compiled and run with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
