//! What user space may decide by the tables alone, as the programs do (`bpf/decide.h`): for requests that the
//! programs could not read, but that ask nothing which has not been decided before.

use std::time::Duration;

use baton_cluster::{NodeId, PoolId, Target};
use libbpf_rs::{MapCore, MapFlags};

use crate::constants::{GUIDE_CACHED, GUIDE_ROTA, ROTA_SLOTS};
use crate::error::DatapathError;
use crate::map::{failed, get, nanoseconds, put, remove_bytes};
use crate::programs::Datapath;
use crate::shared::{from_bytes, types};
use crate::tables::decision_key;

impl Datapath {
    /// The server for a connection's first request at `now`, by the monotonic clock; `None` when the dispatcher
    /// must be asked. Of a rota it takes a turn.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn decided(
        &self,
        pool: PoolId,
        target: Option<Target>,
        now: Duration,
    ) -> Result<Option<NodeId>, DatapathError> {
        let number = u32::from(pool.0);
        let guide: Option<types::guide> = get(&self.skel.maps.guides, "guides", &number)?;
        match (guide, target) {
            (Some(guide), _) if guide.kind == GUIDE_ROTA => self.turn(number, &guide),
            (Some(guide), Some(target)) if guide.kind == GUIDE_CACHED => {
                self.cached(pool, target, &guide, now)
            }
            _ => Ok(None),
        }
    }

    /// Forgets the cached decisions that name a server, and says how many. Reads the whole table, in few calls.
    ///
    /// # Errors
    /// When the map refuses; some may be left then.
    pub fn forget_server(&self, server: NodeId) -> Result<usize, DatapathError> {
        let names = |bytes: &Vec<u8>| {
            let decision = from_bytes::<types::decision>(bytes);
            decision.is_some_and(|d| d.servers.iter().take(usize::from(d.count)).any(|s| *s == server.0))
        };
        let map = &self.skel.maps.decisions;
        // All at once: the kernel ends a batch early when the next bucket does not fit, and the library takes
        // a short batch for the last one.
        let all =
            map.lookup_batch(map.max_entries(), MapFlags::ANY, MapFlags::ANY).map_err(failed("decisions"))?;
        let its: Vec<Vec<u8>> = all.filter(|(_, value)| names(value)).map(|(key, _)| key).collect();
        its.iter().try_for_each(|key| remove_bytes(map, "decisions", key))?;
        Ok(its.len())
    }

    /// Not atomic with the programs' own turns: two may be one.
    fn turn(&self, pool: u32, guide: &types::guide) -> Result<Option<NodeId>, DatapathError> {
        let turn: u32 = get(&self.skel.maps.turns, "turns", &pool)?.unwrap_or(0);
        put(&self.skel.maps.turns, "turns", &pool, &turn.wrapping_add(1))?;
        let Some(place) = turn.checked_rem(guide.rota_len).filter(|_| guide.rota_len <= ROTA_SLOTS) else {
            return Ok(None);
        };
        let server: Option<u16> = get(&self.skel.maps.rota, "rota", &(pool * ROTA_SLOTS + place))?;
        let Some(server) = server else { return Ok(None) };
        let load: Option<types::load> = get(&self.skel.maps.loads, "loads", &u32::from(server))?;
        Ok(load.filter(|load| load.live != 0).map(|_| NodeId(server)))
    }

    /// The least loaded, for its weight, of the servers that are remembered, if it is not above the limit.
    fn cached(
        &self,
        pool: PoolId,
        target: Target,
        guide: &types::guide,
        now: Duration,
    ) -> Result<Option<NodeId>, DatapathError> {
        let key = decision_key(pool, target);
        let decision: Option<types::decision> = get(&self.skel.maps.decisions, "decisions", &key)?;
        let holds = |d: &types::decision| {
            d.generation == guide.generation && (d.expires_ns == 0 || d.expires_ns >= nanoseconds(now))
        };
        let Some(decision) = decision.filter(holds) else { return Ok(None) };
        let mut best: Option<(NodeId, u64, types::load)> = None;
        for server in decision.servers.iter().take(usize::from(decision.count)) {
            let load: Option<types::load> = get(&self.skel.maps.loads, "loads", &u32::from(*server))?;
            let Some(load) = load.filter(|load| load.live != 0) else { continue };
            let now = u64::from(load.reported) + u64::try_from(load.assigned.cast_signed()).unwrap_or(0);
            let is_lighter = |(_, least, of): &(NodeId, u64, types::load)| {
                now * u64::from(of.weight) < least * u64::from(load.weight)
            };
            if best.as_ref().is_none_or(is_lighter) {
                best = Some((NodeId(*server), now, load));
            }
        }
        let within = |(_, now, load): &(NodeId, u64, types::load)| {
            now * u64::from(load.least_weight) <= u64::from(guide.load_limit) * u64::from(load.weight)
        };
        Ok(best.filter(within).map(|(server, _, _)| server))
    }
}
