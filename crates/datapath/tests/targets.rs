//! The kernel puts a request into the pool that the rules of crates/http choose, and reads the same
//! target, whenever it decides: a decision is cached for that pool and target alone, and the first request
//! must meet it. What it does not decide is not ordinary. Needs root.

mod common;

use std::net::IpAddr;

use baton_cluster::{NameRules, PHttp, PoolId, Protocol, ServiceId};
use baton_datapath::{GuideKind, ServiceEntry};
use baton_http::{HostMatch, Key, Parsed, PathMatch, Route, Rules, is_normal, is_plain, parse_request};
use baton_packet_model::flag::{ACK, PSH};
use baton_packet_model::{Offer, Options, Verdict, cookie_of};
use common::frames::{VIP, flow};
use common::world::{OTHER, SELF, Way, keys};
use common::{Tcp, World, in_netns};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const POOLS: u16 = 4;
const HOSTS: [&str; 5] = ["example.com", "a.example.com", "b.a.example.com", "example.org", "com"];

/// A path that is compared up to its last byte.
fn long(n: usize) -> String {
    format!("/{}", "p".repeat(n - 1))
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    let host = prop_oneof![
        2 => Just(HostMatch::Any),
        1 => select(HOSTS.to_vec()).prop_map(HostMatch::named),
        1 => select(vec!["*.example.com", "*.com", "*.a.example.com"]).prop_map(HostMatch::named),
    ];
    let prefix = select(vec!["/", "/i", "/img", "/img/", "/img/a", "/%2F", "/Img/"]).prop_map(str::to_owned);
    let exact = select(vec!["/", "/img", "/img/", "/img/a", "/a%20b"]).prop_map(str::to_owned);
    let path = prop_oneof![
        1 => Just(PathMatch::Any),
        4 => prefix.prop_map(PathMatch::Prefix),
        3 => exact.prop_map(PathMatch::Exact),
        1 => select(vec![126, 127]).prop_map(|n| PathMatch::Prefix(long(n))),
        1 => select(vec![126, 127]).prop_map(|n| PathMatch::Exact(long(n))),
    ];
    let methods =
        select(vec![vec![], vec!["GET"], vec!["POST", "HEAD"], vec!["GET", "PUT"], vec!["M-SEARCH"]]);
    let route = (host, path, methods, 0..POOLS).prop_map(|(host, path, methods, pool)| {
        let methods = methods.into_iter().map(str::to_owned).collect();
        Route { host, path, methods, pool: pool.into() }
    });
    vec(route, 0..8)
}

/// A service's rules: with hosts in them, or without.
fn rules() -> impl Strategy<Value = Rules> {
    let keys = select(vec![Key::Path, Key::PathQuery, Key::Path, Key::Header("x-user".into())]);
    (routes(), any::<bool>(), vec(keys, usize::from(POOLS))).prop_map(|(mut routes, hosts, keys)| {
        if !hosts {
            routes.iter_mut().for_each(|r| r.host = HostMatch::Any);
        }
        Rules::new(routes, 0, keys)
    })
}

