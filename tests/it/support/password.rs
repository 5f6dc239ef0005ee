//! A group's password where the program wants it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

/// A file that its owner alone may read; gone when dropped.
pub(crate) struct PasswordFile(tempfile::NamedTempFile);

impl PasswordFile {
    pub(crate) fn new(password: &str) -> PasswordFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file can be made");
        let mode = std::fs::Permissions::from_mode(0o600);
        file.as_file().set_permissions(mode).expect("it is ours");
        writeln!(file, "{password}").expect("it can be written");
        PasswordFile(file)
    }

    /// Puts another text in its place.
    pub(crate) fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("it can be written");
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().expect("paths of temporary files are text")
    }
}
