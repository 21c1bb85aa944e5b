//! What a test-run cannot show, on a real stack: the programs attached to a TAP device whose other end
//! is the test, a real listener behind them, and packets written by hand. Needs root.

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use baton_cluster::Flow;
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CONFIRMED, FLAG_MOVED};
use baton_datapath::{Counter, Event, GuideKind, Hold, State};
use baton_packet_model::flag::{ACK, FIN, PSH, SYN};
use baton_packet_model::{Handoff, Parsed};
use common::frames::{CLIENT, MSS, SACK, VIP, WSCALE, checksums_are_right, flow, read, timestamps};
use common::world::{HANDOFF_PORT, OTHER, SELF, THIRD, WEB, address, keys};
use common::{Tcp, World, in_netns, ip};
use etherparse::{SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const DEADLINE: Duration = Duration::from_secs(5);

/// A node on one end of a TAP device.
struct Node {
    world: World,
    wire: Hold,
}

impl Node {
    fn new() -> Self {
        let wire = Hold::create("tap0").expect("a TAP device");
        ip(&["link", "set", "tap0", "address", "02:00:00:00:00:10"]);
        ip(&["address", "add", "10.1.0.10/24", "dev", "tap0"]);
        ip(&[
            "neighbour",
            "add",
            "10.1.0.1",
            "lladdr",
            "02:00:00:00:00:fe",
            "dev",
            "tap0",
            "nud",
            "permanent",
        ]);
        ip(&["route", "add", "default", "via", "10.1.0.1"]);
        let mut world = World::try_new("ds", &[], wire.index()).expect("the kernel takes the programs");
        world.programs.attach(wire.index()).expect("tcx");
        world.guide(WEB, GuideKind::Rota, &[SELF], 1);
        Self { world, wire }
    }

    fn send(&self, tcp: &Tcp) {
        self.wire.release(&tcp.frame()).expect("room in the device");
    }

    /// TCP packets that the node sends, until one satisfies the test or the deadline has passed.
    #[track_caller]
    fn hear(&self, what: &str, mut wanted: impl FnMut(&TcpHeader, &[u8]) -> bool) -> TcpHeader {
        let until = Instant::now() + DEADLINE;
        let mut buffer = [0; 2048];
        while Instant::now() < until {
            match self.wire.read(&mut buffer) {
                Ok(n) => {
                    let Ok(sliced) = SlicedPacket::from_ethernet(&buffer[..n]) else { continue };
                    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { continue };
                    assert_eq!(checksums_are_right(&buffer[..n]), Some(true));
                    let header = read(&buffer[..n]);
                    if wanted(&header, tcp.payload()) {
                        return header;
                    }
                    assert!(!header.rst, "waiting for {what}, the client was reset");
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) => panic!("the TAP device: {e}"),
            }
        }
        panic!("no {what}");
    }

    /// The next handoff packet that the node sends, and the frame in it.
    #[track_caller]
    fn hear_handoff(&self) -> (Handoff, Vec<u8>) {
        let until = Instant::now() + DEADLINE;
        let mut buffer = [0; 2048];
        while Instant::now() < until {
            match self.wire.read(&mut buffer) {
                Ok(n) => {
                    if matches!(self.world.model.parse(&buffer[..n]), Parsed::Other)
                        && Handoff::open(&buffer[..n]).is_some()
                    {
                        return self.world.open(&buffer[..n]);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) => panic!("the TAP device: {e}"),
            }
        }
        panic!("no handoff packet");
    }

    fn counted(&self, counter: Counter) -> u64 {
        self.world.programs.counter(counter).expect("counters")
    }
}

/// A client by hand.
struct Client {
    flow: Flow,
    seq: u32,
    ack: u32,
    tsval: u32,
    tsecr: u32,
}

impl Client {
    fn connect(node: &Node, flow: Flow, isn: u32, tsval: u32) -> Self {
        node.send(&Tcp::new(flow, SYN, isn, 0).options(&[MSS, SACK, &timestamps(tsval, 0), &[1], WSCALE]));
        let answer = node.hear("SYN-ACK", |tcp, _| tcp.syn && tcp.ack);
        let client = Self {
            flow,
            seq: isn.wrapping_add(1),
            ack: answer.sequence_number.wrapping_add(1),
            tsval,
            tsecr: clock_of(&answer),
        };
        node.send(&client.packet(ACK));
        client
    }

    fn packet(&self, flags: u8) -> Tcp {
        Tcp::new(self.flow, flags, self.seq, self.ack)
            .options(&[&[1, 1], &timestamps(self.tsval + 1, self.tsecr)])
    }

    fn request(&mut self, node: &Node) {
        self.ask(node, REQUEST);
    }

    fn ask(&mut self, node: &Node, request: &[u8]) {
        node.send(&self.packet(ACK | PSH).data(request));
        self.seq = self.seq.wrapping_add(request.len() as u32);
    }

    /// Takes the server's answer and acknowledges it.
    fn take_answer(&mut self, node: &Node) {
        let answer = node.hear("answer", |_, payload| payload == ANSWER);
        assert_eq!(answer.sequence_number, self.ack, "no gap behind the SYN-ACK");
        let clock = clock_of(&answer);
        assert!(clock.wrapping_sub(self.tsecr) as i32 >= 0, "the server's clock never runs backwards");
        self.tsecr = clock;
        self.ack = self.ack.wrapping_add(ANSWER.len() as u32);
        node.send(&self.packet(ACK));
    }
}

fn clock_of(tcp: &TcpHeader) -> u32 {
    tcp.options_iterator()
        .find_map(|o| match o {
            Ok(TcpOptionElement::Timestamp(tsval, _)) => Some(tsval),
            _ => None,
        })
        .expect("timestamps were agreed on")
}

fn listen() -> TcpListener {
    TcpListener::bind((VIP, 80)).expect("a namespace of our own")
}

/// The server's side: accepts, reads the request, answers.
#[track_caller]
fn serve(listener: &TcpListener, from: Flow) -> TcpStream {
    let (mut stream, peer) = accept(listener);
    assert_eq!(peer, SocketAddr::from((CLIENT, from.client_port)), "the client's own address");
    let mut request = [0; REQUEST.len()];
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.read_exact(&mut request).expect("the request");
    assert_eq!(request, REQUEST);
    stream.write_all(ANSWER).expect("room");
    stream
}

#[track_caller]
fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).expect("a socket");
    let until = Instant::now() + DEADLINE;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false).expect("a socket");
                return (stream, peer);
            }
            Err(_) if Instant::now() < until => std::thread::yield_now(),
            Err(e) => panic!("nothing to accept: {e}"),
        }
    }
}

