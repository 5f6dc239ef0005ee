//! Streams: what the application wants of them, and what the peer says about them.

use super::event::{Flood, overrun};
use super::{Error, Event, OpenError, Refused, Role, Session, StreamError, StreamId};
use crate::limits::{CONTROL_QUEUE_OPEN_LEN_MAX, CREDIT_BYTES_MIN, DGRAM_BODY_BYTES_MAX, HOST_BYTES_MAX};
use crate::proto::flow::SendWindow;
use crate::proto::frame::{Frame, Kind, Network, OpenRequest, Opened, RefuseCode, ResetCode};
use crate::proto::stream::{Opening, Receiving, Sending, Stream};
use crate::proto::wire::is_text;
use bytes::Bytes;
use linkbuffer::LinkBuffer;
use std::time::Instant;

/// What one read brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Bytes that were moved.
    pub bytes: usize,
    /// The peer has sent its FIN and this was the last byte before it; set once.
    pub end: bool,
}

impl Session {
    // ---- commands

    /// Opens a stream to a target behind the client; `Accepted` or `Refused` answers. What is written or finished before is sent
    /// once the target has answered.
    ///
    /// # Errors
    /// When no stream can be opened on this session now; nothing is sent then.
    pub fn open(&mut self, request: OpenRequest) -> Result<StreamId, OpenError> {
        let id = self.room()?;
        if request.host.is_empty() || !is_text(&request.host, HOST_BYTES_MAX) {
            return Err(OpenError::Host);
        }
        self.next_id += 2;
        self.stats.streams_opened += 1;
        self.liveness.opens();
        let window = self.first_window(request.network);
        self.table.insert(id, Box::new(Stream::new(request.network, Opening::Sent, window)));
        self.control(&Frame::Open { request, window }, id);
        Ok(StreamId(id))
    }

    /// Whether a stream could be opened now: the number that it would have.
    ///
    /// # Errors
    /// As [`open`](Self::open), which looks at the host besides.
    pub fn room(&self) -> Result<u32, OpenError> {
        if !self.is_up() {
            return Err(OpenError::NotUp);
        }
        if self.role != Role::Gateway {
            return Err(OpenError::Role);
        }
        if self.is_draining() {
            return Err(OpenError::Draining);
        }
        if self.table.len() >= self.streams_max || self.control.len() >= CONTROL_QUEUE_OPEN_LEN_MAX {
            return Err(OpenError::Limit);
        }
        u32::try_from(self.next_id).map_err(|_| OpenError::Exhausted)
    }

    /// Says that the target answered.
    ///
    /// # Errors
    /// When the stream is gone (the user lost interest), or was answered before.
    pub fn accept(&mut self, id: StreamId, opened: Opened) -> Result<(), StreamError> {
        let stream = self.table.get_mut(&id.0).ok_or(StreamError::Gone)?;
        if stream.opening != Opening::Received {
            return Err(StreamError::Opening);
        }
        stream.opening = Opening::Answered;
        let window = stream.receive_window.size();
        self.control(&Frame::OpenOk { opened, window }, id.0);
        Ok(())
    }

    /// Says that the target did not answer. The stream is gone.
    ///
    /// # Errors
    /// When it was gone before, or was answered before.
    pub fn refuse(
        &mut self,
        id: StreamId,
        code: RefuseCode,
        resolve_us: u32,
        connect_us: u32,
    ) -> Result<(), StreamError> {
        let stream = self.table.get(&id.0).ok_or(StreamError::Gone)?;
        if stream.opening != Opening::Received {
            return Err(StreamError::Opening);
        }
        self.remove(id);
        self.count_refused(code);
        self.control(&Frame::OpenErr { code, resolve_us, connect_us }, id.0);
        Ok(())
    }

    /// That a target refuses is its own affair; that the client does, the tunnel's.
    fn count_refused(&mut self, code: RefuseCode) {
        self.stats.streams_refused += u64::from(matches!(code, RefuseCode::Limit | RefuseCode::Draining));
    }

