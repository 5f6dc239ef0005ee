//! Answers datagrams: `cargo run --example udp [ADDRESS]`, then `nc -u 127.0.0.1 7002`; press return to stop.
//!
//! The server sends back what comes, in capitals, and counts. Datagrams have no life cycle: no connect, no close, and
//! nothing waits. What the system's queue does not take is lost, as on the way.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use poller::{DatagramHandler, Datagrams, EventLoop};

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    lost: AtomicU64,
}

struct Shout(Arc<Counts>);

impl DatagramHandler for Shout {
    fn on_datagram(&self, socket: &Datagrams, from: SocketAddr, data: &[u8]) {
        let counter = match socket.send_to(&data.to_ascii_uppercase(), from) {
            Ok(()) => &self.0.answered,
            Err(_) => &self.0.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn on_error(&self, socket: &Datagrams, error: &std::io::Error) {
        eprintln!("{}: {error}", socket.local_addr());
    }
}

fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7002".into());
    let event_loop = EventLoop::builder().polls(1).build()?;
    let counts = Arc::new(Counts::default());
    let socket = event_loop.datagrams(UdpSocket::bind(addr)?, Shout(counts.clone()))?;
    println!("shouting back on {}; press return to stop", socket.local_addr());
    std::io::stdin().read_line(&mut String::new())?;
    event_loop.shutdown(Duration::ZERO);
    println!(
        "answered {}, lost {}",
        counts.answered.load(Ordering::Relaxed),
        counts.lost.load(Ordering::Relaxed)
    );
    Ok(())
}
