//! The state machine by itself, and in a small world: nodes that own, hand off, move and forget connections while
//! they are asked, by messages that are late or lost.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const ME: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);

fn flow(number: u16) -> Flow {
    let [client, vip] = [1, 2].map(|last| Ipv4Addr::new(10, 0, 0, last).into());
    Flow { client, vip, client_port: 40_000 + number, vip_port: 80 }
}

fn numbers(seq: u32, ack: u32) -> Numbers {
    Numbers { seq, end: seq.wrapping_add(1), ack, echo: None }
}

fn mine(owner: NodeId) -> Claim {
    Claim { owner, start_seq: 7, issued: 100, ended: false }
}

/// Both others have been up for a while at `now`.
fn search(now: Instant) -> Search<u32> {
    let before = now.checked_sub(SETTLING).expect("the clock began earlier");
    let mut search = Search::new(ME, [B, C], before);
    search.came_up(B, before);
    search.came_up(C, before);
    search
}

/// The number of the batch that is asked about, of these others.
#[track_caller]
fn asked(steps: &[Step<u32>], of: &[NodeId]) -> u32 {
    let [Step::Ask { to, whose }] = steps else { panic!("one question: {steps:?}") };
    assert_eq!(to, of);
    whose.batch
}

fn answer(batch: u32, claims: &[Option<Claim>]) -> Owned {
    Owned { batch, claims: claims.to_vec() }
}

#[test]
fn the_owner_that_is_found_gets_the_packets() {
    let now = Instant::now();
    let mut search = search(now);
    search.packet(flow(0), numbers(1, 2), false, 10);
    search.packet(flow(0), numbers(5, 2), false, 11);
    let batch = asked(&search.flush(now), &[B, C]);
    search.packet(flow(0), numbers(6, 2), false, 12);
    assert_eq!(search.answered(C, &answer(batch, &[Some(mine(C))])), [], "an older socket may be at B");
    let bound = search.answered(B, &answer(batch, &[None]));
    assert_eq!(bound, [Step::Bind { flow: flow(0), claim: mine(C), frames: vec![10, 11, 12] }]);
    assert_eq!(search.in_question(), 0);
    assert_eq!(search.answered(B, &answer(batch, &[Some(mine(B))])), [], "once");
}

#[test]
fn when_all_have_said_no_the_client_is_told() {
    let now = Instant::now();
    let mut search = search(now);
    search.packet(flow(0), numbers(1, 2), false, 10);
    let batch = asked(&search.flush(now), &[B, C]);
    search.packet(flow(0), numbers(9, 8), false, 11);
    assert_eq!(search.answered(B, &answer(batch, &[None])), []);
    let reset = search.answered(C, &answer(batch, &[None]));
    assert_eq!(reset, [Step::Reset { flow: flow(0), numbers: numbers(9, 8) }], "where the client is now");
}

/// Another node's cluster file has nodes that nobody here can ask.
#[test]
fn who_does_not_know_all_nodes_resets_nobody() {
    let now = Instant::now();
    let mut search = search(now);
    let mut ask = |behind| {
        search.others_know_more(behind);
        search.packet(flow(0), numbers(1, 2), false, 10);
        let batch = asked(&search.flush(now), &[B, C]);
        assert_eq!(search.answered(B, &answer(batch, &[None])), []);
        search.answered(C, &answer(batch, &[None]))
    };
    assert_eq!(ask(true), [], "it may be of a node that is not in this one's file");
    assert_eq!(ask(false), [Step::Reset { flow: flow(0), numbers: numbers(1, 2) }]);
}

/// Its machine was started again after the connection had been handed to it.
#[test]
fn a_client_whose_connection_never_comes_is_told() {
    let now = Instant::now();
    let mut search = search(now);
    let mut ask = |flow_number, after: Duration, claims: [Option<Claim>; 2]| {
        search.packet(flow(flow_number), numbers(9, 8), false, 10);
        let batch = asked(&search.flush(now + after), &[B, C]);
        assert_eq!(search.answered(B, &answer(batch, &[claims[0]])), []);
        search.answered(C, &answer(batch, &[claims[1]]))
    };
    let yours = Some(mine(ME));
    assert_eq!(ask(0, Duration::ZERO, [yours, None]), [], "it is on its way");
    assert_eq!(ask(0, COMES_WITHIN / 2, [None, yours]), []);
    let another = Some(Claim { start_seq: 9, ..mine(ME) });
    assert_eq!(ask(0, COMES_WITHIN, [another, None]), [], "the port has another one, which has its own time");
    assert_eq!(ask(1, COMES_WITHIN, [yours, None]), [], "and so has every connection");
    let reset = [Step::Reset { flow: flow(0), numbers: numbers(9, 8) }];
    assert_eq!(ask(0, COMES_WITHIN, [yours, None]), reset);
    assert_eq!(ask(0, COMES_WITHIN, [yours, None]), [], "once");
}

