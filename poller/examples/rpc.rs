//! Sends back messages of a length (32 bits, big-endian) and as many bytes, to be measured:
//! `cargo run --release --example rpc -- --port 8082 --proto rpc --threads 1`.
//! A message that begins with `S` takes 5 ms; with `--hint` the handler says so beforehand, and no other connection waits.

use std::{error::Error, net::TcpListener, thread, time::Duration};

use poller::{Connection, EventLoop, Handler, Prepare, Reject, limits::INPUT_HIGH_BYTES};

/// A longer message could not be read in one piece: reading stops where the input is full.
const MESSAGE_BYTES_MAX: usize = INPUT_HIGH_BYTES - LENGTH_BYTES;
const LENGTH_BYTES: usize = 4;

struct Rpc {
    slow: fn(),
}

impl Handler for Rpc {
    type Context = ();

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_request(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
        let (input, output) = conn.buffers();
        let received = input.len();
        // Nothing is made contiguous before a whole message is there.
        if received < LENGTH_BYTES || received < whole_len(input.peek(LENGTH_BYTES)?)? {
            return Ok(());
        }
        let mut rest = input.peek(received)?;
        while rest.len() >= LENGTH_BYTES {
            let Some((message, behind)) = rest.split_at_checked(whole_len(rest)?) else { break };
            if message.get(LENGTH_BYTES) == Some(&b'S') {
                (self.slow)();
            }
            rest = behind;
        }
        let left = rest.len();
        // Copied, which costs less than handing over pieces, unless they are far longer than what is measured. The output is
        // bounded without a look at it here: nothing is read while it stands above its high watermark.
        output.write(input.next(received - left)?);
        Ok(())
    }
}

/// The length of the message that begins with `bytes`, of which there are enough for that, itself included.
fn whole_len(bytes: &[u8]) -> Result<usize, Box<dyn Error + Send + Sync>> {
    let length = u32::from_be_bytes(bytes[..LENGTH_BYTES].try_into()?) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(format!("a message of {length} bytes").into());
    }
    Ok(LENGTH_BYTES + length)
}

fn sleep() {
    thread::sleep(Duration::from_millis(5));
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut port, mut threads, mut slow) = (8082, 1, sleep as fn());
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--port" => port = value()?.parse()?,
            "--threads" => threads = value()?.parse()?,
            "--proto" if value()? == "rpc" => {}
            "--hint" => slow = || poller::blocking(sleep),
            _ => return Err(format!("{name}: there are --port P --proto rpc --threads N --hint").into()),
        }
    }
    let event_loop = EventLoop::builder().polls(threads).build()?;
    let listener = event_loop.serve(TcpListener::bind(("127.0.0.1", port))?, Rpc { slow })?;
    println!("rpc on {}", listener.local_addr());
    loop {
        thread::park();
    }
}
