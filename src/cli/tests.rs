//! Command lines as tables.

use super::*;
use crate::limits::{HOST_BYTES_MAX, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN};
use crate::proto::derive::Cost;
use crate::proto::keys::Grant;
use crate::times::Idle;
use crate::tls::{Pin, Trust};

fn run(line: &str) -> Result<Command, Stop> {
    parse(std::iter::once("anyproxy").chain(line.split_whitespace()))
}

#[track_caller]
fn check(line: &str, want: Command) {
    assert_eq!(run(line), Ok(want));
}

/// The line is refused in one line that holds each of the words.
#[track_caller]
fn refuse(line: &str, words: &[&str]) {
    match run(line) {
        Err(Stop::Usage(text)) => {
            assert!(text.starts_with("anyproxy: ") && !text.contains(['\n', '\x1b']), "{text:?}");
            assert!(words.iter().all(|word| text.contains(word)), "{text:?} wants {words:?}");
        }
        other => panic!("{other:?}"),
    }
}

fn at(addr: &str) -> SocketAddr {
    addr.parse().expect("an address of ours")
}

#[test]
fn commands_and_their_defaults() {
    let standalone = Standalone {
        http: at("127.0.0.1:8088"),
        socks: at("127.0.0.1:1080"),
        serve: at("127.0.0.1:8080"),
        tunnel: at("127.0.0.1:0"),
    };
    check("standalone", Command::Standalone(standalone.clone()));
    check(
        "standalone --http 127.0.0.1:0 --socks [::1]:0 --serve localhost:9 --tunnel=127.0.0.2:7",
        Command::Standalone(Standalone {
            http: at("127.0.0.1:0"),
            socks: at("[::1]:0"),
            serve: at("127.0.0.1:9"),
            tunnel: at("127.0.0.2:7"),
        }),
    );
    check("serve", Command::Serve(Serve { listen: standalone.serve }));
    check("serve --listen 0.0.0.0:0", Command::Serve(Serve { listen: at("0.0.0.0:0") }));
    check("logs a.log -", Command::Logs(Logs { files: vec!["a.log".into(), "-".into()] }));
    let (tunnel, http) = (at("127.0.0.1:1"), at("127.0.0.1:2"));
    let gateway = Gateway {
        tunnel,
        http,
        socks: None,
        group: None,
        keys: None,
        tls: None,
        streams_max: STREAMS_MAX,
        times: Times::default(),
    };
    check("gateway --tunnel 127.0.0.1:1 --http 127.0.0.1:2", Command::Gateway(gateway.clone()));
    check(
        "gateway --tunnel 127.0.0.1:1 --http 127.0.0.1:2 --socks [::ffff:127.0.0.1]:3",
        Command::Gateway(Gateway { socks: Some(at("[::ffff:127.0.0.1]:3")), ..gateway }),
    );
    let forward =
        |network, port, host: &str, target_port| Forward { network, port, host: host.into(), target_port };
    check(
        "client --gateway ws://gw.example:8443 --name edge-04 --allow *.lan --allow 10.0.0.0/8 --deny x \
         --forward 8000:db.lan:5432 --forward 53:[fd00::1]:53/udp --forward 0:10.0.0.1:22/tcp",
        Command::Client(Client {
            gateways: vec![GatewayUrl { tls: false, host: "gw.example".into(), port: 8443 }],
            replicas: 1,
            tls: None,
            streams_max: STREAMS_MAX,
            group: None,
            name: Some("edge-04".parse().expect("a name")),
            allow: vec!["*.lan".into(), "10.0.0.0/8".into()],
            deny: vec!["x".into()],
            forwards: vec![
                forward(Network::Tcp, 8000, "db.lan", 5432),
                forward(Network::Udp, 53, "fd00::1", 53),
                forward(Network::Tcp, 0, "10.0.0.1", 22),
            ],
            times: Times::default(),
        }),
    );
    check(
        "check --allow *.lan --allowed-hosts 10.0.0.0/8 --forbidden-hosts x --explain A.lan:1 --explain [::1]:2",
        Command::Check(Check {
            allow: vec!["*.lan".into(), "10.0.0.0/8".into()],
            deny: vec!["x".into()],
            explain: ["a.lan:1", "[::1]:2"].map(|text| text.parse().expect("a target of ours")).into(),
        }),
    );
    let replicas = |line: &str| match run(&format!("client --gateway ws://a:1 {line}")) {
        Ok(Command::Client(client)) => (client.gateways.len(), client.replicas),
        other => panic!("{other:?}"),
    };
    assert_eq!(replicas("--gateway ws://b:1"), (2, 2));
    assert_eq!(replicas("--gateway ws://b:1 --gateway ws://a:2"), (3, 2));
    assert_eq!(replicas("--gateway ws://b:1 --replicas 1"), (2, 1));
    assert_eq!(replicas(&format!("--replicas {REPLICAS_MAX}")), (1, REPLICAS_MAX));
    for (url, tls, host, port) in [
        ("ws://h", false, "h", 80),
        ("ws://[::1]:9/", false, "::1", 9),
        ("ws://1.2.3.4:9", false, "1.2.3.4", 9),
        ("wss://h", true, "h", 443),
        ("wss://[::1]:9/", true, "::1", 9),
    ] {
        assert_eq!(url.parse(), Ok(GatewayUrl { tls, host: host.into(), port }));
    }
}

