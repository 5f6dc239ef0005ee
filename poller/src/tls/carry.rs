//! The engine between a connection's buffers and its socket.
//!
//! ```text
//!   connected ──▶ Handshaking ──▶ Connecting ──▶ Working ──────────▶ close: the rest, close_notify, FIN
//!                  │ limit, FIN,     on_connect    │ close_notify: the end of the stream, as if FIN had come
//!                  ▼ alert                         ▼ FIN without it, alert, damage
//!                 on_close                        what came before, then on_disconnect, on_close
//! ```

use crate::sync::atomic::Ordering::Relaxed;
use std::cell::Cell;
use std::io;

use linkbuffer::LinkBuffer;

use super::{Engine, Error};
use crate::busy::{Busy, Deadlines};
use crate::close::{Fault, Limit};
use crate::connection::{self, Connection};
use crate::flags::Flags;
use crate::kept::Phase;
use crate::limits;
use crate::operator::{Owner, report_panic};
use crate::state::{Closer, News};
use crate::transport::Transport;
use crate::watch::NEVER;

thread_local! {
    /// Where records arrive and are opened.
    static SPACE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What one read of records brought.
pub(crate) struct Taken {
    /// From the kernel.
    bytes: usize,
    /// Plaintext, or the end of the stream: the handler is to know.
    is_news: bool,
}

/// Seals and sends until nothing is left or the kernel took less than there was, which `short` says then. With `end`
/// close_notify goes behind the output.
#[cold]
pub(crate) fn drain(
    engine: &mut Engine,
    end: bool,
    transport: &Transport,
    busy: &mut Busy,
    total: &mut usize,
    short: &mut bool,
) -> io::Result<()> {
    loop {
        // After a failure the alert goes out and nothing else.
        if engine.failure().is_none() && !engine.is_handshaking() {
            engine.seal(&mut busy.output, &mut busy.sealed, limits::TLS_SEALED_BYTES_MAX)?;
            if end && busy.output.is_empty() {
                engine.close(&mut busy.sealed)?;
            }
        }
        if busy.sealed.is_empty() {
            return Ok(());
        }
        connection::drain(transport, &mut busy.sealed, total, short)?;
        if *short {
            return Ok(());
        }
    }
}

impl Connection<'_> {
    /// A graceful close ends our stream first, so that the peer can tell it from one that was cut off.
    pub(crate) fn end_tls(&mut self) {
        if self.kept.tls.is_some() {
            self.kept.flags.set(Flags::END_ASKED);
        }
    }

    /// One read, and what it opens; `None` when there was nothing. After an error the alert that says why was sent, as far
    /// as the kernel takes it at once. Plaintext with an error behind it is an Ok with a connection that is broken: it is
    /// handed over, and then there is nothing to wait for.
    #[cold]
    pub(crate) fn open_records(&mut self) -> io::Result<Option<Taken>> {
        // Out of its place while it is used: rustls calls what the user has configured.
        let mut space = SPACE.take();
        space.resize(limits::TLS_BACKLOG_BYTES_MAX + limits::READ_BYTES_MAX, 0);
        let outcome = self.read_tls(&mut space);
        SPACE.set(space);
        let failure = self.note_failure();
        if (failure.is_some() || outcome.is_err()) && self.flush().is_err() {
            debug_assert!(self.busy.broken.is_some(), "a flush that fails breaks the connection");
        }
        if let Some(fault) = failure
            && outcome.is_ok()
            && self.busy.broken.is_none()
        {
            self.break_off(fault);
        }
        outcome
    }

    /// Takes records that were read before there was TLS here. What is wrong with them is found when the handshake begins.
    pub(crate) fn open_early(&mut self, mut early: LinkBuffer) {
        let Some(engine) = &mut self.kept.tls else { return };
        while !early.is_empty() && engine.failure().is_none() {
            let piece = early.chunk();
            let len = piece.len().min(limits::READ_BYTES_MAX);
            let mut arrived = [&engine.backlog, &piece[..len]].concat();
            early.output_ack(len);
            if engine.receive(&mut arrived, &mut self.busy.input, &mut self.busy.sealed).is_err() {
                debug_assert!(engine.failure().is_some(), "an engine that errs has failed");
            }
        }
    }

    /// Takes note of why there will be no more, if so: the reason that is told at the close, or the panic that it was.
    pub(crate) fn note_failure(&mut self) -> Option<Fault> {
        let engine = self.kept.tls.as_mut()?;
        let error = engine.failure()?.clone();
        let panicked = engine.take_panic();
        self.kept.flags.set(Flags::KEEPS);
        if error != Error::Truncated {
            self.busy.details.tls.get_or_insert(error.to_string());
        }
        if let Some(text) = panicked {
            report_panic(self.shared, "tls", &text);
            self.shared.state.close_as_owner(Closer::Panic, true);
        }
        Some(Fault::from(&io::Error::from(error)))
    }

    /// Reads behind what waits for the rest of its record.
    fn read_tls(&mut self, space: &mut [u8]) -> io::Result<Option<Taken>> {
        let Some((transport, engine)) = self.kept.transport.as_ref().zip(self.kept.tls.as_mut()) else {
            return Ok(None);
        };
        let flags = &mut self.kept.flags;
        // What the last read found behind its plaintext, which was handed over meanwhile.
        if let Some(error) = engine.failure() {
            flags.clear(Flags::READABLE);
            return Err(error.clone().into());
        }
        if engine.has_ended() {
            flags.clear(Flags::READABLE);
            flags.set(Flags::INPUT_ENDED);
            return Ok(Some(Taken { bytes: 0, is_news: true }));
        }
        let before = engine.rejoin(space);
        let room = limits::READ_BYTES_MAX;
        match transport.recv(&mut space[before..before + room]) {
            Ok(0) => {
                flags.clear(Flags::READABLE);
                if self.busy.broken.is_some() {
                    return Ok(None);
                }
                // It had not ended, or this read would not have been.
                engine.end()?;
                Ok(None)
            }
            Ok(bytes) => {
                self.shared.bytes_in.store(self.shared.bytes_in.load(Relaxed) + bytes as u64, Relaxed);
                self.shared.note_moved();
                let had = self.busy.input.len();
                let arrived = &mut space[..before + bytes];
                let outcome = engine.receive(arrived, &mut self.busy.input, &mut self.busy.sealed);
                let is_news = self.busy.input.len() > had;
                // What came before the end is handed over first, and the next read finds the end.
                let goes_on = engine.has_ended() || outcome.is_err();
                if bytes < room && !flags.has(Flags::HUP.with(Flags::MARKED)) && !goes_on {
                    flags.clear(Flags::READABLE);
                }
                if !is_news {
                    outcome?;
                }
                Ok(Some(Taken { bytes, is_news }))
            }
            Err(error) => {
                flags.clear(Flags::READABLE);
                if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) }
            }
        }
    }
}

