//! What the parts of a cluster file mean together: names and addresses that clash, roles that
//! nobody has, tables that would overflow. Called by `parse`, once everything has been read.

use crate::draft::{Draft, NodeDraft};
use crate::read::{Located, Problems};
use crate::unique::{Seen, unique_names};
use crate::{Cluster, NodeId, Roles, ServiceId, pool_check};

/// Reports everything that is wrong between parts of the file.
pub(crate) fn together(draft: &Draft, problems: &mut Problems) {
    counts(draft, problems);
    names(draft, problems);
    addresses(draft, problems);
    ports(draft, problems);
    roles(&draft.nodes, problems);
    pool_check::together(draft, problems);
}

fn counts(draft: &Draft, problems: &mut Problems) {
    if let Some(node) = draft.nodes.get(NodeId::MAX_NODES) {
        let (count, max) = (draft.nodes.len(), NodeId::MAX_NODES);
        problems.add(
            node.line,
            format_args!("there are {count} nodes, {max} are the most"),
            "make it several clusters",
        );
    }
    if let Some(service) = draft.services.get(ServiceId::MAX_SERVICES) {
        let (count, max) = (draft.services.len(), ServiceId::MAX_SERVICES);
        let what = format!("there are {count} services, {max} are the most");
        problems.add(service.line, what, "give a service several VIPs, or make it several clusters");
    }
}

fn names(draft: &Draft, problems: &mut Problems) {
    unique_names("node", draft.nodes.iter().map(|node| &node.name), problems);
    unique_names("service", draft.services.iter().map(|service| &service.name), problems);
}

fn addresses(draft: &Draft, problems: &mut Problems) {
    let mut of_nodes = Seen::new();
    for Located { value, line } in draft.nodes.iter().filter_map(|node| node.address) {
        if let Some(first) = of_nodes.before(value, line) {
            let what = format!("a second node has address {value}; the first is on line {first}");
            problems.add(line, what, "give each node its own address");
        }
    }
    let mut all = draft.nodes.iter().filter_map(|node| node.address);
    if let Some(first) = all.next()
        && let Some(other) = all.find(|at| at.value.is_ipv6() != first.value.is_ipv6())
    {
        let (Located { value, line }, first) = (other, first.line);
        let what = format!("{value} is of another address family than that of the node on line {first}");
        problems.add(line, what, "give all nodes IPv4 addresses, or all IPv6 ones; VIPs may be of both");
    }
    let mut of_services = Seen::new();
    for service in &draft.services {
        for Located { value: vip, line } in &service.vips {
            if let Some(node) = of_nodes.line_of(vip) {
                let what = format!("VIP {vip} is the address of the node on line {node}");
                problems.add(*line, what, "choose a VIP that no machine has as its own");
            }
            let Some(Located { value: port, .. }) = service.port else { continue };
            if let Some(first) = of_services.before((*vip, port), service.line) {
                let what = format!("{vip}:{port} is given twice, first in the [[service]] on line {first}");
                problems.add(*line, what, "give each service its own VIP or its own port");
            }
        }
    }
}

fn ports(draft: &Draft, problems: &mut Problems) {
    let clash = draft.services.iter().filter_map(|service| service.port);
    for port in clash.filter(|port| port.value == draft.control_port.value) {
        let what = format!("port {} is both a service's and that of control connections", port.value);
        problems.add(
            port.line,
            what,
            "set another control_port in [cluster]: web servers listen on the nodes' addresses too",
        );
    }
}

fn roles(nodes: &[NodeDraft], problems: &mut Problems) {
    let dispatchers: Vec<_> =
        nodes.iter().filter_map(|node| node.roles).filter(|roles| roles.value.dispatcher).collect();
    if let Some(Located { line, .. }) = dispatchers.get(Cluster::DISPATCHERS_MAX) {
        let (count, max) = (dispatchers.len(), Cluster::DISPATCHERS_MAX);
        problems.add(
            *line,
            format_args!("{count} nodes are dispatchers, {max} are the most"),
            "one decides, and the others stand by: two or three are enough; take the role from the others",
        );
    }
    // A node whose roles could not be read may be the one that is missed below.
    let all: Option<Vec<Roles>> = nodes.iter().map(|node| node.roles.map(|at| at.value)).collect();
    let Some(all) = all.filter(|all| !all.is_empty()) else { return };
    let mut need = |name: &str, has: fn(&Roles) -> bool| {
        if !all.iter().any(has) {
            let line = nodes.first().map(|node| node.line);
            let help = format!("add \"{name}\" to the roles of a node");
            problems.add(line, format_args!("no node is {name}"), help);
        }
    };
    need("distributor", |roles| roles.distributor);
    need("dispatcher", |roles| roles.dispatcher);
    need("server", |roles| roles.server);
}
