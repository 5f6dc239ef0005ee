//! The tunnel under TLS: who is taken for the gateway, who for a client, and that every byte arrives.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest as _, Sha256};

use crate::support::{self, Origin, PasswordFile, Program, Request, Talk, Wire, ok, pattern};

/// A directory of certificates, made by the program itself.
struct Certs(tempfile::TempDir);

fn anyproxy(args: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_anyproxy")).args(args).output();
    command.expect("the program was built")
}

impl Certs {
    fn new() -> Certs {
        Certs(tempfile::tempdir().expect("a directory can be made"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("paths of temporary files are text").to_owned()
    }

    /// Makes `name` and its key, for these names; gives the fingerprint.
    fn issue(&self, name: &str, hosts: &[&str]) -> String {
        let (cert, key) = (self.path(name), self.path(&format!("{name}.key")));
        let mut args = vec!["cert", "--cert", &cert, "--key", &key];
        args.extend(hosts.iter().flat_map(|host| ["--name", host]));
        let output = anyproxy(&args);
        assert!(output.status.success(), "{output:?}");
        let pin = String::from_utf8(output.stdout).expect("it prints text");
        assert!(pin.starts_with("sha256:") && pin.len() == "sha256:\n".len() + 64, "{pin:?}");
        assert_eq!(anyproxy(&["cert", "--show", &cert]).stdout, pin.as_bytes());
        pin.trim_end().to_owned()
    }

    /// Writes what another tool has made.
    fn put(&self, name: &str, cert: &rcgen::Certificate, key: &rcgen::KeyPair) {
        let pem = |label: &str, der: &[u8]| {
            use base64::Engine as _;
            let words = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{words}\n-----END {label}-----\n")
        };
        std::fs::write(self.path(name), pem("CERTIFICATE", cert.der())).expect("it can be written");
        let path: PathBuf = self.path(&format!("{name}.key")).into();
        std::fs::write(&path, pem("PRIVATE KEY", key.serialized_der())).expect("it can be written");
        keep(&path);
    }

    fn flags(&self, name: &str) -> [String; 4] {
        ["--tls-cert".into(), self.path(name), "--tls-key".into(), self.path(&format!("{name}.key"))]
    }
}

fn keep(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

fn gateway(certs: &Certs, name: &str, more: &[&str]) -> Program {
    // Whom it refuses more than once it says to developers alone.
    let levels = "info,anyproxy::gateway=debug";
    support::gateway_that_says(levels, &[&words(&certs.flags(name))[..], more].concat())
}

fn page(request: &Request, wire: &mut Wire) -> Talk {
    wire.send(ok(&request.path));
    Talk::Goes
}

/// A request gets through, once the tunnel is up.
#[track_caller]
fn check_works(gateway: &Program, client: &Program) {
    client.wait(&["event=tun_up", "tls=true"]);
    gateway.wait(&["event=tun_up", "tls=true"]);
    let origin = Origin::http(page);
    let answer = Wire::connect(gateway.addr("http")).get(&origin.url("/through"));
    assert_eq!((answer.code, answer.text().as_str()), (200, "/through"));
}

/// The client says once what is wrong, in these words, and what to do; nothing gets through.
#[track_caller]
fn check_refused(gateway: Program, client: Program, expected: &[&str]) {
    let line = client.wait(&["level=ERROR", "event=tun_auth_fail"]);
    for word in expected {
        assert!(line.contains(word), "{line}\nwants {word:?}");
    }
    // It has come back since, and has not said so again.
    gateway.wait_nth(&["event=tun_auth_fail"], 3);
    assert_eq!(Wire::connect(gateway.addr("http")).get("http://127.0.0.1:9/").code, 503);
    let log = client.stop_but_for(&["event=tun_auth_fail"]);
    assert_eq!(
        log.iter()
            .filter(|line| line.contains("event=tun_auth_fail"))
            .filter(|line| line.contains(" level=ERROR "))
            .count(),
        1
    );
    assert!(!log.iter().any(|line| line.contains("event=tun_up")));
    gateway.stop();
}

// proves T26
#[test]
fn a_gateway_is_known_by_its_authority_or_by_its_key() {
    let certs = Certs::new();
    let pin = certs.issue("gw", &["localhost", "127.0.0.1"]);
    let other = certs.issue("other", &["localhost"]);
    let ca = certs.path("gw");
    let gateway = gateway(&certs, "gw", &[]);
    let allow = ["--allow", "127.0.0.1"];
    for (host, trust) in [
        ("localhost", vec!["--ca", &ca]),
        ("127.0.0.1", vec!["--ca", &ca]),
        ("localhost", vec!["--pin", &pin]),
        // One that is about to come, while the old one is still there.
        ("localhost", vec!["--pin", &other, "--pin", &pin]),
    ] {
        let client = gateway.tls_client(host, &[&trust[..], &allow].concat());
        check_works(&gateway, &client);
        client.stop();
        gateway.wait_nth(&["event=group_empty"], gateway.lines(&["event=group_up"]).len());
    }
    gateway.stop();
}

#[test]
fn a_pinned_key_is_good_under_any_name() {
    let certs = Certs::new();
    let pin = certs.issue("gw", &["gateway.example"]);
    let gateway = gateway(&certs, "gw", &[]);
    let client = gateway.tls_client("127.0.0.1", &["--pin", &pin, "--allow", "127.0.0.1"]);
    check_works(&gateway, &client);
    client.stop();
    gateway.stop();
}

#[test]
fn another_key_than_the_pinned_one_is_refused() {
    let certs = Certs::new();
    let (ours, theirs) = (certs.issue("gw", &["localhost"]), certs.issue("other", &["localhost"]));
    let gateway = gateway(&certs, "gw", &[]);
    let client = gateway.tls_client("localhost", &["--pin", &theirs]);
    check_refused(
        gateway,
        client,
        &["msg=\"TLS: the gateway has the key ", &ours, "no --pin names", "somebody else is answering"],
    );
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let certs = Certs::new();
    certs.issue("gw", &["localhost"]);
    certs.issue("other", &["elsewhere"]);
    let (gateway_one, gateway_two) = (gateway(&certs, "gw", &[]), gateway(&certs, "gw", &[]));
    let client = gateway_one.tls_client("localhost", &["--ca", &certs.path("other")]);
    check_refused(gateway_one, client, &["UnknownIssuer", "--ca", "or its key with --pin"]);
    // Against the public authorities.
    let client = gateway_two.tls_client("localhost", &[]);
    check_refused(gateway_two, client, &["UnknownIssuer", "no public authority vouches for it", "--pin"]);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let certs = Certs::new();
    certs.issue("gw", &["gateway.example"]);
    let gateway = gateway(&certs, "gw", &[]);
    let client = gateway.tls_client("localhost", &["--ca", &certs.path("gw")]);
    check_refused(gateway, client, &["localhost", "gateway.example", "a name that is in its certificate"]);
}

#[test]
fn a_certificate_out_of_its_dates_is_refused() {
    for (from, to, expected) in [(2001, 2002, "needs a new certificate"), (3001, 3002, "clock right?")] {
        let certs = Certs::new();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a good name");
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = rcgen::KeyPair::generate().expect("there are random numbers");
        certs.put("gw", &params.self_signed(&key).expect("it can be signed"), &key);
        let gateway = gateway(&certs, "gw", &[]);
        let client = gateway.tls_client("localhost", &["--ca", &certs.path("gw")]);
        check_refused(gateway, client, &[expected]);
    }
}

// proves T10: optional client certificates, and the group's password besides
#[test]
fn clients_show_a_certificate_where_it_is_asked_for() {
    let certs = Certs::new();
    let pin = certs.issue("gw", &["localhost"]);
    certs.issue("edge", &["edge"]);
    certs.issue("stranger", &["edge"]);
    let password = PasswordFile::new("secret");
    let group = ["--group", "prod", "--password-file", password.path()];
    let gateway = gateway(&certs, "gw", &[&group[..], &["--client-ca", &certs.path("edge")]].concat());
    let start = |name: Option<&str>| {
        let identity = name.map(|name| certs.flags(name));
        let identity = identity.as_ref().map_or(vec![], |flags| words(flags));
        gateway.tls_client("localhost", &[&["--pin", &pin], &group[..], &identity].concat())
    };
    let (none, stranger) = (start(None), start(Some("stranger")));
    none.wait(&["level=ERROR", "event=tun_auth_fail", "CertificateRequired"]);
    stranger.wait(&["level=ERROR", "event=tun_auth_fail", "received fatal alert"]);
    assert_eq!(gateway.lines(&["event=tun_up"]).len(), 0);
    let edge = start(Some("edge"));
    edge.wait(&["event=tun_up"]);
    for client in [none, stranger] {
        client.stop_but_for(&["event=tun_auth_fail"]);
    }
    edge.stop();
    gateway.stop();
}

// proves T26: nothing falls back to plaintext, from either side
#[test]
fn one_side_without_tls_is_no_tunnel() {
    let certs = Certs::new();
    let pin = certs.issue("gw", &["localhost"]);
    let secret = gateway(&certs, "gw", &[]);
    let plain = secret.client_unready(&[]);
    secret.wait(&["event=tun_auth_fail", "the peer does not speak TLS"]);
    plain.wait(&["level=WARN", "event=connect", "before it answered the upgrade; does it want wss://?"]);
    assert!(plain.lines(&["event=tun_up"]).is_empty());
    plain.stop_but_for(&["event=connect"]);
    secret.stop();

    let open = support::gateway(&[]);
    let client = open.tls_client("localhost", &["--pin", &pin]);
    client.wait(&["level=ERROR", "event=tun_auth_fail", "the peer does not speak TLS"]);
    client.stop_but_for(&["event=tun_auth_fail"]);
    open.stop();
}

// proves T10: what can be read on its way is said to be so, once, and only then
#[test]
fn a_tunnel_without_tls_beyond_this_machine_is_warned_of() {
    let certs = Certs::new();
    certs.issue("gw", &["localhost"]);
    let password = PasswordFile::new("secret");
    let start = |addr: &str, more: &[&str]| {
        let listen = ["gateway", "--tunnel", addr, "--http", "127.0.0.1:0"];
        let group = ["--group", "prod", "--password-file", password.path()];
        let gateway = Program::start(&[&listen[..], &group, more].concat());
        gateway.wait(&["event=ready"]);
        let warned = gateway.lines(&["level=WARN", "event=start", "can be read on its way"]).len();
        gateway.stop_but_for(&["can be read on its way"]);
        warned
    };
    assert_eq!(start("0.0.0.0:0", &[]), 1);
    assert_eq!(start("127.0.0.1:0", &[]), 0);
    assert_eq!(start("0.0.0.0:0", &words(&certs.flags("gw"))), 0);
}

// proves S-62 over TLS (B1): whole both ways at once, and streams beside it are served
#[test]
fn a_bulk_transfer_over_tls_arrives_whole() {
    let certs = Certs::new();
    let pin = certs.issue("gw", &["localhost"]);
    let gateway = gateway(&certs, "gw", &[]);
    let client = gateway.tls_client("localhost", &["--pin", &pin, "--allow", "127.0.0.1"]);
    client.wait(&["event=tun_up"]);
    let len = if support::full() { 256 << 20 } else { 6 << 20 };
    let origin = Origin::new(move |mut wire| {
        // Both directions at once: it sends while it reads, and ends with the digest of what came.
        let mut out = wire.writer();
        let sender = std::thread::spawn(move || {
            use std::io::Write as _;
            out.write_all(&pattern(len)).expect("the other side reads");
        });
        let came = wire.take(len);
        sender.join().expect("it does not panic");
        wire.send(Sha256::digest(&came));
        wire.finish();
        wire.read_to_end();
    });
    let users: Vec<_> = (0..3)
        .map(|_| {
            let mut wire = Wire::http_connect(gateway.addr("http"), origin.addr());
            std::thread::spawn(move || {
                let mut out = wire.writer();
                let sender = std::thread::spawn(move || {
                    use std::io::Write as _;
                    out.write_all(&pattern(len)).expect("the other side reads");
                });
                let down = Sha256::digest(wire.take(len));
                sender.join().expect("it does not panic");
                let up = wire.take(32);
                assert_eq!(wire.read_to_end().0, b"");
                let want = Sha256::digest(pattern(len));
                assert_eq!((&down[..], &up[..]), (&want[..], &want[..]));
            })
        })
        .collect();
    let pages = Origin::http(page);
    for n in 0..20 {
        let path = format!("/{n}");
        let answer = Wire::connect(gateway.addr("http")).get(&pages.url(&path));
        assert_eq!((answer.code, answer.text()), (200, path));
    }
    for user in users {
        user.join().expect("every byte arrives");
    }
    gateway.wait_nth(&["event=access", "proto=connect", "end=--"], 3);
    client.stop();
    gateway.stop();
}

#[test]
fn faults_of_certificates_are_faults_of_the_command_line() {
    let certs = Certs::new();
    certs.issue("gw", &["localhost"]);
    let (cert, key) = (certs.path("gw"), certs.path("gw.key"));
    #[track_caller]
    fn check(args: &[&str], status: i32, words: &[&str]) {
        let output = anyproxy(args);
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {line}");
        assert!(words.iter().all(|word| line.contains(word)), "{args:?}: {line}");
    }
    let listen = ["gateway", "--tunnel", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    check(
        &[&listen[..], &["--tls-cert", &cert, "--tls-key", "/nonexistent"]].concat(),
        2,
        &["--tls-key /nonexistent: No such"],
    );
    check(
        &[&listen[..], &["--tls-cert", &key, "--tls-key", &key]].concat(),
        2,
        &["--tls-cert ", "no certificate in it"],
    );
    check(
        &["client", "--gateway", "wss://localhost", "--ca", "/nonexistent"],
        2,
        &["--ca /nonexistent: No such"],
    );
    check(
        &["cert", "--cert", &cert, "--key", &key],
        2,
        &["gw.key: is there already, and is never overwritten"],
    );
    check(&["cert", "--show", &key], 2, &["no certificate in it"]);
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("it is ours");
    check(&[&listen[..], &["--tls-cert", &cert, "--tls-key", &key]].concat(), 2, &["gw.key: mode 0644"]);
}

// proves T29: a certificate is replaced while the gateway runs, and a bad one is not
#[test]
fn a_certificate_is_loaded_again_while_it_runs() {
    let certs = Certs::new();
    let one = certs.issue("one", &["localhost"]);
    let gateway = gateway(&certs, "one", &[]);
    let allow = ["--allow", "127.0.0.1"];
    let client = |pin: &str| gateway.tls_client("localhost", &[&["--pin", pin][..], &allow].concat());
    let first = client(&one);
    first.wait(&["event=tun_up", "tls=true"]);

    let two = certs.issue("two", &["localhost"]);
    let put = |name: &str, as_name: &str| {
        std::fs::copy(certs.path(name), certs.path(as_name)).expect("it can be written");
    };
    // Half of it is none at all.
    put("two", "one");
    gateway.signal("HUP");
    let line = gateway.wait(&["level=ERROR", "event=reload_fail"]);
    assert!(line.contains(&certs.path("one")) && line.contains(&certs.path("one.key")), "{line}");
    let second = client(&one);
    second.wait(&["event=tun_up", "tls=true"]);
    second.stop();

    put("two.key", "one.key");
    gateway.signal("HUP");
    gateway.wait(&["level=INFO", "event=reload", &format!("pin={two}"), "ended=0"]);
    let third = client(&two);
    third.wait(&["event=tun_up", "tls=true"]);
    let stranger = client(&one);
    stranger.wait(&["level=ERROR", "event=tun_auth_fail", "no --pin names"]);
    assert!(first.lines(&["event=tun_down"]).is_empty(), "who is there stays");
    check_works(&gateway, &first);
    stranger.stop_but_for(&["event=tun_auth_fail"]);
    for client in [first, third] {
        client.stop();
    }
    gateway.stop_but_for(&["event=reload_fail"]);
}
