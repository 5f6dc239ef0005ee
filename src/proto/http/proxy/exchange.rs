//! One request and its answer while they are under way, and the heads that arrive in pieces.

use std::time::Instant;

use linkbuffer::LinkBuffer;

use super::super::{BodyReader, BodyWriter, Framing, HeadScan, Reject, Version};
use super::{End, ExchangeRecord};

/// One request and its answer, under way.
pub(super) struct Exchange {
    pub(super) record: ExchangeRecord,
    pub(super) version: Version,
    pub(super) head_only: bool,
    pub(super) connect: bool,
    /// `Upgrade` was passed on, so that 101 is an answer.
    pub(super) upgrade: bool,
    /// The user's connection goes on afterwards, as far as is known.
    pub(super) keep_alive: bool,
    /// The request head as the upstream gets it, until it is open.
    pub(super) request_head: LinkBuffer,
    pub(super) request: BodyReader,
    /// `None` once the request is complete.
    pub(super) request_writer: Option<BodyWriter>,
    pub(super) response_head: HeadBuffer,
    pub(super) interim: u32,
    /// From the final response head on.
    pub(super) response: Option<(BodyReader, BodyWriter)>,
}

impl Exchange {
    /// Of a head that was not understood.
    pub(super) fn unknown(begun: Instant, now: Instant) -> Self {
        Self {
            record: ExchangeRecord {
                method: String::new(),
                host: String::new(),
                port: 0,
                user: None,
                code: 0,
                up: 0,
                down: 0,
                begun,
                asked: now,
                opened: None,
                answered: None,
                ended: now,
                end: End::NORMAL,
                why: "",
            },
            version: Version::Http11,
            head_only: false,
            connect: false,
            upgrade: false,
            keep_alive: false,
            request_head: LinkBuffer::new(),
            request: BodyReader::new(Framing::None),
            request_writer: None,
            response_head: HeadBuffer::default(),
            interim: 0,
            response: None,
        }
    }

    /// How far it has come, as the access log says it.
    pub(super) fn phase_letter(&self) -> char {
        match self.response {
            Some(_) => 'D',
            None if self.request_writer.is_some() => 'D',
            None => 'H',
        }
    }

    /// Brings the record's byte counts up to date.
    pub(super) fn count(&mut self) {
        self.record.up = self.request.payload_len();
        if let Some((response, _)) = &self.response {
            self.record.down = response.payload_len();
        }
    }
}

/// Collects a head that may arrive in pieces, and nothing beyond its end.
#[derive(Default)]
pub(super) struct HeadBuffer {
    bytes: Vec<u8>,
    scan: HeadScan,
}

impl HeadBuffer {
    /// Takes bytes from `input` until `complete` finds the end of a head among them, or the input is used up.
    ///
    /// `complete` gives the length of the head. It is called once per piece of input.
    pub(super) fn fill<T>(
        &mut self,
        input: &mut LinkBuffer,
        mut complete: impl FnMut(&[u8], &mut HeadScan) -> Result<Option<(T, usize)>, Reject>,
    ) -> Result<Option<T>, Reject> {
        while !input.is_empty() {
            let before = self.bytes.len();
            // A piece at a time, so that a pipelined body is not copied along with the head.
            let taken = input.chunk().len().min(2 << 10);
            self.bytes.extend_from_slice(&input.chunk()[..taken]);
            let found = complete(&self.bytes, &mut self.scan)?;
            let used = found.as_ref().map_or(taken, |(_, end)| end - before);
            input.skip(used).expect("the bytes came from this input");
            if let Some((head, _)) = found {
                *self = Self::default();
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
