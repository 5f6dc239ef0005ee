//! Operations written as bytes, done to the buffer and to a queue of bytes, and compared: the model test draws the bytes at
//! random, the fuzz target `linkbuffer_ops` searches for them. Only what others can call is used.
//!
//! Every length is drawn near the places where something changes: 0, the limits, what is there, one more, `usize::MAX`.

use bytes::{Buf, Bytes};
use linkbuffer::limits::{
    LINK_BYTES_MIN, NODE_BYTES_MIN, NODE_POOLED_BYTES_MAX, RESERVED_BYTES_MAX, ZERO_COPY_BYTES_MIN,
};
use linkbuffer::{LinkBuffer, Node, ReadStringError, Short};
use std::collections::VecDeque;
use std::io::{BufRead, IoSlice, Read, Write};

/// Beyond this much the queue is emptied, so that the runs stay quick; Miri searches it byte by byte.
const LEN_HIGH: usize = if cfg!(miri) { 5_000 } else { 200_000 };
/// How many owned bytes are kept and looked at again.
const OWNED_LEN_MAX: usize = 16;

/// A length to write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fresh(usize);

/// A length to ask for: resolved against what is there when its turn comes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    All,
    Beyond(usize),
    Most,
    Some(usize),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    Write(Fresh),
    WriteVectored(Fresh),
    WriteBytes(Fresh),
    WriteOwned(u8),
    Append { len: Fresh, parts: u8, lent: bool },
    Reserve(Fresh),
    ReserveTooMuch,
    Insert { len: Fresh, before: Ask },
    Commit(Ask),
    Flush,
    Peek(Ask),
    Next(Ask),
    Skip(Ask),
    ReadVec(Ask),
    ReadBytes(Ask),
    ReadChunk(Ask),
    ReadString(Ask),
    CopyTo(Ask),
    Integer(u8),
    SplitTo { n: Ask, then: u8 },
    Until(u8),
    Find { start: Ask, byte: u8 },
    FindSlice { start: Ask, at: Ask, len: u8 },
    Send { slots: u8, sent: Ask },
    StdRead(Fresh),
    BufRead(Ask),
    CopyToBytes(Ask),
    Clear,
    Lend(u8),
    Reclaim,
    Receive { len: Fresh, beyond: bool },
}

/// Reads operations out of bytes; any bytes are operations.
pub(crate) struct Decoder<'a>(&'a [u8]);

impl Decoder<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    fn fresh(&mut self) -> Option<Fresh> {
        let (kind, low) = (self.byte()?, usize::from(self.byte()?));
        let limits = [NODE_BYTES_MIN, LINK_BYTES_MIN / 2, LINK_BYTES_MIN, 2 * LINK_BYTES_MIN, 1024, 16_384];
        Some(Fresh(match kind {
            0..=127 => low % 64,
            128..=191 => usize::from(kind - 128) << 5 | low,
            192..=223 => limits[low % limits.len()] - 1 + usize::from(kind) % 3,
            224..=251 => usize::from(kind - 224) << 9 | low,
            252..=254 => usize::from(kind - 252) << 15 | low << 7,
            255 => NODE_POOLED_BYTES_MAX + low - 128,
        }))
    }

    fn ask(&mut self) -> Option<Ask> {
        Some(match self.byte()? {
            0..=15 => Ask::All,
            16..=23 => Ask::Beyond(1 + usize::from(self.byte()?)),
            24..=25 => Ask::Most,
            _ => Ask::Some(self.fresh()?.0),
        })
    }

    fn op(&mut self) -> Option<Op> {
        Some(match self.byte()? % 44 {
            0..=3 => Op::Write(self.fresh()?),
            4 => Op::WriteVectored(self.fresh()?),
            5 => Op::WriteBytes(self.fresh()?),
            6 => Op::WriteOwned(self.byte()?),
            7 => Op::Append { len: self.fresh()?, parts: self.byte()?, lent: self.byte()? < 128 },
            8..=10 => Op::Reserve(self.fresh()?),
            11 => Op::ReserveTooMuch,
            12 | 13 => Op::Insert { len: self.fresh()?, before: self.ask()? },
            14 | 15 => Op::Commit(self.ask()?),
            16 => Op::Flush,
            17 | 18 => Op::Peek(self.ask()?),
            19 | 20 => Op::Next(self.ask()?),
            21 => Op::Skip(self.ask()?),
            22 => Op::ReadVec(self.ask()?),
            23 | 24 => Op::ReadBytes(self.ask()?),
            25 => Op::ReadChunk(self.ask()?),
            26 => Op::ReadString(self.ask()?),
            27 => Op::CopyTo(self.ask()?),
            28 => Op::Integer(self.byte()?),
            29 | 30 => Op::SplitTo { n: self.ask()?, then: self.byte()? },
            31 => Op::Until(self.byte()?),
            32 => Op::Find { start: self.ask()?, byte: self.byte()? },
            33 => Op::FindSlice { start: self.ask()?, at: self.ask()?, len: self.byte()? },
            34 => Op::Send { slots: self.byte()?, sent: self.ask()? },
            35 => Op::StdRead(self.fresh()?),
            36 => Op::BufRead(self.ask()?),
            37 => Op::CopyToBytes(self.ask()?),
            38 if self.byte()? < 32 => Op::Clear,
            38 | 39 => Op::Lend(self.byte()?),
            40 => Op::Reclaim,
            _ => Op::Receive { len: self.fresh()?, beyond: self.byte()? == 0 },
        })
    }
}

