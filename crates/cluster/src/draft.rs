//! A cluster file between reading and building: its parts as `parse` has read them, for `check` to compare.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::pool_draft::{PoolDraft, RouteDraft};
use crate::read::Located;
use crate::{Protocol, Roles};

/// A cluster file as read, before its parts are compared: what could not be read is `None`.
pub(crate) struct Draft {
    pub(crate) control_port: Located<u16>,
    pub(crate) nodes: Vec<NodeDraft>,
    pub(crate) services: Vec<ServiceDraft>,
}

/// A `[[node]]` as read.
pub(crate) struct NodeDraft {
    pub(crate) line: usize,
    pub(crate) name: Option<Located<String>>,
    pub(crate) address: Option<Located<IpAddr>>,
    pub(crate) roles: Option<Located<Roles>>,
    pub(crate) interfaces: Vec<String>,
    pub(crate) weight: u16,
    pub(crate) announce: bool,
    pub(crate) pressure_file: Option<PathBuf>,
}

/// A `[[service]]` as read.
pub(crate) struct ServiceDraft {
    pub(crate) line: usize,
    pub(crate) name: Option<Located<String>>,
    pub(crate) vips: Vec<Located<IpAddr>>,
    pub(crate) port: Option<Located<u16>>,
    pub(crate) protocol: Protocol,
    pub(crate) default_pool: Option<Located<String>>,
    pub(crate) pools: Vec<PoolDraft>,
    pub(crate) routes: Vec<RouteDraft>,
}
