//! The word that says who owns a connection and what it has yet to look at.
//!
//! ```text
//!            acquire / notify            take                   release
//!   Idle ─────────────────────▶ Owned ─────────▶ Owned, no news ────────▶ Idle
//!   (0)                           ▲                    │ notify
//!                                 └──── release says ──┘
//!                                           Again
//!   Owned ── close(who) ──▶ Owned, closing ── finish ──▶ Done (for ever owned, by nobody)
//! ```
//! * `OWNED` is set while one thread runs the connection or one queue holds it. Whoever turns it from clear to set
//!   is the owner; the owner alone touches the buffers and the context.
//! * Every other bit is news for the owner. News is never set without an owner, so an idle word is zero, and the
//!   common dispatch costs two read-modify-writes: zero to `OWNED`, and back.
//! * An owner that blocks until there is news says so in the word (`WAITED`); whoever leaves news then wakes it.
//! * The first closer is recorded in the same word; later ones find it there.
//!
//! The loom tests (`state/loom_tests.rs`) run every interleaving of notifiers, closers, senders and owners.

use crate::sync::atomic::{AtomicU32, Ordering};

const OWNED: u32 = 1 << 0;
const NEWS: u32 = 0x1ff << 1;
const CLOSING: u32 = 1 << 10;
const CLOSER_SHIFT: u32 = 11;
const CLOSER: u32 = 0b111 << CLOSER_SHIFT;
const ABORT: u32 = 1 << 14;
const DONE: u32 = 1 << 15;
const WAITED: u32 = 1 << 16;

/// What happened to a connection since its owner last looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News(u32);

impl News {
    pub(crate) const NONE: News = News(0);
    /// The kernel says that there is something to read.
    pub(crate) const READABLE: News = News(1 << 1);
    /// The kernel takes bytes again.
    pub(crate) const WRITABLE: News = News(1 << 2);
    /// The peer will send no more, or the connection broke: reads go on until they say so themselves.
    pub(crate) const HUP: News = News(1 << 3);
    /// Somebody asked for `on_request`.
    pub(crate) const WOKEN: News = News(1 << 4);
    /// A handle put bytes into the outbox.
    pub(crate) const SENT: News = News(1 << 5);
    /// A deadline of this connection has passed.
    pub(crate) const TIMER: News = News(1 << 6);
    /// The event loop is stopping.
    pub(crate) const SHUTDOWN: News = News(1 << 7);
    /// More to do that could not be done in this turn.
    pub(crate) const REST: News = News(1 << 8);
    /// The peer has sent urgent data, at which a read stops although there is more.
    pub(crate) const URGENT: News = News(1 << 9);

    pub(crate) const fn with(self, other: News) -> News {
        News(self.0 | other.0)
    }

    pub(crate) fn has(self, other: News) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn only(self, other: News) -> News {
        News(self.0 & other.0)
    }

    pub(crate) fn without(self, other: News) -> News {
        News(self.0 & !other.0)
    }
}

/// Who closed first (L-12). The reason that callbacks see is built from this and what the owner knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closer {
    User = 1,
    Peer = 2,
    Error = 3,
    Timer = 4,
    Shutdown = 5,
    Handler = 6,
    Panic = 7,
}

impl Closer {
    fn from_bits(bits: u32) -> Option<Closer> {
        [
            Closer::User,
            Closer::Peer,
            Closer::Error,
            Closer::Timer,
            Closer::Shutdown,
            Closer::Handler,
            Closer::Panic,
        ]
        .into_iter()
        .find(|closer| *closer as u32 == (bits & CLOSER) >> CLOSER_SHIFT)
    }
}

/// The verdict of [`State::notify`] and [`State::close`].
#[must_use = "an owner that does nothing strands the connection"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnNotify {
    /// The caller owns the connection now: run it or queue it.
    Own,
    /// Somebody owns it and will look again.
    Nothing,
    /// Its owner is parked, waiting for this: wake it.
    Wake,
}

impl OnNotify {
    /// What follows for who has changed this word.
    fn of(word: u32) -> OnNotify {
        match (word & OWNED, word & WAITED) {
            (0, _) => OnNotify::Own,
            (_, 0) => OnNotify::Nothing,
            _ => OnNotify::Wake,
        }
    }
}

/// The verdict of [`State::release`].
#[must_use = "an owner that does not look again loses news"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnRelease {
    /// Let go.
    Idle,
    /// News came meanwhile: still owned, take and go on.
    Again,
}

/// The word itself.
#[derive(Debug)]
pub(crate) struct State(AtomicU32);

impl State {
    /// A connection is born owned: whoever made it runs it first.
    pub(crate) fn new() -> State {
        State(AtomicU32::new(OWNED))
    }