// proves S-65, S-66: 30 s and 30 s, 5 min where it is asked for, by kind of stream; and what is asked for is what is set
#[test]
fn times_are_configurable_and_by_kind() {
    use std::time::Duration;
    let secs = Duration::from_secs;
    let default = Times::default();
    assert_eq!((default.connect, default.write_stall, default.idle), (secs(30), secs(30), Idle::default()));
    let gateway = |line: &str| match run(&format!("gateway --tunnel 127.0.0.1:1 --http 127.0.0.1:2 {line}")) {
        Ok(Command::Gateway(gateway)) => gateway.times,
        other => panic!("{other:?}"),
    };
    let client = |line: &str| match run(&format!("client --gateway ws://h:1 {line}")) {
        Ok(Command::Client(client)) => client.times,
        other => panic!("{other:?}"),
    };
    assert_eq!((gateway(""), client("")), (default, default));
    let stall = Times { write_stall: Duration::from_millis(1500), ..default };
    assert_eq!(gateway("--write-stall-timeout 1s500ms"), stall);
    assert_eq!(client("--write-stall-timeout 1500ms"), stall);
    assert_eq!(client("--connect-timeout 2min"), Times { connect: secs(120), ..default });
    let idle = |http, socks, forward| Idle { http, socks, forward };
    let five = Some(secs(300));
    assert_eq!(gateway("--idle-timeout 5min").idle, idle(five, five, five));
    assert_eq!(gateway("--idle-timeout socks=2min").idle, idle(None, Some(secs(120)), None));
    assert_eq!(
        gateway("--idle-timeout http=9s --idle-timeout 5min --idle-timeout forward=8s").idle,
        idle(Some(secs(9)), five, Some(secs(8)))
    );
    assert_eq!(gateway("--idle-timeout 5min --idle-timeout forward=never").idle, idle(five, five, None));
    assert_eq!(gateway("--idle-timeout never --idle-timeout http=5min").idle, idle(five, None, None));
    refuse("client --gateway ws://h:1 --connect-timeout never", &["--connect-timeout", "want a time"]);
    let before = "client --gateway ws://h:1 --connect-timeout";
    refuse(&format!("{before} 30"), &["--connect-timeout", "want a time such as 30s or 5min"]);
    refuse(&format!("{before} {}ms", TIMEOUT_MS_MIN - 1), &["--connect-timeout", "from 100ms to 7days"]);
    refuse(&format!("{before} {}ms", TIMEOUT_MS_MAX + 1), &["--connect-timeout", "from 100ms to 7days"]);
    let before = "gateway --tunnel 127.0.0.1:1 --http 127.0.0.1:2 --idle-timeout";
    refuse(&format!("{before} ftp=5s"), &["--idle-timeout", "neither http, socks nor forward"]);
    refuse(&format!("{before} socks=0s"), &["--idle-timeout", "from 100ms"]);
}

