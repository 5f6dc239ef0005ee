//! Any bytes at either end of a WebSocket: wherever they are cut they mean the same, nothing follows an error, and what is said in answer is
//! well formed, with one close frame at most.
#![no_main]

use anyproxy::proto::ws::{Error, TUNNEL_PATH, WebSocket};
use libfuzzer_sys::fuzz_target;
use linkbuffer::LinkBuffer;

/// What came of it all.
#[derive(Debug, PartialEq)]
struct Seen {
    payload: Vec<u8>,
    error: Option<Error>,
    open: bool,
    closed: bool,
    peer_close: Option<(u16, String)>,
    control_frames: u64,
    /// What was said last; how often a ping is answered depends on how the input was cut.
    close: Option<Vec<u8>>,
}

fn buffer(bytes: &[u8]) -> LinkBuffer {
    let mut buffer = LinkBuffer::new();
    buffer.write(bytes);
    buffer
}

fn output(ws: &mut WebSocket) -> Vec<u8> {
    let mut out = LinkBuffer::new();
    ws.poll_output(&mut out);
    let len = out.len();
    out.read_vec(len).expect("all of it")
}

/// A client and a server past the upgrade, or before it.
fn ends(upgraded: bool) -> [WebSocket; 2] {
    let mut client = WebSocket::client("gw", TUNNEL_PATH, [7; 32]);
    let mut server = WebSocket::server();
    let request = output(&mut client);
    if upgraded {
        server.handle_input(&mut buffer(&request)).expect("a request");
        client.handle_input(&mut buffer(&output(&mut server))).expect("an answer");
        assert!(client.is_open() && server.is_open());
    }
    [client, server]
}

/// Reads what an end that was open has said: the close frame, if there is one, and nothing behind it.
fn close_frame(mut said: &[u8]) -> Option<Vec<u8>> {
    while let [first, second, rest @ ..] = said {
        let (masked, len) = (second & 0x80 != 0, usize::from(second & 0x7f));
        assert!(first & 0xf0 == 0x80 && len <= 125, "whole control frames, and nothing else was asked for");
        let (mask, rest) = rest.split_at(if masked { 4 } else { 0 });
        let (payload, rest) = rest.split_at(len);
        let payload: Vec<u8> =
            payload.iter().enumerate().map(|(n, byte)| byte ^ mask.get(n % 4).unwrap_or(&0)).collect();
        match first & 0x0f {
            0x0a => {}
            0x08 => {
                assert!(rest.is_empty(), "nothing follows a close frame");
                return Some(payload);
            }
            other => panic!("opcode {other}"),
        }
        said = rest;
    }
    assert!(said.is_empty(), "half a frame");
    None
}

fn run(side: usize, upgraded: bool, bytes: &[u8], mut piece: impl FnMut() -> usize) -> Seen {
    let mut ws = ends(upgraded).into_iter().nth(side).expect("two ends");
    let (mut payload, mut error, mut said, mut fed) = (Vec::new(), None, Vec::new(), 0);
    while fed < bytes.len() {
        let len = piece().clamp(1, bytes.len() - fed);
        let result = ws.handle_input(&mut buffer(&bytes[fed..fed + len]));
        fed += len;
        while let Some(part) = ws.poll_payload() {
            payload.extend_from_slice(&part.bytes);
        }
        assert!(ws.held_bytes() <= fed, "no memory for what was only claimed");
        assert!(error.is_none() || result.is_ok(), "an error is reported once");
        error = error.or(result.err());
        assert!(error.is_none() || ws.is_closed());
        said.extend(output(&mut ws));
        if ws.is_closed() {
            assert_eq!(ws.held_bytes(), 0, "nothing is kept for an end");
        }
    }
    let close = if upgraded { close_frame(&said) } else { None };
    if let (true, Some(code)) = (upgraded, error.as_ref().and_then(Error::close_code)) {
        assert_eq!(close.as_deref(), Some(&code.to_be_bytes()[..]), "the peer hears why");
    }
    Seen {
        payload,
        error,
        open: ws.is_open(),
        closed: ws.is_closed(),
        peer_close: ws.peer_close().map(|(code, reason)| (code, reason.to_owned())),
        control_frames: ws.control_frames(),
        close,
    }
}

fuzz_target!(|input: &[u8]| {
    let [how, seed, bytes @ ..] = input else { return };
    let (side, upgraded) = (usize::from(how & 1), how & 2 == 0);
    let whole = run(side, upgraded, bytes, || usize::MAX);
    let mut step = usize::from(*seed);
    let pieces = run(side, upgraded, bytes, || {
        step = step.wrapping_mul(5).wrapping_add(3) % 257;
        step % 23 + 1
    });
    assert_eq!(whole, pieces);
    assert_eq!(whole, run(side, upgraded, bytes, || 1));
});
