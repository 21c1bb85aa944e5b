//! Whether the node's stack has a socket for one client's connection, by sock_diag: one exact question, which the
//! kernel answers within the call. Only reads.

use std::io;
use std::net::SocketAddr;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE, TCP_LISTEN, TCP_TIME_WAIT,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;
use rtnetlink::sys::{Socket, SocketAddr as NetlinkAddr};

/// Any socket, whatever its cookie (linux/inet_diag.h: INET_DIAG_NOCOOKIE).
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// An answer has one socket, with a few hundred bytes of attributes at most.
const ANSWER_BYTES_MAX: usize = 8192;

/// How a connection's socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// In any state but those below.
    Live,
    /// The connection has ended; the socket waits for late packets.
    TimeWait,
}

/// Asks for sockets of the network namespace that it was made in.
#[derive(Debug)]
pub struct Sockets {
    netlink: Socket,
    asked: u32,
}

impl Sockets {
    /// # Errors
    /// The system's, when it gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        let mut netlink = Socket::new(NETLINK_SOCK_DIAG)?;
        netlink.bind_auto()?;
        netlink.connect(&NetlinkAddr::new(0, 0))?;
        netlink.set_non_blocking(true)?;
        Ok(Self { netlink, asked: 0 })
    }

    /// The state of the socket that `client` is connected to at `local`; `None` when there is none.
    ///
    /// # Errors
    /// The system's. Nothing is known then.
    pub fn find(&mut self, client: SocketAddr, local: SocketAddr) -> io::Result<Option<SocketState>> {
        self.asked = self.asked.wrapping_add(1);
        let request = InetRequest {
            family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_address: local.ip(),
                source_port: local.port(),
                destination_address: client.ip(),
                destination_port: client.port(),
                interface_id: 0,
                cookie: NO_COOKIE,
            },
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.asked;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.netlink.send(&bytes, 0)?;
        loop {
            let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
            self.netlink.recv(&mut answer, 0)?;
            let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
            if answer.header.sequence_number != self.asked {
                continue; // of an earlier question, which failed
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                    Ok(state_of(found.header.state))
                }
                NetlinkPayload::Error(error) => match error.to_io() {
                    error if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    error => Err(error),
                },
                other => Err(io::Error::other(format!("no answer of sock_diag: {other:?}"))),
            };
        }
    }
}

/// A listener is found, too, where there is no connection.
fn state_of(state: u8) -> Option<SocketState> {
    match state {
        TCP_LISTEN | TCP_CLOSE => None,
        TCP_TIME_WAIT => Some(SocketState::TimeWait),
        _ => Some(SocketState::Live),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_found_as_long_as_it_lives() {
        for (address, by) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            // A server that listens on all addresses of both families.
            ("[::]:0", "127.0.0.1"),
        ] {
            let listener = TcpListener::bind(address).expect("loopback");
            let port = listener.local_addr().expect("bound").port();
            let local = SocketAddr::new(by.parse().expect("an address"), port);
            let client = TcpStream::connect(local).expect("loopback");
            let from = client.local_addr().expect("connected");
            let (server, _) = listener.accept().expect("one");
            let mut sockets = Sockets::open().expect("netlink");
            assert_eq!(sockets.find(from, local).expect("asked"), Some(SocketState::Live), "{address}");
            let other = SocketAddr::new(from.ip(), from.port() ^ 1);
            assert_eq!(sockets.find(other, local).expect("asked"), None, "only the listener is there");
            // Whoever ends it first waits.
            drop(server);
            drop(client);
            assert_eq!(sockets.find(from, local).expect("asked"), Some(SocketState::TimeWait));
        }
    }

    #[test]
    fn where_nobody_listens_nothing_is_found() {
        let mut sockets = Sockets::open().expect("netlink");
        let client = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 1);
        let local = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 2);
        assert_eq!(sockets.find(client, local).expect("asked"), None);
        assert_eq!(sockets.find(client, local).expect("asked again"), None);
    }
}
