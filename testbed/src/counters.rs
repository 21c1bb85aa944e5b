//! What has gone over an interface, as the kernel counts it. Read by [`crate::netns`]; pure.

use std::ops::Sub;

/// Bytes (with Ethernet headers) and packets over one interface. A segmentation super-packet
/// counts as one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
}

impl Sub for Counters {
    type Output = Self;

    /// What went over the interface between two readings.
    fn sub(self, earlier: Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes - earlier.rx_bytes,
            rx_packets: self.rx_packets - earlier.rx_packets,
            tx_bytes: self.tx_bytes - earlier.tx_bytes,
            tx_packets: self.tx_packets - earlier.tx_packets,
        }
    }
}

/// The counters of one interface in the text of `/proc/net/dev`.
pub(crate) fn parse(text: &str, interface: &str) -> Option<Counters> {
    let line = text.lines().find_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        (name.trim() == interface).then_some(numbers)
    })?;
    let numbers: Vec<u64> = line.split_whitespace().map_while(|number| number.parse().ok()).collect();
    Some(Counters {
        rx_bytes: *numbers.first()?,
        rx_packets: *numbers.get(1)?,
        tx_bytes: *numbers.get(8)?,
        tx_packets: *numbers.get(9)?,
    })
}

/// A counter by name in the text of `/proc/net/snmp` and `/proc/net/netstat`, where lines come in
/// pairs: names, then numbers.
pub(crate) fn named(text: &str, name: &str) -> Option<u64> {
    let lines: Vec<&str> = text.lines().collect();
    lines.chunks_exact(2).find_map(|pair| {
        let column = pair[0].split_whitespace().position(|word| word == name)?;
        pair[1].split_whitespace().nth(column)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::{Counters, named, parse};

    #[test]
    fn finds_a_counter_by_its_name() {
        let text = "Ip: Forwarding InReceives\nIp: 1 20\nTcp: MaxConn OutRsts\nTcp: -1 3\n";
        assert_eq!(named(text, "InReceives"), Some(20));
        assert_eq!(named(text, "OutRsts"), Some(3));
        assert_eq!(named(text, "Rsts"), None);
    }

    #[test]
    fn reads_the_line_of_the_interface() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets\n\
            lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n  eth0: 100 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0\n";
        let eth0 = Counters { rx_bytes: 100, rx_packets: 2, tx_bytes: 300, tx_packets: 4 };
        assert_eq!(parse(text, "eth0"), Some(eth0));
        assert_eq!(parse(text, "eth1"), None);
    }
}
