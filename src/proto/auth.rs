//! Who may open a tunnel for a group: both sides prove that they know the group's secret, and neither sends it.
//!
//! A proof is HMAC-SHA256 under the secret over a label and the whole HELLO and WELCOME frames, which hold both nonces, the
//! group, the name, the versions and the session id. The labels differ by side, so a proof cannot be sent back to its maker; the nonces
//! differ by session, so it cannot be sent again; and nothing that the two sides agreed on can be altered under way.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::HashMap;
use std::fmt;
use subtle::{Choice, ConstantTimeEq};

/// The bytes of a proof.
pub type Proof = [u8; 32];

/// Which side a proof speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prover {
    /// The client, in AUTH.
    Client,
    /// The gateway, in AUTH_OK.
    Gateway,
}

/// A group's secret. Its bytes never appear in a log or a panic.
#[derive(Clone, Default)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// A secret of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into().into_boxed_slice())
    }

    /// Whether two secrets are equal, in a time that does not tell where they differ.
    pub fn matches(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The proof that `prover` knows this secret, in the session that opened with these frames.
    pub fn prove(&self, prover: Prover, hello: &[u8], welcome: &[u8]) -> Proof {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(match prover {
            Prover::Client => b"anyproxy tunnel 1 client\0",
            Prover::Gateway => b"anyproxy tunnel 1 gateway",
        });
        // Frames say how long they are, so no two pairs of frames run together to the same bytes.
        mac.update(hello);
        mac.update(welcome);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The groups that a gateway knows, with their secrets.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    groups: HashMap<String, Secret>,
}

impl Credentials {
    /// No group: nobody gets in.
    pub fn new() -> Self {
        Self::default()
    }

    /// The empty group with an empty secret: anybody gets in. For listeners that only this machine reaches.
    pub fn open() -> Self {
        let mut open = Self::default();
        open.insert("", Secret::default());
        open
    }

    /// Adds a group, or changes its secret.
    pub fn insert(&mut self, group: impl Into<String>, secret: Secret) {
        self.groups.insert(group.into(), secret);
    }

    /// The secret of a group.
    pub fn secret(&self, group: &str) -> Option<&Secret> {
        self.groups.get(group)
    }

    /// Checks a client's proof; an unknown group takes the same path as a wrong secret. Gives the gateway's own proof.
    pub(super) fn check(&self, group: &str, proof: &Proof, hello: &[u8], welcome: &[u8]) -> Option<Proof> {
        let nobody = Secret::default();
        let (secret, known) = match self.groups.get(group) {
            Some(secret) => (secret, Choice::from(1)),
            None => (&nobody, Choice::from(0)),
        };
        let right = secret.prove(Prover::Client, hello, welcome).ct_eq(proof);
        let ours = secret.prove(Prover::Gateway, hello, welcome);
        bool::from(right & known).then_some(ours)
    }
}

/// Compares two proofs in constant time.
pub(super) fn same(a: &Proof, b: &Proof) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let mut credentials = Credentials::new();
        credentials.insert("ops", Secret::new("hunter2"));
        let shown = format!("{credentials:?} {:?}", credentials.secret("ops"));
        assert!(!shown.contains("hunter2") && shown.contains("Secret(..)"), "{shown}");
    }

    // proves T10: a proof is good for one side of one session of one group
    #[test]
    fn a_proof_is_bound_to_everything_it_covers() {
        let mut credentials = Credentials::new();
        credentials.insert("ops", Secret::new("s"));
        let proof = Secret::new("s").prove(Prover::Client, b"hello", b"welcome");
        let back = credentials.check("ops", &proof, b"hello", b"welcome").expect("the right proof");
        assert_ne!(back, proof);
        assert_eq!(back, Secret::new("s").prove(Prover::Gateway, b"hello", b"welcome"));

        #[track_caller]
        fn refused(credentials: &Credentials, group: &str, proof: &Proof, hello: &[u8], welcome: &[u8]) {
            assert_eq!(credentials.check(group, proof, hello, welcome), None);
        }
        refused(&credentials, "ops", &back, b"hello", b"welcome");
        refused(&credentials, "ops", &proof, b"hello", b"Welcome");
        refused(&credentials, "ops", &proof, b"Hello", b"welcome");
        refused(&credentials, "dev", &proof, b"hello", b"welcome");
        // An unknown group is checked against a stand-in that must never let anybody in.
        let empty = Secret::default().prove(Prover::Client, b"hello", b"welcome");
        refused(&credentials, "dev", &empty, b"hello", b"welcome");
        assert!(Credentials::open().check("", &empty, b"hello", b"welcome").is_some());
    }
}
