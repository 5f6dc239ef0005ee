mod interop;
mod rates;

use super::*;
use crate::limits::WEBSOCKET_HEADERS_MAX;

const REQUEST: &str = "GET /tunnel HTTP/1.1\r\nHost: gw\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

fn buffer(bytes: &[u8]) -> LinkBuffer {
    let mut buffer = LinkBuffer::new();
    buffer.write(bytes);
    buffer
}

fn drain(buffer: &mut LinkBuffer) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(chunk) = buffer.read_chunk(usize::MAX) {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

fn output(socket: &mut WebSocket) -> Vec<u8> {
    let mut out = LinkBuffer::new();
    let any = socket.poll_output(&mut out);
    assert_eq!(any, !out.is_empty());
    drain(&mut out)
}

/// The messages that came whole, put together from their parts.
fn messages(socket: &mut WebSocket) -> Vec<Vec<u8>> {
    let (mut messages, mut message) = (Vec::new(), Vec::new());
    while let Some(part) = socket.poll_payload() {
        assert!(part.ends || !part.bytes.is_empty());
        message.extend_from_slice(&part.bytes);
        if part.ends {
            messages.push(std::mem::take(&mut message));
        }
    }
    messages
}

/// A frame of a client, masked, with any first byte.
fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65536 => {
            frame.push(0xfe);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0xff);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(masked);
    frame
}

/// A frame of a server of up to 125 bytes.
fn plain_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, payload.len() as u8][..], payload].concat()
}

/// A server that has taken its client's request.
fn open_server() -> WebSocket {
    let mut server = WebSocket::server();
    server.handle_input(&mut buffer(REQUEST.as_bytes())).unwrap();
    assert!(server.is_open());
    assert!(output(&mut server).starts_with(b"HTTP/1.1 101 "));
    server
}

/// A client and a server past the upgrade.
fn open_pair() -> (WebSocket, WebSocket) {
    let mut client = WebSocket::client("gw.example:8443", TUNNEL_PATH, [7; 32]);
    let mut server = WebSocket::server();
    server.handle_input(&mut buffer(&output(&mut client))).unwrap();
    client.handle_input(&mut buffer(&output(&mut server))).unwrap();
    assert!(client.is_open() && server.is_open());
    (client, server)
}

/// Feeds in pieces of this size until an error; the socket ignores what comes after.
fn feed(socket: &mut WebSocket, bytes: &[u8], size: usize) -> Result<(), Error> {
    let mut result = Ok(());
    for piece in bytes.chunks(size) {
        let seen = socket.handle_input(&mut buffer(piece));
        assert!(result.is_ok() || seen.is_ok(), "an error is reported once");
        result = result.and(seen);
    }
    result
}

/// What an open server makes of these frames, in pieces of every size.
#[track_caller]
fn check(frames: &[&[u8]], want: Result<&[&[u8]], Error>, want_output: &[u8]) {
    let bytes = frames.concat();
    for size in 1..=bytes.len() {
        let mut server = open_server();
        let result = feed(&mut server, &bytes, size);
        match &want {
            Ok(want) => {
                assert_eq!((result, messages(&mut server)), (Ok(()), to_vecs(want)), "pieces of {size}")
            }
            Err(want) => {
                assert_eq!(result.as_ref(), Err(want), "pieces of {size}");
                assert!(server.is_closed());
            }
        }
        assert_eq!(output(&mut server), want_output, "pieces of {size}");
    }
}

fn to_vecs(slices: &[&[u8]]) -> Vec<Vec<u8>> {
    slices.iter().map(|slice| slice.to_vec()).collect()
}

/// The close frame that a server sends with an error.
fn close_frame(code: u16) -> Vec<u8> {
    plain_frame(0x88, &code.to_be_bytes())
}

#[test]
fn messages_cross_both_ways_in_pieces_of_every_size() {
    let sizes = [0, 1, 3, 4, 5, 125, 126, 127, 1000, 16 << 10, 65_535, 65_536, WEBSOCKET_MESSAGE_BYTES_MAX];
    for piece in [1, 2, 7, 1000, 1 << 14, usize::MAX] {
        for size in sizes.into_iter().filter(|size| size / 50_000 < piece) {
            let (mut client, mut server) = open_pair();
            let message: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
            // In nodes of odd sizes, so that the mask has to turn.
            let nodes = || {
                let mut nodes = LinkBuffer::new();
                message.chunks(1021).for_each(|chunk| nodes.append(LinkBuffer::from(chunk.to_vec())));
                nodes
            };
            client.send(nodes()).unwrap();
            feed(&mut server, &output(&mut client), piece).unwrap();
            assert!(messages(&mut server) == [&message[..]], "{size} to the server in pieces of {piece}");
            server.send(nodes()).unwrap();
            feed(&mut client, &output(&mut server), piece).unwrap();
            assert!(messages(&mut client) == [&message[..]], "{size} to the client in pieces of {piece}");
        }
    }
}

