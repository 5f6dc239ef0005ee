//! A TCP relay: `cargo run --example proxy -- 127.0.0.1:7003 127.0.0.1:7000`, with the `echo` example as the target.
//!
//! Two connections hold each other's handle. Bytes read here are sent there without a copy; when there says `WouldBlock`,
//! here stops reading until it is woken, and TCP slows the sender. An end of stream is passed on as one.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, atomic::AtomicBool, atomic::Ordering};
use std::time::Duration;

use bytes::Bytes;
use poller::{Closed, Connection, EventLoop, Handle, Handler, Prepare, Reason, Reject, Remote, SendError};

/// One of the two connections of a relay.
struct Side {
    other: Option<Handle>,
    /// What the other did not take yet.
    waiting: Option<Bytes>,
    /// Which streams have ended and been passed on, the downstream peer's and the upstream peer's; and which is this one's.
    ended: Arc<[AtomicBool; 2]>,
    own: usize,
}

impl Side {
    fn pass_on(&mut self, conn: &mut Connection) -> poller::Result {
        let other = self.other.as_ref().ok_or("on_connect sets the other side")?;
        if self.ended[1 - self.own].load(Ordering::Acquire) {
            conn.shutdown_write();
        }
        conn.resume();
        while let Some(bytes) = self.waiting.take().or_else(|| conn.input().read_chunk(65_536)) {
            match other.send(bytes) {
                Ok(()) => {}
                Err(SendError::WouldBlock(bytes)) => {
                    self.waiting = Some(bytes);
                    conn.pause();
                    other.wake_on_drain(&conn.handle());
                    return Ok(());
                }
                Err(SendError::Closed(_)) => return Err("the other side is closed".into()),
            }
        }
        if conn.input_ended() && !self.ended[self.own].swap(true, Ordering::AcqRel) {
            other.wake();
        }
        Ok(())
    }
}

/// The handler of either side: the one that is accepted, which dials, and the one that is dialed for it.
enum Relay {
    Downstream { remote: Remote, target: SocketAddr },
    Upstream { other: Handle, ended: Arc<[AtomicBool; 2]> },
}

impl Handler for Relay {
    type Context = Side;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<Side, Reject> {
        conn.set_half_close(true);
        let (other, ended, own) = match self {
            Relay::Downstream { .. } => (None, Arc::default(), 0),
            Relay::Upstream { other, ended } => (Some(other.clone()), ended.clone(), 1),
        };
        Ok(Side { other, waiting: None, ended, own })
    }

    fn on_connect(&self, cx: &mut Side, conn: &mut Connection) -> poller::Result {
        if let Relay::Downstream { remote, target } = self {
            let upstream = Relay::Upstream { other: conn.handle(), ended: cx.ended.clone() };
            cx.other = Some(remote.dial_near(&conn.handle(), *target, Duration::from_secs(10), upstream)?);
        }
        Ok(())
    }

    fn on_request(&self, cx: &mut Side, conn: &mut Connection) -> poller::Result {
        cx.pass_on(conn)
    }

    fn on_close(&self, cx: &mut Side, info: &Closed) {
        // One side is over, and so is the other; a broken one does not end in an orderly manner.
        match (&cx.other, &info.reason) {
            (Some(other), Reason::Peer | Reason::User | Reason::Shutdown) => other.close(),
            (Some(other), _) => other.abort(),
            (None, _) => {}
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or("127.0.0.1:7003".into());
    let target = args.next().unwrap_or("127.0.0.1:7000".into()).parse()?;
    let event_loop = EventLoop::new()?;
    let relay = Relay::Downstream { remote: event_loop.remote(), target };
    let listener = event_loop.serve(TcpListener::bind(addr)?, relay)?;
    println!("relay on {} to {target}; ends at the end of the standard input", listener.local_addr());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
