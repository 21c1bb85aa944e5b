//! What a world begins with, and how services and pools are made known to programs and model.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use baton_cluster::{Maker, NameRules, NodeId, PHttp, PoolId, Protocol, ServiceId, SpreadLine, SpreadTable};
use baton_datapath::{DatapathError, Lease, Peer, PoolEntry, ServiceEntry};
use baton_http::{HostMatch, Key, PathMatch, Route, Rules};
use baton_packet_model::{Pool, Service};

use super::World;
use super::frames::{VIP, VIP_V6};
use super::world::{IMAGES, OTHER, PAGES, PLAIN, QUERY, SELF, TENANTS, THIRD, WEB, keys, mac, roles};

/// The pools of the services whose bytes say nothing to the programs: TLS, TCP.
pub const SECURE: PoolId = PoolId(6);
pub const PLUG: PoolId = PoolId(7);

/// What a node's cookies are made with when they were asked for by way of this one.
pub fn term(node: NodeId) -> u32 {
    0x7000 + u32::from(node.0)
}

/// Where the services are.
pub const PORTS: std::ops::RangeInclusive<u16> = 80..=85;

/// What a changed cluster file may say of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// It has no routes.
    Routes,
    /// They lead to other pools.
    Pools,
    /// Whether its pools have different servers, and whether its connections are followed.
    Follows,
}

/// A service: what it speaks, its pools and routes, whether it is strict, whether it is followed.
fn plan(port: u16) -> (Protocol, Vec<PoolId>, Vec<Route>, [bool; 2]) {
    let tenants = |host: &str| Route { host: HostMatch::named(host), pool: 1, ..Route::default() };
    let images = Route { path: PathMatch::Prefix("/img/".into()), pool: 1, ..Route::default() };
    let http = |pools: &[PoolId], routes, decided| (Protocol::Http, pools.to_vec(), routes, decided);
    match port {
        80 => http(&[WEB], Vec::new(), [false, true]),
        81 => http(&[QUERY], Vec::new(), [false, false]),
        82 => http(&[PAGES, IMAGES], vec![images], [true, true]),
        83 => {
            let routes = vec![tenants("*.example.com"), tenants("tenant.example.org")];
            http(&[PLAIN, TENANTS], routes, [false, true])
        }
        84 => (Protocol::Tls, vec![SECURE], Vec::new(), [false, false]),
        _ => (Protocol::Tcp, vec![PLUG], Vec::new(), [false, false]),
    }
}

impl World {
    /// Three nodes, six services, everything alive, and the third slot of Maglev's table empty.
    pub(super) fn furnish(&mut self) -> Result<(), DatapathError> {
        self.programs.set_keys(&keys())?;
        let all = [SELF, OTHER, THIRD];
        for port in PORTS {
            self.serve(port, Change::None)?;
        }
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
        self.spread(&slots)?;
        self.rest()
    }

    /// The switch spreads by this table, and has done so for ever.
    pub fn spread(&mut self, slots: &[Option<NodeId>]) -> Result<(), DatapathError> {
        let slots = slots.iter().map(|node| SpreadLine::of(node.map(|node| node.0)));
        self.spread_table(0, slots.collect())?;
        self.use_table(0, Duration::ZERO)
    }

    /// One of the switch's tables. The makers are the nodes, each with a term of its own.
    pub fn spread_table(&mut self, table: u8, spread: SpreadTable) -> Result<(), DatapathError> {
        if !self.model.settings.roles.switch {
            return Ok(());
        }
        for node in [SELF, OTHER, THIRD] {
            self.maker(Maker { node, term: term(node), over: None })?;
        }
        self.programs.set_spread_table(table, &spread)?;
        self.model.tables.spread.tables.insert(table, spread.into());
        Ok(())
    }

    /// What the switch knows of a node's cookies.
    pub fn maker(&mut self, maker: Maker) -> Result<(), DatapathError> {
        self.model.tables.spread.makers.insert(maker.node.0, maker);
        self.programs.set_maker(maker.node.0, &maker)
    }

    /// Which table is in use, and until when makers count that are not in force.
    pub fn use_table(&mut self, table: u8, unsettled: Duration) -> Result<(), DatapathError> {
        self.model.tables.spread.table = Some(table);
        self.model.tables.spread.unsettled_ns = unsettled.as_nanos() as u64;
        self.programs.set_spread(
            Some(table),
            unsettled,
            Duration::from_nanos(self.model.tables.spread.refuse_ns),
        )
    }

    /// The terms that this node knows.
    pub fn leases(&mut self, leases: Vec<Lease>) -> Result<(), DatapathError> {
        self.programs.set_leases(&leases)?;
        self.model.tables.leases = leases;
        Ok(())
    }

    /// A service of the world, perhaps changed, under a number of its own; the one before is forgotten.
    pub fn serve(&mut self, port: u16, change: Change) -> Result<(), DatapathError> {
        let (protocol, mut pools, mut routes, mut decided) = plan(port);
        match change {
            Change::None => {}
            Change::Routes => routes.clear(),
            Change::Pools => pools.reverse(),
            // Of other protocols nothing is followed.
            Change::Follows if protocol == Protocol::Http => decided = decided.map(|is_so| !is_so),
            Change::Follows => {}
        }
        if change != Change::None {
            self.altered.insert(port);
        }
        let before = self.entries.get(&port).map(|entry| entry.id);
        self.fresh += 1;
        self.any_service(self.fresh, port, protocol, &pools, routes, decided)?;
        before.map_or(Ok(()), |id| self.programs.remove_service(id))
    }

    /// User space has seen a host.
    pub fn seen(&mut self, port: u16, host: &str) -> Result<(), DatapathError> {
        self.altered.insert(port);
        for vip in [VIP, VIP_V6] {
            if let Some(service) = self.model.tables.services.get_mut(&(vip, port)) {
                service.hosts.insert(host.to_owned());
            }
        }
        let entry = self.entries.get(&port);
        entry.map_or(Ok(()), |entry| self.programs.set_host(entry, host))
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
        self.entries.insert(port, entry);
        let service =
            Service { id, protocol, rules, pools, strict, follows, ending: false, hosts: HashSet::new() };
        for vip in [VIP, VIP_V6] {
            self.model.tables.services.insert((vip, port), service.clone());
        }
        Ok(())
    }

    /// A service gives an address up.
    pub fn end(&mut self, vip: IpAddr, port: u16) -> Result<(), DatapathError> {
        self.altered.insert(port);
        if let Some(service) = self.model.tables.services.get_mut(&(vip, port)) {
            service.ending = true;
        }
        self.programs.end_address(vip, port)
    }

    /// An address is no service's any more.
    pub fn close(&mut self, vip: IpAddr, port: u16) -> Result<(), DatapathError> {
        self.altered.insert(port);
        self.model.tables.services.remove(&(vip, port));
        self.programs.remove_address(vip, port)
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