/// What another distributor has left waits for the nodes that are there, not for that distributor.
#[test]
fn what_nobody_has_is_decided_by_its_heir() {
    let now = Instant::now();
    let mut search = search(now);
    search.went_down(C, now);
    for (inherited, step) in [(true, Some(Step::Decide { frames: vec![10] })), (false, None)] {
        search.packet(flow(0), numbers(1, 2), inherited, 10);
        let batch = asked(&search.flush(now), &[B]);
        assert_eq!(search.answered(B, &answer(batch, &[None])), Vec::from_iter(step));
        search.packet(flow(0), numbers(1, 2), inherited, 10);
        let batch = asked(&search.flush(now), &[B]);
        let bound = search.answered(B, &answer(batch, &[Some(mine(B))]));
        assert_eq!(bound, [Step::Bind { flow: flow(0), claim: mine(B), frames: vec![10] }], "B has it");
        search.packet(flow(0), numbers(1, 2), inherited, 10);
        asked(&search.flush(now), &[B]);
        assert_eq!(search.tick(now + PATIENCE_MAX), [], "silence is no answer");
    }
}

/// What an earlier connection of the same addresses and ports has left at a node is not what was inherited: its
/// stack would refuse the new connection's first packet.
#[test]
fn an_heir_is_not_misled_by_an_earlier_connection() {
    let now = Instant::now();
    let earlier = Claim { start_seq: 0x8000_0000, ..mine(B) };
    let itself = Claim { start_seq: u32::MAX, ..mine(C) };
    for (of_b, of_c, owner) in [
        (Claim { ended: true, ..earlier }, None, None),
        (earlier, None, None),
        (Claim { issued: 900, ..earlier }, Some(itself), Some(C)),
        (earlier, Some(Claim { start_seq: 10_000, ..itself }), Some(C)),
    ] {
        let mut search = search(now);
        search.packet(flow(0), numbers(u32::MAX, 2), true, 10);
        let batch = asked(&search.flush(now), &[B, C]);
        assert_eq!(search.answered(B, &answer(batch, &[Some(of_b)])), []);
        match (owner, &search.answered(C, &answer(batch, &[of_c]))[..]) {
            (None, [Step::Decide { .. }]) => {}
            (Some(owner), [Step::Bind { claim, .. }]) if claim.owner == owner => {}
            (_, other) => panic!("{of_b:?} {of_c:?}: {other:?}"),
        }
    }
}

/// A node that was away for long comes back while the others are asked: it may own the connection.
#[test]
fn who_comes_back_meanwhile_has_not_said_no() {
    let now = Instant::now();
    let mut search = search(now);
    search.went_down(C, now);
    let later = now + ABSENCE;
    search.packet(flow(0), numbers(1, 2), false, 10);
    let batch = asked(&search.flush(later), &[B]);
    search.came_up(C, later);
    assert_eq!(search.answered(B, &answer(batch, &[None])), []);
}

/// Nodes that are busy answer late. A claim need not wait for them, but a "no" does.
#[test]
fn late_answers_count() {
    let now = Instant::now();
    let mut search = search(now);
    for of_b in [None, Some(mine(B))] {
        search.packet(flow(0), numbers(1, 2), true, 10);
        search.packet(flow(1), numbers(1, 2), true, 11);
        let batch = asked(&search.flush(now), &[B, C]);
        assert_eq!(search.answered(B, &answer(batch, &[of_b, None])), []);
        let bound = of_b.map(|claim| Step::Bind { flow: flow(0), claim, frames: vec![10] });
        assert_eq!(search.tick(now + PATIENCE), Vec::from_iter(bound.clone()));
        // The same client once more, before the old question is over.
        search.packet(flow(0), numbers(1, 2), true, 12);
        let frames = if bound.is_some() { vec![vec![11]] } else { vec![vec![10, 12], vec![11]] };
        let decided = frames.into_iter().map(|frames| Step::Decide { frames }).collect::<Vec<_>>();
        assert_eq!(search.answered(C, &answer(batch, &[None, None])), decided);
        search.tick(now + 2 * PATIENCE_MAX);
        search.tick(now + 4 * PATIENCE_MAX);
        assert_eq!(search.in_question(), 0);
    }
}

