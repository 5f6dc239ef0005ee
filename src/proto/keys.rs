//! The gateway's file of keys: one line for each, what follows a `#` at the beginning of a line is for people.
//!
//! ```text
//!   user   GROUP  $argon2id$..                                       who may use the clients of GROUP
//!   client NAME   $argon2id$.. groups=GROUP,.. [ports=8000,9000-9100]  a client, the groups that it may serve, the ports that it may open
//! ```
//! A group belongs to its keys: to whoever has the password of a client that lists it. Who may use a group cannot serve it.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::credentials::{Credentials, GroupError};
use super::derive::Derived;
use crate::limits::{GROUP_BYTES_MAX, KEY_GRANTS_MAX, KEYS_MAX};

/// What a client's key is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The groups that it may serve. Invariant: not empty, at most KEY_GRANTS_MAX.
    groups: Vec<String>,
    /// The ports that it may open, 0 standing for any free one. Invariant: at most KEY_GRANTS_MAX.
    ports: Vec<RangeInclusive<u16>>,
}

impl Grant {
    /// Reads both lists as they stand in the file.
    ///
    /// # Errors
    /// When there is no group, too much, or something that is neither: what.
    pub fn parse(groups: &str, ports: &str) -> Result<Grant, String> {
        let groups: Vec<String> = groups.split(',').map(str::to_owned).collect();
        if let Some(name) = groups.iter().find(|name| !is_name(name)) {
            return Err(format!("{name:?} is not the name of a group"));
        }
        let range = |text: &str| -> Option<RangeInclusive<u16>> {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            let range = number(low)?..=number(high)?;
            (!range.is_empty()).then_some(range)
        };
        let mut ranges = Vec::new();
        for text in ports.split(',').filter(|_| !ports.is_empty()) {
            ranges.push(range(text).ok_or_else(|| {
                format!("{text:?} is neither a port nor LOW-HIGH with the lower one first")
            })?);
        }
        if groups.len() > KEY_GRANTS_MAX || ranges.len() > KEY_GRANTS_MAX {
            return Err(format!("more than {KEY_GRANTS_MAX} groups or ports"));
        }
        Ok(Grant { groups, ports: ranges })
    }

    /// Whether it may serve this group.
    pub fn serves(&self, group: &str) -> bool {
        self.groups.iter().any(|name| name == group)
    }

    /// Whether it may open this port.
    pub fn opens(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(&port))
    }
}

/// As it stands in the file.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "groups={}", self.groups.join(","))?;
        for (index, range) in self.ports.iter().enumerate() {
            f.write_str(if index == 0 { " ports=" } else { "," })?;
            match (range.start(), range.end()) {
                (low, high) if low == high => write!(f, "{low}")?,
                (low, high) => write!(f, "{low}-{high}")?,
            }
        }
        Ok(())
    }
}

/// A port, without a sign or anything else that Rust would take.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A name that fits the tunnel, the log and the file.
fn is_name(text: &str) -> bool {
    let is_ours = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=GROUP_BYTES_MAX).contains(&text.len()) && text.chars().all(is_ours)
}

/// Adds the keys of a file to the credentials.
///
/// # Errors
/// When a line cannot be read, or says what another has said: its number and why. No line is shown: keys are no text for logs.
pub fn add(credentials: &mut Credentials, text: &str) -> Result<(), String> {
    let mut count = 0;
    for (index, line) in text.lines().enumerate() {
        let mut words = line.split_ascii_whitespace();
        let Some(kind) = words.next().filter(|word| !word.starts_with('#')) else { continue };
        let fault = |why: &dyn fmt::Display| format!("line {}: {why}", index + 1);
        count += 1;
        if count > KEYS_MAX {
            return Err(fault(&format!("more than {KEYS_MAX} keys")));
        }
        add_key(credentials, kind, words).map_err(|why| fault(&why))?;
    }
    match count {
        0 => Err("no key in it".into()),
        _ => Ok(()),
    }
}

