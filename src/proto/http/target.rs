//! Request targets in their four forms (RFC 9112 section 3.2), and the authority in them and in Host.
//!
//! Targets are taken as they are and never decoded. Bytes that no URI holds and that invite misreading are
//! refused: everything outside printable ASCII, `"`, `<`, `>`, `\` and the fragment's `#`. The brackets, braces, bar,
//! caret and backtick that browsers leave unescaped pass, as does a `%` without digits: they mislead nobody.

use std::net::Ipv6Addr;

use super::Reject;
use crate::limits::http::HOST_MAX_BYTES;

/// A host, as written, and its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: &'a str,
    /// The port, if one was written. Invariant: port != Some(0).
    pub port: Option<u16>,
    /// `host` stood in brackets.
    pub bracketed: bool,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A path, with its query, on the server that is asked. Invariant: begins with `/`.
    Origin(&'a str),
    /// A whole `http` URI, as a proxy is asked.
    Absolute {
        /// Where it points.
        authority: Authority<'a>,
        /// The rest: empty, or beginning with `/` or `?`.
        path_and_query: &'a str,
    },
    /// Host and port, for CONNECT. Invariant: the port is there.
    Authority(Authority<'a>),
    /// `*`, for OPTIONS: the server as a whole.
    Asterisk,
}

impl<'a> Target<'a> {
    /// Reads the target of a request with `method`.
    pub(crate) fn parse(method: &str, target: &'a [u8]) -> Result<Self, Reject> {
        for &byte in target {
            match byte {
                b'#' => return Err(Reject::bad("fragment in the request target")),
                b'"' | b'<' | b'>' | b'\\' => {
                    return Err(Reject::bad("forbidden character in the request target"));
                }
                0x21..=0x7e => {}
                _ => return Err(Reject::bad("forbidden byte in the request target")),
            }
        }
        let target = str::from_utf8(target).map_err(|_| Reject::bad("request target is not ASCII"))?;
        if method == "CONNECT" {
            let authority = Authority::parse(target.as_bytes())?;
            return match authority.port {
                Some(_) => Ok(Target::Authority(authority)),
                None => Err(Reject::bad("CONNECT without a port")),
            };
        }
        if target.starts_with('/') {
            return Ok(Target::Origin(target));
        }
        if target == "*" {
            return match method {
                "OPTIONS" => Ok(Target::Asterisk),
                _ => Err(Reject::bad("the target * is for OPTIONS only")),
            };
        }
        let Some((scheme, rest)) = target.split_once("://") else {
            return Err(Reject::bad("request target is neither a path nor an absolute URI"));
        };
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(Reject::bad(
                "only http:// can be asked for in absolute form; https:// goes by CONNECT",
            ));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at(end);
        Ok(Target::Absolute { authority: Authority::parse(authority.as_bytes())?, path_and_query })
    }
}

impl<'a> Authority<'a> {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`. An empty port (`host:`) counts as none.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, Reject> {
        let text = str::from_utf8(text).map_err(|_| Reject::bad("host is not ASCII"))?;
        if text.contains('@') {
            return Err(Reject::bad("user information in a host"));
        }
        let (host, rest, bracketed) = match text.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) =
                    inner.split_once(']').ok_or(Reject::bad("bracket never closed in a host"))?;
                if host.parse::<Ipv6Addr>().is_err() {
                    return Err(Reject::bad("bad IPv6 address"));
                }
                (host, rest, true)
            }
            None => {
                let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                if host.is_empty() {
                    return Err(Reject::bad("empty host"));
                }
                if host.len() > HOST_MAX_BYTES {
                    return Err(Reject::bad("host name too long"));
                }
                if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
                {
                    return Err(Reject::bad("forbidden character in a host"));
                }
                (host, rest, false)
            }
        };
        let port = match rest.strip_prefix(':') {
            Some("") => None,
            Some(digits) => Some(port(digits)?),
            None if rest.is_empty() => None,
            None => return Err(Reject::bad("text after the address in a host")),
        };
        Ok(Self { host, port, bracketed })
    }
}

fn port(digits: &str) -> Result<u16, Reject> {
    let bad = Reject::bad("bad port");
    // `parse` takes a sign, the grammar does not.
    if digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(bad),
        Ok(port) => Ok(port),
    }
}