/// Each way in which a node can fail to say no.
#[test]
fn silence_is_no_answer() {
    let now = Instant::now();
    let late = now + PATIENCE_MAX;
    type Silence<'a> = &'a dyn Fn(&mut Search<u32>, u32) -> Vec<Step<u32>>;
    let of_c: [Silence<'_>; 4] = [
        &|search, _| search.tick(late),
        &|search, _| search.went_down(C, now),
        // Another number of answers than there were questions.
        &|search, batch| {
            assert_eq!(search.answered(C, &answer(batch, &[None, None])), []);
            search.tick(late)
        },
        // In the name of somebody else.
        &|search, batch| search.answered(C, &answer(batch, &[Some(mine(B))])),
    ];
    for (number, of_c) in of_c.iter().enumerate() {
        for (of_b, is_bound) in [
            (None, false),
            (Some(Claim { ended: true, ..mine(B) }), false),
            (Some(mine(ME)), false),
            (Some(mine(B)), true),
        ] {
            let mut search = search(now);
            search.packet(flow(0), numbers(1, 2), false, 10);
            let batch = asked(&search.flush(now), &[B, C]);
            assert_eq!(search.answered(B, &answer(batch, &[of_b])), []);
            let steps = of_c(&mut search, batch);
            let bound = matches!(steps[..], [Step::Bind { claim: Claim { owner: B, ended: false, .. }, .. }]);
            assert_eq!(
                (steps.len(), bound),
                (usize::from(is_bound), is_bound),
                "{number} {of_b:?}: {steps:?}"
            );
            assert_eq!(search.in_question(), 0, "the client repeats its packet");
        }
    }
}

/// A node that has not come up, or was there a moment ago, may own the connection: but not for ever.
#[test]
fn who_is_away_counts_for_a_while() {
    let now = Instant::now();
    for was_up in [false, true] {
        let mut search = Search::new(ME, [B, C], now);
        search.came_up(B, now.checked_sub(SETTLING).expect("the clock began earlier"));
        let mut since = now;
        if was_up {
            search.came_up(C, now);
            since += Duration::from_secs(1000);
            assert_eq!(search.went_down(C, since), []);
        }
        let mut ask_at = |at| {
            search.packet(flow(0), numbers(1, 2), false, 10);
            let batch = asked(&search.flush(at), &[B]);
            search.answered(B, &answer(batch, &[None]))
        };
        assert_eq!(ask_at(since), []);
        assert_eq!(ask_at(since + ABSENCE - Duration::from_millis(1)), []);
        assert_eq!(ask_at(since + ABSENCE), [Step::Reset { flow: flow(0), numbers: numbers(1, 2) }]);
    }
    // Who has just come up may hear any moment what is its own.
    let mut back = search(now);
    let ask_at = |search: &mut Search<u32>, at| {
        search.packet(flow(0), numbers(1, 2), false, 10);
        let batch = asked(&search.flush(at), &[B, C]);
        assert_eq!(search.answered(B, &answer(batch, &[None])), []);
        search.answered(C, &answer(batch, &[None])).len()
    };
    back.went_down(C, now);
    back.came_up(C, now);
    assert_eq!(ask_at(&mut back, now + SETTLING - Duration::from_millis(1)), 0);
    assert_eq!(ask_at(&mut back, now + SETTLING), 1);
    // Nobody is up at all: nobody is asked, nobody is reset, until all have been away for long.
    let mut search = Search::new(ME, [B, C], now);
    search.packet(flow(0), numbers(1, 2), false, 10);
    assert_eq!(search.flush(now), []);
    assert_eq!((search.in_question(), search.tally.unanswered), (0, 1));
    search.packet(flow(0), numbers(1, 2), false, 10);
    assert_eq!(search.flush(now + ABSENCE), [Step::Reset { flow: flow(0), numbers: numbers(1, 2) }]);
}

