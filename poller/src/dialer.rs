//! Dialed connections: the same life cycle as accepted ones, with a connect limit in front.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::close::Fault;
use crate::handle::{Handle, Phase, Shared};
use crate::handler::{Handler, Prepare, prepare};
use crate::job::Job;
use crate::poll::PollShared;
use crate::service::Service;
use crate::state::{Closer, News};
use crate::timer;
use crate::watch;

/// Starts to connect. What goes wrong after `on_prepare` reaches `on_close`, at once or later.
pub(crate) fn dial<H: Handler>(
    poll: &Arc<PollShared>,
    addr: SocketAddr,
    timeout: Duration,
    handler: &Arc<H>,
) -> io::Result<Handle> {
    watch::nanos(Some(timeout))?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let id = poll.enter().ok_or_else(|| {
        io::Error::other(format!("there are {} connections already", poll.live.connections_max))
    })?;
    let mut conn = Prepare::new(&socket, Some(addr));
    let context = match prepare(&**handler, &mut conn) {
        Ok(context) => context,
        Err(reject) => {
            poll.leave();
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reject.0));
        }
    };
    let wishes = conn.wishes;
    let connected = socket.connect(&SockAddr::from(addr));
    let (callbacks, hint) = (handler.clone(), poll.dialed.hint::<H>());
    let service = Arc::new(Service { poll: poll.clone(), callbacks, hint, quota: None, local: None });
    let shared = Shared::create(id, (socket, Some(addr), wishes), service, context, Phase::Dialing);
    match connected {
        // Some systems connect at once on loopback: the first turn then finds no error and goes on.
        Ok(()) => {
            shared.state.note_as_owner(News::WRITABLE);
        }
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            shared.core.lock().busy().deadlines.connect = poll.clock.at(timer::later(timeout));
        }
        Err(error) => {
            shared.core.lock().busy().details.fault = Some(Fault::from(&error));
            shared.state.close_as_owner(Closer::Error, true);
        }
    }
    poll.push(Job::Open(shared.clone()));
    Ok(Handle::new(shared))
}
