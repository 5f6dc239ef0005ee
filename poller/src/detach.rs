//! Handing a connection over to somebody else (L-28): an upgrade to another protocol, another event loop, another process.

use std::fmt;
use std::io;

use linkbuffer::LinkBuffer;
use socket2::Socket;

use crate::connection::Connection;
use crate::flags::Flags;
use crate::state::Closer;

/// What [`Connection::detach`] gives out and [`Remote::adopt`](crate::Remote::adopt) takes: all that makes the connection.
pub struct Detached {
    /// The socket; it is non-blocking.
    pub socket: Socket,
    /// What was read and not consumed: it comes before anything that the socket gives.
    pub input: LinkBuffer,
    /// What was written and not taken by the kernel: it has to be sent before anything else.
    pub unsent: LinkBuffer,
}

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached")
            .field("input", &self.input)
            .field("unsent", &self.unsent)
            .finish_non_exhaustive()
    }
}

impl Connection<'_> {
    /// Takes the socket out of the event loop, with the bytes that are on their way in and out: those that were read and
    /// not consumed, and those that were written, here or by handles, and that the kernel does not take now.
    ///
    /// When the handler returns, the connection ends with [`Reason::Detached`](crate::Reason::Detached): its close callbacks
    /// and `on_close` run, once as ever, and the peer notices nothing. What is written here afterwards is dropped, and
    /// handles are told that the connection is closed.
    ///
    /// # Errors
    /// `NotConnected` when a close was asked for already, or it was detached before; `Unsupported` with TLS, whose keys
    /// cannot be handed over; and what the system says where the connection is broken.
    ///
    /// # Examples
    /// ```
    /// use poller::{Connection, Handler, Prepare, Reject};
    /// use std::io::Write;
    ///
    /// /// Gives each connection a thread of its own.
    /// struct Upgrade;
    /// impl Handler for Upgrade {
    ///     type Context = ();
    ///     # fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> { Ok(()) }
    ///     fn on_request(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
    ///         let mut detached = conn.detach()?;
    ///         std::thread::spawn(move || -> std::io::Result<()> {
    ///             detached.socket.set_nonblocking(false)?;
    ///             let mut stream = std::net::TcpStream::from(detached.socket);
    ///             std::io::copy(&mut detached.unsent, &mut stream)?;
    ///             stream.write_all(b"welcome to a thread of your own")
    ///         });
    ///         Ok(())
    ///     }
    /// }
    /// ```
    #[doc(alias = "Detach")]
    pub fn detach(&mut self) -> io::Result<Detached> {
        if self.shared.state.closing().is_some() {
            let what = "the connection is closed or closing: there is nothing to hand over";
            return Err(io::Error::new(io::ErrorKind::NotConnected, what));
        }
        #[cfg(feature = "tls")]
        if self.kept.tls.is_some() {
            let what = "the keys of TLS cannot be handed over: relay the bytes instead";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        // From here on handles send no more, so none of their bytes is left behind.
        self.shared.end_sends(self.kept, self.busy);
        self.flush()?;
        self.kept.deregister(self.shared.poll())?;
        let Some(transport) = self.kept.transport.take() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.shared.service.let_go();
        self.kept.flags.set(Flags::KEEPS);
        self.busy.details.detached = true;
        self.busy.details.local = transport.local_addr();
        self.shared.state.close_as_owner(Closer::User, false);
        // What the thread had lent is not handed over.
        drop((self.busy.input.reclaim(), self.busy.output.reclaim()));
        Ok(Detached {
            socket: transport.into_socket(),
            input: std::mem::take(&mut self.busy.input),
            unsent: std::mem::take(&mut self.busy.output),
        })
    }
}
