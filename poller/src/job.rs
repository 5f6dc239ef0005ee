//! What a leader is asked to do beside looking at events: the jobs that other threads leave, and the due timers.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::close::Fault;
use crate::handle::Shared;
use crate::kept::{Kept, Phase};
use crate::listener::ListenerShared;
use crate::operator::Operator;
use crate::poll::{Lead, PollShared, Work};
use crate::state::{Closer, News};
use crate::timer::Due;
use crate::token::Token;
use crate::udp::UdpShared;

/// What other threads (or the leader itself) want done by the leader.
pub(crate) enum Job {
    /// Run a connection that the sender owns.
    Run(Arc<Shared>),
    /// Give an accepted or adopted connection, which the sender owns, its first turn.
    First(Arc<Shared>),
    /// Register a new connection that the sender owns, and run it.
    Open(Arc<Shared>),
    Listen(Arc<ListenerShared>),
    /// Run a listener that the sender owns.
    Accept(Arc<ListenerShared>),
    Datagram(Arc<UdpShared>),
    /// Run a datagram socket that the sender owns.
    RunUdp(Arc<UdpShared>),
    /// Free a slot.
    Retire(Token),
    /// Tell everyone that the event loop is stopping.
    Shutdown,
    /// Close everything that is left.
    Kill,
    /// Give up the lead for good.
    Stop,
}

/// Jobs that the leader has not taken.
#[derive(Default)]
pub(crate) struct Jobs {
    /// Invariant: a connection, listener or socket stands here at most once, because its owner put it here.
    pub(crate) queue: VecDeque<Job>,
    /// The poll has stopped: a job that were kept would keep the poll alive that keeps it.
    pub(crate) ended: bool,
}

impl Job {
    /// The poll has stopped. Connections have ended before; what has a socket still gives it back.
    pub(crate) fn discard(self) {
        match self {
            Job::Listen(listener) | Job::Accept(listener) => listener.discard(),
            Job::Datagram(socket) | Job::RunUdp(socket) => socket.discard(),
            Job::Run(_)
            | Job::First(_)
            | Job::Open(_)
            | Job::Retire(_)
            | Job::Shutdown
            | Job::Kill
            | Job::Stop => {}
        }
    }
}

impl Lead {
    pub(crate) fn job(&mut self, poll: &Arc<PollShared>, job: Job) -> Option<Work> {
        match job {
            Job::Run(shared) => {
                let news = shared.state.take();
                return Some(Work::Connection(shared, news));
            }
            Job::First(shared) if !self.stopping && !self.killing => {
                self.enter(&shared, &mut shared.core.lock().kept);
                return Some(Work::First(shared));
            }
            Job::First(shared) | Job::Open(shared) => {
                let news = self.open(poll, &shared);
                return Some(Work::Connection(shared, news));
            }
            Job::Accept(listener) => return Some(Work::Listener(listener)),
            Job::RunUdp(socket) => return Some(Work::Udp(socket)),
            Job::Listen(listener) => {
                let token = self.operators.insert(Operator::Listener(listener.clone()));
                if self.stopping {
                    listener.close();
                } else if let Err(error) = listener.register(token) {
                    log::error!(event = "listen", addr:% = listener.address; "cannot be registered: {error}");
                }
                return Some(Work::Listener(listener));
            }
            Job::Datagram(socket) => {
                let token = self.operators.insert(Operator::Udp(socket.clone()));
                if self.killing {
                    socket.close();
                } else if let Err(error) = socket.register(token) {
                    log::error!(event = "listen", addr:% = socket.local_addr; "cannot be registered: {error}");
                }
                return Some(Work::Udp(socket));
            }
            Job::Retire(token) => return self.operators.remove(token).map(Work::Drop),
            Job::Shutdown => {
                self.stopping = true;
                for operator in self.operators.iter() {
                    match operator {
                        Operator::Connection(shared) => shared.notify(News::SHUTDOWN),
                        Operator::Listener(listener) => listener.close(),
                        Operator::Udp(_) => {}
                    }
                }
            }
            Job::Kill => {
                self.killing = true;
                for operator in self.operators.iter() {
                    match operator {
                        Operator::Connection(shared) => shared.close(Closer::Shutdown, true),
                        Operator::Listener(listener) => listener.close(),
                        Operator::Udp(socket) => socket.close(),
                    }
                }
            }
            Job::Stop => self.stopped = true,
        }
        None
    }

    /// Gives a connection its slot, unless it has one.
    fn enter(&mut self, shared: &Arc<Shared>, kept: &mut Kept) {
        if kept.token().is_none() {
            kept.token = self.operators.insert(Operator::Connection(shared.clone()));
        }
    }

    /// Registers a connection. What goes wrong closes it, like any error.
    fn open(&mut self, poll: &PollShared, shared: &Arc<Shared>) -> News {
        let mut core = shared.core.lock();
        let mut early = News::NONE;
        if core.kept.phase == Phase::Redialing {
            // What the former socket told is not about this one, which gets a slot of its own.
            let readiness = News::READABLE.with(News::WRITABLE).with(News::HUP).with(News::URGENT);
            early = shared.state.take().without(readiness);
            self.operators.remove(std::mem::replace(&mut core.kept.token, Token::NONE));
            core.kept.phase = Phase::Dialing;
        }
        self.enter(shared, &mut core.kept);
        // The first turn may have sent less than it wanted to.
        let unsent = core.busy.as_ref().is_some_and(|busy| busy.unsent() > 0);
        let writes = core.kept.phase == Phase::Dialing || unsent;
        if let Err(error) = core.kept.register(poll, writes) {
            core.busy().details.fault.get_or_insert(Fault::from(&error));
            // The job owns the connection, which is run next and finds this.
            shared.state.close_as_owner(Closer::Error, true);
        }
        if self.killing {
            shared.state.close_as_owner(Closer::Shutdown, true);
        }
        let news = shared.state.take().with(early);
        if self.stopping { news.with(News::SHUTDOWN) } else { news }
    }
}

impl Due {
    pub(crate) fn work(self) -> Option<Work> {
        match self {
            Due::Connection(shared) => {
                let shared = shared.upgrade()?;
                let news = shared.acquire(News::TIMER)?;
                Some(Work::Connection(shared, news))
            }
            Due::Accept(listener) => {
                let listener = listener.upgrade()?;
                listener.state.acquire(News::READABLE)?;
                Some(Work::Listener(listener))
            }
            Due::Task(task) => Some(Work::Task(task)),
        }
    }
}
