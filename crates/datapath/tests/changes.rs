//! A node that runs is given a changed cluster file: services come, change, end and go, and what is open
//! stays. Packets one by one, through programs and model. Needs root.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use baton_cluster::{Flow, NodeId, PoolId, Service, ServiceId};
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CLOSED, FLAG_FIN_IN, FLAG_LEFT};
use baton_datapath::{GuideKind, ServiceEntry, State};
use baton_http::{HostMatch, PathMatch, Route, Rules};
use baton_packet_model::flag::{ACK, PSH, RST, SYN};
use baton_packet_model::{Binding, Verdict};
use common::client::{Client, REQUEST, case, node, state};
use common::frames::{VIP, VIP_V6, checksums_are_right, flow, flow_v6, icmp_error, read};
use common::furnish::Change;
use common::world::{IMAGES, OTHER, PAGES, SELF, TENANTS, THIRD, WEB};
use common::{Tcp, World};

/// A request of a tenant of the service on port 83.
fn of_host(host: &str) -> Vec<u8> {
    format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A connection to another port, of which the world keeps account.
fn at_port(world: &mut World, port: u16, client_port: u16) -> Flow {
    let f = Flow { vip_port: port, ..flow(client_port) };
    world.flows.push(f);
    f
}

/// The first bytes of a connection to an ending address.
#[track_caller]
fn is_refused(world: &mut World, syn: &Tcp) {
    let frame = syn.frame();
    let said = case(world, "no new connection", &frame, Verdict::Redirect, &["reset_ending"]);
    assert_eq!(checksums_are_right(&said.frame), Some(true));
    let tcp = read(&said.frame);
    assert!(tcp.rst && tcp.ack && !tcp.syn && tcp.options.is_empty(), "{tcp:?}");
    let all = syn.seq.wrapping_add(1 + syn.payload.len() as u32);
    assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (0, all), "RFC 9293 3.10.7.1");
}

#[test]
fn an_ending_address_takes_no_new_connection() {
    node("d", |world, f| {
        world.end(VIP, 80).expect("tables");
        let syn = Tcp::new(f, SYN, 7, 0).options(&[common::frames::MSS]);
        is_refused(world, &syn);
        is_refused(world, &syn.clone().data(b"early"));
        is_refused(world, &Tcp::new(f, SYN, u32::MAX, 0));
        assert_eq!(state(world, &f), None);
        let mut spoilt = syn.frame();
        spoilt[14 + 20 + 16] ^= 1;
        case(world, "noise is not answered", &spoilt, Verdict::Drop, &["drop_checksum"]);

        let answered = ["syn_answered"];
        let by_v6 = Tcp::new(flow_v6(40_000), SYN, 7, 0).frame();
        case(world, "the service's other address", &by_v6, Verdict::Redirect, &answered);
        world.end(VIP_V6, 80).expect("tables");
        is_refused(world, &Tcp::new(flow_v6(40_000), SYN, 7, 0));

        let other = at_port(world, 81, 40_000);
        let syn = syn.frame();
        case(world, "another port", &Tcp::new(other, SYN, 7, 0).frame(), Verdict::Redirect, &answered);
        world.serve(80, Change::None).expect("tables");
        case(world, "open again", &syn, Verdict::Redirect, &answered);
        world.end(VIP, 443).expect("an address of no service");
        let foreign = Tcp::new(Flow { vip_port: 443, ..f }, SYN, 7, 0).frame();
        case(world, "nobody's", &foreign, Verdict::Next, &[]);
    });
}

#[test]
fn what_is_open_at_an_ending_address_goes_on() {
    node("d", |world, f| {
        world.guide(WEB, GuideKind::Rota, &[OTHER], 1);
        let greeted = at_port(world, 80, 40_001);
        let held = at_port(world, 82, 40_002);
        let open = Client::connected(world, f);
        let late = Client::greeted(world, greeted, 1000);
        let waiting = Client::connected(world, held);
        let first = waiting.requests().frame();
        case(world, "held", &first, Verdict::Redirect, &["request_first", "held_miss"]);
        world.end(VIP, 80).expect("tables");
        world.end(VIP, 82).expect("tables");

        let sent = ["request_first", "decided_rota", "handoff_sent"];
        case(world, "its request is decided", &open.requests().frame(), Verdict::Redirect, &sent);
        case(world, "its SYN was answered", &late.sends(ACK).frame(), Verdict::Drop, &["handshake_ack"]);
        case(world, "so its request is", &late.requests().frame(), Verdict::Redirect, &sent);
        case(world, "still held", &first, Verdict::Redirect, &["held_more"]);
        assert_eq!(state(world, &held), Some(State::Held));
        let ack = open.sends(ACK).frame();
        case(world, "a bound one", &ack, Verdict::Redirect, &["forwarded_binding"]);

        // A new connection of the same flow is a new one.
        is_refused(world, &Tcp::new(f, SYN, 500_000, 0));
        case(world, "the one before stands", &ack, Verdict::Redirect, &["forwarded_binding"]);
        let mtu = icmp_error(&f, 3, [2, 0, 0, 0, 0, 0xfe]);
        case(world, "news about it", &mtu, Verdict::Redirect, &["icmp_forwarded"]);
    });
}

