//! Another implementation, tungstenite's own, as the other end.

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    rc::Rc,
};

use tungstenite::{Message, handshake::HandshakeError, protocol::CloseFrame};

use super::*;

/// One end of a wire in memory, which would block where a socket would.
#[derive(Clone, Debug, Default)]
struct Wire {
    to_read: Rc<RefCell<VecDeque<u8>>>,
    written: Rc<RefCell<Vec<u8>>>,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.to_read.borrow_mut().read(buf)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            len => Ok(len),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.written.borrow_mut().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// Carries what either side has to say to the other.
    fn carry(&self, ours: &mut WebSocket) {
        self.to_read.borrow_mut().extend(output(ours));
        let written = std::mem::take(&mut *self.written.borrow_mut());
        ours.handle_input(&mut buffer(&written)).unwrap();
    }
}

/// Talks with the other implementation: messages both ways, a ping, a close from it.
fn converse(mut ours: WebSocket, mut theirs: tungstenite::WebSocket<Wire>, wire: &Wire) {
    assert!(ours.is_open());
    for len in [0, 5, 200, 70_000, WEBSOCKET_MESSAGE_BYTES_MAX] {
        let message: Vec<u8> = (0..len).map(|n| n as u8).collect();
        ours.send(buffer(&message)).unwrap();
        wire.carry(&mut ours);
        assert!(theirs.read().unwrap() == Message::Binary(message.clone().into()));
        theirs.send(Message::Binary(message.clone().into())).unwrap();
        wire.carry(&mut ours);
        assert!(messages(&mut ours) == [message]);
    }
    theirs.send(Message::Ping(Bytes::from_static(b"there?"))).unwrap();
    wire.carry(&mut ours);
    wire.carry(&mut ours);
    assert_eq!(theirs.read().unwrap(), Message::Pong(Bytes::from_static(b"there?")));
    theirs.close(Some(CloseFrame { code: CloseCode::Away, reason: "bye".into() })).unwrap();
    wire.carry(&mut ours);
    assert_eq!(ours.peer_close(), Some((1001, "bye")));
    wire.carry(&mut ours);
    let answer = theirs.read().unwrap();
    assert_eq!(answer, Message::Close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })));
}

#[test]
fn our_client_talks_with_another_server() {
    let wire = Wire::default();
    let mut ours = WebSocket::client("gw", TUNNEL_PATH, [7; 32]);
    wire.carry(&mut ours);
    let theirs = tungstenite::accept(wire.clone()).unwrap();
    wire.carry(&mut ours);
    converse(ours, theirs, &wire);
}

#[test]
fn our_server_talks_with_another_client() {
    let wire = Wire::default();
    let mut ours = WebSocket::server();
    let Err(HandshakeError::Interrupted(theirs)) = tungstenite::client("ws://gw/tunnel", wire.clone()) else {
        panic!("the answer is not there yet");
    };
    wire.carry(&mut ours);
    wire.carry(&mut ours);
    let (theirs, _) = theirs.handshake().unwrap();
    converse(ours, theirs, &wire);
}
