//! Who may use the gateway: groups and their secrets.
//!
//! A user of the proxy names a group and its password; a client proves the same secret over the
//! tunnel. Two questions are answered here, and nothing is printed:
//!
//! * [`Credentials::check`] takes what a user sent. The answer takes the same path and the same
//!   time for a wrong password and for a group that does not exist: both sides are reduced to
//!   SHA-256 digests, which have one length, and those are compared without an early exit. Where
//!   the gateway has keys and not passwords ([`super::keys`]), the answer is what to compute first;
//!   of a group that does not exist it is the same, with a salt that nobody has.
//! * [`Credentials::claim`] gives what a client that says who it is has to prove.
//!
//! With no group at all the gateway is *open*; that is a question of its own
//! ([`Credentials::is_open`]), never an answer of `verify`.

use std::{collections::HashMap, fmt, sync::Arc};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::derive::{Derived, Keys, Recipe};
use super::keys::Grant;
use crate::limits::{GROUP_NAME_BYTES_MAX, GROUPS_MAX, SECRET_BYTES_MAX};

/// What a group keeps to itself. It never appears in a log: its `Debug` is redacted, and it cannot
/// be displayed. Its memory is cleared when it is dropped.
#[derive(Clone)]
pub struct Secret {
    /// Invariant: 1 <= bytes.len() <= SECRET_BYTES_MAX.
    bytes: Zeroizing<Vec<u8>>,
}

impl Secret {
    /// Takes a secret as it is.
    ///
    /// # Errors
    /// When it is empty, or longer than a SOCKS5 password can be (RFC 1929: 255 bytes).
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Secret, SecretError> {
        let bytes = Zeroizing::new(bytes.into());
        match bytes.len() {
            0 => Err(SecretError::Empty),
            len if len > SECRET_BYTES_MAX => Err(SecretError::TooLong),
            _ => Ok(Secret { bytes }),
        }
    }

    /// Takes the text of a secret's file: one newline at the end, which editors and `echo` leave
    /// there, is not part of the secret. Everything else is, a second newline and spaces included.
    ///
    /// # Errors
    /// As for [`Secret::new`].
    pub fn from_file_text(text: &[u8]) -> Result<Secret, SecretError> {
        let text = match text.strip_suffix(b"\n") {
            Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
            None => text,
        };
        Secret::new(text)
    }

    /// The secret itself, for a key. Not for printing.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// In constant time.
impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        digest(&self.bytes).ct_eq(&digest(&other.bytes)).into()
    }
}

impl Eq for Secret {}

/// A name and a password, as a user sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The name: a group's, if the password is right.
    pub user: String,
    /// The password.
    pub password: Secret,
}

impl Login {
    /// `None` when nobody could have such a name or password.
    pub fn new(user: &[u8], password: &[u8]) -> Option<Login> {
        let user = std::str::from_utf8(user).ok()?.to_owned();
        Some(Login { user, password: Secret::new(password).ok()? })
    }
}

/// Whether a user is who it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proven {
    /// It is.
    Yes,
    /// The password is wrong, or there is no such user: 407, or status 1 of RFC 1929.
    No,
    /// Too many wrong passwords have come from there, too many wait to be looked at, or there is no memory for it: 429.
    Later,
}

/// What is to be said of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Whether the password is right.
    Known(bool),
    /// That is to be computed, which takes long.
    Ask(Question),
}

/// Whether a password makes the keys that the gateway has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// How its keys are derived.
    pub recipe: Recipe,
    /// `None` where there is no such user.
    derived: Option<Derived>,
}

impl Question {
    /// The answer, given the keys that the password made.
    pub fn answer(&self, keys: &Keys) -> bool {
        self.derived.is_some_and(|derived| derived.matches(keys))
    }
}

/// What a client has to prove.
#[derive(Clone, Debug)]
pub enum Claim {
    /// That it knows the group's secret.
    Secret {
        /// `None` where there is no such group, or no secret at all.
        secret: Option<Arc<Secret>>,
        /// There is such a group.
        is_known: bool,
    },
    /// That it has the key that goes with its name.
    Key {
        /// What to hold its proof against; made up where there is no such client.
        derived: Derived,
        /// What the key is good for; `None` where there is no such client.
        grant: Option<Arc<Grant>>,
    },
}

