//! The part of `judge` that is about firewalls: rules that drop connections which begin without a SYN, or
//! that let nothing in. Pure.

use crate::Wanted;
use crate::facts::{Facts, Interface};
use crate::finding::{Finding, Severity};
use crate::firewall::{Firewall, Rule, meets};
use crate::sysctl::{BRIDGE_NETFILTER, BRIDGE_NETFILTER_V6, CONNTRACK_LOOSE, Sysctl};

/// The findings about packet filters and the tracking of connections.
pub(crate) fn firewall(wanted: &Wanted, facts: &Facts, findings: &mut Vec<Finding>) {
    let rules = match &facts.firewall {
        Some(Ok(rules)) => Some(rules),
        Some(Err(why)) => {
            let what = format!(
                "the firewall's rules cannot be read ({why}); one that wants each connection to begin with SYN drops handed-off ones"
            );
            findings.push(Finding::warning(
                "firewall",
                what,
                "run it as root, with nftables installed: apt install nftables",
            ));
            None
        }
        None => return,
    };
    if let Some(rules) = rules {
        if wanted.adopts() {
            findings.extend(new_not_syn(wanted, rules));
        }
        if wanted.is_server {
            findings.extend(translated(wanted, rules));
        }
        findings.extend(closed_ports(wanted, rules));
        findings.extend(deaf_to_neighbours(wanted, rules));
    }
    if wanted.adopts() {
        findings.extend(conntrack(facts, rules));
    }
}

fn new_not_syn(wanted: &Wanted, firewall: &Firewall) -> Vec<Finding> {
    const ID: &str = "firewall-new-not-syn";
    let rules = || firewall.rules.iter().filter(|rule| meets_clients(wanted, &rule.table));
    let place = |rule: &Rule| format!("`{}` in {} {}", rule.text, rule.table, rule.chain);
    let dropping = rules().filter(|rule| rule.drops_new_without_syn()).map(|rule| {
        Finding::error(
            ID,
            format!("the rule {} drops every handed-off connection", place(rule)),
            rule.delete.clone(),
        )
    });
    let narrow = |rule: &&Rule| rule.accepts_only_syn() && firewall.drop_by_default.contains(&rule.table);
    let accepting = rules().filter(narrow).map(|rule| {
        let what = format!(
            "the rule {} accepts only connections that begin with SYN, and the table drops by default",
            place(rule)
        );
        Finding::warning(
            ID,
            what,
            format!("{}; then add it again without the condition on flags", rule.delete),
        )
    });
    let found: Vec<_> = dropping.chain(accepting).collect();
    if found.is_empty() {
        vec![Finding::ok(ID, "no rule wants new connections to begin with SYN")]
    } else {
        found
    }
}

/// A web server that is reached by translation alone (docker -p, REDIRECT) is no listener of the VIP: what is adopted for it
/// is translated away.
fn translated(wanted: &Wanted, firewall: &Firewall) -> Vec<Finding> {
    let vips: Vec<_> = wanted.vips().collect();
    let rules = firewall.rules.iter().filter(|rule| meets_clients(wanted, &rule.table));
    let by = |rule: &Rule| wanted.ports.iter().copied().find(|port| rule.translates_port(*port, &vips));
    let found = rules.filter_map(|rule| Some((rule, by(rule)?))).map(|(rule, port)| {
        let what = format!(
            "the rule `{}` in {} {} sends packets to TCP port {port} on to another port or address: no connection can be \
             adopted for what is behind it",
            rule.text, rule.table, rule.chain
        );
        let mend = format!(
            "let the web server listen on port {port} of this machine itself (docker run --network host), then: {}",
            rule.delete
        );
        Finding::error("firewall-nat", what, mend)
    });
    found.collect()
}

/// Whether clients' packets of this node meet the rules of this table.
fn meets_clients(wanted: &Wanted, table: &str) -> bool {
    wanted.vips().any(|vip| meets(table, vip.is_ipv6()))
}