#[test]
fn a_switch_leaves_refusing_to_the_distributor() {
    node("w", |world, f| {
        world.end(VIP, 80).expect("tables");
        let maglev: Vec<NodeId> = vec![OTHER; 65_537];
        let slots: Vec<_> = maglev.into_iter().map(Some).collect();
        world.spread(&slots).expect("tables");
        let syn = Tcp::new(f, SYN, 7, 0).frame();
        case(world, "as any SYN", &syn, Verdict::Redirect, &["forwarded_distributor"]);
    });
}

#[test]
fn a_removed_address_is_the_stacks() {
    node("d", |world, f| {
        let syn = |port| Tcp::new(Flow { vip_port: port, ..f }, SYN, 7, 0).frame();
        let fragment = |port| {
            let mut frame = syn(port);
            frame[20] |= 0x20;
            frame
        };
        world.close(VIP, 80).expect("tables");
        case(world, "no service's", &syn(80), Verdict::Next, &[]);
        case(world, "another port", &syn(81), Verdict::Redirect, &["syn_answered"]);
        case(world, "whose fragment?", &fragment(80), Verdict::Drop, &["drop_fragment"]);
        for port in 81..=85 {
            world.close(VIP, port).expect("tables");
            world.close(VIP, port).expect("removed already");
        }
        case(world, "the last port has gone", &fragment(80), Verdict::Next, &[]);
        let by_v6 = Tcp::new(flow_v6(40_000), SYN, 7, 0).frame();
        case(world, "another address", &by_v6, Verdict::Redirect, &["syn_answered"]);
        world.serve(80, Change::None).expect("tables");
        case(world, "there again", &syn(80), Verdict::Redirect, &["syn_answered"]);
        case(world, "fragments, too", &fragment(80), Verdict::Drop, &["drop_fragment"]);
    });
}

#[test]
fn a_changed_service_takes_its_addresses_over() {
    node("d", |world, _| {
        world.guide(PAGES, GuideKind::Rota, &[OTHER], 1);
        world.guide(IMAGES, GuideKind::Rota, &[THIRD], 1);
        let owner = |world: &mut World, client_port| {
            let f = at_port(world, 82, client_port);
            let c = Client::connected(world, f);
            let request = c.requests().data(b"GET /img/a HTTP/1.1\r\n\r\n").frame();
            let sent = ["request_first", "decided_rota", "handoff_sent"];
            case(world, "decided", &request, Verdict::Redirect, &sent);
            state(world, &f)
        };
        assert_eq!(owner(world, 40_001), Some(State::Bound(THIRD)), "images");
        world.serve(82, Change::Pools).expect("tables");
        assert_eq!(owner(world, 40_002), Some(State::Bound(OTHER)), "routes lead to the other pool");
        world.serve(82, Change::Routes).expect("tables");
        assert_eq!(owner(world, 40_003), Some(State::Bound(OTHER)), "all are pages");
        world.serve(82, Change::None).expect("tables");
        assert_eq!(owner(world, 40_004), Some(State::Bound(THIRD)), "as it was");
    });
}

fn vips_of(id: u16) -> impl Iterator<Item = IpAddr> {
    let first = 0x0a64_0000 + u32::from(id) * Service::MAX_VIPS as u32;
    (0..Service::MAX_VIPS as u32).map(move |i| Ipv4Addr::from(first + i).into())
}

/// A service as large as a cluster file allows, but for the methods: there is no limit to those.
fn largest(id: u16) -> ServiceEntry {
    let methods: Vec<String> = (b'A'..=b'P').map(|c| format!("M{}", char::from(c))).collect();
    let route = |i: usize| Route {
        host: HostMatch::Exact(format!("h{i}.example.com")),
        path: PathMatch::Prefix(format!("/{i}")),
        methods: methods.clone(),
        pool: 0,
    };
    ServiceEntry {
        id: ServiceId(id),
        vips: vips_of(id).collect(),
        port: 1000,
        protocol: baton_cluster::Protocol::Http,
        rules: Rules::new((0..Service::MAX_ROUTES).map(route).collect(), 0, Vec::new()),
        names: baton_cluster::NameRules::default(),
        pools: vec![WEB],
        strict: false,
        follows: false,
    }
}

#[test]
fn there_is_room_for_two_of_the_largest_files() {
    node("d", |world, _| {
        let programs = &world.programs;
        let services = ServiceId::MAX_SERVICES as u16 - 6; // the world's own are known, too
        for id in 0..2 * services {
            programs.set_service(&largest(id)).expect("the one that it takes the place of is still there");
        }
        // And what is removed leaves nothing behind.
        for id in 0..2 * services {
            for vip in vips_of(id) {
                programs.remove_address(vip, 1000).expect("tables");
            }
            programs.remove_service(ServiceId(id)).expect("tables");
            programs.set_service(&largest(id + 2 * services)).expect("room for a changed service");
        }
    });
}

