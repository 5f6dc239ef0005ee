//! The buffer beside what one would use instead, in one run: `cargo bench -p linkbuffer --bench buffer`.
//!
//! Every row does the same work on each queue: bytes come in by a copy, as the kernel would make one, are looked at where
//! they lie, and go out without one. The rounds of the queues are short and interleaved, because the machine is shared with
//! whatever else runs on it, and the queues are made anew now and then, because addresses decide how quick a copy is. Figures
//! are nanoseconds for one unit of the row, best and median of the rounds.

use bytes::{Buf, Bytes, BytesMut};
use linkbuffer::{LinkBuffer, Node};
use memchr::memchr;
use std::cell::Cell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::io::IoSlice;
use std::time::{Duration, Instant};

/// Queues made anew: how quick a copy is also depends on how its two addresses lie to each other.
const PLACES: usize = 24;
const ROUNDS: usize = 12;
/// Short beside the slice that the scheduler gives, so that some rounds of each queue run undisturbed.
const ROUND_TIME: Duration = Duration::from_micros(300);

fn main() {
    // `cargo test --benches` runs it too: once around is enough to see that it works.
    let is_short = std::env::args().any(|arg| arg == "--test");
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    println!(
        "| ns, best (median) of {} | LinkBuffer | BytesMut | VecDeque | Vec, drain | LinkBuffer : best other |",
        PLACES * ROUNDS
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for row in ROWS.iter().filter(|row| row.name.contains(&filter)) {
        row.run(if is_short { Duration::ZERO } else { ROUND_TIME });
    }
}

/// A unit of work, to be done again and again.
type Work = Box<dyn FnMut()>;

struct Row {
    name: &'static str,
    /// One for each queue, in the order of the table. Each makes a queue of its own and gives its unit of work.
    queues: [fn() -> Work; 4],
}

macro_rules! row {
    ($name:literal, $work:ident $(, $argument:expr)?) => {
        Row {
            name: $name,
            queues: [
                || $work::<Linked>($($argument)?),
                || $work::<BytesMut>($($argument)?),
                || $work::<VecDeque<u8>>($($argument)?),
                || $work::<Vec<u8>>($($argument)?),
            ],
        }
    };
}

const ROWS: &[Row] = &[
    row!("append and consume 16 B", append_consume, 16),
    row!("append and consume 1 KiB", append_consume, 1024),
    row!("append and consume 64 KiB", append_consume, 65_536),
    row!("find a delimiter, 16 pieces of 1 KiB", find_delimiter),
    row!("16 messages of 100 B in a read", messages_of_a_read),
    row!("gather 64 pieces of 1 KiB", gather, 1024),
    row!("gather 64 pieces of 2 KiB", gather, 2048),
    row!("gather 64 pieces of 4 KiB", gather, 4096),
    row!("relay 16 KiB", relay),
    row!("relay 16 KiB, the receiver one behind", relay_behind),
    row!("relay 16 KiB behind a head of 12 B", relay_framed),
    row!("messages of 1,000 B across reads of 4 KiB", crossing_lines),
    row!("the same, of 1,000 connections in turn", crossing_lines_in_turn),
    row!("messages of 40,000 B across reads of 16 KiB, taken", crossing_taken),
];

impl Row {
    fn run(&self, round_time: Duration) {
        let mut figures = [const { Vec::new() }; 4];
        for place in 0..PLACES {
            PLACE.set(place);
            let mut work: Vec<_> = self.queues.iter().map(|make| make()).collect();
            let counts: Vec<usize> = work.iter_mut().map(|work| calibrate(work, round_time)).collect();
            for _ in 0..ROUNDS {
                for ((work, &count), figures) in work.iter_mut().zip(&counts).zip(&mut figures) {
                    figures.push(time(work, count).as_secs_f64() * 1e9 / count as f64);
                }
            }
        }
        figures.iter_mut().for_each(|figures| figures.sort_by(f64::total_cmp));
        let best_other = figures[1..].iter().map(|figures| figures[0]).fold(f64::MAX, f64::min);
        print!("| {} ", self.name);
        for figures in &figures {
            print!("| {:.1} ({:.1}) ", figures[0], figures[figures.len() / 2]);
        }
        println!("| {:.2} |", figures[0][0] / best_other);
    }
}

fn time(work: &mut dyn FnMut(), count: usize) -> Duration {
    let start = Instant::now();
    (0..count).for_each(|_| work());
    start.elapsed()
}

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// `len` bytes to be copied from, at another place within a page each time.
fn source(len: usize) -> Bytes {
    Bytes::from(vec![b'x'; place() + len]).slice(place()..)
}

fn place() -> usize {
    PLACE.get() * (4096 / PLACES) / 16 * 16
}

/// The same, every `every`th byte a newline.
fn lines(len: usize, every: usize) -> Bytes {
    let mut bytes = vec![b'x'; place() + len];
    bytes[place()..].chunks_mut(every).for_each(|line| line[line.len() - 1] = b'\n');
    Bytes::from(bytes).slice(place()..)
}

/// How often the work fits into a round; it is warm afterwards.
fn calibrate(work: &mut dyn FnMut(), round_time: Duration) -> usize {
    let mut count = 1;
    while time(work, count) < round_time / 4 {
        count *= 2;
    }
    count * 4
}

/// What the rows do with a queue.
trait Queue: Default + 'static {
    /// Copies bytes in.
    fn append(&mut self, bytes: &[u8]);
    /// Puts owned bytes in, and is rid of them.
    fn append_owned(&mut self, bytes: Bytes) {
        self.append(&bytes);
    }
    /// As a read of a socket: the kernel copies bytes in.
    fn receive(&mut self, bytes: &[u8]) {
        self.append(bytes);
    }
    /// The turn is over that the read began.
    fn end_turn(&mut self) {}
    /// Leaves what belongs to the thread to the queue that has the next turn.
    fn leave_to(&mut self, _next: &mut Self) {}
    /// Looks at the first `n` bytes in one slice and consumes them.
    fn consume(&mut self, n: usize);
    /// Looks at the bytes through the first newline in one slice and consumes them, if there is one.
    fn line(&mut self) -> bool;
    /// Moves the first `n` bytes behind those of another queue.
    fn pass_on(&mut self, n: usize, to: &mut Self);
    /// Takes the first `n` bytes out, to be kept by somebody.
    fn take(&mut self, n: usize) -> Self;
    fn len(&self) -> usize;
    /// Shows everything to the kernel and consumes it.
    fn send(&mut self);
}

