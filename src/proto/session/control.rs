//! The control frames that wait to be sent, encoded one behind the other in one piece of memory.
//!
//! ```text
//!   bytes   │ sent │ frame │ frame │ frame │
//!                  from                    end
//! ```

use crate::limits::CONTROL_QUEUE_KEPT_BYTES_MAX;
use crate::proto::frame::{Frame, HEAD_SIZE, Head};

/// Whole frames, first in, first out.
#[derive(Debug, Default)]
pub(super) struct ControlQueue {
    bytes: Vec<u8>,
    /// Where the first frame begins. Invariant: from ≤ bytes.len(), and 0 when nothing waits.
    from: usize,
    /// Frames that wait.
    len: usize,
}

impl ControlQueue {
    /// Frames that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Memory that they take, with those before them that were sent.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a frame about `stream` behind the others.
    pub(super) fn push(&mut self, frame: &Frame, stream: u32) {
        frame.encode_to(stream, &mut self.bytes);
        self.len += 1;
    }

    /// Puts a frame that was encoded before behind the others.
    pub(super) fn push_back(&mut self, frame: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(frame.as_ref());
        self.len += 1;
    }

    /// The first frame's head, and all of its bytes.
    pub(super) fn front(&self) -> Option<(Head, &[u8])> {
        let waiting = &self.bytes[self.from..];
        let head = Head::decode(waiting.first_chunk()?).expect("what was encoded here can be decoded");
        Some((head, &waiting[..HEAD_SIZE + head.len]))
    }

    /// Drops the first frame.
    pub(super) fn pop_front(&mut self) {
        let Some((_, frame)) = self.front() else { return };
        self.from += frame.len();
        self.len -= 1;
        if self.len == 0 {
            self.clear();
        } else if self.from >= CONTROL_QUEUE_KEPT_BYTES_MAX && self.from > self.bytes.len() / 2 {
            // Moves less than was sent since it was last done.
            self.bytes.drain(..std::mem::take(&mut self.from));
        }
    }

    pub(super) fn clear(&mut self) {
        (self.from, self.len) = (0, 0);
        self.bytes.clear();
        // What a burst needed is not kept for the quiet after it.
        self.bytes.shrink_to(CONTROL_QUEUE_KEPT_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_their_order_and_memory_with_them() {
        let (mut queue, mut rng) = (ControlQueue::default(), fastrand::Rng::with_seed(3));
        let (mut pushed, mut popped, mut most) = (0, 0, 0);
        for round in 0..200 {
            for _ in 0..rng.usize(..200) {
                queue.push(&Frame::Ping(pushed), 0);
                pushed += 1;
            }
            let n = if round % 20 == 19 { queue.len() } else { rng.usize(..200).min(queue.len()) };
            for _ in 0..n {
                let (head, bytes) = queue.front().expect("there is one");
                assert_eq!((head.stream, bytes), (0, &Frame::Ping(popped).encode(0)[..]));
                queue.pop_front();
                popped += 1;
            }
            assert_eq!(queue.len() as u64, pushed - popped);
            most = most.max(queue.bytes.len());
            assert!(queue.from <= CONTROL_QUEUE_KEPT_BYTES_MAX.max(queue.bytes.len() / 2) + 20);
            assert!(!queue.is_empty() || queue.bytes.capacity() <= CONTROL_QUEUE_KEPT_BYTES_MAX);
        }
        assert!(
            pushed > 10_000 && queue.is_empty() && most > CONTROL_QUEUE_KEPT_BYTES_MAX,
            "{pushed} {most}"
        );
        queue.pop_front();
        queue.push_back(Frame::Pong(1).encode(0));
        assert_eq!(queue.front().map(|(_, bytes)| bytes.len()), Some(20));
    }
}