/// Why a secret was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// There is nothing in it.
    Empty,
    /// It is longer than any user could send it.
    TooLong,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretError::Empty => f.write_str("the secret is empty"),
            SecretError::TooLong => write!(f, "the secret is longer than {SECRET_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for SecretError {}

/// The groups and their secrets.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Invariant: groups.len() <= GROUPS_MAX.
    groups: HashMap<String, Group>,
    /// The keys of users, by their group. Invariant: users.len() <= GROUPS_MAX.
    users: HashMap<String, Derived>,
    /// The keys of clients, by their name. Invariant: clients.len() <= GROUPS_MAX.
    clients: HashMap<String, (Derived, Arc<Grant>)>,
    /// Made of all keys: what those that do not exist are made of, the same again after a restart.
    decoy: [u8; 32],
}

#[derive(Clone, PartialEq, Eq)]
struct Group {
    secret: Arc<Secret>,
    /// SHA-256 of the secret, so that a comparison always has 32 bytes on both sides.
    digest: [u8; 32],
}

impl Credentials {
    /// No group: open to everyone until one is added.
    pub fn new() -> Credentials {
        Credentials::default()
    }

    /// Adds a group.
    ///
    /// # Errors
    /// When the name cannot be sent by a user (empty, longer than RFC 1929 allows, a colon, a
    /// control character), is there already, or there are too many.
    pub fn insert(&mut self, group: &str, secret: Secret) -> Result<(), GroupError> {
        if group.is_empty() || group.len() > GROUP_NAME_BYTES_MAX {
            return Err(GroupError::Length);
        }
        if group.chars().any(|c| c == ':' || c.is_control()) {
            return Err(GroupError::Character);
        }
        if self.groups.contains_key(group) {
            return Err(GroupError::Duplicate);
        }
        if self.groups.len() >= GROUPS_MAX {
            return Err(GroupError::TooMany);
        }
        let digest = digest(secret.as_bytes());
        self.groups.insert(group.to_owned(), Group { secret: secret.into(), digest });
        Ok(())
    }

    /// Adds the key of a group's users.
    ///
    /// # Errors
    /// When it is there already, or there are too many.
    pub fn insert_user(&mut self, group: &str, derived: Derived) -> Result<(), GroupError> {
        if self.groups.contains_key(group) {
            return Err(GroupError::Shared);
        }
        if self.users.contains_key(group) {
            return Err(GroupError::Duplicate);
        }
        if self.users.len() >= GROUPS_MAX {
            return Err(GroupError::TooMany);
        }
        self.stir(group, &derived);
        self.users.insert(group.to_owned(), derived);
        Ok(())
    }

    /// Adds the key of a client.
    ///
    /// # Errors
    /// When it is there already, or there are too many.
    pub fn insert_client(
        &mut self,
        name: &str,
        derived: Derived,
        grant: Arc<Grant>,
    ) -> Result<(), GroupError> {
        if self.clients.contains_key(name) {
            return Err(GroupError::Duplicate);
        }
        if self.clients.len() >= GROUPS_MAX {
            return Err(GroupError::TooMany);
        }
        self.stir(name, &derived);
        self.clients.insert(name.to_owned(), (derived, grant));
        Ok(())
    }

    fn stir(&mut self, name: &str, derived: &Derived) {
        let text = Sha256::new_with_prefix(self.decoy).chain_update(derived.written());
        self.decoy = text.chain_update(name).finalize().into();
    }

    /// A key that nobody has, the same each time for the same name, and no cheaper than those that somebody has.
    fn decoy(&self, name: &str) -> Option<Derived> {
        let keys = self.users.values().chain(self.clients.values().map(|(derived, _)| derived));
        let cost = keys.map(|derived| derived.recipe.cost).max_by_key(|cost| cost.parts())?;
        let part = |label: &[u8]| -> [u8; 32] {
            let mut mac =
                Hmac::<Sha256>::new_from_slice(&self.decoy).expect("HMAC takes a key of any length");
            mac.update(label);
            mac.update(name.as_bytes());
            mac.finalize().into_bytes().into()
        };
        let salt = *part(b"salt ").first_chunk().expect("32 bytes have 16 in front");
        Some(Derived::unknown(Recipe { salt, cost }, part(b"stored "), part(b"gateway ")))
    }

