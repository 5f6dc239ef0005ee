//! An epoll whose members are numbered.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

const EVENTS: usize = 512;

pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Poll> {
        Ok(Poll { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS) })
    }

    pub(crate) fn add(&self, socket: &impl AsFd, at: usize, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(at as u64), flags)?)
    }

    pub(crate) fn change(&self, socket: &impl AsFd, at: usize, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(at as u64), flags)?)
    }

    /// What is ready, in the order in which it became so; waits for `most` at most, or without end.
    pub(crate) fn wait(&mut self, most: Option<Duration>) -> io::Result<&[epoll::Event]> {
        let timeout = most.map(|most| Timespec {
            tv_sec: most.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(&self.events),
            Err(error) => Err(error.into()),
        }
    }
}

/// The number and the readiness of an event's member.
pub(crate) fn member(event: &epoll::Event) -> (usize, EventFlags) {
    (event.data.u64() as usize, event.flags)
}
