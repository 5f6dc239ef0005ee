//! Every interleaving of those who meet at the word.

use super::*;
use crate::sync::checked::explore;
use loom::sync::{Arc, Mutex};

/// The connection: its word, and what only an owner may touch (two owners at once find the lock taken).
struct Model {
    state: State,
    seen: Mutex<u32>,
    cleaned: loom::sync::atomic::AtomicU32,
}

impl Model {
    fn idle() -> Arc<Model> {
        let model = Model {
            state: State::new(),
            seen: Mutex::new(0),
            cleaned: loom::sync::atomic::AtomicU32::new(0),
        };
        assert_eq!(model.state.release(), OnRelease::Idle);
        Arc::new(model)
    }

    /// What an owner does: looks at the news, cleans up when closing, lets go.
    fn run(&self, mut news: News) {
        loop {
            self.touch(news.0);
            if self.state.closing().is_some() {
                self.cleaned.fetch_add(1, Ordering::Relaxed);
                self.state.finish();
                return;
            }
            match self.state.release() {
                OnRelease::Idle => return,
                OnRelease::Again => news = self.state.take(),
            }
        }
    }

    fn touch(&self, bits: u32) {
        *self.seen.try_lock().expect("one owner at a time") |= bits;
    }

    fn seen(&self) -> u32 {
        *self.seen.lock().expect("no panic")
    }
}

