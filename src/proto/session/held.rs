//! What a session holds, counted anew: for who looks whether it keeps within its limits.

use super::Session;
use crate::limits::{
    CONTROL_QUEUE_LEN_MAX, DATAGRAM_QUEUE_BYTES_MAX, DGRAM_BODY_BYTES_MAX, SEND_QUEUE_BYTES_MAX,
    SESSION_DATAGRAM_BYTES_MAX, SESSION_WINDOW_BYTES_MAX, WINDOW_MIN_BYTES,
};
use crate::proto::frame::HEAD_SIZE;
use crate::proto::stream::Direction;

impl Session {
    /// Bytes that wait in the session, to be sent or to be read, its control frames and its datagrams included. Looks at every stream.
    ///
    /// # Errors
    /// When there are more of a kind than its limit, or than were counted; says which.
    pub fn held_bytes(&self) -> Result<usize, &'static str> {
        let (mut unsent, mut unread, mut datagrams) = (0, 0, 0);
        for stream in self.table.values() {
            let queues = Direction::BOTH.map(|direction| stream.datagram_bytes(direction));
            within(stream.unsent_len(), SEND_QUEUE_BYTES_MAX, "the queue of a stream")?;
            within(queues[0].max(queues[1]), DATAGRAM_QUEUE_BYTES_MAX, "the datagrams of a stream")?;
            unsent += stream.unsent_len();
            unread += stream.readable_len();
            datagrams += queues[0] + queues[1];
        }
        // The smallest windows are granted whatever is used of the budget.
        let windows_max = SESSION_WINDOW_BYTES_MAX + self.table.len() as u64 * u64::from(WINDOW_MIN_BYTES);
        within(self.window_bytes(), windows_max, "the windows of all streams")?;
        within(unread as u64, self.window_bytes(), "what was not read yet")?;
        within(datagrams, SESSION_DATAGRAM_BYTES_MAX, "the datagrams of all streams")?;
        within(self.control.len(), CONTROL_QUEUE_LEN_MAX, "the control frames")?;
        // Its memory grows by doubling.
        let partial = self.decoder.held_bytes();
        within(partial, 2 * (HEAD_SIZE + DGRAM_BODY_BYTES_MAX), "a frame that is not whole")?;
        if datagrams != self.datagrams.bytes() {
            return Err("the datagrams of all streams are not what was counted");
        }
        Ok(unsent + unread + datagrams + self.control.held_bytes() + partial)
    }
}

fn within<N: PartialOrd>(held: N, max: N, what: &'static str) -> Result<(), &'static str> {
    if held <= max { Ok(()) } else { Err(what) }
}
