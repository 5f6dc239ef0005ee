//! The small enums that frames carry, one byte each. A number that stands for nothing is refused, and none is ever given a second meaning.

use crate::proto::wire::{Reader, WireError};

/// An enum of which one byte goes over the wire.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)* }

        impl $name {
            pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
                match r.u8()? {
                    $($value => Ok($name::$variant),)*
                    _ => Err(WireError::Value),
                }
            }
        }
    };
}

codes! {
    /// What a stream carries.
    Network {
        /// A stream of bytes.
        Tcp = 1,
        /// Datagrams.
        Udp = 2,
    }
}

impl std::fmt::Display for PortError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PortError::InUse => "it is in use",
            PortError::Forbidden => "this client may not have it",
            PortError::Limit => "there are too many",
            PortError::Failed => "it cannot be bound",
            PortError::Closed => "it was given up",
        })
    }
}

impl Network {
    /// Its word in a log line.
    pub fn word(self) -> &'static str {
        match self {
            Network::Tcp => "tcp",
            Network::Udp => "udp",
        }
    }
}

codes! {
    /// Why a stream was not opened.
    RefuseCode {
        /// The target refused.
        Refused = 1,
        /// No way to the target.
        Unreachable = 2,
        /// The target did not answer in time.
        Timeout = 3,
        /// The name was not found.
        Dns = 4,
        /// A host rule forbids it.
        Forbidden = 5,
        /// Too many streams.
        Limit = 6,
        /// The client is about to leave.
        Draining = 7,
    }
}

codes! {
    /// Why a stream was broken off.
    ResetCode {
        /// The connection behind it was reset or dropped.
        Reset = 1,
        /// It made no progress for too long, or was idle for too long.
        Timeout = 2,
        /// The side that opened it lost interest before it was open.
        Cancelled = 3,
        /// The session is being stopped.
        Stopping = 4,
        /// A rule forbids it.
        Forbidden = 5,
        /// Something ran out.
        Limit = 6,
        /// A fault on the sender's side.
        Internal = 7,
    }
}

codes! {
    /// Why the gateway did not take a client.
    AuthErrCode {
        /// The group or its secret is wrong.
        Credentials = 1,
        /// No version that both speak.
        Version = 2,
        /// The gateway is full.
        Limit = 3,
        /// The gateway is stopping.
        Stopping = 4,
        /// A newer generation of this client is here.
        Replaced = 5,
        /// One end of the session has TLS and the other has not.
        Binding = 6,
    }
}

codes! {
    /// What a GOAWAY means.
    GoAwayCode {
        /// No more streams; those that are open go on.
        Drain = 0,
        /// The sender stops; the session is over.
        Stop = 1,
        /// The receiver broke the protocol; the session is over.
        Protocol = 2,
        /// A newer session of the same client took over; this one is over.
        Replaced = 3,
        /// A fault on the sender's side; the session is over.
        Internal = 4,
    }
}

codes! {
    /// Why a port was not opened.
    PortError {
        /// Another client or program has it.
        InUse = 1,
        /// This client may not have it.
        Forbidden = 2,
        /// Too many ports.
        Limit = 3,
        /// It could not be bound.
        Failed = 4,
        /// It was closed before it was open.
        Closed = 5,
    }
}