#[test]
fn faults_are_named_in_one_line() {
    refuse("", &["no command", "standalone"]);
    refuse("passwd", &["passwd: no command given (user, client); see anyproxy passwd --help"]);
    refuse("fly", &["'fly'", "; see anyproxy --help"]);
    refuse("gatewya", &["'gatewya'", ", did you mean gateway?; see anyproxy --help"]);
    refuse("standalone extra", &["'extra'"]);
    refuse(
        "standalone --htpp 127.0.0.1:1",
        &["'--htpp'", ", did you mean --http?; see anyproxy standalone --help"],
    );
    refuse("client --gateway ws://h:1 --idle-timeout 5s", &["--idle-timeout belongs to gateway"]);
    refuse("client --gateway ws://h:1 --password x", &["passwords come from files: --password-file;"]);
    refuse("passwd user a --password x", &["passwords come from files: --password-file;"]);
    refuse("serve --password x", &["passwords come from files;"]);
    refuse("client --gateway ws://h:1 --allow http://h", &["--allow", "no scheme in a pattern"]);
    refuse("standalone --http", &["--http"]);
    refuse("standalone --http 127.0.0.1", &["'127.0.0.1'", "--http", "want ADDRESS:PORT"]);
    refuse("standalone --http example.com:80", &["--http", "want ADDRESS:PORT"]);
    refuse("standalone --http 127.0.0.1:65536", &["--http", "127.0.0.1:65536"]);
    refuse("client --gateway ws://h:1 --group g --password-file \x1b[2J", &[r"--password-file \x1b[2J: No"]);
    refuse("gateway --http 127.0.0.1:1", &["--tunnel <ADDR>"]);
    refuse("client", &["--gateway"]);
    refuse(
        "client --gateway ws://h:1 --gateway ws://i:1 --gateway ws://h:1",
        &["--gateway h:1: given twice"],
    );
    refuse("client --gateway ws://h:1 --replicas 0", &["--replicas", "1..=64"]);
    refuse("client --gateway ws://h:1 --replicas 65", &["--replicas", "1..=64"]);
    let many: String = (0..=GATEWAYS_MAX).map(|n| format!(" --gateway ws://h{n}")).collect();
    refuse(&format!("client{many}"), &["--gateway", "17 times, at most 16"]);
    refuse("client --gateway http://h:1", &["--gateway", "\"http\""]);
    refuse("client --gateway h:1", &["--gateway", "want wss://HOST[:PORT] or ws://HOST[:PORT]"]);
    refuse("client --gateway ws://u:p@h:1", &["--gateway", "no user or password"]);
    refuse("client --gateway ws://h:1/x", &["--gateway", "no path"]);
    refuse("client --gateway ws://h:0", &["port \"0\""]);
    refuse("client --gateway ws://:1", &["\"\" is not a host name"]);
    refuse("client --gateway ws://[::1:1", &["'[' without ']'"]);
    refuse("client --gateway ws://h:1 --name a:b", &["--name", "':'"]);
    refuse(&format!("client --gateway ws://h:1 --name {}", "x".repeat(65)), &["--name", "1 to 64"]);
    for (forward, word) in [
        ("80", "want PORT:HOST:PORT"),
        ("80:h", "want PORT:HOST:PORT"),
        ("x:h:1", "port \"x\""),
        ("70000:h:1", "port \"70000\""),
        ("80:h:0", "port \"0\""),
        ("80:h:1/sctp", "\"sctp\" is neither udp nor tcp"),
        ("80:a_b!:1", "not a host name"),
        ("80:[x]:1", "not an IPv6 address"),
        ("80:::1:1", "not a host name"),
    ] {
        refuse(&format!("client --gateway ws://h:1 --forward {forward}"), &["--forward", word]);
    }
    let (longest, pattern) = ("h".repeat(HOST_BYTES_MAX), "p".repeat(HOST_BYTES_MAX));
    assert!(run(&format!("client --gateway ws://{longest} --allow {pattern}")).is_ok());
    refuse(&format!("client --gateway ws://{longest}h"), &["not a host name"]);
    refuse(&format!("client --gateway ws://h --deny {pattern}p"), &["--deny", "1 to 253"]);
    refuse("check --explain h", &["--explain", "there is no port"]);
    refuse("check --explain h:0", &["--explain", "1 to 65535"]);
    refuse("check --explain a..b:1", &["--explain", "not a host name"]);
    refuse(&format!("check{}", " --explain h:1".repeat(CLI_RULES_MAX + 1)), &["--explain", "1025 times"]);
    refuse("logs", &["<FILE>..."]);
    // Halves of a credential.
    refuse("client --gateway ws://h:1 --group g", &["--password-file"]);
    refuse("client --gateway ws://h:1 --password-file f", &["--group"]);
    refuse(
        "client --gateway ws://h:1 --group g --password-file /nonexistent/p",
        &["--password-file /nonexistent/p: No such file"],
    );
    let many = " --allow x".repeat(CLI_RULES_MAX + 1);
    refuse(&format!("client --gateway ws://h:1{many}"), &["--allow", "1025 times", "1024"]);
}

