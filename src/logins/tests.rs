//! Logins under keys that cost little.

use super::*;
use crate::limits::DERIVE_MEMORY_KIB_MIN;
use crate::proto::credentials::Secret;
use crate::proto::derive::{Cost, Derived, Recipe};
use std::sync::mpsc;

fn logins() -> Logins {
    Logins::new(credentials("right", 5)).expect("there are random numbers")
}

fn credentials(password: &str, salt: u8) -> Arc<Credentials> {
    let cost = Cost::new(DERIVE_MEMORY_KIB_MIN, 1, 1).expect("the least");
    let recipe = Recipe { salt: [salt; 16], cost };
    let keys = derive(&Secret::new(password).expect("a secret"), &recipe).expect("there is memory");
    let mut credentials = Credentials::new();
    credentials.insert_user("prod", Derived::new(recipe, &keys)).expect("there is room");
    credentials.insert("plain", Secret::new("right").expect("a secret")).expect("there is room");
    Arc::new(credentials)
}

fn login(user: &str, password: &str) -> Login {
    Login::new(user.as_bytes(), password.as_bytes()).expect("it could be one")
}

/// Says whether it was known at once, and what it came to.
fn ask(logins: &Logins, from: u8, user: &str, password: &str) -> (bool, Proven) {
    let (tell, told) = mpsc::channel();
    let then = move |proven| tell.send(proven).expect("it is waited for");
    match logins.check(Some(IpAddr::from([10, 0, 0, from])), login(user, password), then) {
        Some(proven) => (true, proven),
        None => (false, told.recv().expect("it is told")),
    }
}

// proves T9: a verified password is paid for once, whatever it came to
#[test]
fn what_was_found_out_is_remembered() {
    let logins = logins();
    assert!(logins.asks());
    assert_eq!(ask(&logins, 1, "prod", "right"), (false, Proven::Yes));
    assert_eq!(ask(&logins, 2, "prod", "right"), (true, Proven::Yes));
    assert_eq!(ask(&logins, 1, "prod", "wrong"), (false, Proven::No));
    assert_eq!(ask(&logins, 1, "prod", "wrong"), (true, Proven::No));
    // Nobody by that name costs the same, and the split between name and password counts.
    assert_eq!(ask(&logins, 1, "dev", "right"), (false, Proven::No));
    assert_eq!(ask(&logins, 1, "pro", "dright"), (false, Proven::No));
    // Passwords that are there as such are compared at once, right or wrong, however often they are said.
    for _ in 0..2 * AUTH_FAILURES_MAX {
        assert_eq!(ask(&logins, 1, "plain", "wrong"), (true, Proven::No));
    }
    assert_eq!(ask(&logins, 1, "plain", "right"), (true, Proven::Yes));
}

// proves T9: ten wrong ones a minute for each address, and then not even the right one
#[test]
fn an_address_has_a_budget_of_wrong_passwords() {
    let logins = logins();
    assert_eq!(ask(&logins, 1, "prod", "right"), (false, Proven::Yes));
    for n in 0..AUTH_FAILURES_MAX {
        assert_eq!(ask(&logins, 1, "prod", &format!("guess {n}")), (false, Proven::No));
        // Said again it is no other guess, and a right one is none at all.
        if n + 1 < AUTH_FAILURES_MAX {
            assert_eq!(ask(&logins, 1, "prod", "guess 0"), (true, Proven::No));
            assert_eq!(ask(&logins, 1, "prod", "right"), (true, Proven::Yes));
        }
    }
    assert_eq!(ask(&logins, 1, "prod", "guess more"), (true, Proven::Later));
    assert_eq!(ask(&logins, 1, "prod", "right"), (true, Proven::Later));
    assert_eq!(ask(&logins, 2, "prod", "right"), (true, Proven::Yes), "another address has its own");
}

