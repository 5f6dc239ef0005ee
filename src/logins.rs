//! Whether users are who they say, without keeping anybody waiting.
//!
//! ```text
//!   login ──▶ too many wrong ones from there? ──▶ remembered? ──▶ queue ──▶ verifier threads: Argon2id ──▶ remembered, told
//!                  │ yes                             │ yes          │ full                     │ no memory
//!                  ▼                                 ▼              ▼                          ▼
//!                 Later                           Yes, No         Later                      Later
//! ```
//! * A password that was verified is remembered, right or wrong, under an HMAC with a key of this process alone. So a request
//!   pays for it once, and memory shows no passwords to anybody who reads it later. One that the gateway has as such is compared
//!   at once, and remembered only when it was wrong.
//! * The same login that comes again while it is looked at waits with the first.
//! * An address has [`AUTH_FAILURES_MAX`] wrong passwords in [`AUTH_FAILURES_MS`], whatever they are held against. Beyond that not
//!   even the right one helps: whoever guesses would know it by that. A wrong one that is only said again is no guess.
//! * Keys may be replaced at any time ([`Logins::renew`]): every answer is by those that are there when it is given.
//! * Threads begin when there is something to verify, and end when there is nothing left.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use sha2::Sha256;

use crate::limits::{
    AUTH_ADDRESSES_MAX, AUTH_FAILURES_MAX, AUTH_FAILURES_MS, AUTH_SHARED_LEN_MAX, VERIFIED_LEN_MAX,
    VERIFY_QUEUE_LEN_MAX, VERIFY_THREADS_MAX, VERIFY_WAITING_MAX,
};
use crate::proto::credentials::{Check, Credentials, Login, Proven, Question};
use crate::proto::derive::derive;
use crate::rt;

/// Answers for the logins of a gateway.
pub struct Logins {
    /// What logins are remembered under.
    key: [u8; 32],
    shared: Arc<Mutex<Shared>>,
}

/// A login, as it is remembered.
type Tag = [u8; 32];

struct Job {
    tag: Tag,
    login: Login,
    question: Question,
    from: IpAddr,
}

type Then = Box<dyn FnOnce(Proven) + Send>;

#[derive(Default)]
struct Shared {
    /// What logins are held against now.
    credentials: Arc<Credentials>,
    right: Memory,
    wrong: Memory,
    /// What waits for a thread. Invariant: at most VERIFY_QUEUE_LEN_MAX, and none without a thread.
    queue: VecDeque<Job>,
    /// Invariant: at most VERIFY_THREADS_MAX.
    threads: usize,
    /// Who waits for what is looked at. Invariant: as many as wait in the queue and are looked at, and each list is at most
    /// VERIFY_WAITING_MAX long.
    waiting: HashMap<Tag, Vec<Then>>,
    failures: Failures,
    /// There was no memory to verify the last one.
    starved: bool,
}

/// The latest of what was found out. Invariant: both hold the same, at most VERIFIED_LEN_MAX.
#[derive(Default)]
struct Memory {
    known: HashSet<Tag>,
    order: VecDeque<Tag>,
}

impl Memory {
    /// Says whether that is news.
    fn insert(&mut self, tag: Tag) -> bool {
        if !self.known.insert(tag) {
            return false;
        }
        self.order.push_back(tag);
        if self.order.len() > VERIFIED_LEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Wrong passwords by address.
#[derive(Default)]
struct Failures {
    /// Invariant: at most AUTH_ADDRESSES_MAX.
    addresses: HashMap<IpAddr, Minute>,
    /// All who find no place above share these, by a hash that nobody can foresee: who guesses from many addresses does not use up
    /// the minute of everybody else. Invariant: none before it is needed, or AUTH_SHARED_LEN_MAX.
    shared: Vec<Minute>,
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Minute {
    begun: Instant,
    /// Invariant: count <= AUTH_FAILURES_MAX.
    count: u32,
    /// That there were too many was said.
    said: bool,
}

impl Minute {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) >= Duration::from_millis(AUTH_FAILURES_MS)
    }
}

impl Failures {
    fn minute(&mut self, address: IpAddr, now: Instant) -> &mut Minute {
        let fresh = Minute { begun: now, count: 0, said: false };
        if self.addresses.len() >= AUTH_ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.addresses.retain(|_, minute| !minute.is_over(now));
        }
        let full = self.addresses.len() >= AUTH_ADDRESSES_MAX && !self.addresses.contains_key(&address);
        let minute = match full {
            true => {
                self.shared.resize(AUTH_SHARED_LEN_MAX, fresh);
                &mut self.shared[self.hasher.hash_one(address) as usize % AUTH_SHARED_LEN_MAX]
            }
            false => self.addresses.entry(address).or_insert(fresh),
        };
        if minute.is_over(now) {
            *minute = fresh;
        }
        minute
    }

