//! Handlers that block: `cargo run --example blocking -- 127.0.0.1:7004`, then two of `nc 127.0.0.1 7004`.
//!
//! A line that begins with `slow` asks a database that takes a second; every other line is answered at once, also while the
//! other user waits, although one poll serves both. The handler says that it blocks, and another thread leads the poll meanwhile.
//! So does one that waits for more: `store 5` is followed by five bytes, which the handler reads as if they were there.

use std::net::TcpListener;
use std::time::Duration;

use poller::{Connection, EventLoop, Handler, Prepare, Reject};

struct Library;

/// What stands for a call that does not return soon: a query, a file on a slow disk, another service.
fn ask_the_database(question: &str) -> String {
    std::thread::sleep(Duration::from_secs(1));
    format!("the database knows {question:?}\n")
}

impl Handler for Library {
    type Context = ();

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_request(&self, _: &mut (), conn: &mut Connection) -> poller::Result {
        while let Some(line) = conn.input().until(b'\n') {
            let question = String::from_utf8_lossy(line).trim().to_owned();
            let answer = if let Some(length) = question.strip_prefix("store ") {
                let length = length.parse()?;
                conn.wait_for(length)?;
                format!("stored {:?}\n", String::from_utf8_lossy(conn.input().next(length)?))
            } else if question.starts_with("slow") {
                // What was answered before does not wait for this.
                conn.flush()?;
                poller::blocking(|| ask_the_database(&question))
            } else {
                format!("everybody knows {question:?}\n")
            };
            conn.output().write(answer.as_bytes());
        }
        Ok(())
    }
}

fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7004".into());
    // One poll, and at most eight handlers that block at the same time; a ninth makes the others wait.
    let event_loop = EventLoop::builder().polls(1).standby_max(8).build()?;
    let listener = event_loop.serve(TcpListener::bind(addr)?, Library)?;
    println!("library on {}; ends at the end of the standard input", listener.local_addr());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
