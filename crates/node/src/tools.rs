//! What the parts of a node work with; borrowed from the daemon for one call.

use std::time::Instant;

use baton_datapath::{Datapath, Hold};

use crate::peers::Peers;
use crate::post::Post;
use crate::raw::Raw;
use crate::services::Services;

/// See the head of this file.
pub(crate) struct Tools<'a> {
    pub(crate) services: &'a Services,
    pub(crate) peers: &'a Peers,
    pub(crate) datapath: &'a Datapath,
    pub(crate) hold: &'a Hold,
    pub(crate) post: &'a mut Post,
    pub(crate) raw: &'a mut Raw,
    /// The moment of the call.
    pub(crate) now: Instant,
}