#[test]
fn streams_are_between_one_and_the_limit() {
    let gateway = "gateway --tunnel 127.0.0.1:1 --http 127.0.0.1:2 --streams-max";
    let streams = |line: &str| match run(line) {
        Ok(Command::Gateway(Gateway { streams_max, .. }) | Command::Client(Client { streams_max, .. })) => {
            streams_max
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(streams(&format!("{gateway} 1")), 1);
    assert_eq!(streams("client --gateway ws://h --streams-max 16384"), STREAMS_MAX);
    refuse(&format!("{gateway} 0"), &["--streams-max", "0"]);
    refuse(&format!("{gateway} 16385"), &["--streams-max", "1..=16384"]);
}

// T26: there is no flag that switches verification off, and none that is ignored
#[test]
fn tls_is_asked_for_in_full_or_not_at_all() {
    let pin = format!("sha256:{}", "0aF9".repeat(16));
    let tls = |line: &str| match run(&format!("client --gateway {line}")) {
        Ok(Command::Client(Client { tls, .. })) => tls,
        other => panic!("{other:?}"),
    };
    let identity = || Identity { cert: "c".into(), key: "k".into() };
    let trusts = |trust| Some(ClientTls { trust, identity: None });
    assert_eq!(tls("ws://h"), None);
    assert_eq!(tls("wss://h"), trusts(Trust::Roots));
    assert_eq!(tls("wss://h --ca f"), trusts(Trust::File("f".into())));
    let parsed = || pin.parse::<Pin>().expect("64 digits");
    assert_eq!(tls(&format!("wss://h --pin {pin}")), trusts(Trust::Pins(vec![parsed()])));
    let shown = format!("wss://h --pin {pin} --pin {pin} --tls-cert c --tls-key k");
    let both = ClientTls { trust: Trust::Pins(vec![parsed(); 2]), identity: Some(identity()) };
    assert_eq!(tls(&shown), Some(both));

    refuse(&format!("client --gateway wss://h --ca f --pin {pin}"), &["--ca", "--pin"]);
    refuse("client --gateway ws://h --ca f", &["--ca: ", "wss://"]);
    refuse(&format!("client --gateway ws://h --pin {pin}"), &["--pin: ", "wss://"]);
    refuse("client --gateway ws://h --tls-cert c --tls-key k", &["--tls-cert: ", "wss://"]);
    refuse("client --gateway wss://h --tls-cert c", &["--tls-key"]);
    refuse(
        &format!("client --gateway wss://h{}", format!(" --pin {pin}").repeat(17)),
        &["--pin", "17", "16"],
    );
    let short = "0".repeat(63);
    for wrong in
        ["", "sha256:", "sha1:00", &format!("sha256:{short}"), &format!("sha256:{short}g"), "sha256//AA=="]
    {
        refuse(&format!("client --gateway wss://h --pin={wrong}"), &["--pin", "64 hexadecimal digits"]);
    }
    refuse("client --gateway wss://h --insecure", &["'--insecure'"]);

    let gateway = "gateway --tunnel 127.0.0.1:1 --http 127.0.0.1:2";
    match run(&format!("{gateway} --tls-cert c --tls-key k --client-ca f")) {
        Ok(Command::Gateway(Gateway { tls, .. })) => {
            assert_eq!(tls, Some(GatewayTls { identity: identity(), client_ca: Some("f".into()) }));
        }
        other => panic!("{other:?}"),
    }
    refuse(&format!("{gateway} --tls-cert c"), &["--tls-key"]);
    refuse(&format!("{gateway} --tls-key k"), &["--tls-cert"]);
    refuse(&format!("{gateway} --client-ca f"), &["--tls-cert"]);
}

#[test]
fn a_certificate_has_names_and_an_end() {
    let identity = |cert: &str, key: &str| Identity { cert: cert.into(), key: key.into() };
    let issue = |names: &[&str], days, identity| {
        let names = names.iter().map(|&name| name.into()).collect();
        Command::Cert(Cert::Issue { names, days, identity })
    };
    let files = || identity("cert.pem", "key.pem");
    check("cert", issue(&["localhost", "127.0.0.1", "::1"], 365, files()));
    check(
        "cert --name a --name 10.0.0.1 --days 3650 --cert c --key k",
        issue(&["a", "10.0.0.1"], 3650, identity("c", "k")),
    );
    check("cert --show c", Command::Cert(Cert::Show("c".into())));
    refuse("cert --show c --name a", &["--show", "--name"]);
    refuse("cert --days 0", &["--days"]);
    refuse("cert --days 3651", &["--days", "1..=3650"]);
    refuse(&format!("cert{}", " --name a".repeat(65)), &["--name", "65", "64"]);
    check("cert --name *.a.example", issue(&["*.a.example"], 365, files()));
    let spaced = parse(["anyproxy", "cert", "--name", "a b"]);
    assert!(matches!(&spaced, Err(Stop::Usage(line)) if line.contains("--name \"a b\": ")), "{spaced:?}");
    refuse("cert --name a --name *", &["--name \"*\": "]);
    refuse("cert --cert same --key same", &["--cert, --key: one file cannot be both, same"]);
}

// T25: no flag takes a password
#[test]
fn a_key_is_somebodys_and_its_password_is_in_a_file() {
    let name = |text: &str| text.parse::<Name>().expect("a name");
    let file = || PasswordFrom::File("p".into());
    check(
        "passwd user prod --password-file p",
        Command::Passwd(Passwd { whose: Whose::User(name("prod")), password: file(), cost: Cost::default() }),
    );
    let grant = Grant::parse("prod,dev", "8000,9000-9100").expect("good lists");
    check(
        "passwd client edge04 --group prod --group dev --port 8000 --port 9000-9100 --generate p --memory-kib 1024 --passes 1",
        Command::Passwd(Passwd {
            whose: Whose::Client(name("edge04"), grant),
            password: PasswordFrom::Generate("p".into()),
            cost: Cost::new(1024, 1, 1).expect("the least"),
        }),
    );
    refuse("passwd user prod", &["--password-file", "--generate"]);
    refuse("passwd user prod --password-file p --generate q", &["--generate"]);
    refuse("passwd user prod secret --password-file p", &["'secret'"]);
    refuse("passwd user prod --password secret", &["--password"]);
    refuse("passwd client edge04 --password-file p", &["--group"]);
    refuse("passwd client edge04 --group a --port x --password-file p", &["--port", "neither a port"]);
    let reversed = "passwd client edge04 --group a --port 2-1 --password-file p";
    refuse(reversed, &["passwd: --port: \"2-1\" is neither a port nor LOW-HIGH with the lower one first"]);
    refuse("passwd user prod --password-file p --memory-kib 1023", &["--memory-kib"]);
    refuse("passwd user prod --password-file p --passes 17", &["--passes"]);
    match run("gateway --tunnel 0.0.0.0:1 --http 0.0.0.0:2 --keys k") {
        Ok(Command::Gateway(Gateway { keys, group: None, .. })) => assert_eq!(keys, Some("k".into())),
        other => panic!("{other:?}"),
    }
}

// T7: no open proxy by accident
#[test]
fn listeners_for_everyone_need_a_group() {
    refuse("standalone --http 0.0.0.0:8088", &["--http 0.0.0.0:8088", "loopback"]);
    refuse("standalone --tunnel [::]:1", &["--tunnel [::]:1", "loopback"]);
    let loopback = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
    for open in 0..3 {
        let mut addrs = loopback;
        addrs[open] = "192.0.2.1:9";
        let line = format!("gateway --tunnel {} --http {} --socks {}", addrs[0], addrs[1], addrs[2]);
        refuse(&line, &["192.0.2.1:9", "--group"]);
    }

    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("password");
    std::fs::write(&path, "secret\n").expect("a file can be written");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    let line =
        format!("gateway --tunnel 0.0.0.0:1 --http 0.0.0.0:2 --group g --password-file {}", path.display());
    match run(&line) {
        Ok(Command::Gateway(Gateway { group: Some(group), .. })) => {
            assert_eq!((group.name.as_str(), group.password.as_bytes()), ("g", &b"secret"[..]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn help_and_version_are_shown() {
    for line in [
        "--help",
        "-h",
        "gateway --help",
        "client --help",
        "standalone --help",
        "help",
        "help cert",
        "--version",
        "-V",
    ] {
        match run(line) {
            Err(Stop::Show(text)) => assert!(text.contains("anyproxy"), "{text}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    let version = format!("anyproxy-gateway {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run("gateway --version"), Err(Stop::Show(version)));
    assert_eq!(run("--version"), Err(Stop::Show(format!("anyproxy {}\n", env!("CARGO_PKG_VERSION")))));
}
