//! SIGTERM and SIGINT, as messages.
//!
//! ```text
//!  first signal  ──▶ a message: stop gracefully
//!  second signal ──▶ exit at once, status 128 + its number (130, 143)
//! ```
//! A thread of its own waits for them, so that a program whose other threads are all stuck can still be ended.

use std::{io, thread};

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
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

/// The thread that waits for signals. Kept to the program's end: dropping this ends the thread, and the signals are
/// then taken and ignored.
pub struct Watch {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

/// Takes SIGTERM and SIGINT over, for the whole process: the first arrives as a message.
///
/// # Errors
/// When the handlers or the thread cannot be set up.
pub fn watch() -> io::Result<(Watch, Receiver<Signal>)> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let handle = signals.handle();
    // One message is all there will ever be: sending it never blocks.
    let (sender, receiver) = bounded(1);
    let thread =
        thread::Builder::new().name("signals".into()).spawn(move || forward(&mut signals, &sender))?;
    Ok((Watch { handle, thread: Some(thread) }, receiver))
}

fn forward(signals: &mut Signals, sender: &Sender<Signal>) {
    let mut asked = false;
    for number in signals.forever() {
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
        let (watch, receiver) = watch().expect("signals can be taken");
        for (i, number) in numbers.split(',').enumerate() {
            let number = number.parse().expect("a number of ours");
            signal_hook::low_level::raise(number).expect("a signal to oneself");
            if i == 0 {
                let want = if number == SIGINT { Signal::Interrupt } else { Signal::Terminate };
                assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(want));
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
}
