//! How often something may be done: so many at once, and so many a second. For what others can cause: lines of a log,
//! answers to bad packets. Pure: time is an argument.

use std::time::Duration;

/// A token bucket.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The time in which one more is allowed.
    each: Duration,
    /// How long the whole burst takes to be allowed again.
    whole: Duration,
    /// When the bucket is full again; as a time since the caller's start.
    full_at: Duration,
    held_back: u64,
}

impl Pace {
    /// At most `burst` at once, and `a_second` each second. Both count as 1 at least.
    pub fn new(a_second: u32, burst: u32) -> Self {
        let each = Duration::from_secs(1) / a_second.max(1);
        Self { each, whole: each * burst.max(1), full_at: Duration::ZERO, held_back: 0 }
    }

    /// Whether it may be done once more now. `now` is the time since any fixed start; when it runs backwards nothing
    /// is given twice.
    pub fn allows(&mut self, now: Duration) -> bool {
        let full_at = self.full_at.max(now) + self.each;
        let allowed = full_at <= now + self.whole;
        if allowed {
            self.full_at = full_at;
        } else {
            self.held_back += 1;
        }
        allowed
    }

    /// How often it was not allowed, in all.
    pub fn held_back(&self) -> u64 {
        self.held_back
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_and_then_its_pace() {
        let mut pace = Pace::new(10, 3);
        let at = Duration::from_millis;
        assert_eq!([0, 0, 0, 0, 99].map(|ms| pace.allows(at(ms))), [true, true, true, false, false]);
        assert_eq!([100, 100, 150].map(|ms| pace.allows(at(ms))), [true, false, false]);
        assert_eq!(
            [10_000; 4].map(|ms| pace.allows(at(ms))),
            [true, true, true, false],
            "no more than a burst"
        );
        assert_eq!(pace.held_back(), 5);
    }

    proptest! {
        /// In no span of time are more allowed than a burst and what the span brings.
        #[test]
        fn never_faster(
            a_second in 1u32..2000,
            burst in 1u32..50,
            steps in prop::collection::vec(0u64..50_000, 1..300),
        ) {
            let mut pace = Pace::new(a_second, burst);
            let mut now = Duration::from_secs(1);
            let mut allowed = Vec::new();
            for micros in steps {
                now += Duration::from_micros(micros);
                if pace.allows(now) {
                    allowed.push(now);
                }
            }
            for (first, from) in allowed.iter().enumerate() {
                for (count, to) in (1u32..).zip(&allowed[first..]) {
                    let brought = (*to - *from).as_secs_f64() * f64::from(a_second);
                    prop_assert!(f64::from(count) <= f64::from(burst) + brought * 1.001 + 0.001);
                }
            }
        }
    }
}
