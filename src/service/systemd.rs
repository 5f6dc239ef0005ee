//! What the service manager is told: READY once every listener is bound, RELOADING, STOPPING, and a line of status.
//!
//! Without `NOTIFY_SOCKET` in the environment all of this does nothing. That telling fails is worth a warning and
//! no more: the service itself is well.

use sd_notify::NotifyState;

use crate::limits::STATUS_BYTES_MAX;
use crate::logfmt;

/// Every listener is bound: users may come.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// Files are being loaded again; [`ready`] follows, whatever comes of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!(event = "notify", error:% = error; "the service manager cannot be told"),
    }
}

/// The program is on its way out.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(&one_line(text))]);
}

/// A newline would begin another assignment: whatever is in the text, it stays text.
fn one_line(text: &str) -> String {
    let cut = logfmt::cut(text.as_bytes(), STATUS_BYTES_MAX);
    logfmt::printable(&String::from_utf8_lossy(cut))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!(event = "notify", error:% = error; "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::time::Duration;

    const CHILD: &str = "ANYPROXY_TEST_SYSTEMD";

    /// The service, in the tests below: the variable must be there when the process begins.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_some() {
            ready("listening\nMAINPID=1");
            status(&"ü".repeat(STATUS_BYTES_MAX));
            reloading();
            stopping();
        }
    }

    #[track_caller]
    fn run_child(socket: Option<&std::path::Path>) {
        let mut child = Command::new(std::env::current_exe().expect("a test has a program"));
        child.args(["--exact", "service::systemd::tests::child"]).env(CHILD, "1").env_remove("NOTIFY_SOCKET");
        if let Some(path) = socket {
            child.env("NOTIFY_SOCKET", path);
        }
        let output = child.output().expect("the program can be run");
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn the_manager_is_told_ready_status_and_stopping() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket can be bound");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        run_child(Some(&path));
        let next = || {
            let mut buf = [0; 4096];
            let len = socket.recv(&mut buf).expect("a message was sent");
            String::from_utf8(buf[..len].to_vec()).expect("messages are text")
        };
        assert_eq!(next(), "READY=1\nSTATUS=listening\\x0aMAINPID=1\n");
        assert_eq!(next(), format!("STATUS={}\n", "ü".repeat(STATUS_BYTES_MAX / 2)));
        let reloading = next();
        let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("it says since when");
        assert!(since.trim_end().parse::<u64>().is_ok_and(|since| since > 0), "{reloading}");
        assert_eq!(next(), "STOPPING=1\n");
    }

    #[test]
    fn without_a_manager_or_with_a_lost_one_nothing_happens() {
        run_child(None);
        run_child(Some(std::path::Path::new("/nonexistent/notify")));
    }
}
