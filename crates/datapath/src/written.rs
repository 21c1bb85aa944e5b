//! Which entries the tables of services have, so that they can be removed again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use baton_cluster::ServiceId;

/// What was written, to be removed again.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) addresses: BTreeSet<(IpAddr, u16)>,
    pub(crate) services: BTreeMap<ServiceId, ServiceKeys>,
}

/// The keys of one service, as the tables have them.
#[derive(Debug, Default)]
pub(crate) struct ServiceKeys {
    pub(crate) routes: BTreeSet<Vec<u8>>,
    pub(crate) hosts: BTreeSet<Vec<u8>>,
}
