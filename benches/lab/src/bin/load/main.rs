//! A light closed-loop client: one thread, one epoll, and on every connection one batch of requests under way.
//!
//! ```text
//! load --port P --proto http|rpc [--conns N] [--pipeline D] [--size BYTES] [--slowpct X] [--warm S]
//!      [--secs S | --requests N] [--churn] [--firehose]
//! load --port P --proto http|rpc --idle N
//! ```
//! * `--slowpct`: of a hundred batches, so many are one slow request instead; they are reported apart.
//! * `--churn`: a connection for each request; its latency includes the connecting.
//! * `--firehose`: one more connection sends without end and reads what comes back; its bytes are reported.
//! * `--idle`: opens connections, asks once on each, prints `ready`, and holds them until the standard input ends. Then it
//!   asks on each once more, and fails when one is gone.
//!
//! Prints one JSON object. Latencies are in microseconds, a batch counts as one. `first` is the first second, in which a
//! server may still have to learn, and `later` is the rest.
//! `errors` are connections that broke or could not be made, and batches that had been without an answer for more than
//! a second when the time was over.

mod drive;
mod peer;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io::Read;
use std::time::{Duration, Instant};

use lab::args::Args;
use lab::histogram::Histogram;
use lab::socket;
use lab::wire::Protocol;

use crate::peer::Script;

/// Connections that come from one address in the idle mode; it has some 28,000 ports.
const CONNS_PER_SOURCE: usize = 5000;
const VALUES: [&str; 9] =
    ["--port", "--proto", "--conns", "--pipeline", "--size", "--slowpct", "--warm", "--secs", "--requests"];

/// What is to be done.
pub(crate) struct Plan {
    pub(crate) conns: usize,
    /// Of ten thousand batches.
    pub(crate) slow_per_myriad: u64,
    pub(crate) warm: Duration,
    pub(crate) span: Duration,
    /// Ends earlier when so many were answered.
    pub(crate) requests_max: u64,
    pub(crate) churn: bool,
    pub(crate) firehose: bool,
}

/// What was seen in some time.
#[derive(Clone, Default)]
pub(crate) struct Phase {
    pub(crate) requests: u64,
    pub(crate) fast: Histogram,
    pub(crate) slow: Histogram,
}

/// What was seen after the warm-up.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) first: Phase,
    pub(crate) later: Phase,
    pub(crate) errors: u64,
    pub(crate) firehose_bytes: u64,
    pub(crate) span: Duration,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut values = VALUES.to_vec();
    values.push("--idle");
    let args = Args::of_process(&values, &["--churn", "--firehose"])?;
    let seconds = |name, default| -> Result<Duration, String> {
        Duration::try_from_secs_f64(args.get(name)?.unwrap_or(default)).map_err(|e| format!("{name}: {e}"))
    };
    let protocol = args.get("--proto")?.unwrap_or(Protocol::Http);
    let port = args.get("--port")?.unwrap_or(8080);
    let churn = args.has("--churn");
    let script = Script::learn(
        protocol,
        port,
        args.get("--size")?.unwrap_or(1024),
        args.get("--pipeline")?.unwrap_or(1),
        churn,
    )?;
    if let Some(conns) = args.get("--idle")? {
        return hold(&script, conns, || {
            println!("ready");
            std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
        });
    }
    let plan = Plan {
        conns: args.get("--conns")?.unwrap_or(64),
        slow_per_myriad: (args.get::<f64>("--slowpct")?.unwrap_or(0.0) * 100.0) as u64,
        warm: seconds("--warm", 0.0)?,
        span: seconds("--secs", if args.get::<u64>("--requests")?.is_some() { 600.0 } else { 3.0 })?,
        requests_max: args.get("--requests")?.unwrap_or(u64::MAX),
        churn,
        firehose: args.has("--firehose"),
    };
    println!("{}", drive::drive(&script, &plan)?.json());
    Ok(())
}

/// Holds idle connections, each of which has been used, while it waits; then uses each of them again.
fn hold(
    script: &Script,
    conns: usize,
    wait: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut held = Vec::with_capacity(conns);
    for n in 0..conns {
        let mut stream = socket::connect(script.port, Some(socket::source(n / CONNS_PER_SOURCE)))?;
        script.ask(&mut stream)?;
        held.push(stream);
    }
    wait()?;
    for (n, stream) in held.iter_mut().enumerate() {
        script.ask(stream).map_err(while_doing(&format!("connection {n} of {conns}, held: asking again")))?;
    }
    Ok(())
}

impl Outcome {
    /// Counts a batch that was answered `since` the measured time began.
    pub(crate) fn phase(&mut self, since: Duration) -> &mut Phase {
        if since < Duration::from_secs(1) { &mut self.first } else { &mut self.later }
    }

    fn json(&self) -> String {
        let first = self.span.min(Duration::from_secs(1));
        let mut whole = self.first.clone();
        whole.requests += self.later.requests;
        whole.fast.merge(&self.later.fast);
        whole.slow.merge(&self.later.slow);
        let object = |phase: &Phase, span: Duration| {
            let seconds = span.as_secs_f64();
            let rate = if seconds > 0.0 { phase.requests as f64 / seconds } else { 0.0 };
            format!(
                r#""secs":{seconds:.3},"requests":{},"req_per_s":{rate:.1},"fast":{},"slow":{}"#,
                phase.requests,
                phase.fast.json(),
                phase.slow.json()
            )
        };
        format!(
            r#"{{{},"errors":{},"firehose_bytes":{},"first":{{{}}},"later":{{{}}}}}"#,
            object(&whole, self.span),
            self.errors,
            self.firehose_bytes,
            object(&self.first, first),
            object(&self.later, self.span - first)
        )
    }
}

/// An error with what was being done.
pub(crate) fn while_doing<E: Display>(what: &str) -> impl FnOnce(E) -> std::io::Error {
    move |error| std::io::Error::other(format!("{what}: {error}"))
}

/// Nanoseconds from `from` to `to`.
pub(crate) fn nanos(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}
