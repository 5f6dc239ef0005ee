//! A readiness event loop in the manner of [netpoll](https://github.com/cloudwego/netpoll), in safe Rust and
//! without async: file descriptors are watched by polls, handlers run on worker threads, and every connection
//! passes the same life cycle exactly once.
//!
//! ```text
//!   accept ─┐                                                      user, peer, error, timer, shutdown
//!           ├─▶ on_prepare ─▶ on_connect ─▶ on_request ⟲ ── close ◀──────────┘ (the first one counts)
//!   dial  ──┘    may refuse                                  └─▶ on_disconnect ─▶ close callbacks ─▶ on_close
//! ```
//!
//! # The contract
//! * **Readiness is remembered.** Polls are edge-triggered; what an event said is kept until it was acted upon, so a
//!   handler may stop early and nothing hangs.
//! * **One owner.** A connection's buffers and context belong to one thread at a time; its callbacks never overlap.
//! * **A blocked handler blocks its connection only.** Announced by [`blocking`], another worker thread takes over
//!   the poll at once; otherwise a monitor finds it within milliseconds, and looks at that listener more closely.
//! * **Writes go out at once**, when the handler returns; only what the kernel did not take waits for writability.
//! * **Memory is bounded.** Reading stops above a watermark, [`Handle::send`] says `WouldBlock`, and an idle
//!   connection owns no buffer.
//! * **One end.** The first closer's reason is the one that everybody is told, clean-up runs once, and a
//!   [`Handle`] that outlives its connection says [`SendError::Closed`].
//!
//! Not promised: that a read is tried only when there is something (spurious readiness costs one call), and that a
//! handler runs on the same thread each time.
//!
//! [`Handler`] shows a complete server.
#![forbid(unsafe_code)]

mod builder;
mod busy;
mod cleanup;
mod clock;
mod close;
mod connection;
mod dialer;
mod event_loop;
mod flags;
mod handle;
mod handler;
mod handover;
mod hint;
mod insight;
mod job;
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
mod timer;
#[cfg(feature = "tls")]
pub mod tls;
mod token;
mod transport;
mod udp;
mod wait;
mod watch;
mod worker;

pub use builder::Builder;
pub use close::{Closed, Fault, Limit, Reason};
pub use connection::Connection;
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
