//! Real kernels as clients: with Multipath TCP, TCP Fast Open, and packets far longer than a wire's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use baton_testbed::{
    Connection, Content, Dial, DocRoot, Exchange, Figure, Framing, Host, Kind, Network, Testbed, WebServer,
    get,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::field::{Field, NODES, contents, play, two_pools};

/// What a BIG TCP packet may be long, bytes.
const BIG: u32 = 190_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests contents, the last one with `Connection: close`, and checks all that comes.
fn talk(mut stream: TcpStream, contents: &[&Content]) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    for (i, content) in contents.iter().enumerate() {
        stream.write_all(&get(content, i + 1 == contents.len())).expect("sent");
        let mut bytes = Vec::new();
        let body = |bytes: &[u8]| Some(bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4);
        while body(&bytes).is_none_or(|at| ((bytes.len() - at) as u64) < content.size()) {
            let mut piece = [0; 16_384];
            let read = stream.read(&mut piece).expect("more of the answer");
            assert!(read > 0, "closed early");
            bytes.extend_from_slice(&piece[..read]);
        }
        let head = String::from_utf8_lossy(&bytes);
        let node = NODES[usize::from(content.path().starts_with("/second/"))];
        assert!(head.starts_with("HTTP/1.1 200") && head.contains(&format!("X-Node: {node}")), "{head:.200}");
        assert!(content.is(&bytes[body(&bytes).unwrap_or_default()..]), "{}", content.path());
    }
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
}

fn stream_socket(field: &Field, protocol: Protocol) -> Socket {
    let socket = Socket::new(Domain::for_address(field.to), Type::STREAM, Some(protocol));
    socket.expect("this kernel has the protocol")
}

/// The kernel's own Multipath TCP: it asks, is refused, and goes on with plain TCP.
#[test]
fn a_kernels_multipath_tcp() {
    play(&[], |field| {
        let client = field.bed.client(0);
        let asked = client.kernel_counter("MPCapableSYNTX");
        let [first, second] = field.pages.clone();
        for _ in 0..4 {
            let socket = stream_socket(field, Protocol::MPTCP);
            socket.connect(&field.to.into()).expect("connected");
            talk(socket.into(), &[&first, &second, &first]);
        }
        assert_eq!(client.kernel_counter("MPCapableSYNTX") - asked, 4, "SYNs with MP_CAPABLE");
    });
}

/// The kernel's own TCP Fast Open, which sends its data with the SYN without having a cookie: the data is
/// not taken, and comes again.
#[test]
fn a_kernels_fast_open() {
    play(&[], |field| {
        let client = field.bed.client(0);
        client.sysctl("net.ipv4.tcp_fastopen", "5");
        let refused = client.kernel_counter("TCPFastOpenActiveFail");
        let [first, second] = field.pages.clone();
        let socket = stream_socket(field, Protocol::TCP);
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::TcpFastOpenConnect, &true)
            .expect("this kernel has TCP Fast Open");
        socket.connect(&field.to.into()).expect("not yet, but soon");
        talk(socket.into(), &[&first, &second, &first]);
        assert_eq!(client.kernel_counter("TCPFastOpenActiveFail") - refused, 1, "SYNs with data");
    });
}

fn offloads(host: &Host, interface: &str, which: &[&str]) {
    let on = which.iter().flat_map(|name| [*name, "on"]);
    host.run("ethtool", ["-K", interface].into_iter().chain(on));
}