#[derive(Default)]
struct Linked {
    buffer: LinkBuffer,
    node: Option<Node>,
}

impl Queue for Linked {
    fn append(&mut self, bytes: &[u8]) {
        self.buffer.write(bytes);
    }
    fn append_owned(&mut self, bytes: Bytes) {
        self.buffer.write_bytes(bytes);
    }
    fn receive(&mut self, bytes: &[u8]) {
        self.buffer.lend(self.node.take().unwrap_or_else(|| Node::take(65_536)));
        self.buffer.inputs()[..bytes.len()].copy_from_slice(bytes);
        self.buffer.input_ack(bytes.len());
    }
    fn end_turn(&mut self) {
        self.node = self.buffer.reclaim();
    }
    fn leave_to(&mut self, next: &mut Self) {
        next.node = self.node.take();
    }
    fn consume(&mut self, n: usize) {
        black_box(self.buffer.next(n).expect("they are there"));
    }
    fn line(&mut self) -> bool {
        black_box(self.buffer.until(b'\n')).is_some()
    }
    fn pass_on(&mut self, n: usize, to: &mut Self) {
        to.buffer.append(self.buffer.split_to(n).expect("they are there"));
    }
    fn take(&mut self, n: usize) -> Self {
        Self { buffer: self.buffer.split_to(n).expect("they are there"), node: None }
    }
    fn len(&self) -> usize {
        self.buffer.len()
    }
    fn send(&mut self) {
        let first = black_box(self.buffer.chunk()).len();
        if first == self.buffer.len() {
            return self.buffer.output_ack(first);
        }
        while !self.buffer.is_empty() {
            let mut slices = [IoSlice::new(&[]); 64];
            let count = self.buffer.io_slices(&mut slices);
            let sent = black_box(&slices[..count]).iter().map(|slice| slice.len()).sum();
            self.buffer.output_ack(sent);
        }
    }
}

