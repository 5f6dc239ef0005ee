//! The least that answers `GET /plaintext` with keep-alive and pipelining, to be measured:
//! `cargo run --release --example http -- --port 8081 --proto http --threads 1`.

use std::net::TcpListener;

use poller::{Connection, EventLoop, Handler, Prepare, Reject};

const HEAD_BYTES_MAX: usize = 8 * 1024;
const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: poller\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

struct Http;

impl Http {
    /// Answers every whole request that has arrived, until the peer has too many answers to take.
    fn answer(conn: &mut Connection) -> poller::Result {
        while !conn.is_congested() {
            let Some(end) = conn.input().find_slice(b"\r\n\r\n") else {
                if conn.input().len() > HEAD_BYTES_MAX {
                    conn.output().write(TOO_LARGE);
                    conn.close();
                }
                return Ok(());
            };
            let (input, output) = conn.buffers();
            let head = input.next(end + 4)?;
            // Requests with a body are not for this server: it would take the body for the next request.
            let (answer, last) = match head {
                [b'G', b'E', b'T', b' ', ..] if head.starts_with(b"GET /plaintext ") => {
                    (HELLO, wants_close(head))
                }
                [b'G', b'E', b'T', b' ', ..] => (NOT_FOUND, wants_close(head)),
                _ => (BAD_REQUEST, true),
            };
            output.write(answer);
            if last {
                conn.close();
                return Ok(());
            }
        }
        Ok(())
    }
}

fn wants_close(head: &[u8]) -> bool {
    head.split(|byte| *byte == b'\n')
        .any(|line| line.trim_ascii_end().eq_ignore_ascii_case(b"connection: close"))
}

impl Handler for Http {
    type Context = ();

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_request(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
        Http::answer(conn)
    }

    fn on_drain(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
        // Requests that waited while the answers did.
        Http::answer(conn)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut port, mut threads) = (8081, 1);
    let mut flags = std::env::args().skip(1);
    while let Some(flag) = flags.next() {
        let value = flags.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--port" => port = value.parse()?,
            "--threads" => threads = value.parse()?,
            "--proto" if value == "http" => {}
            _ => return Err(format!("{flag} {value}: not known (--port P --proto http --threads N)").into()),
        }
    }
    let event_loop = EventLoop::builder().polls(threads).build()?;
    let listener = event_loop.serve(TcpListener::bind(("127.0.0.1", port))?, Http)?;
    println!("http://{}/plaintext", listener.local_addr());
    loop {
        std::thread::park();
    }
}
