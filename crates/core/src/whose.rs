//! Whose is a connection that nobody here knows? The asking side collects packets of such connections and asks all
//! nodes that may own one; the answering side says what it has. Pure: packets, answers and time in, steps out
//! (docs/decisions/0020).
//!
//! A client is reset only when every node that may own its connection has said that it does not. Silence is no
//! answer. One owner, at any time, says "mine", or "mine" in the name of the node that it is handing the connection
//! to: so also while a connection moves at least one node claims it, whatever the order in which nodes are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use baton_cluster::{Flow, NodeId};
use baton_control::message::LOST_MAX;
use baton_control::{Claim, Lost, Owned, Whose};
use baton_datapath::constants::SYNACK_WINDOW;
use baton_datapath::{Known, Numbers, State};
use baton_host::SocketState;

/// After this long the claim of a living connection is good enough, though not all have answered.
const PATIENCE: Duration = Duration::from_millis(300);
/// Nodes that have not answered after this long are not waited for: the client's repetition asks again. Nodes that are
/// so busy that they answer late must be heard all the same, or nobody would ever decide what a distributor has left.
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// A node that cannot be asked may own a connection for this long; after that its connections count as lost, and
/// their clients are told. It is also how long a node that was just started waits for the others to come up.
pub(crate) const ABSENCE: Duration = Duration::from_secs(10);
/// A node that came up a moment ago may be told any moment what is its own: its "no" counts after this long.
const SETTLING: Duration = Duration::from_secs(2);
/// Others say that a connection is this node's own, and it never comes: after this long it is lost, because the machine
/// was started again since. A handoff packet is valid for less.
const COMES_WITHIN: Duration = Duration::from_secs(5);
/// For how long it is remembered that a connection was to come.
const COMING_FOR: Duration = Duration::from_secs(120);
/// Connections in question at once.
pub(crate) const FLOWS_MAX: usize = 1024;
/// Packets kept of each: the client repeats what is not kept.
const FRAMES_MAX: usize = 8;
/// Questions that leave without waiting for the answers to those before.
const GATHERED_MAX: usize = 256;
/// A binding is made before the stack has its socket; after this long it has.
const ADOPTION: Duration = Duration::from_secs(1);
/// How far a packet may be behind the byte that its connection was handed off at: more than any window.
const BEHIND_MAX: u32 = 1 << 26;

/// What has become of packets that nobody here knew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnknownTally {
    /// Connections asked about.
    pub asked: u64,
    /// Of them, found at another node.
    pub found: u64,
    /// Reset, because no node has them.
    pub reset: u64,
    /// Just begun: what comes before was lost on its way here, and the client repeats it.
    pub begun: u64,
    /// Not answered by all: the client's repetition is asked about again.
    pub unanswered: u64,
    /// Being handed off to this node: the client's repetition finds them.
    pub coming: u64,
    /// Packets dropped because too many connections were in question.
    pub overflowed: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<F> {
    /// Ask these nodes.
    Ask { to: Vec<NodeId>, whose: Whose },
    /// The connection is another node's: bind it, and let its packets go.
    Bind { flow: Flow, claim: Claim, frames: Vec<F> },
    /// Nobody else has it, and it is this node's to decide: let its packets go.
    Decide { frames: Vec<F> },
    /// Nobody has it: tell the client.
    Reset { flow: Flow, numbers: Numbers },
}

/// A connection in question.
#[derive(Debug)]
struct Inquiry<F> {
    lost: Lost,
    /// Of the latest packet: only a RST at exactly what the client expects is taken (RFC 5961 3.2).
    latest: Numbers,
    /// It was left to this node, if nobody else has it.
    inherited: bool,
    frames: Vec<F>,
}

impl<F> Inquiry<F> {
    /// Whether a claim may be of this connection. What is left to this node has a cookie that proves where it
    /// begins: what another connection of the same addresses and ports has left at some node does not stand in
    /// its way.
    fn is_about(&self, claim: &Claim) -> bool {
        !self.inherited || claim.start_seq.wrapping_sub(self.lost.seq) < BEHIND_MAX
    }
}

/// Another node: whether it is up, and since when it has been up or away.
#[derive(Clone, Copy, Debug)]
struct Other {
    is_up: bool,
    since: Instant,
}

impl Other {
    /// Whether it may own a connection without being able to say so at `now`.
    fn is_unsettled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < if self.is_up { SETTLING } else { ABSENCE }
    }
}