    /// Takes an idle connection, or leaves it as it is.
    pub(crate) fn own(&self) -> bool {
        self.0.compare_exchange(0, OWNED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes an idle connection with `news` in hand, or leaves the news for its owner.
    pub(crate) fn acquire(&self, news: News) -> Option<News> {
        if self.own() {
            return Some(news);
        }
        match self.notify(news) {
            OnNotify::Own => Some(self.take()),
            OnNotify::Nothing | OnNotify::Wake => None,
        }
    }

    /// Leaves news. Whoever finds the connection idle owns it thereby.
    pub(crate) fn notify(&self, news: News) -> OnNotify {
        OnNotify::of(self.0.fetch_or(news.0 | OWNED, Ordering::AcqRel))
    }

    /// The owner takes the news.
    pub(crate) fn take(&self) -> News {
        News(self.0.fetch_and(!NEWS, Ordering::AcqRel) & NEWS)
    }

    /// The owner lets go, unless there is news or an unfinished close.
    ///
    /// A close that the owner has seen (`seen_closing`) and that waits for unsent output is not news any more; it
    /// is kept in the word, so such a connection is let go by keeping only that.
    pub(crate) fn release(&self) -> OnRelease {
        match self.0.compare_exchange(OWNED, 0, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => OnRelease::Idle,
            Err(_) => OnRelease::Again,
        }
    }

    /// As [`State::release`], for an owner that has seen this close (and whether it was an abort) and waits for
    /// output to leave.
    pub(crate) fn release_closing(&self, seen: Close) -> OnRelease {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & NEWS != 0 || Close::of(word) != Some(seen) {
                return OnRelease::Again;
            }
            match self.0.compare_exchange_weak(word, word & !OWNED, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return OnRelease::Idle,
                Err(now) => word = now,
            }
        }
    }

    /// Asks for the close. The first closer is the one that is remembered; a later one can only turn a graceful
    /// close into an abort.
    pub(crate) fn close(&self, closer: Closer, abort: bool) -> OnNotify {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let mut next = word | OWNED;
            if word & CLOSING == 0 {
                next |= CLOSING | ((closer as u32) << CLOSER_SHIFT);
            }
            if abort {
                next |= ABORT;
            }
            if word & DONE != 0 || next == word {
                return OnNotify::Nothing;
            }
            match self.0.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return OnNotify::of(word),
                Err(now) => word = now,
            }
        }
    }

    /// The owner is about to park until there is news: false when there is some, or a close, already. Everybody who leaves
    /// news from here on is told to wake it.
    #[must_use = "an owner that parks all the same sleeps over its news"]
    pub(crate) fn begin_wait(&self) -> bool {
        self.0.fetch_or(WAITED, Ordering::AcqRel) & (NEWS | CLOSING) == 0
    }

    /// The owner is awake.
    pub(crate) fn end_wait(&self) {
        self.0.fetch_and(!WAITED, Ordering::AcqRel);
    }

    /// As [`State::notify`], by the owner to itself.
    pub(crate) fn note_as_owner(&self, news: News) {
        let word = self.0.fetch_or(news.0, Ordering::AcqRel);
        debug_assert_ne!(word & OWNED, 0, "only an owner leaves news for itself");
    }

    /// As [`State::close`], by the owner, who will come upon it.
    pub(crate) fn close_as_owner(&self, closer: Closer, abort: bool) {
        let verdict = self.close(closer, abort);
        debug_assert_eq!(verdict, OnNotify::Nothing, "an owner owns");
    }

    /// The close that has been asked for, if any.
    pub(crate) fn closing(&self) -> Option<Close> {
        Close::of(self.0.load(Ordering::Acquire))
    }

    /// The owner has cleaned up. Nobody owns the connection again, ever.
    pub(crate) fn finish(&self) {
        self.0.fetch_or(DONE | OWNED, Ordering::AcqRel);
    }

    /// Whether clean-up is over.
    pub(crate) fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire) & DONE != 0
    }
}

/// A close that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) closer: Closer,
    /// Unsent output is dropped.
    pub(crate) abort: bool,
}

impl Close {
    fn of(word: u32) -> Option<Close> {
        let closer = Closer::from_bits(word)?;
        Some(Close { closer, abort: word & ABORT != 0 })
    }
}

#[cfg(all(test, not(any(poller_loom, poller_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn born_owned_and_let_go() {
        let state = State::new();
        assert_eq!(state.notify(News::WOKEN), OnNotify::Nothing);
        assert_eq!(state.release(), OnRelease::Again);
        assert_eq!(state.take(), News::WOKEN);
        assert_eq!(state.release(), OnRelease::Idle);
        assert_eq!(state.acquire(News::READABLE), Some(News::READABLE));
        assert_eq!(state.acquire(News::READABLE), None);
        assert_eq!(state.take(), News::READABLE);
    }

    // proves L-13: an owner never parks over news, and is woken for what comes afterwards
    #[test]
    fn an_owner_that_parks_is_woken() {
        let state = State::new();
        assert!(state.begin_wait());
        assert_eq!(state.notify(News::READABLE), OnNotify::Wake);
        assert_eq!(state.close(Closer::User, false), OnNotify::Wake);
        state.end_wait();
        assert_eq!(state.notify(News::WOKEN), OnNotify::Nothing);
        assert!(!state.begin_wait(), "there is news");
        state.end_wait();
        assert_eq!(state.take(), News::READABLE.with(News::WOKEN));
        assert!(!state.begin_wait(), "a close is under way");
    }

    // proves L-12
    #[test]
    fn the_first_closer_is_remembered_and_an_abort_only_hardens_it() {
        let state = State::new();
        assert_eq!(state.release(), OnRelease::Idle);
        assert_eq!(state.close(Closer::Peer, false), OnNotify::Own);
        assert_eq!(state.close(Closer::User, false), OnNotify::Nothing);
        assert_eq!(state.closing(), Some(Close { closer: Closer::Peer, abort: false }));
        assert_eq!(state.release(), OnRelease::Again);
        let seen = state.closing().expect("just closed");
        assert_eq!(state.release_closing(seen), OnRelease::Idle);
        assert_eq!(state.close(Closer::User, true), OnNotify::Own);
        assert_eq!(state.release_closing(seen), OnRelease::Again);
        assert_eq!(state.closing(), Some(Close { closer: Closer::Peer, abort: true }));
        state.finish();
        assert!(state.is_done());
        assert_eq!(state.close(Closer::User, true), OnNotify::Nothing);
        assert_eq!(state.notify(News::WOKEN), OnNotify::Nothing);
        assert_eq!(state.acquire(News::READABLE), None);
    }
}

#[cfg(all(test, poller_loom))]
mod loom_tests;
