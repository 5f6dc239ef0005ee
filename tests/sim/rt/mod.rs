//! The room from which src takes the world, with nothing of the world in it: one thread, and one seed that decides all.
//!
//! It has the names of `src/rt.rs` and behaves as they do, as far as src uses them: connections have the life cycle and the order of
//! things of the poller, bytes that came before an end or a reset are handed over first, and a close sends what is queued. Beside
//! them stand the names for those who make a world: [`begin`], [`step`], [`spawn`], [`kill`], [`set_weather`], ...
//!
//! | file | holds |
//! |---|---|
//! | `kernel` | the clock, the queue of what happens next, processes |
//! | `chance` | numbers from the seed, and the trace |
//! | `net` | links: delay, pieces, room, loss, silence; datagrams |
//! | `connection`, `turn` | one connection and what it does when there is news |
//! | `handler`, `remote`, `thread`, `udp` | what src writes for the event loop, and asks of it |
//! | `access` | the access log, without its thread |

mod chance;
mod connection;
mod handler;
mod kernel;
mod net;
mod remote;
mod thread;
mod turn;
mod udp;

use std::io;
use std::time::{Duration, Instant};

pub use poller::limits;
pub use poller::tls;
pub use poller::{Closed, Fault, Limit, Reason, Reject, Result};

pub use connection::{Connection, Handle};
pub use handler::{Handler, IntoHandler, Prepare};
pub use remote::{Listener, Remote, Targets, TcpListener, Timer};
pub use udp::{DatagramHandler, Datagrams, UdpSocket};

pub use kernel::{fill_random, look_up, now, wall};
pub use thread::{Condvar, Waited, spawn_thread};

pub use chance::{Chance, Trace};
pub use kernel::{
    Counts, advance_to, begin, end, faults, next_at, note, now_ns, print_trace, set_late_max, set_name, step,
    trace,
};
pub use net::{
    Weather, bytes_out_to, change_weather, clear_up, links_to, lose, set_weather, silence, stall, take_tapped,
};
pub use remote::{contexts, counts, kill, name_of, spawn, stop};

/// How long ago that was.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A number that the seed decides.
///
/// # Errors
/// Never here.
pub fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// What a handshake is bound to, and what a WebSocket draws its masks from.
///
/// # Errors
/// Never here.
pub fn nonce() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    fill_random(&mut bytes)?;
    Ok(bytes)
}
