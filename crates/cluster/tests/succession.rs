//! One cluster file after another: what keeps its number, what ends, what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use baton_cluster::{Changes, Cluster, PoolHash, PoolId, ReloadError, ServiceId, Succession};
use proptest::prelude::*;

const HEAD: &str = r#"
[cluster]
name = "web"
secret = "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"
[[node]]
name = "d1"
address = "10.1.0.10"
roles = ["ROLE", "distributor", "dispatcher"]
[[node]]
name = "d2"
address = "10.1.0.11"
roles = ["distributor", "server"]
[[node]]
name = "s1"
address = "10.1.0.12"
roles = ["server"]
"#;

/// A service of a name, on VIPs of these last numbers, with pools of these names.
fn service(name: &str, vips: &[u8], pools: &[&str]) -> String {
    let vips: Vec<_> = vips.iter().map(|n| format!("\"10.99.0.{n}\"")).collect();
    let mut text = format!("[[service]]\nname = \"{name}\"\nvips = [{}]\nport = 80\n", vips.join(", "));
    for pool in pools {
        let _ = writeln!(text, "[[service.pool]]\nname = \"{pool}\"\npolicy = \"lard\"");
    }
    text
}

fn file(services: &[String]) -> Cluster {
    parsed("switch", services)
}

fn parsed(role: &str, services: &[String]) -> Cluster {
    let text =
        HEAD.replace("\"ROLE\", ", &if role.is_empty() { String::new() } else { format!("\"{role}\", ") });
    Cluster::parse(&format!("{text}{}", services.concat())).expect("a good file")
}

fn ids(after: &Succession) -> Vec<(&str, u16, Vec<u16>)> {
    let id = |pools: &[PoolId]| pools.iter().map(|pool| pool.0).collect();
    after.cluster.services.iter().map(|s| (s.name.as_str(), s.id.0, id(&s.pools))).collect()
}

