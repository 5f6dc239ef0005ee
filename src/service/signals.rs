//! SIGTERM and SIGINT, as messages; and SIGHUP, where there is something to load again.
//!
//! ```text
//!  first SIGTERM, SIGINT  ──▶ a message: stop gracefully
//!  second                 ──▶ exit at once, status 128 + its number (130, 143)
//!  SIGHUP                 ──▶ a message: load again; those that come before it is heard are one
//! ```
//! In a role that never loads anything again SIGHUP does what it always does, which is to end the process.
//!
//! A thread of its own waits for them, so that a program whose other threads are all stuck can still be ended.

use std::{io, thread};

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// Who asked the program to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The service manager, or `kill`.
    Terminate,
    /// Somebody at the terminal.
    Interrupt,
}

impl Signal {
    /// `SIGTERM` or `SIGINT`.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Terminate => "SIGTERM",
            Signal::Interrupt => "SIGINT",
        }
    }
}

/// What somebody wants of the program.
pub struct Wishes {
    /// That it stops. One message is all there will ever be.
    pub stop: Receiver<Signal>,
    /// That it loads its files again.
    pub reload: Receiver<()>,
}

/// The thread that waits for signals. Kept to the program's end: dropping this ends the thread, and the signals are
/// then taken and ignored.
pub struct Watch {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

/// Takes SIGTERM and SIGINT over, for the whole process, and SIGHUP if it `reloads`: they arrive as messages.
///
/// # Errors
/// When the handlers or the thread cannot be set up.
pub fn watch(reloads: bool) -> io::Result<(Watch, Wishes)> {
    let numbers = [SIGTERM, SIGINT, SIGHUP];
    let mut signals = Signals::new(&numbers[..if reloads { 3 } else { 2 }])?;
    let handle = signals.handle();
    // Sending never blocks: to stop is said once, and to load again only where that is not waiting to be heard.
    let ((sender, stop), (reloader, reload)) = (bounded(1), bounded(1));
    let thread = thread::Builder::new().name("signals".into());
    let thread = thread.spawn(move || forward(&mut signals, &sender, &reloader))?;
    Ok((Watch { handle, thread: Some(thread) }, Wishes { stop, reload }))
}

fn forward(signals: &mut Signals, sender: &Sender<Signal>, reloader: &Sender<()>) {
    let mut asked = false;
    for number in signals.forever() {
        if number == SIGHUP {
            // One that waits is heard after this one came, so it stands for both.
            reloader.try_send(()).ok();
            continue;
        }
        let signal = if number == SIGINT { Signal::Interrupt } else { Signal::Terminate };
        // With nobody left to listen, nothing would stop gracefully either.
        if asked || sender.send(signal).is_err() {
            signal_hook::low_level::exit(128 + number);
        }
        asked = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.close();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!(event = "signals"; "the signal thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    const CHILD: &str = "ANYPROXY_TEST_SIGNALS";

    /// The process that gets the signals, in the test below: signals are for a whole process, and end this one.
    #[test]
    fn child() {
        let Ok(numbers) = std::env::var(CHILD) else { return };
        let numbers: Vec<i32> =
            numbers.split(',').map(|number| number.parse().expect("a number of ours")).collect();
        let (watch, wishes) = watch(numbers.contains(&SIGHUP)).expect("signals can be taken");
        let mut asked = false;
        for number in numbers {
            signal_hook::low_level::raise(number).expect("a signal to oneself");
            if number == SIGHUP {
                assert_eq!(wishes.reload.recv_timeout(Duration::from_secs(10)), Ok(()));
            } else if !std::mem::replace(&mut asked, true) {
                let want = if number == SIGINT { Signal::Interrupt } else { Signal::Terminate };
                assert_eq!(wishes.stop.recv_timeout(Duration::from_secs(10)), Ok(want));
            } else {
                thread::sleep(Duration::from_secs(10));
                panic!("the second signal ends the process");
            }
        }
        drop(watch);
        std::process::exit(77);
    }

    #[track_caller]
    fn check(numbers: &[i32], want: i32) {
        let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
        let status = Command::new(std::env::current_exe().expect("a test has a program"))
            .args(["--exact", "service::signals::tests::child"])
            .env(CHILD, numbers.join(","))
            .output()
            .expect("the program can be run")
            .status;
        assert_eq!(status.code(), Some(want));
    }

    // proves S-47 (asking twice is not an error) and T29: the second signal means now
    #[test]
    fn the_first_signal_asks_and_the_second_ends() {
        check(&[SIGTERM], 77);
        check(&[SIGINT], 77);
        check(&[SIGTERM, SIGTERM], 143);
        check(&[SIGTERM, SIGINT], 130);
    }

    // proves T29: SIGHUP is no wish to stop, however often it comes, and does not hide one
    #[test]
    fn a_hangup_asks_to_load_again() {
        check(&[SIGHUP, SIGHUP, SIGTERM, SIGHUP], 77);
        check(&[SIGHUP, SIGTERM, SIGTERM], 143);
    }
}