// proves L-04, L-07 (nothing notified is lost, nobody runs together)
#[test]
fn loom_every_notification_is_seen_by_one_owner() {
    explore(|| {
        let model = Model::idle();
        let threads: Vec<_> = [News::READABLE, News::WOKEN]
            .into_iter()
            .map(|news| {
                let model = model.clone();
                loom::thread::spawn(move || {
                    if let Some(news) = model.state.acquire(news) {
                        model.run(news);
                    }
                })
            })
            .collect();
        if let OnNotify::Own = model.state.notify(News::SENT) {
            model.run(model.state.take());
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(model.seen(), News::READABLE.with(News::WOKEN).with(News::SENT).0);
        assert_eq!(model.state.acquire(News::NONE), Some(News::NONE), "left idle");
    });
}

// proves L-12, L-16
#[test]
fn loom_two_closers_one_reason_one_cleanup() {
    explore(|| {
        let model = Model::idle();
        let peer = {
            let model = model.clone();
            loom::thread::spawn(move || {
                if let Some(news) = model.state.acquire(News::HUP) {
                    model.touch(news.0);
                    // The owner itself closes for the peer.
                    model.state.close_as_owner(Closer::Peer, false);
                    model.run(News::NONE);
                }
            })
        };
        let user = {
            let model = model.clone();
            loom::thread::spawn(move || {
                if let OnNotify::Own = model.state.close(Closer::User, false) {
                    model.run(model.state.take());
                }
            })
        };
        peer.join().expect("no panic");
        user.join().expect("no panic");
        assert_eq!(model.cleaned.load(Ordering::Relaxed), 1);
        assert!(model.state.is_done());
        assert!(matches!(
            model.state.closing(),
            Some(Close { closer: Closer::Peer | Closer::User, abort: false })
        ));
    });
}

// proves L-07, L-04 (a sender that becomes the owner leaves the news that came with it to the next one)
#[test]
fn loom_a_sender_gives_back_the_news_that_it_took() {
    explore(|| {
        let model = Model::idle();
        let sender = {
            let model = model.clone();
            loom::thread::spawn(move || {
                if let Some(news) = model.state.acquire(News::SENT) {
                    model.touch(News::SENT.0);
                    model.state.note_as_owner(news.without(News::SENT));
                    if let OnRelease::Again = model.state.release() {
                        model.run(model.state.take());
                    }
                }
            })
        };
        let event = {
            let model = model.clone();
            loom::thread::spawn(move || {
                if let Some(news) = model.state.acquire(News::READABLE) {
                    model.run(news);
                }
            })
        };
        if let OnNotify::Own = model.state.notify(News::WOKEN) {
            model.run(model.state.take());
        }
        sender.join().expect("no panic");
        event.join().expect("no panic");
        assert_eq!(model.seen(), News::READABLE.with(News::WOKEN).with(News::SENT).0);
        assert_eq!(model.state.acquire(News::NONE), Some(News::NONE), "left idle");
    });
}

// proves L-04, L-07: who takes the connection only if it is idle leaves everybody else's news to be found on release
#[test]
fn loom_an_owner_without_news_loses_nobody_elses() {
    explore(|| {
        let model = Model::idle();
        let sender = {
            let model = model.clone();
            loom::thread::spawn(move || {
                if model.state.own() {
                    model.touch(News::SENT.0);
                    if let OnRelease::Again = model.state.release() {
                        model.run(model.state.take());
                    }
                    return true;
                }
                false
            })
        };
        let event = {
            let model = model.clone();
            loom::thread::spawn(move || {
                if let Some(news) = model.state.acquire(News::READABLE) {
                    model.run(news);
                }
            })
        };
        if let OnNotify::Own = model.state.close(Closer::User, false) {
            model.run(model.state.take());
        }
        let sent = sender.join().expect("no panic");
        event.join().expect("no panic");
        assert_eq!(model.seen() & News::SENT.0 != 0, sent);
        assert_eq!(model.cleaned.load(Ordering::Relaxed), 1);
        assert!(model.state.is_done());
    });
}

/// A connection that closes gracefully and has output which leaves when the kernel says WRITABLE.
struct Closing {
    model: Model,
    /// Rounds in which the owner saw output that had not left.
    waited: Mutex<bool>,
    sent: loom::sync::atomic::AtomicBool,
}

impl Closing {
    fn new() -> Arc<Closing> {
        let model = Model {
            state: State::new(),
            seen: Mutex::new(0),
            cleaned: loom::sync::atomic::AtomicU32::new(0),
        };
        let sent = loom::sync::atomic::AtomicBool::new(false);
        Arc::new(Closing { model, waited: Mutex::new(false), sent })
    }

    /// What an owner does with a close that waits for output: it lets go with the close in the word, and whoever has news
    /// or a harder close brings it back.
    fn run(&self, mut news: News) {
        loop {
            self.model.touch(news.0);
            if news.has(News::WRITABLE) {
                self.sent.store(true, Ordering::Relaxed);
            }
            let released = match self.model.state.closing() {
                None => self.model.state.release(),
                Some(close) if close.abort || self.sent.load(Ordering::Relaxed) => {
                    self.model.cleaned.fetch_add(1, Ordering::Relaxed);
                    self.model.state.finish();
                    return;
                }
                Some(seen) => {
                    *self.waited.try_lock().expect("one owner at a time") = true;
                    self.model.state.release_closing(seen)
                }
            };
            match released {
                OnRelease::Idle => return,
                OnRelease::Again => news = self.model.state.take(),
            }
        }
    }
}

// proves L-23, L-16: the readiness for which a graceful close waits is not lost, whenever it comes
#[test]
fn loom_a_close_that_waits_for_its_output_ends_when_the_output_leaves() {
    explore(|| {
        let closing = Closing::new();
        let kernel = {
            let closing = closing.clone();
            loom::thread::spawn(move || {
                if let Some(news) = closing.model.state.acquire(News::WRITABLE) {
                    closing.run(news);
                }
            })
        };
        let user = {
            let closing = closing.clone();
            loom::thread::spawn(move || {
                if let OnNotify::Own = closing.model.state.close(Closer::User, false) {
                    closing.run(closing.model.state.take());
                }
            })
        };
        closing.run(News::NONE);
        kernel.join().expect("no panic");
        user.join().expect("no panic");
        assert_eq!(closing.model.cleaned.load(Ordering::Relaxed), 1);
        assert_eq!(closing.model.state.closing(), Some(Close { closer: Closer::User, abort: false }));
    });
}

// proves L-12, L-16, L-23: an abort hardens a close that waits, whoever comes first, and does not take its reason
#[test]
fn loom_an_abort_ends_a_close_that_waits() {
    explore(|| {
        let closing = Closing::new();
        let user = {
            let closing = closing.clone();
            loom::thread::spawn(move || {
                if let OnNotify::Own = closing.model.state.close(Closer::User, false) {
                    closing.run(closing.model.state.take());
                }
            })
        };
        let killer = {
            let closing = closing.clone();
            loom::thread::spawn(move || {
                if let OnNotify::Own = closing.model.state.close(Closer::Shutdown, true) {
                    closing.run(closing.model.state.take());
                }
            })
        };
        closing.run(News::NONE);
        user.join().expect("no panic");
        killer.join().expect("no panic");
        assert_eq!(closing.model.cleaned.load(Ordering::Relaxed), 1);
        assert!(closing.model.state.is_done());
        let close = closing.model.state.closing().expect("two have closed");
        assert!(close.abort, "never softened");
        // The reason is that of the one who was first: when the graceful one was seen waiting, it was that one.
        if *closing.waited.lock().expect("no panic") {
            assert_eq!(close.closer, Closer::User);
        }
    });
}

// proves L-23, L-24 (the word's part): what was sent before the close is collected by the one who cleans up, and a send
// that is refused left nothing.
#[test]
fn loom_a_send_is_collected_or_refused_when_a_close_comes() {
    explore(|| {
        let model = Model::idle();
        let outbox = Arc::new(Mutex::new(0u32));
        let collected = Arc::new(loom::sync::atomic::AtomicU32::new(0));
        let run = |model: &Model,
                   outbox: &Mutex<u32>,
                   collected: &loom::sync::atomic::AtomicU32,
                   mut news: News| {
            loop {
                model.touch(news.0);
                let closing = model.state.closing().is_some();
                if news.has(News::SENT) || closing {
                    let sent = std::mem::take(&mut *outbox.lock().expect("no panic"));
                    collected.fetch_add(sent, Ordering::Relaxed);
                }
                if closing {
                    model.cleaned.fetch_add(1, Ordering::Relaxed);
                    model.state.finish();
                    return;
                }
                match model.state.release() {
                    OnRelease::Idle => return,
                    OnRelease::Again => news = model.state.take(),
                }
            }
        };
        let sender = {
            let (model, outbox, collected) = (model.clone(), outbox.clone(), collected.clone());
            loom::thread::spawn(move || {
                {
                    let mut outbox = outbox.lock().expect("no panic");
                    if model.state.closing().is_some() {
                        return 0;
                    }
                    *outbox += 1;
                }
                if let Some(news) = model.state.acquire(News::SENT) {
                    run(&model, &outbox, &collected, news);
                }
                1
            })
        };
        let closer = {
            let (model, outbox, collected) = (model.clone(), outbox.clone(), collected.clone());
            loom::thread::spawn(move || {
                if let OnNotify::Own = model.state.close(Closer::User, false) {
                    let news = model.state.take();
                    run(&model, &outbox, &collected, news);
                }
            })
        };
        let taken = sender.join().expect("no panic");
        closer.join().expect("no panic");
        assert_eq!(model.cleaned.load(Ordering::Relaxed), 1);
        assert_eq!(collected.load(Ordering::Relaxed), taken);
        assert_eq!(*outbox.lock().expect("no panic"), 0, "nothing is left behind");
    });
}

/// Owners that are wrong in one way each: what the models above would not find, they would not prove.
mod planted {
    use super::*;

    #[test]
    #[should_panic(expected = "lost")]
    fn loom_finds_an_owner_that_does_not_look_again() {
        explore(|| {
            let model = Model::idle();
            let other = {
                let model = model.clone();
                loom::thread::spawn(move || {
                    if let Some(news) = model.state.acquire(News::READABLE) {
                        model.touch(news.0);
                        // Lets go whatever came meanwhile.
                        while model.state.release() == OnRelease::Again {
                            let _lost = model.state.take();
                        }
                    }
                })
            };
            if let OnNotify::Own = model.state.notify(News::WOKEN) {
                model.run(model.state.take());
            }
            other.join().expect("no panic");
            assert_eq!(model.seen(), News::READABLE.with(News::WOKEN).0, "lost");
        });
    }

    #[test]
    #[should_panic(expected = "lost")]
    fn loom_finds_a_close_that_waits_and_overlooks_an_abort() {
        explore(|| {
            let closing = Closing::new();
            closing.model.state.close_as_owner(Closer::User, false);
            let killer = {
                let closing = closing.clone();
                loom::thread::spawn(move || {
                    if let OnNotify::Own = closing.model.state.close(Closer::Shutdown, true) {
                        closing.run(closing.model.state.take());
                    }
                })
            };
            // Looks at the close and lets go of another one.
            let waits = closing.model.state.closing().is_some_and(|close| !close.abort);
            let now = closing.model.state.closing().expect("closed above");
            if waits {
                let _again = closing.model.state.release_closing(now);
            } else {
                closing.run(News::NONE);
            }
            killer.join().expect("no panic");
            assert_eq!(closing.model.cleaned.load(Ordering::Relaxed), 1, "lost");
        });
    }
}
