//! The least that answers `GET /plaintext` with keep-alive and pipelining, to be measured:
//! `cargo run --release --example http -- --port 8081 --proto http --threads 1`.
//! `GET /slow` takes 5 ms; with `--hint` no other connection waits for it. `--defer` accepts who has something to say.

use std::{error::Error, net::TcpListener, thread, time::Duration};

use poller::{Connection, EventLoop, Handler, ListenOptions, Prepare, Reject};

const FLAGS: &str = "--port P, --proto http, --threads N, --hint and --defer";
const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: poller\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
const HELLO_LAST: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 13\r\n\r\nHello, World!";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

struct Http {
    slow: fn(),
}

impl Handler for Http {
    type Context = ();

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
        Ok(())
    }

    /// Answers every whole request that has arrived. They fit into one read and the rest of another, and nothing is read
    /// while the output stands above its high watermark, so that the output is bounded without a look at it here.
    fn on_request(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
        let (input, output) = conn.buffers();
        let (mut rest, mut last) = (input.peek(input.len())?, false);
        while let Some((request, close, behind)) = split_request(rest).filter(|_| !last) {
            let slow = request.starts_with(b"GET /slow ");
            if slow {
                (self.slow)();
            }
            let known = slow || request.starts_with(b"GET /plaintext ");
            // Anything else ends the connection: it might have a body, which is not to be taken for the next request.
            last = close || !known;
            let hello = if close { HELLO_LAST } else { HELLO };
            output.write(if known { hello } else { NOT_FOUND });
            rest = behind;
        }
        let left = rest.len();
        input.skip(input.len() - left)?;
        if last || left > 8 * 1024 {
            conn.close();
        }
        Ok(())
    }
}

/// Takes a whole request off: its first line, whether it is the connection's last, and what follows it.
fn split_request(bytes: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let (first, mut rest) = split_line(bytes)?;
    let mut close = false;
    loop {
        let (line, behind) = split_line(rest)?;
        if line == b"\r\n" {
            return Some((first, close, behind));
        }
        close |= line.eq_ignore_ascii_case(b"connection: close\r\n");
        rest = behind;
    }
}

/// Takes a whole line off. It ends in two bytes, so every second one tells where, nearly always by the first comparison.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 1;
    while *bytes.get(at)? > b'\r' || !matches!(bytes[at], b'\r' | b'\n') {
        at += 2;
    }
    bytes.split_at_checked(if bytes[at] == b'\r' { at + 2 } else { at + 1 })
}

fn sleep() {
    thread::sleep(Duration::from_millis(5));
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut port, mut threads, mut slow, mut options) = (8081, 1, sleep as fn(), ListenOptions::new());
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--port" => port = value()?.parse()?,
            "--threads" => threads = value()?.parse()?,
            "--proto" if value()? == "http" => {}
            "--hint" => slow = || poller::blocking(sleep),
            "--defer" => options = options.deferred(true),
            _ => return Err(format!("{name}: there are {FLAGS}").into()),
        }
    }
    let event_loop = EventLoop::builder().polls(threads).build()?;
    let listener = event_loop.serve_with(TcpListener::bind(("127.0.0.1", port))?, options, Http { slow })?;
    println!("http://{}/plaintext", listener.local_addr());
    loop {
        thread::park();
    }
}
