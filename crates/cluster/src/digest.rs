//! One number for what a cluster file means. Two files that differ only in comments, spaces, the
//! order of keys, or defaults written out have the same; every other difference shows. Nodes
//! compare it when they meet.

use sha2::{Digest, Sha256};

use crate::{Cluster, Node, Service};

/// Names the encoding below; to be changed with it.
const VERSION: &str = "baton cluster 1";

impl Cluster {
    /// SHA-256 of what the file means. The order of nodes, services and VIPs has a meaning, that
    /// of roles and interfaces has none. Of the secret only a derived value goes in.
    pub fn digest(&self) -> [u8; 32] {
        let mut canon = Canon(Sha256::new());
        canon.text(VERSION);
        canon.text(&self.name);
        canon.bytes(&self.derive::<32>("baton/1 digest"));
        canon.number(self.failure_timeout.as_millis());
        canon.number(self.control_port);
        canon.number(self.handoff_port);
        canon.list(&self.nodes, Canon::node);
        canon.list(&self.services, Canon::service);
        canon.number(self.limits.bindings);
        canon.number(self.limits.decisions);
        canon.number(self.limits.held_packets);
        canon.0.finalize().into()
    }
}

/// What is hashed: numbers in 16 bytes, everything of variable length after its length, so that no
/// two meanings have the same bytes.
struct Canon(Sha256);

impl Canon {
    fn node(&mut self, node: &Node) {
        let mut interfaces = node.interfaces.clone();
        interfaces.sort_unstable();
        self.text(&node.name);
        self.bytes(&node.address.octets());
        self.list(&interfaces, |canon, name| canon.text(name));
        self.text(&node.roles.to_string());
        self.number(node.weight);
        self.number(node.announce);
    }

    fn service(&mut self, service: &Service) {
        self.text(&service.name);
        self.list(&service.vips, |canon, vip| canon.bytes(&vip.octets()));
        self.number(service.port);
        self.text(service.policy.kind.name());
        self.number(service.policy.t_low);
        self.number(service.policy.t_high);
        self.number(service.policy.k.as_millis());
        self.text(service.consult.name());
        self.text(service.key.name());
    }

    fn list<T>(&mut self, items: &[T], mut one: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| one(self, item));
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn number(&mut self, number: impl Into<u128>) {
        self.0.update(number.into().to_be_bytes());
    }
}
