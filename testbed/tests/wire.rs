//! What is on the wire between nodes, and what routers say on the way: read by tshark, of mixed families,
//! over paths of any MTU; ICMP for a VIP reaches the node that it is for.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use baton_testbed::{
    Capture, Cluster, Content, Dial, DocRoot, Exchange, Family, Figure, Frames, Framing, Host, Kind, Layout,
    Network, Process, Tcp, Testbed, WebServer, counted, get, icmp_packet, ip_header, set_header_checksum,
    tcp_packet, wait_until,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);
/// What wrapping adds between nodes of a family: IP, UDP, Geneve and its option.
fn wrapping(nodes: Family) -> u16 {
    8 + 8 + 48 + if nodes == Family::Ipv4 { 20 } else { 40 }
}

/// All networks, and of those with mixed families one for each layout.
fn networks() -> Vec<Network> {
    let mixed = [Network::IPV4.with_vips(Family::Ipv6), Network::IPV6_ROUTED.with_vips(Family::Ipv4)];
    [&Network::ALL[..], &mixed].concat()
}

/// A cluster of figure 5, whose connections are all handed off to another node, by single frames.
struct Place<'a> {
    bed: &'a Testbed,
    cluster: &'a Cluster<'a>,
    /// Thirty thousand bytes.
    page: Content,
}

fn everywhere(work: impl Fn(&Place<'_>)) {
    for network in networks() {
        println!("{network}");
        let bed = Testbed::builder().figure(Figure::Five).without_offloads().network(network);
        let bed = bed.unobserved("packets are made by hand, broken ones among them").build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 30_000));
        files.add(&page);
        let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "");
        work(&Place { bed: &bed, cluster: &cluster, page });
        for what in ["fault_rewrite", "fault_map", "event_lost"] {
            assert_eq!(cluster.counted(what), 0, "{network}: {what}");
        }
        cluster.stop();
    }
}

/// One cluster for each network, for all that is done to it by hand.
#[test]
fn packets_by_hand_and_read_by_others() {
    everywhere(|place| {
        tshark_reads_what_nodes_send(place);
        too_large_a_packet_is_answered(place);
        other_icmp_for_a_vip(place);
        fragments_and_odd_headers_are_refused(place);
        if place.bed.network().vips == Family::Ipv6 {
            flow_labels_are_kept(place);
        }
    });
}

/// Everything between nodes, in whole, in a file.
struct Sniffer<'a> {
    place: &'a Host,
    tcpdump: Process,
    file: PathBuf,
}

impl<'a> Sniffer<'a> {
    fn start(place: &'a Host, interface: &str) -> Self {
        let file = place.scratch().path().join("wire.pcap");
        let mut command = place.command("tcpdump");
        command.args([
            "-i",
            interface,
            "-n",
            "-s",
            "0",
            "-B",
            "16384",
            "--immediate-mode",
            "-U",
            "-Z",
            "root",
        ]);
        command.arg("-w").arg(&file).args(["udp", "port", "6081"]);
        let mut tcpdump = place.start("sniffer", command);
        let log = tcpdump.log().to_owned();
        tcpdump
            .wait_ready(SOON, || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("listening on")));
        Self { place, tcpdump, file }
    }

    /// The fields of all packets that tshark's filter takes, a line each.
    fn dissect(&self, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
        // UDP over IPv6 without checksum is what RFC 6935 allows tunnels.
        let mut args = vec!["-n", "-o", "udp.ignore_ipv6_zero_checksum:TRUE", "-T", "fields", "-r"];
        let file = self.file.display().to_string();
        args.extend([file.as_str(), "-Y", filter]);
        fields.iter().for_each(|field| args.extend(["-e", field]));
        let lines = self.place.run("tshark", args);
        lines.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }

    /// Waits until as many packets as this are in the file.
    fn wait_for(&self, bytes: u64) {
        wait_until(SOON, "packets in the file", || {
            std::fs::metadata(&self.file).is_ok_and(|f| f.len() > bytes)
        });
    }

    fn end(&mut self) {
        self.tcpdump.signal(Signal::SIGINT);
        self.tcpdump.wait(SOON);
    }
}

