//! One connection is decided once, whatever becomes of switch, distributors and what they say to each other: all
//! that can happen in so many steps, and long random courses. Each rule that is broken on purpose must be found.

mod owners {
    pub mod world;
}

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use owners::world::{DISTRIBUTORS, Event, Faults, World};

/// Steps in which something may break: three failure timeouts and more.
const STEPS: usize = 70;

/// A small generator (Marsaglia's xorshift): the courses must be the same each time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

fn key(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{world:?}").hash(&mut hasher);
    hasher.finish()
}

/// Everything that can happen, breadth first, up to so many states: the shortest way to two decisions.
fn search(faults: Faults, states_max: usize) -> Option<Vec<Event>> {
    let mut begin = World::new(faults);
    begin.step(Event::Syn);
    let mut seen = HashSet::from([key(&begin)]);
    let mut ways = VecDeque::from([(begin, Vec::new())]);
    while let Some((world, way)) = ways.pop_front() {
        for event in world.events() {
            let (mut next, mut way) = (world.clone(), way.clone());
            next.step(event);
            way.push(event);
            if next.is_wrong() {
                return Some(way);
            }
            if seen.len() < states_max && seen.insert(key(&next)) {
                ways.push_back((next, way));
            }
        }
    }
    None
}

/// Random courses, in which time passes and the client repeats itself more often than things break.
fn wander(begin: &World, courses: u64, length: usize) -> Option<Vec<Event>> {
    for course in 1..=courses {
        let (mut world, mut way) = (begin.clone(), Vec::new());
        let mut dice = Dice(course.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..length {
            let events = world.events();
            // In every other course distributors take their time.
            let often = |event: &&Event| match event {
                Event::Cut(_) | Event::Crash(_) | Event::Heal(_) | Event::Restart(_) => false,
                Event::Decide(_) => course % 3 == 0,
                Event::Ask(_) => course % 3 < 2,
                _ => true,
            };
            let event = if dice.throw(2) == 0 {
                Event::Time
            } else if dice.throw(6) == 0 {
                events[dice.throw(events.len())]
            } else {
                let usual: Vec<Event> = events.iter().filter(often).copied().collect();
                usual[dice.throw(usual.len())]
            };
            world.step(event);
            way.push(event);
            if world.is_wrong() {
                return Some(way);
            }
        }
    }
    None
}

#[test]
fn a_connection_is_decided_once() {
    assert_eq!(search(Faults::default(), 10_000), None);
    assert_eq!(wander(&World::new(Faults::default()), 1_500, 250), None);
    assert_eq!(breaking(Faults::default()), None);
}

/// Whoever never decides is never wrong. A connection whose distributors are all gone ends by a RST.
#[test]
fn a_connection_is_decided_in_the_end() {
    for course in 1..=150_u64 {
        let mut world = World::new(Faults::default());
        let mut dice = Dice(course.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        world.step(Event::Syn);
        for _ in 0..40 {
            let events = world.events();
            world.step(events[dice.throw(events.len())]);
        }
        // Everything is mended, and as much time passes as all waits take together.
        for _ in 0..300 {
            for event in world.events() {
                if !matches!(event, Event::Cut(_) | Event::Crash(_)) {
                    world.step(event);
                }
            }
        }
        assert!(world.reset || !world.decided.is_empty(), "course {course}");
    }
}

/// However often distributors were lost and came back before: a connection is decided, or its client told, soon, and
/// not only when its cookie has run out.
#[test]
fn distributors_that_come_and_go_keep_nobody_waiting() {
    // A switch misses a distributor after 21 steps; after 31 its lease is over, and after 61 the fence.
    for (rounds, cut) in (0..6).flat_map(|rounds| [(rounds, 24), (rounds, 34)]) {
        let mut world = World::new(Faults::default());
        let pass = |world: &mut World, steps| {
            for _ in 0..steps {
                let usual = |event: &Event| {
                    !matches!(event, Event::Cut(_) | Event::Crash(_) | Event::Heal(_) | Event::Syn)
                };
                world.events().into_iter().filter(usual).for_each(|event| world.step(event));
            }
        };
        for _ in 0..rounds {
            for node in DISTRIBUTORS {
                world.step(Event::Cut(node));
                pass(&mut world, 2);
            }
            pass(&mut world, cut - 4);
            for node in DISTRIBUTORS {
                world.step(Event::Heal(node));
                pass(&mut world, 2);
            }
            pass(&mut world, 4);
        }
        let mut begun = world;
        begun.step(Event::Syn);
        for node in DISTRIBUTORS {
            let mut world = begun.clone();
            world.step(Event::Cut(node));
            // The distributor that answers is lost before the request comes, and does not come back.
            for _ in 0..22 {
                world.step(Event::Time);
            }
            pass(&mut world, 60);
            let ended = world.reset || !world.decided.is_empty();
            assert!(ended && !world.is_wrong(), "after {rounds} rounds of {cut}, {node}: {world:#?}");
        }
    }
}

/// When all distributors were lost at once, those that come back first inherit: no client is reset, or kept waiting.
#[test]
fn those_that_come_first_inherit_when_there_was_nobody() {
    let mut world = World::new(Faults::default());
    let pass = |world: &mut World, steps| {
        for _ in 0..steps {
            let breaks = |event: &Event| matches!(event, Event::Cut(_) | Event::Crash(_) | Event::Heal(_));
            world.events().into_iter().filter(|event| !breaks(event)).for_each(|event| world.step(event));
        }
    };
    world.step(Event::Syn);
    DISTRIBUTORS.into_iter().for_each(|node| world.step(Event::Cut(node)));
    for _ in 0..80 {
        world.step(Event::Time);
    }
    pass(&mut world, 1);
    assert!(!world.reset && world.decided.is_empty(), "nobody has a lease: {world:#?}");
    DISTRIBUTORS.into_iter().for_each(|node| world.step(Event::Heal(node)));
    pass(&mut world, 20);
    assert!(!world.reset && world.decided.len() == 1, "{world:#?}");
}

/// Two things break, or are mended, at any time, the first of them at the distributor that answered the handshake;
/// all else goes well. At each moment whoever may decide does so. The way to two decisions.
fn breaking(faults: Faults) -> Option<Vec<(usize, Event)>> {
    let mut begin = World::new(faults);
    begin.step(Event::Syn);
    begin.step(Event::Request);
    let holds = |event| if let Event::Ask(node) = event { Some(node) } else { None };
    let maker = begin.events().into_iter().find_map(holds).expect("it has the request");
    let breaks = |of| [Event::Cut(of), Event::Crash(of), Event::Heal(of), Event::Restart(of)];
    let all: Vec<Event> = DISTRIBUTORS.into_iter().flat_map(breaks).collect();
    for (first, second, at) in [Event::Cut(maker), Event::Crash(maker)]
        .into_iter()
        .flat_map(|first| all.iter().map(move |second| (first, *second)))
        .flat_map(|(first, second)| (0..STEPS).step_by(3).map(move |at| (first, second, at)))
    {
        let mut world = begin.clone();
        world.step(first);
        for step in 0..STEPS + 50 {
            if step == at {
                world.step(second);
            }
            let usual =
                |event: &Event| matches!(event, Event::Arrives { .. } | Event::Request | Event::Ask(_));
            for event in world.events().into_iter().filter(usual) {
                world.step(event);
            }
            world.step(Event::Time);
            for order in [[0, 1, 2], [2, 1, 0]] {
                let mut last = world.clone();
                order.into_iter().for_each(|at| last.step(Event::Decide(DISTRIBUTORS[at])));
                if last.is_wrong() {
                    return Some(vec![(0, first), (at, second), (step, Event::Decide(maker))]);
                }
            }
        }
    }
    None
}

/// Each rule is needed.
fn breaks(faults: Faults) {
    let way = breaking(faults);
    println!("{faults:?}: {way:?}");
    let found = way.is_some() || wander(&World::new(faults), 5_000, 250).is_some();
    assert!(found, "{faults:?}");
}

#[test]
fn wrong_the_switch_does_not_wait() {
    breaks(Faults { no_fence: true, ..Faults::default() });
}

#[test]
fn wrong_a_distributor_decides_without_a_lease() {
    breaks(Faults { no_lease: true, ..Faults::default() });
}

#[test]
fn wrong_heirs_change_with_the_table() {
    breaks(Faults { heirs_change: true, ..Faults::default() });
}

#[test]
fn wrong_every_distributor_takes_what_the_table_sends_it() {
    breaks(Faults { by_table: true, ..Faults::default() });
}

#[test]
fn wrong_an_heir_does_not_ask() {
    breaks(Faults { no_question: true, ..Faults::default() });
}
