//! What kernel and user space share, as Rust sees it: the types come from the programs' BTF, the
//! constants from the one header. The only other file with `unsafe` here is [`crate::programs`].
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
pub(crate) unsafe trait Shared: Copy {}

// SAFETY: each is repr(C), made of integers only, and the header asserts that none has padding
// (explicit `pad` fields); tests::no_padding checks the sizes that Rust sees.
unsafe impl Shared for types::flow_key {}
// SAFETY: as above.
unsafe impl Shared for types::binding {}
// SAFETY: as above.
unsafe impl Shared for types::service_key {}
// SAFETY: as above.
unsafe impl Shared for types::service {}
// SAFETY: as above.
unsafe impl Shared for types::pool {}
// SAFETY: as above.
unsafe impl Shared for types::host_key {}
// SAFETY: as above.
unsafe impl Shared for types::hosts {}
// SAFETY: as above.
unsafe impl Shared for types::route_key {}
// SAFETY: as above.
unsafe impl Shared for types::route {}
// SAFETY: as above.
unsafe impl Shared for types::exchange {}
// SAFETY: as above.
unsafe impl Shared for types::guide {}
// SAFETY: as above.
unsafe impl Shared for types::decision_key {}
// SAFETY: as above.
unsafe impl Shared for types::decision {}
// SAFETY: as above.
unsafe impl Shared for types::load {}
// SAFETY: as above.
unsafe impl Shared for types::node {}
// SAFETY: as above.
unsafe impl Shared for types::live {}
// SAFETY: as above.
unsafe impl Shared for types::keys {}
// SAFETY: as above.
unsafe impl Shared for types::event {}
// SAFETY: as above.
unsafe impl Shared for types::order {}
// SAFETY: integers.
unsafe impl Shared for u16 {}
// SAFETY: integers.
unsafe impl Shared for u32 {}
// SAFETY: integers.
unsafe impl Shared for u64 {}

pub(crate) fn as_bytes<T: Shared>(value: &T) -> &[u8] {
    // SAFETY: Shared promises that all bytes of T are initialised; the lifetime is the borrow's.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

pub(crate) fn as_bytes_mut<T: Shared>(value: &mut T) -> &mut [u8] {
    // SAFETY: as in as_bytes, and every bit pattern written is valid for T.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// The value whose bytes these are; `None` when there are not exactly enough of them.
pub(crate) fn from_bytes<T: Shared>(bytes: &[u8]) -> Option<T> {
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

pub(crate) fn key_of(flow: &Flow) -> types::flow_key {
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
    fn no_padding() {
        assert_eq!(size_of::<types::flow_key>(), 36);
        assert_eq!(size_of::<types::binding>(), 24 + 9 * 4 + 6 * 2 + 4 + 4);
        assert_eq!(size_of::<types::service_key>(), 20);
        assert_eq!(size_of::<types::service>(), 8);
        assert_eq!(size_of::<types::pool>(), 32 + 8);
        assert_eq!(size_of::<types::host_key>(), 16);
        assert_eq!(size_of::<types::hosts>(), 8);
        assert_eq!(size_of::<types::route_key>(), 12 + 128);
        assert_eq!(size_of::<types::route>(), 4);
        assert_eq!(size_of::<types::exchange>(), 2 * 24 + 8 * 4 + 8 + 16);
        assert_eq!(size_of::<types::guide>(), 16);
        assert_eq!(size_of::<types::decision_key>(), 16);
        assert_eq!(size_of::<types::decision>(), 24);
        assert_eq!(size_of::<types::load>(), 16);
        assert_eq!(size_of::<types::node>(), 24);
        assert_eq!(size_of::<types::live>(), 24);
        assert_eq!(size_of::<types::keys>(), 64);
        assert_eq!(size_of::<types::event>(), 36 + 4 + 8 + 8);
        assert_eq!(size_of::<types::order>(), 36 + 4 + 8 + 4 + 8 + 4);
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
