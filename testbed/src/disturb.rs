//! What happens to the frames of a line that is long, slow or bad: they take their time, are lost, sent
//! twice, and overtaken by later ones. What happens to the nth frame of a direction follows from the
//! seed alone. Pure: frames and times in, frames out; [`crate::line`] moves them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A frame that is held back lets at most so many others go first...
const OVERTAKEN_BY: u64 = 6;
/// ...and does not wait for longer than this.
const HELD: Duration = Duration::from_millis(4);
/// How many frames are held at once; more are not.
const HELD_MAX: usize = 32;
/// So many bytes wait before a line of limited rate; what comes then is lost, as at any bottleneck.
const QUEUE_MAX: u64 = 4 << 20;
/// So many bytes are on the way in one direction at most.
const ON_THE_WAY_MAX: usize = 64 << 20;

/// What a line is like. Chances are in percent, for each frame with IP in it but those of neighbour
/// discovery, which ARP's frames are the like of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disturb {
    seed: u64,
    lost: f64,
    reordered: f64,
    doubled: f64,
    one_way: Duration,
    rate: Option<u64>,
}

impl Disturb {
    /// A good line; then say how bad.
    pub fn new(seed: u64) -> Self {
        Self { seed, lost: 0.0, reordered: 0.0, doubled: 0.0, one_way: Duration::ZERO, rate: None }
    }

    /// So many percent are lost.
    pub fn lose(self, lost: f64) -> Self {
        Self { lost, ..self }
    }

    /// So many percent are overtaken by up to six later ones.
    pub fn reorder(self, reordered: f64) -> Self {
        Self { reordered, ..self }
    }

    /// So many percent come twice.
    pub fn double(self, doubled: f64) -> Self {
        Self { doubled, ..self }
    }

    /// A round trip takes at least so long, half of it in each direction; the order stays.
    pub fn delay(self, round_trip: Duration) -> Self {
        Self { one_way: (round_trip + Duration::from_nanos(1)) / 2, ..self }
    }

    /// So many bits a second go in each direction. 4 MiB may wait for it; more is lost.
    pub fn rate(self, bits_per_second: u64) -> Self {
        Self { rate: Some(bits_per_second.max(1)), ..self }
    }

    /// What the other direction is like: the same, but for what chance makes of it.
    pub(crate) fn backwards(self) -> Self {
        Self { seed: !self.seed, ..self }
    }

    /// How long so many bytes take at the line's rate.
    fn time_for(&self, bytes: u64) -> Duration {
        let nanos = self.rate.map_or(0, |rate| u128::from(bytes) * 8_000_000_000 / u128::from(rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What a line has done so far, both directions together.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) frames: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) reordered: AtomicU64,
    pub(crate) doubled: AtomicU64,
    pub(crate) overflowed: AtomicU64,
}

/// One direction of a line.
#[derive(Debug)]
pub(crate) struct Way {
    how: Disturb,
    state: u64,
    /// Frames taken.
    taken: u64,
    held: Vec<Held>,
    /// When each frame arrives, and its bytes; and how many bytes that is together.
    on_the_way: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the last byte taken will have left.
    free: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    frame: Vec<u8>,
    /// Goes out when so many frames have been taken, or then.
    after: u64,
    until: Instant,
}

impl Way {
    pub(crate) fn new(how: Disturb) -> Self {
        let (held, on_the_way) = (Vec::new(), VecDeque::new());
        Self { how, state: how.seed, taken: 0, held, on_the_way, bytes: 0, free: None }
    }

    /// Takes a frame in. Draws the same number of times for each.
    pub(crate) fn take(&mut self, frame: &[u8], now: Instant, counts: &Counts) {
        let [lost, reordered, doubled] =
            [self.how.lost, self.how.reordered, self.how.doubled].map(|percent| self.chance(percent));
        let distance = 1 + self.draw() % OVERTAKEN_BY;
        self.taken += 1;
        counts.frames.fetch_add(1, Ordering::Relaxed);
        let at_risk = is_at_risk(frame);
        if at_risk && lost {
            counts.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            if at_risk && doubled {
                counts.doubled.fetch_add(1, Ordering::Relaxed);
                self.send(frame.to_vec(), now, counts);
            }
            if at_risk && reordered && self.held.len() < HELD_MAX {
                counts.reordered.fetch_add(1, Ordering::Relaxed);
                let held = Held { frame: frame.to_vec(), after: self.taken + distance, until: now + HELD };
                self.held.push(held);
            } else {
                self.send(frame.to_vec(), now, counts);
            }
        }
        self.let_go(now, counts);
    }

