//! One connection of the client, and what is said on it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use lab::socket;
use lab::wire::{self, Protocol};

use crate::while_doing;

/// Longer than any head of an answer.
const HEAD_MAX: usize = 8 * 1024;

/// What is sent, and what must come back.
pub(crate) struct Script {
    pub(crate) port: u16,
    /// One request.
    single: Batch,
    /// All that is sent before an answer is waited for.
    pub(crate) fast: Batch,
    pub(crate) slow: Batch,
}

/// Requests that are sent together.
pub(crate) struct Batch {
    pub(crate) requests: u64,
    pub(crate) bytes: Vec<u8>,
    /// Length of all their answers.
    pub(crate) answer: usize,
    /// What the last answer ends with.
    tail: Vec<u8>,
}

impl Script {
    /// Makes the batches, and asks the server once how long its answers are.
    pub(crate) fn learn(
        protocol: Protocol,
        port: u16,
        size: usize,
        pipeline: usize,
        last: bool,
    ) -> io::Result<Script> {
        if size == 0 || size > wire::MESSAGE_MAX || pipeline == 0 {
            return Err(io::Error::other(format!(
                "a size of {size} and a depth of {pipeline} make no sense"
            )));
        }
        let fast = wire::request(protocol, port, size, false, last);
        let slow = wire::request(protocol, port, size, true, last);
        let answer = match protocol {
            Protocol::Http => {
                answer_len(socket::connect(port, None)?, &fast).map_err(while_doing("asking once"))?
            }
            Protocol::Rpc => fast.len(),
        };
        let tail = |request: &[u8]| match protocol {
            Protocol::Http => wire::BODY.to_vec(),
            Protocol::Rpc => request[request.len() - 1..].to_vec(),
        };
        let batch = |request: &[u8], count: usize| Batch {
            requests: count as u64,
            bytes: request.repeat(count),
            answer: answer * count,
            tail: tail(request),
        };
        Ok(Script { port, single: batch(&fast, 1), fast: batch(&fast, pipeline), slow: batch(&slow, 1) })
    }

    /// Asks once and waits for the answer.
    pub(crate) fn ask(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(&self.single.bytes)?;
        let mut answer = vec![0; self.single.answer];
        stream.read_exact(&mut answer)?;
        if answer.ends_with(&self.single.tail) { Ok(()) } else { Err(io::Error::other("a wrong answer")) }
    }

    fn batch(&self, slow: bool) -> &Batch {
        if slow { &self.slow } else { &self.fast }
    }
}

/// The length of a whole answer, as its head says.
fn answer_len(mut stream: TcpStream, request: &[u8]) -> io::Result<usize> {
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() > HEAD_MAX || stream.read(&mut byte)? == 0 {
            return Err(io::Error::other("an answer without an end of its head"));
        }
        answer.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(io::Error::other(format!("answered {:?}", head.lines().next())));
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let body = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
    if body != wire::BODY.len() {
        return Err(io::Error::other(format!("a body of {body} bytes")));
    }
    Ok(answer.len() + body)
}

/// One connection with one batch under way.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    /// When the batch began.
    pub(crate) since: Instant,
    pub(crate) slow: bool,
    /// Of the batch. Invariant: sent <= the batch's bytes.
    sent: usize,
    /// Of its answers. Invariant: received < the batch's answer, while it is under way.
    received: usize,
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Nothing,
    Some,
    /// The whole answer is here.
    Answered,
    /// The answer was wrong, or the connection has ended.
    Broken,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream, since: Instant) -> Peer {
        Peer { stream, since, slow: false, sent: 0, received: 0 }
    }

    /// Begins the next batch. What the system does not take now goes with [`Peer::send`].
    pub(crate) fn begin(&mut self, script: &Script, slow: bool, since: Instant) -> Progress {
        (self.slow, self.since, self.sent, self.received) = (slow, since, 0, 0);
        self.send(script)
    }

    /// Whether a part of the batch has not been sent.
    pub(crate) fn is_sending(&self, script: &Script) -> bool {
        self.sent < script.batch(self.slow).bytes.len()
    }

    /// Sends what the system takes.
    pub(crate) fn send(&mut self, script: &Script) -> Progress {
        match self.stream.write(&script.batch(self.slow).bytes[self.sent..]) {
            Ok(sent) => {
                self.sent += sent;
                Progress::Some
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Progress::Nothing,
            Err(_) => Progress::Broken,
        }
    }

    /// Reads once.
    pub(crate) fn receive(&mut self, script: &Script, buffer: &mut [u8]) -> Progress {
        let read = match self.stream.read(buffer) {
            Ok(0) => return Progress::Broken,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Nothing,
            Err(_) => return Progress::Broken,
        };
        let batch = script.batch(self.slow);
        self.received += read;
        if self.received < batch.answer {
            return Progress::Some;
        }
        // A tail that came in two pieces is judged by the second.
        let tail = &batch.tail[batch.tail.len() - batch.tail.len().min(read)..];
        let right = self.received == batch.answer && buffer[..read].ends_with(tail);
        if right { Progress::Answered } else { Progress::Broken }
    }
}

/// A connection that sends without end, and reads what comes.
pub(crate) struct Firehose {
    pub(crate) stream: TcpStream,
    /// Whole requests, sent again and again.
    bytes: Vec<u8>,
    at: usize,
    pub(crate) received: u64,
}

impl Firehose {
    /// What is sent at once, about.
    const CHUNK: usize = 64 * 1024;

    pub(crate) fn new(stream: TcpStream, script: &Script) -> Firehose {
        let request = &script.single.bytes;
        let bytes = request.repeat((Firehose::CHUNK / request.len()).max(1));
        Firehose { stream, bytes, at: 0, received: 0 }
    }

    /// One write and one read, as far as they go.
    pub(crate) fn turn(&mut self, writable: bool, readable: bool, buffer: &mut [u8]) -> Progress {
        if writable {
            match self.stream.write(&self.bytes[self.at..]) {
                Ok(sent) => self.at = (self.at + sent) % self.bytes.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Progress::Broken,
            }
        }
        if readable {
            match self.stream.read(buffer) {
                Ok(0) => return Progress::Broken,
                Ok(read) => self.received += read as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Progress::Broken,
            }
        }
        Progress::Some
    }
}
