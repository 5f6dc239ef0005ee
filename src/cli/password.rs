//! A password from a file: never from the command line, which everyone on the host can read.

use std::fmt;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::limits::PASSWORD_BYTES_MAX;
use crate::secret_file::{self, FileFault};

/// A secret that does not show itself in debug output. Invariant: 1 to [`PASSWORD_BYTES_MAX`] bytes of one line.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Vec<u8>>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Why a file gives no password.
#[derive(Debug)]
pub enum PasswordFault {
    /// The file cannot be read, or is not kept from others.
    File(FileFault),
    /// Nothing but a newline at most.
    Empty,
    /// More than a user can send.
    TooLong,
    /// A second line, or another control character.
    Control,
}

impl fmt::Display for PasswordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordFault::File(fault) => fault.fmt(f),
            PasswordFault::Empty => f.write_str("the file is empty"),
            PasswordFault::TooLong => write!(f, "longer than {PASSWORD_BYTES_MAX} bytes"),
            PasswordFault::Control => f.write_str("more than one line, or a control character in it"),
        }
    }
}

impl Password {
    /// The password in `path`; a trailing newline is not part of it. `credentials` as for [`secret_file::read`].
    ///
    /// # Errors
    /// When the file gives no password, or is not kept from others.
    pub fn read(path: &Path, credentials: Option<&Path>) -> Result<Password, PasswordFault> {
        let bytes =
            secret_file::read(path, credentials, PASSWORD_BYTES_MAX + 2).map_err(|fault| match fault {
                FileFault::TooLong(_) => PasswordFault::TooLong,
                fault => PasswordFault::File(fault),
            })?;
        Password::new(&bytes)
    }

    /// The password that `from` has until its end; a trailing newline is not part of it.
    ///
    /// # Errors
    /// When it gives no password.
    pub fn read_from(from: impl Read) -> Result<Password, PasswordFault> {
        // Room for all of it at once, so that no part is left behind where it grew.
        let mut bytes = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX + 3));
        let read = from.take(PASSWORD_BYTES_MAX as u64 + 2).read_to_end(&mut bytes);
        read.map_err(|error| PasswordFault::File(FileFault::Io(error)))?;
        Password::new(&bytes)
    }

    /// The password in a file's bytes.
    ///
    /// # Errors
    /// When there is none in them.
    pub fn new(bytes: &[u8]) -> Result<Password, PasswordFault> {
        let bytes = bytes.strip_suffix(b"\n").map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line));
        match bytes.len() {
            0 => Err(PasswordFault::Empty),
            n if n > PASSWORD_BYTES_MAX => Err(PasswordFault::TooLong),
            _ if bytes.iter().any(u8::is_ascii_control) => Err(PasswordFault::Control),
            _ => Ok(Password(Zeroizing::new(bytes.to_vec()))),
        }
    }

    /// The secret itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[track_caller]
    fn check(bytes: &[u8], want: Result<&[u8], &str>) {
        match (Password::new(bytes), want) {
            (Ok(password), Ok(want)) => assert_eq!(password.as_bytes(), want),
            (Err(fault), Err(want)) => assert!(fault.to_string().contains(want), "{fault}"),
            (got, want) => panic!("{got:?}, want {want:?}"),
        }
    }

    #[test]
    fn a_password_is_one_line() {
        check(b"secret\n", Ok(b"secret"));
        check(b"secret\r\n", Ok(b"secret"));
        check(b"secret", Ok(b"secret"));
        check(b" pass word ", Ok(b" pass word "));
        check("pä:ss".as_bytes(), Ok("pä:ss".as_bytes()));
        check(b"", Err("empty"));
        check(b"\n", Err("empty"));
        check(b"a\nb\n", Err("more than one line"));
        check(b"a\n\n", Err("more than one line"));
        check(b"a\0", Err("control"));
        check(&[b'x'; PASSWORD_BYTES_MAX], Ok(&[b'x'; PASSWORD_BYTES_MAX]));
        check(&[b'x'; PASSWORD_BYTES_MAX + 1], Err("longer than 255 bytes"));
    }

    #[test]
    fn a_password_does_not_show_itself() {
        let password = Password::new(b"secret").expect("one line");
        assert_eq!(format!("{password:?}"), "Password(..)");
    }

    // T25: a secret that others can read is refused
    #[test]
    fn a_file_open_to_others_is_refused() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = dir.path().join("password");
        std::fs::write(&path, [b"long".repeat(100), b"\n".to_vec()].concat()).expect("a file can be written");
        let read = |mode: u32, credentials: Option<&Path>| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
            Password::read(&path, credentials).map_err(|fault| fault.to_string())
        };
        for mode in [0o644, 0o640, 0o604, 0o660, 0o602] {
            let fault = read(mode, None).expect_err("others can get at it");
            assert!(fault.starts_with(&format!("mode {mode:04o} ")), "{fault}");
        }
        assert_eq!(read(0o600, None), Err("longer than 255 bytes".into()), "even if it ends in a newline");
        std::fs::write(&path, "secret\n").expect("a file can be written");
        let secret = Password::new(b"secret").map_err(|fault| fault.to_string());
        assert_eq!(read(0o600, None), secret);
        assert_eq!(read(0o400, None), secret);
        assert_eq!(read(0o440, Some(dir.path())), secret);
        assert!(read(0o444, Some(dir.path())).is_err());
        assert!(read(0o440, Some(Path::new("/run/credentials/other"))).is_err());

        let fault = |path: &Path| Password::read(path, None).expect_err("no password there").to_string();
        assert!(fault(&dir.path().join("missing")).starts_with("No such file"));
        assert_eq!(fault(dir.path()), "not a regular file");
    }
}
