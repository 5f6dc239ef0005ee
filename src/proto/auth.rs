//! Who may open a tunnel for a group: both sides prove that they know the group's secret, and neither sends it.
//!
//! A proof is HMAC-SHA256 under the secret over a label, the whole HELLO and WELCOME frames, which hold both nonces, the
//! group, the name, the versions, the features and the session id, and what binds it to the connection, where there is TLS. The labels differ by side, so a proof cannot be sent back to its maker; the nonces
//! differ by session, so it cannot be sent again; and nothing that the two sides agreed on can be altered under way.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::credentials::{Claim, Secret};
use super::derive::Keys;

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

/// How a session opened.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// The whole HELLO frame.
    pub hello: Bytes,
    /// The whole WELCOME frame.
    pub welcome: Bytes,
    /// What binds the proofs to the connection. The features in both frames say whether there is any.
    pub binding: Option<[u8; 32]>,
}

impl Transcript {
    /// HMAC-SHA256 of all of it for one side.
    fn mac(&self, key: &[u8], prover: Prover) -> Proof {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        mac.update(match prover {
            Prover::Client => b"anyproxy tunnel 1 client\0",
            Prover::Gateway => b"anyproxy tunnel 1 gateway",
        });
        // Frames say how long they are, so no two pairs of frames run together to the same bytes.
        mac.update(&self.hello);
        mac.update(&self.welcome);
        mac.update(self.binding.as_ref().map_or(&[][..], |binding| binding));
        mac.finalize().into_bytes().into()
    }
}

/// The proof that `prover` knows this secret, in the session that opened like this. Without a secret, which is how an open
/// gateway and its clients speak, it proves nothing.
pub fn prove(secret: Option<&Secret>, prover: Prover, transcript: &Transcript) -> Proof {
    transcript.mac(secret.map_or(&[][..], Secret::as_bytes), prover)
}

/// What a client with derived keys proves itself with, and what the gateway must answer.
pub(super) fn prove_keys(keys: &Keys, transcript: &Transcript) -> (Proof, Proof) {
    let stored: [u8; 32] = Sha256::digest(*keys.client).into();
    let mask = transcript.mac(&stored, Prover::Client);
    (masked(&keys.client, &mask), transcript.mac(&*keys.gateway, Prover::Gateway))
}

fn masked(bytes: &[u8; 32], mask: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| bytes[i] ^ mask[i])
}

/// Checks a client's proof; who is not known takes the same path as one whose proof is wrong. Gives the gateway's own proof.
pub(super) fn check(claim: &Claim, proof: &Proof, transcript: &Transcript) -> Option<Proof> {
    let (right, known, ours) = match claim {
        Claim::Secret { secret, is_known } => {
            let right = prove(secret.as_deref(), Prover::Client, transcript).ct_eq(proof);
            (right, *is_known, prove(secret.as_deref(), Prover::Gateway, transcript))
        }
        Claim::Key { derived, grant } => {
            let mask = transcript.mac(&derived.stored, Prover::Client);
            let stored: [u8; 32] = Sha256::digest(masked(proof, &mask)).into();
            let ours = transcript.mac(&derived.gateway, Prover::Gateway);
            (stored.ct_eq(&derived.stored), grant.is_some(), ours)
        }
    };
    bool::from(right & Choice::from(u8::from(known))).then_some(ours)
}