    /// What a client of this name has to prove before it serves this group. A key that goes with its name comes before a
    /// secret that goes with the group.
    pub fn claim(&self, name: &str, group: &str) -> Claim {
        if let Some((derived, grant)) = self.clients.get(name) {
            return Claim::Key { derived: *derived, grant: Some(grant.clone()) };
        }
        match (self.groups.get(group), self.decoy(name)) {
            (None, Some(derived)) => Claim::Key { derived, grant: None },
            (found, _) => {
                // An open gateway has one group, the nameless one, and takes everybody into it.
                let is_known = found.is_some() || (self.is_open() && group.is_empty());
                Claim::Secret { secret: found.map(|group| group.secret.clone()), is_known }
            }
        }
    }

    /// Whether this login is right, or what has to be computed to find out.
    #[must_use]
    pub fn check(&self, login: &Login) -> Check {
        let user = login.user.as_str();
        if let Some(derived) = self.users.get(user) {
            return Check::Ask(Question { recipe: derived.recipe, derived: Some(*derived) });
        }
        match self.decoy(user).filter(|_| !self.groups.contains_key(user)) {
            Some(derived) => Check::Ask(Question { recipe: derived.recipe, derived: None }),
            None => Check::Known(self.verify(user.as_bytes(), login.password.as_bytes())),
        }
    }

    /// Takes the place of `former`: a client's key of which nothing has changed is still the same key, see [`Credentials::admits`].
    pub fn succeed(&mut self, former: &Credentials) {
        for (name, (derived, grant)) in &mut self.clients {
            if let Some((before, kept)) = former.clients.get(name)
                && (before, kept) == (&*derived, &*grant)
            {
                *grant = kept.clone();
            }
        }
    }

    /// Whether a client of this name and group may still be here that proved itself by the key of this grant, or without one by this
    /// secret of its group. A key of a client that has come since then comes before that secret.
    ///
    /// # Errors
    /// When it may not: why, in words for people.
    pub fn admits(
        &self,
        (name, group): (&str, &str),
        grant: Option<&Arc<Grant>>,
        secret: Option<&Secret>,
    ) -> Result<(), &'static str> {
        match (grant, self.clients.get(name)) {
            (Some(had), Some((_, has))) if Arc::ptr_eq(had, has) => Ok(()),
            (Some(_), _) => Err("its key was taken out or changed"),
            (None, Some(_)) => Err("its name has a key of its own now"),
            (None, None) if self.secret(group) == secret => Ok(()),
            (None, None) => Err("the password of its group was changed"),
        }
    }

    /// Whether those who were users of a group under `former` would need another key or password now, or are none any more.
    pub fn bars_users_of(&self, group: &str, former: &Credentials) -> bool {
        let has_another = former.users.get(group).is_some_and(|before| self.users.get(group) != Some(before));
        has_another || former.secret(group).is_some_and(|before| self.secret(group) != Some(before))
    }

    /// Whether every login is as right or wrong under these as under the others.
    pub fn has_users_of(&self, others: &Credentials) -> bool {
        self.users == others.users && self.groups == others.groups
    }

    /// How many keys of users there are, and how many of clients.
    pub fn key_counts(&self) -> (usize, usize) {
        (self.users.len(), self.clients.len())
    }

    /// Whether there is no group and no key, so that nobody is asked for a name. What an open gateway may do
    /// (listen on loopback only) is for the caller to hold.
    pub fn is_open(&self) -> bool {
        self.groups.is_empty() && self.users.is_empty() && self.clients.is_empty()
    }

    /// Whether this password is that group's. Never true for an open gateway.
    ///
    /// A group that does not exist is compared as well, with a digest that no password has a
    /// reason to meet, so that time does not tell one failure from the other.
    #[must_use]
    fn verify(&self, user: &[u8], password: &[u8]) -> bool {
        let group = std::str::from_utf8(user).ok().and_then(|name| self.groups.get(name));
        let wanted = group.map_or(&NOBODY, |group| &group.digest);
        let same = digest(password).ct_eq(wanted);
        bool::from(same) & group.is_some()
    }

    /// The secret of a group.
    pub fn secret(&self, group: &str) -> Option<&Secret> {
        self.groups.get(group).map(|group| &*group.secret)
    }

    /// The names of the groups, in no order.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.groups.keys())
            .entries(self.users.keys())
            .entries(self.clients.keys())
            .finish()
    }
}