/// tshark knows a handoff packet, and one that is forwarded in a routed cluster, for what it is: Geneve with
/// one critical option of ours, and the client's packet inside; and has nothing to complain of.
fn tshark_reads_what_nodes_send(place: &Place<'_>) {
    let Place { bed, cluster, page } = place;
    let network = bed.network();
    let mut sniffer = Sniffer::start(bed.router(), "to-a");
    for _ in 0..3 {
        let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
        connection.fetch(page).expect("the page");
        connection.fetch_last(page).expect("the page");
    }
    wait_until(SOON, "all closed", || cluster.counted("closed") == 3);
    sniffer.wait_for(3 * 200);
    sniffer.end();
    let fields = [
        "geneve.option.class",
        "geneve.option.type",
        "geneve.option.length",
        "geneve.proto_type",
        "tcp.dstport",
        "http.request.method",
    ];
    let all = sniffer.dissect("geneve && tcp", &fields);
    let proto = if network.vips == Family::Ipv4 { "0x0800" } else { "0x86dd" };
    for packet in &all {
        assert_eq!(&packet[..2], ["0xfff0", "0x81"], "{network}: {packet:?}");
        assert!(packet[2].split(',').all(|length| length == "48"), "{network}: {packet:?}");
        assert_eq!(&packet[3..5], [proto, "80"], "{network}: {packet:?}");
    }
    // Three handoffs; what follows them is wrapped where it has to be.
    let requests = all.iter().filter(|packet| packet[5] == "GET").count();
    assert!(requests >= 3, "{network}: {requests} of {}", all.len());
    let wraps = network.is_routed() || network.vips != network.nodes;
    assert_eq!(all.len() > 6, wraps, "{network}: {} packets", all.len());
    let others = sniffer
        .dissect("udp.port == 6081 && !(geneve && tcp) && !(geneve.flags.oam == 1)", &["frame.number"]);
    assert!(others.is_empty(), "{network}: {others:?}");
    let odd = "_ws.malformed || _ws.expert.severity == error || _ws.expert.severity == warning";
    let mut odd = sniffer.dissect(odd, &["frame.number", "_ws.expert.message", "_ws.malformed"]);
    // A client that is not answered at once repeats its last segment; then it came twice (RFC 2883).
    odd.retain(|packet| packet[1..] != ["D-SACK Sequence", ""]);
    assert!(odd.is_empty(), "{network}: {odd:?}");
}

/// One service with a VIP of each family, over nodes of either, in both layouts; connections are moved for
/// their later requests.
#[test]
fn a_service_of_both_families() {
    const POOLS: &str = "[[service.pool]]\nname = \"first\"\nservers = [\"c\"]\npolicy = \"lard\"\n\
        [[service.pool]]\nname = \"second\"\nservers = [\"d\"]\npolicy = \"lard\"\n\
        [[service.route]]\npool = \"second\"\npath = \"/second/\"\n";
    for network in Network::ALL {
        let figures = if network.is_routed() { &[Figure::Seven][..] } else { &[Figure::Five, Figure::Seven] };
        for figure in figures.iter().copied() {
            let bed = Testbed::builder().figure(figure).network(network).build();
            let files = DocRoot::shared();
            let pages = ["first/a", "second/b"].map(|name| Content::new(name, 50_000));
            pages.iter().for_each(|page| drop(files.add(page)));
            let vips = Family::ALL.map(|family| network.with_vips(family).vip(0));
            let one = format!("vips = [\"{}\"]", bed.vip(0));
            let text = figure.config(&bed, POOLS);
            assert!(text.contains(&one), "{text}");
            let text = text.replace(&one, &format!("vips = [\"{}\", \"{}\"]", vips[0], vips[1]));
            for vip in vips {
                match network.layout {
                    Layout::OneLink | Layout::Flooded => bed.vip_on_link(vip),
                    Layout::Routed => bed.route_vip(vip, bed.node(0)),
                }
            }
            let cluster = figure.start_with(&bed, WebServer::nginx, &files, &text);
            let mut moved = 0;
            for vip in vips {
                let mut connection = Dial::new((vip, 80)).open(bed.client(0)).expect("answered");
                for round in 0..6 {
                    let page = &pages[round % 2];
                    let response = connection.fetch(page);
                    let response = response.unwrap_or_else(|e| panic!("{network} {figure:?} {vip}: {e}"));
                    assert_eq!(response.node(), ["c", "d"][round % 2]);
                }
                moved += 5;
            }
            assert_eq!(cluster.counted("moved"), moved, "{network} {figure:?}");
            for what in ["fault_rewrite", "fault_map", "drop_too_big"] {
                assert_eq!(cluster.counted(what), 0, "{network} {figure:?}: {what}");
            }
            cluster.stop();
        }
    }
}

