//! What the two ends of a stream say to each other besides the payload.
//!
//! ```text
//!   user ──▶ target    order (40 bytes)   payload of `up` bytes     end of input
//!   user ◀── target    payload of `down` bytes     report (80 bytes)     end of input
//! ```
//! Both directions run at once. The report comes when the target has sent its payload and seen the user's end of input,
//! so that a stream without faults has used the half-closed state too. Of a stream that is not checked there is no
//! report, and a direction without an end has none.

use std::io;

/// Bytes of an order.
pub(crate) const ORDER: usize = 40;
/// Bytes of a report.
pub(crate) const REPORT: usize = 2 * SUM;
/// Bytes of an answer to [`Order::count`].
pub(crate) const COUNTED: usize = 16;
const SUM: usize = 40;
/// The length of a direction without an end.
pub(crate) const ENDLESS: u64 = u64::MAX;

const MAGIC: [u8; 4] = *b"flow";
const PLAIN: u32 = 0;
const CHECKED: u32 = 1;
const COUNT: u32 = 2;

/// What a user asks of the target, first thing on each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    kind: u32,
    /// What the payload is made from; the target's own is made from the next number.
    pub(crate) seed: u64,
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// The longest single write.
    pub(crate) write_max: u32,
}

impl Order {
    /// A stream whose payload nobody looks at.
    pub(crate) fn plain(up: u64, down: u64) -> Order {
        Order { kind: PLAIN, seed: 0, up, down, write_max: 0 }
    }

    /// A stream whose payload is summed on both sides, in writes of 1 to `write_max` bytes.
    pub(crate) fn checked(seed: u64, up: u64, down: u64, write_max: u32) -> Order {
        Order { kind: CHECKED, seed, up, down, write_max }
    }

    /// A question instead of a stream: how many bytes were received and sent on all streams so far.
    pub(crate) fn count() -> Order {
        Order { kind: COUNT, ..Order::plain(0, 0) }
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.kind == CHECKED
    }

    pub(crate) fn is_count(&self) -> bool {
        self.kind == COUNT
    }

    pub(crate) fn encode(&self) -> [u8; ORDER] {
        let mut bytes = [0; ORDER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.seed.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.up.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.down.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.write_max.to_be_bytes());
        bytes
    }

    /// # Errors
    /// When the bytes are no order.
    pub(crate) fn decode(bytes: &[u8; ORDER]) -> io::Result<Order> {
        let kind = number(&bytes[4..8]) as u32;
        if bytes[..4] != MAGIC || kind > COUNT {
            return Err(io::Error::other("no order of ours"));
        }
        Ok(Order {
            kind,
            seed: number(&bytes[8..16]),
            up: number(&bytes[16..24]),
            down: number(&bytes[24..32]),
            write_max: number(&bytes[32..36]) as u32,
        })
    }
}

/// What was seen of one direction at one end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
}

/// What the target saw of both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) received: Sum,
    pub(crate) sent: Sum,
}

impl Report {
    pub(crate) fn encode(&self) -> [u8; REPORT] {
        let mut bytes = [0; REPORT];
        for (half, sum) in bytes.chunks_exact_mut(SUM).zip([self.received, self.sent]) {
            half[..8].copy_from_slice(&sum.bytes.to_be_bytes());
            half[8..].copy_from_slice(&sum.sha256);
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; REPORT]) -> Report {
        let [received, sent] = [0, SUM].map(|at| {
            let mut sha256 = [0; 32];
            sha256.copy_from_slice(&bytes[at + 8..at + SUM]);
            Sum { bytes: number(&bytes[at..at + 8]), sha256 }
        });
        Report { received, sent }
    }
}

/// A big-endian number of at most eight bytes.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_come_back_as_they_were() {
        for order in [Order::plain(ENDLESS, 0), Order::checked(7, 1 << 40, 3, 1 << 20), Order::count()] {
            assert_eq!(Order::decode(&order.encode()).expect("it is one"), order);
        }
        let sum = |fill: u8| Sum { bytes: u64::from(fill) << 33, sha256: [fill; 32] };
        let report = Report { received: sum(1), sent: sum(2) };
        assert_eq!(Report::decode(&report.encode()), report);
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let mut bytes = Order::count().encode();
        bytes[7] = 3;
        assert!(Order::decode(&bytes).is_err());
        assert!(Order::decode(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\nxx").is_err());
    }
}
