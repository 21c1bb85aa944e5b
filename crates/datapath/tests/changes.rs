//! A node that runs is given a changed cluster file: services come, change, end and go, and what is open
//! stays. Packets one by one, through programs and model. Needs root.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use baton_cluster::{Flow, NameRules, PHttp, PoolId, Protocol, Service, ServiceId};
use baton_datapath::constants::{FLAG_CLOSED, FLAG_FIN_IN};
use baton_datapath::model::flag::{ACK, RST, SYN};
use baton_datapath::model::{Binding, Verdict};
use baton_datapath::{Guide, ServiceEntry, State};
use baton_http::{HostMatch, Key, PathMatch, Route, Rules};
use common::client::{Client, REQUEST, case, node, state};
use common::frames::{CLIENT, VIP, checksums_are_right, flow, read};
use common::world::{OTHER, SELF, TENANTS, THIRD, WEB, kernel_ns, mac};
use common::{Tcp, World, in_netns};

/// A request of a tenant of the service on port 83.
fn of_host(host: &str) -> Vec<u8> {
    format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// The service on port 83, whose routes look at hosts.
fn tenants() -> ServiceEntry {
    let route = |host: &str| Route { host: HostMatch::named(host), pool: 1, ..Route::default() };
    let routes = vec![route("*.example.com"), route("tenant.example.org")];
    ServiceEntry {
        id: ServiceId(3),
        vips: vec![VIP],
        port: 83,
        protocol: Protocol::Http,
        rules: Rules::new(routes, 0, Vec::new()),
        names: NameRules::default(),
        pools: vec![WEB, TENANTS],
        strict: false,
        follows: true,
    }
}

#[test]
fn however_many_hosts_clients_ask_for_the_named_ones_stay_known() {
    node("d", |world, _| {
        let service = tenants();
        for number in 0..20_000 {
            let host = format!("h{number}.example.com");
            world.programs.set_host(&service, &host).expect("room for every host that is seen");
        }
        world.guide(TENANTS, Guide::Rota, &[OTHER], 1);
        let model = world.model.tables.services.get_mut(&(VIP, 83)).expect("known");
        model.hosts.insert("h19999.example.com".to_owned());
        for (host, port) in [("tenant.example.org", 40_001), ("h19999.example.com", 40_002)] {
            let f = Flow { vip_port: 83, ..flow(port) };
            world.flows.push(f);
            let c = Client::connected(world, f);
            let request = c.requests().data(&of_host(host)).frame();
            let counted = ["request_first", "decided_rota", "handoff_sent"];
            case(world, host, &request, Verdict::Redirect, &counted);
        }
    });
}