/// Uploads and downloads of many megabytes, at first and after moves, whose first packets are super-segments
/// themselves; `prepare` says what the links are like, and `big` whether there may
/// be packets that cannot be wrapped, which routed nodes do. Returns how long packets were on average, bytes: to
/// the server of the upload, and to the client.
fn long_transfers(big: bool, prepare: impl FnOnce(&Testbed)) -> [u64; 2] {
    let bed = Testbed::builder().figure(Figure::Seven);
    let bed = if big {
        bed.unobserved("a router complains of packets with a jumbo header to the switch, which cannot tell whose they are")
    } else {
        bed
    };
    let bed = bed.build();
    prepare(&bed);
    let large = contents("long", 30_000_000);
    let cluster = Figure::Seven.start(&bed, WebServer::nginx_before_app, &DocRoot::shared(), &two_pools());
    let (client, server) = (bed.client(0), bed.node(2));
    assert_eq!(server.name(), NODES[0]);
    let upload = Exchange::new("upload", 20_000_000, Kind::Check(Framing::Length));
    let dial = Dial::new(cluster.service()).patience(PATIENCE);
    let sent = |connection: &mut Connection| {
        connection.send_request(&upload).expect("sent");
        assert_eq!(connection.response_to(&upload).expect("every byte").node(), NODES[0]);
    };
    // The upload is the first request; then it moves, twice.
    let mut connection = dial.open(client).expect("answered");
    let before = bed.port_of(server);
    sent(&mut connection);
    let up = bed.port_of(server) - before;
    let before = client.counters("eth0");
    assert_eq!(connection.fetch(&large[1]).expect("every byte").node(), NODES[1]);
    let down = client.counters("eth0") - before;
    // What this server is not to have makes its window as large as it gets.
    let refused = [
        &b"POST /second/none HTTP/1.1\r\nHost: testbed\r\nContent-Length: 8000000\r\n\r\n"[..],
        &vec![0; 8_000_000],
    ];
    refused.iter().for_each(|part| connection.send(part).expect("sent"));
    assert_eq!(connection.response().expect("refused").node(), NODES[1]);
    sent(&mut connection);
    assert_eq!(connection.fetch(&large[0]).expect("every byte").node(), NODES[0]);
    // One may go by way of the reader.
    assert!(cluster.counted("moved") + cluster.counted("reader_adopted") >= 2);
    for fault in ["fault_rewrite", "fault_map", "event_lost", "drop_malformed", "drop_checksum"] {
        assert_eq!(cluster.counted(fault), 0, "{fault}");
    }
    let too_big = cluster.counted("drop_too_big");
    assert_eq!(too_big > 0, big && bed.network().is_routed(), "{too_big} packets were too big");
    cluster.stop();
    [up.tx_bytes / up.tx_packets, down.rx_bytes / down.rx_packets]
}

/// Segmentation offload at both ends: what arrives at a node is many times as long as a frame.
#[test]
fn super_segments_both_ways() {
    let [up, down] = long_transfers(false, |_| {});
    assert!(up > 5000 && down > 5000, "packets of {up} bytes up, {down} bytes down: no super-segments");
}

/// Single frames are put together by the node that receives them (GRO).
#[test]
fn frames_that_the_receiver_puts_together() {
    let [_, down] = long_transfers(false, |bed| {
        for host in bed.nodes().iter().chain(bed.clients()) {
            host.run("ethtool", "-K eth0 tso off gso off".split(' '));
            offloads(host, "eth0", &["gro"]);
        }
    });
    assert!(down > 0);
}

/// The same sizes for IPv4, which `ip` only knows since its version 6.3: one message of rtnetlink.
fn set_ipv4_sizes(interface: &str) -> nix::Result<()> {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
    use std::os::fd::AsRawFd;
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_WITH_ACK: u16 = 1 | 4;
    const GSO_AND_GRO_IPV4_MAX_SIZE: [u16; 2] = [63, 64];
    let index = nix::net::if_::if_nametoindex(interface)?;
    // struct ifinfomsg; then attributes: length, type, value.
    let mut body = [&[0; 4][..], &index.to_ne_bytes(), &[0; 8]].concat();
    for attribute in GSO_AND_GRO_IPV4_MAX_SIZE {
        body.extend([8_u16.to_ne_bytes(), attribute.to_ne_bytes()].concat());
        body.extend(BIG.to_ne_bytes());
    }
    let length = 16 + body.len() as u32;
    let head =
        [&length.to_ne_bytes()[..], &RTM_NEWLINK.to_ne_bytes(), &REQUEST_WITH_ACK.to_ne_bytes(), &[0; 8]];
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    send(socket.as_raw_fd(), &[&head.concat()[..], &body].concat(), MsgFlags::empty())?;
    // Its answer: a head, and an error or 0.
    let mut answer = [0; 256];
    recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(nix::errno::Errno::from_raw(-error)),
    }
}

/// BIG TCP: packets longer than an IP header can say, over every link. (Between routed nodes they cannot be
/// wrapped: such a one is dropped and counted, and the client's kernel repeats it in parts.)
#[test]
fn big_tcp() {
    let [up, down] = long_transfers(true, |bed| {
        let all = |host: &Host, interface: &str| {
            for size in ["gso_max_size", "gro_max_size"] {
                host.ip(&format!("link set dev {interface} {size} {BIG}"));
            }
            host.inside(|| set_ipv4_sizes(interface)).expect("this kernel has BIG TCP for IPv4");
        };
        for host in bed.nodes().iter().chain(bed.clients()) {
            all(host, "eth0");
            all(bed.router(), &format!("to-{}", host.name()));
        }
        bed.node_ports().iter().for_each(|port| all(bed.router(), port));
    });
    assert!(up > 65_536 || Network::from_environment().is_routed(), "packets of {up} bytes: no BIG TCP");
    assert!(up > 5000 && down > 5000, "packets of {up} bytes up, {down} bytes down: no super-segments");
}
