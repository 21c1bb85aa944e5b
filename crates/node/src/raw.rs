//! IP packets that a node sends in a service's name: resets, and word that a packet was too big.

use std::net::SocketAddr;

use baton_cluster::Flow;
use baton_datapath::constants::MARK_ANSWER;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Sends a whole IP packet to a client. The mark tells the egress program that the packet is our own.
pub(crate) fn send(packet: &[u8], flow: &Flow) -> std::io::Result<()> {
    let (domain, to) =
        (Domain::for_address(SocketAddr::new(flow.client, 0)), SocketAddr::new(flow.client, 0));
    // IPPROTO_RAW: the packet brings its own IP header (raw(7)).
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255)))?;
    socket.set_mark(MARK_ANSWER)?;
    socket.send_to(packet, &SockAddr::from(to)).map(drop)
}
