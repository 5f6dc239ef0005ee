//! What the user of the crate writes: the callbacks of a connection's life.
//!
//! ```text
//!   on_prepare ──▶ on_connect ──▶ on_request ⟲ ──▶ on_disconnect ──▶ close callbacks ──▶ on_close
//!   (may refuse)                  on_drain, on_timer, on_shutdown    (the peer left)
//! ```
//! * All callbacks of one connection run one after another, never two at once, on whichever worker thread owns the
//!   connection at that moment; different connections run side by side.
//! * `on_connect` that returned Ok is followed by exactly one `on_close`, whatever happens. A connection that
//!   ends before `on_connect` ran gets `on_close` and no other callback; one that `on_prepare` refused gets none.
//! * The context is made by `on_prepare`, so it exists in every later callback.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use socket2::Socket;

use crate::close::{Closed, Limit};
use crate::connection::Connection;
use crate::watch::Watches;

/// An error that ends a connection; made from any error or text with `?` or `.into()`.
pub struct Error(Box<dyn std::error::Error + Send + Sync>);

/// What callbacks return.
pub type Result<T = ()> = std::result::Result<T, Error>;

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Error {
    fn from(error: E) -> Error {
        Error(error.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why `on_prepare` turned a connection away: a text, or any error, so that `?` works there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject(pub String);

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Reject {
    fn from(why: E) -> Reject {
        Reject(why.into().to_string())
    }
}

/// A connection that is not registered yet: options, limits, or a refusal.
pub struct Prepare<'a> {
    socket: &'a Socket,
    peer: Option<SocketAddr>,
    pub(crate) wishes: Wishes,
}

/// What `on_prepare` asked for.
#[derive(Default)]
pub(crate) struct Wishes {
    pub(crate) half_close: bool,
    pub(crate) limits: Watches,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Box<crate::tls::Engine>>,
}

impl<'a> Prepare<'a> {
    pub(crate) fn new(socket: &'a Socket, peer: Option<SocketAddr>) -> Prepare<'a> {
        Prepare { socket, peer, wishes: Wishes::default() }
    }
}

impl Prepare<'_> {
    /// The other end; for a dialed connection the address that is dialed.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The socket itself, for options. It is non-blocking already, and has `TCP_NODELAY` and `TCP_NOTSENT_LOWAT`
    /// ([`KERNEL_UNSENT_BYTES`](crate::limits::KERNEL_UNSENT_BYTES)) set.
    pub fn socket(&self) -> &Socket {
        self.socket
    }

    /// Keeps the connection open for writing after the peer ended its stream. Without it the connection closes by
    /// itself once that end was handled and the output has left.
    pub fn set_half_close(&mut self, on: bool) {
        self.wishes.half_close = on;
    }

    /// Speaks TLS on this connection: the handshake comes before `on_connect`, and every callback sees plaintext only.
    ///
    /// # Examples
    /// ```
    /// use poller::{Connection, Handler, Prepare, Reject, tls};
    ///
    /// struct Secret(tls::Server);
    /// impl Handler for Secret {
    ///     type Context = ();
    ///     fn on_prepare(&self, conn: &mut Prepare<'_>) -> Result<(), Reject> {
    ///         conn.set_tls(self.0.accept()?);
    ///         Ok(())
    ///     }
    ///     fn on_request(&self, _: &mut (), conn: &mut Connection<'_>) -> poller::Result {
    ///         conn.output().write(b"for your eyes only");
    ///         Ok(())
    ///     }
    /// }
    /// ```
    #[cfg(feature = "tls")]
    pub fn set_tls(&mut self, engine: crate::tls::Engine) {
        self.wishes.tls = Some(Box::new(engine));
    }

    /// As [`Connection::set_read_timeout`]. There is none by default.
    ///
    /// # Errors
    /// When the limit is zero.
    pub fn set_read_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.wishes.limits.set(Limit::Read, limit)
    }

    /// As [`Connection::set_write_stall_timeout`]. There is none by default.
    ///
    /// # Errors
    /// When the limit is zero.
    pub fn set_write_stall_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.wishes.limits.set(Limit::WriteStall, limit)
    }

    /// As [`Connection::set_idle_timeout`]. There is none by default.
    ///
    /// # Errors
    /// When the limit is zero.
    pub fn set_idle_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.wishes.limits.set(Limit::Idle, limit)
    }
}