#[test]
fn of_two_that_claim_it_the_stronger_counts() {
    let now = Instant::now();
    let claim = |owner, issued, ended| Claim { owner, start_seq: 7, issued, ended };
    for (of_b, of_c, wins) in [
        (claim(B, 100, false), claim(C, 200, false), C),
        (claim(B, 300, false), claim(C, 200, false), B),
        // What has ended is no owner, however late it was decided.
        (claim(B, 300, true), claim(C, 200, false), C),
        (claim(B, 300, true), claim(C, 0, false), C),
        (claim(B, 300, true), claim(C, 200, true), B),
    ] {
        for order in [[(B, of_b), (C, of_c)], [(C, of_c), (B, of_b)]] {
            let mut search = search(now);
            search.packet(flow(0), numbers(1, 2), false, 10);
            let batch = asked(&search.flush(now), &[B, C]);
            let steps: Vec<_> = order
                .iter()
                .flat_map(|(from, said)| search.answered(*from, &answer(batch, &[Some(*said)])))
                .collect();
            let winner = steps.iter().find_map(|step| match step {
                Step::Bind { claim, .. } => Some(claim.owner),
                _ => None,
            });
            assert_eq!(winner, Some(wins), "{of_b:?} {of_c:?}");
        }
    }
}

/// While answers are outstanding questions gather, and leave together; so many and no more.
#[test]
fn questions_gather_and_are_bounded() {
    let now = Instant::now();
    let mut search = search(now);
    search.packet(flow(0), numbers(1, 2), false, 0);
    let first = asked(&search.flush(now), &[B, C]);
    for number in 1..100 {
        search.packet(flow(number), numbers(1, 2), false, 0);
        assert_eq!(search.flush(now), []);
    }
    search.answered(B, &answer(first, &[None]));
    search.answered(C, &answer(first, &[None]));
    let second = asked(&search.flush(now), &[B, C]);
    assert_eq!(search.batches[&second].flows.len(), 99);
    let resets = [B, C].map(|from| search.answered(from, &answer(second, &[None; 99])).len());
    assert_eq!(resets, [0, 99], "one RST for each");

    for number in 0..3 * FLOWS_MAX as u16 {
        search.packet(flow(number), numbers(1, 2), false, 0);
        search.packet(flow(number), numbers(1, 2), false, 0);
    }
    assert_eq!(search.in_question(), FLOWS_MAX);
    assert_eq!(search.tally.overflowed, 4 * FLOWS_MAX as u64);
    for _ in 0..3 * FRAMES_MAX {
        search.packet(flow(0), numbers(1, 2), false, 0);
    }
    assert_eq!(search.questions[&flow(0)].frames.len(), FRAMES_MAX);
    let Some(Step::Ask { whose, .. }) = search.flush(now).pop() else { panic!("a question") };
    assert_eq!(whose.lost.len(), FLOWS_MAX.min(LOST_MAX));
    // Nothing stays, whatever becomes of the answers.
    search.tick(now + PATIENCE_MAX);
    assert_eq!((search.in_question(), search.batches.len(), search.fresh.len()), (0, 0, 0));
}

fn known(state: State) -> Known {
    let since = Duration::from_secs(5);
    Known {
        state,
        start_seq: 1000,
        start_ack: 500,
        issued: 77,
        closed: false,
        hearsay: false,
        since,
        lapsed: false,
    }
}

