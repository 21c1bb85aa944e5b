//! TLS's way of writing lists: a length of one or two bytes, then so many bytes (RFC 8446 3.4). The one
//! place where lengths of a client are believed, and only within the bytes that are there.

use std::ops::RangeInclusive;

use crate::reason::HelloError;

/// Bytes that are still to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors<'a>(pub(crate) &'a [u8]);

impl<'a> Vectors<'a> {
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HelloError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, HelloError> {
        let (first, rest) = self.0.split_first().ok_or(HelloError::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, HelloError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(HelloError::Short)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*first))
    }

    /// `opaque x<a..b>` with a length of one byte.
    pub(crate) fn short(&mut self, allowed: RangeInclusive<usize>) -> Result<&'a [u8], HelloError> {
        let length = usize::from(self.u8()?);
        self.vector(length, allowed)
    }

    /// `opaque x<a..b>` with a length of two bytes.
    pub(crate) fn long(&mut self, allowed: RangeInclusive<usize>) -> Result<&'a [u8], HelloError> {
        let length = usize::from(self.u16()?);
        self.vector(length, allowed)
    }

    /// Refuses what is left.
    pub(crate) fn end(self) -> Result<(), HelloError> {
        if self.is_empty() { Ok(()) } else { Err(HelloError::LeftOver) }
    }

    fn vector(&mut self, length: usize, allowed: RangeInclusive<usize>) -> Result<&'a [u8], HelloError> {
        if allowed.contains(&length) { self.bytes(length) } else { Err(HelloError::Length) }
    }
}