impl Ask {
    fn of(self, available: usize) -> usize {
        match self {
            Self::All => available,
            Self::Beyond(more) => available + more,
            Self::Most => usize::MAX,
            Self::Some(n) => n.min(available),
        }
    }
}

/// Does all operations that the bytes tell, and returns how many there were.
pub(crate) fn run(bytes: &[u8], check: fn(&LinkBuffer)) -> usize {
    let mut decoder = Decoder(bytes);
    let mut machine = Machine::default();
    let mut count = 0;
    while let Some(op) = decoder.op() {
        machine.step(op);
        check(&machine.buffer);
        count += 1;
    }
    machine.finish();
    count
}

#[derive(Default)]
struct Machine {
    buffer: LinkBuffer,
    queue: VecDeque<u8>,
    /// What is reserved and was written there.
    reserved: Vec<u8>,
    /// Owned bytes and what they must still show: memory given out is never written.
    owned: Vec<(Bytes, Vec<u8>)>,
    stamp: u8,
}

impl Machine {
    fn fresh(&mut self, len: Fresh) -> Vec<u8> {
        self.stamp = self.stamp.wrapping_add(1);
        let mut bytes = Vec::from_iter((0..251).map(|at| at ^ self.stamp)).repeat(len.0 / 251 + 1);
        bytes.truncate(len.0);
        bytes
    }

    /// What the first `n` bytes should be, or what the call should say.
    fn expected(&self, n: usize) -> Result<Vec<u8>, Short> {
        if n > self.queue.len() {
            return Err(Short { wanted: n, available: self.queue.len() });
        }
        let (front, back) = self.queue.as_slices();
        let in_front = n.min(front.len());
        Ok([&front[..in_front], &back[..n - in_front]].concat())
    }

    fn expected_consumed(&mut self, n: usize) -> Result<Vec<u8>, Short> {
        let expected = self.expected(n)?;
        self.queue.drain(..n);
        Ok(expected)
    }

    fn keep(&mut self, bytes: Bytes, expected: Vec<u8>) {
        assert_eq!(bytes, expected);
        if self.owned.len() == OWNED_LEN_MAX {
            let (bytes, expected) = self.owned.remove(0);
            assert_eq!(bytes, expected, "owned bytes changed");
        }
        self.owned.push((bytes, expected));
    }

    fn step(&mut self, op: Op) {
        if self.queue.len() > LEN_HIGH {
            assert_eq!(self.buffer.skip(LEN_HIGH), Ok(()));
            self.queue.drain(..LEN_HIGH);
        }
        let drops = self.drops_reservation(op);
        match op {
            Op::Write(_)
            | Op::WriteVectored(_)
            | Op::WriteBytes(_)
            | Op::WriteOwned(_)
            | Op::Append { .. } => {
                self.write(op);
            }
            Op::Reserve(_) | Op::ReserveTooMuch | Op::Insert { .. } | Op::Commit(_) | Op::Flush => {
                self.reserve(op);
            }
            Op::Lend(_) | Op::Reclaim | Op::Receive { .. } => self.receive(op),
            Op::SplitTo { n, then } => self.split(n.of(self.queue.len()), then),
            Op::Until(_) | Op::Find { .. } | Op::FindSlice { .. } => self.search(op),
            _ => self.read(op),
        }
        if drops.unwrap_or(self.buffer.reserved_len() == 0) {
            self.reserved.clear();
        }
        assert_eq!(self.buffer.reserved_mut(), self.reserved);
        assert_eq!(self.buffer.len(), self.queue.len());
        assert_eq!(self.buffer.is_empty(), self.buffer.chunk().is_empty());
        if self.queue.len() < 256 {
            self.compare();
        }
    }

