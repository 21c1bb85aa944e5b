//! The move of a connection from owner to owner, and the reader's replay, in every order that packets,
//! messages, sockets and applications allow: a small explicit-state model, searched to its end. In each
//! reachable state: at most one node owns the connection, the client gets the right bytes in the right
//! places and no RST, each request is given to one application, once, of its pool, and no packet goes
//! round in circles; and from each, the connection can still complete without further mishaps. What the
//! rules are, and why: docs/decisions/0007-the-owner-moves.md. Each rule has a test that breaks it.
//!
//! The model is of the rules, not of the C: the packet path's own tests hold the two together.

mod moves {
    pub mod explore;
    pub mod peers;
    pub mod program;
    pub mod world;
}

use moves::explore::explore;
use moves::world::{Rules, Setup, Tell, role};

const SWITCH: u8 = role::SWITCH;
const DISTRIBUTOR: u8 = role::DISTRIBUTOR;
const SERVER: u8 = role::SERVER;
const ALL: u8 = SWITCH | DISTRIBUTOR | SERVER;

/// More states than any search here has.
const MOST: usize = 3_000_000;

/// The rules as they are.
const RULES: Rules = Rules {
    tell: Tell::Taker,
    adopt_by_cookie: false,
    again_whoever_sent: true,
    again_same_ack: true,
    answer_old_data: true,
    hand_on_same_start: true,
    hybrid_clock: true,
    recheck: true,
    claim: true,
    asked_at_ingress: true,
    taker_looks: true,
    freeze_first: true,
    replay_again: true,
    reading_stands: true,
};

/// A switch, a distributor, two servers.
const SWITCHED: Setup = Setup {
    name: "switch, distributor, two servers",
    roles: &[SWITCH, DISTRIBUTOR, SERVER, SERVER],
    skew: &[],
    entry: 0,
    distributor: 1,
    first: 2,
    ends: &[1, 2],
    ahead: 1,
    homes: &[],
    early: false,
    halves: false,
    races: false,
    reader: false,
    acks: false,
    losses: 1,
    copies: 1,
    moves: 1,
    closes: 1,
    rules: RULES,
};

/// A distributor and two servers.
const DIRECT: Setup = Setup {
    name: "distributor, two servers",
    roles: &[DISTRIBUTOR, SERVER, SERVER],
    entry: 0,
    distributor: 0,
    first: 1,
    ..SWITCHED
};

/// All roles everywhere; the flow is another node's than the one where it enters.
const ALIKE: Setup = Setup {
    name: "two nodes alike",
    roles: &[ALL, ALL],
    entry: 0,
    distributor: 1,
    first: 1,
    ends: &[1, 2, 3],
    moves: 2,
    closes: 0,
    ..SWITCHED
};

/// The socket acts while the program moves it.
const RACES: Setup = Setup { name: "races", races: true, ..DIRECT };

/// Each request belongs to one server, and up to two are outstanding.
const STRICT: Setup = Setup { name: "strict pools", homes: &[1, 2], ahead: 2, ..DIRECT };

/// The first server's clock is ahead.
const SKEWED: Setup = Setup {
    name: "clocks apart",
    skew: &[0, 9, 0],
    ends: &[1, 2, 3],
    moves: 2,
    copies: 0,
    closes: 0,
    ..DIRECT
};

/// Answers before the request is whole, so that its end may be acknowledged late.
const EARLY: Setup = Setup {
    name: "answers to half a request",
    ends: &[2, 3],
    early: true,
    acks: true,
    losses: 2,
    copies: 0,
    closes: 0,
    ..DIRECT
};

/// The head comes in two packets, and another server is to have it.
const READER: Setup = Setup {
    name: "reader",
    roles: &[DISTRIBUTOR, SERVER],
    ends: &[2],
    reader: true,
    acks: true,
    copies: 0,
    closes: 0,
    ..DIRECT
};

/// The reader's own node is to have it, and the next request comes while it reads.
const READER_AHEAD: Setup = Setup {
    name: "reader, request behind",
    roles: &[DISTRIBUTOR | SERVER],
    first: 0,
    ends: &[2, 3],
    ahead: 2,
    ..READER
};

