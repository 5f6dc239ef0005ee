//! Slots that are taken, left and taken again, and events that come too late.

use std::collections::VecDeque;
use std::sync::Arc;

use super::*;
use crate::shuttle_tests::explore;
use crate::sync::{Mutex, thread};

/// Tenants come and go while the kernel tells of them: an event reaches the tenant of which it tells, or nobody.
fn late_events() {
    let table = Arc::new(Mutex::new(Table::new()));
    let events = Arc::new(Mutex::new(VecDeque::new()));
    let tenants: Vec<_> = (0..2u32)
        .map(|name| {
            let (table, events) = (table.clone(), events.clone());
            thread::spawn(move || {
                for round in 0..2 {
                    let tenant = (name, round);
                    let token = table.lock().insert(tenant);
                    events.lock().push_back((token.to_mio(), tenant));
                    assert_eq!(table.lock().remove(token), Some(tenant));
                }
            })
        })
        .collect();
    let leader = {
        let (table, events) = (table.clone(), events.clone());
        thread::spawn(move || {
            let mut seen = 0;
            while seen < 4 {
                let Some((token, tenant)) = events.lock().pop_front() else {
                    thread::yield_now();
                    continue;
                };
                seen += 1;
                let found = table.lock().find(Token::from_mio(token)).copied();
                assert!(found.is_none_or(|found| found == tenant), "{tenant:?}'s event reached {found:?}");
            }
        })
    };
    for thread in tenants.into_iter().chain([leader]) {
        thread.join().expect("no panic");
    }
    assert_eq!(table.lock().iter().count(), 0);
}

// proves L-24 (the table's part)
#[test]
fn shuttle_late_events() {
    explore("late events", late_events);
}
