//! Connections that come from elsewhere: from another event loop, from another program, or from code that accepted or
//! connected by itself.
//!
//! ```text
//!   socket ──▶ a connected stream, not here yet? ──▶ on_prepare ──▶ first turn on a poll: on_connect, on_request ⟲
//!   input  ──────────────────────────────────────────────────────▶ what on_connect finds, and a request of its own
//!   unsent ──────────────────────────────────────────────────────▶ leaves before what on_connect writes
//! ```
//! With TLS the input is the beginning of the peer's records, and what is unsent leaves as it is, ahead of ours: the two
//! belong to opposite sides of the moment at which TLS begins, and nothing that came in the clear is taken for plaintext that
//! was protected.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use linkbuffer::LinkBuffer;
use socket2::Socket;

use crate::connection::Connection;
use crate::detach::Detached;
use crate::handle::{Handle, Shared};
use crate::handler::{Handler, Prepare, prepare};
use crate::job::Job;
use crate::kept::Phase;
use crate::poll::PollShared;
use crate::service::{Entry, Service};
use crate::socket::{Registered, Stream, check_stream};
use crate::state::News;
use crate::sync::Mutex;

/// A socket of which nothing was read that is not done with, and to which all that was written was sent.
impl From<Socket> for Detached {
    fn from(socket: Socket) -> Detached {
        Detached { socket, input: LinkBuffer::new(), unsent: LinkBuffer::new() }
    }
}

/// As from a `Socket`.
impl From<TcpStream> for Detached {
    fn from(stream: TcpStream) -> Detached {
        Socket::from(stream).into()
    }
}

/// As from a `Socket`.
impl From<UnixStream> for Detached {
    fn from(stream: UnixStream) -> Detached {
        Socket::from(stream).into()
    }
}

/// As from a `Socket`. Whether it is one that can be adopted, the kernel is asked then.
impl From<OwnedFd> for Detached {
    fn from(descriptor: OwnedFd) -> Detached {
        Socket::from(descriptor).into()
    }
}

pub(crate) fn adopt<H: Handler>(
    poll: &Arc<PollShared>,
    detached: Detached,
    handler: &Arc<H>,
    registered: &Arc<Registered>,
) -> io::Result<Handle> {
    let Detached { socket, input, unsent } = detached;
    let Stream { socket, peer, fault } = check_stream(socket)?;
    let registration = registered.enter(&socket, "stream")?;
    let entry = Entry::new(poll)?;
    let id = entry.id;
    let mut conn = Prepare::new(&socket, peer);
    let context = prepare(&**handler, id, &mut conn)
        .map_err(|reject| io::Error::new(io::ErrorKind::PermissionDenied, reject.0))?;
    let wishes = conn.wishes;
    let (callbacks, hint) = (handler.clone(), poll.dialed.hint::<H>());
    let service = Arc::new(Service {
        poll: poll.clone(),
        callbacks,
        hint,
        quota: None,
        local: None,
        dialing: None,
        adopted: Some(Mutex::new(Some(registration))),
    });
    let shared = Shared::create(id, (socket, peer, wishes), service, context, Phase::Connecting);
    entry.stay();
    {
        let mut core = shared.core.lock();
        core.busy();
        let core = &mut *core;
        if let Some(busy) = &mut core.busy {
            let mut conn = Connection { shared: &shared, kept: &mut core.kept, busy };
            conn.take_over(input, unsent);
            if let Some(fault) = fault {
                conn.break_off(fault);
            }
        }
    }
    poll.push(Job::First(shared.clone()));
    Ok(Handle::new(shared))
}

impl Connection<'_> {
    /// Begins with bytes that were read and written before.
    fn take_over(&mut self, input: LinkBuffer, unsent: LinkBuffer) {
        #[cfg(feature = "tls")]
        if self.kept.tls.is_some() {
            self.busy.sealed.append(unsent);
            return self.open_early(input);
        }
        // Moved, so that whatever they have beside their bytes stays behind.
        self.busy.input.append(input);
        self.busy.output.append(unsent);
        if !self.busy.input.is_empty() {
            // No event will tell of it.
            self.busy.early = News::WOKEN;
        }
    }
}
