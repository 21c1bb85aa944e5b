//! The kernel takes the programs. Needs root.

use std::net::Ipv4Addr;

use baton_cluster::NodeId;
use baton_datapath::{Datapath, Roles, Settings, Sizes};

#[test]
fn the_verifier_accepts_every_mix_of_roles() {
    for bits in 0..8_u8 {
        let roles = Roles { switch: bits & 1 != 0, distributor: bits & 2 != 0, server: bits & 4 != 0 };
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
            .unwrap_or_else(|e| panic!("roles {roles:?}: {e}"));
    }
}
