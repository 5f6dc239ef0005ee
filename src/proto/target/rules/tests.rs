use super::*;

fn rules(allow: &[&str], deny: &[&str]) -> Rules {
    let list = |patterns: &[&str]| patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Rules::parse(&list(allow), &list(deny)).unwrap_or_else(|error| panic!("{error}"))
}

/// What the rules say of a target that resolves to this address: "name" or "address" when that
/// check refuses it, "yes" when both let it pass.
#[track_caller]
fn check(rules: &Rules, target: &str, address: &str, want: &str) {
    let target: Target = target.parse().unwrap();
    let address = SocketAddr::new(address.parse().unwrap(), target.port());
    let seen = match (rules.name(&target).allowed, rules.address(&target, address).allowed) {
        (true, true) => "yes",
        (true, false) => "address",
        (false, false) => "name",
        (false, true) => "name only, which must not be",
    };
    assert_eq!(seen, want, "{target} at {address}");
}

/// As `check`, for a target that is an address.
#[track_caller]
fn check_address(rules: &Rules, address: &str, want: bool) {
    let target = Target::from_address(address.parse().unwrap(), 80).unwrap();
    let verdict = rules.name(&target);
    assert_eq!(verdict.allowed, want, "{address}: {verdict}");
    let verdict = rules.address(&target, SocketAddr::new(address.parse().unwrap(), 80));
    assert_eq!(verdict.allowed, want, "{address}: {verdict}");
}

const PUBLIC: [&str; 8] = [
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "198.20.0.0",
    "2606:4700::1111",
    "64:ff9b::1.1.1.1",
];

const NOT_PUBLIC: [&str; 37] = [
    "127.0.0.1",
    "127.255.255.255",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.0",
    "10.255.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.0",
    "100.127.255.255",
    "169.254.0.1",
    "192.0.0.8",
    "198.18.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fc00::1",
    "fdff::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0.0.0.0",
    "::127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.1.2.3",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:c0a8:101::1",
];

const METADATA: [&str; 14] = [
    "169.254.169.254",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::23",
    "fd20:ce::254",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "::ffff:168.63.129.16",
    "64:ff9b::168.63.129.16",
    "2002:a83f:8110::1",
];

// T5: without rules, public addresses and no others.
#[test]
fn by_default_only_public_addresses_are_reached() {
    for rules in [rules(&[], &[]), rules(&["*"], &[]), rules(&["*:80"], &[])] {
        for address in PUBLIC {
            check_address(&rules, address, true);
            check(&rules, "example.com:80", address, "yes");
        }
        for address in NOT_PUBLIC.into_iter().chain(METADATA) {
            check_address(&rules, address, false);
            check(&rules, "example.com:80", address, "address");
        }
    }
}

#[test]
fn the_standalone_program_reaches_everything_but_metadata() {
    let rules = Rules::open_local();
    for address in PUBLIC.into_iter().chain(NOT_PUBLIC) {
        check_address(&rules, address, true);
        check(&rules, "example.com:80", address, "yes");
    }
    for address in METADATA {
        check_address(&rules, address, false);
        check(&rules, "example.com:80", address, "address");
    }
}

#[test]
fn what_is_not_public_is_reached_where_a_rule_names_it() {
    check(&rules(&["db.internal"], &[]), "db.internal:5432", "10.0.0.5", "yes");
    check(&rules(&["DB.Internal."], &[]), "db.internal:5432", "10.0.0.5", "yes");
    check(&rules(&["*.internal"], &[]), "db.internal:5432", "10.0.0.5", "yes");
    check(&rules(&["*.internal"], &[]), "a.b.internal:5432", "10.0.0.5", "yes");
    check(&rules(&["*.internal"], &[]), "internal:5432", "10.0.0.5", "address");
    check(&rules(&["*.internal"], &[]), "notinternal:5432", "10.0.0.5", "address");
    check(&rules(&["db.internal"], &[]), "x.db.internal:5432", "10.0.0.5", "address");
    check(&rules(&["10.0.0.0/8"], &[]), "db.internal:5432", "10.0.0.5", "yes");
    check(&rules(&["10.0.0.0/8"], &[]), "db.internal:5432", "192.168.0.5", "address");
    check(&rules(&["10.0.0.5"], &[]), "db.internal:5432", "10.0.0.5", "yes");
    check(&rules(&["10.0.0.5"], &[]), "db.internal:5432", "10.0.0.6", "address");
    check(&rules(&["10.0.0.0/8"], &[]), "db.internal:5432", "::ffff:10.0.0.5", "yes");
    check(&rules(&["10.0.0.0/8"], &[]), "db.internal:5432", "64:ff9b::10.0.0.5", "yes");
    check(&rules(&["fd00::/8"], &[]), "db.internal:5432", "fd00::5", "yes");
    check(&rules(&["0x7f.1"], &[]), "localhost:80", "127.0.0.1", "yes");
    check(&rules(&["localhost"], &[]), "localhost:80", "::1", "yes");
    // A name in the list does not open the address for who asks for the address.
    check_address(&rules(&["localhost"], &[]), "127.0.0.1", false);
    // `*` names nothing, beside what is named.
    check(&rules(&["*", "10.0.0.0/8"], &[]), "a.example:80", "10.0.0.5", "yes");
    check(&rules(&["*", "10.0.0.0/8"], &[]), "a.example:80", "192.168.0.1", "address");
}

