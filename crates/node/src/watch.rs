//! Waiting for a file descriptor of the packet path to have something to read.
#![allow(unsafe_code, reason = "tokio wants the promise that the descriptor stays the same")]

use std::io;
use std::os::fd::AsRawFd;

use baton_datapath::{Events, Hold};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::NodeError;

/// Something with a file descriptor, watched for reading.
#[derive(Debug)]
pub(crate) struct Watched<T: OneDescriptor>(AsyncFd<T>);

/// A type that has one descriptor for as long as it lives.
///
/// # Safety
/// `as_raw_fd` gives the same open descriptor until the value is dropped.
pub(crate) unsafe trait OneDescriptor: AsRawFd {}

// SAFETY: the device's file is opened when it is made and closed when it is dropped.
unsafe impl OneDescriptor for Hold {}
// SAFETY: the ring's epoll descriptor is opened when it is made and closed when it is dropped.
unsafe impl OneDescriptor for Events {}

impl<T: OneDescriptor> Watched<T> {
    pub(crate) fn new(source: T) -> Result<Self, NodeError> {
        // SAFETY: the descriptor stays the same and open until `source` is dropped (OneDescriptor), which is after
        // AsyncFd, its owner, has given up watching it.
        let watched = unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) };
        watched
            .map(Self)
            .map_err(|e| NodeError::System { what: "watching a file descriptor", source: e.into() })
    }

    pub(crate) fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Waits until there is something to read, as far as is known.
    pub(crate) async fn readable(&self) {
        match self.0.readable().await {
            Ok(mut guard) => guard.retain_ready(),
            Err(error) => {
                tracing::error!(%error, "a file descriptor cannot be watched any more");
                std::future::pending().await
            }
        }
    }

    /// Reads; an error of kind `WouldBlock` means that nothing is left, and `readable` waits again.
    pub(crate) fn try_read<R>(&self, read: impl FnOnce(&T) -> io::Result<R>) -> io::Result<R> {
        self.0.try_io(Interest::READABLE, read)
    }

    /// Says that everything will be read now: `readable` waits for what comes after this.
    pub(crate) fn clear(&self) {
        let _ = self.try_read(|_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}
