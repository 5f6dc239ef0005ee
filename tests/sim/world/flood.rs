//! A gateway that asks and asks, and never reads an answer: its client cuts it off before the answers fill the memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use linkbuffer::LinkBuffer;
use simulated::limits::CONTROL_QUEUE_LEN_MAX;
use simulated::proto::credentials::Credentials;
use simulated::proto::frame::{Frame, Network, OpenRequest};
use simulated::proto::session::{GatewayConfig, Session};
use simulated::proto::ws::WebSocket;
use simulated::rt::{self, Closed, Connection, Handler, Prepare, Reject, TcpListener};

use super::{at, client_config};

const HOSTILE: SocketAddr = at(Ipv4Addr::new(10, 0, 0, 9), 8443);
/// What is asked in one message.
const AT_ONCE: usize = 500;
/// Unsent bytes beyond which it waits.
const UNSENT: usize = 64 * 1024;

#[derive(Clone, Default)]
struct Flooder {
    asked: Arc<AtomicU64>,
    cut_off: Arc<AtomicBool>,
}

struct Flooding {
    ws: WebSocket,
    session: Session,
    next: u32,
}

impl Flooder {
    /// Frames that each want an answer, which is that the rules forbid it.
    fn flood(&self, cx: &mut Flooding, conn: &mut Connection<'_>) -> rt::Result {
        while conn.unsent() < UNSENT && self.asked.load(Ordering::Relaxed) < most() {
            let mut message = LinkBuffer::new();
            for _ in 0..AT_ONCE {
                let request = OpenRequest {
                    network: Network::Tcp,
                    host: "10.77.0.1".into(),
                    port: 80,
                    conn_id: 0,
                    user_addr: None,
                };
                message.write_bytes(Frame::Open { request, window: 1 << 16 }.encode(cx.next));
                cx.next += 2;
            }
            self.asked.fetch_add(AT_ONCE as u64, Ordering::Relaxed);
            cx.ws.send(message)?;
            cx.ws.poll_output(conn.output());
            conn.flush()?;
        }
        conn.wake_on_progress();
        Ok(())
    }
}

/// Asked so often without being cut off, it is not cut off.
fn most() -> u64 {
    3 * CONTROL_QUEUE_LEN_MAX as u64
}

impl Handler for Flooder {
    type Context = Flooding;

    fn on_prepare(&self, _conn: &mut Prepare<'_>) -> Result<Flooding, Reject> {
        let credentials = Arc::new(Credentials::new());
        let config = GatewayConfig { credentials, session_id: 1, nonce: rt::nonce()? };
        Ok(Flooding { ws: WebSocket::server(), session: Session::gateway(config, rt::now()), next: 1 })
    }

    fn on_request(&self, cx: &mut Flooding, conn: &mut Connection<'_>) -> rt::Result {
        if cx.session.is_up() {
            return self.flood(cx, conn);
        }
        cx.ws.handle_input(conn.input())?;
        while let Some(part) = cx.ws.poll_payload() {
            cx.session.handle_input(part.bytes, rt::now())?;
        }
        cx.ws.poll_output(conn.output());
        let mut message = LinkBuffer::new();
        if cx.session.poll_transmit(UNSENT, &mut message, rt::now()) > 0 {
            cx.ws.send(message)?;
            cx.ws.poll_output(conn.output());
        }
        if cx.session.is_up() {
            conn.pause();
            conn.handle().wake();
        }
        Ok(())
    }

    fn on_close(&self, _cx: &mut Flooding, _info: &Closed) {
        self.cut_off.store(true, Ordering::Relaxed);
    }
}

/// Runs it; says how often it asked before it was cut off.
pub(crate) fn run(seed: u64) -> Result<u64, String> {
    rt::begin(seed);
    let people = rt::spawn("people", Ipv4Addr::new(10, 9, 0, 1));
    let flooder = Flooder::default();
    let listener = TcpListener::bind(HOSTILE).map_err(|error| error.to_string())?;
    people.serve(listener, flooder.clone()).map_err(|error| error.to_string())?;
    let client = rt::spawn("client", Ipv4Addr::new(10, 2, 0, 1));
    simulated::client::start(client, client_config(HOSTILE, "client", 1)?)
        .map_err(|error| error.to_string())?;
    let end = Duration::from_secs(20).as_nanos() as u64;
    while !flooder.cut_off.load(Ordering::Relaxed) && rt::now_ns() < end && rt::step() {}
    let (asked, cut_off) = (flooder.asked.load(Ordering::Relaxed), flooder.cut_off.load(Ordering::Relaxed));
    rt::end();
    match cut_off && asked < most() {
        true => Ok(asked),
        false => Err(format!("a gateway that asked {asked} times and read no answer was not cut off")),
    }
}
