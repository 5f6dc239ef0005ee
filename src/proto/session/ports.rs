//! Ports on the gateway that a client asks for: one answer per question.
//!
//! ```text
//!   client    request ──PORT_OPEN──▶ Asked ──PORT_OK──▶ Open ──close or PORT_CLOSE──▶ gone
//!                                      │  └──PORT_ERR──▶ gone
//!                                      └──close──▶ Closing ──the answer──▶ gone
//!   gateway   PORT_OPEN ──▶ Asked ──answer──▶ Open or gone;  PORT_CLOSE while Asked: Closing, the answer is then PORT_ERR
//! ```
//! A gateway never closes a port that it has not answered for, so a PORT_CLOSE that meets a newer question speaks of the older port.

use super::event::Flood;
use super::{Error, Event, Role, Session};
use crate::limits::{CONTROL_QUEUE_LEN_MAX, CONTROL_QUEUE_OPEN_LEN_MAX, HOST_BYTES_MAX, PORTS_MAX};
use crate::proto::frame::{Frame, Kind, Network, PortError, PortRequest};
use crate::proto::wire::is_text;
use std::collections::BTreeMap;
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Asked,
    Closing,
    Open,
}

pub(super) type Ports = BTreeMap<(Network, u16), Port>;

impl Session {
    /// Asks the gateway for a port; `PortOpened` or `PortRefused` answers, once.
    ///
    /// # Errors
    /// [`PortError::InUse`] when the session has or asks for that port, [`PortError::Limit`] when it has as many as may be, and
    /// [`PortError::Failed`] when this side cannot ask: it is the gateway, the session is not up, or the host is no name.
    pub fn request_port(&mut self, request: PortRequest) -> Result<(), PortError> {
        let host = &request.host;
        if self.role != Role::Client || !self.is_up() || host.is_empty() || !is_text(host, HOST_BYTES_MAX) {
            return Err(PortError::Failed);
        }
        let key = (request.network, request.port);
        if self.ports.contains_key(&key) {
            return Err(PortError::InUse);
        }
        let ports_max = self.peer.as_ref().map_or(0, |peer| peer.ports_max as usize);
        if self.ports.len() >= PORTS_MAX.min(ports_max) {
            return Err(PortError::Limit);
        }
        self.ports.insert(key, Port::Asked);
        self.control(&Frame::PortOpen(request), 0);
        Ok(())
    }

    /// Answers `PortRequested` with the port that was opened, or why none was.
    ///
    /// # Errors
    /// [`PortError::Closed`] when the client does not want the port any more: one that was opened is to be closed again.
    pub fn answer_port(
        &mut self,
        network: Network,
        port: u16,
        answer: Result<u16, PortError>,
    ) -> Result<(), PortError> {
        let key = (network, port);
        match self.ports.get_mut(&key) {
            Some(state @ Port::Asked) => {
                let frame = match answer {
                    Ok(actual) => {
                        *state = Port::Open;
                        Frame::PortOk { network, port, actual }
                    }
                    Err(error) => {
                        self.ports.remove(&key);
                        Frame::PortErr { network, port, error }
                    }
                };
                self.control(&frame, 0);
                Ok(())
            }
            Some(Port::Closing) => {
                self.ports.remove(&key);
                self.control(&Frame::PortErr { network, port, error: PortError::Closed }, 0);
                Err(PortError::Closed)
            }
            Some(Port::Open) | None => Err(PortError::Closed),
        }
    }

    /// Gives a port up; nothing happens when the session does not have it. The gateway answers before it closes.
    pub fn close_port(&mut self, network: Network, port: u16) {
        let key = (network, port);
        match (self.role, self.ports.get_mut(&key)) {
            (_, Some(Port::Open)) => {
                self.ports.remove(&key);
            }
            (Role::Client, Some(state @ Port::Asked)) => *state = Port::Closing,
            _ => return,
        }
        self.control(&Frame::PortClose { network, port }, 0);
    }

    pub(super) fn on_port_open(&mut self, request: PortRequest, now: Instant) -> Result<(), Error> {
        if self.role != Role::Gateway {
            return Err(Error::Unexpected(Kind::PortOpen));
        }
        if !self.port_opens.take(1, now) {
            return Err(Error::Flood(Flood::Ports));
        }
        // Each port may be owed an answer still; the rest of the queue is for what streams have to say.
        if self.control.len() + self.ports.len() >= CONTROL_QUEUE_OPEN_LEN_MAX {
            return Err(Error::Flood(Flood::Answers));
        }
        let (network, port) = (request.network, request.port);
        let error = match self.ports.get(&(network, port)) {
            Some(_) => return Err(Error::Unexpected(Kind::PortOpen)),
            None if self.ports.len() >= PORTS_MAX => PortError::Limit,
            None => {
                self.ports.insert((network, port), Port::Asked);
                self.events.push_back(Event::PortRequested(request));
                return Ok(());
            }
        };
        self.answer(&Frame::PortErr { network, port, error }, 0)
    }

    pub(super) fn on_port_answer(
        &mut self,
        kind: Kind,
        network: Network,
        port: u16,
        answer: Result<u16, PortError>,
    ) -> Result<(), Error> {
        let key = (network, port);
        match (self.role, self.ports.get_mut(&key), answer) {
            (Role::Client, Some(state @ Port::Asked), Ok(actual)) => {
                *state = Port::Open;
                self.events.push_back(Event::PortOpened { network, port, actual });
            }
            (Role::Client, Some(Port::Asked), Err(error)) => {
                self.ports.remove(&key);
                self.events.push_back(Event::PortRefused { network, port, error });
            }
            (Role::Client, Some(Port::Closing), _) => {
                self.ports.remove(&key);
                self.events.push_back(Event::PortClosed { network, port });
            }
            _ => return Err(Error::Unexpected(kind)),
        }
        Ok(())
    }

    pub(super) fn on_port_close(&mut self, network: Network, port: u16) {
        let key = (network, port);
        match (self.role, self.ports.get_mut(&key)) {
            (_, Some(Port::Open)) => {
                self.ports.remove(&key);
            }
            (Role::Gateway, Some(state @ Port::Asked)) => *state = Port::Closing,
            _ => {
                self.stats.late_frames += 1;
                return;
            }
        }
        self.events.push_back(Event::PortClosed { network, port });
    }

    /// Queues a frame that the peer made us send; one that keeps asking without reading is flooding.
    pub(super) fn answer(&mut self, frame: &Frame, stream: u32) -> Result<(), Error> {
        if self.control.len() >= CONTROL_QUEUE_LEN_MAX {
            return Err(Error::Flood(Flood::Answers));
        }
        self.control(frame, stream);
        Ok(())
    }
}
