//! Sends back what comes. `cargo run --release --example echo -- 127.0.0.1:7000`, then `nc 127.0.0.1 7000`.

use std::net::TcpListener;

use poller::{Closed, Connection, EventLoop, Handler, Prepare, Reject};

struct Echo;

impl Handler for Echo {
    type Context = ();

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_request(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
        // The whole input moves to the output without a copy. Above the high watermark nothing is read until the peer
        // has taken its echo, so a peer that only writes costs no memory.
        let (input, output) = conn.buffers();
        output.append(std::mem::take(input));
        Ok(())
    }

    fn on_close(&self, _: &mut (), info: &Closed) {
        let peer = info.peer.map_or("?".into(), |peer| peer.to_string());
        println!("{peer}: {} ({} bytes in, {} out)", info.reason, info.bytes_in, info.bytes_out);
    }
}

fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7000".into());
    let event_loop = EventLoop::new()?;
    let listener = event_loop.serve(TcpListener::bind(addr)?, Echo)?;
    println!("echo on {}; ends at the end of the standard input", listener.local_addr());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