    /// The next frame that has arrived at the other end by now.
    pub(crate) fn arrived(&mut self, now: Instant, counts: &Counts) -> Option<Vec<u8>> {
        self.let_go(now, counts);
        self.on_the_way.front().filter(|(arrival, _)| *arrival <= now)?;
        let (_, frame) = self.on_the_way.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    /// When there is something to do, if no frame is taken before.
    pub(crate) fn next(&self) -> Option<Instant> {
        let arrival = self.on_the_way.front().map(|(arrival, _)| *arrival);
        self.held.iter().map(|held| held.until).chain(arrival).min()
    }

    /// Sends what has been held back for long enough.
    fn let_go(&mut self, now: Instant, counts: &Counts) {
        let taken = self.taken;
        let due = |held: &mut Held| held.after <= taken || held.until <= now;
        let frames: Vec<Vec<u8>> = self.held.extract_if(.., due).map(|held| held.frame).collect();
        frames.into_iter().for_each(|frame| self.send(frame, now, counts));
    }

    fn send(&mut self, frame: Vec<u8>, now: Instant, counts: &Counts) {
        let start = self.free.map_or(now, |free| free.max(now));
        let waits_too_long = start - now > self.how.time_for(QUEUE_MAX);
        if waits_too_long || self.bytes + frame.len() > ON_THE_WAY_MAX {
            counts.overflowed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left = start + self.how.time_for(frame.len() as u64);
        self.free = Some(left);
        self.bytes += frame.len();
        self.on_the_way.push_back((left + self.how.one_way, frame));
    }

    fn chance(&mut self, percent: f64) -> bool {
        (self.draw() % 1_000_000) as f64 <= percent * 10_000.0 - 1.0
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        crate::content::splitmix(&mut self.state)
    }
}

/// IPv4, or IPv6 with anything but ICMPv6 (58), or its multicast reports behind hop-by-hop options (0).
fn is_at_risk(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => true,
        Some([0x86, 0xdd]) => !matches!(frame.get(20), Some(0 | 58)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Counts, Disturb, HELD, QUEUE_MAX, Way};

    fn frame(number: u16) -> Vec<u8> {
        [&[0; 12][..], &[8, 0], &number.to_be_bytes()].concat()
    }

    fn all(way: &mut Way, now: Instant, counts: &Counts) -> Vec<u16> {
        let frames = std::iter::from_fn(|| way.arrived(now, counts));
        frames.map(|frame| u16::from_be_bytes([frame[14], frame[15]])).collect()
    }

    /// What comes out for the numbers 0 to 999, the last ones once they have waited long enough.
    fn through(how: Disturb) -> Vec<u16> {
        let (mut way, counts, now) = (Way::new(how), Counts::default(), Instant::now());
        let mut out = Vec::new();
        for number in 0..1000 {
            way.take(&frame(number), now, &counts);
            out.append(&mut all(&mut way, now, &counts));
        }
        out.append(&mut all(&mut way, now + HELD, &counts));
        out
    }

    #[test]
    fn a_good_line_changes_nothing_and_a_dead_one_loses_all() {
        assert_eq!(through(Disturb::new(1)), (0..1000).collect::<Vec<_>>());
        assert!(through(Disturb::new(1).lose(100.0)).is_empty());
    }

    #[test]
    fn frames_are_lost_overtaken_and_doubled_as_the_seed_says() {
        let all: Vec<u16> = (0..1000).collect();
        let sorted = |mut out: Vec<u16>| {
            out.sort_unstable();
            out
        };
        let reordered = through(Disturb::new(7).reorder(10.0));
        assert!(reordered != all && sorted(reordered.clone()) == all);
        assert!(reordered.iter().enumerate().all(|(at, number)| at.abs_diff(usize::from(*number)) <= 40));
        let doubled = through(Disturb::new(7).double(10.0));
        assert!((1050..1150).contains(&doubled.len()), "{}", doubled.len());
        assert!((850..950).contains(&through(Disturb::new(7).lose(10.0)).len()));
        let bad = Disturb::new(7).lose(3.0).reorder(3.0).double(3.0);
        assert_eq!(through(bad), through(bad));
        assert_ne!(through(bad), through(Disturb { seed: 8, ..bad }));
    }

    #[test]
    fn neighbour_discovery_is_spared_as_arp_is() {
        let (mut way, counts, now) =
            (Way::new(Disturb::new(1).lose(100.0)), Counts::default(), Instant::now());
        let ipv6 = |next: u8| [&[0; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 255]].concat();
        for frame in [ipv6(58), ipv6(6), [&[0; 12][..], &[8, 6]].concat()] {
            way.take(&frame, now, &counts);
        }
        assert_eq!(std::iter::from_fn(|| way.arrived(now, &counts)).count(), 2);
    }

    #[test]
    fn frames_take_half_a_round_trip_in_their_order() {
        let (mut way, counts, now) =
            (Way::new(Disturb::new(1).delay(Duration::from_millis(100))), Counts::default(), Instant::now());
        let half = Duration::from_millis(50);
        for number in 0..10 {
            way.take(&frame(number), now + u32::from(number) * half / 5, &counts);
        }
        assert_eq!(way.next(), Some(now + half));
        assert!(all(&mut way, now + half - Duration::from_nanos(1), &counts).is_empty());
        assert_eq!(all(&mut way, now + half, &counts), [0]);
        assert_eq!(all(&mut way, now + 2 * half, &counts), [1, 2, 3, 4, 5]);
        assert_eq!(way.next(), Some(now + 6 * half / 5 + half));
    }

    #[test]
    fn a_slow_line_takes_its_time_for_each_frame_and_loses_what_does_not_fit() {
        let (mut way, counts, now) =
            (Way::new(Disturb::new(1).rate(8000)), Counts::default(), Instant::now());
        let second = Duration::from_secs(1);
        let long = |number| [frame(number), vec![0; 984]].concat();
        way.take(&long(1), now, &counts);
        way.take(&long(2), now, &counts);
        assert!(all(&mut way, now + second - Duration::from_nanos(1), &counts).is_empty());
        assert_eq!(all(&mut way, now + second, &counts), [1]);
        assert_eq!(all(&mut way, now + second * 2, &counts), [2]);
        way.take(&long(3), now + second * 3, &counts);
        assert_eq!(all(&mut way, now + second * 4, &counts), [3]);
        let fit = QUEUE_MAX / 1000 + 1;
        (0..fit + 5).for_each(|_| way.take(&long(4), now + second * 4, &counts));
        assert_eq!(all(&mut way, now + second * 10_000, &counts).len() as u64, fit);
        assert_eq!(counts.overflowed.into_inner(), 5);
    }
}