// T5: no list of names and no network opens the way to a machine's credentials.
#[test]
fn metadata_is_reached_only_by_its_very_address() {
    for allow in ["*", "169.254.0.0/16", "0.0.0.0/0", "metadata.internal", "*.internal"] {
        check(&rules(&[allow], &[]), "metadata.internal:80", "169.254.169.254", "address");
        check_address(&rules(&[allow], &[]), "169.254.169.254", false);
    }
    check_address(&rules(&["169.254.169.254"], &[]), "169.254.169.254", true);
    check_address(&rules(&["169.254.169.254/32:80"], &[]), "169.254.169.254", true);
    check_address(&rules(&["169.254.169.254:81"], &[]), "169.254.169.254", false);
    check_address(&rules(&["fd00:ec2::254"], &[]), "fd00:ec2::254", true);
    check_address(&rules(&["fd00::/8"], &[]), "fd00:ec2::254", false);
    for address in METADATA.iter().filter(|address| !address.contains("::")) {
        check_address(&rules(&["0.0.0.0/0", "168.63.0.0/16", "192.0.0.0/24"], &[]), address, false);
        check_address(&rules(&[address], &[]), address, true);
    }
    for address in ["168.63.129.15", "168.63.129.17"] {
        check_address(&rules(&[], &[]), address, true);
    }
}

// T5: whoever owns a name below a suffix could have it lead to the loopback, and a network that holds everything is `*`.
#[test]
fn loopback_and_link_local_are_reached_only_by_what_means_them() {
    for address in ["127.0.0.1", "0.0.0.0", "::1", "::", "169.254.1.1", "fe80::1", "::ffff:127.0.0.1"] {
        for allow in ["*", "*.internal", "*.db.internal", "0.0.0.0/0", "::/0", "128.0.0.0/1", "64:ff9b::/96"]
        {
            check(&rules(&[allow], &[]), "a.db.internal:80", address, "address");
            check_address(&rules(&[allow], &[]), address, false);
        }
        check(&rules(&["a.db.internal"], &[]), "a.db.internal:80", address, "yes");
        check(&rules(&["a.db.internal:80"], &[]), "a.db.internal:80", address, "yes");
        check(&rules(&["a.db.internal:81"], &[]), "a.db.internal:80", address, "address");
        check_address(&rules(&[address], &[]), address, true);
    }
    check(&rules(&["127.0.0.0/8"], &[]), "a:80", "127.1.2.3", "yes");
    check(&rules(&["169.254.0.0/16"], &[]), "a:80", "169.254.1.1", "yes");
    check(&rules(&["fe80::/10"], &[]), "a:80", "fe80::1", "yes");
    check(&rules(&["126.0.0.0/7"], &[]), "a:80", "127.1.2.3", "address");
}