fn ending(after: &Succession) -> Vec<String> {
    after.ending_addresses().map(|(vip, port)| format!("{vip}:{port}")).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn services_come_change_and_go() {
    let [www, api] = [service("www", &[1], &["site", "img"]), service("api", &[2, 3], &["all"])];
    let first = Succession::new(file(&[www.clone(), api.clone()]));
    assert_eq!(ids(&first), [("www", 0, vec![0, 1]), ("api", 1, vec![2])]);

    // The same in another order, and a new one before them.
    let new = service("new", &[4], &["site"]);
    let (second, changes) = first.reload(file(&[new.clone(), api, www.clone()])).expect("good");
    assert_eq!(ids(&second), [("new", 2, vec![3]), ("api", 1, vec![2]), ("www", 0, vec![0, 1])]);
    assert_eq!(changes, Changes { added: names(&["new"]), ..Changes::default() });
    assert!(second.ending.is_empty());

    // One goes, one changes: a pool stays, a pool comes, a VIP goes.
    let api = service("api", &[3], &["some", "all"]);
    let (third, changes) = second.reload(file(&[api.clone(), new.clone()])).expect("good");
    assert_eq!(ids(&third), [("api", 3, vec![4, 2]), ("new", 2, vec![3])]);
    let (changed, removed) = (names(&["api"]), names(&["www"]));
    assert_eq!(changes, Changes { changed, removed, ..Changes::default() });
    assert_eq!(ending(&third), ["10.99.0.2:80", "10.99.0.1:80"]);
    assert_eq!(third.service_ids(), [0, 1, 2, 3].map(ServiceId).into());
    assert_eq!(third.pools().count(), 5, "those of www stay");
    for pool in &third.cluster.pools {
        assert!(third.cluster.service(pool.service).expect("its service").pools.contains(&pool.id));
    }

    // It comes back while it ends: under a new number, its pools under theirs.
    let (fourth, changes) = third.reload(file(&[api, new, www])).expect("good");
    assert_eq!(ids(&fourth)[2], ("www", 4, vec![0, 1]));
    assert_eq!((changes.added, ending(&fourth)), (names(&["www"]), names(&["10.99.0.2:80"])));
    let drained = fourth.without([10, 99, 0, 2].into(), 80);
    assert!(drained.ending.is_empty() && drained.cluster.services == fourth.cluster.services);

    let (same, changes) = drained.reload(drained.cluster.clone()).expect("the same file");
    assert_eq!((ids(&same), changes), (ids(&drained), Changes::default()));
}

#[test]
fn what_lasts_is_refused_by_name() {
    let www = [service("www", &[1], &["site"])];
    let first = Succession::new(file(&www));
    let refused = |from: &str, to: &str| {
        let text = format!("{}{}", HEAD.replace("ROLE", "switch"), www.concat()).replacen(from, to, 1);
        let error = first.reload(Cluster::parse(&text).expect("a good file")).expect_err(to);
        let ReloadError::Lasting(what) = &error else { panic!("{error}") };
        assert!(error.to_string().contains("help: "), "{error}");
        what.join(", ")
    };
    assert_eq!(refused("\"web\"", "\"wob\""), "the cluster's name");
    assert_eq!(refused("k3Yv", "k3Yw"), "the secret");
    assert_eq!(refused("10.1.0.12", "10.1.0.13"), "node s1");
    assert_eq!(refused("\"s1\"", "\"s2\""), "the nodes or their order");
    assert_eq!(refused("[[node]]", "[limits]\nbindings = 2048\n[[node]]"), "[limits]");
    assert_eq!(
        refused("[[node]]", "control_port = 99\nforwarding = \"geneve\"\n[[node]]"),
        "control_port, forwarding"
    );
    assert_eq!(
        refused("[[node]]", "handoff_port = 99\nfailure_timeout_ms = 999\n[[node]]"),
        "failure_timeout_ms, handoff_port"
    );
}

#[test]
fn a_vip_stays_with_the_distributor_that_announces_it() {
    let two = |vips: &[u8]| parsed("", &[service("www", vips, &["site"])]);
    let first = Succession::new(two(&[1, 2]));
    let (longer, _) = first.reload(two(&[1, 2, 3])).expect("at the end");
    let error = longer.reload(two(&[2, 3])).expect_err("2 would be announced by d1");
    let ReloadError::Dealt { vip, from, to } = &error else { panic!("{error}") };
    assert_eq!((vip.to_string().as_str(), from.as_str(), to.as_str()), ("10.99.0.2", "d2", "d1"));
    let (shorter, _) = longer.reload(two(&[1, 2])).expect("at the end");
    let vips: Vec<_> = shorter.ending_vips().map(|(vip, by)| (vip.to_string(), by.len())).collect();
    assert_eq!(vips, [("10.99.0.3".to_owned(), 1)]);
    shorter.reload(two(&[1, 2, 4, 3])).expect_err("3 ends at d1, and would be announced by d2");
}

#[test]
fn too_much_that_ends_is_refused() {
    let mut known = Succession::new(file(&[service("www", &[1], &["site"])]));
    for round in 0u8..=100 {
        let names: Vec<_> = (0..3).map(|i| format!("s{round}-{i}")).collect();
        let vips = |i: u8| [round * 2 + i % 2 + 2];
        let new: Vec<_> = names.iter().zip(0..2).map(|(name, i)| service(name, &vips(i), &["a"])).collect();
        match known.reload(file(&new)) {
            Ok((after, _)) => known = after,
            Err(error) => {
                assert!(matches!(error, ReloadError::Crowded(_)) && error.to_string().contains("s3-1"));
                assert_eq!(known.service_ids().len(), Succession::SERVICES_MAX - 1);
                return;
            }
        }
    }
    panic!("never refused");
}

/// What a service of a random file is: its VIPs, its pools.
type Drawn = BTreeMap<usize, (BTreeSet<u8>, BTreeSet<usize>)>;

fn text(drawn: &Drawn) -> Vec<String> {
    let mut free: BTreeSet<u8> = (1..=6).collect();
    let mut services = Vec::new();
    for (name, (vips, pools)) in drawn {
        let vips: Vec<u8> = vips.iter().copied().filter(|vip| free.remove(vip)).collect();
        let pools: Vec<&str> = pools.iter().map(|pool| ["a", "b", "c"][*pool]).collect();
        if !vips.is_empty() {
            services.push(service(["v", "w", "x", "y"][*name], &vips, &pools));
        }
    }
    services
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Numbers are never shared, never change while nothing else does, and nothing that has connections is
    /// forgotten.
    #[test]
    fn numbers_hold(files in prop::collection::vec(
        (prop::collection::btree_map(0usize..4, (
            prop::collection::btree_set(1u8..=6, 1..4), prop::collection::btree_set(0usize..3, 1..4),
        ), 1..4), prop::collection::vec(any::<prop::sample::Index>(), 0..4)),
        1..12,
    )) {
        let mut known: Option<Succession> = None;
        let mut versions: BTreeMap<ServiceId, String> = BTreeMap::new();
        for (drawn, drained) in files {
            let services = text(&drawn);
            if services.is_empty() {
                continue;
            }
            let Some(before) = known.take() else {
                known = Some(Succession::new(file(&services)));
                continue;
            };
            let (mut after, _) = before.reload(file(&services)).expect("there is room");
            prop_assert!(before.addresses().is_subset(&after.addresses()));
            let ending: BTreeSet<_> = after.ending_addresses().collect();
            prop_assert_eq!(ending.len(), after.ending_addresses().count());
            for service in &after.cluster.services {
                prop_assert!(service.vips.iter().all(|vip| !ending.contains(&(*vip, service.port))));
                let own: Vec<PoolId> = after.cluster.pools_of(service.id).map(|pool| pool.id).collect();
                prop_assert_eq!(&own, &service.pools);
                // A number means one version of a service for ever.
                let version = format!("{} {:?} {own:?}", service.name, service.vips);
                let first = versions.entry(service.id).or_insert_with(|| version.clone());
                prop_assert_eq!(&*first, &version);
            }
            let by_hash: BTreeMap<PoolHash, PoolId> = after.pools().map(|pool| (pool.hash, pool.id)).collect();
            let by_id: BTreeMap<PoolId, PoolHash> = by_hash.iter().map(|(hash, id)| (*id, *hash)).collect();
            prop_assert_eq!((by_hash.len(), by_id.len()), (after.pools().count(), after.pools().count()));
            for pool in before.pools() {
                prop_assert!(by_hash.get(&pool.hash).is_none_or(|id| *id == pool.id));
            }
            for index in drained {
                let left: Vec<_> = after.ending_addresses().collect();
                if !left.is_empty() {
                    let (vip, port) = *index.get(&left);
                    after = after.without(vip, port);
                    prop_assert!(!after.addresses().contains(&(vip, port)));
                    prop_assert_eq!(after.addresses().len() + 1, after.cluster.vips().len() + left.len());
                }
            }
            known = Some(after);
        }
    }
}