#[test]
fn a_connection_is_adopted_served_and_closed() {
    in_netns(|| {
        let (node, listener, f) = (Node::new(), listen(), flow(40_000));
        let mut client = Client::connect(&node, f, 1000, 50);
        client.request(&node);
        let stream = serve(&listener, f);
        client.take_answer(&node);
        assert_eq!((node.counted(Counter::Adopted), node.counted(Counter::ServingEnded)), (1, 1));
        drop(stream);
        let fin = node.hear("FIN", |tcp, _| tcp.fin);
        client.ack = fin.sequence_number.wrapping_add(1);
        node.send(&client.packet(FIN | ACK));
        node.hear("last ACK", |tcp, _| tcp.ack && tcp.acknowledgment_number == client.seq.wrapping_add(1));
        assert_eq!((node.counted(Counter::Closed), node.counted(Counter::StaleSocketEnded)), (1, 0));
        assert_eq!(node.counted(Counter::BytesServed), ANSWER.len() as u64);
    });
}

const NEXT: &[u8] = b"GET /next HTTP/1.1\r\n\r\n";

#[test]
fn a_later_request_moves_the_connection_away() {
    in_netns(|| {
        let (mut node, listener, f) = (Node::new(), listen(), flow(40_000));
        let other = ["neighbour", "add", "10.1.0.11", "lladdr", "02:00:00:00:01:01", "dev", "tap0"];
        ip(&[&other[..], &["nud", "permanent"]].concat());
        node.world.guide(WEB, GuideKind::Cached { load_limit: 9 }, &[], 1);
        node.world.decide(WEB, REQUEST, &[SELF], 1);
        node.world.decide(WEB, NEXT, &[OTHER], 1);
        let mut client = Client::connect(&node, f, 1000, 50);
        client.request(&node);
        let mut stream = serve(&listener, f);
        client.take_answer(&node);
        client.request(&node);
        stream.read_exact(&mut [0; REQUEST.len()]).expect("what was decided for this node stays");
        stream.write_all(ANSWER).expect("room");
        client.take_answer(&node);

        let (seq, ack) = (client.seq, client.ack);
        client.ask(&node, NEXT);
        let (h, inner) = node.hear_handoff();
        let tcp = read(&inner);
        assert_eq!((h.start_seq, tcp.sequence_number, tcp.acknowledgment_number), (seq, seq, ack));
        assert!(inner.ends_with(NEXT) && h.cwnd >= 10, "{h:?}");
        let gone = stream.read(&mut [0; 1]).expect_err("ended by a RST that only this node saw");
        assert_eq!(gone.kind(), ErrorKind::ConnectionReset);
        assert_eq!((node.counted(Counter::Moved), node.counted(Counter::Closed)), (1, 1));
        assert_eq!(node.counted(Counter::ServingStarted), node.counted(Counter::ServingEnded));
    });
}

