//! The end of a connection at the reader: everything it has received is taken out of its socket, and the
//! socket is closed without the client hearing of it.

use std::io::{self, Read};
use std::time::Duration;

use baton_core::{Head, TakenBytes};
use baton_datapath::{Datapath, DatapathError};
use socket2::SockRef;
use tokio::net::TcpStream;

/// Freezes the connection, takes everything, closes. `None` when there is nothing to hand off any more: the
/// client has reset the connection, or begun another one from the same port.
///
/// Nothing that the client knows to be acknowledged is missing: an ACK leaves through the egress program,
/// which drops it once the connection is frozen; so any ACK that the client gets was sent before, and TCP
/// puts data into the receive queue before it acknowledges them, under the lock that reading takes. What
/// arrives after the freeze goes to the hold device, behind the replay; what the ingress program let pass
/// just before, but TCP takes after our last read, was never acknowledged as far as the client can tell,
/// and is repeated. Data beyond a gap may have been acknowledged selectively; that binds nobody
/// (RFC 2018 8), and the client keeps them.
///
/// With a linger time of zero closing sends a RST, which egress drops, and leaves no TIME_WAIT.
pub(crate) fn take(
    head: Head<TcpStream>,
    start_seq: u32,
    datapath: &Datapath,
) -> Result<Option<TakenBytes>, DatapathError> {
    let Head { stream, flow, mut bytes, .. } = head;
    // Tokio may not know yet that there is something to read; the system does.
    let Ok(mut stream) = stream.into_std() else { return Ok(None) };
    if !datapath.freeze(&flow, start_seq)? {
        return Ok(None);
    }
    let mut piece = vec![0; 64 * 1024];
    let fin = loop {
        match stream.read(&mut piece) {
            Ok(0) => break true,
            Ok(length) => bytes.extend_from_slice(piece.get(..length).unwrap_or(&[])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(None),
        }
    };
    if let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, %flow, "the reader's socket stays until its client is silent");
    }
    drop(stream);
    Ok(Some(TakenBytes { bytes, fin }))
}