    /// Whether the operation drops an open reservation, all of it; `None` where it may.
    fn drops_reservation(&self, op: Op) -> Option<bool> {
        let owned = |which| self.owned.get(usize::from(which) % OWNED_LEN_MAX);
        Some(match op {
            Op::Write(len) | Op::WriteVectored(len) | Op::WriteBytes(len) | Op::Append { len, .. } => {
                len.0 > 0
            }
            Op::WriteOwned(which) => owned(which).is_some_and(|(bytes, _)| !bytes.is_empty()),
            Op::Lend(_) | Op::Reclaim | Op::Receive { .. } | Op::Clear => true,
            Op::SplitTo { n, then } => {
                let n = n.of(self.queue.len());
                n <= self.queue.len() && [n > 0, true, false][usize::from(then % 3)]
            }
            Op::ReadBytes(n) | Op::ReadChunk(n) | Op::CopyToBytes(n)
                if n.of(self.queue.len()) >= ZERO_COPY_BYTES_MIN =>
            {
                return None;
            }
            // What `reserve`, `commit` and `insert` do to it stands with them.
            _ => false,
        })
    }

    fn compare(&self) {
        let (front, back) = self.queue.as_slices();
        let queue = [front, back].concat();
        let mut left = &queue[..];
        for chunk in self.buffer.chunks() {
            assert!(!chunk.is_empty());
            left = left.strip_prefix(chunk).expect("the bytes differ");
        }
        assert!(left.is_empty(), "bytes are missing");
    }

    fn finish(self) {
        self.compare();
        drop(self.buffer);
        self.owned.iter().for_each(|(bytes, expected)| assert_eq!(bytes, expected, "owned bytes changed"));
    }

    fn write(&mut self, op: Op) {
        match op {
            Op::Write(len) => {
                let bytes = self.fresh(len);
                self.buffer.write(&bytes);
                self.queue.extend(bytes);
            }
            Op::WriteVectored(len) => {
                let bytes = self.fresh(len);
                let (front, back) = bytes.split_at(bytes.len() / 3);
                let written = self.buffer.write_vectored(&[IoSlice::new(front), IoSlice::new(back)]);
                assert_eq!(written.expect("it never fails"), bytes.len());
                self.queue.extend(bytes);
            }
            Op::WriteBytes(len) => {
                let bytes = self.fresh(len);
                self.buffer.write_bytes(Bytes::from(bytes.clone()));
                self.queue.extend(bytes);
            }
            Op::WriteOwned(which) => {
                if let Some((bytes, expected)) = self.owned.get(usize::from(which) % OWNED_LEN_MAX) {
                    self.buffer.write_bytes(bytes.clone());
                    self.queue.extend(expected);
                }
            }
            Op::Append { len, parts, lent } => {
                let bytes = self.fresh(len);
                let mut other = LinkBuffer::new();
                for part in bytes.chunks(bytes.len() / (1 + usize::from(parts % 8)) + 1) {
                    if lent {
                        other.lend(Node::take(part.len()));
                        other.inputs()[..part.len()].copy_from_slice(part);
                        other.input_ack(part.len());
                    } else {
                        other.append(LinkBuffer::from(part.to_vec()));
                    }
                }
                self.buffer.append(other);
                self.queue.extend(bytes);
            }
            _ => unreachable!("{op:?} does not write"),
        }
    }

