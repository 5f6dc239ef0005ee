//! The target: does on each connection what its order says, until the process is ended.

use std::io;
use std::net::TcpListener;

use rustix::event::epoll::EventFlags;

use crate::end::{Counted, Scratch, Target, Turn};
use crate::poll::{Poll, member};

/// The listener's number; the connections have those before it.
const LISTENER: usize = usize::MAX;

/// Serves without end.
///
/// # Errors
/// When the listener fails. A connection that fails is its user's to count.
pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.add(listener, LISTENER, EventFlags::IN)?;
    let mut targets: Vec<Option<(Target, EventFlags)>> = Vec::new();
    let mut free = Vec::new();
    let mut scratch = Scratch::new();
    let mut counted = Counted::default();
    loop {
        let ready: Vec<_> = poll.wait(None)?.iter().map(member).collect();
        for (at, flags) in ready {
            if at == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    socket.set_nonblocking(true)?;
                    socket.set_nodelay(true)?;
                    let target = Target::new(socket);
                    let at = free.pop().unwrap_or(targets.len());
                    let interest = target.interest();
                    poll.add(&target.socket, at, interest)?;
                    if at == targets.len() {
                        targets.push(None);
                    }
                    targets[at] = Some((target, interest));
                }
                continue;
            }
            let Some((target, watched)) = &mut targets[at] else { continue };
            if let Ok(Turn::Stays) = target.turn(flags, &mut scratch, &mut counted) {
                let interest = target.interest();
                if interest != *watched {
                    poll.change(&target.socket, at, interest)?;
                    *watched = interest;
                }
            } else {
                targets[at] = None;
                free.push(at);
            }
        }
    }
}