#[test]
fn what_a_node_says_it_has() {
    let lost = |seq, ack| Lost { flow: flow(0), seq, ack };
    let (fresh, later) = (Duration::from_secs(5), Duration::from_secs(60));
    let live = Some(SocketState::Live);
    let says = |lost: Lost, known: Option<Known>, socket, now| claim((B, ME), &lost, known, socket, now);
    let have = |ended| Some(Claim { owner: B, start_seq: 1000, issued: 77, ended });
    let by_socket = |ended| Some(Claim { owner: B, start_seq: 1500, issued: 0, ended });

    // By its socket alone: the daemon was restarted, or the table too small.
    assert_eq!(says(lost(1500, 900), None, live, later), by_socket(false));
    assert_eq!(says(lost(1500, 900), None, Some(SocketState::TimeWait), later), by_socket(true));
    assert_eq!(says(lost(1500, 900), None, None, later), None);

    // Its own.
    for state in [State::Bound(B), State::Releasing(B), State::Asking] {
        assert_eq!(says(lost(1500, 900), Some(known(state)), live, later), have(false), "{state:?}");
        assert_eq!(says(lost(1500, 900), Some(known(state)), None, fresh), have(false), "being adopted");
        assert_eq!(says(lost(1500, 900), Some(known(state)), None, later), have(true), "the socket has gone");
        let closed = Known { closed: true, ..known(state) };
        assert_eq!(says(lost(1500, 900), Some(closed), live, later), have(true));
    }
    assert_eq!(says(lost(1500, 900), Some(known(State::Reading)), None, later), have(false));
    for state in [State::Open, State::Held] {
        for seq in [999, 1000, 1400] {
            assert_eq!(says(lost(seq, 500), Some(known(state)), None, later), have(false), "{state:?} {seq}");
        }
        assert_eq!(says(lost(500_000, 500), Some(known(state)), None, later), None, "another connection's");
        let lapsed = Known { lapsed: true, ..known(state) };
        assert_eq!(says(lost(1000, 500), Some(lapsed), None, later), None, "others may decide it");
    }

    // Handed off, and the client has heard nothing of the new owner: it is still this node's to see to.
    for state in [State::Bound(C), State::Releasing(C)] {
        for ack in [500, 400] {
            assert_eq!(
                says(lost(1500, ack), Some(known(state)), None, later),
                have(false),
                "{state:?} {ack}"
            );
        }
        assert_eq!(
            says(lost(1500, 501), Some(known(state)), None, later),
            None,
            "C has it, and is asked itself"
        );
        let closed = Known { closed: true, ..known(state) };
        assert_eq!(says(lost(1500, 500), Some(closed), None, later), None);
        let hearsay = Known { hearsay: true, ..known(state) };
        assert_eq!(says(lost(1500, 500), Some(hearsay), None, later), None, "others know, and say so");
    }
    // To the asker itself, which does not have it yet: it must neither send it back nor reset the client.
    let to_asker = says(lost(1500, 500), Some(known(State::Bound(ME))), None, later);
    assert_eq!(to_asker, Some(Claim { owner: ME, start_seq: 1000, issued: 77, ended: false }));
    // Told that it is its own: then only the socket counts.
    let told = Known { hearsay: true, ..known(State::Bound(B)) };
    assert_eq!(says(lost(1500, 900), Some(told), live, later), by_socket(false));
    assert_eq!(says(lost(1500, 900), Some(told), None, later), None);
}

/// What happens in the small world, to one connection and to the one asker.
#[derive(Clone, Debug)]
enum Event {
    /// The client sends its latest packet, or repeats an earlier one, and the asker does not know it.
    Packet { old: bool },
    /// The owner hands the connection to another node: its table says so at once, the other's when it gets it.
    Move { to: usize },
    /// The handoff packet arrives; lost, the client's repetition makes the giver send it again.
    Arrive,
    /// The owner's client hears from it, and acknowledges.
    Hear,
    /// A message of those under way arrives, which one.
    Deliver { which: usize },
    /// One gets lost.
    Lose { which: usize },
    /// A node's daemon is restarted: its table is gone, its sockets are not.
    Restart { node: usize },
    /// The asker's own control connection to a node ends, or is there again.
    Link { node: usize, up: bool },
    /// Time passes.
    Pass { ms: u64 },
    /// The server ends the connection.
    End,
}

fn event() -> impl Strategy<Value = Event> {
    let node = 1..4_usize;
    prop_oneof![
        6 => any::<bool>().prop_map(|old| Event::Packet { old }),
        2 => node.clone().prop_map(|to| Event::Move { to }),
        3 => Just(Event::Arrive),
        3 => Just(Event::Hear),
        12 => (0..8_usize).prop_map(|which| Event::Deliver { which }),
        1 => (0..8_usize).prop_map(|which| Event::Lose { which }),
        1 => node.clone().prop_map(|node| Event::Restart { node }),
        2 => (node, prop::bool::weighted(0.7)).prop_map(|(node, up)| Event::Link { node, up }),
        3 => prop_oneof![4 => 1..400_u64, 1 => 400..15_000_u64].prop_map(|ms| Event::Pass { ms }),
        1 => Just(Event::End),
    ]
}