/// Compares two proofs in constant time.
pub(super) fn same(a: &Proof, b: &Proof) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DERIVE_MEMORY_KIB_MIN;
    use crate::proto::credentials::Credentials;
    use crate::proto::derive::{Cost, Derived, Recipe, derive};
    use crate::proto::keys::Grant;
    use std::sync::Arc;

    fn secret(text: &str) -> Secret {
        Secret::new(text).expect("a good secret")
    }

    fn opened(hello: &'static [u8], welcome: &'static [u8], binding: Option<[u8; 32]>) -> Transcript {
        Transcript { hello: Bytes::from_static(hello), welcome: Bytes::from_static(welcome), binding }
    }

    // proves T10: a proof is good for one side of one session of one group, over one connection
    #[test]
    fn a_proof_is_bound_to_everything_it_covers() {
        let mut credentials = Credentials::new();
        credentials.insert("ops", secret("s")).expect("a good name");
        let ours = opened(b"hello", b"welcome", None);
        let proof = prove(Some(&secret("s")), Prover::Client, &ours);
        let back = check(&credentials.claim("n", "ops"), &proof, &ours).expect("the right proof");
        assert_ne!(back, proof);
        assert_eq!(back, prove(Some(&secret("s")), Prover::Gateway, &ours));

        #[track_caller]
        fn refused(credentials: &Credentials, group: &str, proof: &Proof, transcript: &Transcript) {
            assert_eq!(check(&credentials.claim("n", group), proof, transcript), None);
        }
        refused(&credentials, "ops", &back, &ours);
        refused(&credentials, "ops", &proof, &opened(b"hello", b"Welcome", None));
        refused(&credentials, "ops", &proof, &opened(b"Hello", b"welcome", None));
        refused(&credentials, "ops", &proof, &opened(b"hello", b"welcome", Some([0; 32])));
        refused(&credentials, "dev", &proof, &ours);
        let bound = opened(b"hello", b"welcome", Some([1; 32]));
        let proof = prove(Some(&secret("s")), Prover::Client, &bound);
        assert!(check(&credentials.claim("n", "ops"), &proof, &bound).is_some());
        refused(&credentials, "ops", &proof, &opened(b"hello", b"welcome", Some([2; 32])));
        refused(&credentials, "ops", &proof, &ours);
        // A group that is not known has no secret, and that must never let anybody in.
        let empty = prove(None, Prover::Client, &ours);
        refused(&credentials, "dev", &empty, &ours);
        refused(&credentials, "", &empty, &ours);
        let open = Credentials::new();
        assert!(check(&open.claim("n", ""), &empty, &ours).is_some());
        refused(&open, "dev", &empty, &ours);
    }

    // proves T10, T25: what the gateway keeps is no proof, and a proof is good for one session
    #[test]
    fn who_has_the_file_of_keys_cannot_prove_to_be_a_client() {
        let recipe =
            Recipe { salt: [3; 16], cost: Cost::new(DERIVE_MEMORY_KIB_MIN, 1, 1).expect("the least") };
        let keys = derive(&secret("s"), &recipe).expect("memory");
        let derived = Derived::new(recipe, &keys);
        let mut credentials = Credentials::new();
        let grant = Arc::new(Grant::parse("ops", "").expect("a group"));
        credentials.insert_client("edge", derived, grant).expect("there is room");
        let claim = |name: &str| credentials.claim(name, "ops");
        let ours = opened(b"hello", b"welcome", Some([1; 32]));
        let (proof, expected) = prove_keys(&keys, &ours);
        assert_eq!(check(&claim("edge"), &proof, &ours), Some(expected));

        let refused = |name: &str, proof: &Proof, transcript: &Transcript| {
            assert_eq!(check(&claim(name), proof, transcript), None);
        };
        refused("edge", &expected, &ours);
        for other in [
            opened(b"hellO", b"welcome", Some([1; 32])),
            opened(b"hello", b"welcomE", Some([1; 32])),
            opened(b"hello", b"welcome", Some([2; 32])),
            opened(b"hello", b"welcome", None),
        ] {
            refused("edge", &proof, &other);
        }
        refused("edge", &prove_keys(&derive(&secret("t"), &recipe).expect("memory"), &ours).0, &ours);
        // With the file: the stored key in place of the client's, the secret's own proof, the mask alone.
        let thief = Keys { client: derived.stored.into(), gateway: derived.gateway.into() };
        refused("edge", &prove_keys(&thief, &ours).0, &ours);
        refused("edge", &prove(Some(&secret("s")), Prover::Client, &ours), &ours);
        refused("edge", &ours.mac(&derived.stored, Prover::Client), &ours);
        // Nobody by that name: the same shape, the same salt each time, and no way in.
        let Claim::Key { derived: decoy, grant: None } = claim("nobody") else {
            panic!("it looks different")
        };
        let Claim::Key { derived: again, .. } = claim("nobody") else { panic!("it looks different") };
        assert_eq!((decoy.recipe, decoy.recipe.cost), (again.recipe, recipe.cost));
        assert_ne!(decoy.recipe.salt, recipe.salt);
        refused("nobody", &proof, &ours);
        let thief = Keys { client: decoy.stored.into(), gateway: decoy.gateway.into() };
        refused("nobody", &prove_keys(&thief, &ours).0, &ours);
    }
}