    /// Takes as much of `bytes` as the peer's window and the stream's queue allow, without a copy, and says how much. When something
    /// is left, `Writable` follows once there is room.
    ///
    /// # Errors
    /// When the stream is gone or takes no more.
    pub fn write(&mut self, id: StreamId, bytes: &mut LinkBuffer) -> Result<usize, StreamError> {
        let stream = self.table.get_mut(&id.0).ok_or(StreamError::Gone)?;
        if stream.sending != Sending::Open {
            return Err(StreamError::Finished);
        }
        let taken = stream.write(bytes);
        self.schedule(id);
        Ok(taken)
    }

    /// Queues one datagram on a stream of UDP; the oldest make room, and it says how many bytes of them were dropped. `None` when it
    /// cannot go out: the stream is gone, finished or no stream of UDP, or the datagram is too long.
    pub fn send_datagram(&mut self, id: StreamId, datagram: Bytes) -> Option<usize> {
        let stream = self.table.get(&id.0)?;
        if stream.sending != Sending::Open
            || stream.network != Network::Udp
            || datagram.len() > DGRAM_BODY_BYTES_MAX
        {
            return None;
        }
        let dropped = self.change_datagrams(id, |stream| stream.push_datagram(datagram))?;
        self.stats.datagrams_dropped += dropped.count;
        self.shed_datagrams();
        self.schedule(id);
        Some(dropped.bytes)
    }