impl Queue for BytesMut {
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
    fn consume(&mut self, n: usize) {
        black_box(&self[..n]);
        self.advance(n);
    }
    fn line(&mut self) -> bool {
        let Some(at) = memchr(b'\n', self) else { return false };
        Queue::consume(self, at + 1);
        true
    }
    fn pass_on(&mut self, n: usize, to: &mut Self) {
        let bytes = self.split_to(n);
        if to.is_empty() {
            *to = bytes;
        } else {
            to.extend_from_slice(&bytes);
        }
    }
    fn take(&mut self, n: usize) -> Self {
        self.split_to(n)
    }
    fn len(&self) -> usize {
        self.len()
    }
    fn send(&mut self) {
        black_box(&self[..]);
        self.clear();
    }
}

impl Queue for VecDeque<u8> {
    fn append(&mut self, bytes: &[u8]) {
        self.extend(bytes);
    }
    // A `Vec` and a `BytesMut` can lend the room behind their bytes to the kernel, a `VecDeque` only bytes that it has: they are
    // filled first. A buffer beside it, from which `extend` copies, is not quicker.
    fn receive(&mut self, bytes: &[u8]) {
        let before = self.len();
        self.resize(before + bytes.len(), 0);
        let (front, back) = self.as_mut_slices();
        let at = before.min(front.len());
        let (now, later) = bytes.split_at(bytes.len().min(front.len() - at));
        front[at..].copy_from_slice(now);
        let at = back.len() - later.len();
        back[at..].copy_from_slice(later);
    }
    fn consume(&mut self, n: usize) {
        if self.as_slices().0.len() < n {
            self.make_contiguous();
        }
        black_box(&self.as_slices().0[..n]);
        self.drain(..n);
    }
    fn line(&mut self) -> bool {
        let (front, back) = self.as_slices();
        let found = memchr(b'\n', front).or_else(|| memchr(b'\n', back).map(|at| front.len() + at));
        let Some(at) = found else { return false };
        Queue::consume(self, at + 1);
        true
    }
    fn pass_on(&mut self, n: usize, to: &mut Self) {
        if to.is_empty() && n == self.len() {
            std::mem::swap(self, to);
        } else {
            // By slices: by `drain` it would go byte by byte.
            let (front, back) = self.as_slices();
            to.extend(&front[..n.min(front.len())]);
            to.extend(&back[..n.saturating_sub(front.len())]);
            self.drain(..n);
        }
    }
    fn take(&mut self, n: usize) -> Self {
        let mut taken = Self::with_capacity(n);
        self.pass_on(n, &mut taken);
        taken
    }
    fn len(&self) -> usize {
        self.len()
    }
    fn send(&mut self) {
        black_box(self.as_slices());
        self.clear();
    }
}

impl Queue for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
    fn consume(&mut self, n: usize) {
        black_box(&self[..n]);
        self.drain(..n);
    }
    fn line(&mut self) -> bool {
        let Some(at) = memchr(b'\n', self) else { return false };
        Queue::consume(self, at + 1);
        true
    }
    fn pass_on(&mut self, n: usize, to: &mut Self) {
        if to.is_empty() && n == self.len() {
            std::mem::swap(self, to);
        } else {
            to.extend_from_slice(&self[..n]);
            self.drain(..n);
        }
    }
    fn take(&mut self, n: usize) -> Self {
        let mut taken = Self::with_capacity(n);
        self.pass_on(n, &mut taken);
        taken
    }
    fn len(&self) -> usize {
        self.len()
    }
    fn send(&mut self) {
        black_box(&self[..]);
        self.clear();
    }
}

