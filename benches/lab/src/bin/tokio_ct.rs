//! A peer: tokio on one thread, a task per connection, in the style that its users write.
//!
//! `tokio_ct --port P --proto http|rpc`. Slow requests go to tokio's threads for blocking work.

use std::error::Error;

use lab::args::Args;
use lab::socket;
use lab::wire::{self, Protocol, Splitter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const READ: usize = 8 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::of_process(&["--port", "--proto"], &[])?;
    let protocol = args.get("--proto")?.unwrap_or(Protocol::Http);
    let listener = socket::listen(args.get("--port")?.unwrap_or(8080), false)?;
    println!("{protocol:?} on {}", listener.local_addr()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            // A failure to accept is the client's to count.
            if let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // A connection ends for its client alone.
                    drop(serve(socket, protocol).await);
                });
            }
        }
    })
}

async fn serve(mut socket: TcpStream, protocol: Protocol) -> Result<(), Box<dyn Error + Send + Sync>> {
    let splitter = Splitter::new(protocol);
    let mut input = Vec::with_capacity(READ);
    let mut output = Vec::new();
    while socket.read_buf(&mut input).await? > 0 {
        let (mut used, mut last) = (0, false);
        while !last {
            let Some(request) = splitter.next(&input[used..]).map_err(|_| "malformed")? else { break };
            if request.slow {
                tokio::task::spawn_blocking(|| std::thread::sleep(wire::SLOW)).await?;
            }
            last = request.last;
            output.extend_from_slice(match protocol {
                Protocol::Http if last => wire::HELLO_LAST,
                Protocol::Http => wire::HELLO,
                Protocol::Rpc => &input[used..used + request.len],
            });
            used += request.len;
        }
        input.drain(..used);
        socket.write_all(&output).await?;
        output.clear();
        if last {
            break;
        }
    }
    Ok(())
}