fn add_key<'a>(
    credentials: &mut Credentials,
    kind: &str,
    mut words: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let name = words.next().filter(|name| is_name(name));
    let name = name.ok_or("want a name behind user or client: letters, digits, '.', '_' and '-'")?;
    let derived = Derived::parse(words.next().unwrap_or_default())?;
    let twice = |error: GroupError| error.to_string();
    match kind {
        "user" => match words.next() {
            None => credentials.insert_user(name, derived).map_err(twice),
            Some(_) => Err("a user has no more than a name and a key".into()),
        },
        "client" => {
            let (mut groups, mut ports) = (None, None);
            for word in words {
                let (list, text) = match word.split_once('=') {
                    Some(("groups", text)) => (&mut groups, text),
                    Some(("ports", text)) => (&mut ports, text),
                    _ => return Err("want groups=.. and ports=.. behind a client's key".into()),
                };
                if list.replace(text).is_some() {
                    return Err("the same list twice".into());
                }
            }
            let groups = groups.ok_or("a client's key lists groups=..")?;
            let grant = Grant::parse(groups, ports.unwrap_or_default())?;
            credentials.insert_client(name, derived, Arc::new(grant)).map_err(twice)
        }
        _ => Err("a line begins with user, client or #".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DERIVE_MEMORY_KIB_MIN;
    use crate::proto::credentials::Secret;
    use crate::proto::derive::{Cost, Recipe, derive};

    fn derived() -> String {
        let cost = Cost::new(DERIVE_MEMORY_KIB_MIN, 1, 1).expect("the least");
        let recipe = Recipe { salt: [1; 16], cost };
        Derived::new(recipe, &derive(&Secret::new("s").expect("a secret"), &recipe).expect("there is memory"))
            .written()
    }

    #[track_caller]
    fn check(text: &str, want: &[&str]) {
        let key = derived();
        let got = add(&mut Credentials::new(), &text.replace("KEY", &key));
        match want {
            [] => assert_eq!(got, Ok(())),
            words => {
                let fault = got.expect_err("it cannot be read");
                assert!(words.iter().all(|word| fault.contains(word)), "{fault}: wants {words:?}");
                assert!(!fault.contains('$') || fault.contains("want $argon2id"), "a key is shown: {fault}");
            }
        }
    }

    #[test]
    fn a_file_has_users_and_clients() {
        check("# ours\n\nuser prod KEY\n  client edge-04\tKEY groups=prod,dev ports=0,8000,9000-9100\n", &[]);
        check("client a KEY ports=1 groups=b\nuser a KEY", &[]);
        check("", &["no key in it"]);
        check("#\n", &["no key in it"]);
        check("user a KEY\nUser b KEY", &["line 2", "user, client or #"]);
        check("user", &["line 1", "want a name"]);
        check("user a:b KEY", &["want a name"]);
        check(&format!("user {} KEY", "x".repeat(65)), &["want a name"]);
        check("user a", &["want $argon2id"]);
        check("user a secret", &["want $argon2id"]);
        check("user a KEY groups=a", &["no more than"]);
        check("client a KEY", &["lists groups"]);
        check("client a KEY groups=", &["\"\" is not the name"]);
        check("client a KEY groups=a,,b", &["\"\" is not the name"]);
        check("client a KEY groups=a groups=b", &["twice"]);
        check("client a KEY groups=a hosts=b", &["want groups=.. and ports=.."]);
        for ports in ["x", "1-", "-1", "2-1", "65536", "1,", "+1", " 1"] {
            check(
                &format!("client a KEY groups=a ports={}", ports.trim()),
                if ports == " 1" { &[] } else { &["neither a port"] },
            );
        }
        check("user a KEY\nuser a KEY", &["line 2", "twice"]);
        check("client a KEY groups=a\nclient a KEY groups=b", &["line 2", "twice"]);
        let many = |count: usize| (0..count).map(|n| format!("user u{n} KEY\n")).collect::<String>();
        check(&many(KEYS_MAX), &[]);
        check(&many(KEYS_MAX + 1), &["line 4097", "more than 4096 keys"]);
    }

    #[test]
    fn a_grant_is_what_it_lists() {
        let grant = Grant::parse("prod,dev", "0,8000,9000-9100").expect("both lists");
        for (port, want) in
            [(0, true), (1, false), (8000, true), (8001, false), (9000, true), (9100, true), (9101, false)]
        {
            assert_eq!(grant.opens(port), want, "{port}");
        }
        assert!(grant.serves("dev") && !grant.serves("de") && !grant.serves(""));
        assert_eq!(grant.to_string(), "groups=prod,dev ports=0,8000,9000-9100");
        let none = Grant::parse("prod", "").expect("no ports");
        assert!(!none.opens(0) && !none.opens(8000) && none.to_string() == "groups=prod");
        let list = |count: usize| vec!["1"; count].join(",");
        assert!(Grant::parse(&list(KEY_GRANTS_MAX), &list(KEY_GRANTS_MAX)).is_ok());
        assert!(Grant::parse(&list(KEY_GRANTS_MAX + 1), "").is_err());
        assert!(Grant::parse("a", &list(KEY_GRANTS_MAX + 1)).is_err());
    }
}