/// Each head comes in two packets, each request belongs to one server: who serves the one reads the next.
const READER_STRICT: Setup = Setup {
    name: "readers, strict pools",
    roles: &[DISTRIBUTOR, SERVER, SERVER],
    ends: &[2, 4],
    homes: &[1, 2],
    acks: false,
    losses: 0,
    ..READER
};

/// Searches each of them to its end.
fn hold(setups: &[Setup]) {
    for setup in setups {
        if let Err(fault) = explore(setup, MOST) {
            panic!("{}: {}\n{}", setup.name, fault.what, fault.trace);
        }
    }
}

#[test]
fn moves_between_servers() {
    hold(&[
        DIRECT,
        Setup { name: "answers in two pieces", halves: true, ..DIRECT },
        Setup { name: "pure ACKs", acks: true, closes: 0, ..DIRECT },
        Setup { name: "two losses", losses: 2, copies: 0, ends: &[1, 2, 3], moves: 2, ..DIRECT },
        Setup { name: "three moves", losses: 0, closes: 0, ends: &[1, 2, 3, 4], moves: 3, ..DIRECT },
        Setup {
            name: "three servers",
            roles: &[DISTRIBUTOR, SERVER, SERVER, SERVER],
            ends: &[1, 2, 3],
            moves: 2,
            losses: 0,
            closes: 0,
            ..DIRECT
        },
    ]);
}

#[test]
fn whoever_is_told_and_whenever() {
    let nobody = Rules { tell: Tell::Nobody, ..RULES };
    hold(&[
        Setup { closes: 0, ..SWITCHED },
        Setup { name: "nobody is told", rules: nobody, ..DIRECT },
        Setup { name: "nobody is told, nodes alike", rules: nobody, ..ALIKE },
        Setup { name: "two nodes alike", ..ALIKE },
        Setup { name: "three nodes alike", roles: &[ALL; 3], first: 2, ends: &[1, 2], moves: 1, ..ALIKE },
        Setup {
            name: "distributors that serve",
            roles: &[SWITCH, DISTRIBUTOR | SERVER, DISTRIBUTOR | SERVER],
            first: 1,
            closes: 0,
            ..SWITCHED
        },
    ]);
}

#[test]
fn the_socket_acts_while_it_is_moved() {
    hold(&[
        RACES,
        Setup { name: "races, two moves", ends: &[1, 2, 3], moves: 2, losses: 0, copies: 0, ..RACES },
        Setup { name: "races, strict pools", races: true, losses: 0, ..STRICT },
        Setup { name: "races, requests ahead", ahead: 2, closes: 0, ..RACES },
    ]);
}

#[test]
fn requests_of_every_shape() {
    hold(&[
        Setup { name: "requests ahead", ahead: 2, closes: 0, ..DIRECT },
        Setup { name: "three ahead", ahead: 3, ends: &[1, 2, 3], moves: 2, closes: 0, copies: 0, ..DIRECT },
        STRICT,
        Setup {
            name: "strict, three",
            ends: &[1, 2, 3],
            homes: &[1, 2, 1],
            ahead: 3,
            closes: 0,
            copies: 0,
            ..STRICT
        },
        EARLY,
    ]);
}

#[test]
fn clocks_may_differ() {
    hold(&[SKEWED, Setup { name: "distributor's clock ahead", skew: &[9, 0, 0], ..SKEWED }]);
}

#[test]
fn the_reader_hands_off() {
    hold(&[
        READER,
        Setup {
            name: "reader, moved on",
            roles: &[DISTRIBUTOR, SERVER, SERVER],
            ends: &[2, 3],
            acks: false,
            losses: 0,
            ..READER
        },
        Setup { name: "reader, own node", ends: &[2], ..READER_AHEAD },
        Setup { losses: 0, ..READER_AHEAD },
        READER_STRICT,
    ]);
}

/// The rules but one: the search must find what is then wrong.
fn breaks(setup: Setup, rules: Rules, expected: &str) {
    let fault = explore(&Setup { rules, ..setup }, MOST).expect_err("nothing was found wrong");
    println!("{}\n{}", fault.what, fault.trace);
    assert_eq!(fault.what, expected);
}

const STUCK: &str = "the connection is stuck";
const TWICE: &str = "a request is given to an application twice";

#[test]
fn wrong_the_giver_tells() {
    let small = Setup { copies: 0, closes: 0, ..DIRECT };
    breaks(small, Rules { tell: Tell::Giver, ..RULES }, STUCK);
}