/// One message goes in and one comes out, with another always between them.
fn append_consume<Q: Queue>(len: usize) -> Work {
    let bytes = source(len);
    let mut queue = Q::default();
    queue.append(&bytes);
    Box::new(move || {
        queue.append(black_box(&bytes));
        queue.consume(bytes.len());
    })
}

fn find_delimiter<Q: Queue>() -> Work {
    let pieces: Vec<Bytes> =
        (0..16).map(|n| if n == 15 { lines(1024, 1024) } else { source(1024) }).collect();
    let mut queue = Q::default();
    Box::new(move || {
        pieces.iter().for_each(|piece| queue.append_owned(black_box(piece.clone())));
        assert!(queue.line());
    })
}

fn messages_of_a_read<Q: Queue>() -> Work {
    let bytes = lines(1600, 100);
    let mut queue = Q::default();
    Box::new(move || {
        queue.receive(black_box(&bytes));
        while queue.line() {}
        queue.end_turn();
    })
}

fn gather<Q: Queue>(len: usize) -> Work {
    let piece = source(len);
    let mut queue = Q::default();
    Box::new(move || {
        (0..64).for_each(|_| queue.append_owned(black_box(piece.clone())));
        queue.send();
    })
}

fn relay<Q: Queue>() -> Work {
    let bytes = source(16_384);
    let (mut input, mut output) = (Q::default(), Q::default());
    Box::new(move || {
        input.receive(black_box(&bytes));
        input.pass_on(bytes.len(), &mut output);
        input.end_turn();
        output.send();
    })
}

/// The kernel takes less than it is offered: there is always something left when more comes.
fn relay_behind<Q: Queue>() -> Work {
    let bytes = source(16_384);
    let (mut input, mut output) = (Q::default(), Q::default());
    output.append(&bytes);
    Box::new(move || {
        input.receive(black_box(&bytes));
        input.pass_on(bytes.len(), &mut output);
        input.end_turn();
        output.consume(bytes.len());
    })
}

fn relay_framed<Q: Queue>() -> Work {
    let bytes = source(16_384);
    let (mut input, mut output) = (Q::default(), Q::default());
    Box::new(move || {
        input.receive(black_box(&bytes));
        output.append(black_box(&[7; 12]));
        input.pass_on(bytes.len(), &mut output);
        input.end_turn();
        output.send();
    })
}

fn crossing_lines<Q: Queue>() -> Work {
    let bytes = lines(1000 * 4096, 1000);
    let mut queue = Q::default();
    let mut at = 0;
    Box::new(move || {
        queue.receive(black_box(&bytes[at..at + 4096]));
        at = (at + 4096) % bytes.len();
        while queue.line() {}
        queue.end_turn();
    })
}

/// As a server reads: who has the next turn is seldom who had the last. Each queue waits with what its user would leave in it,
/// and what it keeps meanwhile is fetched again from far caches.
fn crossing_lines_in_turn<Q: Queue>() -> Work {
    let bytes = lines(1000 * 4096, 1000);
    let mut queues: Vec<Q> = (0..1000).map(|_| Q::default()).collect();
    let (mut at, mut turn) = (0, 0);
    Box::new(move || {
        let next = (turn + 1) % queues.len();
        let [queue, next_queue] = queues.get_disjoint_mut([turn, next]).expect("they are two");
        queue.receive(black_box(&bytes[at..at + 4096]));
        while queue.line() {}
        queue.end_turn();
        queue.leave_to(next_queue);
        // Each goes on where it was, one read further on than the connection before it.
        at = (at + if next == 0 { 8192 } else { 4096 }) % bytes.len();
        turn = next;
    })
}

/// Sixteen messages out of forty reads or so: the unit is a read.
fn crossing_taken<Q: Queue>() -> Work {
    let bytes = source(16_384);
    let mut queue = Q::default();
    Box::new(move || {
        queue.receive(black_box(&bytes));
        while queue.len() >= 40_000 {
            black_box(queue.take(40_000));
        }
        queue.end_turn();
    })
}
