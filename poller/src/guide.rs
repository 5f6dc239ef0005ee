//! How to work with the crate, beyond the contract: threads, back-pressure, ends, settings, and what those should know who come
//! from netpoll. There is nothing here but text.
//!
//! # Which thread runs what
//! Each poll is led by one worker at a time. The leader waits for events, reads, and runs the handlers itself: nothing is queued
//! and nobody is woken for a request. When a handler announces with [`blocking`](crate::blocking) that it is going to block,
//! or waits in [`wait_for`](crate::Connection::wait_for), another worker takes the lead and goes on with the next event; the
//! first one finishes its connection and stands by. A callback that blocks without a word is found by a monitor, later than one
//! that says so, and its listener is remembered ([`PollStats::hinted`](crate::PollStats::hinted)).
//!
//! ```text
//!   worker 1   lead ── A's request ── B's request (blocks ················) ── B's answer ── stands by
//!   worker 2   stands by ───────────────────── lead ── C's request ── accept ── timer ── lead ...
//!
//!   any thread Handle::send   writes itself when the connection is idle, else its owner does
//!              Handle::close, wake   the poll's leader runs the callback
//!   tasks      Remote::spawn_blocking   threads of their own; Remote::after   the leader of a poll
//! ```
//! | runs | where |
//! |---|---|
//! | `on_prepare` of an accepted connection | the leader of the poll that has the listener |
//! | `on_prepare` of a dialed or adopted connection | the caller of `dial` or `adopt` |
//! | [`DialOptions::configure`](crate::DialOptions::configure) | the caller of `dial`; for a later address the leader of the connection's poll |
//! | all other callbacks, close callbacks, the drop of the context | the leader of the connection's poll, or the worker that blocked in it |
//! | a close callback that is added after the close | the caller, at once |
//! | [`Remote::after`](crate::Remote::after) | the leader of a poll: as short as a handler |
//! | [`Remote::spawn_blocking`](crate::Remote::spawn_blocking) | a task thread |
//!
//! So a callback may find itself on another thread each time, and never on two at once.
//!
//! # Settings: polls, standby workers, placement
//! * `polls`: one per core that the process may use, which is the default. More does not make anything faster. One poll is enough
//!   where handlers are short and the traffic is not, and makes every connection share one thread's cache.
//! * `standby_max`: as many handlers as may block at the same time. One thread stands by from the beginning; the others are
//!   started when they are needed for the first time, and cost their stacks then. When all are busy, connections that are ready
//!   wait until one is free; one WARN line says so, and [`WorkerStats::starved`](crate::WorkerStats::starved) counts it.
//! * [`Placement`](crate::Placement), for each listener: in turn, unless connections live long and unequally
//!   (`LeastConnections`). Two connections that talk to each other belong on one poll
//!   ([`dial_near`](crate::Remote::dial_near)).
//! * [`Remote::polls`](crate::Remote::polls) and [`workers`](crate::Remote::workers) show how it goes: a `longest_turn` of many
//!   milliseconds is a handler that blocks, `queued` that stays above nothing is a poll with too much to do.
//! * What blocks for seconds, or cannot be bounded, belongs to [`Remote::spawn_blocking`](crate::Remote::spawn_blocking) with a
//!   [`Handle`](crate::Handle) to answer through: a queue of its own fills up and says no, and the polls do not notice.
//!
//! # Back-pressure
//! Nothing has to be done for it where input is answered: above its high watermark output stops the reading, and TCP slows the
//! peer. It matters to those who write without being asked.
//!
//! * A handler that produces asks [`is_congested`](crate::Connection::is_congested), stops, and goes on in
//!   [`on_drain`](crate::Handler::on_drain).
//! * [`Handle::send`](crate::Handle::send) gives the bytes back with `WouldBlock`. A relay keeps them, calls
//!   [`pause`](crate::Connection::pause) on its own side, and asks the other for
//!   [`wake_on_drain`](crate::Handle::wake_on_drain); `examples/proxy.rs` is one. While reading is paused the peer's end is
//!   not seen, because it stands behind what was not read; a timer bounds that. A reset is: what came before it is handed over,
//!   paused or not, and then the connection closes.
//! * How long a peer may stand still is a limit of its own: `set_read_timeout` for a message that was begun,
//!   `set_write_stall_timeout` for output of which nothing is taken, `set_idle_timeout` for silence. None is set by itself.
//! * A handler that waits for a whole message bounds its length: input of which nothing is consumed is not read on above
//!   [`INPUT_HIGH_BYTES`](crate::limits::INPUT_HIGH_BYTES), so a longer message would never be whole.
//!
//! # Half-close
//! The peer's end of stream is a request with [`input_ended`](crate::Connection::input_ended). What that request writes is sent,
//! and then the connection closes. With `set_half_close(true)`, in `on_prepare` or later, it closes when our own stream has ended
//! too: [`shutdown_write`](crate::Connection::shutdown_write), or [that of a handle](crate::Handle::shutdown_write), ends it after
//! all that was written and sent before, and reading goes on.
//!
//! # From elsewhere, and elsewhere
//! [`Remote::adopt`](crate::Remote::adopt) takes a connection that is there already, and [`detach`](crate::Connection::detach)
//! gives one out, with the bytes that were read and not consumed and those that were written and not sent. What one event loop
//! gave out another takes, and neither peer nor bytes notice. So does the same one, with another handler: that is how a
//! connection goes over from plain text to TLS, or from one protocol to the next.
//!
//! # Stopping
//! [`EventLoop::shutdown`](crate::EventLoop::shutdown) closes the listeners and gives every connection
//! [`on_shutdown`](crate::Handler::on_shutdown), which closes unless it is written to do otherwise: a handler that is in the
//! middle of something finishes first (`examples/shutdown.rs`). A dial or a TLS handshake that is under way is given up. What is
//! open after the grace is cut off and sees a reset. Then every worker thread is joined. Afterwards there is no listener,
//! connection, descriptor or timer, also when handles are kept; a blocking task that has not ended by then goes on alone.
//!
//! A handler cannot stop its own event loop, because it would wait for itself: it tells the thread that owns it.
//!
//! # Coming from netpoll
//! The names of netpoll are aliases in this documentation's search.
//!
//! | netpoll | here |
//! |---|---|
//! | `NewEventLoop(onRequest, options...)`, `Serve`, `Shutdown` | [`EventLoop::builder`](crate::EventLoop::builder), [`serve`](crate::Remote::serve), [`shutdown`](crate::EventLoop::shutdown) |
//! | `CreateListener`, `ConvertListener` | a listener of the standard library, TCP or Unix, or a passed descriptor ([`Listen`](crate::Listen)) |
//! | `NewDialer`, `DialConnection`, `DialTimeout` | [`Remote::dial`](crate::Remote::dial): the handle at once, `on_connect` later |
//! | `OnPrepare`, `OnConnect`, `OnRequest`, `OnDisconnect` | the methods of [`Handler`](crate::Handler) |
//! | `context.Context` with values | [`Handler::Context`](crate::Handler::Context), typed, made before any other callback |
//! | `NewFDConnection`, `Detach` | [`Remote::adopt`](crate::Remote::adopt), [`Connection::detach`](crate::Connection::detach) |
//! | `AddCloseCallback` | [`Handle::add_close_callback`](crate::Handle::add_close_callback), or `on_close` |
//! | `Reader()`: `Next`, `Peek`, `Skip`, `Until`, `Slice`, `ReadBinary`, `Len` | [`input()`](crate::Connection::input): the same words in lower case |
//! | `Reader().Release()` | nothing to call |
//! | `Writer()`: `Malloc`, `MallocAck`, `WriteBinary`, `WriteDirect`, `Append` | [`output()`](crate::Connection::output): `reserve`, `commit`, `write`, `insert`, `append` |
//! | `Next(n)` that waits | [`wait_for(n)`](crate::Connection::wait_for), then `next(n)` |
//! | `Flush` | at the end of each callback by itself; [`flush`](crate::Connection::flush) for earlier; [`flush_all`](crate::Connection::flush_all) waits |
//! | `SetReadTimeout`, `SetWriteTimeout`, `SetIdleTimeout` | [`set_read_timeout`](crate::Connection::set_read_timeout), [`set_write_stall_timeout`](crate::Connection::set_write_stall_timeout), [`set_idle_timeout`](crate::Connection::set_idle_timeout) |
//! | `IsActive` | [`Handle::is_closed`](crate::Handle::is_closed), the other way round |
//! | `SetNumLoops` | [`Builder::polls`](crate::Builder::polls) |
//! | `SetLoadBalance` | [`ListenOptions::placement`](crate::ListenOptions::placement) |
//! | `SetRunner`, gopool | [`Builder::standby_max`](crate::Builder::standby_max), [`blocking`](crate::blocking) |
//! | `ErrConnClosed`, `ErrEOF`, `ErrDialTimeout` | [`Reason`](crate::Reason), one for each connection |
//! | `FDOperator`, `Poll` | inside |
//!
//! What differs:
//!
//! * The worker that found the event runs the handler. netpoll's pollers hand connections to a pool of goroutines.
//! * A handler is called for news only: new bytes, the end of the stream, a wake. netpoll calls again while input is left.
//! * What has not come is an error value, unless one waits for it: a handler that does not costs no thread.
//! * An idle limit ends the connection. netpoll's sets TCP keep-alive.
//! * Writing is nobody's to race for: other threads have a handle whose sends stand in line.
//! * The end of the peer is a request, so what it had sent before is handed over first and can be answered.
//! * A close sends what is queued while that moves; what is cut off ends in a reset, never in an orderly end.
//! * The first closer's reason is the reason, and everybody is told the same one.