#[test]
fn wrong_the_giver_tells_the_taker_too() {
    let servers = &[SWITCH, DISTRIBUTOR | SERVER, DISTRIBUTOR | SERVER];
    let rules = Rules { tell: Tell::GiverTellsTaker, ..RULES };
    breaks(Setup { roles: servers, first: 1, ..SWITCHED }, rules, TWICE);
    breaks(SWITCHED, Rules { adopt_by_cookie: true, ..rules }, TWICE);
}

#[test]
fn wrong_the_request_is_dropped_when_its_new_owner_sends_it_back() {
    let rules = Rules { again_whoever_sent: false, ..RULES };
    breaks(Setup { copies: 0, ..ALIKE }, rules, STUCK);
}

#[test]
fn wrong_an_old_copy_of_the_request_is_wrapped_again() {
    let what = "the client receives bytes that belong elsewhere";
    breaks(STRICT, Rules { again_same_ack: false, ..RULES }, what);
}

#[test]
fn wrong_nobody_acknowledges_what_the_old_owner_had() {
    breaks(EARLY, Rules { answer_old_data: false, ..RULES }, STUCK);
}

#[test]
fn wrong_an_old_handoff_is_handed_on() {
    breaks(DIRECT, Rules { hand_on_same_start: false, ..RULES }, TWICE);
}

#[test]
fn wrong_moves_are_ordered_by_the_wall_clock() {
    breaks(SKEWED, Rules { hybrid_clock: false, ..RULES }, TWICE);
}

#[test]
fn wrong_the_owner_does_not_look_again() {
    let what = "the client receives bytes behind a FIN";
    breaks(RACES, Rules { recheck: false, ..RULES }, what);
}

#[test]
fn wrong_two_programs_at_once() {
    let rules = Rules { claim: false, ..RULES };
    breaks(RACES, rules, TWICE);
    breaks(Setup { races: true, losses: 0, ..STRICT }, rules, "two nodes own the connection");
}

#[test]
fn wrong_idle_is_what_the_socket_says() {
    breaks(RACES, Rules { asked_at_ingress: false, ..RULES }, TWICE);
}

#[test]
fn wrong_the_taker_serves_all_it_is_given() {
    breaks(STRICT, Rules { taker_looks: false, ..RULES }, "a request is served outside its pool");
}

#[test]
fn wrong_the_reader_reads_before_it_freezes() {
    let rules = Rules { freeze_first: false, ..RULES };
    breaks(Setup { losses: 0, ..READER_AHEAD }, rules, STUCK);
}

#[test]
fn wrong_the_replay_is_not_repeated() {
    breaks(READER, Rules { replay_again: false, ..RULES }, STUCK);
}

#[test]
fn wrong_what_is_repeated_takes_a_connection_from_the_reader() {
    breaks(READER_STRICT, Rules { reading_stands: false, ..RULES }, TWICE);
}

/// The same with larger bounds.
#[test]
#[ignore = "takes minutes"]
fn wide() {
    hold(&[
        Setup { name: "wide: switch, two moves", ends: &[1, 2, 3], moves: 2, ..SWITCHED },
        Setup {
            name: "wide: two losses, two moves",
            ends: &[1, 2, 3],
            moves: 2,
            losses: 2,
            copies: 0,
            ..SWITCHED
        },
        Setup { name: "wide: three moves", ends: &[1, 2, 3, 4], moves: 3, copies: 0, closes: 0, ..SWITCHED },
        Setup {
            name: "wide: ring of three",
            roles: &[DISTRIBUTOR, SERVER, SERVER, SERVER],
            ends: &[1, 2, 3, 4],
            moves: 3,
            copies: 0,
            closes: 0,
            ..DIRECT
        },
        Setup {
            name: "wide: races, nodes alike",
            races: true,
            roles: &[ALL; 3],
            first: 2,
            copies: 0,
            ..ALIKE
        },
        Setup { name: "wide: races, answers to half", races: true, losses: 1, closes: 1, ..EARLY },
        Setup {
            name: "wide: reader, request behind",
            roles: &[DISTRIBUTOR, SERVER],
            ahead: 2,
            ends: &[2, 3],
            ..READER
        },
    ]);
}