/// Node 0 asks; 1 to 3 may own. One connection.
struct Small {
    search: Search<u32>,
    start: Instant,
    passed: Duration,
    /// By node: what its table says, and its socket.
    tables: [Option<Known>; 4],
    sockets: [bool; 4],
    /// Who owns the connection now, or is about to: the socket, or the handoff packet from whom.
    owner: Option<usize>,
    coming: Option<(usize, usize)>,
    /// What the client has acknowledged, and may repeat.
    acked: u32,
    acked_before: u32,
    issued: u64,
    messages: Vec<Message>,
    /// Since when each node has been away from the asker.
    away: [Option<Duration>; 4],
    /// When a node that counted as lost handed the connection to another, which may have said no before.
    brought_back: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Message {
    Question { to: usize, whose: Whose },
    Answer { from: usize, owned: Owned },
}

const BOUND_BY: fn(usize) -> State = |node| State::Bound(NodeId(node as u16));

impl Small {
    fn new() -> Self {
        let start = Instant::now();
        let mut small = Self {
            search: Search::new(ME, [1, 2, 3].map(NodeId), start),
            start,
            passed: Duration::from_secs(100),
            tables: [None; 4],
            sockets: [false; 4],
            owner: Some(1),
            coming: None,
            acked: 500,
            acked_before: 500,
            issued: 1,
            messages: Vec::new(),
            away: [None; 4],
            brought_back: None,
        };
        (1..4).for_each(|node| small.search.came_up(NodeId(node), start));
        small.own(1);
        small
    }

    fn now(&self) -> Instant {
        self.start + self.passed
    }

    fn entry(&self, state: State) -> Known {
        let (start_ack, issued, since) = (self.acked, self.issued, self.passed);
        Known {
            state,
            start_seq: 1000,
            start_ack,
            issued,
            closed: false,
            hearsay: false,
            since,
            lapsed: false,
        }
    }

    fn is_gone(&self, node: usize) -> bool {
        self.away[node].is_some_and(|since| self.passed - since >= ABSENCE)
    }

    fn own(&mut self, node: usize) {
        self.owner = Some(node);
        self.sockets[node] = true;
        self.tables[node] = Some(self.entry(BOUND_BY(node)));
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let steps = match event {
            Event::Packet { old } => {
                let ack = if *old { self.acked_before } else { self.acked };
                self.search.packet(flow(0), numbers(1000, ack), false, 0);
                self.search.flush(self.now())
            }
            Event::Move { to } => {
                if let Some(from) = self.owner.filter(|from| from != to && self.tables[*from].is_some()) {
                    self.issued += 1;
                    self.sockets[from] = false;
                    self.tables[from] = Some(self.entry(BOUND_BY(*to)));
                    self.owner = None;
                    self.coming = Some((from, *to));
                }
                Vec::new()
            }
            Event::Arrive => {
                if let Some((from, to)) = self.coming.take() {
                    if self.is_gone(from) {
                        self.brought_back = Some(self.passed);
                    }
                    self.own(to);
                }
                Vec::new()
            }
            Event::Hear => {
                // The earlier packets are no longer under way after a while.
                if self.owner.is_some() {
                    (self.acked_before, self.acked) = (self.acked, self.acked.wrapping_add(100));
                }
                Vec::new()
            }
            Event::Deliver { which } => self.deliver(*which),
            Event::Lose { which } => {
                if *which < self.messages.len() {
                    self.messages.remove(*which);
                }
                Vec::new()
            }
            Event::Restart { node } => {
                // A giver that is restarted before its handoff packet has arrived has lost the connection for good.
                if self.coming.is_none_or(|(from, _)| from != *node) {
                    self.tables[*node] = None;
                }
                self.messages.retain(|m| match m {
                    Message::Question { to, .. } => to != node,
                    Message::Answer { .. } => true,
                });
                Vec::new()
            }
            Event::Link { node, up: true } => {
                self.away[*node] = None;
                let now = self.now();
                self.search.came_up(NodeId(*node as u16), now);
                Vec::new()
            }
            Event::Link { node, up: false } => {
                let passed = self.passed;
                let fresh = self.away[*node].is_none();
                let since = *self.away[*node].get_or_insert(passed);
                // What was under way on it is lost.
                self.messages.retain(|m| match m {
                    Message::Question { to, .. } => to != node,
                    Message::Answer { from, .. } => from != node,
                });
                if fresh {
                    self.search.went_down(NodeId(*node as u16), self.start + since)
                } else {
                    Vec::new()
                }
            }
            Event::Pass { ms } => {
                self.passed += Duration::from_millis(*ms);
                self.search.tick(self.now())
            }
            Event::End => {
                if let Some(owner) = self.owner.take() {
                    self.sockets[owner] = false;
                    if let Some(table) = &mut self.tables[owner] {
                        table.closed = true;
                    }
                }
                Vec::new()
            }
        };
        self.judge(steps)
    }