/// Connections that were asked about together.
#[derive(Debug)]
struct Batch {
    /// `None`: settled meanwhile.
    flows: Vec<Option<Flow>>,
    /// The strongest claim for each.
    claims: Vec<Option<Claim>>,
    asked: Instant,
    /// Nodes that have not answered yet.
    waiting: BTreeSet<NodeId>,
    /// Somebody who was asked has not been heard.
    incomplete: bool,
    /// Somebody who may own one of them could not be asked.
    absent: bool,
}

/// The asking side. `F`: what is kept of a packet.
#[derive(Debug)]
pub(crate) struct Search<F> {
    me: NodeId,
    /// The other nodes that may own connections.
    others: BTreeMap<NodeId, Other>,
    questions: BTreeMap<Flow, Inquiry<F>>,
    /// Those that have not been asked about yet.
    fresh: Vec<Flow>,
    batches: BTreeMap<u32, Batch>,
    /// Since when connections, each by its beginning, are to come here.
    coming: BTreeMap<(Flow, u32), Instant>,
    next: u32,
    /// Others may know nodes that this one does not, and that may own connections.
    behind: bool,
    pub(crate) tally: UnknownTally,
}

impl<F> Search<F> {
    /// Nobody has come up yet at `now`.
    pub(crate) fn new(me: NodeId, others: impl IntoIterator<Item = NodeId>, now: Instant) -> Self {
        Self {
            me,
            others: others.into_iter().map(|id| (id, Other { is_up: false, since: now })).collect(),
            questions: BTreeMap::new(),
            fresh: Vec::new(),
            batches: BTreeMap::new(),
            coming: BTreeMap::new(),
            next: 0,
            behind: false,
            tally: UnknownTally::default(),
        }
    }

    /// Connections in question now.
    pub(crate) fn in_question(&self) -> usize {
        self.questions.len()
    }

    /// Connections that are to come here.
    pub(crate) fn to_come(&self) -> usize {
        self.coming.len()
    }

    /// A node has come up.
    pub(crate) fn came_up(&mut self, node: NodeId, now: Instant) {
        if let Some(other) = self.others.get_mut(&node) {
            *other = Other { is_up: true, since: now };
        }
        // It was not asked what is being asked now.
        self.batches.values_mut().for_each(|batch| batch.absent = true);
    }

    /// Whether some node that is up has a cluster file with more nodes than this one's.
    pub(crate) fn others_know_more(&mut self, behind: bool) {
        self.behind = behind;
        self.batches.values_mut().for_each(|batch| batch.absent |= behind);
    }

    /// A node has gone away: it will not answer.
    pub(crate) fn went_down(&mut self, node: NodeId, now: Instant) -> Vec<Step<F>> {
        let Some(other) = self.others.get_mut(&node) else { return Vec::new() };
        *other = Other { is_up: false, since: now };
        let mut ended = Vec::new();
        for (number, batch) in &mut self.batches {
            if batch.waiting.remove(&node) {
                batch.incomplete = true;
                ended.extend(batch.waiting.is_empty().then_some(*number));
            }
        }
        let steps = ended.into_iter().flat_map(|number| self.finish(number)).collect();
        self.check_invariants();
        steps
    }

    /// A packet of a connection that nobody here knows; `inherited`: that is this node's to decide if nobody has it.
    pub(crate) fn packet(&mut self, flow: Flow, numbers: Numbers, inherited: bool, frame: F) {
        if let Some(question) = self.questions.get_mut(&flow) {
            question.latest = numbers;
            if question.frames.len() < FRAMES_MAX {
                question.frames.push(frame);
            }
            return;
        }
        if self.questions.len() >= FLOWS_MAX {
            self.tally.overflowed += 1;
            return;
        }
        let lost = Lost { flow, seq: numbers.seq, ack: numbers.ack };
        self.questions.insert(flow, Inquiry { lost, latest: numbers, inherited, frames: vec![frame] });
        self.fresh.push(flow);
        self.check_invariants();
    }

    /// Panics in debug and test builds when what must always hold does not.
    fn check_invariants(&self) {
        let asked = self.batches.values().flat_map(|batch| &batch.flows).flatten().count();
        debug_assert_eq!(self.questions.len(), self.fresh.len() + asked, "a question that nobody is asked");
        debug_assert!(self.questions.len() <= FLOWS_MAX, "more questions than there is room for");
        let waits = |batch: &Batch| !batch.waiting.is_empty() && batch.claims.len() == batch.flows.len();
        debug_assert!(self.batches.values().all(waits), "a batch that nobody will answer");
    }

