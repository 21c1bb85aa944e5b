//! What other nodes, and strangers, send to the control port.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::NodeId;
use baton_control::frame::{FRAME_BYTES_MAX, FrameReader};
use baton_control::session::{Identity, Session};
use baton_control::{Error, Hello, Message, NodeClocks};

use crate::with_size;

/// Any bytes as a message: what is understood can be said again and means the same.
pub fn control_message(bytes: &[u8]) -> bool {
    let Ok(message) = Message::decode(bytes) else { return false };
    let mut again = Vec::new();
    message.encode(&mut again).expect("what was decoded is within its limits");
    assert_eq!(Message::decode(&again), Ok(message));
    true
}

/// Any stream, cut into pieces of as many bytes as its first says: the same frames as of one piece.
pub fn control_frames(bytes: &[u8]) -> bool {
    let (size, stream) = with_size(bytes);
    let whole = frames(std::iter::once(stream));
    assert_eq!(whole, frames(stream.chunks(size)));
    !whole.0.is_empty()
}

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<Error>) {
    let mut reader = FrameReader::new(FRAME_BYTES_MAX);
    let mut frames = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.take() {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Any bytes from a stranger, to either end of a connection in set-up (an odd first byte: the end that
/// dialled): an error or patience, never a peer that is met. Understood is what may still become one.
pub fn control_session(bytes: &[u8]) -> bool {
    let (first, bytes) = with_size(bytes);
    let now = Instant::now();
    let hello = Hello {
        cluster: String::new(),
        node: NodeId(0),
        name: String::new(),
        digest: [0; 32],
        nodes: Vec::new(),
        mac: [0; 6],
        boot: 0,
        software: String::new(),
    };
    let peers = [NodeId(1)].into();
    let clocks = Arc::new(NodeClocks::new(Instant::now(), Duration::ZERO));
    let (names, failure_timeout) = (Vec::new(), Duration::from_secs(1));
    let identity = Arc::new(Identity { hello, psk: [7; 32], peers, names, failure_timeout, clocks });
    let session = match first % 2 {
        1 => Session::dial(identity, NodeId(1), now),
        _ => Session::listen(identity, now),
    };
    let mut session = session.expect("a session");
    let mut heard = VecDeque::new();
    let received = session.receive(bytes, now, &mut heard);
    assert!(heard.is_empty() && !session.is_open());
    received.is_ok()
}
