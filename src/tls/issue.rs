//! `anyproxy cert`: a certificate that vouches for itself, to be named with `--pin` or `--ca`.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

use super::{Identity, Pin};
use crate::secret_file;

/// A certificate and its key, made just now.
pub struct Issued {
    /// The certificate in PEM.
    pub cert: String,
    /// Its key in PEM. Not for printing.
    key: String,
    /// The key's fingerprint.
    pub pin: Pin,
}

/// Makes a certificate for these names and addresses, valid from a day before `now` on (clocks differ) for `days` from now.
///
/// # Errors
/// When a name cannot stand in a certificate, or the dates cannot be written: a line that says so.
pub fn issue(names: &[String], days: u32, now: SystemTime) -> Result<Issued, String> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let mut params = CertificateParams::new(names).map_err(|error| format!("{names:?}: {error}"))?;
    let since = now.duration_since(UNIX_EPOCH).map_err(|_before| "the clock is before 1970".to_owned())?;
    let date = |since: Duration| time::OffsetDateTime::UNIX_EPOCH.checked_add(since.try_into().ok()?);
    let end = since.checked_add(DAY * days).and_then(date);
    params.not_before = date(since.saturating_sub(DAY)).ok_or("the clock is wrong")?;
    params.not_after = end.ok_or_else(|| format!("{days} days are too many"))?;
    let name = names.first().map_or("anyproxy", String::as_str);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // One certificate for either side: a client can show one as well.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let cert = params.self_signed(&key).map_err(|error| error.to_string())?;
    Ok(Issued {
        pin: Pin::of(cert.der()).map_err(|error| error.to_string())?,
        cert: pem("CERTIFICATE", cert.der()),
        key: pem("PRIVATE KEY", key.serialized_der()),
    })
}

impl Issued {
    /// Writes both, the key readable by its owner alone. Neither file may be there already.
    ///
    /// # Errors
    /// When one of them is, or cannot be written: the error names it.
    pub fn write(&self, Identity { cert, key }: &Identity) -> io::Result<()> {
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        secret_file::create(key, 0o600, self.key.as_bytes()).map_err(|error| named(key, error))?;
        secret_file::create(cert, 0o644, self.cert.as_bytes()).map_err(|error| {
            // A key without its certificate would stand in the way of the next try.
            match std::fs::remove_file(key) {
                Ok(()) => named(cert, error),
                Err(left) => named(key, left),
            }
        })
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let words = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in words.as_bytes().chunks(64) {
        text.extend(line.iter().map(|&byte| char::from(byte)));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}