    /// Asks about what has gathered, when no answer is outstanding, or much has gathered.
    pub(crate) fn flush(&mut self, now: Instant) -> Vec<Step<F>> {
        if self.batches.is_empty() || self.fresh.len() >= GATHERED_MAX { self.ask(now) } else { Vec::new() }
    }

    /// Called on every tick: asks about what has gathered, and gives up waiting.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Step<F>> {
        let late = |batch: &Batch| now.saturating_duration_since(batch.asked) >= PATIENCE_MAX;
        let ended: Vec<u32> =
            self.batches.iter().filter(|(_, b)| late(b)).map(|(number, _)| *number).collect();
        self.coming.retain(|_, since| now.saturating_duration_since(*since) < COMING_FOR);
        let mut steps = Vec::new();
        for number in ended {
            if let Some(batch) = self.batches.get_mut(&number) {
                batch.incomplete = true;
            }
            steps.extend(self.finish(number));
        }
        steps.extend(self.settle(now));
        steps.extend(self.ask(now));
        self.check_invariants();
        steps
    }

    /// Goes by the claims of living connections where others let this node wait.
    fn settle(&mut self, now: Instant) -> Vec<Step<F>> {
        let (me, mut steps) = (self.me, Vec::new());
        let late = |batch: &&mut Batch| now.saturating_duration_since(batch.asked) >= PATIENCE;
        for batch in self.batches.values_mut().filter(late) {
            for (asked, claim) in batch.flows.iter_mut().zip(&batch.claims) {
                if let Some(claim) = claim.filter(|claim| !claim.ended && claim.owner != me)
                    && let Some(flow) = asked.take()
                    && let Some(question) = self.questions.remove(&flow)
                {
                    self.tally.found += 1;
                    steps.push(Step::Bind { flow, claim, frames: question.frames });
                }
            }
        }
        self.batches.retain(|_, batch| batch.flows.iter().any(Option::is_some));
        steps
    }

    /// Whether a connection that is to be this node's own has not come for so long that it never will.
    fn is_overdue(&mut self, flow: Flow, claim: &Claim, now: Instant) -> bool {
        let key = (flow, claim.start_seq);
        if self.coming.len() >= FLOWS_MAX && !self.coming.contains_key(&key) {
            return false;
        }
        let since = *self.coming.entry(key).or_insert(now);
        let is_overdue = now.saturating_duration_since(since) >= COMES_WITHIN;
        if is_overdue {
            self.coming.remove(&key);
        }
        is_overdue
    }

    fn ask(&mut self, now: Instant) -> Vec<Step<F>> {
        let mut steps = Vec::new();
        while !self.fresh.is_empty() {
            let flows: Vec<Flow> = self.fresh.drain(..self.fresh.len().min(LOST_MAX)).collect();
            let lost: Vec<Lost> =
                flows.iter().filter_map(|f| self.questions.get(f)).map(|q| q.lost).collect();
            let to: Vec<NodeId> =
                self.others.iter().filter(|(_, other)| other.is_up).map(|(id, _)| *id).collect();
            let number = self.next;
            self.next = number.wrapping_add(1);
            let batch = Batch {
                claims: vec![None; flows.len()],
                flows: flows.into_iter().map(Some).collect(),
                asked: now,
                waiting: to.iter().copied().collect(),
                incomplete: false,
                absent: self.behind || self.others.values().any(|other| other.is_unsettled(now)),
            };
            self.tally.asked += lost.len() as u64;
            self.batches.insert(number, batch);
            if to.is_empty() {
                steps.extend(self.finish(number));
            } else {
                steps.push(Step::Ask { to, whose: Whose { batch: number, lost } });
            }
        }
        steps
    }

    /// What a node has of the connections of a batch.
    pub(crate) fn answered(&mut self, from: NodeId, owned: &Owned) -> Vec<Step<F>> {
        let Some(batch) = self.batches.get_mut(&owned.batch) else { return Vec::new() };
        // Of another number of connections it is not an answer to this question; from whom was not asked neither.
        if owned.claims.len() != batch.flows.len() || !batch.waiting.remove(&from) {
            return Vec::new();
        }
        for ((best, claim), flow) in batch.claims.iter_mut().zip(&owned.claims).zip(&batch.flows) {
            let Some(theirs) = claim else { continue };
            let question = flow.and_then(|flow| self.questions.get(&flow));
            if question.is_some_and(|question| !question.is_about(theirs)) {
                continue;
            }
            // Nobody speaks for a third node: what cannot be right is no "no" either.
            let is_possible = theirs.owner == from || theirs.owner == self.me;
            batch.incomplete |= !is_possible;
            if is_possible && best.is_none_or(|best| strength(theirs) > strength(&best)) {
                *best = Some(*theirs);
            }
        }
        let steps = if batch.waiting.is_empty() { self.finish(owned.batch) } else { Vec::new() };
        self.check_invariants();
        steps
    }

    fn finish(&mut self, number: u32) -> Vec<Step<F>> {
        let Some(batch) = self.batches.remove(&number) else { return Vec::new() };
        let mut steps = Vec::new();
        let complete = !batch.incomplete && !batch.absent;
        for (flow, claim) in batch.flows.into_iter().zip(batch.claims) {
            let Some(flow) = flow else { continue };
            let Some(question) = self.questions.remove(&flow) else { continue };
            match claim {
                Some(claim)
                    if claim.owner == self.me
                        && !(complete && self.is_overdue(flow, &claim, batch.asked)) =>
                {
                    self.tally.coming += 1;
                }
                Some(claim) if claim.owner == self.me => {
                    self.tally.reset += 1;
                    steps.push(Step::Reset { flow, numbers: question.latest });
                }
                Some(claim) if !claim.ended || complete => {
                    self.tally.found += 1;
                    steps.push(Step::Bind { flow, claim, frames: question.frames });
                }
                // Who is away has left it: the switch is sure of that.
                None if !batch.incomplete && question.inherited => {
                    steps.push(Step::Decide { frames: question.frames });
                }
                None if complete => {
                    self.tally.reset += 1;
                    steps.push(Step::Reset { flow, numbers: question.latest });
                }
                // Perhaps it is of who was not heard, whom the RST of another node's stack would hit.
                Some(_) | None => self.tally.unanswered += 1,
            }
        }
        steps
    }
}