    fn deliver(&mut self, which: usize) -> Vec<Step<u32>> {
        if which >= self.messages.len() {
            return Vec::new();
        }
        match self.messages.remove(which) {
            Message::Question { to, whose } => {
                let socket = self.sockets[to].then_some(SocketState::Live);
                let says =
                    |lost: &Lost| claim((NodeId(to as u16), ME), lost, self.tables[to], socket, self.passed);
                let claims = whose.lost.iter().map(says).collect();
                let owned = Owned { batch: whose.batch, claims };
                self.messages.push(Message::Answer { from: to, owned });
                Vec::new()
            }
            Message::Answer { from, owned } => self.search.answered(NodeId(from as u16), &owned),
        }
    }

    fn judge(&mut self, steps: Vec<Step<u32>>) -> Result<(), TestCaseError> {
        for step in steps {
            match step {
                Step::Ask { to, whose } => {
                    for node in to {
                        self.messages
                            .push(Message::Question { to: usize::from(node.0), whose: whose.clone() });
                    }
                }
                Step::Decide { .. } => prop_assert!(false, "nothing was left to it"),
                Step::Reset { .. } => {
                    let lives = self.owner.is_some_and(|owner| !self.is_gone(owner))
                        || self.coming.is_some_and(|(from, to)| !self.is_gone(from) && !self.is_gone(to));
                    let is_lost = self.brought_back.is_some_and(|at| self.passed - at <= PATIENCE_MAX);
                    prop_assert!(
                        !lives || is_lost,
                        "reset, while {:?} owns it, or {:?}",
                        self.owner,
                        self.coming
                    );
                }
                Step::Bind { claim, .. } => {
                    let to = usize::from(claim.owner.0);
                    prop_assert!(to != 0, "bound to the asker itself");
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// No client is reset while a node that can be asked, or could be a moment ago, owns its connection, or has it on
    /// its way to another.
    #[test]
    fn no_owner_s_client_is_reset(events in prop::collection::vec(event(), 1..60)) {
        let mut small = Small::new();
        for event in &events {
            small.apply(event)?;
        }
    }

    /// Whatever comes and gets lost, every question ends; and when all is quiet and everybody answers, the owner is
    /// found, or the client told.
    #[test]
    fn every_question_ends(events in prop::collection::vec(event(), 1..60)) {
        let mut small = Small::new();
        for event in &events {
            small.apply(event)?;
        }
        small.messages.clear();
        for event in [Event::Arrive, Event::Hear, Event::Hear, Event::Pass { ms: 2100 }] {
            small.apply(&event)?;
        }
        prop_assert_eq!((small.search.in_question(), small.search.batches.len()), (0, 0));
        for node in 1..4 {
            small.apply(&Event::Link { node, up: true })?;
        }
        small.apply(&Event::Pass { ms: 2500 })?;
        let (reset, found) = (small.search.tally.reset, small.search.tally.found);
        small.apply(&Event::Packet { old: false })?;
        for _ in 0..6 {
            small.apply(&Event::Deliver { which: 0 })?;
        }
        let now = (small.search.tally.reset - reset, small.search.tally.found - found);
        match small.owner {
            Some(_) => prop_assert_eq!(now, (0, 1)),
            // Its end may be known still: then its stack says so.
            None => prop_assert_eq!(now.0 + now.1, 1),
        }
    }
}
