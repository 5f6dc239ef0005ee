//! Files that their owner alone may read: passwords, and the keys of certificates.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a file gives no secret.
#[derive(Debug)]
pub enum FileFault {
    /// It cannot be opened or read.
    Io(io::Error),
    /// It is a directory, a pipe or a device.
    NotFile,
    /// Others than its owner can read or write it: the permission bits.
    Mode(u32),
    /// It has more bytes than this.
    TooLong(usize),
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileFault::Io(error) => error.fmt(f),
            FileFault::NotFile => f.write_str("not a regular file"),
            FileFault::Mode(mode) => {
                write!(
                    f,
                    "mode {mode:04o} lets others at it; make it readable by its owner alone (chmod 600)"
                )
            }
            FileFault::TooLong(most) => write!(f, "longer than {most} bytes"),
        }
    }
}

/// The directory that the service manager fills with credentials, if it did.
pub fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// What is in `path`, at most `most` bytes. Its memory is cleared when it is dropped.
///
/// Below `credentials`, the directory that systemd fills, only the bits for everyone count: there the service
/// manager may grant its service access through an ACL, whose mask shows up as the group's bits.
///
/// # Errors
/// When it cannot be read, is longer, or is not kept from others.
pub fn read(path: &Path, credentials: Option<&Path>, most: usize) -> Result<Zeroizing<Vec<u8>>, FileFault> {
    let forbidden = if credentials.is_some_and(|dir| path.starts_with(dir)) { 0o007 } else { 0o077 };
    read_with(path, forbidden, most).map(Zeroizing::new)
}

/// As [`read`], for a file that is no secret.
///
/// # Errors
/// When it cannot be read, or is longer.
pub fn read_public(path: &Path, most: usize) -> Result<Vec<u8>, FileFault> {
    read_with(path, 0, most)
}

fn read_with(path: &Path, forbidden: u32, most: usize) -> Result<Vec<u8>, FileFault> {
    // Not to wait for somebody to write into a pipe, which is refused below.
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(FileFault::Io)?;
    // Asked of the open file, so that it is the one read below.
    let meta = file.metadata().map_err(FileFault::Io)?;
    if !meta.is_file() {
        return Err(FileFault::NotFile);
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & forbidden != 0 {
        return Err(FileFault::Mode(mode));
    }
    // Room for all of it at once, so that no part is left behind where it grew.
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(most).min(most) + 1);
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(FileFault::Io)?;
    if bytes.len() > most {
        return Err(FileFault::TooLong(most));
    }
    Ok(bytes)
}

/// Makes a file that was not there before, with these permission bits from its first moment on.
///
/// # Errors
/// When it is there already, or cannot be written.
pub fn create(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        kind @ io::ErrorKind::AlreadyExists => {
            io::Error::new(kind, "is there already, and is never overwritten")
        }
        _ => error,
    })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // A part of it would stand in the way of the whole. That it cannot be removed either says nothing that the first fault does not.
        std::fs::remove_file(path).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    // T25: a secret that others can read is none
    #[test]
    fn a_file_is_made_for_its_owner_and_read_only_while_it_is_kept_so() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = dir.path().join("key");
        create(&path, 0o600, b"secret").expect("it is not there yet");
        assert_eq!(read(&path, None, 6).expect("it is ours")[..], *b"secret");
        assert!(matches!(read(&path, None, 5), Err(FileFault::TooLong(5))));
        let again = create(&path, 0o600, b"other").map_err(|error| error.kind());
        assert_eq!(again, Err(io::ErrorKind::AlreadyExists));
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
        for mode in [0o640, 0o604, 0o660] {
            set(mode).expect("it is ours");
            assert!(matches!(read(&path, None, 6), Err(FileFault::Mode(seen)) if seen == mode));
            assert_eq!(read_public(&path, 6).expect("no secret"), b"secret");
        }
        set(0o440).expect("it is ours");
        assert_eq!(read(&path, Some(dir.path()), 6).expect("the service manager's")[..], *b"secret");
        assert!(matches!(read(&path, Some(Path::new("/nonexistent")), 6), Err(FileFault::Mode(0o440))));
        assert!(matches!(read(dir.path(), None, 6), Err(FileFault::NotFile)));
        assert!(matches!(read(&dir.path().join("none"), None, 6), Err(FileFault::Io(_))));
    }

    // proves T29: who loads its files again is not held up by a pipe that nobody writes into
    #[test]
    fn a_pipe_is_no_file_and_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&path).status();
        assert!(made.expect("it is everywhere").success());
        let (tell, told) = std::sync::mpsc::channel();
        let pipe = path.clone();
        std::thread::spawn(move || tell.send(read(&pipe, None, 6)));
        let read = told.recv_timeout(std::time::Duration::from_secs(60)).expect("it does not wait");
        assert!(matches!(read, Err(FileFault::NotFile)), "{read:?}");
    }
}
