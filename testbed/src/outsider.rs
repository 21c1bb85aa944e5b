//! A machine near the nodes that is none of them: on their link, or on one of its own at their router.

use crate::host::Host;
use crate::network::Family;
use crate::topology::{Testbed, link};

/// Where its address ends, and where its own link is in a routed layout: above all nodes.
const PLACE: u8 = 200;

impl Testbed {
    /// Adds a machine to the nodes' network, which is in no cluster file. The bridge does not learn
    /// addresses from its frames, whoever they claim to be from, as a switch with port security does not.
    ///
    /// # Panics
    /// When there is one already.
    #[track_caller]
    pub fn outsider(&self) -> Host {
        let network = self.network();
        let [gateways, addresses] =
            [1, PLACE].map(|last| Family::ALL.map(|f| network.on_node_link(f, PLACE.into(), last)));
        let outsider = Host::new("outsider".into(), network.nodes, addresses, self.cpu());
        let router = self.router();
        link((&outsider, "eth0"), (router, "to-outsider"));
        if network.is_routed() {
            router.ip("link set to-outsider up");
            router.add_addresses(gateways, "to-outsider");
        } else {
            router.ip("link set to-outsider master br0 up");
            router.run("bridge", "link set dev to-outsider learning off".split(' '));
        }
        outsider.ip("link set eth0 up");
        outsider.add_addresses(addresses, "eth0");
        gateways.iter().for_each(|gateway| drop(outsider.ip(&format!("route add default via {gateway}"))));
        outsider
    }
}
