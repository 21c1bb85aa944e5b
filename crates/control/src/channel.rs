//! The secure channel under a session: the Noise handshake `NNpsk0_25519_ChaChaPoly_BLAKE2s` and
//! the sealing of frames, all by the library; here is only how its messages lie in frames. Both
//! ends prove that they hold the cluster's secret, and each connection has fresh keys, so a
//! recorded one can be neither read nor replayed.
//!
//! Which member of the cluster the other end is, the secret cannot tell: every member holds it.

use std::fmt;

use snow::{HandshakeState, TransportState};

use crate::error::Error;
use crate::frame::{FRAME_BYTES_MAX, TAG_BYTES, put_frame};
use crate::message::PROTOCOL_VERSION;

/// How every greeting begins, in the clear, so that a stranger or another version can be named.
pub(crate) const MAGIC: [u8; 4] = *b"BATN";

/// The magic and the version: the clear part of a greeting, and the handshake's prologue.
const PREAMBLE: [u8; 5] = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], PROTOCOL_VERSION];

const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// A Noise message of this handshake: an ephemeral key, and the tag of an empty payload.
const NOISE_BYTES: usize = 32 + TAG_BYTES;

/// A secure channel: in handshake, then open.
pub(crate) struct Channel {
    state: ChannelState,
    /// Where an opened frame lies.
    opened: Vec<u8>,
}

enum ChannelState {
    Handshake(Box<HandshakeState>),
    Open(Box<TransportState>),
    /// After an error.
    Broken,
}

impl Channel {
    /// The dialling end.
    pub(crate) fn dial(psk: &[u8; 32]) -> Result<Channel, Error> {
        builder(psk)?.build_initiator().map(Channel::new).map_err(library)
    }

    /// The listening end.
    pub(crate) fn listen(psk: &[u8; 32]) -> Result<Channel, Error> {
        builder(psk)?.build_responder().map(Channel::new).map_err(library)
    }

    fn new(handshake: HandshakeState) -> Channel {
        Channel { state: ChannelState::Handshake(Box::new(handshake)), opened: Vec::new() }
    }

    /// Appends this end's greeting to `out`.
    pub(crate) fn greet(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let ChannelState::Handshake(handshake) = &mut self.state else { return Err(broken()) };
        put_frame(out, PREAMBLE.len() + NOISE_BYTES, |slot| {
            let (clear, noise) = slot.split_at_mut(PREAMBLE.len());
            clear.copy_from_slice(&PREAMBLE);
            match handshake.write_message(&[], noise) {
                Ok(NOISE_BYTES) => Ok(()),
                Ok(_) => Err(broken()),
                Err(cause) => Err(library(cause)),
            }
        })
    }

    /// Takes the other end's greeting; the listening end then gives its own. The channel is open
    /// afterwards.
    pub(crate) fn greeted(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let Some((magic, rest)) = frame.split_first_chunk::<4>() else { return Err(Error::NotBaton) };
        let (true, Some((version, noise))) = (*magic == MAGIC, rest.split_first()) else {
            return Err(Error::NotBaton);
        };
        let ChannelState::Handshake(handshake) = &mut self.state else { return Err(broken()) };
        if *version != PROTOCOL_VERSION {
            // Tell the other end which version is spoken here, so that both logs name the cause.
            if !handshake.is_initiator() {
                put_frame(out, PREAMBLE.len(), |slot| {
                    slot.copy_from_slice(&PREAMBLE);
                    Ok(())
                })?;
            }
            return Err(Error::Version { theirs: *version });
        }
        handshake.read_message(noise, &mut []).map_err(|_| Error::WrongSecret)?;
        if !handshake.is_initiator() {
            self.greet(out)?;
        }
        match std::mem::replace(&mut self.state, ChannelState::Broken) {
            ChannelState::Handshake(handshake) => {
                self.state = ChannelState::Open(Box::new(handshake.into_transport_mode().map_err(library)?));
                Ok(())
            }
            ChannelState::Open(_) | ChannelState::Broken => Err(broken()),
        }
    }

    /// Appends a frame that holds `message`, sealed, to `out`.
    pub(crate) fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let ChannelState::Open(transport) = &mut self.state else { return Err(broken()) };
        put_frame(out, message.len() + TAG_BYTES, |slot| {
            transport.write_message(message, slot).map(|_| ()).map_err(library)
        })
    }

    /// Opens a sealed frame. Each frame opens once, and only in its order.
    pub(crate) fn open(&mut self, frame: &[u8]) -> Result<&[u8], Error> {
        let ChannelState::Open(transport) = &mut self.state else { return Err(broken()) };
        self.opened.resize(FRAME_BYTES_MAX, 0);
        let length = transport.read_message(frame, &mut self.opened).map_err(|_| Error::Tampered)?;
        self.opened.get(..length).ok_or_else(broken)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the keys.
        let state = match self.state {
            ChannelState::Handshake(_) => "in handshake",
            ChannelState::Open(_) => "open",
            ChannelState::Broken => "broken",
        };
        f.debug_tuple("Channel").field(&state).finish()
    }
}

fn builder(psk: &[u8; 32]) -> Result<snow::Builder<'_>, Error> {
    let params = NOISE.parse().map_err(library)?;
    snow::Builder::new(params).prologue(&PREAMBLE).and_then(|builder| builder.psk(0, psk)).map_err(library)
}

fn library(cause: snow::Error) -> Error {
    Error::Channel(cause.to_string())
}

fn broken() -> Error {
    Error::Channel("used out of order".to_owned())
}