/// Five megabytes each way, with a server that takes uploads.
fn transfers(bed: &Testbed, cluster: &Cluster<'_>, download: &Content) {
    let upload = Exchange::new("up", download.size(), Kind::Check(Framing::Length));
    let mut connection = Dial::new(cluster.service()).patience(LONG).open(bed.client(0)).expect("answered");
    connection.send_request(&upload).expect("all sent");
    connection.response_to(&upload).expect("all arrived");
    connection.fetch(download).expect("all came back");
}

/// Where wrapped packets go through links with a smaller MTU, which only the router in between may know of,
/// clients are told by the SYN-ACK what fits, and nothing is too big.
#[test]
fn the_offered_mss_fits_the_path() {
    for network in [Network::IPV4_ROUTED, Network::IPV6_ROUTED] {
        for nodes_know in [true, false] {
            let builder = Testbed::builder().figure(Figure::Five).network(network);
            let bed = if nodes_know { builder.node_mtu(1400) } else { builder }.build();
            if !nodes_know {
                for (node, port) in bed.nodes().iter().zip(bed.node_ports()) {
                    bed.router().ip(&format!("route replace {} dev {port} mtu lock 1400", node.address()));
                }
            }
            let (files, download) = (DocRoot::shared(), Content::new("down", 5_000_000));
            files.add(&download);
            let cluster = Figure::Five.start(&bed, WebServer::node, &files, "");
            let fits = 1400 - wrapping(network.nodes) - network.vips.headers();
            let offered = || {
                let capture = Capture::start(bed.client(0), 80);
                drop(Dial::new(cluster.service()).open(bed.client(0)).expect("answered"));
                let seen = capture.stop();
                seen.flows[0].syn_ack.and_then(|options| options.mss).expect("an MSS")
            };
            let what = format!("an MSS of {fits} over {network}, known to the nodes: {nodes_know}");
            wait_until(SOON, &what, || offered() == fits);
            let before = cluster.counted("drop_too_big");
            transfers(&bed, &cluster, &download);
            assert_eq!(cluster.counted("drop_too_big"), before, "{what}");
            cluster.stop();
        }
    }
}

/// A client made by hand, at an address that its machine does not have: no stack answers in its place.
struct Raw<'a> {
    frames: Frames,
    router: [u8; 6],
    me: SocketAddr,
    service: SocketAddr,
    seq: u32,
    ack: u32,
    cluster: &'a Cluster<'a>,
}

impl<'a> Raw<'a> {
    fn new(bed: &Testbed, cluster: &'a Cluster<'a>, port: u16) -> Self {
        let address = match bed.client(0).address() {
            IpAddr::V4(own) => IpAddr::from([own.octets()[0], own.octets()[1], own.octets()[2], 99]),
            IpAddr::V6(own) => {
                let mut segments = own.segments();
                segments[7] = 0x99;
                IpAddr::from(segments)
            }
        };
        let frames = Frames::on(bed.client(0), "eth0");
        let port_to_client = bed.client_port(0);
        let mac = frames.mac().map(|byte| format!("{byte:02x}")).join(":");
        bed.router().ip(&format!("neigh replace {address} lladdr {mac} dev {port_to_client}"));
        let router = Frames::on(bed.router(), &port_to_client).mac();
        let me = SocketAddr::new(address, port);
        Self { frames, router, me, service: cluster.service(), seq: 1000, ack: 0, cluster }
    }

    fn packet(&self, tcp: Tcp<'_>) -> Vec<u8> {
        tcp_packet(self.me, self.service, tcp)
    }

    fn send(&self, packet: &[u8]) {
        self.frames.send_packet(self.router, packet);
    }

    /// SYN, SYN-ACK, ACK.
    fn shake_hands(&mut self) {
        self.send(&self.packet(Tcp { seq: self.seq, syn: true, ..Tcp::default() }));
        let (flags, seq) = self.frames.find(SOON, "a SYN-ACK", |frame| {
            let tcp = tcp_of(frame, self.me)?;
            Some((tcp[13], u32::from_be_bytes(tcp[4..8].try_into().ok()?)))
        });
        assert_eq!(flags & 0x12, 0x12, "no SYN-ACK: flags {flags:#x}");
        self.seq += 1;
        self.ack = seq.wrapping_add(1);
        self.send(&self.data(0, b""));
    }

    /// So far behind the handshake.
    fn data(&self, at: u32, payload: &[u8]) -> Vec<u8> {
        self.packet(Tcp { seq: self.seq + at, ack: Some(self.ack), payload, ..Tcp::default() })
    }

