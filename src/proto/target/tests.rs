use super::*;

#[track_caller]
fn check(text: &str, want: &str) {
    let target: Target = text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(target.to_string(), want, "{text:?}");
    assert_eq!(want.parse(), Ok(target), "the one spelling of {text:?} names the same target");
}

#[track_caller]
fn check_refused(text: &str, want: TargetError) {
    assert_eq!(text.parse::<Target>(), Err(want), "{text:?}");
}

#[test]
fn a_target_has_one_spelling() {
    check("example.com:443", "example.com:443");
    check("EXAMPLE.Com.:443", "example.com:443");
    check("_sip._tcp.example.com:5060", "_sip._tcp.example.com:5060");
    check("xn--bcher-kva.example:80", "xn--bcher-kva.example:80");
    check("localhost:1", "localhost:1");
    check("1password.com:65535", "1password.com:65535");
    check("0xcafe.cafe:80", "0xcafe.cafe:80");
    check("192.0.2.7:080", "192.0.2.7:80");
    check("[2001:DB8::1]:80", "[2001:db8::1]:80");
    check("[::ffff:127.0.0.1]:80", "127.0.0.1:80");
}

// T5: no spelling of an address gets past the rules.
#[test]
fn numbers_are_what_inet_aton_makes_of_them() {
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.0.1",
        "127.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0X7F000001",
        "0177.0.0.1",
        "0x7f.1",
        "0x7f.0.0.0x1",
        "127.0x0.00.01",
        "0000177.1",
    ] {
        check(&format!("{host}:80"), "127.0.0.1:80");
    }
    check("10.256:80", "10.0.1.0:80");
    check("0:80", "0.0.0.0:80");
    check("4294967295:80", "255.255.255.255:80");
    for host in [
        "256.0.0.1",
        "127.0.0.256",
        "127.0.65536",
        "127.16777216",
        "4294967296",
        "1.2.3.4.5",
        "08.1.1.1",
        "0x",
        "0x7g.1.0x",
        "name.1",
        "example.0x7f",
        "99999999999999999999999",
    ] {
        check_refused(&format!("{host}:80"), TargetError::Number);
    }
}

// T22: no port, port 0 and 65536, userinfo, path, IPv6 zone.
#[test]
fn what_is_no_target_is_refused() {
    use TargetError::*;
    check_refused("", NoPort);
    check_refused("example.com", NoPort);
    check_refused(":80", Empty);
    check_refused(".:80", Empty);
    check_refused("example.com:", Port);
    check_refused("example.com:0", Port);
    check_refused("example.com:65536", Port);
    check_refused("example.com:+80", Port);
    check_refused("example.com:80 ", Port);
    check_refused("example.com:http", Port);
    check_refused("2001:db8::1:80", Brackets);
    check_refused("[2001:db8::1:80", Brackets);
    check_refused("[example.com]:80", Address);
    check_refused("[127.0.0.1]:80", Address);
    check_refused("[fe80::1%eth0]:80", Address);
    check_refused("[]:80", Address);
    check_refused("user@example.com:80", Label);
    check_refused("example.com/path:80", Label);
    check_refused("exa mple.com:80", Label);
    check_refused("exa\0mple.com:80", Label);
    check_refused("exa\r\nmple.com:80", Label);
    check_refused("example..com:80", Label);
    check_refused("example.com..:80", Label);
    check_refused(".example.com:80", Label);
    check_refused("-example.com:80", Label);
    check_refused("example-.com:80", Label);
    check_refused("*.example.com:80", Label);
    check_refused("bücher.example:80", NotAscii);
}

#[test]
fn lengths_are_those_of_the_domain_name_system() {
    let label = "a".repeat(HOST_LABEL_BYTES_MAX);
    check(&format!("{label}.com:80"), &format!("{label}.com:80"));
    check_refused(&format!("{label}a.com:80"), TargetError::Label);

    let mut name = [label.as_str(); 4].join(".");
    name.truncate(HOST_NAME_BYTES_MAX);
    check(&format!("{name}.:80"), &format!("{name}:80"));
    check_refused(&format!("{name}a:80"), TargetError::TooLong);
}

#[test]
fn host_and_port_may_come_apart() {
    assert_eq!(Target::new("::1", 80), "[::1]:80".parse());
    assert_eq!(Target::new("[::1]", 80), "[::1]:80".parse());
    assert_eq!(Target::new("a.b", 0), Err(TargetError::Port));
    assert_eq!(Target::from_address("::ffff:10.0.0.1".parse().unwrap(), 80), "10.0.0.1:80".parse());
    assert_eq!(Target::from_address("::1".parse().unwrap(), 0), Err(TargetError::Port));
}
