//! The kernel takes the programs. Needs root.

use std::net::Ipv4Addr;

use baton_cluster::{NodeId, Roles};
use baton_datapath::{Datapath, Settings, Sizes};
use libbpf_rs::query::ProgInfoIter;

/// How many instructions the verifier may walk through for each program of a node with all roles, in thousands. It walks
/// through a million at most. A program that needs more than is written here has become harder to prove: see why before the
/// number is raised. Kernels and compilers differ: there is a quarter of room above what was seen.
const VERIFIED: [(&str, u32); 8] = [
    ("ingress", 100),
    ("egress", 29),
    ("guard", 2),
    ("release", 1),
    ("apply_order", 8),
    ("has_begun", 13),
    ("sweep", 1),
    ("carry_cwnd", 1),
];

fn load(bits: u8) -> Datapath {
    let roles = Roles {
        switch: bits & 1 != 0,
        distributor: bits & 2 != 0,
        server: bits & 4 != 0,
        ..Roles::default()
    };
    let settings = Settings {
        node: NodeId(0),
        roles,
        address: Ipv4Addr::new(10, 1, 0, 10).into(),
        handoff_port: 6081,
        mtu: 1500,
        cluster_ifindex: 1,
        hold_ifindex: 1,
        has_switch: bits & 1 != 0,
        others: bits & 1 != 0,
    };
    Datapath::load(settings, Sizes { bindings: 1024, decisions: 1024 })
        .unwrap_or_else(|e| panic!("roles {roles:?}: {e}"))
}

#[test]
fn the_verifier_accepts_every_mix_of_roles() {
    (0..8).for_each(|bits| drop(load(bits)));
}

#[test]
fn the_verifier_needs_no_more_than_before() {
    let _loaded = load(7);
    for (name, thousands) in VERIFIED {
        let newest = ProgInfoIter::default()
            .filter(|program| program.name.to_str() == Some(name))
            .max_by_key(|program| program.id)
            .unwrap_or_else(|| panic!("no program {name} is loaded"));
        let walked = newest.verified_insns;
        println!("{name}: {walked} instructions walked through");
        assert!(
            walked > 0 && walked <= thousands * 1000,
            "{name}: {walked}, at most {thousands},000 are written here"
        );
    }
}
