//! From a request target to what it asks for, and the bytes of `/bytes/N`.

use std::time::Duration;

use bytes::Bytes;

use crate::limits::SERVE_DELAY_MS_MAX;
use crate::proto::http::Target;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Page,
    Plaintext,
    Json,
    Health,
    Bytes(u64),
    Echo,
    /// Invariant: at most `SERVE_DELAY_MS_MAX`.
    Delay(Duration),
    /// A delay above the limit.
    DelayTooLong,
    /// The server as a whole: `*`.
    Server,
    /// Another host, for CONNECT, which is not done here.
    Tunnel,
    Unknown,
}

impl Route {
    pub(super) fn of(target: &Target<'_>) -> Route {
        let path = match *target {
            Target::Origin(path) => path,
            Target::Absolute { path_and_query, .. } => path_and_query,
            Target::Asterisk => return Route::Server,
            Target::Authority(_) => return Route::Tunnel,
        };
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        match path {
            "/plaintext" => Route::Plaintext,
            "/json" => Route::Json,
            "/" | "" => Route::Page,
            "/healthz" => Route::Health,
            "/echo" => Route::Echo,
            _ => {
                if let Some(n) = path.strip_prefix("/bytes/").and_then(number) {
                    return Route::Bytes(n);
                }
                match path.strip_prefix("/delay/").and_then(number) {
                    Some(ms) if ms > SERVE_DELAY_MS_MAX => Route::DelayTooLong,
                    Some(ms) => Route::Delay(Duration::from_millis(ms)),
                    None => Route::Unknown,
                }
            }
        }
    }

    /// The methods that go with it.
    pub(super) fn allow(self) -> &'static str {
        match self {
            Route::Echo => "POST",
            Route::Server => "OPTIONS",
            Route::Tunnel => "GET, HEAD, POST",
            _ => "GET, HEAD",
        }
    }

    pub(super) fn allows(self, method: &str) -> bool {
        match self {
            Route::Echo => method == "POST",
            Route::Server => method == "OPTIONS",
            Route::Tunnel => false,
            // What is not there is not there by any method.
            Route::Unknown => true,
            _ => matches!(method, "GET" | "HEAD"),
        }
    }
}

/// Digits and nothing else, as a u64.
fn number(text: &str) -> Option<u64> {
    // `parse` takes a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// How long the pattern is before it repeats: a prime, so that whatever power of two gets lost or changes places
/// shows in a checksum.
pub(super) const PATTERN_PERIOD: usize = 65_521;

static PATTERN: [u8; PATTERN_PERIOD] = pattern();

const fn pattern() -> [u8; PATTERN_PERIOD] {
    let mut bytes = [0; PATTERN_PERIOD];
    let (mut at, mut state) = (0, 0x9e37_79b9u32);
    while at < PATTERN_PERIOD {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes[at] = (state >> 24) as u8;
        at += 1;
    }
    bytes
}

/// The pattern from `position` on, as far as it goes in one piece, and `max` bytes at most. Nothing is copied.
pub(super) fn pattern_piece(position: u64, max: u64) -> Bytes {
    let at = (position % PATTERN_PERIOD as u64) as usize;
    let len = usize::try_from(max).unwrap_or(usize::MAX).min(PATTERN_PERIOD - at);
    Bytes::from_static(&PATTERN[at..at + len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_their_routes() {
        let ms = |n| Route::Delay(Duration::from_millis(n));
        for (target, want) in [
            ("/", Route::Page),
            ("/?q=1", Route::Page),
            ("/plaintext", Route::Plaintext),
            ("/plaintext?x", Route::Plaintext),
            ("/plaintext/", Route::Unknown),
            ("/json", Route::Json),
            ("/healthz", Route::Health),
            ("/echo", Route::Echo),
            ("/bytes/0", Route::Bytes(0)),
            ("/bytes/18446744073709551615", Route::Bytes(u64::MAX)),
            ("/bytes/18446744073709551616", Route::Unknown),
            ("/bytes/+1", Route::Unknown),
            ("/bytes/-1", Route::Unknown),
            ("/bytes/1.5", Route::Unknown),
            ("/bytes/", Route::Unknown),
            ("/bytes", Route::Unknown),
            ("/delay/0", ms(0)),
            ("/delay/600000", ms(600_000)),
            ("/delay/600001", Route::DelayTooLong),
            ("/delay/soon", Route::Unknown),
            ("/%70laintext", Route::Unknown),
        ] {
            assert_eq!(Route::of(&Target::Origin(target)), want, "{target}");
        }
        assert_eq!(Route::of(&Target::Asterisk), Route::Server);
    }

    #[test]
    fn the_pattern_goes_on_where_it_stopped_and_repeats_late() {
        let mut whole = Vec::new();
        while whole.len() < 3 * PATTERN_PERIOD {
            whole.extend_from_slice(&pattern_piece(whole.len() as u64, 10_000));
        }
        assert!(whole.iter().zip(&whole[PATTERN_PERIOD..]).all(|(a, b)| a == b));
        for power in 0..=16 {
            let shift = 1 << power;
            let same = whole.iter().zip(&whole[shift..]).take(PATTERN_PERIOD).filter(|(a, b)| a == b).count();
            assert!(same < PATTERN_PERIOD / 64, "shifted by {shift}, {same} bytes are the same");
        }
        assert_eq!(pattern_piece(u64::MAX, u64::MAX).len(), PATTERN_PERIOD - (u64::MAX % 65_521) as usize);
    }
}