/// Heads, whole or nearly so.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    let method = select(vec!["GET", "HEAD", "POST", "PUT", "M-SEARCH", "OPTIONS"]).prop_map(str::to_owned);
    let method = prop_oneof![6 => method, 1 => "[A-Z]{1,33}", 1 => "[!-~]{1,8}"];
    let empty = select(vec!["", "", "", "", "\r\n", "\n\r\n"]);
    let path = prop_oneof![
        6 => select(vec!["/", "/i", "/img", "/img/", "/img/a", "/img/ab", "/a%20b", "/Img/a", "/img/A", "/IMG/a", "/%2F", "/imgs", "/img/a/b"])
            .prop_map(str::to_owned),
        2 => "/[a-c%.0-9/A-F]{0,12}",
        1 => "/[!-~]{0,40}",
        1 => "/img/[;a%250CF3.\u{e9}/]{0,9}",
        1 => "[hH]ttps?://[a-c.:0-9@\\[]{0,4}(/img/a)?",
        1 => Just("http://b.a.example.com/img/a".to_owned()),
        1 => Just("*".to_owned()),
        1 => (120..135_usize).prop_map(long),
        1 => (470..600_usize).prop_map(long),
    ];
    let query = prop_oneof![6 => Just(String::new()), 3 => "\\?[!\"$-~]{0,8}", 1 => "\\?[!-~\u{e9}]{0,8}"];
    let version = prop_oneof![
        8 => select(vec![" HTTP/1.1\r\n", " HTTP/1.0\r\n"]),
        1 => select(vec![" HTTP/1.1\n", " HTTP/2.0\r\n", "  HTTP/1.1\r\n", ""]),
    ];
    let name =
        prop_oneof![6 => select(HOSTS.to_vec()).prop_map(str::to_owned), 1 => "[a-cA-C.:_ \\[0-9-]{0,8}"];
    let port = select(vec!["", "", "", ":80", ":", ".", " ", ":8x"]);
    let host = (name, port, any::<bool>())
        .prop_map(|(name, port, loud)| if loud { name.to_ascii_uppercase() + port } else { name + port });
    let host = prop_oneof![8 => host.prop_map(|h| format!("Host: {h}\r\n")), 1 => Just(String::new())];
    let rest = prop_oneof![
        6 => Just("\r\n"), 2 => Just("X-User: a\r\n\r\n"), 1 => Just("A"), 1 => Just("B : c\r\n\r\n"),
    ];
    let head = (empty, method, path, query, version, host, rest).prop_map(
        |(empty, method, path, query, version, host, rest)| {
            format!("{empty}{method} {path}{query}{version}{host}{rest}").into_bytes()
        },
    );
    let change = prop_oneof![9 => Just(None), 1 => (any::<Index>(), any::<u8>()).prop_map(Some)];
    let cut = prop_oneof![9 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (head, change, cut).prop_map(|(mut head, change, cut)| {
        if let Some((at, value)) = change {
            let at = at.index(head.len());
            head[at] = value;
        }
        if let Some(cut) = cut {
            head.truncate(cut.index(head.len()) + 1);
        }
        head
    })
}

/// A host as most clients write it; with wildcards, one that the programs have been told of.
fn is_ordinary(value: &[u8], wildcards: bool) -> bool {
    let name = str::from_utf8(value).unwrap_or(":");
    let name = name.strip_suffix(":80").unwrap_or(name);
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric());
    let known = HOSTS.contains(&&*name.to_ascii_lowercase());
    if wildcards { known } else { name.split('.').all(is_label) }
}

/// A distributor whose services come and go.
struct Node {
    world: World,
    service: u16,
    /// Requests decided, held, and for the reader.
    seen: [u32; 3],
}

impl Node {
    /// A service of its own, so that no earlier route is in the way.
    fn serve(&mut self, rules: &Rules, strict: bool) -> ServiceEntry {
        self.service += 1;
        let (id, pools) = (ServiceId(self.service), (0..POOLS).map(PoolId).collect::<Vec<_>>());
        let (port, vips): (u16, Vec<IpAddr>) = (80, vec![VIP]);
        self.world
            .service(id.0, port, &pools, rules.routes().to_vec(), [strict, false])
            .expect("room for routes");
        for pool in &pools {
            let key = rules.key(pool.0.into()).clone();
            self.world.pool(*pool, id.0, key, PHttp::Stay, &[SELF, OTHER]).expect("room for pools");
        }
        let (protocol, names) = (Protocol::Http, NameRules::default());
        ServiceEntry { id, vips, port, protocol, rules: rules.clone(), names, pools, strict, follows: false }
    }

