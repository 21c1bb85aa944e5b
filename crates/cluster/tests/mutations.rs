//! Whatever the text, parsing ends in a cluster that keeps its promises or in problems that point
//! into the text; it never panics.

use baton_cluster::{Cluster, NameRules, NodeId, PoolId, Protocol, ServiceId};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};

/// A change to the text at some place: cut, repeat, or put something in.
#[derive(Clone, Debug)]
enum Change {
    Cut(usize),
    Repeat(usize),
    Insert(String),
    Replace(usize, String),
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, Change)>> {
    let words = prop::sample::select(vec![
        "\"",
        "[",
        "]",
        "[[node]]",
        "[[service]]",
        "[[service.pool]]\npolicy = \"lard\"\nname = \"p\"",
        "[[service.route]]\npool = \"p\"\n",
        "servers = [\"s1\"]",
        "host = \"*.a.b\"",
        "path = \"/x\"",
        "methods = [\"GET\"]",
        "[limits]",
        "\n",
        "=",
        "0",
        "-1",
        "1e9",
        "99999999999999999999",
        "true",
        "name = \"s1\"",
        "[service.lard]\nt_low = 9",
        "10.1.0.10",
        "10.99.0.1",
        "::1",
        "\0",
        "é",
        "{",
        "}",
        ",",
        "#",
        "dispatcher",
        "1979-05-27",
        "lard",
        "node = [1]",
        "cluster.name = 3",
        "'''",
        "\"\"\"",
    ]);
    let text = prop_oneof![8 => words.prop_map(str::to_owned), 1 => any::<String>()];
    let change = prop_oneof![
        (1..40_usize).prop_map(Change::Cut),
        (1..200_usize).prop_map(Change::Repeat),
        text.clone().prop_map(Change::Insert),
        (Just(1_usize), text).prop_map(|(len, text)| Change::Replace(len, text)),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), change), 0..6)
}

fn changed(text: &str, changes: Vec<(prop::sample::Index, Change)>) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for (place, change) in changes {
        let at = place.index(text.len() + 1);
        let end = |len: usize| (at + len).min(text.len());
        match change {
            Change::Cut(len) => drop(text.drain(at..end(len))),
            Change::Repeat(len) => {
                let piece = text[at..end(len)].to_vec();
                text.splice(at..at, piece);
            }
            Change::Insert(new) => drop(text.splice(at..at, new.chars())),
            Change::Replace(len, new) => drop(text.splice(at..end(len), new.chars())),
        }
    }
    text.into_iter().collect()
}

fn judge(text: &str) {
    match Cluster::parse(text) {
        Ok(cluster) => {
            assert!((1..=Cluster::DISPATCHERS_MAX).contains(&cluster.dispatchers().count()));
            assert!((1..=NodeId::MAX_NODES).contains(&cluster.nodes.len()));
            assert!((1..=ServiceId::MAX_SERVICES).contains(&cluster.services.len()));
            for (i, node) in cluster.nodes.iter().enumerate() {
                assert_eq!(node.id.index(), i);
                assert_eq!(cluster.node_named(&node.name), Some(node));
                assert!(!cluster.vips().contains(&node.address));
            }
            for (i, service) in cluster.services.iter().enumerate() {
                assert_eq!(usize::from(service.id.0), i);
                assert!(!service.vips.is_empty() && !service.pools.is_empty());
                assert!(service.routes.iter().all(|route| route.pool < service.pools.len()));
                assert!(cluster.rules(service.id).is_some());
                service.is_strict(&cluster);
                let names = &service.names;
                let led_to = names.routes().iter().map(|route| route.pool).chain(names.default_pool());
                assert!(led_to.max().is_none_or(|pool| pool < service.pools.len()));
                assert!(service.protocol == Protocol::Http || service.routes.is_empty());
                assert!(service.protocol == Protocol::Tls || *names == NameRules::default());
                assert!(service.protocol != Protocol::Tcp || service.pools.len() == 1);
            }
            assert!((1..=PoolId::MAX_POOLS).contains(&cluster.pools.len()));
            for (i, pool) in cluster.pools.iter().enumerate() {
                assert_eq!(usize::from(pool.id.0), i);
                assert!(cluster.services[usize::from(pool.service.0)].pools.contains(&pool.id));
                assert!(pool.policy.t_low < pool.policy.t_high);
                assert!(pool.servers.is_sorted() && !pool.servers.is_empty());
                assert!(pool.servers.iter().all(|server| cluster.nodes[server.index()].roles.server));
            }
            cluster.warnings();
            cluster.keys();
            cluster.digest();
        }
        Err(errors) => {
            assert!(!errors.0.is_empty() && errors.0.len() <= 100);
            let lines = text.matches('\n').count() + 1;
            for error in errors.0 {
                assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
                assert!(!error.what.is_empty() && !error.help.is_empty());
            }
        }
    }
}

proptest! {
    #[test]
    fn mutated_files_never_panic(changes in changes()) {
        judge(&changed(&Cluster::fresh("web", "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"), changes));
    }

    #[test]
    fn mutated_pools_never_panic(changes in changes()) {
        let text = include_str!("../../../examples/pools.toml");
        let text = text.replace("replace me: baton init prints a fresh one", "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1");
        judge(&changed(&text, changes));
    }

    #[test]
    fn mutated_protocols_never_panic(changes in changes()) {
        let text = include_str!("../../../examples/tls.toml");
        let text = text.replace("replace me: baton init prints a fresh one", "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1");
        judge(&changed(&text, changes));
    }

    #[test]
    fn any_text_never_panics(text in any::<String>()) {
        judge(&text);
    }
}
