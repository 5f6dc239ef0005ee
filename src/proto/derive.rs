//! Keys that are derived from a password, so that what the gateway keeps is of no use to whoever steals it.
//!
//! ```text
//!   password, Recipe ──Argon2id──▶ K ──HMAC "client"──▶ client key ──SHA-256──▶ stored key ─┐
//!                                  └───HMAC "gateway"─▶ gateway key ────────────────────────┴▶ Derived, in the gateway's file
//! ```
//! It is the shape of SCRAM (RFC 5802) with Argon2id (RFC 9106) for its slow part:
//!
//! * Who has the file cannot prove to be a client, because that takes the client key, and only its hash is there.
//! * Who has the file can pretend to be the gateway, as whoever has the gateway can. Under TLS that takes the certificate's key as well.
//! * A proof shows the client key under a mask that only this one session has, and the gateway takes the mask off again.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::credentials::Secret;
use crate::limits::{DERIVE_LANES_MAX, DERIVE_MEMORY_KIB_MAX, DERIVE_MEMORY_KIB_MIN, DERIVE_PASSES_MAX};

/// How a key is derived: what both sides of a tunnel need to know. No secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// Drawn at random for each password.
    pub salt: [u8; 16],
    /// How hard it is.
    pub cost: Cost,
}

/// How much memory and time one guess takes.
///
/// Invariants: DERIVE_MEMORY_KIB_MIN <= memory_kib <= DERIVE_MEMORY_KIB_MAX, 1 <= passes <= DERIVE_PASSES_MAX,
/// 1 <= lanes <= DERIVE_LANES_MAX. So neither can a gateway have a client do any amount of work, nor make its guesses cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Default for Cost {
    /// What RFC 9106 and OWASP have for servers: 19 MiB, two passes, one lane; a few hundredths of a second.
    fn default() -> Cost {
        Cost { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

impl Cost {
    /// A cost within the limits; `None` beyond them.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Option<Cost> {
        let fits = (DERIVE_MEMORY_KIB_MIN..=DERIVE_MEMORY_KIB_MAX).contains(&memory_kib)
            && (1..=DERIVE_PASSES_MAX).contains(&passes)
            && (1..=DERIVE_LANES_MAX).contains(&lanes);
        fits.then_some(Cost { memory_kib, passes, lanes })
    }

    /// Memory in KiB, passes, lanes.
    pub fn parts(self) -> [u32; 3] {
        [self.memory_kib, self.passes, self.lanes]
    }
}

/// What a client proves a session with. It does not show itself in debug output, and its memory is cleared when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub(super) client: Zeroizing<[u8; 32]>,
    pub(super) gateway: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(redacted)")
    }
}

/// What the gateway keeps of a password. Written as `$argon2id$v=19$m=M,t=T,p=P$SALT$STORED$GATEWAY`, the last three in base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Derived {
    /// How it came about.
    pub recipe: Recipe,
    pub(super) stored: [u8; 32],
    pub(super) gateway: [u8; 32],
}

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

/// There is no memory for a derivation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory {
    kib: u32,
}

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory to derive a key, which takes {} KiB", self.kib)
    }
}

impl std::error::Error for NoMemory {}

/// Derives the keys of a password. This is meant to take long: not for a thread that others wait for.
///
/// # Errors
/// When the system does not give the memory that the recipe wants.
pub fn derive(secret: &Secret, recipe: &Recipe) -> Result<Keys, NoMemory> {
    let [memory_kib, passes, lanes] = recipe.cost.parts();
    let params = Params::new(memory_kib, passes, lanes, Some(32))
        .expect("a cost within our limits is one of Argon2's");
    let mut key = Zeroizing::new([0; 32]);
    match Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
        secret.as_bytes(),
        &recipe.salt,
        &mut *key,
    ) {
        Err(argon2::Error::OutOfMemory) => return Err(NoMemory { kib: memory_kib }),
        done => done.expect("lengths within our limits are some of Argon2's"),
    }
    let half = |label: &[u8]| -> Zeroizing<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes a key of any length");
        mac.update(label);
        Zeroizing::new(mac.finalize().into_bytes().into())
    };
    Ok(Keys { client: half(b"anyproxy client key"), gateway: half(b"anyproxy gateway key") })
}

impl Derived {
    /// What is to be kept of these keys.
    pub fn new(recipe: Recipe, keys: &Keys) -> Derived {
        Derived { recipe, stored: Sha256::digest(*keys.client).into(), gateway: *keys.gateway }
    }

    /// What nobody has the keys of.
    pub(super) fn unknown(recipe: Recipe, stored: [u8; 32], gateway: [u8; 32]) -> Derived {
        Derived { recipe, stored, gateway }
    }