    fn reserve(&mut self, op: Op) {
        let available = self.reserved.len();
        match op {
            Op::Reserve(len) => {
                let bytes = self.fresh(len);
                self.buffer.try_reserve(len.0).expect("it is below the limit").copy_from_slice(&bytes);
                self.reserved.extend(bytes);
            }
            Op::ReserveTooMuch => {
                let most = RESERVED_BYTES_MAX - available;
                let short = |wanted| Some(Short { wanted, available: most });
                assert_eq!(self.buffer.try_reserve(most + 1).err(), short(most + 1));
                assert_eq!(self.buffer.try_reserve(usize::MAX).err(), short(usize::MAX));
            }
            Op::Insert { len, before } => {
                let bytes = self.fresh(len);
                let before = before.of(available);
                let outcome = self.buffer.insert(Bytes::from(bytes.clone()), before);
                if before > available {
                    assert_eq!(outcome, Err(Short { wanted: before, available }));
                } else {
                    assert_eq!(outcome, Ok(()));
                    self.queue.extend(self.reserved.drain(..available - before));
                    self.queue.extend(bytes);
                }
            }
            Op::Commit(n) => {
                let n = n.of(available);
                if n > available {
                    assert_eq!(self.buffer.try_commit(n), Err(Short { wanted: n, available }));
                } else {
                    assert_eq!(self.buffer.try_commit(n), Ok(()));
                    self.queue.extend(self.reserved.drain(..n));
                    self.reserved.clear();
                }
            }
            Op::Flush => {
                self.buffer.flush();
                self.queue.extend(self.reserved.drain(..));
            }
            _ => unreachable!("{op:?} reserves nothing"),
        }
    }

    fn receive(&mut self, op: Op) {
        match op {
            Op::Lend(which) => {
                let capacities = [0, 512, 4096, NODE_POOLED_BYTES_MAX, 100_000];
                self.buffer.lend(Node::take(capacities[usize::from(which) % capacities.len()]));
            }
            Op::Reclaim => {
                drop(self.buffer.reclaim());
                assert!(self.buffer.inputs().is_empty(), "what was taken back is not lent");
            }
            Op::Receive { len, beyond } => {
                let refused = beyond.then(|| self.buffer.try_input_ack(usize::MAX));
                assert!(
                    !beyond || self.buffer.reserved_mut() == self.reserved,
                    "a call that fails changes nothing"
                );
                let space = self.buffer.inputs().len();
                if let Some(refused) = refused {
                    assert_eq!(refused, Err(Short { wanted: usize::MAX, available: space }));
                }
                let bytes = self.fresh(Fresh(len.0.min(space)));
                self.buffer.inputs()[..bytes.len()].copy_from_slice(&bytes);
                if beyond {
                    let short = Short { wanted: space + 1, available: space };
                    assert_eq!(self.buffer.try_input_ack(space + 1), Err(short));
                }
                self.buffer.input_ack(bytes.len());
                self.queue.extend(bytes);
            }
            _ => unreachable!("{op:?} receives nothing"),
        }
    }

    fn split(&mut self, n: usize, then: u8) {
        match (self.buffer.split_to(n), self.expected_consumed(n)) {
            (Ok(mut head), Ok(expected)) => {
                assert!(head.inputs().is_empty(), "what was moved is not lent");
                assert!(head.chunks().flatten().eq(expected.iter()));
                match then % 3 {
                    0 => {
                        self.buffer.append(head);
                        self.queue.extend(expected);
                    }
                    1 => {
                        let mut behind = std::mem::replace(&mut self.buffer, head);
                        drop(behind.reclaim());
                        self.buffer.append(behind);
                        self.queue = expected.into_iter().chain(self.queue.drain(..)).collect();
                    }
                    _ => {
                        head.write(b"own");
                        assert_eq!(head.len(), n + 3);
                    }
                }
            }
            (got, expected) => assert_eq!(got.err(), expected.err()),
        }
    }

    fn search(&mut self, op: Op) {
        match op {
            Op::Until(byte) => {
                let at = self.queue.iter().position(|&here| here == byte);
                let expected = at.map(|at| self.expected_consumed(at + 1).expect("it is there"));
                assert_eq!(self.buffer.until(byte).map(<[u8]>::to_vec), expected);
            }
            Op::Find { start, byte } => {
                let start = start.of(self.queue.len());
                let all = self.queue.make_contiguous();
                let found = (start..all.len()).find(|&at| all[at] == byte);
                assert_eq!(self.buffer.find_from(start, byte), found);
            }
            Op::FindSlice { start, at, len } => {
                let (start, at) = (start.of(self.queue.len()), at.of(self.queue.len()).min(self.queue.len()));
                let needle: Vec<u8> = self.queue.range(at..).take(usize::from(len % 8)).copied().collect();
                let all = self.queue.make_contiguous();
                let found = (start..=all.len()).find(|&at| all[at..].starts_with(&needle));
                assert_eq!(self.buffer.find_slice_from(start, &needle), found);
            }
            _ => unreachable!("{op:?} does not search"),
        }
    }

