//! Timers: `cargo run --example timer -- 127.0.0.1:7002`, then `nc 127.0.0.1 7002` and lines such as `1500`.
//!
//! A line with a number of milliseconds is answered with `ding` when they have passed. A user who asks for nothing for a
//! minute is sent away. Both share the one timer that a connection has: what it is for stands in the context.

use std::net::TcpListener;
use std::time::Duration;

use poller::{Connection, EventLoop, Handler, Prepare, Reject};

/// How long a user may stay without a question.
const QUIET: Duration = Duration::from_secs(60);

struct Kitchen;

/// What the timer is for.
#[derive(PartialEq)]
enum Waiting {
    ForAQuestion,
    ForTheEgg,
}

impl Handler for Kitchen {
    type Context = Waiting;

    fn on_prepare(&self, _: &mut Prepare<'_>) -> Result<Waiting, Reject> {
        Ok(Waiting::ForAQuestion)
    }

    fn on_connect(&self, _: &mut Waiting, conn: &mut Connection) -> poller::Result {
        conn.set_timer(QUIET);
        Ok(())
    }

    fn on_request(&self, cx: &mut Waiting, conn: &mut Connection) -> poller::Result {
        // One egg at a time: further questions stay in the input until this one is done.
        if *cx == Waiting::ForTheEgg {
            return Ok(());
        }
        let Some(line) = conn.input().until(b'\n') else { return Ok(()) };
        // What is no number ends the connection with that as its reason.
        let ms = std::str::from_utf8(line)?.trim().parse()?;
        *cx = Waiting::ForTheEgg;
        conn.set_timer(Duration::from_millis(ms));
        Ok(())
    }

    fn on_timer(&self, cx: &mut Waiting, conn: &mut Connection) -> poller::Result {
        if *cx == Waiting::ForAQuestion {
            conn.output().write(b"nothing to cook?\n");
            conn.close();
            return Ok(());
        }
        conn.output().write(b"ding\n");
        *cx = Waiting::ForAQuestion;
        conn.set_timer(QUIET);
        // A question may have come meanwhile, and nothing else would call for it.
        self.on_request(cx, conn)
    }
}

fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7002".into());
    let event_loop = EventLoop::new()?;
    let listener = event_loop.serve(TcpListener::bind(addr)?, Kitchen)?;
    println!("egg timers on {}; ends at the end of the standard input", listener.local_addr());
    // The event loop has timers of its own, too.
    event_loop.after(Duration::from_secs(3600), || println!("open for an hour"))?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
