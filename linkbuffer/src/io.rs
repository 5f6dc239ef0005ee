//! The reactor's side: what one send takes, and the space that one read fills.
//!
//! ```text
//!   thread's node ──lend──▶ behind the readable bytes ──inputs, read(2), input_ack──▶ handler ──reclaim──▶ thread's node
//!                                                                                        │ took Bytes out of it
//!                                                                                        └──▶ None: the thread takes another
//! ```

use crate::limits::{ALONG_BYTES_MAX, ALONG_RATIO_MIN};
use crate::piece::Piece;
use crate::{LinkBuffer, Node, Short, pool};
use std::io::IoSlice;

impl LinkBuffer {
    /// Fills `slices` with the first readable pieces, as many as fit, and returns how many: what one vectored send takes.
    /// O(slices filled).
    ///
    /// # Examples
    /// ```
    /// use std::io::{IoSlice, Write};
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"out"[..]);
    /// let mut slices = [IoSlice::new(&[]); 16];
    /// let count = buffer.io_slices(&mut slices);
    /// let sent = Vec::new().write_vectored(&slices[..count])?;
    /// buffer.output_ack(sent);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "GetBytes")]
    #[doc(alias = "outputs")]
    #[inline]
    pub fn io_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(first) = &self.first else { return 0 };
        let room = slices.len();
        let mut slots = slices.iter_mut();
        // By pieces and not by `chunks`: this runs before every send.
        if !first.is_empty() {
            let Some(slot) = slots.next() else { return 0 };
            *slot = IoSlice::new(first.readable());
        }
        for piece in &first.rest {
            if !piece.is_empty() {
                let Some(slot) = slots.next() else { return room };
                *slot = IoSlice::new(piece.readable());
            }
        }
        room - slots.len()
    }

    /// Consumes `n` bytes that were sent. O(pieces dropped).
    ///
    /// # Panics
    /// When there are fewer: the kernel sends no more than it was given. A count that somebody else chose goes to
    /// [`skip`](Self::skip), which does the same and says so when there is less.
    ///
    /// # Examples
    /// ```
    /// let mut buffer = linkbuffer::LinkBuffer::from(&b"out"[..]);
    /// buffer.output_ack(2);
    /// assert_eq!(buffer.chunk(), b"t");
    /// ```
    #[doc(alias = "outputAck")]
    #[inline]
    #[track_caller]
    pub fn output_ack(&mut self, n: usize) {
        assert!(n <= self.len, "output_ack({n}): {} bytes are there", self.len);
        self.consume(n);
    }

    /// Hangs a node behind the readable bytes, as the space that reads fill. A node lent before is dropped or kept as it is
    /// needed. The beginning of a message that waits for the rest of it moves into the front of the node, where the rest will
    /// lie behind it: then nobody has to join them. O(1), with a copy of
    /// [`ALONG_BYTES_MAX`](crate::limits::ALONG_BYTES_MAX) at most, or what [`reclaim`](Self::reclaim) costs where another
    /// one was lent.
    ///
    /// # Examples
    /// ```
    /// use linkbuffer::{LinkBuffer, Node};
    /// let mut buffer = LinkBuffer::new();
    /// buffer.lend(Node::take(65536));
    /// buffer.inputs()[..5].copy_from_slice(b"hello"); // a read(2) would do this
    /// buffer.input_ack(5);
    /// assert_eq!(buffer.next(5), Ok(&b"hello"[..]));
    /// assert_eq!(buffer.reclaim().map(|node| node.capacity()), Some(65536));
    /// ```
    #[doc(alias = "book")]
    #[inline]
    pub fn lend(&mut self, node: Node) {
        if let Some(mut piece) = node.into_piece()
            && piece.capacity() > 0
        {
            if self.first.is_some() {
                self.take_along(&mut piece);
            }
            piece.lent = true;
            self.push(piece);
        }
        self.check();
    }

    /// Moves what is readable into the front of `node`, where it is little beside the node and all there is.
    fn take_along(&mut self, node: &mut Piece) {
        let most = ALONG_BYTES_MAX.min(node.capacity() / ALONG_RATIO_MIN);
        let is_little = |first: &mut Box<Piece>| {
            first.rest.is_empty() && !first.lent && first.reserved == 0 && first.len() <= most
        };
        if let Some(first) = self.first.take_if(is_little) {
            node.put_all(first.readable());
            pool::give(first);
            self.len = 0;
        }
    }

    /// The free space of the lent node; empty when none was lent, when it is full, or when its memory was given out as
    /// `Bytes`. Do not read into an empty slice: a read of nothing looks like the end of the stream. O(1).
    ///
    /// # Examples
    /// ```
    /// use linkbuffer::{LinkBuffer, Node};
    /// let mut buffer = LinkBuffer::new();
    /// assert!(buffer.inputs().is_empty());
    /// buffer.lend(Node::take(4096));
    /// assert_eq!(buffer.inputs().len(), 4096);
    /// ```
    #[doc(alias = "book")]
    #[inline]
    pub fn inputs(&mut self) -> &mut [u8] {
        match self.lent_mut() {
            Some(lent) => lent.room_mut(),
            None => &mut [],
        }
    }

    /// The lent node, all of it room when nothing in it is unread.
    #[inline]
    fn lent_mut(&mut self) -> Option<&mut Piece> {
        self.drop_reservation();
        self.check_unsettled();
        let lent = self.last_mut().filter(|last| last.lent)?;
        if lent.is_empty() {
            lent.start = 0;
            lent.end = 0;
        }
        Some(lent)
    }

    /// Makes the first `n` bytes of [`inputs`](Self::inputs) readable: they were read. O(1).
    ///
    /// # Panics
    /// When the space is smaller: the kernel reads no more than there is space. A count that somebody else chose goes to
    /// [`try_input_ack`](Self::try_input_ack).
    ///
    /// # Examples
    /// ```
    /// use linkbuffer::{LinkBuffer, Node};
    /// use std::io::Read;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.lend(Node::take(4096));
    /// let n = (&b"from the socket"[..]).read(buffer.inputs())?;
    /// buffer.input_ack(n);
    /// assert_eq!(buffer.len(), 15);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "bookAck")]
    #[doc(alias = "inputAck")]
    #[inline]
    #[track_caller]
    pub fn input_ack(&mut self, n: usize) {
        if let Err(short) = self.try_input_ack(n) {
            panic!("input_ack({n}): there is space for {}", short.available);
        }
    }

    /// As [`input_ack`](Self::input_ack), for a count from outside.
    ///
    /// Bytes that were not written show what the node held before. The kernel's count is true; an unknown
    /// [`Read`](std::io::Read) may claim more than it wrote, so give it space that was filled with zeroes before.
    ///
    /// # Errors
    /// When the space is smaller; nothing changes then, and the error says how much space there is.
    ///
    /// # Examples
    /// ```
    /// use linkbuffer::{LinkBuffer, Node, Short};
    /// let mut buffer = LinkBuffer::new();
    /// buffer.lend(Node::take(4096));
    /// assert_eq!(buffer.try_input_ack(4097), Err(Short { wanted: 4097, available: 4096 }));
    /// buffer.inputs().fill(0); // whatever somebody claims to have read: nothing of what the node held can be seen
    /// assert_eq!(buffer.try_input_ack(100), Ok(()));
    /// assert_eq!(buffer.chunk(), [0; 100]);
    /// ```
    #[inline]
    pub fn try_input_ack(&mut self, n: usize) -> Result<(), Short> {
        let Some(last) = self.last_mut().filter(|last| last.lent) else {
            return self.ack_nothing(n);
        };
        // What `inputs` shows: all of the node where nothing in it is unread, also what is reserved.
        let (start, end) = if last.is_empty() { (0, 0) } else { (last.start, last.end) };
        let available = last.capacity() - end;
        if n > available {
            return Err(Short { wanted: n, available });
        }
        last.start = start;
        last.end = end + n;
        self.grow(n);
        self.drop_reservation();
        self.check_unsettled();
        Ok(())
    }

    #[cold]
    fn ack_nothing(&mut self, n: usize) -> Result<(), Short> {
        if n > 0 {
            return Err(Short { wanted: n, available: 0 });
        }
        self.drop_reservation();
        self.check_unsettled();
        Ok(())
    }

    /// Takes the lent node back. Unread bytes in it move: to the room of the node before it, or to a new one that has 512 bytes
    /// at least, and behind a full node at most as much as is unread in all.
    ///
    /// `None` when the buffer keeps it: its memory was given out as `Bytes` or moved to another buffer, more was written behind
    /// it, or it is at least a quarter full of unread bytes, so that moving them would cost more than it gives
    /// back. The lender then takes another.
    /// O(unread bytes in it), and O(1) when everything was read.
    ///
    /// A few bytes that were left at the front of a large node move into a small one, also where nothing was lent: a
    /// connection that waits does not hold much more than what it waits with.
    ///
    /// # Examples
    /// ```
    /// use linkbuffer::{LinkBuffer, Node};
    /// let mut buffer = LinkBuffer::new();
    /// buffer.lend(Node::take(65536));
    /// buffer.inputs()[..9].copy_from_slice(b"PING\nPONG");
    /// buffer.input_ack(9);
    /// assert_eq!(buffer.until(b'\n'), Some(&b"PING\n"[..]));
    /// assert!(buffer.reclaim().is_some());
    /// assert_eq!(buffer.chunk(), b"PONG"); // in a node of 512 bytes now
    /// ```
    #[doc(alias = "Release")]
    #[inline]
    pub fn reclaim(&mut self) -> Option<Node> {
        let node = match self.pop_only_lent() {
            Some(lent) => self.keep_only_unread(lent),
            None => self.reclaim_behind(),
        };
        self.check();
        node
    }

    /// As `reclaim`, where something lies before the lent node or nothing is lent.
    #[inline]
    fn reclaim_behind(&mut self) -> Option<Node> {
        self.first.as_ref()?;
        let node = self.take_lent();
        self.shrink_first();
        node
    }
}
