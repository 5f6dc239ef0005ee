//! Targets on threads of the test.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Ended, PATIENCE, Wire};

/// A listening target. Dropped, it takes no more connections.
pub(crate) struct Origin {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    accepted: Arc<(Mutex<usize>, Condvar)>,
    /// Request heads in the order they came, for those that speak HTTP.
    heads: Arc<Mutex<Vec<String>>>,
}

/// An HTTP request as the target saw it.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// What an HTTP target does after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// Takes the next request.
    Goes,
    /// Closes.
    Ends,
    /// Breaks off.
    Breaks,
}

impl Origin {
    /// Every connection is handed to `serve` on a thread of its own.
    pub(crate) fn new(serve: impl Fn(Wire) + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let addr = listener.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new((Mutex::new(0), Condvar::new()));
        let (stopped, counted, serve) = (stop.clone(), accepted.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("there are descriptors");
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                *counted.0.lock().expect("no holder panics") += 1;
                counted.1.notify_all();
                let serve = serve.clone();
                std::thread::spawn(move || serve(Wire::new(stream)));
            }
        });
        Origin { addr, stop, accepted, heads: Arc::default() }
    }

    /// Speaks HTTP: reads whole requests, with their bodies, and has `answer` write to the connection.
    pub(crate) fn http(answer: impl Fn(&Request, &mut Wire) -> Talk + Send + Sync + 'static) -> Origin {
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        let mut origin = Origin::new(move |mut wire| {
            while let Some(request) = Request::read(&mut wire) {
                seen.lock().expect("no holder panics").push(request.head.clone());
                match answer(&request, &mut wire) {
                    Talk::Goes => {}
                    Talk::Ends => return,
                    Talk::Breaks => return wire.reset(),
                }
            }
        });
        origin.heads = heads;
        origin
    }

    /// Sends back what comes, as it comes, and ends when the other side has ended.
    pub(crate) fn echo() -> Origin {
        Origin::new(|mut wire| {
            // However long the other side is quiet.
            wire.writer().set_read_timeout(None).expect("none is a timeout");
            while let Ok(piece) = wire.read_some() {
                if piece.is_empty() || wire.try_send(&piece).is_err() {
                    return;
                }
            }
        })
    }

    /// Reads everything up to the end of the other direction, and only then answers, with the same bytes.
    pub(crate) fn after_end() -> Origin {
        Origin::new(|mut wire| {
            let (bytes, ended) = wire.read_to_end();
            if ended == Ended::Fin {
                wire.send(bytes);
            }
        })
    }

    /// Says `hello` and ends its direction at once; then counts what still comes, and reports it to `sink`.
    pub(crate) fn first_to_end(sink: std::sync::mpsc::Sender<(Vec<u8>, Ended)>) -> Origin {
        Origin::new(move |mut wire| {
            wire.send("hello");
            wire.finish();
            // The test may have gone on without this.
            sink.send(wire.read_to_end()).ok();
        })
    }

    /// Takes connections and never says a word; reports how each ended.
    pub(crate) fn silent(sink: std::sync::mpsc::Sender<(Vec<u8>, Ended)>) -> Origin {
        Origin::new(move |mut wire| {
            sink.send(wire.read_to_end()).ok();
        })
    }

    /// Says `greeting` and nothing more; reports how each connection ended.
    pub(crate) fn greets(greeting: &'static str, sink: std::sync::mpsc::Sender<(Vec<u8>, Ended)>) -> Origin {
        Origin::new(move |mut wire| {
            wire.send(greeting);
            sink.send(wire.read_to_end()).ok();
        })
    }

    /// Breaks off after `after` bytes have come.
    pub(crate) fn breaks(after: usize) -> Origin {
        Origin::new(move |mut wire| {
            wire.take(after);
            wire.reset();
        })
    }

    /// Answers `GET` and the like after some time with 200 and the path.
    pub(crate) fn slow(delay: Duration) -> Origin {
        Origin::http(move |request, wire| {
            // The time is what is tested.
            std::thread::sleep(delay);
            wire.send(ok(&request.path));
            Talk::Goes
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A URL below it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        *self.accepted.0.lock().expect("no holder panics")
    }

    /// Waits for the connection with this number.
    pub(crate) fn wait_accepted(&self, count: usize) {
        let mut accepted = self.accepted.0.lock().expect("no holder panics");
        while *accepted < count {
            let (guard, waited) = self.accepted.1.wait_timeout(accepted, PATIENCE).expect("no holder panics");
            assert!(!waited.timed_out(), "{} connections, want {count}", *guard);
            accepted = guard;
        }
    }

    /// Request heads so far, taken out.
    pub(crate) fn take_heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().expect("no holder panics"))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; if that is gone, so much the better.
        TcpStream::connect(self.addr).ok();
    }
}

/// A response with a length.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl Request {
    /// The next request; `None` when the connection ends between requests, in whatever way.
    fn read(wire: &mut Wire) -> Option<Request> {
        if !wire.has_more() {
            return None;
        }
        let head = wire.head();
        let mut words = head.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let field = |name: &str| {
            let mut lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
            lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
        };
        let continues = field("expect").is_some_and(|value| value == "100-continue");
        // Whoever answers says so.
        let body = if continues {
            Vec::new()
        } else if field("transfer-encoding").is_some() {
            wire.chunks()
        } else {
            field("content-length").map_or(Vec::new(), |len| wire.take(len.parse().expect("a number")))
        };
        Some(Request { head, method, path, body })
    }
}
