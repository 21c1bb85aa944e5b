//! What kernel and user space share, as Rust sees it: the types come from the programs' BTF, the
//! constants from the one header.
#![allow(unsafe_code, reason = "map keys and values are passed to the kernel as bytes")]

use std::mem::size_of;
use std::net::{IpAddr, Ipv6Addr};

use baton_cluster::Flow;

pub(crate) use crate::skel::types;

/// Limits, times, roles, states and flags: `bpf/datapath.h`, taken over by the build.
pub mod constants {
    include!(concat!(env!("OUT_DIR"), "/constants.rs"));
}

/// A type that a map's key or value may be.
///
/// # Safety
/// `repr(C)`, no padding, every bit pattern valid: so it may be read and written as bytes.
pub unsafe trait Shared: Copy {}

/// The types of maps, events and orders, and how many bytes each has: as many as its fields together, which the header
/// asserts for C (`_Static_assert`) and this for Rust.
macro_rules! shared {
    ($($name:ident: $bytes:expr),+ $(,)?) => {$(
        // SAFETY: it is repr(C) and made of integers only; its size, asserted below, is the sum of its fields',
        // so none of it is padding.
        unsafe impl Shared for types::$name {}
        const _: () = assert!(size_of::<types::$name>() == $bytes);
    )+};
}

shared! {
    flow_key: 2 * 16 + 2 * 2,
    binding: 3 * 8 + 9 * 4 + 6 * 2 + 4 + 4 + 8,
    service_key: 16 + 4,
    service: 8,
    pool: 32 + 8,
    host_key: 16,
    hosts: 8,
    route_key: 16 + 128,
    route: 4,
    exchange: 2 * 24 + 8 * 4 + 8 + 24 + 8,
    guide: 16,
    decision_key: 16,
    decision: 24,
    load: 16,
    node: 24,
    live: 32,
    keys: 64,
    lease: 16,
    maker: 8,
    spread: 2 * 8 + 2 * 4,
    event: 36 + 4 + 4 * 2 + 8,
    order: 36 + 4 + 8 + 4 + 4 * 2 + 4,
    begun: 36 + 3 * 4 + 2 * 2,
    budget: 8,
    sweep: 16,
    passed: 2 * 8,
}

// SAFETY: integers.
unsafe impl Shared for u16 {}
// SAFETY: integers.
unsafe impl Shared for u32 {}
// SAFETY: integers.
unsafe impl Shared for u64 {}

/// A value as the kernel takes it.
pub fn as_bytes<T: Shared>(value: &T) -> &[u8] {
    // SAFETY: Shared promises that all bytes of T are initialised; the lifetime is the borrow's.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A value that the kernel writes to.
pub fn as_bytes_mut<T: Shared>(value: &mut T) -> &mut [u8] {
    // SAFETY: as in as_bytes, and every bit pattern written is valid for T.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// The value whose bytes these are; `None` when there are not exactly enough of them.
pub fn from_bytes<T: Shared>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the length is right, every bit pattern is valid, and read_unaligned needs no alignment.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// An address as the maps keep it: in network byte order, an IPv4 one v4-mapped (RFC 4291 2.5.5.2).
pub(crate) fn addr_of(address: IpAddr) -> types::addr {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bits = v6.to_bits();
    types::addr { w: [96, 64, 32, 0].map(|shift| ((bits >> shift) as u32).to_be()) }
}

pub(crate) fn ip_of(a: types::addr) -> IpAddr {
    let bits = a.w.iter().fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(*word)));
    Ipv6Addr::from_bits(bits).to_canonical()
}

/// A flow as the maps' key.
pub fn key_of(flow: &Flow) -> types::flow_key {
    types::flow_key {
        client: addr_of(flow.client),
        vip: addr_of(flow.vip),
        client_port: flow.client_port.to_be(),
        vip_port: flow.vip_port.to_be(),
    }
}

pub(crate) fn flow_of(key: &types::flow_key) -> Flow {
    Flow {
        client: ip_of(key.client),
        vip: ip_of(key.vip),
        client_port: u16::from_be(key.client_port),
        vip_port: u16::from_be(key.vip_port),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// The tables have room for what a cluster file may have.
    #[test]
    fn limits_are_those_of_cluster_files() {
        use baton_cluster::{NodeId, PoolId, Service, ServiceId};
        let limit = |n: usize| u32::try_from(n).expect("small");
        assert_eq!(constants::MAX_NODES, limit(NodeId::MAX_NODES));
        assert_eq!(constants::MAX_SERVICES, limit(ServiceId::MAX_SERVICES));
        assert_eq!(constants::MAX_VIPS, limit(Service::MAX_VIPS));
        assert_eq!(constants::MAX_ROUTES, limit(Service::MAX_ROUTES));
        assert_eq!(constants::MAX_METHODS, limit(Service::MAX_METHODS));
        assert_eq!(constants::MAX_POOLS, 2 * limit(PoolId::MAX_POOLS));
    }

    #[test]
    fn flows_survive_the_way_through_bytes() {
        let v4 = (Ipv4Addr::new(10, 2, 0, 2).into(), Ipv4Addr::new(10, 99, 0, 1).into());
        let v6 = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, last));
        for (client, vip) in [v4, (v6(6), v6(7))] {
            let flow = Flow { client, client_port: 40_000, vip, vip_port: 80 };
            let key = key_of(&flow);
            let back: types::flow_key = from_bytes(as_bytes(&key)).expect("the length is right");
            assert_eq!(flow_of(&back), flow);
            assert!(from_bytes::<types::flow_key>(&as_bytes(&key)[1..]).is_none());
        }
    }
}