    /// Waits until a counter is above what it was before `work`.
    fn counts(&self, counter: &str, work: impl FnOnce()) {
        let before = self.cluster.counted(counter);
        work();
        wait_until(SOON, counter, || self.cluster.counted(counter) > before);
    }
}

/// The TCP segment to `me` in a frame.
fn tcp_of(frame: &[u8], me: SocketAddr) -> Option<&[u8]> {
    let packet = frame.get(14..)?;
    let protocol = *packet.get(if packet[0] >> 4 == 6 { 6 } else { 9 })?;
    let tcp = packet.get(ip_header(packet)..)?;
    (protocol == 6 && tcp.get(2..4)? == me.port().to_be_bytes()).then_some(tcp)
}

/// The MTU that an ICMP error of the service's address names: fragmentation needed, or packet too big.
fn mtu_told(frame: &[u8]) -> Option<u32> {
    let packet = frame.get(14..)?;
    let icmp = packet.get(ip_header(packet)..)?;
    match (packet[0] >> 4, *packet.get(9)?, *packet.get(6)?, icmp.get(..2)?) {
        (4, 1, _, [3, 4]) => Some(u32::from(u16::from_be_bytes(icmp.get(6..8)?.try_into().ok()?))),
        (6, _, 58, [2, 0]) => Some(u32::from_be_bytes(icmp.get(4..8)?.try_into().ok()?)),
        _ => None,
    }
}

/// A client that sends more than it was told to: the packet does not fit its wrapping, the client hears how
/// large it may be, and with smaller ones it is served.
fn too_large_a_packet_is_answered(place: &Place<'_>) {
    let Place { bed, cluster, page } = place;
    let network = bed.network();
    let mut raw = Raw::new(bed, cluster, 4000);
    raw.shake_hands();
    // As long as the client's link takes: 1460 bytes of payload over IPv4.
    let length = usize::from(1500 - network.vips.headers());
    let mut request = format!("GET {} HTTP/1.1\r\nHost: testbed\r\nX-Long: ", page.path()).into_bytes();
    request.resize(length - 4, b'x');
    request.extend(b"\r\n\r\n");
    raw.counts("drop_too_big", || raw.send(&raw.data(0, &request)));
    let told = raw.frames.find(SOON, "word of the MTU", mtu_told);
    assert_eq!(told, 1500 - u32::from(wrapping(network.nodes)), "{network}");
    let cut = told as usize - usize::from(network.vips.headers());
    raw.send(&raw.data(0, &request[..cut]));
    raw.send(&raw.data(cut as u32, &request[cut..]));
    raw.frames.find(SOON, "the response", |frame| {
        let tcp = tcp_of(frame, raw.me)?;
        let payload = tcp.get(usize::from(tcp[12] >> 4) * 4..)?;
        payload.starts_with(b"HTTP/1.1 200").then_some(())
    });
    raw.send(&raw.packet(Tcp { seq: raw.seq + length as u32, rst: true, ..Tcp::default() }));
}

/// A router towards the client with a smaller MTU tells the VIP, and the node that serves hears it: what it
/// has sent too large arrives after all, and so does all else.
#[test]
fn path_mtu_discovery_goes_through_the_cluster() {
    for network in networks() {
        let bed = Testbed::builder().figure(Figure::Seven).network(network).build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 2_000_000));
        files.add(&page);
        let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, "");
        // The client itself does not know, and offers the MSS of its own link.
        bed.router().ip(&format!("link set {} mtu 1300", bed.client_port(0)));
        let connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
        let response = connection.fetch_last(&page).unwrap_or_else(|e| panic!("{network}: {e}"));
        let owned = counted(cluster.baton(response.node()), "icmp_owned");
        assert!(owned > 0 && cluster.counted("icmp_forwarded") > 0, "{network}: the server heard nothing");
        assert_eq!(cluster.counted("fault_rewrite"), 0);
        cluster.stop();
    }
}

/// An error that is not about size passes too; one about a connection that nobody has does not. And a VIP
/// answers pings.
fn other_icmp_for_a_vip(place: &Place<'_>) {
    let Place { bed, cluster, page } = place;
    let (client, vip) = (bed.client(0), cluster.vips[0]);
    client.run("ping", ["-c", "3", "-i", "0.2", "-W", "5", &vip.to_string()]);

    let mut connection = Dial::new(cluster.service()).open(client).expect("answered");
    let served = connection.fetch(page).expect("the page").node().to_owned();
    let frames = Frames::on(client, "eth0");
    let router = Frames::on(bed.router(), &bed.client_port(0)).mac();
    let error = |to: SocketAddr| unreachable(client.address(), cluster.service(), to);
    let baton = cluster.baton(&served);
    let before = counted(baton, "icmp_owned");
    frames.send_packet(router, &error(connection.local()));
    wait_until(SOON, "the error at the server's node", || counted(baton, "icmp_owned") > before);
    // It is no more than a hint to an established connection (RFC 5461 2.1).
    connection.fetch(page).expect("the page again");
    let unknown = cluster.counted("drop_icmp_unknown");
    frames.send_packet(router, &error(SocketAddr::new(client.address(), 9)));
    wait_until(SOON, "it is dropped", || cluster.counted("drop_icmp_unknown") > unknown);
    drop(connection);
}

