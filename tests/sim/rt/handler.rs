//! What src writes for the event loop, as the poller has it.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use poller::{Closed, Reject, Result};

use super::connection::{Connection, Limits};

/// A connection that is not registered yet.
pub struct Prepare<'a> {
    peer: Option<SocketAddr>,
    pub(super) half_close: bool,
    pub(super) limits: Limits,
    lifetime: std::marker::PhantomData<&'a ()>,
}

impl Prepare<'_> {
    pub(super) fn new(peer: Option<SocketAddr>) -> Self {
        Prepare { peer, half_close: false, limits: Limits::default(), lifetime: std::marker::PhantomData }
    }

    /// The other end.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Keeps the connection open for writing after the peer ended its stream.
    pub fn set_half_close(&mut self, on: bool) {
        self.half_close = on;
    }

    /// There is no TLS here: its records are the poller's business, and its tests'.
    ///
    /// # Panics
    /// Always.
    pub fn set_tls(&mut self, _engine: poller::tls::Engine) {
        panic!("a simulated connection has no TLS");
    }

    /// As the poller's.
    ///
    /// # Errors
    /// Never here.
    pub fn set_read_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.limits.read.set(limit);
        Ok(())
    }

    /// As the poller's.
    ///
    /// # Errors
    /// Never here.
    pub fn set_write_stall_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.limits.write_stall.set(limit);
        Ok(())
    }

    /// As the poller's.
    ///
    /// # Errors
    /// Never here.
    pub fn set_idle_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.limits.idle.set(limit);
        Ok(())
    }
}

/// The callbacks; the poller's documentation says when each is called.
#[allow(missing_docs, clippy::missing_errors_doc, reason = "they are the poller's")]
pub trait Handler: Send + Sync + 'static {
    type Context: Send + 'static;

    fn on_prepare(&self, conn: &mut Prepare<'_>) -> std::result::Result<Self::Context, Reject>;

    fn on_connect(&self, _cx: &mut Self::Context, _conn: &mut Connection<'_>) -> Result {
        Ok(())
    }

    fn on_request(&self, cx: &mut Self::Context, conn: &mut Connection<'_>) -> Result;

    fn on_drain(&self, _cx: &mut Self::Context, _conn: &mut Connection<'_>) -> Result {
        Ok(())
    }

    fn on_timer(&self, _cx: &mut Self::Context, _conn: &mut Connection<'_>) -> Result {
        Ok(())
    }

    fn on_shutdown(&self, _cx: &mut Self::Context, conn: &mut Connection<'_>) -> Result {
        conn.close();
        Ok(())
    }

    fn on_disconnect(&self, _cx: &mut Self::Context, _info: &Closed) {}

    fn on_close(&self, _cx: &mut Self::Context, _info: &Closed) {}
}

/// A handler by value, or one that is shared already.
pub trait IntoHandler {
    /// The handler itself.
    type Handler: Handler;

    /// The handler, shared from now on.
    fn into_handler(self) -> Arc<Self::Handler>;
}

impl<H: Handler> IntoHandler for H {
    type Handler = H;

    fn into_handler(self) -> Arc<H> {
        Arc::new(self)
    }
}

impl<H: Handler> IntoHandler for Arc<H> {
    type Handler = H;

    fn into_handler(self) -> Arc<H> {
        self
    }
}

pub(super) type Context = Box<dyn Any + Send>;

/// A handler, its types forgotten.
pub(super) trait Callbacks: Send + Sync {
    fn prepare(&self, conn: &mut Prepare<'_>) -> std::result::Result<Context, Reject>;
    fn connect(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn request(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn drain(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn timer(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn shutdown(&self, cx: &mut Context, conn: &mut Connection<'_>) -> Result;
    fn disconnect(&self, cx: &mut Context, info: &Closed);
    fn close(&self, cx: &mut Context, info: &Closed);
}

fn own<H: Handler>(cx: &mut Context) -> &mut H::Context {
    cx.downcast_mut().expect("a handler is given the contexts that it made")
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