/// Of two claims the stronger counts: a connection that lives, then the one decided later.
fn strength(claim: &Claim) -> (bool, u64) {
    (!claim.ended, claim.issued)
}

/// Whether the table knows the connection of a packet with this sequence number, and not an earlier one between the
/// same ends.
pub(crate) fn is_about(known: &Known, seq: u32) -> bool {
    !matches!(known.state, State::Open | State::Held)
        || seq.wrapping_sub(known.start_seq.wrapping_sub(1)) <= SYNACK_WINDOW
}

/// The answering side: what this node, `me`, has of a connection that `asker` does not know. `known`: by its table;
/// `socket`: in its stack; both at a time `now` of the monotonic clock.
pub(crate) fn claim(
    (me, asker): (NodeId, NodeId),
    lost: &Lost,
    known: Option<Known>,
    socket: Option<SocketState>,
    now: Duration,
) -> Option<Claim> {
    let by_socket = socket.map(|state| Claim {
        owner: me,
        start_seq: lost.seq,
        issued: 0,
        ended: state == SocketState::TimeWait,
    });
    let Some(known) = known else { return by_socket };
    let mine = Claim { owner: me, start_seq: known.start_seq, issued: known.issued, ended: false };
    match known.state {
        // Left to others, or about to be.
        State::Open | State::Held if known.lapsed => by_socket,
        // Before the decision: the client's first bytes, or its keepalive.
        State::Open | State::Held if is_about(&known, lost.seq) => Some(mine),
        State::Open | State::Held => by_socket,
        State::Reading => Some(mine),
        // What others say is no knowledge of one's own.
        State::Bound(_) | State::Releasing(_) if known.hearsay => by_socket,
        State::Bound(node) | State::Releasing(node) if node != me => {
            // The client has heard nothing of the new owner, which may not have the connection yet: only this node
            // can hand it off again.
            let is_handed = known.start_ack.wrapping_sub(lost.ack) < BEHIND_MAX;
            let owner = if node == asker { asker } else { me };
            (is_handed && !known.closed).then_some(Claim { owner, ..mine })
        }
        State::Bound(_) | State::Releasing(_) | State::Asking => {
            let is_adopted = now.saturating_sub(known.since) > ADOPTION;
            let lives = match socket {
                Some(SocketState::Live) => true,
                Some(SocketState::TimeWait) => false,
                None => !is_adopted,
            };
            Some(Claim { ended: known.closed || !lives, ..mine })
        }
    }
}

#[cfg(test)]
mod tests;
