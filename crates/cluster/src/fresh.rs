//! The file that `baton init` writes.

use crate::Cluster;

impl Cluster {
    /// A commented starting file for a cluster of this name, with this secret.
    pub fn fresh(name: &str, secret: &str) -> String {
        format!("{name}{secret}")
    }
}
