//! The cluster's secret and the keys that derive from it. Every use has a key of its own, so that
//! what one of them leaks tells nothing of the others. Never prints a secret or a key.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

use crate::Cluster;

/// The secret that all nodes of a cluster share. Its text leaves this module only as keys.
#[derive(Clone)]
pub(crate) struct Secret(String);

/// Keys of one cluster, each for one use. Equal on every node with the same name and secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// SipHash key of the SYN cookies.
    pub cookie: [u64; 2],
    /// SipHash key of the offsets of TCP timestamp clocks.
    pub clock: [u64; 2],
    /// SipHash key that authenticates handoff metadata in packets.
    pub handoff: [u64; 2],
    /// Key of the hash that makes a target from a request's key.
    pub target: u64,
    /// Pre-shared key of control connections.
    pub control_psk: [u8; 32],
}

impl Cluster {
    /// The cluster's keys: HKDF-SHA256 (RFC 5869) of the secret, salted with the cluster's name,
    /// one info label a key. Integers are read in little-endian order.
    pub fn keys(&self) -> Keys {
        Keys {
            cookie: words(self.derive("baton/1 cookie")),
            clock: words(self.derive("baton/1 clock")),
            handoff: words(self.derive("baton/1 handoff")),
            target: u64::from_le_bytes(self.derive("baton/1 target")),
            control_psk: self.derive("baton/1 control psk"),
        }
    }

    /// `N` bytes for the use that `label` names.
    pub(crate) fn derive<const N: usize>(&self, label: &str) -> [u8; N] {
        let mut key = [0; N];
        Hkdf::<Sha256>::new(Some(self.name.as_bytes()), self.secret.0.as_bytes())
            .expand(label.as_bytes(), &mut key)
            .expect("no key is longer than the 8,160 bytes that HKDF-SHA256 can give");
        key
    }
}

/// Two little-endian words, as SipHash takes its key.
fn words(bytes: [u8; 16]) -> [u64; 2] {
    let key = u128::from_le_bytes(bytes);
    [key as u64, (key >> 64) as u64]
}

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}