/// The handoff port is not asked for: its packets are taken before the firewall sees them.
fn closed_ports(wanted: &Wanted, firewall: &Firewall) -> Vec<Finding> {
    let mut findings = Vec::new();
    for table in &firewall.drop_by_default {
        let of_table = firewall.rules.iter().filter(|rule| rule.table == *table);
        let control = Some(&wanted.control_port).filter(|_| meets(table, wanted.address.is_ipv6()));
        let services = wanted.ports.iter().filter(|_| wanted.adopts() && meets_clients(wanted, table));
        for port in control.into_iter().chain(services) {
            if !of_table.clone().any(|rule| rule.may_accept_port(*port)) {
                let what = format!(
                    "the table {table} drops what no rule accepts, and none seems to accept TCP port {port}"
                );
                let mend =
                    accept(table, firewall, &format!("tcp dport {port}"), &format!("tcp --dport {port}"));
                findings.push(Finding::warning("firewall-port", what, mend));
            }
        }
    }
    findings
}

/// ARP never meets a firewall; Neighbour Discovery does, and so does the news of a path's MTU.
fn deaf_to_neighbours(wanted: &Wanted, firewall: &Firewall) -> Vec<Finding> {
    let closed = |table: &&String| {
        let mut of_table = firewall.rules.iter().filter(|rule| rule.table == **table);
        wanted.needs_ipv6() && meets(table, true) && !of_table.any(Rule::may_accept_neighbours)
    };
    let deaf = firewall.drop_by_default.iter().filter(closed).map(|table| {
        let what = format!(
            "the table {table} drops what no rule accepts, and none seems to accept ICMPv6: no neighbour finds this node's IPv6 addresses"
        );
        let mend = accept(table, firewall, "meta l4proto ipv6-icmp", "ipv6-icmp");
        Finding::warning("firewall-neighbours", what, mend)
    });
    deaf.collect()
}

/// The command that accepts some packets, which each tool has its own words for.
fn accept(table: &str, firewall: &Firewall, nft: &str, iptables: &str) -> String {
    match table.split_once(' ') {
        Some((tool @ ("iptables" | "ip6tables"), name)) => {
            format!("{tool} -t {name} -I INPUT -p {iptables} -j ACCEPT")
        }
        _ => {
            let at_input = |rule: &&Rule| rule.table == table && rule.hook.as_deref() == Some("input");
            let chain = firewall.rules.iter().find(at_input).map_or("input", |rule| rule.chain.as_str());
            format!("nft insert rule {table} {chain} {nft} accept")
        }
    }
}

/// Without looseness, connection tracking calls a connection that begins with data invalid.
fn conntrack(facts: &Facts, firewall: Option<&Firewall>) -> Option<Finding> {
    const ID: &str = "conntrack-loose";
    let sysctl = Sysctl::new(CONNTRACK_LOOSE);
    let value = facts.sysctls.get(&sysctl)?;
    if value != "0" {
        return Some(Finding::ok(ID, format!("{sysctl} is {value}")));
    }
    let what =
        format!("{sysctl} is 0: a firewall that looks at the state of connections drops handed-off ones");
    let finding = Finding::error(ID, what, sysctl.command("1"));
    let in_use = firewall.is_none_or(|firewall| firewall.rules.iter().any(Rule::tracks_connections));
    Some(Finding { severity: if in_use { Severity::Error } else { Severity::Warning }, ..finding })
}

/// Whether bridged packets meet rules that were not written for them.
pub(crate) fn bridge(wanted: &Wanted, facts: &Facts, interfaces: &[Interface], findings: &mut Vec<Finding>) {
    let Some(bridged) = interfaces.iter().find(|interface| interface.bridged) else { return };
    let families = [(BRIDGE_NETFILTER, true), (BRIDGE_NETFILTER_V6, wanted.needs_ipv6())];
    for (name, _) in families.into_iter().filter(|(_, needed)| *needed) {
        let sysctl = Sysctl::new(name);
        let Some(value) = facts.sysctls.get(&sysctl) else { continue };
        findings.push(if value == "0" {
            Finding::ok("bridge-netfilter", format!("{sysctl} is 0"))
        } else {
            let what = format!(
                "{sysctl} is {value}: packets that {} bridges run through the firewall's forward rules",
                bridged.name
            );
            Finding::warning("bridge-netfilter", what, sysctl.command("0"))
        });
    }
}
