//! IP packets that a node sends in a service's name: resets, what came behind a gap, and word that a
//! packet was too big.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use baton_cluster::Flow;
use baton_control::Pace;
use baton_datapath::constants::MARK_ANSWER;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What sends them, opened when it is needed first.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl Raw {
    /// Sends a whole IP packet to a client.
    pub(crate) fn send(&mut self, packet: &[u8], flow: &Flow) -> std::io::Result<()> {
        let kept = match flow.client {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        };
        let socket = match kept {
            Some(socket) => socket,
            None => kept.insert(open(flow.client)?),
        };
        socket.send_to(packet, &SockAddr::from(SocketAddr::new(flow.client, 0))).map(drop)
    }
}

/// The mark tells the egress program that a packet is our own.
fn open(client: IpAddr) -> std::io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(client, 0));
    // IPPROTO_RAW: the packet brings its own IP header (raw(7)).
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255)))?;
    socket.set_mark(MARK_ANSWER)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Word to clients that their packets are too big. Clients cause it, so there is a limit, as Linux has one for its own
/// (`icmp_msgs_per_sec`); a client that is not told repeats its packet, and is told then.
#[derive(Debug)]
pub(crate) struct TooBig {
    pace: Pace,
}

impl TooBig {
    /// Linux's default is 1000 at a burst of 50, for all that a host says.
    const A_SECOND: u32 = 500;
    const AT_ONCE: u32 = 50;

    pub(crate) fn new() -> Self {
        Self { pace: Pace::new(Self::A_SECOND, Self::AT_ONCE) }
    }

    /// Tells a client how large its packets may be, if that is not said too often. `now` is by any clock.
    pub(crate) fn tell(
        &mut self,
        flow: &Flow,
        seq: u32,
        mtu: u16,
        raw: &mut Raw,
        now: Duration,
    ) -> std::io::Result<()> {
        let Some(packet) = baton_datapath::too_big(flow, seq, mtu) else { return Ok(()) };
        if !self.pace.allows(now) {
            return Ok(());
        }
        raw.send(&packet, flow)
    }

    /// How often nothing was said for that reason.
    pub(crate) fn held_back(&self) -> u64 {
        self.pace.held_back()
    }
}