#[test]
fn what_a_server_sends_and_a_client_receives_is_not_copied() {
    let (mut client, mut server) = open_pair();
    let message = Bytes::from(vec![7; 16 << 10]);
    let mut nodes = LinkBuffer::new();
    nodes.write_bytes(message.clone());
    server.send(nodes).unwrap();
    let mut out = LinkBuffer::new();
    assert!(server.poll_output(&mut out));
    client.handle_input(&mut out).unwrap();
    assert!(out.is_empty());
    assert_eq!(client.poll_payload().unwrap().bytes.as_ptr(), message.as_ptr());
}

#[test]
fn a_header_may_lie_in_two_linked_pieces() {
    let bytes = [masked_frame(0x82, &[1; 5_000]), masked_frame(0x82, &[2; 5_000])].concat();
    for cut in 5_000..5_030 {
        let mut server = open_server();
        feed(&mut server, &bytes, cut).unwrap();
        assert!(messages(&mut server) == [[1; 5_000], [2; 5_000]], "cut at {cut}");
    }
}

// T19: what waits for its frame to be whole costs what it weighs.
#[test]
fn a_peer_that_sends_byte_by_byte_does_not_make_a_node_of_each() {
    let mut server = open_server();
    let frame = masked_frame(0x82, &[7; 100_000]);
    feed(&mut server, &frame[..99_000], 1).unwrap();
    let pieces = server.input.chunks().count();
    assert!(pieces <= 8, "{pieces} pieces");
    feed(&mut server, &frame[99_000..], usize::MAX).unwrap();
    assert_eq!(messages(&mut server), [[7; 100_000]]);
}

#[test]
fn a_clients_masks_differ() {
    let (mut client, _) = open_pair();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        client.send(buffer(b"x")).unwrap();
        let frame = output(&mut client);
        assert_eq!(frame[..2], [0x82, 0x81]);
        seen.insert(frame[2..6].to_vec());
    }
    assert!(seen.len() >= 99, "{} masks in 100 frames", seen.len());
}

/// The request to upgrade, with the key, and the first frame, with its mask.
fn first_words(seed: [u8; 32]) -> (Vec<u8>, Vec<u8>) {
    let mut client = WebSocket::client("gw", TUNNEL_PATH, seed);
    let request = output(&mut client);
    let mut server = WebSocket::server();
    server.handle_input(&mut buffer(&request)).unwrap();
    client.handle_input(&mut buffer(&output(&mut server))).unwrap();
    client.send(buffer(b"x")).unwrap();
    (request, output(&mut client))
}

#[test]
fn key_and_masks_follow_from_the_seed_alone() {
    let (request, frame) = first_words([1; 32]);
    assert_eq!(first_words([1; 32]), (request.clone(), frame.clone()));
    let (other_request, other_frame) = first_words([2; 32]);
    assert_ne!(other_request, request);
    assert_ne!(other_frame[2..6], frame[2..6]);
}

#[test]
fn the_upgrade_is_the_example_of_the_rfc() {
    for size in 1..=REQUEST.len() {
        let mut server = WebSocket::server();
        feed(&mut server, REQUEST.as_bytes(), size).unwrap();
        let answer = String::from_utf8(output(&mut server)).unwrap();
        assert_eq!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }
    // Frames right behind the head are frames.
    let mut server = WebSocket::server();
    let bytes = [REQUEST.as_bytes(), &masked_frame(0x82, b"early")].concat();
    server.handle_input(&mut buffer(&bytes)).unwrap();
    assert_eq!(messages(&mut server), [b"early"]);
}