/// The callbacks. Only [`on_prepare`](Handler::on_prepare) and [`on_request`](Handler::on_request) must be written.
///
/// # Examples
/// ```
/// use poller::{Connection, EventLoop, Handler, Prepare, Reject};
///
/// struct Echo;
/// impl Handler for Echo {
///     type Context = ();
///     fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
///         Ok(())
///     }
///     fn on_request(&self, _: &mut (), conn: &mut Connection<'_>) -> poller::Result {
///         let (input, output) = conn.buffers();
///         output.append(std::mem::take(input));
///         Ok(())
///     }
/// }
///
/// let event_loop = EventLoop::new()?;
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let addr = event_loop.serve(listener, Echo)?.local_addr();
///
/// use std::io::{Read, Write};
/// let mut user = std::net::TcpStream::connect(addr)?;
/// user.write_all(b"hello")?;
/// let mut answer = [0; 5];
/// user.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Handler: Send + Sync + 'static {
    /// What belongs to one connection beside its buffers.
    type Context: Send + 'static;

    /// Makes the context of a connection that is not registered yet, or refuses it.
    ///
    /// # Errors
    /// A [`Reject`] closes the connection; no other callback runs.
    #[doc(alias = "OnPrepare")]
    fn on_prepare(&self, conn: &mut Prepare<'_>) -> std::result::Result<Self::Context, Reject>;

    /// Runs once, before any request. May read and write.
    ///
    /// # Errors
    /// An error closes the connection with that reason.
    #[doc(alias = "OnConnect")]
    fn on_connect(&self, _cx: &mut Self::Context, _conn: &mut Connection<'_>) -> Result {
        Ok(())
    }

    /// Bytes came, or the end of the stream ([`Connection::input_ended`]), or a wake. What is not consumed stays;
    /// the handler is not called again for it before one of the three happens. So **loop** until no whole message is left:
    /// several come at once, and one that is left lying waits for the peer's next word.
    /// A handler that waits for a whole message bounds it: above [`INPUT_HIGH_BYTES`](crate::limits::INPUT_HIGH_BYTES) that
    /// nobody consumes, the connection is not read on.
    ///
    /// # Errors
    /// An error closes the connection with that reason.
    #[doc(alias = "OnRequest")]
    fn on_request(&self, cx: &mut Self::Context, conn: &mut Connection<'_>) -> Result;

    /// Output that had passed the high watermark went below the low one.
    ///
    /// # Errors
    /// An error closes the connection with that reason.
    fn on_drain(&self, _cx: &mut Self::Context, _conn: &mut Connection<'_>) -> Result {
        Ok(())
    }

    /// The time given to [`Connection::set_timer`] has come.
    ///
    /// # Errors
    /// An error closes the connection with that reason.
    fn on_timer(&self, _cx: &mut Self::Context, _conn: &mut Connection<'_>) -> Result {
        Ok(())
    }

    /// The event loop is stopping: close now, or when what is under way is done. Whatever is open at the deadline
    /// is closed then. By default the connection closes when its output has left.
    ///
    /// # Errors
    /// An error closes the connection with that reason.
    fn on_shutdown(&self, _cx: &mut Self::Context, conn: &mut Connection<'_>) -> Result {
        conn.close();
        Ok(())
    }

    /// The peer ended the connection or it broke; all that it had sent has been handed to `on_request`.
    #[doc(alias = "OnDisconnect")]
    fn on_disconnect(&self, _cx: &mut Self::Context, _info: &Closed) {}

    /// The last callback, after those that were added with `add_close_callback`. The context is dropped after it.
    #[doc(alias = "CloseCallback")]
    fn on_close(&self, _cx: &mut Self::Context, _info: &Closed) {}
}

/// What a handler made for one connection. One without a size takes no memory.
pub(crate) type Context = Box<dyn Any + Send>;

/// A handler, its types forgotten. It is given the contexts that it made, and no others.
pub(crate) trait Callbacks: Send + Sync {
    fn prepare(&self, conn: &mut Prepare<'_>) -> std::result::Result<Context, Reject>;
    fn connect(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn request(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn drain(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn timer(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn shutdown(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn disconnect(&self, cx: &mut Context, info: &Closed);
    fn close(&self, cx: &mut Context, info: &Closed);
}

#[inline]
fn own<H: Handler>(cx: &mut Context) -> &mut H::Context {
    (**cx).downcast_mut().expect("a handler is given the contexts that it made")
}

impl<H: Handler> Callbacks for H {
    fn prepare(&self, conn: &mut Prepare<'_>) -> std::result::Result<Context, Reject> {
        Ok(Box::new(self.on_prepare(conn)?))
    }
    fn connect(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result {
        self.on_connect(own::<H>(cx), conn)
    }
    fn request(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result {
        self.on_request(own::<H>(cx), conn)
    }
    fn drain(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result {
        self.on_drain(own::<H>(cx), conn)
    }
    fn timer(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result {
        self.on_timer(own::<H>(cx), conn)
    }
    fn shutdown(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result {
        self.on_shutdown(own::<H>(cx), conn)
    }
    fn disconnect(&self, cx: &mut Context, info: &Closed) {
        self.on_disconnect(own::<H>(cx), info);
    }
    fn close(&self, cx: &mut Context, info: &Closed) {
        self.on_close(own::<H>(cx), info);
    }
}

/// Runs `on_prepare`.
///
/// A panic in it counts as a refusal: nothing has been registered yet, so nobody else can be hurt.
pub(crate) fn prepare(
    callbacks: &dyn Callbacks,
    id: u64,
    conn: &mut Prepare<'_>,
) -> std::result::Result<Context, Reject> {
    match caught(|| callbacks.prepare(conn)) {
        Ok(prepared) => prepared,
        Err(text) => {
            log::error!(event = "panic", conn = id, callback = "on_prepare"; "a callback panicked: {text}");
            Err(Reject(format!("on_prepare panicked: {text}")))
        }
    }
}

/// Runs what is not ours; of a panic the text is left, as far as it has one. What else a panic carries is not ours either, and letting go
/// of it may panic: what that carries is kept for ever, because nothing says that it would be better.
#[inline]
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic_text(panic.as_ref()).to_owned();
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(another);
        }
        text
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}
