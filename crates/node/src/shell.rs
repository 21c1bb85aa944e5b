//! What the node's core acts on (see [`Outside`]), the real thing: the programs, the hold device, the reader, raw
//! sockets, the host's TCP stack and disk. Nothing is decided here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use baton_cluster::{Flow, Maker, NodeId, PoolId, ServiceId, SpreadTable, Target};
use baton_control::Mesh;
use baton_core::{Head, Outside, Refusal, TakenBytes};
use baton_datapath::{
    Binding, Counter, Datapath, DatapathError, GuideKind, Hold, Known, Lease, Numbers, PoolEntry, Progress,
    Reading, Receipt, ServiceEntry, Swept,
};
use baton_host::{SocketState, Sockets};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::clock::ProgramClock;
use crate::listeners::Queues;
use crate::pressure::Pressure;
use crate::raw::Raw;
use crate::reader::{self, Reader};
use crate::watch::Watched;

type Result<T> = std::result::Result<T, DatapathError>;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) datapath: Datapath,
    /// On nodes that decide; so are the reader's connections.
    pub(crate) hold: Option<Watched<Hold>>,
    pub(crate) reader: Option<Reader>,
    pub(crate) raw: Raw,
    /// To look for sockets whose bindings are gone; on servers.
    pub(crate) sockets: Option<Sockets>,
    /// What waits for the web server; `Listeners` writes it.
    pub(crate) queues: watch::Sender<Queues>,
    pub(crate) pressure: Pressure,
    pub(crate) clock: ProgramClock,
    /// As soon as the node has joined it.
    pub(crate) mesh: Option<Mesh>,
}

/// Looks for sockets, if the system lets it.
pub(crate) fn sockets(is_server: bool) -> Option<Sockets> {
    is_server.then(Sockets::open).transpose().unwrap_or_else(|error| {
        tracing::warn!(%error, "connections whose bindings are lost will not be found");
        None
    })
}

impl Outside for Shell {
    type Stream = TcpStream;

    fn binding(&mut self, flow: &Flow) -> Result<Option<Binding>> {
        self.datapath.binding(flow)
    }

    fn asked(&mut self, flow: &Flow) -> Result<Option<Progress>> {
        self.datapath.asked(flow)
    }

    fn reading(&mut self, flow: &Flow) -> Result<Option<Reading>> {
        self.datapath.reading(flow)
    }

    fn receipt(&mut self, flow: &Flow) -> Result<Option<(Receipt, u32)>> {
        self.datapath.receipt(flow)
    }

    fn known(&mut self, flow: &Flow, now: Duration) -> Result<Option<Known>> {
        self.datapath.known(flow, now)
    }

    fn has_begun(&mut self, flow: &Flow, numbers: &Numbers) -> Result<bool> {
        self.datapath.has_begun(flow, numbers)
    }

    fn bind_held(&mut self, flow: &Flow, start_seq: u32, server: NodeId) -> Result<Option<u64>> {
        self.datapath.bind_held(flow, start_seq, server)
    }

    fn read_held(&mut self, flow: &Flow, start_seq: u32) -> Result<bool> {
        self.datapath.read_held(flow, start_seq)
    }

    fn released(&mut self, flow: &Flow, start_seq: u32, held: u32) -> Result<bool> {
        self.datapath.released(flow, start_seq, held)
    }

    fn decide_asked(&mut self, flow: &Flow, seq: u32, server: NodeId) -> Result<Option<u32>> {
        self.datapath.decide_asked(flow, seq, server)
    }

    fn answer_asked(&mut self, flow: &Flow, seq: u32) -> Result<Option<u32>> {
        self.datapath.answer_asked(flow, seq)
    }

    fn bind_read(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        replay_end: u32,
    ) -> Result<Option<u64>> {
        self.datapath.bind_read(flow, start_seq, server, replay_end)
    }

    fn bind_told(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        distributor: NodeId,
        issued: u64,
    ) -> Result<bool> {
        self.datapath.bind_told(flow, start_seq, server, distributor, issued)
    }

    fn bind_found(&mut self, flow: &Flow, start_seq: u32, owner: NodeId, issued: u64) -> Result<bool> {
        self.datapath.bind_found(flow, start_seq, owner, issued)
    }

    fn close_told(&mut self, flow: &Flow, start_seq: u32) -> Result<bool> {
        self.datapath.close_told(flow, start_seq)
    }

    fn remove_binding(&mut self, flow: &Flow) -> Result<()> {
        self.datapath.remove_binding(flow)
    }

    fn population(&mut self) -> Result<u64> {
        self.datapath.population()
    }

    fn sweep(&mut self) -> Result<Swept> {
        self.datapath.sweep()
    }

    fn counter(&mut self, counter: Counter) -> Result<u64> {
        self.datapath.counter(counter)
    }

    fn spoken(&mut self, service: ServiceId) -> Result<u64> {
        self.datapath.spoken(service)
    }

    fn waiting(&mut self, port: u16) -> Option<(u64, u32)> {
        let queues = self.queues.borrow();
        queues.1.get(&port).map(|waiting| (queues.0, *waiting))
    }

    fn handoffs_sent(&mut self, to: NodeId) -> Result<u64> {
        self.datapath.handoffs_sent(to)
    }