#[test]
fn another_pool_may_have_a_removed_ones_number() {
    node("d", |world, _| {
        let pools: Vec<PoolId> = vec![WEB];
        world.decide(WEB, REQUEST, &[OTHER], 1);
        world.guide(WEB, GuideKind::Rota, &[OTHER, THIRD], 1);
        for pool in pools {
            world.programs.remove_pool(pool).expect("tables");
            world.model.tables.guides.remove(&pool);
            world.model.tables.pools.remove(&pool);
            world.model.tables.decisions.clear();
        }
        world.pool(WEB, 0, baton_http::Key::Path, baton_cluster::PHttp::Move, &[THIRD]).expect("tables");
        world.guide(WEB, GuideKind::Cached { load_limit: 20 }, &[THIRD], 1);
        let f = at_port(world, 80, 40_001);
        let c = Client::connected(world, f);
        let request = c.requests().frame();
        let held = ["request_first", "held_miss"];
        case(world, "nothing is cached for it", &request, Verdict::Redirect, &held);

        let last = PoolId(2 * PoolId::MAX_POOLS as u16 - 1);
        world
            .programs
            .set_guide(last, &GuideKind::Rota, &[OTHER; 256], 1)
            .expect("room for twice as many pools");
        world.programs.remove_pool(last).expect("tables");
    });
}

#[test]
fn the_connections_of_an_address_are_counted_while_they_live() {
    node("ds", |world, f| {
        let at = |vip: IpAddr, port: u16, client_port: u16| Flow { vip, vip_port: port, client_port, ..f };
        let now = world.clock().kernel_ns;
        let bound = |flags, idle_ms: u64| Binding {
            // Perhaps before the boot of this machine.
            seen_ns: now.wrapping_sub(idle_ms * 1_000_000),
            flags,
            ..Binding::unknown(1, State::Bound(OTHER))
        };
        for (port, b) in [
            (1, bound(0, 0)),
            (2, bound(FLAG_ADOPTED, 7_199_000)),
            (3, Binding { state: State::Open, ..bound(0, 0) }),
            (4, Binding { state: State::Held, ..bound(0, 0) }),
            (5, Binding { state: State::Reading, ..bound(0, 0) }),
            (6, bound(FLAG_FIN_IN, 299_000)),
            (10, bound(FLAG_LEFT, 299_000)),
            // Those have ended, or are forgotten.
            (11, bound(FLAG_LEFT, 301_000)),
            (7, bound(FLAG_CLOSED, 0)),
            (8, bound(FLAG_FIN_IN, 301_000)),
            (9, bound(0, 7_201_000)),
        ] {
            world.bind(at(VIP, 80, port), b);
        }
        world.bind(at(VIP, 81, 1), bound(0, 0));
        let addresses = [(VIP, 81), (VIP, 80), (VIP_V6, 80), (VIP, 1)];
        let known = world.programs.connections_at(&addresses, Duration::from_nanos(now));
        assert_eq!(known, [1, 7, 0, 0]);
        assert!(world.programs.connections_at(&[], Duration::from_nanos(now)).is_empty());
    });
}

#[test]
fn a_reload_may_bring_the_first_service_that_follows() {
    node("s", |world, f| {
        let adopted =
            Binding { flags: FLAG_ADOPTED, mss: 1460, ..Binding::unknown(1001, State::Bound(SELF)) };
        let answer = || {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
            let mut tcp = Tcp::new(f, ACK | PSH, 1, 1001).data(head);
            tcp.back = true;
            tcp.frame()
        };
        for follows in [false, true] {
            world.model.tables.follows = follows;
            world.daemon(true);
            let now = world.clock().kernel_ns;
            world.bind(f, Binding { seen_ns: now, since_ns: now, ..adopted });
            world.follow(f, 1001, 1);
            world.egress(&answer());
            let messages = world.programs.messages(&f).expect("exchanges").expect("followed");
            assert_eq!(messages.doubt.is_some(), follows, "an answer to nothing");
        }
        let reset = Tcp::new(f, RST, 1001, 1).frame();
        case(
            world,
            "and whoever has to be told is",
            &reset,
            Verdict::Stack,
            &["owned", "closed", "serving_ended"],
        );
    });
}

#[test]
fn however_many_hosts_clients_ask_for_the_named_ones_stay_known() {
    node("d", |world, _| {
        for number in 0..20_000 {
            let host = format!("h{number}.example.com");
            world.programs.set_host(&world.entries[&83], &host).expect("room for every host that is seen");
        }
        world.guide(TENANTS, GuideKind::Rota, &[OTHER], 1);
        let model = world.model.tables.services.get_mut(&(VIP, 83)).expect("known");
        model.hosts.insert("h19999.example.com".to_owned());
        for (host, port) in [("tenant.example.org", 40_001), ("h19999.example.com", 40_002)] {
            let f = at_port(world, 83, port);
            let c = Client::connected(world, f);
            let request = c.requests().data(&of_host(host)).frame();
            let counted = ["request_first", "decided_rota", "handoff_sent"];
            case(world, host, &request, Verdict::Redirect, &counted);
        }
    });
}
