//! Stops gracefully: `cargo run --example shutdown -- 127.0.0.1:7001`, connect with `nc 127.0.0.1 7001`, then press return.
//!
//! The server counts the lines of each user, aloud. When it stops, it tells the sum to those who are in the middle of a line
//! and waits for the rest of that line; everybody else is done at once. After ten seconds it stops waiting.

use std::net::TcpListener;
use std::time::Duration;

use poller::{Connection, EventLoop, Handler, Prepare, Reject};

struct Lines;

/// What belongs to one user.
#[derive(Default)]
struct Count {
    lines: usize,
    stopping: bool,
}

impl Handler for Lines {
    type Context = Count;

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<Count, Reject> {
        Ok(Count::default())
    }

    fn on_request(&self, cx: &mut Count, conn: &mut Connection) -> poller::Result {
        while conn.input().until(b'\n').is_some() {
            cx.lines += 1;
            conn.output().write(format!("{}\n", cx.lines).as_bytes());
        }
        if cx.stopping && conn.input().is_empty() {
            return finish(cx, conn);
        }
        Ok(())
    }

    fn on_shutdown(&self, cx: &mut Count, conn: &mut Connection) -> poller::Result {
        cx.stopping = true;
        match conn.input().is_empty() {
            true => finish(cx, conn),
            false => Ok(()),
        }
    }
}

fn finish(cx: &Count, conn: &mut Connection) -> poller::Result {
    conn.output().write(format!("{} lines in all\n", cx.lines).as_bytes());
    conn.close();
    Ok(())
}

fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7001".into());
    let event_loop = EventLoop::new()?;
    let listener = event_loop.serve(TcpListener::bind(addr)?, Lines)?;
    println!("counting lines on {}; press return to stop", listener.local_addr());
    std::io::stdin().read_line(&mut String::new())?;
    println!("stopping, {} connections", event_loop.connections());
    match event_loop.shutdown(Duration::from_secs(10)) {
        true => println!("all had finished"),
        false => println!("some had to be cut off"),
    }
    Ok(())
}
