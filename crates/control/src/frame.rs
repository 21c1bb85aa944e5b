//! Where one message ends: a frame is a length of two bytes, most significant first, and that many
//! bytes. Used by the session in both directions; knows nothing of what a frame holds.

use crate::error::Error;
use crate::message::MESSAGE_BYTES_MAX;

/// Bytes of the length before each frame.
pub const HEAD_BYTES: usize = 2;

/// What sealing adds to a message: the authentication tag of ChaCha20-Poly1305 (RFC 8439 2.8).
pub const TAG_BYTES: usize = 16;

/// The longest frame, without its length: one sealed message.
pub const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + TAG_BYTES;

/// Cuts a stream of bytes into frames. Holds at most one unfinished frame and what was pushed last.
#[derive(Debug)]
pub struct FrameReader {
    bytes: Vec<u8>,
    /// Where the next frame starts in `bytes`.
    start: usize,
    limit: usize,
}

impl FrameReader {
    /// A reader that refuses frames longer than `limit` bytes.
    pub fn new(limit: usize) -> FrameReader {
        FrameReader { bytes: Vec::new(), start: 0, limit }
    }

    /// Changes the limit, for the frames not yet taken.
    pub fn allow(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes bytes from the stream. Every frame should be taken out before more are pushed.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`Error::FrameLength`] as soon as the length is seen: empty, or beyond the limit.
    pub fn take(&mut self) -> Result<Option<&[u8]>, Error> {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        let Some((head, rest)) = rest.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*head));
        if length == 0 || length > self.limit {
            return Err(Error::FrameLength { bytes: length });
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        self.start += HEAD_BYTES + length;
        Ok(Some(frame))
    }

    /// Bytes that are held and belong to no frame taken yet.
    pub fn held(&self) -> usize {
        self.bytes.len() - self.start
    }
}

/// Appends a frame whose `length` bytes are written by `fill` into the slice it is given.
///
/// # Errors
/// What `fill` says, or [`Error::FrameLength`]; `out` is then as it was.
pub fn put_frame(
    out: &mut Vec<u8>,
    length: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let head = u16::try_from(length).ok().filter(|_| (1..=FRAME_BYTES_MAX).contains(&length));
    let head = head.ok_or(Error::FrameLength { bytes: length })?;
    let start = out.len();
    out.extend(head.to_be_bytes());
    let body = out.len();
    out.resize(body + length, 0);
    let filled = fill(&mut out[body..]);
    if filled.is_err() {
        out.truncate(start);
    }
    filled
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for body in bodies {
            put_frame(&mut out, body.len(), |slot| {
                slot.copy_from_slice(body);
                Ok(())
            })
            .expect("a body within the limit");
        }
        out
    }

    #[test]
    fn lengths_at_the_limits() {
        let mut reader = FrameReader::new(10);
        reader.push(&[0, 10]);
        assert_eq!(reader.take(), Ok(None));
        for wrong in [0u16, 11, u16::MAX] {
            let mut reader = FrameReader::new(10);
            reader.push(&wrong.to_be_bytes());
            assert_eq!(reader.take(), Err(Error::FrameLength { bytes: wrong.into() }));
        }
        for wrong in [0, FRAME_BYTES_MAX + 1, 70_000] {
            let mut out = vec![7];
            assert_eq!(put_frame(&mut out, wrong, |_| Ok(())), Err(Error::FrameLength { bytes: wrong }));
            assert_eq!(out, [7]);
        }
        assert_eq!(put_frame(&mut Vec::new(), FRAME_BYTES_MAX, |_| Ok(())), Ok(()));
    }

    proptest! {
        /// However the stream is cut on its way, the same frames come out.
        #[test]
        fn cut_anywhere(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..20),
            cuts in prop::collection::vec(1usize..40, 1..20),
        ) {
            let stream = framed(&bodies);
            let mut reader = FrameReader::new(FRAME_BYTES_MAX);
            let (mut got, mut rest, mut cuts) = (Vec::new(), stream.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                reader.push(piece);
                rest = later;
                while let Some(frame) = reader.take().expect("every length is right") {
                    got.push(frame.to_vec());
                }
            }
            prop_assert_eq!(got, bodies);
            prop_assert_eq!(reader.held(), 0);
        }

        /// Arbitrary bytes never panic, and never make the reader hold more than it was given.
        #[test]
        fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = FrameReader::new(100);
            reader.push(&bytes);
            while let Ok(Some(frame)) = reader.take() {
                prop_assert!((1..=100).contains(&frame.len()));
            }
            prop_assert!(reader.held() <= bytes.len());
        }
    }
}
