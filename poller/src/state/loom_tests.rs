//! Every interleaving of those who meet at the word.

use super::*;
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
    loom::model(|| {
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
    loom::model(|| {
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
    loom::model(|| {
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