impl Owner<'_> {
    /// As `read`, with TLS.
    #[cold]
    pub(crate) fn read_records(&mut self, woken: &mut bool) -> usize {
        match self.conn.open_records() {
            Ok(None) => 0,
            Ok(Some(taken)) => {
                if taken.is_news {
                    *woken = false;
                    self.request();
                } else {
                    // An answer of the protocol's own may be there.
                    self.flush();
                }
                taken.bytes
            }
            Err(error) => {
                // What came with the end of the handshake is handed over first.
                if std::mem::take(woken) {
                    self.request();
                }
                self.fail(&error);
                0
            }
        }
    }

    /// Works on the handshake, and says whether it is over. It is a part of connecting: what ends it, ends it at once.
    #[cold]
    pub(crate) fn shake_hands(&mut self, news: News) -> bool {
        if self.is_given_up() {
            return false;
        }
        if news.has(News::SHUTDOWN) {
            self.shared.state.close_as_owner(Closer::Shutdown, true);
            return false;
        }
        if news.has(News::TIMER) {
            let now = self.shared.poll().clock.look();
            self.conn.busy.deadlines.fired(now);
            if Deadlines::due(&mut self.conn.busy.deadlines.connect, now) {
                self.conn.pass(Limit::Handshake);
                return false;
            }
        }
        match self.try_to_shake_hands() {
            Ok(false) => return false,
            Ok(true) => {}
            Err(error) => {
                self.conn.note_failure();
                self.fail(&error);
                return false;
            }
        }
        let deadlines = &mut self.conn.busy.deadlines;
        deadlines.connect = NEVER;
        if let Some(armed) = deadlines.armed.take() {
            self.shared.poll().disarm(armed);
        }
        if !self.conn.busy.input.is_empty() {
            // It came with the end of the handshake, and no event will tell of it.
            self.conn.busy.early = self.conn.busy.early.with(News::WOKEN);
        }
        self.conn.kept.phase = Phase::Connecting;
        true
    }

    fn try_to_shake_hands(&mut self) -> io::Result<bool> {
        loop {
            let begun = match &mut self.conn.kept.tls {
                Some(engine) => engine.begin(&mut self.conn.busy.sealed),
                None => Ok(()),
            };
            // Also the alert that says why it did not begin.
            self.flush();
            begun?;
            let engine = self.conn.kept.tls.as_ref();
            let is_over = !engine.is_some_and(|engine| engine.is_handshaking());
            if let Some(fault) = self.conn.busy.broken {
                // Damage behind the end of the handshake is met when what came before it was handed over.
                let is_later = is_over && engine.is_some_and(|engine| engine.failure().is_some());
                return if is_later { Ok(true) } else { Err(fault.into()) };
            }
            if is_over {
                return Ok(true);
            }
            if !self.conn.kept.flags.has(Flags::READABLE) {
                return Ok(false);
            }
            self.conn.open_records()?;
        }
    }
}