    fn read(&mut self, op: Op) {
        let there = self.queue.len();
        match op {
            Op::Peek(n) => {
                let n = n.of(there);
                assert_eq!(self.buffer.peek(n).map(<[u8]>::to_vec), self.expected(n));
            }
            Op::Next(n) => {
                let n = n.of(there);
                assert_eq!(self.buffer.next(n).map(<[u8]>::to_vec), self.expected_consumed(n));
            }
            Op::Skip(n) => {
                let n = n.of(there);
                assert_eq!(self.buffer.skip(n), self.expected_consumed(n).map(drop));
            }
            Op::ReadVec(n) => {
                let n = n.of(there);
                assert_eq!(self.buffer.read_vec(n), self.expected_consumed(n));
            }
            Op::ReadBytes(n) => {
                match (self.buffer.read_bytes(n.of(there)), self.expected_consumed(n.of(there))) {
                    (Ok(bytes), Ok(expected)) => self.keep(bytes, expected),
                    (got, expected) => assert_eq!(got.err(), expected.err()),
                }
            }
            Op::ReadChunk(max) => match self.buffer.read_chunk(max.of(there)) {
                Some(bytes) => {
                    assert!(bytes.len() <= max.of(there));
                    let expected = self.expected_consumed(bytes.len()).expect("it came from there");
                    self.keep(bytes, expected);
                }
                None => assert!(there == 0 || max.of(there) == 0),
            },
            Op::ReadString(n) => {
                let n = n.of(there);
                let expected = self.expected(n).map(String::from_utf8);
                match (self.buffer.read_string(n), expected) {
                    (Err(ReadStringError::Short(got)), Err(short)) => assert_eq!(got, short),
                    (Err(ReadStringError::Utf8(got)), Ok(Err(error))) => assert_eq!(got, error.utf8_error()),
                    (Ok(got), Ok(Ok(text))) => {
                        assert_eq!(got, text);
                        self.queue.drain(..n);
                    }
                    (got, expected) => panic!("{got:?} instead of {expected:?}"),
                }
            }
            Op::CopyTo(n) => {
                let mut target = vec![0; n.of(there).min(there + 300)];
                let outcome = self.buffer.copy_to_slice(&mut target);
                let expected = self.expected_consumed(target.len());
                assert_eq!(outcome.map(|()| target), expected);
            }
            Op::Integer(kind) => {
                let n = 1 << (kind % 4);
                let got = match n {
                    1 => self.buffer.read_u8().map(u64::from),
                    2 => self.buffer.read_u16().map(u64::from),
                    4 => self.buffer.read_u32().map(u64::from),
                    _ => self.buffer.read_u64(),
                };
                let fold = |bytes: Vec<u8>| bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
                assert_eq!(got, self.expected_consumed(n).map(fold));
            }
            Op::Send { slots, sent } => {
                let mut slices = [IoSlice::new(&[]); 20];
                let slots = usize::from(slots) % slices.len();
                let count = self.buffer.io_slices(&mut slices[..slots]);
                let all: usize = slices[..count].iter().map(|slice| slice.len()).sum();
                assert!(count == slots || all == there);
                let sent = sent.of(all).min(all);
                self.buffer.output_ack(sent);
                self.queue.drain(..sent);
            }
            Op::StdRead(len) => {
                let mut target = vec![0; len.0];
                let n = self.buffer.read(&mut target).expect("it never fails");
                assert_eq!(n, len.0.min(there));
                assert_eq!(target[..n], self.expected_consumed(n).expect("they were there"));
            }
            Op::BufRead(n) => {
                let first = self.buffer.fill_buf().expect("it never fails").to_vec();
                assert_eq!(first.is_empty(), there == 0);
                assert_eq!(Ok(&first), self.expected(first.len()).as_ref());
                let n = n.of(first.len());
                BufRead::consume(&mut self.buffer, n);
                self.queue.drain(..n.min(there));
            }
            Op::CopyToBytes(n) => {
                let n = n.of(there).min(there);
                let bytes = Buf::copy_to_bytes(&mut self.buffer, n);
                let expected = self.expected_consumed(n).expect("they were there");
                self.keep(bytes, expected);
            }
            Op::Clear => {
                self.buffer.clear();
                self.queue.clear();
            }
            _ => unreachable!("{op:?} does not read"),
        }
    }
}