/// Why a group was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// The name is empty or longer than a user could send it.
    Length,
    /// The name has a colon or a control character in it.
    Character,
    /// The name is taken.
    Duplicate,
    /// The group has a password of its own.
    Shared,
    /// There is no room for another group.
    TooMany,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupError::Length => write!(f, "a group's name has 1 to {GROUP_NAME_BYTES_MAX} bytes"),
            GroupError::Character => f.write_str("a group's name has no colon and no control character"),
            GroupError::Duplicate => f.write_str("the group is there twice"),
            GroupError::Shared => f.write_str("--group has a password for this group already"),
            GroupError::TooMany => write!(f, "there are more than {GROUPS_MAX} groups"),
        }
    }
}

impl std::error::Error for GroupError {}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What a group that does not exist is compared with.
const NOBODY: [u8; 32] = [0; 32];

#[cfg(test)]
mod tests {
    use super::*;

    fn one(group: &str, secret: &str) -> Credentials {
        let mut credentials = Credentials::new();
        credentials.insert(group, Secret::new(secret).expect("a secret")).expect("there is room");
        credentials
    }

    // T9: the password is the group's, whole, and nobody else's.
    #[test]
    fn verify_wants_the_groups_own_password() {
        let mut credentials = one("alpha", "s3cret");
        credentials.insert("beta", Secret::new("other").expect("a secret")).expect("there is room");
        for (user, password, want) in [
            ("alpha", "s3cret", true),
            ("beta", "other", true),
            ("alpha", "other", false),
            ("alpha", "s3cre", false),
            ("alpha", "s3cret ", false),
            ("alpha", "", false),
            ("Alpha", "s3cret", false),
            ("gamma", "s3cret", false),
            ("", "", false),
        ] {
            assert_eq!(credentials.verify(user.as_bytes(), password.as_bytes()), want, "{user}:{password}");
        }
        assert!(!credentials.verify(b"al\xffpha", b"s3cret"));
    }

    #[test]
    fn an_open_gateway_verifies_nobody() {
        let credentials = Credentials::new();
        assert!(credentials.is_open());
        assert!(!credentials.verify(b"", b""));
        assert!(!one("a", "b").is_open());
    }

    #[test]
    fn secret_is_found_by_group() {
        let credentials = one("alpha", "s3cret");
        assert_eq!(credentials.secret("alpha").expect("it is there").as_bytes(), b"s3cret");
        assert!(credentials.secret("beta").is_none());
        assert_eq!(credentials.groups().collect::<Vec<_>>(), ["alpha"]);
    }

    #[test]
    fn one_newline_is_stripped_from_a_file() {
        #[track_caller]
        fn check(text: &[u8], want: Result<&[u8], SecretError>) {
            let seen = Secret::from_file_text(text);
            assert_eq!(seen.as_ref().map(Secret::as_bytes).map_err(|e| *e), want);
        }
        check(b"abc", Ok(b"abc"));
        check(b"abc\n", Ok(b"abc"));
        check(b"abc\r\n", Ok(b"abc"));
        check(b"abc\r", Ok(b"abc\r"));
        check(b"abc\n\n", Ok(b"abc\n"));
        check(b" abc \n", Ok(b" abc "));
        check(b"\xff\x00\n", Ok(b"\xff\x00"));
        check(b"", Err(SecretError::Empty));
        check(b"\n", Err(SecretError::Empty));
        check(b"\r\n", Err(SecretError::Empty));
        check(&[b'x'; SECRET_BYTES_MAX], Ok(&[b'x'; SECRET_BYTES_MAX]));
        check(&[b'x'; SECRET_BYTES_MAX + 1], Err(SecretError::TooLong));
    }

