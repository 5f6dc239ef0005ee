//! Every interleaving of connections that come and go, and of the one who waits for the last.

use super::*;
use crate::sync::checked::explore;

// proves L-29 (the count's part): a wait that missed the last one to leave would never end.
#[test]
fn loom_the_last_to_leave_ends_the_wait() {
    explore(|| {
        let live = Live::new(2, 0, std::time::Duration::MAX);
        let leavers: Vec<_> = (0..2)
            .map(|_| {
                assert!(live.enter().is_some());
                let live = live.clone();
                loom::thread::spawn(move || live.leave())
            })
            .collect();
        assert!(live.wait_until_none(Instant::now()));
        assert_eq!(live.count(), 0);
        assert!(live.close());
        for leaver in leavers {
            leaver.join().expect("no panic");
        }
    });
}

// One that is refused stands in the count for a moment, and whoever leaves before it leaves the notification to it.
#[test]
fn loom_one_that_is_refused_does_not_take_the_last_ones_notification_along() {
    explore(|| {
        let live = Live::new(1, 0, std::time::Duration::MAX);
        assert!(live.enter().is_some());
        let leaver = {
            let live = live.clone();
            loom::thread::spawn(move || live.leave())
        };
        let comer = {
            let live = live.clone();
            loom::thread::spawn(move || {
                if live.enter().is_some() {
                    live.leave();
                }
            })
        };
        assert!(live.wait_until_none(Instant::now()));
        leaver.join().expect("no panic");
        comer.join().expect("no panic");
        assert_eq!(live.count(), 0);
    });
}

// Nobody comes in after the close, and a close that was granted had counted everybody.
#[test]
fn loom_a_close_and_a_comer_exclude_each_other() {
    explore(|| {
        let live = Live::new(1, 0, std::time::Duration::MAX);
        let comer = {
            let live = live.clone();
            loom::thread::spawn(move || live.enter().is_some())
        };
        let closed = live.close();
        let entered = comer.join().expect("no panic");
        assert!(!(closed && entered), "a connection in a count that is closed");
        if closed {
            assert_eq!(live.enter(), None);
            assert_eq!(live.count(), 0);
        }
    });
}
