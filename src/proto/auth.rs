//! Who may open a tunnel for a group: both sides prove that they know the group's secret, and neither sends it.
//!
//! A proof is HMAC-SHA256 under the secret over a label and the whole HELLO and WELCOME frames, which hold both nonces, the
//! group, the name, the versions and the session id. The labels differ by side, so a proof cannot be sent back to its maker; the nonces
//! differ by session, so it cannot be sent again; and nothing that the two sides agreed on can be altered under way.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use super::credentials::{Credentials, Secret};

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

/// The proof that `prover` knows this secret, in the session that opened with these frames. Without a secret, which is how an open
/// gateway and its clients speak, it proves nothing.
pub fn prove(secret: Option<&Secret>, prover: Prover, hello: &[u8], welcome: &[u8]) -> Proof {
    let key = secret.map_or(&[][..], Secret::as_bytes);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(match prover {
        Prover::Client => b"anyproxy tunnel 1 client\0",
        Prover::Gateway => b"anyproxy tunnel 1 gateway",
    });
    // Frames say how long they are, so no two pairs of frames run together to the same bytes.
    mac.update(hello);
    mac.update(welcome);
    mac.finalize().into_bytes().into()
}

/// Checks a client's proof; an unknown group takes the same path as a wrong secret. Gives the gateway's own proof.
///
/// An open gateway has one group, the nameless one, and takes everybody into it.
pub(super) fn check(
    credentials: &Credentials,
    group: &str,
    proof: &Proof,
    hello: &[u8],
    welcome: &[u8],
) -> Option<Proof> {
    let secret = credentials.secret(group);
    let known = secret.is_some() || (credentials.is_open() && group.is_empty());
    let right = prove(secret, Prover::Client, hello, welcome).ct_eq(proof);
    let ours = prove(secret, Prover::Gateway, hello, welcome);
    bool::from(right & Choice::from(u8::from(known))).then_some(ours)
}

/// Compares two proofs in constant time.
pub(super) fn same(a: &Proof, b: &Proof) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text).expect("a good secret")
    }

    // proves T10: a proof is good for one side of one session of one group
    #[test]
    fn a_proof_is_bound_to_everything_it_covers() {
        let mut credentials = Credentials::new();
        credentials.insert("ops", secret("s")).expect("a good name");
        let proof = prove(Some(&secret("s")), Prover::Client, b"hello", b"welcome");
        let back = check(&credentials, "ops", &proof, b"hello", b"welcome").expect("the right proof");
        assert_ne!(back, proof);
        assert_eq!(back, prove(Some(&secret("s")), Prover::Gateway, b"hello", b"welcome"));

        #[track_caller]
        fn refused(credentials: &Credentials, group: &str, proof: &Proof, hello: &[u8], welcome: &[u8]) {
            assert_eq!(check(credentials, group, proof, hello, welcome), None);
        }
        refused(&credentials, "ops", &back, b"hello", b"welcome");
        refused(&credentials, "ops", &proof, b"hello", b"Welcome");
        refused(&credentials, "ops", &proof, b"Hello", b"welcome");
        refused(&credentials, "dev", &proof, b"hello", b"welcome");
        // A group that is not known has no secret, and that must never let anybody in.
        let empty = prove(None, Prover::Client, b"hello", b"welcome");
        refused(&credentials, "dev", &empty, b"hello", b"welcome");
        refused(&credentials, "", &empty, b"hello", b"welcome");
        let open = Credentials::new();
        assert!(check(&open, "", &empty, b"hello", b"welcome").is_some());
        refused(&open, "dev", &empty, b"hello", b"welcome");
    }
}
