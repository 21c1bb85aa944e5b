//! The programs and tables themselves: for `baton-packet-model`, which runs a program on a single packet and compares
//! every field. Nothing in the daemon uses it.

pub use crate::map::{get, put};
pub use crate::shared::{Shared, as_bytes, as_bytes_mut, from_bytes, key_of};
pub use crate::skel::{BatonSkel, types};

impl crate::Datapath {
    /// The loaded programs and their maps.
    pub fn skel(&self) -> &BatonSkel<'static> {
        &self.skel
    }
}