#[test]
fn a_connection_that_moved_here_goes_on_where_it_stood() {
    in_netns(|| {
        let (node, listener, f) = (Node::new(), listen(), flow(40_000));
        let mut client = Client { flow: f, seq: 5_000_000, ack: 7_000_000, tsval: 50, tsecr: 900 };
        let handoff = Handoff {
            hops: 0,
            options: 7,
            snd_wscale: 9,
            start_seq: client.seq,
            tsval: 950,
            issued: node.world.clock().cluster_ns,
            mss: 1460,
            distributor: 2,
            reserved: 0,
            rtt_ms: 50,
            cwnd: 20,
            flags: FLAG_MOVED as u16,
            replay_end: 0,
        };
        let request = client.packet(ACK | PSH).data(REQUEST).frame();
        let frame =
            handoff.wrap(&keys(), (&request, f, client.ack), address(OTHER), address(SELF), HANDOFF_PORT);
        node.wire.release(&frame.expect("whole")).expect("room in the device");
        client.seq = client.seq.wrapping_add(REQUEST.len() as u32);
        let mut stream = serve(&listener, f);
        client.take_answer(&node);
        let told = node.world.events.take();
        let bound = |e: &Event| matches!(e, Event::Bound { server: SELF, distributor: THIRD, .. });
        assert!(told.iter().any(bound), "the taker tells: {told:?}");
        client.request(&node);
        stream.read_exact(&mut [0; REQUEST.len()]).expect("the next request stays: the rota looks at none");
        assert_eq!(node.counted(Counter::MoveDoubt), 0);
    });
}

