//! Messages written anew for the next hop (RFC 9110 section 7.6): what concerned this connection alone is left out, and
//! framing, Host, Via and Connection are our own. Nothing of the framing that was received is ever passed on.

use std::time::SystemTime;

use linkbuffer::LinkBuffer;

use super::fields::{list, trim};
use super::write::{decimal, http_date, write_field, write_length};
use super::{Authority, Field, Framing, RequestHead, ResponseHead, Version};

/// Fields about one connection, and those that are always written anew.
const HOP_BY_HOP: [&str; 13] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "http2-settings",
    "host",
    "max-forwards",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
];

/// Trailer fields that would change what the head said, and so are not passed on.
const NOT_IN_TRAILERS: [&str; 14] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "location",
    "range",
    "set-cookie",
    "trailer",
    "via",
];

/// The fields of `fields` that go on to the next hop, in order.
fn passed_on<'h, 'a>(fields: &'h [Field<'a>]) -> impl Iterator<Item = &'h Field<'a>> {
    fields
        .iter()
        .filter(move |field| !is_hop_by_hop(field.name) && !is_named_in_connection(fields, field.name))
}

fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|own| own.eq_ignore_ascii_case(name))
}

fn is_named_in_connection(fields: &[Field<'_>], name: &str) -> bool {
    values(fields, "connection").flat_map(list).any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
}

/// The values of every field called `name`.
pub(super) fn values<'a>(fields: &[Field<'a>], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// The request has already passed through the proxy that calls itself `via`.
pub(super) fn passed_through(fields: &[Field<'_>], via: &str) -> bool {
    values(fields, "via").flat_map(list).any(|hop| {
        let received_by = hop.split(|&b| b == b' ' || b == b'\t').filter(|word| !word.is_empty()).nth(1);
        received_by.is_some_and(|name| name.eq_ignore_ascii_case(via.as_bytes()))
    })
}

fn write_via(out: &mut LinkBuffer, version: Version, via: &str) {
    let version = match version {
        Version::Http10 => "1.0 ",
        Version::Http11 => "1.1 ",
    };
    out.write(b"Via: ");
    out.write(version.as_bytes());
    out.write(via.as_bytes());
    out.write(b"\r\n");
}

fn write_framing(out: &mut LinkBuffer, body: Framing) {
    match body {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(n) => write_length(out, n),
        Framing::Chunked => out.write(b"Transfer-Encoding: chunked\r\n"),
    }
}

fn write_upgrade(out: &mut LinkBuffer, fields: &[Field<'_>]) {
    for protocols in values(fields, "upgrade") {
        write_field(out, "Upgrade", protocols);
    }
    out.write(b"Connection: upgrade\r\n");
}

/// A request in absolute form, as its target gets it. `max_forwards` is the value to pass on.
pub(super) fn write_request(
    out: &mut LinkBuffer,
    head: &RequestHead<'_, '_>,
    authority: Authority<'_>,
    path_and_query: &str,
    max_forwards: Option<u64>,
    via: &str,
) {
    out.write(head.method.as_bytes());
    out.write(b" ");
    match path_and_query.as_bytes() {
        // The last proxy turns an OPTIONS without a path into one about the server (RFC 9112 section 3.2.4).
        b"" if head.method == "OPTIONS" => out.write(b"*"),
        [b'/', ..] => out.write(path_and_query.as_bytes()),
        _ => {
            out.write(b"/");
            out.write(path_and_query.as_bytes());
        }
    }
    out.write(b" HTTP/1.1\r\nHost: ");
    write_authority(out, authority);
    out.write(b"\r\n");
    for field in passed_on(head.fields) {
        // An expectation that we did not take for one (HTTP/1.0, no body) would make the target wait.
        if head.expect_continue || !field.name.eq_ignore_ascii_case("expect") {
            write_field(out, field.name, field.value);
        }
    }
    if let Some(n) = max_forwards {
        write_field(out, "Max-Forwards", decimal(n, &mut [0; 20]));
    }
    write_via(out, head.version, via);
    match head.body {
        Framing::None if matches!(head.method, "POST" | "PUT" | "PATCH") => write_length(out, 0),
        body => write_framing(out, body),
    }
    match asks_upgrade(head) {
        true => write_upgrade(out, head.fields),
        false => out.write(b"Connection: close\r\n"),
    }
    out.write(b"\r\n");
}

/// Whether an offer to change the protocol is passed on: not together with a body, which would have to end first.
pub(super) fn asks_upgrade(head: &RequestHead<'_, '_>) -> bool {
    head.upgrade && head.body == Framing::None
}

fn write_authority(out: &mut LinkBuffer, authority: Authority<'_>) {
    let (open, close): (&[u8], &[u8]) = if authority.bracketed { (b"[", b"]") } else { (b"", b"") };
    out.write(open);
    out.write(authority.host.as_bytes());
    out.write(close);
    if let Some(port) = authority.port.filter(|&port| port != 80) {
        out.write(b":");
        out.write(decimal(u64::from(port), &mut [0; 20]));
    }
}

/// How a response goes on to the user.
pub(super) struct ToUser<'a> {
    pub(super) body: Framing,
    pub(super) keep_alive: bool,
    /// For the Date that is added where the target sent none.
    pub(super) wall: SystemTime,
    pub(super) via: &'a str,
}

/// A response, as the user gets it.
pub(super) fn write_response(out: &mut LinkBuffer, head: &ResponseHead<'_, '_>, to: &ToUser<'_>) {
    out.write(b"HTTP/1.1 ");
    out.write(decimal(u64::from(head.status), &mut [0; 20]));
    out.write(b" ");
    out.write(head.reason);
    out.write(b"\r\n");
    for field in passed_on(head.fields) {
        write_field(out, field.name, field.value);
    }
    write_via(out, head.version, to.via);
    let interim = matches!(head.status, 100..=199);
    if !interim && values(head.fields, "date").next().is_none() {
        write_field(out, "Date", http_date(to.wall).as_bytes());
    }
    write_framing(out, to.body);
    if head.status == 101 {
        write_upgrade(out, head.fields);
    } else if !interim && !to.keep_alive {
        out.write(b"Connection: close\r\n");
    }
    out.write(b"\r\n");
}

/// Of `trailers`, the lines that may follow a body to the next hop.
pub(super) fn trailers_passed_on(trailers: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    for line in trailers.split_inclusive(|&b| b == b'\n') {
        let name = line.split(|&b| b == b':').next().map(trim).unwrap_or_default();
        let Ok(name) = str::from_utf8(name) else { continue };
        if !is_hop_by_hop(name) && !NOT_IN_TRAILERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            kept.extend_from_slice(line);
        }
    }
    kept
}
