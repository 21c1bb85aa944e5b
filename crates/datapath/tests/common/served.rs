//! A connection that the node serves, with a real socket: made over loopback, where the programs are not
//! attached, so that they can be run on its packets one by one.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use baton_cluster::Flow;
use baton_datapath::State;
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CONFIRMED};
use baton_packet_model::flag::{ACK, PSH};
use baton_packet_model::{Binding, Established, Reach, Socket as KernelSocket, Verdict};
use etherparse::{SlicedPacket, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};

use super::client::case;
use super::frames::{CLIENT, VIP, timestamps};
use super::world::{SELF, THIRD};
use super::{Tcp, World, ip};

/// Its first request, and the answer to that.
pub const FIRST: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
const DEADLINE: Duration = Duration::from_secs(5);
const ETH_P_ALL: u16 = 3;

/// Lets the client be in this namespace, too. A RST that the programs make comes with its address.
pub fn client_here() {
    ip(&["address", "add", "10.2.0.2/32", "dev", "lo"]);
    std::fs::write("/proc/sys/net/ipv4/conf/lo/accept_local", "1").expect("a namespace of our own");
}

/// A connection of which one request has been asked and answered, in the stack and in the programs.
pub struct Served {
    pub flow: Flow,
    pub client: TcpStream,
    pub server: TcpStream,
    /// The client's next byte, and the server's.
    pub seq: u32,
    pub ack: u32,
}

impl Served {
    pub fn new(world: &mut World, flow: Flow) -> Self {
        let listener = TcpListener::bind((VIP, flow.vip_port)).expect("a namespace of our own");
        let wire = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ALL.to_be()))));
        let mut wire = wire.expect("a packet socket");
        wire.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        client.bind(&SocketAddr::from((CLIENT, flow.client_port)).into()).expect("a free port");
        client.connect(&SocketAddr::from((VIP, flow.vip_port)).into()).expect("somebody listens");
        let (server, _) = listener.accept().expect("a connection");
        let (seq, ack) = first_bytes(&mut wire);
        let mut served = Self { flow, client: client.into(), server, seq, ack };
        served.client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        served.server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        world.bind(flow, served.binding(world));
        world.follow(flow, seq, ack);
        served.ask_and_answer(world);
        served
    }

    fn binding(&self, world: &World) -> Binding {
        let now = world.clock();
        Binding {
            seen_ns: now.kernel_ns,
            since_ns: now.kernel_ns,
            issued: now.cluster_ns,
            flags: FLAG_ADOPTED | FLAG_CONFIRMED,
            start_ack: self.ack,
            snd_end: self.ack,
            mss: 1460,
            options: 7,
            distributor: THIRD.0,
            ..Binding::unknown(self.seq, State::Bound(SELF))
        }
    }

    /// What the stack carries the programs see, too: they are not on its way.
    fn ask_and_answer(&mut self, world: &mut World) {
        let service = &world.model.tables.services[&(VIP, self.flow.vip_port)];
        let counted = ["owned", "serving_started", "move_decided_here"];
        let counted = if service.follows { &counted[..] } else { &counted[..2] };
        case(world, "the first request", &self.sends(FIRST).frame(), Verdict::Stack, counted);
        self.client.write_all(FIRST).expect("room");
        let mut got = [0; FIRST.len()];
        self.server.read_exact(&mut got).expect("the request");
        self.seq = self.seq.wrapping_add(FIRST.len() as u32);
        let mut answer = self.sends(ANSWER);
        (answer.back, answer.seq, answer.ack) = (true, self.ack, self.seq);
        world.egress(&answer.frame());
        self.server.write_all(ANSWER).expect("room");
        let mut got = [0; ANSWER.len()];
        self.client.read_exact(&mut got).expect("the answer");
        self.ack = self.ack.wrapping_add(ANSWER.len() as u32);
    }

    /// The next request, as a frame to the loopback device: what the programs give to the stack arrives.
    pub fn asks(&self, payload: &[u8]) -> Vec<u8> {
        self.sends(payload).frame()
    }

    pub fn sends(&self, payload: &[u8]) -> Tcp {
        let stamps = timestamps(10, 20);
        Tcp::new(self.flow, ACK | PSH, self.seq, self.ack).options(&[&[1, 1], &stamps]).data(payload)
    }

    /// Tells the model of the socket: what `ss` says, and what the test knows.
    pub fn describe(&self, world: &mut World, written: usize, received: usize, out_of_order: bool) {
        let port = format!(":{}", self.flow.vip_port);
        let said = Command::new("ss").args(["-tinH", "sport", "=", &port]).output();
        let said = String::from_utf8(said.expect("iproute2 is installed").stdout).expect("text");
        let value = |name: &str| -> f64 {
            let field = said.split_whitespace().find_map(|field| field.strip_prefix(name));
            field
                .and_then(|v| v.split('/').next()?.parse().ok())
                .unwrap_or_else(|| panic!("{name} in {said}"))
        };
        let sent = self.ack.wrapping_add(written as u32);
        let established = Established {
            write_seq: sent,
            snd_nxt: sent,
            out_of_order,
            cwnd: value("cwnd:") as u32,
            rtt_ms: value("rtt:") as u32,
        };
        let start_seq = Some(world.model.tables.bindings[&self.flow].start_seq);
        let rcv_nxt = self.seq.wrapping_add(received as u32);
        // Windows are what Linux begins with, about: no test goes to the edge.
        let reach = Reach { window: 60_000, snd_una: sent, snd_nxt: sent, max_window: 60_000 };
        let (reach, established) = (Some(reach), Some(established));
        let socket = KernelSocket { start_seq, rcv_nxt, reach, established };
        world.model.stack.sockets.insert(self.flow, socket);
    }

    /// The server's side has been ended without a word to the client.
    pub fn is_reset(&mut self) -> bool {
        matches!(self.server.read(&mut [0; 1]), Err(e) if e.kind() == ErrorKind::ConnectionReset)
    }

    /// The connection still carries bytes to the server.
    #[track_caller]
    pub fn is_alive(&mut self) {
        self.client.write_all(b"x").expect("room");
        assert_eq!(self.server.read(&mut [0; 1]).expect("not reset"), 1);
    }
}

/// The first data bytes of both sides, from the SYN-ACK.
fn first_bytes(wire: &mut Socket) -> (u32, u32) {
    let (mut buffer, until) = ([0; 2048], Instant::now() + DEADLINE);
    while Instant::now() < until {
        let n = wire.read(&mut buffer).expect("a frame");
        let Ok(sliced) = SlicedPacket::from_ethernet(&buffer[..n]) else { continue };
        if let Some(TransportSlice::Tcp(tcp)) = sliced.transport
            && tcp.syn()
            && tcp.ack()
        {
            return (tcp.acknowledgment_number(), tcp.sequence_number().wrapping_add(1));
        }
    }
    panic!("no SYN-ACK");
}
