//! SIGTERM, SIGINT and SIGHUP, as messages.
//!
//! ```text
//!  first SIGTERM, SIGINT  ──▶ a message: stop gracefully
//!  second                 ──▶ exit at once, status 128 + its number (130, 143)
//!  SIGHUP, to load again  ──▶ a message: load again; those that come before it is heard are one
//!  SIGHUP, to stop        ──▶ the first one as SIGTERM, further ones nothing: terminal and shell may each send one
//! ```
//! SIGHUP has two meanings, and no sender says which. A terminal sends it when it goes away, and a program that was started in it is
//! expected to end; an operator or a service manager sends it for files to be loaded again, and ending is the last thing that is
//! expected then. See [`Hangup`].
//!
//! A thread of its own waits for them, so that a program whose other threads are all stuck can still be ended.

use std::io::{self, IsTerminal as _};
use std::thread;

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
    /// The terminal itself, which is gone.
    Hangup,
}

impl Signal {
    /// `SIGTERM`, `SIGINT` or `SIGHUP`.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Terminate => "SIGTERM",
            Signal::Interrupt => "SIGINT",
            Signal::Hangup => "SIGHUP",
        }
    }
}

/// What SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// Files are to be loaded again.
    Reload,
    /// The terminal is gone, and the program is to stop.
    Stop,
}

impl Hangup {
    /// What it means to a program that loads nothing again: [`Hangup::Stop`] where standard input is a terminal. Services have none, nor
    /// has what `nohup` started.
    pub fn of_stdin() -> Hangup {
        if io::stdin().is_terminal() { Hangup::Stop } else { Hangup::Reload }
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

/// Takes the three signals over, for the whole process: they arrive as messages.
///
/// # Errors
/// When the handlers or the thread cannot be set up.
pub fn watch(hangup: Hangup) -> io::Result<(Watch, Wishes)> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let handle = signals.handle();
    // Sending never blocks: to stop is said once, and to load again only where that is not waiting to be heard.
    let ((sender, stop), (reloader, reload)) = (bounded(1), bounded(1));
    let thread = thread::Builder::new().name("signals".into());
    let thread = thread.spawn(move || forward(&mut signals, hangup, &sender, &reloader))?;
    Ok((Watch { handle, thread: Some(thread) }, Wishes { stop, reload }))
}

fn forward(signals: &mut Signals, hangup: Hangup, sender: &Sender<Signal>, reloader: &Sender<()>) {
    let mut asked = false;
    for number in signals.forever() {
        let signal = match (number, hangup) {
            (SIGHUP, Hangup::Reload) => {
                // One that waits is heard after this one came, so it stands for both.
                reloader.try_send(()).ok();
                continue;
            }
            (SIGHUP, Hangup::Stop) if asked => continue,
            (SIGHUP, Hangup::Stop) => Signal::Hangup,
            (SIGINT, _) => Signal::Interrupt,
            _ => Signal::Terminate,
        };
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
    const HANGUP: &str = "ANYPROXY_TEST_HANGUP";

    /// The process that gets the signals, in the test below: signals are for a whole process, and end this one.
    #[test]
    fn child() {
        let Ok(numbers) = std::env::var(CHILD) else { return };
        let numbers: Vec<i32> =
            numbers.split(',').map(|number| number.parse().expect("a number of ours")).collect();
        let stops = std::env::var(HANGUP).is_ok_and(|meaning| meaning == "stop");
        let (watch, wishes) =
            watch(if stops { Hangup::Stop } else { Hangup::Reload }).expect("signals can be taken");
        let mut asked = false;
        for number in numbers {
            signal_hook::low_level::raise(number).expect("a signal to oneself");
            if number == SIGHUP && stops {
                if !std::mem::replace(&mut asked, true) {
                    assert_eq!(wishes.stop.recv_timeout(Duration::from_secs(10)), Ok(Signal::Hangup));
                }
            } else if number == SIGHUP {
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
        check_where("reload", numbers, want);
    }

    #[track_caller]
    fn check_where(hangup: &str, numbers: &[i32], want: i32) {
        let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
        let status = Command::new(std::env::current_exe().expect("a test has a program"))
            .args(["--exact", "service::signals::tests::child"])
            .env(CHILD, numbers.join(","))
            .env(HANGUP, hangup)
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
    // proves S-47: a terminal that goes may say so twice, and so may its shell; none of it cuts the stop short
    #[test]
    fn a_hangup_that_is_to_stop_asks_once() {
        check_where("stop", &[SIGHUP], 77);
        check_where("stop", &[SIGHUP, SIGHUP, SIGTERM], 143);
        check_where("stop", &[SIGTERM, SIGHUP, SIGTERM], 143);
        check_where("stop", &[SIGHUP, SIGINT], 130);
    }
}
