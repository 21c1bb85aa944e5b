//! Identifiers that every part of Baton shares. They are small numbers, because they travel in packets,
//! maps and messages; names are for people.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

/// A service, by its number on this node: its place in the cluster file, until the file changes while the
/// node runs ([`crate::Succession`]). No two versions of a service have the same. Never told to
/// other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceId(pub u16);

impl ServiceId {
    /// The most services one cluster may have.
    pub const MAX_SERVICES: usize = 16;
}

/// A pool, a set of servers with a policy of its own, by its number on this node: its place in the cluster
/// file over all services, until the file changes while the node runs ([`crate::Succession`]); a pool that stays keeps its number. Other nodes know it by its [`PoolHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolId(pub u16);

impl PoolId {
    /// The most pools one cluster file may have, over all services.
    pub const MAX_POOLS: usize = 64;

    /// Numbers below this are given: as many again for the pools of services that have left the file and
    /// have connections still.
    pub const NUMBERS: usize = 2 * Self::MAX_POOLS;
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}", self.0)
    }
}

/// A pool as nodes speak of it to each other: a hash of its service's name and its own, so that it is the
/// same whichever other pools a node's cluster file has at the moment. A file in which two pools have the
/// same is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolHash(pub u32);

impl PoolHash {
    /// The hash of the pool of these names: the first four bytes of SHA-256 over both, each after its
    /// length in bytes, as a byte.
    pub fn of(service: &str, pool: &str) -> Self {
        let mut hash = Sha256::new();
        for name in [service, pool] {
            // Names are of 32 bytes at most.
            hash.update([u8::try_from(name.len()).unwrap_or(u8::MAX)]);
            hash.update(name);
        }
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
        Self(u32::from_be_bytes([a, b, c, d]))
    }
}

impl fmt::Display for PoolHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {:08x}", self.0)
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