// T5: a proxy that is asked for itself goes round until it has nothing left.
#[test]
fn the_ports_of_this_process_are_reached_only_by_host_and_port() {
    let own = |addresses: &[&str], rules: Rules| {
        rules.with_own(addresses.iter().map(|address| address.parse().expect("an address")).collect())
    };
    let everything = || rules(&["127.0.0.0/8", "::1", "0.0.0.0", "loop.example", "*.example"], &[]);
    for rules in [own(&["127.0.0.1:80"], everything()), own(&["127.0.0.1:80"], Rules::open_local())] {
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::", "64:ff9b::7f00:1"] {
            check(&rules, "loop.example:80", address, "address");
            check(&rules, "x.example:80", address, "address");
        }
        check(&rules, "loop.example:81", "127.0.0.1", "yes");
        check(&rules, "loop.example:80", "127.0.0.2", "yes");
        check(&rules, "loop.example:80", "::1", "yes");
        check(&rules, "x.example:80", "1.1.1.1", "yes");
    }
    // Who listens everywhere is found at every address of this host.
    let rules_of = |allow: &[&str]| own(&["0.0.0.0:80", "192.0.2.7:90"], rules(allow, &[]));
    for address in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0"] {
        check(&rules_of(&["127.0.0.0/8", "::1", "0.0.0.0"]), "a:80", address, "address");
    }
    check(&rules_of(&[]), "a:90", "192.0.2.7", "address");
    check(&rules_of(&["a"]), "a:90", "192.0.2.7", "address");
    check(&rules_of(&["*:90"]), "a:90", "192.0.2.7", "address");
    check(&rules_of(&["192.0.2.0/24:90"]), "a:90", "192.0.2.7", "address");
    check(&rules_of(&["a:80-90"]), "a:90", "192.0.2.7", "address");
    check(&rules_of(&["a:90"]), "a:90", "192.0.2.7", "yes");
    check(&rules_of(&["192.0.2.7:90"]), "a:90", "192.0.2.7", "yes");
    let target = "192.0.2.7:90".parse().expect("a target of ours");
    assert_eq!(
        rules_of(&[]).name(&target).to_string(),
        "denied: 192.0.2.7:90 is this process, and no allow rule is that host and port"
    );
}

// T5: the longest run of letters that is in a rule is no reason for anything.
#[test]
fn patterns_are_anchored_at_both_ends_and_blind_to_case() {
    let rules = rules(&["Db.Internal:5432", "*.LAN"], &["*.Evil.example", "evil.example"]);
    for (target, want) in [
        ("db.internal:5432", "yes"),
        ("DB.INTERNAL.:5432", "yes"),
        ("xdb.internal:5432", "address"),
        ("db.internal.evil.net:5432", "address"),
        ("db-internal:5432", "address"),
        ("dbxinternal:5432", "address"),
        ("db.internal:54321", "address"),
        ("a.lan:1", "yes"),
        ("A.B.Lan.:1", "yes"),
        ("alan:1", "address"),
        ("lan:1", "address"),
        ("a.lan.evil.net:1", "address"),
        ("eVil.example:1", "name"),
        ("x.EVIL.example:1", "name"),
        ("notevil.example:1", "address"),
    ] {
        check(&rules, target, "10.0.0.1", want);
    }
}

#[test]
fn an_allow_list_adds_to_what_is_public() {
    let rules = rules(&["db.internal", "*.internal:443", "10.0.0.0/24:8000-8999"], &[]);
    check(&rules, "other.net:22", "1.1.1.1", "yes");
    check(&rules, "db.internal:22", "10.9.9.9", "yes");
    check(&rules, "www.internal:443", "10.9.9.9", "yes");
    check(&rules, "www.internal:80", "10.9.9.9", "address");
    check(&rules, "other.net:8000", "10.0.0.9", "yes");
    check(&rules, "other.net:8999", "10.0.0.9", "yes");
    check(&rules, "other.net:7999", "10.0.0.9", "address");
    check(&rules, "other.net:9000", "10.0.0.9", "address");
    check(&rules, "other.net:8000", "10.0.1.9", "address");
}

#[test]
fn deny_beats_allow() {
    check(&rules(&["*"], &["example.com"]), "example.com:80", "1.1.1.1", "name");
    check(&rules(&["example.com"], &["*.com"]), "example.com:80", "1.1.1.1", "name");
    check(&rules(&["example.com"], &["*:25"]), "example.com:25", "1.1.1.1", "name");
    check(&rules(&["example.com"], &["*:25"]), "example.com:26", "1.1.1.1", "yes");
    check(&rules(&["example.com"], &["1.1.1.0/24"]), "example.com:80", "1.1.1.1", "address");
    check(&rules(&["10.0.0.0/8"], &["10.1.0.0/16"]), "a.b:80", "10.1.0.1", "address");
    check(&rules(&["10.0.0.0/8"], &["10.1.0.0/16"]), "a.b:80", "10.2.0.1", "yes");
    check(&rules(&[], &["1.1.1.1"]), "a.b:80", "::ffff:1.1.1.1", "address");
    check(&rules(&[], &["1.1.1.1"]), "a.b:80", "64:ff9b::1.1.1.1", "address");
    check(&rules(&[], &["::ffff:1.1.0.0/112"]), "a.b:80", "1.1.1.1", "address");
    check(&rules(&[], &["[2606::/16]:80"]), "a.b:80", "2606:4700::1111", "address");
    check(&rules(&[], &["[2606::/16]:80"]), "a.b:81", "2606:4700::1111", "yes");
}

