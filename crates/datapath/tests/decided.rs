//! What user space decides by the tables is what the programs would have decided. Needs root.

mod common;

use std::time::Duration;

use baton_cluster::Target;
use baton_datapath::{GuideKind, State, target_of};
use common::World;
use common::client::{Client, REQUEST, node, state};
use common::world::{OTHER, THIRD, WEB, keys};

/// The boot clock of the kernel has long passed this.
const LONG_AGO: Duration = Duration::from_nanos(1);

/// What both say of the same request; the programs' answer is the server that they bind it to.
#[track_caller]
fn both(world: &mut World, f: baton_cluster::Flow, what: &str) {
    let target = target_of(b"/a", keys().target);
    let now = Duration::from_nanos(world.clock().kernel_ns);
    let said = world.programs.decided(WEB, Some(target), now).expect("tables");
    let client = Client::connected(world, f);
    world.ingress(&client.requests().frame());
    let bound = match state(world, &f) {
        Some(State::Bound(server)) => Some(server),
        _ => None,
    };
    assert_eq!(said, bound, "{what}");
}

#[test]
fn user_space_decides_as_the_programs_do() {
    node("d", |world, f| {
        for case in 0..3_u32.pow(6) {
            let digit = |place: u32| case / 3_u32.pow(place) % 3;
            world.rest().expect("tables");
            world.guide(WEB, GuideKind::Cached { load_limit: 3 }, &[], 1);
            let servers = match digit(0) {
                0 => vec![OTHER],
                1 => vec![THIRD, OTHER],
                _ => vec![],
            };
            if !servers.is_empty() {
                world.decide(WEB, REQUEST, &servers, 1 + digit(1) / 2);
            }
            world.load(OTHER, digit(2) * 2, 1 + digit(3) as u16, digit(1) != 1);
            world.load(THIRD, digit(4) * 3, 1 + digit(5) as u16, true);
            both(world, f, &format!("case {case}"));
        }
        world.rest().expect("tables");
        world.guide(WEB, GuideKind::Ask, &[OTHER], 1);
        world.decide(WEB, REQUEST, &[OTHER], 1);
        both(world, f, "every request is asked");
    });
}

#[test]
fn turns_are_taken_and_old_decisions_are_not() {
    node("d", |world, _| {
        world.rest().expect("tables");
        let now = Duration::from_nanos(world.clock().kernel_ns);
        world.guide(WEB, GuideKind::Rota, &[THIRD, OTHER, OTHER], 1);
        world.load(THIRD, 9, 1, true);
        let turn = || world.programs.decided(WEB, None, now).expect("tables");
        let turns: Vec<_> = (0..3).map(|_| turn()).collect();
        assert_eq!(turns.iter().filter(|turn| **turn == Some(OTHER)).count(), 2);
        assert_eq!(turns, (0..3).map(|_| turn()).collect::<Vec<_>>(), "round and round");

        world.guide(WEB, GuideKind::Cached { load_limit: 3 }, &[], 1);
        world.load(OTHER, 0, 1, true);
        let target = target_of(b"/a", keys().target);
        let keep = |expires| world.programs.set_decision(WEB, target, &[OTHER], Some(expires), 1);
        let ask = || world.programs.decided(WEB, Some(target), now).expect("tables");
        keep(now + Duration::from_secs(1)).expect("tables");
        assert_eq!(ask(), Some(OTHER));
        keep(LONG_AGO).expect("tables");
        assert_eq!(ask(), None);
    });
}

#[test]
fn a_server_leaves_every_decision_and_no_other_does() {
    node("d", |world, _| {
        world.rest().expect("tables");
        world.guide(WEB, GuideKind::Cached { load_limit: 3 }, &[], 1);
        [OTHER, THIRD].iter().for_each(|server| world.load(*server, 0, 1, true));
        let now = Duration::from_nanos(world.clock().kernel_ns);
        let programs = &world.programs;
        // More than are read at a time.
        let targets: Vec<Target> = (0..3_000).map(Target).collect();
        for target in &targets {
            let servers = [vec![OTHER], vec![THIRD], vec![THIRD, OTHER]];
            let servers = &servers[target.0 as usize % servers.len()];
            programs.set_decision(WEB, *target, servers, None, 1).expect("tables");
        }
        let know = || targets.iter().filter_map(|t| programs.decided(WEB, Some(*t), now).expect("tables"));
        // An LRU table may forget some before it is full.
        let only_third = |t: &&Target| {
            t.0 % 3 == 1 && programs.decided(WEB, Some(**t), now).expect("tables") == Some(THIRD)
        };
        let (before, others) = (know().count(), targets.iter().filter(only_third).count());
        assert!(before > 2_000 && others > 600, "{before} {others}");
        let gone = programs.forget_server(OTHER).expect("tables");
        let left: Vec<_> = know().collect();
        assert_eq!(left.len() + gone, before);
        assert!(left.iter().all(|server| *server == THIRD));
        assert_eq!(left.len(), others);
        assert_eq!(programs.forget_server(OTHER).expect("tables"), 0);
        assert_eq!(know().count(), left.len());
    });
}