    /// Counts an attempt before it is known how it ends, so that many at once are no way around; false when there were too many.
    fn charge(&mut self, address: IpAddr, now: Instant) -> bool {
        let minute = self.minute(address, now);
        let has_room = minute.count < AUTH_FAILURES_MAX;
        minute.count += u32::from(has_room);
        has_room
    }

    /// It was no failure.
    fn refund(&mut self, address: IpAddr, now: Instant) {
        let minute = self.minute(address, now);
        minute.count = minute.count.saturating_sub(1);
    }

    fn is_full(&mut self, address: IpAddr, now: Instant) -> bool {
        // Who has not failed takes no place.
        let is_counted = self.addresses.contains_key(&address) || self.addresses.len() >= AUTH_ADDRESSES_MAX;
        is_counted && self.minute(address, now).count >= AUTH_FAILURES_MAX
    }

    /// Whether it is to be said that there were too many: once a minute.
    fn is_news(&mut self, address: IpAddr, now: Instant) -> bool {
        let minute = self.minute(address, now);
        minute.count >= AUTH_FAILURES_MAX && !std::mem::replace(&mut minute.said, true)
    }
}

/// What counts as one address: who has one of IPv6 has a whole network of them.
pub(crate) fn whole(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

impl Logins {
    /// For these credentials.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new(credentials: Arc<Credentials>) -> io::Result<Logins> {
        let shared = Shared { credentials, ..Shared::default() };
        Ok(Logins { key: rt::nonce()?, shared: Arc::new(Mutex::new(shared)) })
    }

    /// What logins are held against now; see [`Logins::bars`].
    pub fn current(&self) -> Arc<Credentials> {
        self.shared.lock().credentials.clone()
    }

    /// Whether a user of this group, who was let in by what was [current](Logins::current) before the login was checked, would need
    /// another key by now, or is none any more. Where it was let in by what came while it was looked at, that is too strict, and the
    /// user logs in again.
    pub fn bars(&self, group: &str, under: &Arc<Credentials>) -> bool {
        let current = self.current();
        !Arc::ptr_eq(&current, under) && current.bars_users_of(group, under)
    }

    /// Whether users are asked at all.
    pub fn asks(&self) -> bool {
        !self.shared.lock().credentials.is_open()
    }

    /// Holds logins against these from now on, also those that are being looked at. What was found out before is forgotten, unless
    /// it would all be found out the same again: then a certificate that is renewed every day costs nobody a wait.
    pub fn renew(&self, credentials: Arc<Credentials>) {
        let shared = &mut *self.shared.lock();
        if !credentials.has_users_of(&shared.credentials) {
            (shared.right, shared.wrong) = Default::default();
        }
        shared.credentials = credentials;
    }

    /// Whether this login is right, if that is known already; otherwise `then` is told, on another thread.
    pub fn check(
        &self,
        from: Option<IpAddr>,
        login: Login,
        then: impl FnOnce(Proven) + Send + 'static,
    ) -> Option<Proven> {
        let (now, from) = (rt::now(), whole(from.unwrap_or(IpAddr::from([0; 4]))));
        // Not under the lock: it takes a microsecond or two.
        let credentials = self.current();
        let question = match credentials.check(&login) {
            Check::Known(is_right) => return Some(self.known(is_right, from, &login, now)),
            Check::Ask(question) => question,
        };
        let tag = self.tag(&login);
        let shared = &mut *self.shared.lock();
        if shared.failures.is_full(from, now) {
            return Some(Proven::Later);
        }
        if shared.right.known.contains(&tag) {
            return Some(Proven::Yes);
        }
        if shared.wrong.known.contains(&tag) {
            return Some(Proven::No);
        }
        if let Some(waiting) = shared.waiting.get_mut(&tag) {
            if waiting.len() >= VERIFY_WAITING_MAX {
                return Some(Proven::Later);
            }
            waiting.push(Box::new(then));
            return None;
        }
        // The lock is held: no thread takes it before its waiter is there.
        if shared.queue.len() >= VERIFY_QUEUE_LEN_MAX || !self.has_thread(shared) {
            log::debug!(event = "limit_hit", limit = "verify_queue", cli:% = from; "too many passwords wait to be verified");
            return Some(Proven::Later);
        }
        shared.queue.push_back(Job { tag, login, question, from });
        shared.failures.charge(from, now);
        shared.waiting.insert(tag, vec![Box::new(then)]);
        None
    }

    /// What is said of a login that took no computing.
    fn known(&self, is_right: bool, from: IpAddr, login: &Login, now: Instant) -> Proven {
        let tag = (!is_right).then(|| self.tag(login));
        let is_news = {
            let Shared { failures, wrong, .. } = &mut *self.shared.lock();
            if failures.is_full(from, now) {
                return Proven::Later;
            }
            tag.is_some_and(|tag| {
                wrong.insert(tag) && failures.charge(from, now) && failures.is_news(from, now)
            })
        };
        if is_news {
            say_too_many(from);
        }
        if is_right { Proven::Yes } else { Proven::No }
    }

    /// Whether there is somebody for another job: a new thread, while there may be one.
    fn has_thread(&self, shared: &mut Shared) -> bool {
        if shared.threads < VERIFY_THREADS_MAX {
            match rt::spawn_thread("verifier", verifier(&self.shared)) {
                Ok(()) => shared.threads += 1,
                Err(error) => {
                    log::debug!(event = "limit_hit", limit = "threads"; "no thread to verify passwords: {error}");
                }
            }
        }
        shared.threads > 0
    }

    fn tag(&self, login: &Login) -> Tag {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(&(login.user.len() as u64).to_be_bytes());
        mac.update(login.user.as_bytes());
        mac.update(login.password.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

fn say_too_many(from: IpAddr) {
    log::warn!(event = "limit_hit", limit = "auth_failures", cli:% = from;
        "{AUTH_FAILURES_MAX} wrong passwords in a minute: no more are looked at");
}

/// What a verifier thread runs. It is dropped with the lock held where there is no thread for it, and counts nobody out then.
fn verifier(shared: &Arc<Mutex<Shared>>) -> impl FnOnce() + Send + 'static {
    let shared = shared.clone();
    move || Verifier { shared }.work()
}

/// A verifier thread, which is counted while it may take a job.
struct Verifier {
    shared: Arc<Mutex<Shared>>,
}

impl Verifier {
    /// Verifies until nothing waits.
    fn work(self) {
        while let Some(mut job) = self.next() {
            // Once, unless the key was replaced meanwhile.
            while !self.answer(&mut job) {}
        }
    }

    fn next(&self) -> Option<Job> {
        let shared = &mut *self.shared.lock();
        let job = shared.queue.pop_front();
        if job.is_none() {
            shared.threads -= 1;
        }
        job
    }

    /// False when the question is another one by now.
    fn answer(&self, Job { tag, login, question, from }: &mut Job) -> bool {
        let keys = match derive(&login.password, &question.recipe) {
            Ok(keys) => keys,
            Err(error) => {
                let (waiting, is_news) = {
                    let shared = &mut *self.shared.lock();
                    shared.failures.refund(*from, rt::now());
                    (shared.waiting.remove(tag), !std::mem::replace(&mut shared.starved, true))
                };
                // Once, until it goes well again.
                if is_news {
                    log::warn!(event = "limit_hit", limit = "memory"; "passwords cannot be verified: {error}");
                }
                waiting.into_iter().flatten().for_each(|then| tell(then, Proven::Later));
                return true;
            }
        };
        let (waiting, is_right, is_news) = {
            let shared = &mut *self.shared.lock();
            let now = rt::now();
            let is_right = match shared.credentials.check(login) {
                Check::Known(is_right) => is_right,
                Check::Ask(current) if current.recipe == question.recipe => current.answer(&keys),
                Check::Ask(current) => {
                    *question = current;
                    return false;
                }
            };
            shared.starved = false;
            if is_right {
                shared.failures.refund(*from, now);
                shared.right.insert(*tag);
            } else {
                shared.wrong.insert(*tag);
            }
            (shared.waiting.remove(tag), is_right, !is_right && shared.failures.is_news(*from, now))
        };
        if is_news {
            say_too_many(*from);
        }
        let proven = if is_right { Proven::Yes } else { Proven::No };
        for then in waiting.into_iter().flatten() {
            tell(then, proven);
        }
        true
    }
}

/// Tells one of those who wait. Its panic is its own: the others are told, and what is queued behind it is verified.
fn tell(then: Then, proven: Proven) {
    // It is used up, whatever it came to.
    if catch_unwind(AssertUnwindSafe(|| then(proven))).is_err() {
        log::error!(event = "panic"; "who waited for a password to be verified panicked when it was");
    }
}

#[cfg(test)]
mod tests;
