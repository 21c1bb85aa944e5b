//! Who listens: TCP listeners by sock_diag, with whether they speak MPTCP, and the UDP ports in use.
//! Only reads.

use std::fs;
use std::net::SocketAddr;

use futures::StreamExt;
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _, NlasIterator,
};
use rtnetlink::proto;
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use crate::facts::Listener;

/// Every TCP listener of the thread's network namespace; or, for people, why they cannot be seen.
pub(crate) async fn listeners() -> Result<Vec<Listener>, String> {
    let (connection, handle, _) =
        proto::new_connection::<SockDiagMessage>(NETLINK_SOCK_DIAG).map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let mut found = Vec::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            // Only with this does the kernel tell the upper-layer protocol.
            extensions: ExtensionFlags::INFO,
            states: StateFlags::LISTEN,
            socket_id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        let mut answers =
            handle.request(message, proto::sys::SocketAddr::new(0, 0)).map_err(|error| error.to_string())?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(listener(&response));
                }
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_string()),
                _ => {}
            }
        }
    }
    Ok(found)
}

fn listener(response: &InetResponse) -> Listener {
    let id = &response.header.socket_id;
    Listener {
        address: SocketAddr::new(id.source_address, id.source_port),
        only_v6: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
        mptcp: response.nlas.iter().any(is_mptcp),
        waiting: response.header.recv_queue,
    }
}

/// The TCP half of an MPTCP socket carries an upper-layer protocol of that name (linux/inet_diag.h:
/// INET_DIAG_ULP_INFO holds INET_ULP_INFO_NAME, a string ending in NUL).
fn is_mptcp(nla: &Nla) -> bool {
    const INET_DIAG_ULP_INFO: u16 = 19;
    const INET_ULP_INFO_NAME: u16 = 1;
    let Nla::Other(info) = nla else { return false };
    if info.kind() != INET_DIAG_ULP_INFO {
        return false;
    }
    let mut bytes = vec![0; info.value_len()];
    info.emit_value(&mut bytes);
    NlasIterator::new(&bytes)
        .filter_map(Result::ok)
        .any(|inner| inner.kind() == INET_ULP_INFO_NAME && inner.value().starts_with(b"mptcp\0"))
}

/// The UDP ports that some program of the thread's network namespace receives on.
pub(crate) fn udp_ports() -> Vec<u16> {
    // /proc/net is the namespace of the process's first thread; thread-self is this thread's.
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| parse_udp(&text))
        .collect()
}

fn parse_udp(table: &str) -> Vec<u16> {
    let port = |line: &str| {
        let local = line.split_whitespace().nth(1)?;
        u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
    };
    table.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_ports_are_hexadecimal() {
        let table = "  sl  local_address rem_address   st\n\
            \x20 1: 00000000:17CA 00000000:0000 07 00000000:00000000\n\
            \x20 2: 0100007F:0035 00000000:0000 07\n\
            broken\n";
        assert_eq!(parse_udp(table), [6090, 53]);
    }
}
