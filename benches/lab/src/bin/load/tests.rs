//! Tests of the idle mode, and what the client's tests need of a server.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use lab::wire::Protocol;

use crate::hold;
use crate::peer::Script;

/// Of a message's payload.
pub(crate) const SIZE: usize = 16;
/// Of a message with its length.
const MESSAGE: usize = 4 + SIZE;

/// A server of `rpc` that takes so many connections, and answers one message on each; its port, and then its connections.
pub(crate) fn answer_once(conns: usize) -> (u16, JoinHandle<Vec<TcpStream>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let accept = move || listener.accept().expect("nobody else dials").0;
    let server = thread::spawn(move || (0..conns).map(|_| answered(accept())).collect());
    (port, server)
}

/// Answers one message.
pub(crate) fn answered(mut stream: TcpStream) -> TcpStream {
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message).expect("a message comes");
    stream.write_all(&message).expect("there is room for it");
    stream
}

#[test]
fn held_connections_are_asked_again_and_one_that_is_gone_is_an_error() {
    const CONNS: usize = 3;
    for gone in [None, Some(0), Some(CONNS - 1)] {
        let (port, server) = answer_once(CONNS);
        let script = Script::learn(Protocol::Rpc, port, SIZE, 1, false).expect("rpc asks nothing");
        let mut again = None;
        let held = hold(&script, CONNS, || {
            let mut taken = server.join().expect("each was answered");
            if let Some(gone) = gone {
                taken.truncate(gone);
            }
            again = Some(thread::spawn(|| taken.into_iter().map(answered).collect::<Vec<_>>()));
            Ok(())
        });
        assert_eq!(held.is_ok(), gone.is_none(), "{gone:?}: {held:?}");
        let again = again.expect("it waited").join().expect("what is there was asked");
        assert_eq!(again.len(), gone.unwrap_or(CONNS));
    }
}