#[test]
fn a_verdict_explains_itself() {
    #[track_caller]
    fn explain(rules: &Rules, target: &str, want: &str) {
        assert_eq!(rules.name(&target.parse().unwrap()).to_string(), want);
    }
    explain(&rules(&["*.A.example:1-9"], &[]), "b.a.example:5", "allowed by the rule *.A.example:1-9");
    explain(&rules(&[], &["10.0.0.0/8"]), "10.0.0.1:80", "denied by the rule 10.0.0.0/8");
    explain(&rules(&["a"], &[]), "b:80", "allowed: no rule speaks of it");
    explain(&rules(&[], &[]), "b:80", "allowed: no rule speaks of it");
    explain(
        &rules(&["*"], &[]),
        "127.1:80",
        "denied: 127.0.0.1 is a loopback address, and no allow rule names it",
    );
    explain(
        &Rules::open_local(),
        "[fd00:ec2::254]:80",
        "denied: fd00:ec2::254 is a cloud's metadata address, and no allow rule is that address",
    );
    // A rule that is there, for other ports, is not said not to be there.
    explain(
        &rules(&["10.0.0.0/8:80-90"], &[]),
        "10.1.1.1:91",
        "denied: 10.1.1.1 is a private address, and no allow rule names it with port 91",
    );
    explain(
        &rules(&["*", "*:91", "10.2.0.0/16:91"], &[]),
        "10.1.1.1:91",
        "denied: 10.1.1.1 is a private address, and no allow rule names it",
    );
    explain(
        &rules(&["126.0.0.0/7:80", "127.0.0.1:81"], &[]),
        "127.0.0.1:80",
        "denied: 127.0.0.1 is a loopback address, and no allow rule names it with port 80",
    );
    explain(
        &rules(&["169.254.0.0/16:80", "169.254.169.254:81"], &[]),
        "169.254.169.254:80",
        "denied: 169.254.169.254 is a cloud's metadata address, and no allow rule is that address with port 80",
    );
}

#[test]
fn patterns_that_mean_nothing_are_refused() {
    #[track_caller]
    fn refused(text: &str, want: fn(String) -> RuleError) {
        assert_eq!(Pattern::parse(text), Err(want(text.to_owned())), "{text:?}");
    }
    for text in [
        "",
        ":80",
        "a b",
        "**",
        "*.",
        "*.*.com",
        "a.*.com",
        "*com",
        "*.10.0.0.1",
        "10.0.0.0/33",
        "10.0/8",
        "/8",
        "a/8",
        "fd00::/129",
        "fe80::1%1",
        "::1:z",
        "[a]:80",
        "[10.0.0.1]",
        "bücher.de",
        "1.2.3.4.5",
    ] {
        refused(text, RuleError::Host);
    }
    for text in [
        "a:", "a:0", "a:65536", "a:x", "a:2-1", "a:0-9", "a:1-", "a:-9", "a:1-2-3", "a:+1", "[::1]80",
        "[::1", "*:",
    ] {
        refused(text, RuleError::Port);
    }
    let error = Pattern::parse("10.1.2.3/8:80").unwrap_err();
    assert_eq!(error.to_string(), r#""10.1.2.3/8:80" has bits beyond its prefix: is 10.0.0.0/8 meant?"#);
}

#[test]
fn the_number_of_rules_is_bounded() {
    let list = vec!["a".to_owned(); RULES_MAX + 1];
    assert!(Rules::parse(&list[1..], &list[1..]).is_ok());
    assert!(matches!(Rules::parse(&list, &[]), Err(RuleError::TooMany)));
    assert!(matches!(Rules::parse(&[], &list), Err(RuleError::TooMany)));
}