#[test]
fn the_subprotocol_is_taken_where_it_is_offered() {
    #[track_caller]
    fn check(offer: &str, want: bool) {
        let request = REQUEST.replace("Upgrade: WebSocket", &format!("Upgrade: websocket\r\n{offer}"));
        let mut server = WebSocket::server();
        server.handle_input(&mut buffer(request.as_bytes())).unwrap();
        let answer = String::from_utf8(output(&mut server)).unwrap();
        assert_eq!(answer.contains("\r\nSec-WebSocket-Protocol: anyproxy.1\r\n"), want, "{answer}");
        assert!(!answer.contains("Extensions"), "T13: nothing is ever inflated");
    }
    check("sec-websocket-protocol: anyproxy.1", true);
    check("Sec-WebSocket-Protocol: chat , anyproxy.1", true);
    check("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: anyproxy.1", true);
    check("Sec-WebSocket-Protocol: anyproxy.10", false);
    check("Sec-WebSocket-Extensions: permessage-deflate", false);
}

// T2, T11: whoever is no client of ours gets an HTTP answer, and the connection its end.
#[test]
fn other_requests_get_an_http_answer() {
    #[track_caller]
    fn check(request: &str, status: u16, has: &str) {
        for size in [1, 13, request.len()] {
            let mut server = WebSocket::server();
            assert_eq!(feed(&mut server, request.as_bytes(), size), Err(Error::Refused(status)), "{request}");
            let answer = String::from_utf8(output(&mut server)).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains(has), "{answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{answer}");
            assert!(head.contains("close"), "{answer}");
            assert!(server.is_closed());
        }
    }
    let without = |line: &str| REQUEST.replace(line, "");
    check(&REQUEST.replace("/tunnel", "/"), 404, "");
    check(&REQUEST.replace("/tunnel", "/tunnel/x"), 404, "");
    check(&REQUEST.replace("GET", "POST"), 405, "\r\nAllow: GET\r\n");
    check("GET /tunnel HTTP/1.1\r\nHost: gw\r\n\r\n", 426, "\r\nUpgrade: websocket\r\n");
    check(&without("Upgrade: WebSocket\r\n"), 426, "\r\nUpgrade: websocket\r\n");
    check(&without("Connection: keep-alive, Upgrade\r\n"), 426, "\r\nUpgrade: websocket\r\n");
    check(&REQUEST.replace(": 13", ": 8"), 426, "\r\nSec-WebSocket-Version: 13\r\n");
    check(&without("Sec-WebSocket-Version: 13\r\n"), 426, "\r\nSec-WebSocket-Version: 13\r\n");
    check(&without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, "Key");
    check(&REQUEST.replace("dGhl", ""), 400, "Key");
    check(&REQUEST.replace("dGhl", "!!!!"), 400, "Key");
    check(&without("Host: gw\r\n"), 400, "Host");
    check(&REQUEST.replace("Host: gw", "Host: gw\r\nHost: gw"), 400, "Host");
    check(&REQUEST.replace("Host: gw", "Host: gw\r\nContent-Length: 3"), 400, "body");
    check(&REQUEST.replace("Host: gw", "Host: gw\r\nTransfer-Encoding: chunked"), 400, "body");
    check(&REQUEST.replace("HTTP/1.1", "HTTP/1.0"), 505, "");
    check("\x16\x03\x01\x02\0\x01\0\x01\n", 400, "");
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "");
    let many = "x: y\r\n".repeat(WEBSOCKET_HEADERS_MAX);
    check(&REQUEST.replace("Host: gw", &format!("{many}Host: gw")), 431, "");
}

// A line that has not ended was judged when it came in one input with another, and waited for when it came alone.
#[test]
fn a_head_is_judged_by_whole_lines_however_it_is_cut() {
    for bytes in [&b"\n\0\0"[..], b"\r\nGET \0", b"\r\nHTTP/9"] {
        for size in 1..=bytes.len() {
            for mut socket in [WebSocket::server(), WebSocket::client("gw", TUNNEL_PATH, [7; 32])] {
                assert_eq!(feed(&mut socket, bytes, size), Ok(()), "{bytes:?}");
                assert!(feed(&mut socket, b"\n", 1).is_err(), "{bytes:?}");
            }
        }
    }
}