#[test]
fn a_port_used_again_meets_no_old_socket() {
    in_netns(|| {
        let (node, listener, f) = (Node::new(), listen(), flow(40_000));
        // In TIME_WAIT: the server had closed first.
        let mut client = Client::connect(&node, f, 1000, 50);
        client.request(&node);
        drop(serve(&listener, f));
        client.take_answer(&node);
        client.ack = client.ack.wrapping_add(1);
        node.send(&client.packet(FIN | ACK));
        let end = client.seq.wrapping_add(1);
        node.hear("last ACK", |tcp, _| tcp.ack && tcp.acknowledgment_number == end);

        let mut client = Client::connect(&node, f, 900_000, 5000);
        client.request(&node);
        let idle = serve(&listener, f);
        client.take_answer(&node);
        assert_eq!(node.counted(Counter::StaleSocketEnded), 1);

        // Still established: the client had gone without a word.
        let mut client = Client::connect(&node, f, 90_000_000, 9000);
        client.request(&node);
        let _open = serve(&listener, f);
        client.take_answer(&node);
        assert_eq!((node.counted(Counter::StaleSocketEnded), node.counted(Counter::Adopted)), (2, 3));
        let gone = (&idle).read(&mut [0; 1]).expect_err("ended by a RST that only this node saw");
        assert_eq!(gone.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_client_is_told_at_once_that_no_server_listens() {
    in_netns(|| {
        let (node, f) = (Node::new(), flow(40_000));
        let mut client = Client::connect(&node, f, 1000, 50);
        client.request(&node);
        let rst = node.hear("RST without payload", |tcp, payload| tcp.rst && payload.is_empty());
        assert_eq!(rst.sequence_number, client.ack, "acceptable to the client");
        assert_eq!(node.counted(Counter::ResetNoListener), 1);
        assert_eq!(node.counted(Counter::DropOvertakenReset), 0);
    });
}

#[test]
fn a_segment_that_overtakes_the_first_resets_nobody() {
    in_netns(|| {
        let (mut node, listener, f) = (Node::new(), listen(), flow(40_000));
        let client = Client::connect(&node, f, 1000, 50);
        // As after a handoff packet on another CPU: bound here, the socket not yet made.
        let mut b = node.world.programs.whole_binding(&f).expect("bindings").expect("open");
        b.state = State::Bound(SELF);
        b.since_ns = node.world.clock().kernel_ns;
        node.world.programs.set_whole_binding(&f, &b).expect("bindings");
        let (first, second) = REQUEST.split_at(5);
        let mut late = client.packet(ACK | PSH).data(second);
        late.seq = late.seq.wrapping_add(first.len() as u32);
        node.send(&late);
        assert_eq!(node.counted(Counter::DropEarlySegment), 1);
        assert_eq!(node.counted(Counter::DropOvertakenReset), 0, "nor has the stack heard of it");
        node.send(&client.packet(ACK | PSH).data(first));
        node.send(&late);
        let _stream = serve(&listener, f);
        let _ = node.hear("answer", |_, payload| payload == ANSWER);
        node.world.flows.clear();
    });
}

/// A frame with a VLAN tag in front of its type.
fn tagged(tcp: &Tcp, tag: u16) -> Vec<u8> {
    let frame = tcp.frame();
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x81, 0], &tag.to_be_bytes(), rest].concat()
}

/// What is tagged belongs to a VLAN that this interface is not in; tag 0 says a priority alone (IEEE
/// 802.1Q), and what is answered has none.
#[test]
fn frames_of_a_vlan_pass_by_and_priorities_do_not_matter() {
    in_netns(|| {
        let (node, _listener) = (Node::new(), listen());
        let syn = |port| Tcp::new(flow(port), SYN, 1000, 0).options(&[MSS, SACK, WSCALE]);
        for (port, tag) in [(40_001, 100), (40_002, 4095), (40_003, 5 << 13 | 1)] {
            node.wire.release(&tagged(&syn(port), tag)).expect("room in the device");
            assert_eq!(node.counted(Counter::SynAnswered), 0, "tag {tag:#x}");
        }
        for (n, tag) in [(1, 0), (2, 5 << 13)] {
            let port = 41_000 + n;
            node.wire.release(&tagged(&syn(port), tag)).expect("room in the device");
            let answer = node.hear("SYN-ACK", |tcp, _| tcp.syn && tcp.ack && tcp.destination_port == port);
            assert_eq!(answer.acknowledgment_number, 1001);
            assert_eq!(node.counted(Counter::SynAnswered), u64::from(n), "tag {tag:#x}");
        }
        // Two tags: a priority, and a VLAN in it.
        let mut both = tagged(&syn(42_000), 100);
        both.splice(12..12, [0x81, 0, 0xa0, 0]);
        node.wire.release(&both).expect("room in the device");
        assert_eq!(node.counted(Counter::SynAnswered), 2);
    });
}

/// A firewall of the server's node refuses a client by a RST: each repetition of the request is adopted anew,
/// and yet the client hears of it.
#[test]
fn a_connection_that_the_stack_refuses_is_reset_in_the_end() {
    in_netns(|| {
        let (node, _listener, f) = (Node::new(), listen(), flow(40_000));
        nft("add table inet t; add chain inet t in { type filter hook input priority 0; }; \
             add rule inet t in tcp dport 80 reject with tcp reset");
        let client = Client::connect(&node, f, 1000, 50);
        let request = client.packet(ACK | PSH).data(REQUEST);
        let begun = Instant::now();
        let until = begun + DEADLINE;
        let mut buffer = [0; 2048];
        let reset = loop {
            node.send(&request);
            std::thread::sleep(Duration::from_millis(200));
            let heard = std::iter::from_fn(|| node.wire.read(&mut buffer).ok().map(|n| buffer[..n].to_vec()));
            let is_rst = |frame: Vec<u8>| frame.get(23) == Some(&6) && read(&frame).rst;
            if heard.into_iter().any(is_rst) {
                break begun.elapsed();
            }
            assert!(Instant::now() < until, "adopted {} times", node.counted(Counter::Adopted));
        };
        // The first may answer a packet that overtook the adopting one; what is repeated nothing overtakes.
        assert_eq!((node.counted(Counter::Adopted), node.counted(Counter::DropOvertakenReset)), (2, 1));
        assert!(reset > Duration::from_millis(150), "{reset:?}");
    });
}

/// A socket of an earlier connection that does not end for a while: later there is another try.
#[test]
fn a_stale_socket_that_did_not_end_is_tried_again_later() {
    in_netns(|| {
        let (node, listener, f) = (Node::new(), listen(), flow(40_000));
        // A RST does not end TIME_WAIT (RFC 1337).
        std::fs::write("/proc/sys/net/ipv4/tcp_rfc1337", "1").expect("of this namespace");
        let mut client = Client::connect(&node, f, 1000, 50);
        client.request(&node);
        drop(serve(&listener, f));
        client.take_answer(&node);
        client.ack = client.ack.wrapping_add(1);
        node.send(&client.packet(FIN | ACK));
        let end = client.seq.wrapping_add(1);
        node.hear("last ACK", |tcp, _| tcp.ack && tcp.acknowledgment_number == end);

        let client = Client::connect(&node, f, 900_000, 5000);
        let request = client.packet(ACK | PSH).data(REQUEST);
        for _ in 0..6 {
            node.send(&request);
        }
        assert!(node.counted(Counter::DropStaleSocket) > 0, "not for ever");
        std::fs::write("/proc/sys/net/ipv4/tcp_rfc1337", "0").expect("of this namespace");
        node.send(&request);
        assert_eq!(node.counted(Counter::Adopted), 1, "not at once");
        let mut b = node.world.programs.whole_binding(&f).expect("bindings").expect("bound");
        b.since_ns -= 3_001_000_000;
        node.world.programs.set_whole_binding(&f, &b).expect("bindings");
        node.send(&request);
        let _stream = serve(&listener, f);
        assert_eq!(node.counted(Counter::Adopted), 2);
    });
}

fn nft(rules: &str) {
    let done = std::process::Command::new("nft").arg(rules).status().expect("nftables is installed");
    assert!(done.success(), "nft {rules}");
}

#[test]
fn a_half_closed_connection_is_not_taken_for_a_stale_one() {
    in_netns(|| {
        let (node, listener, f) = (Node::new(), listen(), flow(40_000));
        let client = Client::connect(&node, f, 1000, 50);
        let request = client.packet(ACK | PSH).data(REQUEST);
        node.send(&request);
        let (_stream, _) = accept(&listener);
        let mut fin = client.packet(FIN | ACK);
        fin.seq = fin.seq.wrapping_add(REQUEST.len() as u32);
        node.send(&fin);
        node.hear("ACK of the FIN", |tcp, _| tcp.acknowledgment_number == fin.seq.wrapping_add(1));
        // As if the server's ACK had not been seen yet.
        let mut b = node.world.programs.whole_binding(&f).expect("bindings").expect("bound");
        assert!(b.has(FLAG_ADOPTED));
        b.flags &= !FLAG_CONFIRMED;
        node.world.programs.set_whole_binding(&f, &b).expect("bindings");
        node.send(&request);
        assert_eq!(node.counted(Counter::StaleSocketEnded), 0);
        assert_eq!(node.counted(Counter::AdoptAgain), 1);
    });
}
