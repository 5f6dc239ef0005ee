//! Who may open a tunnel for a group: both sides prove that they know the group's secret, and neither sends it.
//!
//! A proof is HMAC-SHA256 under the secret over a label, the whole HELLO and WELCOME frames, which hold both nonces, the
//! group, the name, the versions, the features and the session id, and what binds it to the connection, where there is TLS. The labels differ by side, so a proof cannot be sent back to its maker; the nonces
//! differ by session, so it cannot be sent again; and nothing that the two sides agreed on can be altered under way.

use bytes::Bytes;
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

/// The proof that `prover` knows this secret, in the session that opened like this. Without a secret, which is how an open
/// gateway and its clients speak, it proves nothing.
pub fn prove(secret: Option<&Secret>, prover: Prover, transcript: &Transcript) -> Proof {
    let key = secret.map_or(&[][..], Secret::as_bytes);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(match prover {
        Prover::Client => b"anyproxy tunnel 1 client\0",
        Prover::Gateway => b"anyproxy tunnel 1 gateway",
    });
    // Frames say how long they are, so no two pairs of frames run together to the same bytes.
    mac.update(&transcript.hello);
    mac.update(&transcript.welcome);
    mac.update(transcript.binding.as_ref().map_or(&[][..], |binding| binding));
    mac.finalize().into_bytes().into()
}

/// Checks a client's proof; an unknown group takes the same path as a wrong secret. Gives the gateway's own proof.
///
/// An open gateway has one group, the nameless one, and takes everybody into it.
pub(super) fn check(
    credentials: &Credentials,
    group: &str,
    proof: &Proof,
    transcript: &Transcript,
) -> Option<Proof> {
    let secret = credentials.secret(group);
    let known = secret.is_some() || (credentials.is_open() && group.is_empty());
    let right = prove(secret, Prover::Client, transcript).ct_eq(proof);
    let ours = prove(secret, Prover::Gateway, transcript);
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
        let back = check(&credentials, "ops", &proof, &ours).expect("the right proof");
        assert_ne!(back, proof);
        assert_eq!(back, prove(Some(&secret("s")), Prover::Gateway, &ours));

        #[track_caller]
        fn refused(credentials: &Credentials, group: &str, proof: &Proof, transcript: &Transcript) {
            assert_eq!(check(credentials, group, proof, transcript), None);
        }
        refused(&credentials, "ops", &back, &ours);
        refused(&credentials, "ops", &proof, &opened(b"hello", b"Welcome", None));
        refused(&credentials, "ops", &proof, &opened(b"Hello", b"welcome", None));
        refused(&credentials, "ops", &proof, &opened(b"hello", b"welcome", Some([0; 32])));
        refused(&credentials, "dev", &proof, &ours);
        let bound = opened(b"hello", b"welcome", Some([1; 32]));
        let proof = prove(Some(&secret("s")), Prover::Client, &bound);
        assert!(check(&credentials, "ops", &proof, &bound).is_some());
        refused(&credentials, "ops", &proof, &opened(b"hello", b"welcome", Some([2; 32])));
        refused(&credentials, "ops", &proof, &ours);
        // A group that is not known has no secret, and that must never let anybody in.
        let empty = prove(None, Prover::Client, &ours);
        refused(&credentials, "dev", &empty, &ours);
        refused(&credentials, "", &empty, &ours);
        let open = Credentials::new();
        assert!(check(&open, "", &empty, &ours).is_some());
        refused(&open, "dev", &empty, &ours);
    }
}