#[test]
fn a_head_has_a_limit() {
    let head = |len: usize| REQUEST.replace("gw", &"g".repeat(len + 2 - REQUEST.len()));
    for size in [1, 1000, WEBSOCKET_HEAD_BYTES_MAX + 1] {
        let mut server = WebSocket::server();
        assert_eq!(feed(&mut server, head(WEBSOCKET_HEAD_BYTES_MAX).as_bytes(), size), Ok(()));
        assert!(server.is_open());
        for bytes in [head(WEBSOCKET_HEAD_BYTES_MAX + 1), "x".repeat(WEBSOCKET_HEAD_BYTES_MAX)] {
            let mut server = WebSocket::server();
            assert_eq!(feed(&mut server, bytes.as_bytes(), size), Err(Error::Refused(431)));
            assert!(output(&mut server).starts_with(b"HTTP/1.1 431 "));
        }
    }
    let mut client = WebSocket::client("gw", TUNNEL_PATH, [7; 32]);
    let endless = [b"HTTP/1.1 101 x\r\nx: ", "x".repeat(WEBSOCKET_HEAD_BYTES_MAX).as_bytes()].concat();
    assert_eq!(feed(&mut client, &endless, 999), Err(Error::Upgrade("the head is too long")));
}

#[test]
fn a_client_takes_only_the_answer_to_its_own_request() {
    #[track_caller]
    fn check(answer: &str, want: Result<(), Error>) {
        for size in 1..=answer.len() {
            let mut client = WebSocket::client("gw", TUNNEL_PATH, [7; 32]);
            let request = String::from_utf8(output(&mut client)).unwrap();
            let key = request.split("Sec-WebSocket-Key: ").nth(1).unwrap().lines().next().unwrap();
            let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
            let answer = answer.replace("ACCEPT", &accept);
            assert_eq!(feed(&mut client, answer.as_bytes(), size), want, "{answer} in pieces of {size}");
            assert_eq!(client.is_open(), want.is_ok());
            assert_eq!(output(&mut client), b"", "there is nothing to say to that");
        }
    }
    let good = "HTTP/1.1 101 Yes\r\nconnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n";
    check(good, Ok(()));
    check(&good.replace("ACCEPT", "ACCEPT\r\nSec-WebSocket-Protocol: anyproxy.1"), Ok(()));
    let error = |what| Err(Error::Upgrade(what));
    check(&good.replace("ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), error("the answer is to another key"));
    check(&good.replace("Sec-WebSocket-Accept: ACCEPT\r\n", ""), error("the answer is to another key"));
    check(&good.replace("WebSocket\r\n", "h2c\r\n"), error("the answer upgrades to something else"));
    check(
        &good.replace("ACCEPT", "ACCEPT\r\nSec-WebSocket-Extensions: permessage-deflate"),
        error("an extension that nobody asked for"),
    );
    check(
        &good.replace("ACCEPT", "ACCEPT\r\nSec-WebSocket-Protocol: chat"),
        error("a subprotocol that nobody asked for"),
    );
    check("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Err(Error::Status(404)));
    check("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", Err(Error::Status(302)));
    check("HTTP/1.1 200 OK\r\n\r\n", Err(Error::Status(200)));
    check("SSH-2.0-OpenSSH_9.2\r\n", error("the answer is not HTTP"));
}

#[test]
fn fragments_are_one_message() {
    check(
        &[&masked_frame(0x02, b"one"), &masked_frame(0x00, b""), &masked_frame(0x80, b"two")],
        Ok(&[b"onetwo"]),
        b"",
    );
    // A ping may stand between them, and is answered.
    check(
        &[&masked_frame(0x02, b"one"), &masked_frame(0x89, b"hi"), &masked_frame(0x80, b"two")],
        Ok(&[b"onetwo"]),
        &plain_frame(0x8a, b"hi"),
    );
}

// T11: what breaks the protocol ends it, with the code that says so.
#[test]
fn broken_frames_end_it_with_1002() {
    #[track_caller]
    fn broken(frames: &[&[u8]], what: &'static str) {
        check(frames, Err(Error::Protocol(what)), &close_frame(1002));
    }
    broken(&[&plain_frame(0x82, b"unmasked")], "mask");
    broken(&[&masked_frame(0xc2, b"x")], "reserved bits");
    broken(&[&masked_frame(0xa2, b"x")], "reserved bits");
    broken(&[&masked_frame(0x92, b"x")], "reserved bits");
    broken(&[&masked_frame(0x83, b"x")], "opcode");
    broken(&[&masked_frame(0x8b, b"x")], "opcode");
    broken(&[&masked_frame(0x80, b"x")], "nothing to continue");
    broken(&[&masked_frame(0x02, b"x"), &masked_frame(0x82, b"x")], "message within a message");
    broken(&[&masked_frame(0x09, b"x")], "control frame in fragments");
    broken(&[&masked_frame(0x89, &[b'x'; 126])], "control frame too long");
    broken(&[b"\x82\xfe\x00\x7d", &MASK, b"x"], "length in more bytes than it needs");
    broken(&[b"\x82\xff\0\0\0\0\0\0\xff\xff", &MASK, b"x"], "length in more bytes than it needs");
    broken(&[b"\x82\xff\x80\0\0\0\0\0\0\0", &MASK, b"x"], "length with its top bit set");
    broken(&[&masked_frame(0x88, b"x")], "close code of one byte");
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        broken(&[&masked_frame(0x88, &code.to_be_bytes())], "close code");
    }
}

#[test]
fn a_client_takes_no_masked_frame() {
    let (mut client, _) = open_pair();
    let result = client.handle_input(&mut buffer(&masked_frame(0x82, b"x")));
    assert_eq!(result, Err(Error::Protocol("mask")));
    let frame = output(&mut client);
    assert_eq!(frame[..2], [0x88, 0x82], "a close frame, masked");
}

#[test]
fn text_and_bad_utf8_have_codes_of_their_own() {
    check(&[&masked_frame(0x81, b"text")], Err(Error::Text), &close_frame(1003));
    check(&[&masked_frame(0x01, b"te"), &masked_frame(0x80, b"xt")], Err(Error::Text), &close_frame(1003));
    check(&[&masked_frame(0x88, b"\x03\xe8\xff\xfe")], Err(Error::Utf8), &close_frame(1007));
}

// T12: the declared length is enough, not one byte of the payload is waited for.
#[test]
fn the_declared_length_has_a_limit() {
    let declared = |first: u8, len: usize| [&[first, 0xff][..], &(len as u64).to_be_bytes(), &MASK].concat();
    for len in [WEBSOCKET_MESSAGE_BYTES_MAX + 1, usize::MAX >> 1] {
        check(&[&declared(0x82, len)], Err(Error::TooBig), &close_frame(1009));
        check(&[&declared(0x02, len)], Err(Error::TooBig), &close_frame(1009));
    }
    check(&[&declared(0x82, WEBSOCKET_MESSAGE_BYTES_MAX)], Ok(&[]), b"");
    // Fragments count together.
    let rest = WEBSOCKET_MESSAGE_BYTES_MAX - 3;
    check(&[&masked_frame(0x02, b"abc"), &declared(0x80, rest)], Ok(&[]), b"");
    check(&[&masked_frame(0x02, b"abc"), &declared(0x80, rest + 1)], Err(Error::TooBig), &close_frame(1009));
}

#[test]
fn messages_before_an_error_are_still_there() {
    let mut server = open_server();
    let bytes =
        [masked_frame(0x82, b"good"), masked_frame(0x81, b"bad"), masked_frame(0x82, b"late")].concat();
    assert_eq!(server.handle_input(&mut buffer(&bytes)), Err(Error::Text));
    assert_eq!(messages(&mut server), [b"good"]);
    assert_eq!(server.handle_input(&mut buffer(&bytes)), Ok(()));
    assert_eq!(messages(&mut server), [] as [Vec<u8>; 0]);
    assert_eq!(server.send(buffer(b"x")), Err(Error::NotOpen));
    assert_eq!(output(&mut server), close_frame(1003));
    assert_eq!(server.handle_end(), Ok(()));
}

// T14: a flood of pings is one pong.
#[test]
fn only_the_latest_ping_is_answered() {
    let mut server = open_server();
    let flood: Vec<u8> = (0..10_000u32).flat_map(|n| masked_frame(0x89, &n.to_be_bytes())).collect();
    server.handle_input(&mut buffer(&flood)).unwrap();
    assert_eq!(output(&mut server), plain_frame(0x8a, &9_999u32.to_be_bytes()));
    assert_eq!(output(&mut server), b"");
    assert_eq!(server.control_frames(), 10_000);
    let mut server = open_server();
    server.handle_input(&mut buffer(&masked_frame(0x8a, b"unasked"))).unwrap();
    assert_eq!(output(&mut server), b"");
}

#[test]
fn a_close_is_answered_with_its_code() {
    #[track_caller]
    fn answered(payload: &[u8], want: &[u8], want_close: (u16, &str)) {
        let mut server = open_server();
        let bytes =
            [masked_frame(0x89, b"ping"), masked_frame(0x88, payload), masked_frame(0x82, b"late")].concat();
        server.handle_input(&mut buffer(&bytes)).unwrap();
        assert!(server.is_closed());
        assert_eq!(server.peer_close(), Some(want_close));
        assert_eq!(messages(&mut server), [] as [Vec<u8>; 0]);
        assert_eq!(output(&mut server), plain_frame(0x88, want), "and nothing behind a close frame");
        assert_eq!(server.handle_end(), Ok(()));
    }
    answered(b"", b"", (1005, ""));
    answered(b"\x03\xe9drained", b"\x03\xe9", (1001, "drained"));
    answered(b"\x0f\xa0", b"\x0f\xa0", (4000, ""));
}

#[test]
fn closing_waits_for_the_answer() {
    let (mut client, mut server) = open_pair();
    client.send(buffer(b"last")).unwrap();
    client.close(1001, "draining");
    client.close(1000, "again");
    assert!(!client.is_open() && !client.is_closed());
    assert_eq!(client.send(buffer(b"x")), Err(Error::NotOpen));
    server.send(buffer(b"crossing")).unwrap();
    server.handle_input(&mut buffer(&output(&mut client))).unwrap();
    assert_eq!(messages(&mut server), [b"last"]);
    assert_eq!(server.peer_close(), Some((1001, "draining")));
    client.handle_input(&mut buffer(&output(&mut server))).unwrap();
    assert_eq!(messages(&mut client), [b"crossing"]);
    assert!(client.is_closed() && server.is_closed());
    assert_eq!((output(&mut client), output(&mut server)), (vec![], vec![]));
    assert_eq!((client.handle_end(), server.handle_end()), (Ok(()), Ok(())));
}

#[test]
fn nothing_follows_our_close_frame() {
    let mut server = open_server();
    server.handle_input(&mut buffer(&masked_frame(0x89, b"ping"))).unwrap();
    server.close(1000, "");
    assert_eq!(output(&mut server), close_frame(1000));
    server.handle_input(&mut buffer(&masked_frame(0x89, b"ping"))).unwrap();
    assert_eq!(output(&mut server), b"");
}

#[test]
fn both_may_close_at_once() {
    let (mut client, mut server) = open_pair();
    client.close(1000, "");
    server.close(1001, &"ä".repeat(100));
    let (from_client, from_server) = (output(&mut client), output(&mut server));
    client.handle_input(&mut buffer(&from_server)).unwrap();
    server.handle_input(&mut buffer(&from_client)).unwrap();
    assert!(client.is_closed() && server.is_closed());
    assert_eq!(client.peer_close(), Some((1001, &*"ä".repeat(61))), "a reason is cut between characters");
    assert_eq!((output(&mut client), output(&mut server)), (vec![], vec![]));
}

#[test]
fn an_end_without_a_close_is_an_error_once() {
    let (mut client, _) = open_pair();
    assert_eq!(client.handle_end(), Err(Error::Ended));
    assert_eq!(client.handle_end(), Ok(()));
    assert!(client.is_closed());
    assert_eq!(WebSocket::server().handle_end(), Err(Error::Ended));
    assert_eq!(WebSocket::client("gw", TUNNEL_PATH, [7; 32]).handle_end(), Err(Error::Unanswered));
    let mut server = WebSocket::server();
    server.close(1001, "");
    assert!(server.is_closed());
    assert_eq!(output(&mut server), b"");
}

#[test]
fn nothing_is_sent_before_the_upgrade() {
    let mut client = WebSocket::client("gw", TUNNEL_PATH, [7; 32]);
    assert_eq!(client.send(buffer(b"x")), Err(Error::NotOpen));
    assert!(!client.is_open());
}

#[test]
#[should_panic(expected = "checked with the configuration")]
fn a_host_that_breaks_the_head_is_a_mistake_of_ours() {
    drop(WebSocket::client("gw\r\nx: y", TUNNEL_PATH, [7; 32]));
}

#[test]
fn no_bytes_make_it_panic() {
    let mut draws = fastrand::Rng::with_seed(3);
    let good = [masked_frame(0x02, b"ab"), masked_frame(0x89, b"c"), masked_frame(0x80, b"de")].concat();
    for _ in 0..5_000 {
        let mut bytes = good.repeat(3);
        for _ in 0..draws.usize(1..4) {
            let at = draws.usize(..bytes.len());
            bytes[at] = draws.u8(..);
        }
        let (whole, size) = (bytes.len(), draws.usize(1..10));
        let mut one = open_server();
        let mut other = open_server();
        // However it is cut, it is the same.
        assert_eq!(feed(&mut one, &bytes, whole), feed(&mut other, &bytes, size));
        assert_eq!(messages(&mut one), messages(&mut other));
        assert_eq!(one.peer_close(), other.peer_close());
    }
}
