//! Identifiers that every part of Baton shares. They are small numbers, given by the order of the
//! cluster file, because they travel in packets, maps and messages; names are for people.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A node, by its place in the cluster file (0 is the first `[[node]]`). At most [`NodeId::MAX_NODES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u16);

impl NodeId {
    /// The most nodes one cluster may have: the size of the kernel's node and load tables.
    pub const MAX_NODES: usize = 256;

    /// The node's place in a table of nodes.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// A service, by its place in the cluster file. At most [`ServiceId::MAX_SERVICES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceId(pub u16);

impl ServiceId {
    /// The most services one cluster may have.
    pub const MAX_SERVICES: usize = 16;

    /// The service's place in a table of services.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A pool: a set of servers with a policy of its own. Numbered over all services, in the order of the
/// cluster file: the pools of the first service come first. At most [`PoolId::MAX_POOLS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolId(pub u16);

impl PoolId {
    /// The most pools one cluster may have, over all services.
    pub const MAX_POOLS: usize = 64;

    /// The pool's place in a table of pools.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}", self.0)
    }
}

/// What is requested, as the policies see it: a keyed 64-bit hash of the request's key (ATC'00 5.4
/// sends 32 bits; 64 make collisions of popular targets improbable).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target(pub u64);

/// One client connection: who talks to which VIP and port. Host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The service's address that the client connected to.
    pub vip: IpAddr,
    /// The service's port.
    pub vip_port: u16,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} -> {}:{}", self.client, self.client_port, self.vip, self.vip_port)
    }
}