    // T25: debug output redacts.
    #[test]
    fn debug_shows_no_secret() {
        let credentials = one("alpha", "s3cret");
        let text = format!("{credentials:?} {:?}", credentials.secret("alpha"));
        assert_eq!(text, r#"{"alpha"} Some(Secret(redacted))"#);
    }

    #[test]
    fn names_that_no_user_could_send_are_refused() {
        #[track_caller]
        fn check(name: &str, want: Result<(), GroupError>) {
            assert_eq!(one("taken", "x").insert(name, Secret::new("y").expect("a secret")), want, "{name:?}");
        }
        check("fine", Ok(()));
        check("größe", Ok(()));
        check("", Err(GroupError::Length));
        check(&"n".repeat(GROUP_NAME_BYTES_MAX), Ok(()));
        check(&"n".repeat(GROUP_NAME_BYTES_MAX + 1), Err(GroupError::Length));
        check("a:b", Err(GroupError::Character));
        check("a\nb", Err(GroupError::Character));
        check("taken", Err(GroupError::Duplicate));
    }

    // T9, T10: whoever has lost a key is let in by it no longer, and who has kept it is left alone.
    #[test]
    fn keys_that_take_the_place_of_others_keep_those_that_did_not_change() {
        use crate::limits::DERIVE_MEMORY_KIB_MIN;
        use crate::proto::derive::{Cost, derive};
        let cost = Cost::new(DERIVE_MEMORY_KIB_MIN, 1, 1).expect("the least");
        let recipe = Recipe { salt: [1; 16], cost };
        let key = |secret: &str| {
            Derived::new(
                recipe,
                &derive(&Secret::new(secret).expect("a secret"), &recipe).expect("there is memory"),
            )
        };
        let file = |users: &[(&str, &str)], clients: &[(&str, &str, &str)]| {
            let mut credentials = one("plain", "s");
            for (group, secret) in users {
                credentials.insert_user(group, key(secret)).expect("there is room");
            }
            for (name, secret, groups) in clients {
                let grant = Arc::new(Grant::parse(groups, "").expect("a list"));
                credentials.insert_client(name, key(secret), grant).expect("there is room");
            }
            credentials
        };
        let names = ["same", "rekeyed", "regranted", "gone"];
        let former = file(&[("a", "1"), ("b", "1"), ("c", "1")], &names.map(|name| (name, "1", "a")));
        let mut new = file(
            &[("a", "1"), ("b", "2"), ("d", "1")],
            &[("same", "1", "a"), ("rekeyed", "2", "a"), ("regranted", "1", "a,b"), ("new", "1", "a")],
        );
        new.succeed(&former);
        for name in names {
            let grant = former.clients.get(name).map(|(_, grant)| grant);
            assert_eq!(former.admits((name, "a"), grant, None), Ok(()));
            let gone = Err("its key was taken out or changed");
            assert_eq!(
                new.admits((name, "a"), grant, None),
                if name == "same" { Ok(()) } else { gone },
                "{name}"
            );
        }
        // Those who came with the group's secret: one has a key of its own now, and another came when that was another secret.
        let secret = |text| Secret::new(text).expect("a secret");
        let by = |name, text| new.admits((name, "plain"), None, Some(&secret(text)));
        assert_eq!(by("other", "s"), Ok(()));
        assert_eq!(by("new", "s"), Err("its name has a key of its own now"));
        assert_eq!(by("other", "t"), Err("the password of its group was changed"));
        assert!(one("plain", "t").bars_users_of("plain", &former));
        assert_eq!(Credentials::new().admits(("any", ""), None, None), Ok(()), "an open gateway");
        let barred = |group| new.bars_users_of(group, &former);
        assert_eq!(["a", "b", "c", "d", "plain"].map(barred), [false, true, true, false, false]);
        assert_eq!(new.key_counts(), (3, 4));
        // Of clients no login knows.
        let same = file(&[("c", "1"), ("b", "1"), ("a", "1")], &[]);
        assert!(same.has_users_of(&former) && !new.has_users_of(&former));
        assert!(
            !one("plain", "t").has_users_of(&one("plain", "s")) && !one("plain", "s").has_users_of(&same)
        );
    }

    #[test]
    fn the_number_of_groups_is_bounded() {
        let mut credentials = Credentials::new();
        let secret = Secret::new("x").expect("a secret");
        for n in 0..GROUPS_MAX {
            credentials.insert(&n.to_string(), secret.clone()).expect("there is room");
        }
        assert_eq!(credentials.insert("more", secret), Err(GroupError::TooMany));
    }
}
