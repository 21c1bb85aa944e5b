//! The table of live connections: what has ended is put aside before there are so many that live ones would be
//! displaced; and if they are, the operator hears of it.

use std::time::{Duration, Instant};

use baton_datapath::{DatapathError, Swept};

use crate::outside::Outside;

/// A sweep goes over the whole table in the kernel: so seldom while little happens.
const SELDOM: Duration = Duration::from_secs(30);
/// And so often at most.
const OFTEN: Duration = Duration::from_millis(500);
/// The table is swept when this part of it is new.
const PART: u64 = 8;
/// Who counts while others make entries may miss as many.
const SLACK: u64 = 16;

/// How full it is, as far as is known.
#[derive(Debug)]
pub(crate) struct Occupancy {
    room: u64,
    swept: Instant,
    /// Entries after the last sweep, and the programs' own count at that time.
    present: u64,
    population: u64,
    /// Live connections that the kernel has forgotten for want of room.
    displaced: u64,
    told: bool,
}

impl Occupancy {
    pub(crate) fn new(room: u32, now: Instant) -> Self {
        Self { room: room.into(), swept: now, present: 0, population: 0, displaced: 0, told: false }
    }

    /// Live connections that have been forgotten for want of room.
    pub(crate) fn displaced(&self) -> u64 {
        self.displaced
    }

    /// Sweeps when it is time.
    pub(crate) fn tick(&mut self, now: Instant, outside: &mut impl Outside) -> Result<(), DatapathError> {
        let population = outside.population()?;
        if !self.is_time(now, population) {
            return Ok(());
        }
        let swept = outside.sweep()?;
        let meanwhile = outside.population()?;
        if self.note(now, population, meanwhile, swept) && !self.told {
            self.told = true;
            tracing::warn!(
                live = swept.live,
                room = self.room,
                "the table of connections is full, and live ones are forgotten: raise `bindings` in [limits]"
            );
        }
        Ok(())
    }

    fn is_time(&self, now: Instant, population: u64) -> bool {
        let (made, passed) = (population.wrapping_sub(self.population), now - self.swept);
        passed >= SELDOM || (passed >= OFTEN && made.saturating_mul(PART) >= self.room)
    }

    /// Takes over what a sweep has found. `population`: before and after it. Whether entries are missing that
    /// nobody has removed.
    fn note(&mut self, now: Instant, before: u64, after: u64, swept: Swept) -> bool {
        let expected = (self.present + before.wrapping_sub(self.population)).saturating_sub(SLACK);
        let stay = u64::from(swept.live) + u64::from(swept.ended);
        let found = stay + u64::from(swept.aside) + u64::from(swept.removed);
        let missing = expected.saturating_sub(found);
        // It is never empty for want of room.
        let displaced = if found * 2 >= self.room { missing } else { 0 };
        self.displaced += displaced;
        (self.swept, self.present, self.population) = (now, stay, after);
        displaced > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(live: u32, ended: u32, aside: u32) -> Swept {
        Swept { live, ended, aside, removed: 0 }
    }

    #[test]
    fn it_is_swept_when_much_is_new_and_else_now_and_then() {
        let start = Instant::now();
        let table = Occupancy::new(8000, start);
        assert!(!table.is_time(start + OFTEN, 999));
        assert!(table.is_time(start + OFTEN, 1000));
        assert!(!table.is_time(start + OFTEN / 2, 100_000), "not all the time");
        assert!(table.is_time(start + SELDOM, 0));
    }

    #[test]
    fn what_is_missing_was_displaced() {
        let now = Instant::now();
        let mut table = Occupancy::new(10_000, now);
        assert!(!table.note(now, 4000, 4010, swept(1000, 100, 2900)), "all are there");
        assert!(!table.note(now, 9000, 9000, swept(5000, 100, 990)), "some were made in between");
        assert!(table.note(now, 14_500, 14_500, swept(9000, 1000, 484)));
        assert_eq!(table.displaced(), 100);
        assert!(!table.note(now, 14_500, 14_500, swept(100, 0, 0)), "removed by somebody: there is room");
    }
}