    fn handoffs_taken(&mut self, from: NodeId) -> Result<u64> {
        self.datapath.handoffs_taken(from)
    }

    fn busy(&mut self, silent_since: Duration) -> u64 {
        self.datapath.busy(silent_since)
    }

    fn connections_at(&mut self, addresses: &[(IpAddr, u16)], now: Duration) -> (Vec<u64>, Duration) {
        let began = Instant::now();
        (self.datapath.connections_at(addresses, now), began.elapsed())
    }

    fn decided(&mut self, pool: PoolId, target: Option<Target>, now: Duration) -> Result<Option<NodeId>> {
        self.datapath.decided(pool, target, now)
    }

    fn set_decision(
        &mut self,
        pool: PoolId,
        target: Target,
        servers: &[NodeId],
        expires: Option<Duration>,
        generation: u32,
    ) -> Result<()> {
        self.datapath.set_decision(pool, target, servers, expires, generation)
    }

    fn remove_decision(&mut self, pool: PoolId, target: Target) -> Result<()> {
        self.datapath.remove_decision(pool, target)
    }

    fn forget_server(&mut self, server: NodeId) -> Result<usize> {
        self.datapath.forget_server(server)
    }

    fn set_guide(&mut self, pool: PoolId, guide: &GuideKind, rota: &[NodeId], generation: u32) -> Result<()> {
        self.datapath.set_guide(pool, guide, rota, generation)
    }

    fn set_load(
        &mut self,
        node: NodeId,
        reported: u32,
        weight: u16,
        least_weight: u16,
        live: bool,
    ) -> Result<()> {
        self.datapath.set_load(node, reported, weight, least_weight, live)
    }

    fn add_assigned(&mut self, node: NodeId) -> Result<()> {
        self.datapath.add_assigned(node)
    }

    fn set_member(&mut self, mac: [u8; 6], node: NodeId) -> Result<()> {
        self.datapath.set_member(mac, node)
    }

    fn remove_member(&mut self, mac: [u8; 6]) -> Result<()> {
        self.datapath.remove_member(mac)
    }

    fn set_leases(&mut self, leases: &[Lease]) -> Result<()> {
        self.datapath.set_leases(leases)
    }

    fn set_spread_table(&mut self, table: u8, spread: &SpreadTable) -> Result<()> {
        self.datapath.set_spread_table(table, spread)
    }

    fn set_maker(&mut self, number: u16, maker: &Maker) -> Result<()> {
        self.datapath.set_maker(number, maker)
    }

    fn set_spread(&mut self, table: u8, unsettled: Duration, refuse: Duration) -> Result<()> {
        self.datapath.set_spread(Some(table), unsettled, refuse)
    }

    fn set_pool(&mut self, pool: &PoolEntry) -> Result<()> {
        self.datapath.set_pool(pool)
    }

    fn set_service(&mut self, service: &ServiceEntry) -> Result<()> {
        self.datapath.set_service(service)
    }

    fn set_host(&mut self, service: &ServiceEntry, host: &str) -> Result<()> {
        self.datapath.set_host(service, host)
    }

    fn end_address(&mut self, vip: IpAddr, port: u16) -> Result<()> {
        self.datapath.end_address(vip, port)
    }

    fn remove_address(&mut self, vip: IpAddr, port: u16) -> Result<()> {
        self.datapath.remove_address(vip, port)
    }

    fn remove_service(&mut self, service: ServiceId) -> Result<()> {
        self.datapath.remove_service(service)
    }

    fn remove_pool(&mut self, pool: PoolId) -> Result<()> {
        self.datapath.remove_pool(pool)
    }

    fn release(&mut self, frame: &[u8]) -> io::Result<()> {
        match &self.hold {
            Some(hold) => hold.get().release(frame),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn send_packet(&mut self, packet: &[u8], flow: &Flow) -> io::Result<()> {
        self.raw.send(packet, flow)
    }

    fn read_head(&mut self, head: Head<TcpStream>, strict: bool) {
        if let Some(reader) = &mut self.reader {
            reader.begin(head, strict);
        }
    }

    fn refuse(&mut self, head: Head<TcpStream>, refusal: Refusal) {
        if let Some(reader) = &mut self.reader {
            reader.refuse(head, refusal);
        }
    }

    fn gone(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.gone();
        }
    }

    fn take(&mut self, head: Head<TcpStream>, start_seq: u32) -> Result<Option<TakenBytes>> {
        reader::take(head, start_seq, &self.datapath)
    }

    fn socket(&mut self, flow: &Flow) -> io::Result<Option<SocketState>> {
        let Some(sockets) = &mut self.sockets else { return Ok(None) };
        let client = SocketAddr::new(flow.client, flow.client_port);
        sockets.find(client, SocketAddr::new(flow.vip, flow.vip_port))
    }

    fn pressure(&mut self, now: Instant) -> u8 {
        self.pressure.get(now)
    }

    fn heard_by(&mut self, node: NodeId) -> Option<(u64, Duration)> {
        let (session, at) = self.mesh.as_ref()?.heard_by(node)?;
        Some((session, Instant::now().saturating_duration_since(at)))
    }

    fn cluster_time(&mut self) -> Duration {
        Duration::from_nanos(self.clock.cluster_ns())
    }

    fn random(&mut self) -> u32 {
        rand::random()
    }
}
