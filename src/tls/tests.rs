//! What is taken from files, and which of it is accepted.

use super::*;
use std::path::PathBuf;
use std::time::SystemTime;

/// A directory with a certificate for `localhost` and its key.
fn identity(dir: &Path) -> (Identity, Pin) {
    let identity = Identity { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    let issued = issue(&["localhost".into(), "127.0.0.1".into()], 1, SystemTime::now()).expect("good names");
    issued.write(&identity).expect("nothing is there yet");
    (identity, issued.pin)
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

#[test]
fn a_pin_reads_as_it_is_written() {
    let dir = dir();
    let (identity, pin) = identity(dir.path());
    assert_eq!(pin.to_string().parse(), Ok(pin));
    assert_eq!(pin.to_string().to_ascii_uppercase().replace("SHA256", "sha256").parse(), Ok(pin));
    assert_eq!(format!("sha256//{}", STANDARD.encode(pin.0)).parse(), Ok(pin), "curl's form");
    let certificates = certificates(&identity.cert).expect("it was just written");
    assert_eq!(Pin::of(&certificates[0]), Ok(pin));
    for wrong in ["sha256:é", "sha256:+1", "SHA256:00", "sha256// ", "sha256:00 "] {
        assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
    }
}

// proves T25: the key is for its owner alone, and nothing is overwritten
#[test]
fn a_certificate_is_written_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = dir();
    let (files, pin) = identity(dir.path());
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&files.key), 0o600);
    let other = issue(&["localhost".into()], 1, SystemTime::now()).expect("a good name");
    assert_ne!(other.pin, pin);
    let fault = other.write(&files).expect_err("a key is there");
    assert!(fault.to_string().starts_with(&files.key.display().to_string()), "{fault}");
    // A certificate in the way leaves no key behind.
    let key = dir.path().join("other.pem");
    let fault =
        other.write(&Identity { cert: files.cert.clone(), key: key.clone() }).expect_err("in the way");
    assert!(fault.to_string().starts_with(&files.cert.display().to_string()), "{fault}");
    assert!(!key.exists());
    for (names, days) in [(&["a\u{e4}".to_owned()][..], 1), (&["localhost".to_owned()][..], u32::MAX)] {
        assert!(issue(names, days, SystemTime::now()).is_err(), "{names:?} {days}");
    }
    assert!(issue(&["a".into()], 1, SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(1)).is_err());
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = dir();
    let (files, _) = identity(dir.path());
    #[track_caller]
    fn check(identity: &Identity, client_ca: Option<&Path>, words: [&str; 2]) {
        let fault = Server::new(identity, client_ca, None).err().expect("it cannot be used");
        assert!(words.iter().all(|word| fault.contains(word)), "{fault}: wants {words:?}");
        assert!(!fault.contains('\n'), "{fault:?}");
    }
    assert!(Server::new(&files, Some(&files.cert), None).is_ok());
    let write = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = dir.path().join(name);
        secret_file::create(&path, 0o600, bytes).expect("nothing is there");
        path
    };
    let with_cert = |cert| Identity { cert, key: files.key.clone() };
    let with_key = |key| Identity { cert: files.cert.clone(), key };
    check(&with_cert(dir.path().join("none")), None, ["none", "No such file"]);
    check(&with_cert(write("empty", b"")), None, ["empty", "no certificate in it"]);
    check(&with_cert(files.key.clone()), None, ["key.pem", "no certificate in it"]);
    check(&with_cert(write("cut", b"-----BEGIN CERTIFICATE-----\nAAAA")), None, ["cut", "PEM"]);
    let junk = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(&with_cert(write("junk", junk)), None, ["--tls-cert ", "junk: "]);
    check(&with_key(files.cert.clone()), None, ["cert.pem", "mode"]);
    check(&with_key(write("no-key", b"hello")), None, ["no-key", "--tls-key"]);
    check(&with_key(write("no-key-2", b"hello")), None, ["no-key-2", "no private key"]);
    check(&with_key(dir.path().to_owned()), None, ["not a regular file", ""]);
    check(&files, Some(&dir.path().join("ca")), ["--client-ca ", "ca: No such file"]);
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("it is not there");
    let strange = with_key(identity(&other).0.key);
    check(&strange, None, ["other/key.pem: the key does not belong to the certificate", "--tls-cert "]);
    check(&strange, None, ["--tls-key ", "/cert.pem"]);

    // Limits.
    let one = std::fs::read(&files.cert).expect("it is there");
    assert_eq!(
        certificates(&write("most", &one.repeat(CERTIFICATES_MAX))).expect("not too many").len(),
        CERTIFICATES_MAX
    );
    let fault = certificates(&write("many", &one.repeat(CERTIFICATES_MAX + 1))).expect_err("one too many");
    assert!(fault.contains("257 certificates, at most 256"), "{fault}");
    let fault = certificates(&write("long", &vec![b' '; CERTIFICATES_BYTES_MAX + 1])).expect_err("too long");
    assert!(fault.contains("longer than"), "{fault}");
    check(
        &with_key(write("long-key", &vec![b' '; PRIVATE_KEY_BYTES_MAX + 1])),
        None,
        ["long-key", "longer than"],
    );

    let fault = |trust| Client::new("localhost", &trust, None, None).err();
    assert_eq!(fault(Trust::Roots), None);
    assert_eq!(fault(Trust::File(files.cert.clone())), None);
    assert!(fault(Trust::File(files.key.clone())).is_some_and(|fault| fault.contains("no certificate")));
    let client = Client::new("local host", &Trust::Roots, None, None).expect("read when it is dialed");
    assert!(matches!(client.connect().err(), Some(tls::Error::Name(_))));
}
