//! The two halves of an end: where a direction's bytes are made, and where they are looked at.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use rustix::net::RecvFlags;
use sha2::{Digest as _, Sha256};

use crate::order::{ENDLESS, Sum};

/// What is read or written at once where nobody looks at the bytes, and the most that is read at once where somebody does.
pub(crate) const SCRATCH: usize = 256 * 1024;

/// Random numbers from a seed: splitmix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// At least 0 and less than 1.
    pub(crate) fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From 1 to `most`; each doubling is as likely as any other.
    pub(crate) fn size(&mut self, most: u64) -> u64 {
        let size = (most as f64 + 1.0).powf(self.part()) as u64;
        size.clamp(1, most)
    }

    fn fill(&mut self, piece: &mut [u8]) {
        let mut words = piece.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        let last = self.next().to_le_bytes();
        let rest = words.into_remainder();
        let len = rest.len();
        rest.copy_from_slice(&last[..len]);
    }
}

/// What became of a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Nothing,
    Some,
    /// Nothing will follow.
    End,
}

/// The bytes of one direction, as its sender makes them.
pub(crate) struct Source {
    /// Bytes not made yet.
    left: u64,
    /// What was made and not sent. Invariant: at <= piece.len().
    piece: Vec<u8>,
    at: usize,
    checked: Option<Making>,
    /// Of all bytes sent, what was queued by [`Source::say`] included.
    pub(crate) sent: u64,
}

struct Making {
    random: Random,
    write_max: u64,
    sum: Sha256,
    bytes: u64,
}

impl Source {
    /// `bytes` that nobody looks at.
    pub(crate) fn plain(bytes: u64) -> Source {
        Source { left: bytes, piece: Vec::new(), at: 0, checked: None, sent: 0 }
    }

    /// `bytes` made from `seed`, in writes of 1 to `write_max` bytes.
    pub(crate) fn checked(bytes: u64, seed: u64, write_max: u32) -> Source {
        let making = Making {
            random: Random::new(seed),
            write_max: u64::from(write_max.max(1)),
            sum: Sha256::new(),
            bytes: 0,
        };
        Source { checked: Some(making), ..Source::plain(bytes) }
    }

    /// Whether all has been sent.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0 && self.at == self.piece.len()
    }

    /// Queues words of the protocol. They go before what is not made yet.
    pub(crate) fn say(&mut self, words: &[u8]) {
        self.piece.extend_from_slice(words);
    }

    /// What was made.
    pub(crate) fn sum(&self) -> Sum {
        self.checked.as_ref().map_or(Sum::default(), |made| Sum {
            bytes: made.bytes,
            sha256: made.sum.clone().finalize().into(),
        })
    }

    /// One write.
    pub(crate) fn send(&mut self, mut socket: &TcpStream, zeros: &[u8]) -> io::Result<Moved> {
        if self.at == self.piece.len() {
            self.piece.clear();
            self.at = 0;
            match &mut self.checked {
                Some(making) if self.left > 0 => {
                    let size = making.random.size(making.write_max).min(self.left);
                    self.piece.resize(size as usize, 0);
                    making.random.fill(&mut self.piece);
                    making.sum.update(&self.piece);
                    making.bytes += size;
                    self.left -= size;
                }
                _ => {}
            }
        }
        let plain = self.piece.is_empty();
        let bytes = if plain {
            &zeros[..usize::try_from(self.left).unwrap_or(usize::MAX).min(zeros.len())]
        } else {
            &self.piece[self.at..]
        };
        if bytes.is_empty() {
            return Ok(Moved::End);
        }
        let sent = match socket.write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Nothing),
            Err(error) => return Err(error),
        };
        self.sent += sent as u64;
        if !plain {
            self.at += sent;
        } else if self.left != ENDLESS {
            self.left -= sent as u64;
        }
        if self.at == self.piece.len() {
            // A long piece is not kept for a stream that waits.
            (self.piece, self.at) = (Vec::new(), 0);
        }
        Ok(Moved::Some)
    }
}

/// The bytes of one direction, as they arrive.
pub(crate) struct Sink {
    /// What is still to come; what follows it is not of the payload.
    left: u64,
    sum: Option<Sha256>,
    pub(crate) received: u64,
}

impl Sink {
    pub(crate) fn new(bytes: u64, checked: bool) -> Sink {
        Sink { left: bytes, sum: checked.then(Sha256::new), received: 0 }
    }

    /// Whether the whole payload is here.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// What arrived.
    pub(crate) fn sum(&self) -> Sum {
        self.sum
            .as_ref()
            .map_or(Sum::default(), |sum| Sum { bytes: self.received, sha256: sum.clone().finalize().into() })
    }

    /// One read of the payload, and of nothing behind it.
    pub(crate) fn receive(&mut self, mut socket: &TcpStream, scratch: &mut [u8]) -> io::Result<Moved> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(scratch.len());
        if most == 0 {
            return Ok(Moved::End);
        }
        let room = &mut scratch[..most];
        let got = match &mut self.sum {
            Some(sum) => socket.read(room).inspect(|got| sum.update(&room[..*got])),
            // The kernel counts the bytes and drops them: a receiver that costs next to nothing.
            None => rustix::net::recv(socket, room, RecvFlags::TRUNC).map(|(_, got)| got).map_err(Into::into),
        };
        match got {
            Ok(0) => Ok(Moved::End),
            Ok(got) => {
                self.received += got as u64;
                if self.left != ENDLESS {
                    self.left -= got as u64;
                }
                Ok(Moved::Some)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Moved::Nothing),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_of_every_magnitude() {
        let mut random = Random::new(1);
        let mut by_magnitude = [0; 21];
        for _ in 0..20_000 {
            by_magnitude[random.size(1 << 20).ilog2() as usize] += 1;
        }
        // The twenty doublings are as likely as each other; the last slot holds one single size.
        assert!(by_magnitude[..20].iter().all(|count| (700..1400).contains(count)), "{by_magnitude:?}");
        assert!((0..100).all(|_| random.size(1) == 1));
    }

    #[test]
    fn a_seed_makes_the_same_bytes_and_another_one_others() {
        let made = |seed, len: usize| {
            let mut piece = vec![0; len];
            Random::new(seed).fill(&mut piece);
            piece
        };
        assert_eq!(made(1, 1001), made(1, 1001));
        assert_ne!(made(1, 1001), made(2, 1001));
        assert_eq!(made(3, 1001)[..1000], made(3, 1000));
    }
}
