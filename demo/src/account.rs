//! Where the bytes went, counted from outside: by nftables on the router's bridge, whose ports are
//! the cables to the switch and to the nodes. Nothing that Baton runs can pass a packet by these
//! counters, nor is any of them Baton's.

use baton_testbed::Host;
use serde_json::Value;

use crate::site::{NODES, Site, VIP};

/// The counters, each with the packets it counts: where they are met, and which they are.
const COUNTERS: [(&str, Place, &str); 5] = [
    // A node sends from the VIP: a response, a handshake's answer.
    ("served", Place::FromNodes, "ip saddr @VIP@"),
    ("resets", Place::FromNodes, "ip saddr @VIP@ tcp flags & rst == rst ip daddr . tcp dport != @closed"),
    // Something from the VIP goes to where it has no business.
    ("through_switch", Place::ToSwitch, "ip saddr @VIP@"),
    ("through_distributors", Place::ToNodes, "ip saddr @VIP@"),
    // What the switch is there for: requests and acknowledgements.
    ("requests_through_switch", Place::ToSwitch, "ip daddr @VIP@"),
];

/// The clients' ends of connections that they have closed: nothing that comes then is a client's. Frames that are late on a
/// slow machine find the servers' sockets gone, and their kernels answer them with a RST (RFC 9293 3.10.7.1).
const CLOSED: &str =
    "set closed { type ipv4_addr . inet_service; flags dynamic,timeout; size 65536; timeout 2m; }; ";
/// A port that is used again is not closed any more.
const CLOSES: &str = "ip daddr @VIP@ tcp flags & syn == syn delete @closed { ip saddr . tcp sport }; \
    ip daddr @VIP@ tcp flags & fin == fin update @closed { ip saddr . tcp sport }; ";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    FromNodes,
    ToNodes,
    ToSwitch,
}

/// What went over the cables since counting began, in IP bytes with headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// From the VIP, as the nodes sent it.
    pub served: u64,
    /// From the VIP, to the switch.
    pub through_switch: u64,
    /// From the VIP, to a node: one that is in the way.
    pub through_distributors: u64,
    /// For the VIP, to the switch.
    pub requests_through_switch: u64,
    /// RST packets from the VIP to clients that have not closed their connections.
    pub resets: u64,
}

/// Running counters.
#[derive(Debug)]
pub struct Account<'a> {
    router: &'a Host,
}

impl<'a> Account<'a> {
    /// Begins to count.
    ///
    /// # Panics
    /// When nftables is not installed, or the kernel refuses the rules.
    pub fn open(site: &'a Site) -> Self {
        site.router().run("nft", [rules(site.switch().name()).as_str()]);
        Self { router: site.router() }
    }

    /// What has been counted so far.
    ///
    /// # Panics
    /// When nftables does not tell.
    pub fn read(&self) -> Reading {
        let text = self.router.run("nft", ["-j", "list", "counters", "table", "bridge", "account"]);
        let value = serde_json::from_str(&text).unwrap_or_default();
        reading(&value).unwrap_or_else(|| panic!("cannot read nft's counters:\n{text}"))
    }
}

fn rules(switch: &str) -> String {
    let ports: Vec<String> = NODES.iter().map(|node| format!("\"to-{node}\"")).collect();
    let ports = ports.join(", ");
    let counters: String = COUNTERS.iter().map(|(name, ..)| format!("counter {name} {{ }}; ")).collect();
    let chain = |wanted: &dyn Fn(Place) -> bool| -> String {
        let of_chain = COUNTERS.iter().filter(|(_, place, _)| wanted(*place));
        let rules = of_chain.map(|(name, place, packets)| {
            let place = match place {
                Place::FromNodes => format!("iifname {{ {ports} }}"),
                Place::ToNodes => format!("oifname {{ {ports} }}"),
                Place::ToSwitch => format!("oifname \"to-{switch}\""),
            };
            format!("{place} {} counter name {name}; ", packets.replace("@VIP@", &VIP.to_string()))
        });
        rules.collect()
    };
    let closes = CLOSES.replace("@VIP@", &VIP.to_string());
    let arriving = chain(&|place| place == Place::FromNodes);
    let leaving = chain(&|place| place != Place::FromNodes);
    format!(
        "table bridge account {{ {CLOSED}{counters}\
         chain arriving {{ type filter hook prerouting priority 0; {closes}{arriving} }}; \
         chain leaving {{ type filter hook postrouting priority 0; {leaving} }}; }}"
    )
}

fn reading(value: &Value) -> Option<Reading> {
    let all = value.get("nftables")?.as_array()?;
    let find = |name: &str, what: &str| {
        let mut counters = all.iter().filter_map(|entry| entry.get("counter"));
        counters.find(|counter| counter.get("name").is_some_and(|n| n == name))?.get(what)?.as_u64()
    };
    Some(Reading {
        served: find("served", "bytes")?,
        through_switch: find("through_switch", "bytes")?,
        through_distributors: find("through_distributors", "bytes")?,
        requests_through_switch: find("requests_through_switch", "bytes")?,
        resets: find("resets", "packets")?,
    })
}
