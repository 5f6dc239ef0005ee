//! `anyproxy serve`: an HTTP/1.1 origin to try proxies and load tests on.
//!
//! ```text
//!              ┌────────────────── answered, connection goes on ────────────────┐
//!              ▼                                                                │
//!   accept ─▶ Head ──▶ route ──▶ plaintext, json, page, errors ─────────────────┤
//!              │                 Bytes    as the peer takes them ───────────────┤
//!              │                 Echo     as they come and are taken ───────────┤
//!              │                 Delay    after the timer ──────────────────────┤
//!              ▼                                                                ▼ answered, connection ends
//!         408, 4xx, 5xx ────────────────────────────────────────────────────▶ Linger ──▶ closed
//! ```
//! * Pipelined requests are answered in order; the answers of one turn leave in one write.
//! * Output stops growing at the event loop's high watermark, so memory is bounded however slow the peer is. The
//!   bytes of `/bytes/N` are pieces of one static block, those of `/echo` are the ones that were received.
//! * A head has to be whole in time, and an exchange under way has to move. An idle connection may stay.
//! * A connection that ends, whoever asked for it, is read on for a moment, so that the answer is not lost to a reset.

mod answer;
mod exchange;
mod routes;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::limits;
use crate::rt::{self, Connection, Handler, Listener, Prepare, Reject, Remote, TcpListener};
use exchange::Exchange;

/// The origin, as a handler of connections.
#[derive(Debug)]
pub struct Serve {
    times: Times,
}

/// The durations that tests shorten.
#[derive(Clone, Copy, Debug)]
struct Times {
    head: Duration,
    stall: Duration,
    linger: Duration,
}

impl Default for Serve {
    fn default() -> Serve {
        let times = Times {
            head: Duration::from_millis(limits::SERVE_HEAD_MS),
            stall: Duration::from_millis(limits::SERVE_STALL_MS),
            linger: Duration::from_millis(limits::SERVE_LINGER_MS),
        };
        Serve { times }
    }
}

/// Listens on `addr` and serves what connects to it.
///
/// # Errors
/// When the address cannot be listened on, which the error names, or the event loop is stopping.
pub fn start(remote: &Remote, addr: SocketAddr) -> io::Result<Listener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"));
    let listener = TcpListener::bind(addr).map_err(named)?;
    remote.serve(listener, Serve::default()).map_err(named)
}

impl Handler for Serve {
    type Context = Connected;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<Connected, Reject> {
        // Who has sent the last request may end that side and still wants the answer.
        conn.set_half_close(true);
        Ok(Connected(Exchange::default()))
    }

    fn on_request(&self, cx: &mut Connected, conn: &mut Connection) -> rt::Result {
        cx.0.advance(&self.times, conn);
        Ok(())
    }

    fn on_drain(&self, cx: &mut Connected, conn: &mut Connection) -> rt::Result {
        cx.0.advance(&self.times, conn);
        Ok(())
    }

    fn on_timer(&self, cx: &mut Connected, conn: &mut Connection) -> rt::Result {
        cx.0.timer(&self.times, conn);
        Ok(())
    }

    fn on_shutdown(&self, cx: &mut Connected, conn: &mut Connection) -> rt::Result {
        cx.0.shutdown(conn);
        Ok(())
    }
}

/// What belongs to one connection.
#[derive(Debug)]
pub struct Connected(Exchange);

#[cfg(test)]
mod tests;
