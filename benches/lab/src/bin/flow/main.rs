//! Streams of many bytes, and a target for them: how fast they are carried, and whether they arrive as they were sent.
//!
//! ```text
//! flow --serve [--port P]
//! flow --bulk   --connect A:P --target A:P [--streams N] [--up] [--warm S] [--secs S]
//! flow --verify --connect A:P [--streams N] [--bytes B] [--seed S] [--write-max B] [--patience S]
//!               [--up | --down] [--hold]
//! flow --count  --target A:P
//! ```
//! * `--serve`: the target, on loopback. Prints `listening ADDRESS`.
//! * `--bulk`: streams without an end, of bytes that nobody looks at, down to the user or `--up` to the target. Prints
//!   `begun` after the warm-up, then a JSON object with the bytes that their receiver counted, and holds the streams until
//!   the standard input ends.
//! * `--verify`: `--bytes` in all, shared out very unevenly among the streams and their directions, made from the seed and
//!   written in pieces of 1 to `--write-max` bytes, each magnitude as often as any other. Both ends sum with SHA-256 what
//!   they send and receive. With `--up` or `--down` all of it goes that way. Prints a JSON object, and exits with 1 when a stream was not carried as it was sent.
//!   With `--hold`: opens the streams, prints `held`, and begins when the standard input ends.
//! * `--count`: asks a target what it has received and sent so far on all its streams. Prints a JSON object.
//!
//! One thread and one epoll each, so that a core for both ends of the load is used well.

mod bulk;
mod end;
mod order;
mod payload;
mod poll;
mod target;
#[cfg(test)]
mod tests;
mod verify;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use lab::args::Args;

use crate::end::Scratch;
use crate::payload::SCRATCH;
use crate::verify::Ways;

const VALUES: [&str; 10] = [
    "--port",
    "--connect",
    "--target",
    "--streams",
    "--warm",
    "--secs",
    "--bytes",
    "--seed",
    "--write-max",
    "--patience",
];
const FLAGS: [&str; 7] = ["--serve", "--bulk", "--verify", "--count", "--up", "--down", "--hold"];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::of_process(&VALUES, &FLAGS)?;
    let seconds = |name, default| -> Result<Duration, String> {
        Duration::try_from_secs_f64(args.get(name)?.unwrap_or(default)).map_err(|e| format!("{name}: {e}"))
    };
    let address = |name: &str| args.get::<SocketAddr>(name)?.ok_or(format!("{name} is wanted"));
    match ["--serve", "--bulk", "--verify", "--count"].map(|mode| args.has(mode)) {
        [true, false, false, false] => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.get("--port")?.unwrap_or(0)))?;
            println!("listening {}", listener.local_addr()?);
            target::serve(&listener)?;
        }
        [false, true, false, false] => {
            let plan = bulk::Plan {
                address: address("--connect")?,
                target: address("--target")?,
                streams: args.get("--streams")?.unwrap_or(1),
                up: args.has("--up"),
                warm: seconds("--warm", 1.0)?,
                span: seconds("--secs", 3.0)?,
            };
            let (carried, users) = bulk::run(&plan, || println!("begun"))?;
            println!("{}", carried.json());
            end_of_input()?;
            drop(users);
        }
        [false, false, true, false] => {
            let plan = verify::Plan {
                address: address("--connect")?,
                streams: args.get("--streams")?.unwrap_or(100),
                bytes: args.get("--bytes")?.unwrap_or(200_000_000),
                ways: match (args.has("--up"), args.has("--down")) {
                    (true, false) => Ways::Up,
                    (false, true) => Ways::Down,
                    _ => Ways::Both,
                },
                seed: args.get("--seed")?.unwrap_or(1),
                write_max: args.get("--write-max")?.unwrap_or(1 << 20),
                patience: seconds("--patience", 60.0)?,
            };
            let hold = args.has("--hold");
            let verdict = verify::run(&plan, || {
                if hold {
                    println!("held");
                    end_of_input()?;
                }
                Ok(())
            })?;
            println!("{}", verdict.json());
            return Ok(if verdict.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        [false, false, false, true] => println!("{}", bulk::count(address("--target")?)?.json()),
        _ => return Err("one of --serve, --bulk, --verify and --count is wanted".into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn end_of_input() -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

/// A connection that does not block and sends without delay.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// An error with what was being done.
fn while_doing<E: Display>(what: &str) -> impl FnOnce(E) -> io::Error {
    move |error| io::Error::other(format!("{what}: {error}"))
}

impl Scratch {
    fn new() -> Scratch {
        Scratch { zeros: vec![0; SCRATCH], room: vec![0; SCRATCH] }
    }
}
