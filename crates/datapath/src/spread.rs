//! Who decides a connection: the terms that a distributor knows cookies of, and, at a switch, whose cookies the
//! flows of each slot have (`bpf/lease.h`).

use std::time::Duration;

use baton_cluster::{Heirs, Maker, SpreadLine, SpreadTable};
use libbpf_rs::{MapCore, MapFlags};

use crate::constants::{
    LEASE_HEIR, LEASE_NONE, LEASE_OWN, LEASES_MAX, MAGLEV_SLOTS, MAKERS_MAX, NO_HEIR, NO_NODE, NO_SPREAD,
    OVER_NOT, OVER_SOON, OVER_TOLD, SPREAD_PAGE, SPREAD_PAGES, SPREADS_MAX,
};
use crate::error::DatapathError;
use crate::lease::Lease;
use crate::map::{failed, get, nanoseconds, put};
use crate::programs::Datapath;
use crate::shared::types;

const _: () = assert!(baton_cluster::SLOT_MAKERS == crate::constants::SLOT_MAKERS as usize);

impl Datapath {
    /// The terms that this distributor knows, the one for what comes by no switch first.
    ///
    /// # Errors
    /// When there are more than the table takes.
    pub fn set_leases(&self, leases: &[Lease]) -> Result<(), DatapathError> {
        let limit = LEASES_MAX as usize;
        if leases.len() > limit {
            return Err(DatapathError::TooMany { what: "leases", given: leases.len(), limit });
        }
        let value = |lease: &Lease| types::lease {
            until_ns: nanoseconds(lease.until),
            term: lease.term,
            from: lease.from.map_or(NO_NODE as u16, |node| node.0),
            kind: if lease.is_heir { LEASE_HEIR } else { LEASE_OWN } as u8,
            pad: 0,
        };
        let none = types::lease { kind: LEASE_NONE as u8, ..Default::default() };
        let values = leases.iter().map(value).chain(std::iter::repeat(none));
        for (at, value) in (0..LEASES_MAX).zip(values) {
            put(&self.skel.maps.leases, "leases", &at, &value)?;
        }
        Ok(())
    }

    /// Whether this distributor may decide connections of this term at a time `now` of the monotonic clock.
    ///
    /// # Errors
    /// When the map refuses.
    pub(crate) fn holds_lease(&self, term: u32, now: Duration) -> Result<bool, DatapathError> {
        for at in 0..LEASES_MAX {
            let lease: Option<types::lease> = get(&self.skel.maps.leases, "leases", &at)?;
            match lease.filter(|lease| u32::from(lease.kind) != LEASE_NONE) {
                Some(lease) if lease.term == term => return Ok(nanoseconds(now) < lease.until_ns),
                Some(_) => {}
                None => break,
            }
        }
        Ok(false)
    }

    /// One of the switch's two tables, the one that is not in use: the makers of each slot.
    ///
    /// # Errors
    /// When it has not as many slots as the map.
    pub fn set_spread_table(&self, table: u8, spread: &SpreadTable) -> Result<(), DatapathError> {
        let limit = MAGLEV_SLOTS as usize;
        let given = spread.slots.len();
        if given != limit || u32::from(table) >= SPREADS_MAX {
            return Err(DatapathError::TooMany { what: "Maglev slots", given, limit });
        }
        // In one call and in pages: one for each slot would keep the daemon from all else for a noticeable time.
        let first = u32::from(table) * SPREAD_PAGES;
        let keys: Vec<[u8; 4]> = (first..first + SPREAD_PAGES).map(u32::to_ne_bytes).collect();
        let bytes = |line: &SpreadLine| {
            let mut bytes = [0; size_of::<types::slot_makers>()];
            let makers = line.makers.map(|maker| maker.unwrap_or(NO_NODE as u16).to_ne_bytes());
            let (of_makers, of_heirs) = bytes.split_at_mut(size_of_val(&makers));
            of_makers.copy_from_slice(makers.as_flattened());
            of_heirs.copy_from_slice(&line.heirs.map(|heir| heir.unwrap_or(NO_HEIR as u8)));
            bytes
        };
        let lines: Vec<_> = spread.lines.iter().map(bytes).collect();
        let none = bytes(&SpreadLine::default());
        let mut pages = Vec::with_capacity(size_of::<types::spread_page>() * keys.len());
        for slot in 0..(SPREAD_PAGE * SPREAD_PAGES) as usize {
            let line = spread.slots.get(slot).and_then(|line| lines.get(*line as usize));
            pages.extend_from_slice(line.unwrap_or(&none));
        }
        let (map, any) = (&self.skel.maps.maglev, MapFlags::ANY);
        map.update_batch(keys.as_flattened(), &pages, SPREAD_PAGES, any, any).map_err(failed("maglev"))
    }

    /// What the switch knows of a maker.
    ///
    /// # Errors
    /// When its number is too high.
    pub fn set_maker(&self, number: u16, maker: &Maker) -> Result<(), DatapathError> {
        let (number, limit) = (u32::from(number), MAKERS_MAX as usize);
        if number >= MAKERS_MAX {
            return Err(DatapathError::TooMany { what: "makers", given: number as usize, limit });
        }
        let value = types::maker {
            term: maker.term,
            node: maker.node.0,
            over: match maker.over {
                None => OVER_NOT,
                Some(Heirs::Soon) => OVER_SOON,
                Some(Heirs::Told) => OVER_TOLD,
            } as u8,
            pad: 0,
        };
        put(&self.skel.maps.makers, "makers", &number, &value)
    }

    /// Which table is in use, if any; until `unsettled` (monotonic) a cookie may have been made by a maker that is
    /// not in force. Without a distributor SYNs are refused from `refuse` on.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_spread(
        &self,
        table: Option<u8>,
        unsettled: Duration,
        refuse: Duration,
    ) -> Result<(), DatapathError> {
        let value = types::spread {
            unsettled_ns: nanoseconds(unsettled),
            refuse_ns: nanoseconds(refuse),
            table: table.map_or(NO_SPREAD, u32::from),
            pad: 0,
        };
        put(&self.skel.maps.spreads, "spreads", &0_u32, &value)
    }
}