#[test]
fn a_minute_later_there_is_a_new_budget_and_no_place_is_for_ever() {
    let mut failures = Failures::default();
    let (begun, minute) = (rt::now(), Duration::from_millis(AUTH_FAILURES_MS));
    let address = |n: u32| IpAddr::from(n.to_be_bytes());
    for _ in 0..AUTH_FAILURES_MAX {
        assert!(failures.charge(address(1), begun));
    }
    let just_before = begun + minute - Duration::from_millis(1);
    assert!(!failures.charge(address(1), just_before));
    assert!(failures.is_news(address(1), just_before) && !failures.is_news(address(1), just_before));
    failures.refund(address(1), just_before);
    assert!(failures.charge(address(1), just_before) && failures.is_full(address(1), just_before));
    assert!(failures.charge(address(1), begun + minute) && !failures.is_full(address(1), begun + minute));

    let now = begun + 2 * minute;
    for n in 0..AUTH_ADDRESSES_MAX as u32 {
        assert!(failures.charge(address(n), now));
    }
    // Further ones share what is left: one that guesses is stopped, and hardly anybody with it.
    let guesser = address(1 << 20);
    let charged = (0..20).filter(|_| failures.charge(guesser, now)).count();
    assert_eq!((charged, failures.addresses.len()), (AUTH_FAILURES_MAX as usize, AUTH_ADDRESSES_MAX));
    assert!(failures.is_full(guesser, now));
    let shut_out = (1..=1000).filter(|n| failures.is_full(address(1 << 20 | n), now)).count();
    assert!(shut_out < 100, "{shut_out} of a thousand who did nothing");
    // However many they are, they take no more room, and have no more guesses.
    let charged: usize = (1..=20_000).filter(|n| failures.charge(address(1 << 21 | n), now)).count();
    assert!(charged <= AUTH_SHARED_LEN_MAX * AUTH_FAILURES_MAX as usize, "{charged}");
    assert_eq!((failures.addresses.len(), failures.shared.len()), (AUTH_ADDRESSES_MAX, AUTH_SHARED_LEN_MAX));
    assert!(failures.charge(guesser, now + minute));
    assert_eq!(failures.addresses.len(), 1);

    let v6 = |text: &str| whole(text.parse().expect("an address"));
    assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:1"));
    assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
    assert_eq!(v6("::ffff:192.0.2.1"), v6("192.0.2.1"));
    assert_ne!(v6("192.0.2.1"), v6("192.0.2.2"));
}

#[test]
fn memory_forgets_the_oldest() {
    let mut memory = Memory::default();
    let tag = |n: usize| -> Tag { std::array::from_fn(|i| if i < 8 { n.to_be_bytes()[i] } else { 0 }) };
    for n in 0..=VERIFIED_LEN_MAX {
        memory.insert(tag(n));
        memory.insert(tag(n));
    }
    assert_eq!((memory.known.len(), memory.order.len()), (VERIFIED_LEN_MAX, VERIFIED_LEN_MAX));
    assert!(!memory.known.contains(&tag(0)) && memory.known.contains(&tag(1)));
}

// proves T9: also of passwords that are compared at once
#[test]
fn plain_passwords_are_under_the_same_budget() {
    let logins = logins();
    for n in 0..AUTH_FAILURES_MAX {
        assert_eq!(ask(&logins, 1, "plain", "right"), (true, Proven::Yes));
        // Half of them are held against a key.
        let user = if n % 2 == 0 { "plain" } else { "prod" };
        assert_eq!(ask(&logins, 1, user, &format!("guess {n}")).1, Proven::No);
        assert_eq!(
            ask(&logins, 1, user, &format!("guess {n}")).1,
            match n + 1 {
                AUTH_FAILURES_MAX => Proven::Later,
                _ => Proven::No,
            }
        );
    }
    assert_eq!(ask(&logins, 1, "plain", "right"), (true, Proven::Later));
    assert_eq!(ask(&logins, 1, "prod", "right"), (true, Proven::Later));
    assert_eq!(ask(&logins, 2, "plain", "right"), (true, Proven::Yes), "another address has its own");
    assert_eq!(logins.shared.lock().failures.addresses.len(), 1, "who has not failed takes no place");
}

// proves T9: no answer is by a key that is not there any more, whether it was remembered or is being found out
#[test]
fn logins_are_held_against_the_keys_that_are_there_now() {
    let logins = logins();
    assert_eq!(ask(&logins, 1, "prod", "right"), (false, Proven::Yes));
    assert_eq!(ask(&logins, 1, "prod", "other"), (false, Proven::No));
    logins.renew(credentials("other", 5));
    assert_eq!(ask(&logins, 1, "prod", "right"), (false, Proven::No));
    assert_eq!(ask(&logins, 1, "prod", "other"), (false, Proven::Yes));

    // The same salt, and another one: replaced while the login waits for its thread.
    for (password, salt) in [("right", 5), ("other", 6)] {
        let logins = stuck();
        let (tell, told) = mpsc::channel();
        let then = move |proven| tell.send(proven).expect("it is waited for");
        assert_eq!(logins.check(None, login("prod", "right"), then), None);
        logins.renew(credentials(password, salt));
        Verifier { shared: logins.shared.clone() }.work();
        let want = if password == "right" { Proven::Yes } else { Proven::No };
        assert_eq!(told.try_recv(), Ok(want), "{password}");
        assert_eq!(ask(&logins, 1, "prod", "right"), (true, want), "that is what is remembered");
    }
}

