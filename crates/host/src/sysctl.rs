//! A kernel setting by its name, and the reading and writing of it. `/proc/sys/net` shows the network
//! namespace of the thread that reads it.

use std::fmt;
use std::path::PathBuf;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::HostError;

/// Settings that are judged but never changed by us: they are the firewall's, or not of one namespace.
pub(crate) const BPF_JIT: &str = "net/core/bpf_jit_enable";
pub(crate) const CONNTRACK_LOOSE: &str = "net/netfilter/nf_conntrack_tcp_loose";
pub(crate) const BRIDGE_NETFILTER: &str = "net/bridge/bridge-nf-call-iptables";
pub(crate) const BRIDGE_NETFILTER_V6: &str = "net/bridge/bridge-nf-call-ip6tables";
/// A kernel that speaks IPv6 has this setting.
pub(crate) const IPV6: &str = "net/ipv6/conf/all/disable_ipv6";

/// A kernel setting, by its path below `/proc/sys`, such as `net/ipv4/tcp_sack`. Interface names may
/// hold dots, so the path is kept and the dotted form is only shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sysctl(String);

impl Sysctl {
    /// The setting at this path below `/proc/sys`.
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    /// The IPv4 setting `key` of one interface, or of `all`.
    pub fn of_interface(interface: &str, key: &str) -> Self {
        Self(format!("net/ipv4/conf/{interface}/{key}"))
    }

    /// The IPv6 setting `key` of one interface, or of `all`.
    pub fn of_interface_v6(interface: &str, key: &str) -> Self {
        Self(format!("net/ipv6/conf/{interface}/{key}"))
    }

    /// The value now, without the newline; `None` when this kernel or namespace has no such setting.
    ///
    /// # Errors
    /// [`HostError::Sysctl`] when it exists but cannot be read.
    pub fn read(&self) -> Result<Option<String>, HostError> {
        match fs::read_to_string(self.path()) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HostError::Sysctl { doing: "read", name: self.to_string(), source }),
        }
    }

    /// Sets the value.
    ///
    /// # Errors
    /// [`HostError::Sysctl`] when it does not exist or may not be written.
    pub fn write(&self, value: &str) -> Result<(), HostError> {
        fs::write(self.path(), value).map_err(|source| HostError::Sysctl {
            doing: "write",
            name: self.to_string(),
            source,
        })
    }

    /// The command by which an operator sets it.
    pub fn command(&self, value: &str) -> String {
        format!("sysctl -w {self}={value}")
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/proc/sys").join(&self.0)
    }
}

/// The name as sysctl(8) takes it: dotted, or with slashes when a part holds a dot itself.
impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains('.') { f.write_str(&self.0) } else { f.write_str(&self.0.replace('/', ".")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_a_name_that_sysctl_understands() {
        assert_eq!(Sysctl::new("net/ipv4/tcp_sack").to_string(), "net.ipv4.tcp_sack");
        let vlan = Sysctl::of_interface("eth0.100", "rp_filter");
        assert_eq!(vlan.command("2"), "sysctl -w net/ipv4/conf/eth0.100/rp_filter=2");
    }

    #[test]
    fn a_missing_setting_is_none() {
        assert_eq!(Sysctl::new("net/ipv4/no_such_setting").read().expect("readable"), None);
    }
}