    /// Says that nothing more will be written: FIN follows what is queued. Does nothing when that was said before or the stream is gone.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.table.get_mut(&id.0) else { return };
        if stream.sending == Sending::Open {
            stream.sending = Sending::FinQueued;
            stream.wants_room = false;
            self.schedule(id);
        }
    }

    /// Breaks the stream off and drops what it had queued; it is gone at once. Does nothing when it was gone before.
    ///
    /// The peer is told with RST, or with STOP when our direction had ended, or not at all when there is nothing left to tell.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        let Some(stream) = self.remove(id) else { return };
        match (stream.sending, stream.receiving) {
            (Sending::Open | Sending::FinQueued | Sending::RstQueued(_), _) => {
                self.control(&Frame::Rst(code), id.0);
            }
            (Sending::Ended, Receiving::Open) => self.control(&Frame::Stop(code), id.0),
            (Sending::Ended, _) => {}
        }
    }

    /// As [`reset`](Self::reset), but what is queued is sent first: it came before whatever broke. The queue is within the peer's
    /// window, so the stream is gone as soon as it had its turns; the application has nothing more to do with it. What was
    /// not read is dropped, and so is what still comes.
    pub fn reset_behind(&mut self, id: StreamId, code: ResetCode) {
        match self.table.get(&id.0) {
            Some(stream) if stream.has_unsent() => {
                self.change_datagrams(id, |stream| stream.reset_behind(code));
            }
            _ => self.reset(id, code),
        }
    }

    /// Moves at most `max` received bytes to the end of `out`, without a copy. On a stream of UDP it only tells the end, once the last
    /// datagram was read.
    ///
    /// # Errors
    /// When the stream is gone, also if that was [behind what is queued](Self::reset_behind).
    pub fn read(&mut self, id: StreamId, out: &mut LinkBuffer, max: usize) -> Result<Read, StreamError> {
        let stream = self.table.get_mut(&id.0).filter(|stream| !stream.is_resetting());
        let stream = stream.ok_or(StreamError::Gone)?;
        let (bytes, end) = stream.read(out, max);
        if let Receiving::Rst(code) = stream.receiving
            && stream.readable_len() == 0
        {
            self.events.push_back(Event::Reset(id, code));
            self.remove(id);
        } else if stream.is_over() {
            self.remove(id);
        }
        Ok(Read { bytes, end })
    }

    /// The next datagram that arrived on a stream of UDP.
    pub fn read_datagram(&mut self, id: StreamId) -> Option<Bytes> {
        self.change_datagrams(id, Stream::pop_received_datagram)?
    }

    /// Says that of the bytes read from this stream `total` in all have reached the kernel: they become credit for the peer. A total
    /// that is not news, or of a stream that is gone, does nothing.
    pub fn delivered(&mut self, id: StreamId, total: u64) {
        let Some(stream) = self.table.get_mut(&id.0) else { return };
        stream.receive_window.deliver(total);
        if self.end.is_none() && stream.has_credit() && !stream.credit_queued {
            stream.credit_queued = true;
            self.credits.push_back(id.0);
        }
    }

    /// Bytes of the stream that can be read now.
    pub fn readable_len(&self, id: StreamId) -> usize {
        self.table.get(&id.0).map_or(0, |stream| stream.readable_len())
    }

    // ---- frames

    pub(super) fn on_open(&mut self, id: StreamId, request: OpenRequest, window: u32) -> Result<(), Error> {
        if self.role != Role::Client {
            return Err(Error::Unexpected(Kind::Open));
        }
        if u64::from(id.0) != self.next_id {
            return Err(Error::StreamId { id, due: self.next_id });
        }
        self.next_id += 2;
        let full = self.table.len() >= self.streams_max || self.control.len() >= CONTROL_QUEUE_OPEN_LEN_MAX;
        if self.draining || full {
            let code = if full { RefuseCode::Limit } else { RefuseCode::Draining };
            self.count_refused(code);
            return self.answer(&Frame::OpenErr { code, resolve_us: 0, connect_us: 0 }, id.0);
        }
        let mut send_window = SendWindow::default();
        send_window.grant(window).map_err(overrun(id))?;
        let ours = self.first_window(request.network);
        let mut stream = Box::new(Stream::new(request.network, Opening::Received, ours));
        stream.send_window = send_window;
        self.stats.streams_opened += 1;
        self.table.insert(id.0, stream);
        self.events.push_back(Event::Opened(id, request));
        Ok(())
    }

    /// Takes a part of the body of a DATA frame. The frame as a whole is judged with its first part.
    pub(super) fn on_data(
        &mut self,
        id: StreamId,
        frame_len: usize,
        body: Bytes,
        first: bool,
        now: Instant,
    ) -> Result<(), Error> {
        let Some(stream) = self.stream_for(id, Kind::Data)? else {
            self.stats.late_frames += u64::from(first);
            return Ok(());
        };
        if first {
            if stream.network != Network::Tcp {
                return Err(Error::Unexpected(Kind::Data));
            }
            if frame_len == 0 {
                return Err(Error::Empty(Kind::Data));
            }
            stream.receive_window.receive(frame_len, now).map_err(|_| Error::WindowExceeded(id))?;
        }
        // Of a stream that nobody here has any more, they are booked and dropped.
        if !stream.is_resetting() && !body.is_empty() {
            stream.push_received(body);
            self.readable(id);
        }
        Ok(())
    }

    /// The stream that a frame is for; `None` when the frame is late.
    fn stream_for(&mut self, id: StreamId, kind: Kind) -> Result<Option<&mut Stream>, Error> {
        let Some(stream) = self.table.get_mut(&id.0) else {
            let was_there = id.0 % 2 == 1 && u64::from(id.0) < self.next_id;
            return if was_there { Ok(None) } else { Err(Error::UnknownStream(id)) };
        };
        let answers = matches!(kind, Kind::OpenOk | Kind::OpenErr);
        let legal = match stream.opening {
            Opening::Sent => answers || kind == Kind::Rst,
            Opening::Received | Opening::Answered => kind == Kind::Rst,
            Opening::Done => !answers,
        };
        if !legal {
            return Err(Error::Unexpected(kind));
        }
        // After its RST, which waits here until what came before it was read, the peer has no such stream any more.
        if matches!(stream.receiving, Receiving::Rst(_)) {
            return Ok(None);
        }
        // After its FIN the peer may only give credit and, once and at the end, STOP.
        if stream.stopped {
            return Err(Error::AfterStop(id, kind));
        }
        let after_fin = stream.receiving != Receiving::Open;
        match kind {
            Kind::Window => {}
            Kind::Stop if after_fin => {}
            Kind::Stop => return Err(Error::Unexpected(kind)),
            _ if after_fin => return Err(Error::AfterFin(id, kind)),
            _ => {}
        }
        Ok(Some(stream))
    }

    pub(super) fn on_stream_frame(&mut self, id: StreamId, frame: Frame, now: Instant) -> Result<(), Error> {
        // Before anything else, so that it counts whatever becomes of it.
        if let Frame::Window(1..CREDIT_BYTES_MIN) = frame
            && !self.small_credits.take(1, now)
        {
            return Err(Error::Flood(Flood::Credits));
        }
        let (kind, role) = (frame.kind(), self.role);
        let Some(stream) = self.stream_for(id, kind)? else {
            self.stats.late_frames += 1;
            return Ok(());
        };
        match frame {
            Frame::OpenOk { opened, window } => {
                stream.opening = Opening::Done;
                stream.send_window.grant(window).map_err(overrun(id))?;
                self.events.push_back(Event::Accepted(id, opened));
                self.schedule(id);
                self.offer_room(id);
            }
            Frame::OpenErr { code, resolve_us, connect_us } => {
                self.count_refused(code);
                self.events.push_back(Event::Refused(id, Refused { code, resolve_us, connect_us }));
                self.remove(id);
            }
            Frame::Dgram(body) => {
                if stream.network != Network::Udp {
                    return Err(Error::Unexpected(kind));
                }
                if !stream.is_resetting() {
                    let dropped = self.change_datagrams(id, |stream| stream.push_received_datagram(body));
                    self.stats.datagrams_dropped += dropped.map_or(0, |dropped| dropped.count);
                    self.shed_datagrams();
                }
                self.readable(id);
            }
            Frame::Window(0) => return Err(Error::Empty(kind)),
            Frame::Window(credit) => {
                stream.send_window.grant(credit).map_err(overrun(id))?;
                self.offer_room(id);
            }
            Frame::Fin => {
                stream.receiving = Receiving::Fin;
                self.readable(id);
            }
            // What a target said before it broke off is still the user's, and may be a whole answer. The other way round
            // nobody waits for the answer any more, so a target is told at once.
            Frame::Rst(code)
                if role == Role::Gateway && stream.readable_len() > 0 && !stream.is_resetting() =>
            {
                stream.receiving = Receiving::Rst(code);
                self.change_datagrams(id, Stream::stop_sending);
                self.readable(id);
            }
            Frame::Rst(code) => {
                self.events.push_back(Event::Reset(id, code));
                self.remove(id);
            }
            Frame::Stop(_) if stream.is_resetting() => {
                self.remove(id);
            }
            Frame::Stop(code) => {
                stream.stopped = true;
                if stream.sending != Sending::Ended {
                    self.change_datagrams(id, Stream::stop_sending);
                    self.events.push_back(Event::Stopped(id, code));
                    self.remove_over(id);
                }
            }
            _ => return Err(Error::Unexpected(kind)),
        }
        Ok(())
    }

    // ---- inside

    /// Takes the stream out of the table when both directions have ended; says whether they have.
    pub(super) fn remove_over(&mut self, id: StreamId) -> bool {
        let over = self.table.get(&id.0).is_some_and(|stream| stream.is_over());
        if over {
            self.remove(id);
        }
        over
    }

    /// OPEN_OK has left: bytes may follow it.
    pub(super) fn on_open_ok_sent(&mut self, id: StreamId) {
        if let Some(stream) = self.table.get_mut(&id.0) {
            stream.opening = Opening::Done;
            self.schedule(id);
        }
    }

    /// The window that a new stream grants. Datagrams are not counted, so a stream of them needs none.
    fn first_window(&mut self, network: Network) -> u32 {
        match network {
            Network::Tcp => self.windows.first(),
            Network::Udp => 0,
        }
    }

    /// Queues `Readable`, unless one is queued or nobody is left to read.
    fn readable(&mut self, id: StreamId) {
        if let Some(stream) = self.table.get_mut(&id.0)
            && !stream.readable_queued
            && !stream.is_resetting()
        {
            stream.readable_queued = true;
            self.events.push_back(Event::Readable(id));
        }
    }

    /// Queues `Writable` when a write fell short and there is room again.
    pub(super) fn offer_room(&mut self, id: StreamId) {
        if let Some(stream) = self.table.get_mut(&id.0)
            && stream.has_room()
        {
            stream.wants_room = false;
            if !stream.writable_queued {
                stream.writable_queued = true;
                self.events.push_back(Event::Writable(id));
            }
        }
    }

    /// Gives the stream a turn when it has something to send.
    fn schedule(&mut self, id: StreamId) {
        if let Some(stream) = self.table.get_mut(&id.0)
            && !stream.scheduled
            && stream.next().is_some()
        {
            stream.scheduled = true;
            self.turns.push_back(id.0);
        }
    }
}