#[test]
fn what_was_found_out_is_forgotten_only_where_a_key_has_changed() {
    let logins = logins();
    assert_eq!(ask(&logins, 1, "prod", "right"), (false, Proven::Yes));
    assert_eq!(ask(&logins, 1, "prod", "wrong"), (false, Proven::No));
    logins.renew(credentials("right", 5));
    assert_eq!(ask(&logins, 1, "prod", "right"), (true, Proven::Yes));
    assert_eq!(ask(&logins, 1, "prod", "wrong"), (true, Proven::No));
    logins.renew(credentials("right", 6));
    assert_eq!(ask(&logins, 1, "prod", "right"), (false, Proven::Yes));
}

#[test]
fn threads_are_there_while_something_waits() {
    let logins = logins();
    assert_eq!(logins.shared.lock().threads, 0);
    for n in 0..3 {
        assert_eq!(ask(&logins, n, "prod", &format!("guess {n}")), (false, Proven::No));
    }
    // Who is told may be in the middle of anything, and its panic is its own.
    let panics = |_| std::panic::resume_unwind(Box::new("of somebody who was told"));
    assert_eq!(logins.check(None, login("prod", "another"), panics), None);
    let begun = Instant::now();
    while logins.shared.lock().threads > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "they never end");
        std::thread::yield_now();
    }
    assert_eq!(ask(&logins, 9, "prod", "right"), (false, Proven::Yes));
}

// Whoever panics takes nobody along: not those who wait for the same login, and not what is queued behind it.
#[test]
fn who_panics_when_told_keeps_no_answer_from_others() {
    let logins = stuck();
    let (tell, told) = mpsc::channel();
    let panics = |_| std::panic::resume_unwind(Box::new("of somebody who was told"));
    let ask = |password: &str, then: Then| {
        assert_eq!(logins.check(None, login("prod", password), then), None);
    };
    let tells = |name: &'static str| -> Then {
        let tell = tell.clone();
        Box::new(move |proven| tell.send((name, proven)).expect("it is waited for"))
    };
    ask("guess", Box::new(panics));
    ask("guess", tells("the same"));
    ask("right", tells("the next"));
    Verifier { shared: logins.shared.clone() }.work();
    let told: Vec<_> = told.try_iter().collect();
    assert_eq!(told, [("the same", Proven::No), ("the next", Proven::Yes)]);
    let shared = logins.shared.lock();
    assert_eq!((shared.queue.len(), shared.waiting.len(), shared.threads), (0, 0, VERIFY_THREADS_MAX - 1));
}

// A thread that cannot be started drops what it would have run, and does so under the lock.
#[test]
fn a_verifier_that_never_ran_counts_nobody_out() {
    let logins = logins();
    let shared = logins.shared.lock();
    drop(verifier(&logins.shared));
    assert_eq!(shared.threads, 0);
}

/// One whose threads do nothing, so that what waits stays where it is.
fn stuck() -> Logins {
    let logins = logins();
    logins.shared.lock().threads = VERIFY_THREADS_MAX;
    logins
}

// proves T9, T19: what waits is bounded, and the same login waits once
#[test]
fn what_waits_is_bounded() {
    let logins = stuck();
    let jobs = || logins.shared.lock().queue.len();
    let ask = |from: u32, password: &str| {
        logins.check(Some(IpAddr::from(from.to_be_bytes())), login("prod", password), |_| ())
    };
    for n in 0..VERIFY_QUEUE_LEN_MAX as u32 {
        assert_eq!(ask(n, &n.to_string()), None);
    }
    assert_eq!(ask(1 << 20, "one more"), Some(Proven::Later));
    assert_eq!(jobs(), VERIFY_QUEUE_LEN_MAX);
    // With the first of its kind.
    for _ in 1..VERIFY_WAITING_MAX {
        assert_eq!(ask(1 << 20, "0"), None);
    }
    assert_eq!(ask(1 << 20, "0"), Some(Proven::Later));
    assert_eq!(jobs(), VERIFY_QUEUE_LEN_MAX);
    // Attempts at the same time are charged before it is known how they end.
    assert_eq!(std::mem::take(&mut logins.shared.lock().queue).len(), VERIFY_QUEUE_LEN_MAX);
    let some = (0..20).filter(|n| ask(7, &format!("parallel {n}")).is_none()).count();
    assert_eq!(some, AUTH_FAILURES_MAX as usize - 1, "one was charged above");
}
