//! What a world begins with, and how services and pools are made known to programs and model.

use std::collections::HashSet;

use baton_cluster::{NameRules, NodeId, PHttp, PoolId, Protocol, ServiceId};
use baton_datapath::model::{Pool, Service};
use baton_datapath::{DatapathError, Peer, PoolEntry, ServiceEntry};
use baton_http::{HostMatch, Key, PathMatch, Route, Rules};

use super::World;
use super::frames::{VIP, VIP_V6};
use super::world::{IMAGES, OTHER, PAGES, PLAIN, QUERY, SELF, TENANTS, THIRD, WEB, keys, mac, roles};

/// The pools of the services whose bytes say nothing to the programs: TLS, TCP.
pub const SECURE: PoolId = PoolId(6);
pub const PLUG: PoolId = PoolId(7);

impl World {
    /// Three nodes, six services, everything alive, and the third slot of Maglev's table empty.
    pub(super) fn furnish(&mut self) -> Result<(), DatapathError> {
        self.programs.set_keys(&keys())?;
        let all = [SELF, OTHER, THIRD];
        self.service(0, 80, &[WEB], Vec::new(), [false, true])?;
        self.service(1, 81, &[QUERY], Vec::new(), [false, false])?;
        let images = Route { path: PathMatch::Prefix("/img/".into()), pool: 1, ..Route::default() };
        self.service(2, 82, &[PAGES, IMAGES], vec![images], [true, true])?;
        let tenants = |host: &str| Route { host: HostMatch::named(host), pool: 1, ..Route::default() };
        let tenants = vec![tenants("*.example.com"), tenants("tenant.example.org")];
        self.service(3, 83, &[PLAIN, TENANTS], tenants, [false, true])?;
        self.sealed(4, 84, Protocol::Tls, SECURE)?;
        self.sealed(5, 85, Protocol::Tcp, PLUG)?;
        self.pool(WEB, 0, Key::Path, PHttp::Move, &all)?;
        self.pool(QUERY, 1, Key::PathQuery, PHttp::Stay, &all)?;
        self.pool(PAGES, 2, Key::Path, PHttp::Move, &[SELF, OTHER])?;
        self.pool(IMAGES, 2, Key::Path, PHttp::ExtendedLard, &[OTHER, THIRD])?;
        self.pool(PLAIN, 3, Key::Path, PHttp::ExtendedLard, &all)?;
        self.pool(TENANTS, 3, Key::Header("x-user".into()), PHttp::Move, &all)?;
        self.pool(SECURE, 4, Key::Name, PHttp::Stay, &all)?;
        self.pool(PLUG, 5, Key::Name, PHttp::Stay, &all)?;
        for node in all {
            let routed = self.ways.routed && node == THIRD;
            let peer = Peer {
                address: self.ways.address(node),
                roles: roles("wds"),
                routed,
                ifindex: self.model.settings.cluster_ifindex,
            };
            self.programs.set_node(node, &peer)?;
            self.programs.set_member(mac(node), node)?;
            self.model.tables.nodes.insert(node, peer);
            self.model.tables.members.insert(mac(node), node);
        }
        let slots = (0..65_537).map(|slot| [Some(SELF), Some(OTHER), None][slot % 3]).collect::<Vec<_>>();
        self.programs.set_maglev(&slots)?;
        self.model.tables.maglev = slots.into();
        self.rest()
    }

    /// Makes a service known to both, whose bytes say nothing to the programs.
    fn sealed(&mut self, id: u16, port: u16, protocol: Protocol, pool: PoolId) -> Result<(), DatapathError> {
        self.any_service(id, port, protocol, &[pool], Vec::new(), [false, false])
    }

    /// Makes a service of HTTP known to both.
    pub fn service(
        &mut self,
        id: u16,
        port: u16,
        pools: &[PoolId],
        routes: Vec<Route>,
        decided: [bool; 2],
    ) -> Result<(), DatapathError> {
        self.any_service(id, port, Protocol::Http, pools, routes, decided)
    }

    fn any_service(
        &mut self,
        id: u16,
        port: u16,
        protocol: Protocol,
        pools: &[PoolId],
        routes: Vec<Route>,
        [strict, follows]: [bool; 2],
    ) -> Result<(), DatapathError> {
        let rules = Rules::new(routes, 0, Vec::new());
        let (id, pools) = (ServiceId(id), pools.to_vec());
        let entry = ServiceEntry {
            id,
            vips: vec![VIP, VIP_V6],
            port,
            protocol,
            rules: rules.clone(),
            names: NameRules::default(),
            pools: pools.clone(),
            strict,
            follows,
        };
        self.programs.set_service(&entry)?;
        let service =
            Service { id, protocol, rules, pools, strict, follows, ending: false, hosts: HashSet::new() };
        for vip in [VIP, VIP_V6] {
            self.model.tables.services.insert((vip, port), service.clone());
        }
        Ok(())
    }

    /// Makes a pool known to both.
    pub fn pool(
        &mut self,
        id: PoolId,
        service: u16,
        key: Key,
        p_http: PHttp,
        servers: &[NodeId],
    ) -> Result<(), DatapathError> {
        let servers = servers.to_vec();
        let service = ServiceId(service);
        self.programs.set_pool(&PoolEntry {
            id,
            service,
            key: key.clone(),
            p_http,
            servers: servers.clone(),
        })?;
        self.model.tables.pools.insert(id, Pool { key, p_http, servers });
        Ok(())
    }
}
