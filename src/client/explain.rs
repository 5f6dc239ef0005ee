//! What the host rules make of one target, in words: the same questions in the same order as for a stream, but no
//! connection.
//!
//! ```text
//!   db.internal:5432
//!     name       allowed by the rule *.internal
//!     10.0.0.5   allowed by the rule *.internal
//!     127.0.0.1  denied: 127.0.0.1 is a loopback address, and no allow rule names it
//!   reached at 10.0.0.5
//! ```

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::resolve::NoAddress;
use crate::proto::target::{Host, Rules, Target};

/// An explanation, and whether the target would be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Lines for people, the last one ended.
    pub text: String,
    /// Whether at least one address would be dialed.
    pub reached: bool,
}

/// Explains what the rules make of a target. `look_up` is asked only for a name that the rules let pass.
pub fn explain(
    rules: &Rules,
    target: &Target,
    look_up: impl FnOnce(&str) -> Result<Vec<SocketAddr>, NoAddress>,
) -> Explained {
    let mut rows = Vec::new();
    let addresses = match target.host() {
        Host::Address(address) => Ok(vec![SocketAddr::new(*address, target.port())]),
        Host::Name(name) => {
            let verdict = rules.name(target);
            rows.push(("name".to_owned(), verdict.to_string()));
            if verdict.allowed { look_up(name) } else { Ok(Vec::new()) }
        }
    };
    let mut dialed = Vec::new();
    match addresses {
        Ok(addresses) => {
            for address in addresses {
                let verdict = rules.address(target, address);
                rows.push((address.ip().to_string(), verdict.to_string()));
                if verdict.allowed {
                    dialed.push(address.ip().to_string());
                }
            }
        }
        Err(why) => rows.push(("addresses".to_owned(), format!("none: {why}"))),
    }
    let width = rows.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let mut text = format!("{target}\n");
    for (what, verdict) in rows {
        writeln!(text, "  {what:width$}  {verdict}").expect("a string takes all");
    }
    match dialed.is_empty() {
        true => text.push_str("not reached\n"),
        false => writeln!(text, "reached at {}", dialed.join(", then ")).expect("a string takes all"),
    }
    Explained { reached: !dialed.is_empty(), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: (&[&str], &[&str]) = (&["*.internal", "db.local"], &["bad.internal", "10.9.0.0/16"]);

    #[track_caller]
    fn check(target: &str, found: Result<&[&str], NoAddress>, reached: bool, lines: &[&str]) {
        let list = |patterns: &[&str]| patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let rules = Rules::parse(&list(RULES.0), &list(RULES.1)).expect("rules of ours");
        let target: Target = target.parse().expect("a target of ours");
        let found = found.map(|found| {
            let address = |text: &&str| SocketAddr::new(text.parse().expect("an address"), target.port());
            found.iter().map(address).collect()
        });
        let explained = explain(&rules, &target, |_name| found);
        assert_eq!(explained.text.lines().collect::<Vec<_>>(), lines);
        assert!(explained.text.ends_with('\n'));
        assert_eq!(explained.reached, reached);
    }

    #[test]
    fn each_address_of_a_name_has_its_rule() {
        check(
            "DB.internal.:5432",
            Ok(&["10.0.0.5", "127.0.0.1", "10.9.0.1", "fd00::5"]),
            true,
            &[
                "db.internal:5432",
                "  name       allowed by the rule *.internal",
                "  10.0.0.5   allowed by the rule *.internal",
                "  127.0.0.1  denied: 127.0.0.1 is a loopback address, and no allow rule names it",
                "  10.9.0.1   denied by the rule 10.9.0.0/16",
                "  fd00::5    allowed by the rule *.internal",
                "reached at 10.0.0.5, then fd00::5",
            ],
        );
        check(
            "db.local:1",
            Ok(&["127.0.0.1"]),
            true,
            &[
                "db.local:1",
                "  name       allowed by the rule db.local",
                "  127.0.0.1  allowed by the rule db.local",
                "reached at 127.0.0.1",
            ],
        );
    }

    #[test]
    fn a_name_that_is_denied_is_not_looked_up() {
        check(
            "bad.internal:1",
            Err(NoAddress::Timeout),
            false,
            &["bad.internal:1", "  name  denied by the rule bad.internal", "not reached"],
        );
    }

    #[test]
    fn an_address_has_no_name() {
        let denied = "  169.254.169.254  denied: 169.254.169.254 is a cloud's metadata address, and no allow rule \
                      is that address";
        check("0xa9fea9fe:80", Ok(&[]), false, &["169.254.169.254:80", denied, "not reached"]);
    }

    #[test]
    fn a_name_without_addresses_says_why() {
        check(
            "a.internal:1",
            Err(NoAddress::NotFound),
            false,
            &[
                "a.internal:1",
                "  name       allowed by the rule *.internal",
                "  addresses  none: there is no such name",
                "not reached",
            ],
        );
    }
}