    fn request(&mut self, rules: &Rules, strict: bool, head: &[u8]) -> Result<(), TestCaseError> {
        let fail = |e: String| TestCaseError::fail(format!("{rules:?}: {e}"));
        let world = &mut self.world;
        world.rest().map_err(|e| fail(e.to_string()))?;
        (0..POOLS).for_each(|pool| world.guide(PoolId(pool), GuideKind::Cached { load_limit: 9 }, &[], 1));
        let parsed = parse_request(head);
        let mut expected = None;
        if let Parsed::Complete(request, _) = &parsed {
            let pool = rules.choose(request);
            if rules.key(pool).is_in_request_line() {
                world.decide(PoolId(pool as u16), head, &[OTHER], 1);
            }
            let mut headers = request.headers();
            let host = headers.find(|(name, _)| name.eq_ignore_ascii_case(b"host"));
            let known = !request.absolute
                && host.is_none_or(|(_, value)| is_ordinary(value, rules.look_at_wildcards()));
            let loud =
                strict && rules.loud_within() > 0 && request.raw_path.iter().any(u8::is_ascii_uppercase);
            let folded = |r: Route| strict && r.matches(request);
            let ordinary = is_normal(request.raw_path)
                && !loud
                && !rules.folded_routes().any(folded)
                && (!strict || is_plain(request.raw_path))
                && rules.key(pool).is_in_request_line()
                && (known || !rules.look_at_hosts());
            expected = ordinary.then_some("decided_cache");
        }
        let offer = Offer::of(&Options::default(), false);
        let f = flow(40_000);
        let ack = cookie_of(&keys(), &f, 7, offer, 0, world.clock()).wrapping_add(1);
        let frame = Tcp::new(f, ACK | PSH, 8, ack).data(head).frame();
        let said = world.step(&frame, Way::In).map_err(fail)?;
        let counted = world.counted.join(" ");
        let decided = counted.contains("decided_cache");
        let read = counted.contains("drop_no_reader");
        match parsed {
            Parsed::Complete(..) if expected.is_some() && !decided => {
                return Err(fail(format!("not decided: {counted}")));
            }
            // Where the request line is enough, the rest of the head may still come.
            Parsed::Incomplete if decided && (strict || rules.look_at_hosts()) => {
                return Err(fail(format!("decided too early: {counted}")));
            }
            // A target or a pool of its own would be a miss.
            Parsed::Complete(..) if !decided && !counted.contains("held_head") => {
                return Err(fail(format!("another pool or target: {counted}")));
            }
            _ => {}
        }
        if read != (said.verdict == Verdict::Drop) {
            return Err(fail(counted));
        }
        self.seen[if decided { 0 } else { 1 + usize::from(read) }] += 1;
        Ok(())
    }
}

#[test]
fn kernel_and_rules_choose_the_same_pool_and_read_the_same_target() {
    in_netns(|| {
        let mut node = Node { world: World::new("d", &[flow(40_000)]), service: 100, seen: [0; 3] };
        let config = Config { failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let cases = (rules(), vec(heads(), 40));
        for round in 0..80 {
            let (rules, heads) = cases.new_tree(&mut runner).expect("a case").current();
            let strict = round % 2 == 1;
            let entry = node.serve(&rules, strict);
            for host in HOSTS {
                let service = node.world.model.tables.services.get_mut(&(VIP, 80)).expect("known");
                service.hosts.insert(host.to_owned());
                node.world.programs.set_host(&entry, host).expect("few patterns");
            }
            for head in heads {
                node.request(&rules, strict, &head)
                    .unwrap_or_else(|e| panic!("{:?}: {e}", String::from_utf8_lossy(&head)));
            }
        }
        let [decided, held, read] = node.seen;
        assert!(decided > 600 && held > 300 && read > 50, "of every kind: {decided}, {held}, {read}");
    });
}

/// A client chooses the method of its request: two with one FNV-1a of 32 bits were one to the routes once.
#[test]
fn a_method_that_hashes_as_another_is_not_that_one() {
    in_netns(|| {
        let mut node = Node { world: World::new("d", &[flow(40_000)]), service: 100, seen: [0; 3] };
        let purge = Route {
            path: PathMatch::Prefix("/m/".into()),
            methods: vec!["PURGE".into()],
            pool: 1,
            ..Route::default()
        };
        let rules = Rules::new(vec![purge], 0, vec![Key::Path; usize::from(POOLS)]);
        for strict in [false, true] {
            node.serve(&rules, strict);
            for method in ["PURGE", "AEFRGZNQCSFI", "PURGE-", "PURG", "GET"] {
                let head = format!("{method} /m/x HTTP/1.1\r\nHost: a\r\n\r\n");
                node.request(&rules, strict, head.as_bytes()).unwrap_or_else(|e| panic!("{head:?}: {e}"));
            }
        }
        assert_eq!(node.seen, [10, 0, 0], "each is decided in the kernel, by its own pool's decision");
    });
}