    /// Reads the written form.
    ///
    /// # Errors
    /// When it is another one, or its cost is beyond the limits: what is wrong, without the text itself.
    pub fn parse(text: &str) -> Result<Derived, &'static str> {
        const FORM: &str = "want $argon2id$v=19$m=..,t=..,p=..$SALT$KEY$KEY, as anyproxy passwd prints it";
        let mut parts = text.strip_prefix("$argon2id$v=19$").ok_or(FORM)?.split('$');
        let mut next = || parts.next().ok_or(FORM);
        let (cost, salt, stored, gateway) = (next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(FORM);
        }
        let mut numbers = cost.split(',');
        let mut number = |name: &str| -> Result<u32, &'static str> {
            numbers.next().and_then(|pair| pair.strip_prefix(name)?.parse().ok()).ok_or(FORM)
        };
        let cost = Cost::new(number("m=")?, number("t=")?, number("p=")?);
        if numbers.next().is_some() {
            return Err(FORM);
        }
        let cost = cost.ok_or("its memory, passes or lanes are beyond the limits")?;
        Ok(Derived {
            recipe: Recipe { salt: decode(salt).ok_or(FORM)?, cost },
            stored: decode(stored).ok_or(FORM)?,
            gateway: decode(gateway).ok_or(FORM)?,
        })
    }

    /// The written form. It is not the password, but guesses can be tried on it: not for logs.
    pub fn written(&self) -> String {
        let [memory_kib, passes, lanes] = self.recipe.cost.parts();
        let [salt, stored, gateway] =
            [&self.recipe.salt[..], &self.stored, &self.gateway].map(|part| STANDARD_NO_PAD.encode(part));
        format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${stored}${gateway}")
    }

    /// Whether these keys are those that it was made of, in constant time.
    pub fn matches(&self, keys: &Keys) -> bool {
        use subtle::ConstantTimeEq as _;
        let stored: [u8; 32] = Sha256::digest(*keys.client).into();
        stored.ct_eq(&self.stored).into()
    }
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Recipe {
        Recipe { salt: [7; 16], cost: Cost::new(DERIVE_MEMORY_KIB_MIN, 1, 1).expect("the least") }
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text).expect("a secret")
    }

    fn keys_of(text: &str, recipe: Recipe) -> Keys {
        derive(&secret(text), &recipe).expect("there is memory")
    }

    // Vectors of RFC 9106 need a key and associated data, which are none of ours; this holds the shape and the inputs together.
    #[test]
    fn everything_that_goes_in_counts() {
        let keys = keys_of("s", cheap());
        assert_eq!(keys, keys_of("s", cheap()));
        assert_ne!(keys.client, keys.gateway);
        assert_ne!(keys, keys_of("t", cheap()));
        assert_ne!(keys, keys_of("s", Recipe { salt: [8; 16], ..cheap() }));
        for (memory, passes, lanes) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
            let cost =
                Cost::new(DERIVE_MEMORY_KIB_MIN + memory, 1 + passes, 1 + lanes).expect("within limits");
            assert_ne!(keys, keys_of("s", Recipe { cost, ..cheap() }), "{cost:?}");
        }
        let derived = Derived::new(cheap(), &keys);
        assert!(derived.matches(&keys) && !derived.matches(&keys_of("t", cheap())));
        assert_eq!(format!("{keys:?}"), "Keys(redacted)");
        assert!(!format!("{derived:?}").contains("stored"));
    }

    #[test]
    fn the_written_form_reads_as_it_was_written() {
        let derived = Derived::new(cheap(), &keys_of("s", cheap()));
        let text = derived.written();
        assert_eq!(Derived::parse(&text), Ok(derived));
        for len in 0..text.len() {
            assert!(Derived::parse(&text[..len]).is_err(), "{len}");
        }
        let wrong =
            |from: &str, to: &str| Derived::parse(&text.replacen(from, to, 1)).expect_err("another form");
        for (from, to) in [
            ("argon2id", "argon2i"),
            ("v=19", "v=16"),
            (",p=1", ",p=1,x=1"),
            ("t=1", "t=-1"),
            ("$BwcH", "$B=cH"),
            ("$BwcH", "$AAAABwcH"),
        ] {
            assert!(wrong(from, to).starts_with("want $argon2id"), "{from} {to}");
        }
        assert!(Derived::parse(&format!("{text}$")).is_err());
        let most = [DERIVE_MEMORY_KIB_MAX, DERIVE_PASSES_MAX, DERIVE_LANES_MAX];
        assert!(Cost::new(most[0], most[1], most[2]).is_some());
        for beyond in 0..3 {
            let mut cost = most;
            cost[beyond] += 1;
            assert_eq!(Cost::new(cost[0], cost[1], cost[2]), None);
            let mut cost = [DERIVE_MEMORY_KIB_MIN, 1, 1];
            cost[beyond] -= 1;
            assert_eq!(Cost::new(cost[0], cost[1], cost[2]), None);
        }
        assert!(wrong("t=1", &format!("t={}", most[1] + 1)).contains("beyond the limits"));
    }
}
