//! The other end of a tunnel: a client or a gateway that keeps to the protocol as long as the test wants it to.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use anyproxy::proto::credentials::Credentials;
use anyproxy::proto::frame::{Decoder, Frame};
use anyproxy::proto::session::{ClientConfig, GatewayConfig, Session};
use anyproxy::proto::ws::{TUNNEL_PATH, WebSocket};
use linkbuffer::LinkBuffer;

use super::Wire;

/// One end of a tunnel, over a blocking socket. What it has to say waits until it is [`up`](Peer::up), or is said by the test.
pub(crate) struct Peer {
    wire: Wire,
    ws: WebSocket,
    session: Session,
    decoder: Decoder,
}

/// What a tunnel's end was told last.
#[derive(Debug)]
pub(crate) struct Farewell {
    /// The frames that had not been taken before.
    pub(crate) frames: Vec<Frame>,
    /// The close code; none where the connection just ended.
    pub(crate) code: Option<u16>,
}

/// A client without a secret.
pub(crate) fn client_config() -> ClientConfig {
    ClientConfig {
        name: "peer".into(),
        group: String::new(),
        secret: None,
        instance: rand(),
        generation: 1,
        nonce: [7; 32],
    }
}

/// A number of its own for each.
fn rand() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Peer {
    /// A client at this gateway's port for tunnels, whose WebSocket is open.
    #[track_caller]
    pub(crate) fn client(tunnel: SocketAddr) -> Peer {
        let mut peer = Peer {
            wire: Wire::connect(tunnel),
            ws: WebSocket::client("gateway", TUNNEL_PATH, [7; 32]),
            session: Session::client(client_config(), Instant::now()),
            decoder: Decoder::default(),
        };
        peer.flush();
        peer.open();
        peer
    }

    /// A gateway for the next client that comes to this listener, whose WebSocket is open.
    #[track_caller]
    pub(crate) fn gateway(listener: &TcpListener) -> Peer {
        let config =
            GatewayConfig { credentials: Arc::new(Credentials::new()), session_id: 1, nonce: [8; 32] };
        let mut peer = Peer {
            wire: Wire::accept(listener),
            ws: WebSocket::server(),
            session: Session::gateway(config, Instant::now()),
            decoder: Decoder::default(),
        };
        peer.open();
        peer.flush();
        peer
    }

    #[track_caller]
    fn open(&mut self) {
        while !self.ws.is_open() {
            assert!(self.receive(), "it ended before there was a WebSocket");
        }
    }

    /// One read; whether there was anything.
    fn receive(&mut self) -> bool {
        // However it ends, it has ended.
        let piece = self.wire.read_some().unwrap_or_default();
        let mut input = LinkBuffer::new();
        input.write(&piece);
        // What it makes of a close frame is asked for later.
        self.ws.handle_input(&mut input).ok();
        !piece.is_empty()
    }

    /// Whether the connection has taken it.
    fn flush(&mut self) -> bool {
        let mut out = LinkBuffer::new();
        self.ws.poll_output(&mut out);
        let len = out.len();
        // The other end may have had enough.
        self.wire.try_send(out.read_vec(len).expect("there are so many")).is_ok()
    }

    /// The next frame, and its stream; none when the WebSocket is closed or the connection ends.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<(Frame, u32)> {
        loop {
            if let Some((head, body)) = self.decoder.next_frame().expect("the other end sends frames") {
                return Some((Frame::read(head, body).expect("and nothing else"), head.stream));
            }
            match self.ws.poll_payload() {
                Some(part) => self.decoder.push(part.bytes),
                None if self.receive() => {}
                None => return None,
            }
        }
    }

    /// The next frame that is one of these; the session takes all before it, and answers.
    #[track_caller]
    pub(crate) fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> (Frame, u32) {
        loop {
            let (frame, stream) = self.next().expect("the tunnel is still there");
            if wanted(&frame) {
                return (frame, stream);
            }
            self.hand(&frame, stream);
        }
    }

    /// Has the session take a frame, and answer.
    #[track_caller]
    fn hand(&mut self, frame: &Frame, stream: u32) {
        self.session.handle_input(frame.encode(stream), Instant::now()).expect("the other end keeps to it");
        self.answer();
    }

    /// Says what the session has to say.
    pub(crate) fn answer(&mut self) {
        let mut message = LinkBuffer::new();
        if self.session.poll_transmit(64 << 10, &mut message, Instant::now()) > 0 {
            self.ws.send(message).expect("it is open");
            self.flush();
        }
    }

    /// Shakes hands.
    #[track_caller]
    pub(crate) fn up(mut self) -> Peer {
        self.answer();
        while !self.session.is_up() {
            let (frame, stream) = self.next().expect("the handshake is answered");
            self.hand(&frame, stream);
        }
        self
    }

    /// Sends one message with these bytes.
    pub(crate) fn message(&mut self, bytes: &[u8]) {
        self.try_message(bytes);
    }

    /// Likewise; whether the connection has taken it.
    fn try_message(&mut self, bytes: &[u8]) -> bool {
        let mut message = LinkBuffer::new();
        message.write(bytes);
        self.ws.send(message).expect("it is open");
        self.flush()
    }

    /// Sends one message with these frames.
    pub(crate) fn say(&mut self, frames: &[(Frame, u32)]) {
        self.try_say(frames);
    }

    /// Likewise; whether the connection has taken it.
    pub(crate) fn try_say(&mut self, frames: &[(Frame, u32)]) -> bool {
        let bytes: Vec<u8> = frames.iter().flat_map(|(frame, stream)| frame.encode(*stream)).collect();
        self.try_message(&bytes)
    }

    /// Sends bytes past the WebSocket.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        // It may have had enough.
        self.wire.try_send(bytes).ok();
    }

    /// Ends the connection in order, without a word.
    pub(crate) fn hang_up(&mut self) {
        self.wire.finish();
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn farewell(mut self) -> Farewell {
        let frames = std::iter::from_fn(|| self.next()).map(|(frame, _)| frame).collect();
        // Whatever comes behind the close frame.
        while self.receive() {}
        Farewell { frames, code: self.ws.peer_close().map(|(code, _)| code) }
    }
}
