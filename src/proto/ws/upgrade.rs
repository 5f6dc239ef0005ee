//! The HTTP heads that turn a connection into a WebSocket (RFC 6455, section 4).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use httparse::{EMPTY_HEADER, Header, Status};
use tungstenite::handshake::derive_accept_key;

use super::{Error, SUBPROTOCOL, TUNNEL_PATH};
use crate::limits::{WEBSOCKET_HEAD_BYTES_MAX, WEBSOCKET_HEADERS_MAX};

/// A request that was taken.
pub(super) struct Accepted {
    pub(super) head_len: usize,
    pub(super) answer: String,
}

/// A request that was not.
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) answer: String,
}

/// What a client asks for.
pub(super) fn request(host: &str, path: &str, key: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    )
}

/// Reads what a client asks for; `None` is "wait for more". Whoever is not a client of ours
/// (a browser, a health check, a scanner) is told in plain HTTP what this port is.
pub(super) fn read_request(bytes: &[u8]) -> Result<Option<Accepted>, Refused> {
    let mut fields = [EMPTY_HEADER; WEBSOCKET_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let head_len = match request.parse(bytes) {
        Ok(Status::Partial) => return Ok(None),
        Ok(Status::Complete(head_len)) => head_len,
        Err(httparse::Error::TooManyHeaders) => {
            return Err(refuse(431, &format!("The head has more than {WEBSOCKET_HEADERS_MAX} fields.")));
        }
        Err(_) => return Err(refuse(400, "This is not an HTTP request.")),
    };
    let fields = Fields(request.headers);
    if request.version != Some(1) {
        return Err(refuse(505, "The tunnel wants HTTP/1.1."));
    }
    if fields.one("host").is_none() {
        return Err(refuse(400, "There has to be one Host."));
    }
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some(TUNNEL_PATH) {
        return Err(refuse(404, "There is nothing here but the tunnel."));
    }
    if request.method != Some("GET") {
        return Err(refuse(405, "The tunnel wants GET."));
    }
    let has_body =
        fields.has("transfer-encoding") || fields.all("content-length").any(|length| length != b"0");
    if has_body {
        return Err(refuse(400, "A request to upgrade has no body."));
    }
    if !fields.has_token("connection", "upgrade") || !fields.has_token("upgrade", "websocket") {
        return Err(refuse(426, "This is a tunnel's port: it wants a WebSocket."));
    }
    if fields.one("sec-websocket-version") != Some(b"13") {
        return Err(refuse(426, "The tunnel wants version 13 of the WebSocket protocol."));
    }
    let key = fields.one("sec-websocket-key").filter(|key| is_key(key));
    let Some(key) = key else {
        return Err(refuse(400, "There has to be one Sec-WebSocket-Key of 16 bytes."));
    };
    let accept = derive_accept_key(key);
    let protocol = if fields.has_exact_token("sec-websocket-protocol", SUBPROTOCOL) {
        format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n")
    } else {
        String::new()
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    );
    Ok(Some(Accepted { head_len, answer }))
}

/// The answer to a head that does not end.
pub(super) fn head_too_long() -> Refused {
    refuse(431, &format!("The head is longer than {WEBSOCKET_HEAD_BYTES_MAX} bytes."))
}

/// Reads what a server answered to this key; `None` is "wait for more".
pub(super) fn read_response(bytes: &[u8], key: &str) -> Result<Option<usize>, Error> {
    let mut fields = [EMPTY_HEADER; WEBSOCKET_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let head_len = match response.parse(bytes) {
        Ok(Status::Partial) => return Ok(None),
        Ok(Status::Complete(head_len)) => head_len,
        Err(httparse::Error::TooManyHeaders) => return Err(Error::Upgrade("the head has too many fields")),
        Err(_) => return Err(Error::Upgrade("the answer is not HTTP")),
    };
    let fields = Fields(response.headers);
    match response.code {
        Some(101) => {}
        Some(status) => return Err(Error::Status(status)),
        None => return Err(Error::Upgrade("the answer has no status")),
    }
    if !fields.has_token("upgrade", "websocket") || !fields.has_token("connection", "upgrade") {
        return Err(Error::Upgrade("the answer upgrades to something else"));
    }
    if fields.one("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(Error::Upgrade("the answer is to another key"));
    }
    if fields.has("sec-websocket-extensions") {
        return Err(Error::Upgrade("an extension that nobody asked for"));
    }
    if fields.has("sec-websocket-protocol")
        && fields.one("sec-websocket-protocol") != Some(SUBPROTOCOL.as_bytes())
    {
        return Err(Error::Upgrade("a subprotocol that nobody asked for"));
    }
    Ok(Some(head_len))
}

fn refuse(status: u16, why: &str) -> Refused {
    let (phrase, extra) = match status {
        404 => ("Not Found", ""),
        405 => ("Method Not Allowed", "Allow: GET\r\n"),
        426 => (
            "Upgrade Required",
            // `Connection` is a list: "close" stands in the same field.
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        ),
        431 => ("Request Header Fields Too Large", ""),
        505 => ("HTTP Version Not Supported", ""),
        _ => ("Bad Request", ""),
    };
    let connection = if status == 426 { "upgrade, close" } else { "close" };
    let length = why.len() + 1;
    let answer = format!(
        "HTTP/1.1 {status} {phrase}\r\nConnection: {connection}\r\n{extra}\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{why}\n"
    );
    Refused { status, answer }
}

fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// The fields of a head, by name in any case.
struct Fields<'h, 'b>(&'h [Header<'b>]);

impl<'b> Fields<'_, 'b> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The field, when it is there once.
    fn one(&self, name: &str) -> Option<&'b [u8]> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    /// Whether a list has this word in any case.
    fn has_token(&self, name: &str, token: &str) -> bool {
        self.words(name).any(|word| word.eq_ignore_ascii_case(token.as_bytes()))
    }

    fn has_exact_token(&self, name: &str, token: &str) -> bool {
        self.words(name).any(|word| word == token.as_bytes())
    }

    fn words(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.all(name).flat_map(|value| value.split(|&b| b == b',')).map(<[u8]>::trim_ascii)
    }
}
