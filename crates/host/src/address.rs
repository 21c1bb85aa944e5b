//! What is known of an address by looking at it alone: which may be used, and how a VIP is written.
//! Pure. Used by `plan`, `judge`, `link` and `undo`.

use std::net::IpAddr;

use crate::HostError;

/// The length of the prefix, in bits, with which a VIP is held: it stands for no network.
pub(crate) fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

/// Refuses what can be neither a node's address nor a VIP. An address of a link means another one on each
/// link, so it names no host of a cluster (RFC 4007 6); with its zone it is no [`IpAddr`] at all.
pub(crate) fn check(address: IpAddr) -> Result<(), HostError> {
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address written as IPv6",
        _ => return Ok(()),
    };
    Err(HostError::Unusable { address, kind })
}

/// The command by which an operator gives an interface a VIP, as `link` does it.
pub(crate) fn add_command(address: IpAddr, interface: &str) -> String {
    let prefix = host_prefix(address);
    let more = match (address, interface) {
        (IpAddr::V6(_), _) => " nodad preferred_lft 0",
        (IpAddr::V4(_), "lo") => " scope host",
        (IpAddr::V4(_), _) => "",
    };
    format!("ip addr add {address}/{prefix} dev {interface}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_addresses_name_no_host_of_a_cluster() {
        let check = |text: &str| check(text.parse().expect("an address"));
        for refused in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "ff0e::1",
            "fe80::1",
            "febf::1",
            "::ffff:10.99.0.1",
        ] {
            let error = check(refused).expect_err(refused);
            assert!(error.to_string().starts_with(&format!("{refused} is ")), "{error}");
        }
        for usable in ["10.99.0.1", "192.0.2.1", "fd00:99::1", "2001:db8::80", "fec0::1"] {
            check(usable).expect(usable);
        }
        assert!("fe80::1%eth0".parse::<IpAddr>().is_err(), "a zone is no part of an address");
    }
}
