//! Serves the sockets that a service manager has bound: it listens before this program starts, and keeps connections
//! waiting while the program is replaced.
//!
//! Try it with `systemd-socket-activate -l 127.0.0.1:7003 cargo run --example socket_activation`, then
//! `nc 127.0.0.1 7003`. The environment says how many descriptors were passed (`LISTEN_FDS`, from number 3 on) and to
//! whom (`LISTEN_PID`); `listenfd` takes them. Whether they are TCP, Unix or UDP sockets is the manager's choice: the
//! event loop asks the kernel. The program ends when its input does.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use poller::{Connection, DatagramHandler, Datagrams, EventLoop, Handler, Prepare, Reject};

struct Echo;

impl Handler for Echo {
    type Context = ();

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_request(&self, _: &mut (), conn: &mut Connection<'_>) -> poller::Result {
        let (input, output) = conn.buffers();
        output.append(std::mem::take(input));
        Ok(())
    }
}

impl DatagramHandler for Echo {
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]) {
        if let Err(error) = socket.send_to(data, from) {
            eprintln!("{from} gets no answer: {error}");
        }
    }
}

/// The descriptors that were passed to this process, whatever they are.
fn passed() -> io::Result<Vec<OwnedFd>> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for n in 0..passed.len() {
        // Each kind has its own method, and leaves what is not of its kind.
        let socket = match passed.take_tcp_listener(n) {
            Ok(tcp) => tcp.map(OwnedFd::from),
            Err(_) => match passed.take_unix_listener(n) {
                Ok(unix) => unix.map(OwnedFd::from),
                Err(_) => passed.take_udp_socket(n)?.map(OwnedFd::from),
            },
        };
        sockets.extend(socket);
    }
    Ok(sockets)
}

fn main() -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let echo = Arc::new(Echo);
    let sockets = passed()?;
    if sockets.is_empty() {
        return Err(io::Error::other("no socket was passed: start this through a service manager"));
    }
    for socket in sockets {
        // A socket that is given and refused is closed, so a copy is asked which of the two it is.
        match event_loop.serve(socket.try_clone()?, echo.clone()) {
            Ok(listener) => println!("serving {}", listener.local_addr()),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                println!("answering on {}", event_loop.datagrams(socket, Echo)?.local_addr());
            }
            Err(error) => return Err(error),
        }
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    event_loop.shutdown(Duration::from_secs(10));
    Ok(())
}