/// Host, or address, unreachable: what a router would say of a packet of the service's.
fn unreachable(from: IpAddr, service: SocketAddr, client: SocketAddr) -> Vec<u8> {
    let quoted = tcp_packet(service, client, Tcp { seq: 1, ack: Some(1), ..Tcp::default() });
    let [kind, code] = if from.is_ipv4() { [3, 1] } else { [1, 3] };
    icmp_packet(from, service.ip(), [kind, code], &quoted)
}

/// What nobody sends a web server: refused, and counted for what it is.
fn fragments_and_odd_headers_are_refused(place: &Place<'_>) {
    let Place { bed, cluster, page } = place;
    let raw = Raw::new(bed, cluster, 4001);
    let syn = raw.packet(Tcp { seq: raw.seq, syn: true, ..Tcp::default() });
    let data = raw.data(0, &[b'x'; 64]);
    raw.counts("drop_fragment", || raw.send(&fragment(&data)));
    let answered = cluster.counted("syn_answered");
    raw.counts("drop_fragment", || raw.send(&fragment(&syn)));
    raw.counts("drop_ip_options", || raw.send(&with_options(&syn)));
    assert_eq!(cluster.counted("syn_answered"), answered);
    let connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    connection.fetch_last(page).expect("the page");
}

/// The packet as the first of several fragments.
fn fragment(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if ip_header(&packet) == 20 {
        packet[6] = 0x20;
        set_header_checksum(&mut packet);
        return packet;
    }
    insert(&mut packet, 44, &[0, 0, 1, 0, 0, 0, 7])
}

/// With options in the IP header: NOPs; or a destination options header with nothing but padding.
fn with_options(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if ip_header(&packet) == 20 {
        packet[0] = 0x46;
        packet.splice(20..20, [1, 1, 1, 0]);
        let length = packet.len() as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        set_header_checksum(&mut packet);
        return packet;
    }
    insert(&mut packet, 60, &[0, 1, 4, 0, 0, 0, 0])
}

/// An IPv6 extension header of eight bytes, the first of which says what follows.
fn insert(packet: &mut [u8], kind: u8, rest: &[u8; 7]) -> Vec<u8> {
    let next = std::mem::replace(&mut packet[6], kind);
    let length = u16::from_be_bytes([packet[4], packet[5]]) + 8;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    [&packet[..40], &[next], rest, &packet[40..]].concat()
}

/// A client's flow label is its own until its packets are at its server's node: routers that share load by
/// it must see the same one everywhere.
fn flow_labels_are_kept(place: &Place<'_>) {
    let Place { bed, cluster, page } = place;
    let network = bed.network();
    let label = |packet: &[u8]| u32::from_be_bytes([0, packet[1] & 15, packet[2], packet[3]]);
    let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
    let node = connection.fetch(page).expect("the page").node().to_owned();
    let before = Frames::on(bed.router(), &bed.client_port(0));
    let behind = Frames::on(bed.router(), &format!("to-{node}"));
    connection.send(&get(page, false)).expect("sent");
    connection.response_of(page).expect("the page");
    // A request, from the client to the service, wrapped or not.
    let request = |frame: &[u8]| {
        let mut packet = frame.get(14..)?;
        let at = if packet.first()? >> 4 == 6 { 6 } else { 9 };
        if packet.get(at) == Some(&17) {
            packet = packet.get(ip_header(packet) + 8 + 8 + 48..)?;
        }
        let from = IpAddr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
        let right = packet[0] >> 4 == 6 && packet[6] == 6 && from == connection.local().ip();
        let tcp = packet.get(40..)?;
        let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
        (right && payload.starts_with(b"GET ")).then(|| label(packet))
    };
    let (own, kept) = (before.find(SOON, "the request", request), behind.find(SOON, "the request", request));
    assert!(own != 0 && own == kept, "{network}: {own:#x} became {kept:#x}");
    drop(connection);
}
