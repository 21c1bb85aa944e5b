//! The loaded programs, run on one packet at a time (BPF_PROG_TEST_RUN), and all fields of a binding:
//! for tests and benchmarks. Nothing in the daemon calls it.
//!
//! A test-run's packet arrives on `lo` of the current network namespace, which also gives the sockets
//! that the programs see. It is not checksummed by any device (CHECKSUM_NONE), and the kernel refuses
//! to adopt a connection from it.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use baton_cluster::{Flow, NodeId};
use libbpf_rs::{MapCore, MapFlags, ProgramInput, ProgramMut};

use crate::{Binding, Direction, Doubt, Heard, Messages, Verdict};
use baton_datapath::constants::{
    DOUBT_BROKEN, DOUBT_REFUSED, DOUBT_RESPONSES, MARK_ANSWER, MARK_LOCAL_RESET, MARK_RELEASED, MAX_POOLS,
    NO_NODE, PHASE_BODY, PHASE_CHUNK_DATA, STATE_ASKING, STATE_BOUND, STATE_HELD, STATE_OPEN, STATE_READING,
    STATE_RELEASING, UNKNOWN_SLOTS,
};
use baton_datapath::raw::{as_bytes, as_bytes_mut, from_bytes, get, key_of, put, types};
use baton_datapath::{Datapath, DatapathError, State};

/// Room for what wrapping may add to a packet.
const HEADROOM: usize = 256;
/// The shortest frame that a test-run takes: an Ethernet header.
pub const FRAME_MIN: usize = 14;

/// Where `struct __sk_buff`, the programs' context, has its mark.
const MARK_AT: usize = 8;

const TC_ACT_OK: i32 = 0;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;
const TCX_NEXT: i32 = -1;

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The frame as it goes on.
    pub frame: Vec<u8>,
    /// How long the program took, with the test-run's own overhead.
    pub took: Duration,
}

/// Loaded programs that can be run on single packets.
#[derive(Debug)]
pub struct TestRun(pub Datapath);

impl Deref for TestRun {
    type Target = Datapath;

    fn deref(&self) -> &Datapath {
        &self.0
    }
}

impl DerefMut for TestRun {
    fn deref_mut(&mut self) -> &mut Datapath {
        &mut self.0
    }
}

impl TestRun {
    /// Runs the ingress program on a frame.
    ///
    /// # Errors
    /// When the kernel refuses the run, or the program returns what no program of ours does.
    pub fn run_ingress(&self, frame: &[u8]) -> Result<Run, DatapathError> {
        run(&self.skel().progs.ingress, frame, 0)
    }

    /// Runs the guard on a frame.
    ///
    /// # Errors
    /// As for [`TestRun::run_ingress`].
    pub fn run_guard(&self, frame: &[u8]) -> Result<Run, DatapathError> {
        run(&self.skel().progs.guard, frame, 0)
    }

    /// Runs the ingress program on a frame that user space gives back.
    ///
    /// # Errors
    /// As for [`TestRun::run_ingress`].
    pub fn run_released(&self, frame: &[u8]) -> Result<Run, DatapathError> {
        run(&self.skel().progs.ingress, frame, MARK_RELEASED)
    }

    /// Runs the ingress program on a frame that a program sends to this node's own stack.
    ///
    /// # Errors
    /// As for [`TestRun::run_ingress`].
    pub fn run_local_reset(&self, frame: &[u8]) -> Result<Run, DatapathError> {
        run(&self.skel().progs.ingress, frame, MARK_LOCAL_RESET)
    }

    /// Runs the egress program on a frame that a program answers a client with.
    ///
    /// # Errors
    /// As for [`TestRun::run_ingress`].
    pub fn run_answer(&self, frame: &[u8]) -> Result<Run, DatapathError> {
        run(&self.skel().progs.egress, frame, MARK_ANSWER)
    }

    /// Runs the egress program on a frame.
    ///
    /// # Errors
    /// As for [`TestRun::run_ingress`].
    pub fn run_egress(&self, frame: &[u8]) -> Result<Run, DatapathError> {
        run(&self.skel().progs.egress, frame, 0)
    }

    /// All fields of a flow's binding, whatever its age.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn whole_binding(&self, flow: &Flow) -> Result<Option<Binding>, DatapathError> {
        let raw = self.raw_binding(flow)?;
        Ok(raw.map(|b| Binding {
            seen_ns: b.seen_ns,
            since_ns: b.since_ns,
            flags: b.flags,
            start_seq: b.start_seq,
            start_ack: b.start_ack,
            syn_isn: b.syn_isn,
            snd_end: b.snd_end,
            issued: b.issued,
            held: b.held,
            replay_end: b.replay_end,
            tsval: b.tsval,
            clock: b.clock,
            window: b.window,
            cwnd: b.cwnd,
            state: match u32::from(b.state) {
                STATE_BOUND => State::Bound(NodeId(b.node)),
                STATE_RELEASING => State::Releasing(NodeId(b.node)),
                STATE_HELD => State::Held,
                STATE_ASKING => State::Asking,
                STATE_READING => State::Reading,
                _ => State::Open,
            },
            distributor: b.distributor,
            mss: b.mss,
            rtt_ms: b.rtt_ms,
            options: b.options,
            snd_wscale: b.snd_wscale,
            tries: b.tries,
            term: b.term,
        }))
    }

    /// Sets all fields of a flow's binding: to bring about states that would take hours to reach.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_whole_binding(&self, flow: &Flow, b: &Binding) -> Result<(), DatapathError> {
        let aside = matches!(b.state, State::Open | State::Held | State::Reading);
        let (state, node) = match b.state {
            State::Open => (STATE_OPEN, NO_NODE as u16),
            State::Held => (STATE_HELD, NO_NODE as u16),
            State::Bound(node) => (STATE_BOUND, node.0),
            State::Releasing(node) => (STATE_RELEASING, node.0),
            State::Asking => (STATE_ASKING, self.node()),
            State::Reading => (STATE_READING, self.node()),
        };
        let value = types::binding {
            seen_ns: b.seen_ns,
            since_ns: b.since_ns,
            flags: b.flags,
            start_seq: b.start_seq,
            start_ack: b.start_ack,
            syn_isn: b.syn_isn,
            snd_end: b.snd_end,
            issued: b.issued,
            held: b.held,
            replay_end: b.replay_end,
            tsval: b.tsval,
            clock: b.clock,
            window: b.window,
            cwnd: b.cwnd,
            node,
            distributor: b.distributor,
            mss: b.mss,
            rtt_ms: b.rtt_ms,
            state: state as u8,
            options: b.options,
            snd_wscale: b.snd_wscale,
            tries: b.tries,
            term: b.term,
            aside: u8::from(aside),
            pad: [0; 7],
        };
        self.remove_binding(flow)?;
        let key = key_of(flow);
        if aside {
            put(&self.skel().maps.aside, "aside", &key, &value)
        } else {
            put(&self.skel().maps.bindings, "bindings", &key, &value)
        }
    }

    fn node(&self) -> u16 {
        self.skel().maps.rodata_data.map_or(NO_NODE as u16, |data| data.settings.slf)
    }

    /// What is followed of a connection.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn messages(&self, flow: &Flow) -> Result<Option<Messages>, DatapathError> {
        let map = &self.skel().maps.exchanges;
        let bytes = map.lookup(as_bytes(&key_of(flow)), MapFlags::ANY).map_err(refused)?;
        let raw = bytes.and_then(|b| from_bytes::<types::exchange>(&b));
        Ok(raw.map(|x| Messages {
            start_seq: x.start_seq,
            requests: direction(&x.requests),
            responses: direction(&x.responses),
            asked: x.asked,
            answered: x.answered,
            heads: x.heads,
            upgrades: x.upgrades,
            closing: x.closing != 0,
            decided: (u32::from(x.decided) != NO_NODE).then_some((x.decided_seq, NodeId(x.decided))),
            cut_seq: (x.cut != 0).then_some(x.cut_seq),
            early: (x.early != 0).then_some((x.early_seq, x.early_end)),
            heard: Heard {
                ack: x.heard_ack,
                window: x.heard_window,
                timestamps: (x.heard_timestamps != 0).then_some((x.heard_tsval, x.heard_tsecr)),
            },
            doubt: match u32::from(x.doubt) {
                0 => None,
                DOUBT_RESPONSES => Some(Doubt::Responses),
                DOUBT_BROKEN => Some(Doubt::Broken),
                DOUBT_REFUSED => Some(Doubt::Refused),
                _ => Some(Doubt::All),
            },
        }))
    }

    /// Begins to follow a connection at these bytes, as its adoption would.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn follow(&self, flow: &Flow, start_seq: u32, start_ack: u32) -> Result<(), DatapathError> {
        let begin = |at| types::follower { at, boundary: at, ..Default::default() };
        let value = types::exchange {
            requests: begin(start_seq),
            responses: begin(start_ack),
            start_seq,
            heard_ack: start_ack,
            decided: NO_NODE as u16,
            ..Default::default()
        };
        let map = &self.skel().maps.exchanges;
        map.update(as_bytes(&key_of(flow)), as_bytes(&value), MapFlags::ANY).map_err(refused)
    }

    /// Packets of unknown connections that user space was given, by slot: in which window of time, how many.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn unknowns(&self, slot: u32) -> Result<(u32, u32), DatapathError> {
        let budget: Option<types::budget> = get(&self.skel().maps.unknowns, "unknowns", &slot)?;
        Ok(budget.map_or((0, 0), |budget| (budget.window, budget.count)))
    }

    /// As if so many wrong cookies had been looked at in this second and the next one.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn guess_wrong(&self, wrong: u64, now_ns: u64) -> Result<(), DatapathError> {
        let map = &self.skel().maps.guesses;
        let one = [(now_ns >> 30).to_ne_bytes(), wrong.to_ne_bytes()].concat();
        let cpus = libbpf_rs::num_possible_cpus().map_err(refused)?;
        map.update_percpu(as_bytes(&0_u32), &vec![one; cpus], MapFlags::ANY).map_err(refused)
    }

    /// As if so many had been given to user space.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_unknowns(&self, slot: u32, (window, count): (u32, u32)) -> Result<(), DatapathError> {
        put(&self.skel().maps.unknowns, "unknowns", &slot, &types::budget { window, count })
    }

    /// As if no SYN had come whose flow belongs to this slot.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn forget_latest_syn(&self, slot: u32) -> Result<(), DatapathError> {
        put(&self.skel().maps.latest_syns, "latest_syns", &slot, &0u64)
    }

    /// Gives the programs an order of this kind about a flow. Whether they carried it out.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn order(&self, flow: &Flow, kind: u16) -> Result<bool, DatapathError> {
        let mut order = types::order { flow: key_of(flow), kind, ..Default::default() };
        let input = ProgramInput { context_in: Some(as_bytes_mut(&mut order)), ..Default::default() };
        self.skel().progs.apply_order.test_run(input).map_err(refused)?;
        Ok(order.done != 0)
    }

    /// As if none had been given to user space yet.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn forget_unknowns(&self) -> Result<(), DatapathError> {
        let none = types::budget::default();
        (0..=UNKNOWN_SLOTS).try_for_each(|slot| put(&self.skel().maps.unknowns, "unknowns", &slot, &none))
    }

    /// Every rota begins anew.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn begin_rotas(&self) -> Result<(), DatapathError> {
        (0..MAX_POOLS).try_for_each(|pool| put(&self.skel().maps.turns, "turns", &pool, &0_u32))
    }

    /// Forgets what is followed of every connection.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn follow_none(&self) -> Result<(), DatapathError> {
        let map = &self.skel().maps.exchanges;
        let keys: Vec<_> = map.keys().collect();
        keys.iter().try_for_each(|key| map.delete(key)).map_err(refused)
    }
}

/// The programs tell the value of Host from others; the reference need not.
fn direction(f: &types::follower) -> Direction {
    let phase = u32::from(f.scan.phase);
    Direction {
        phase,
        at: f.at,
        boundary: f.boundary,
        left: if matches!(phase, PHASE_BODY | PHASE_CHUNK_DATA) { f.scan.left } else { 0 },
    }
}

fn refused(source: libbpf_rs::Error) -> DatapathError {
    DatapathError::Table { table: "bindings", source }
}

fn run(program: &ProgramMut<'_>, frame: &[u8], mark: u32) -> Result<Run, DatapathError> {
    let failed = |source| DatapathError::Table { table: "(test-run)", source };
    let mut out = vec![0; frame.len() + HEADROOM];
    let mut context = [0; MARK_AT + 4];
    context[MARK_AT..].copy_from_slice(&mark.to_ne_bytes());
    let input = ProgramInput {
        context_in: (mark != 0).then_some(&mut context[..]),
        data_in: Some(frame),
        data_out: Some(&mut out),
        repeat: 1,
        ..Default::default()
    };
    let output = program.test_run(input).map_err(failed)?;
    let verdict = match output.return_value as i32 {
        TCX_NEXT => Verdict::Next,
        TC_ACT_OK => Verdict::Stack,
        TC_ACT_SHOT => Verdict::Drop,
        TC_ACT_REDIRECT => Verdict::Redirect,
        other => {
            let what = format!("no program of ours returns {other}");
            return Err(failed(io::Error::other(what).into()));
        }
    };
    Ok(Run { verdict, frame: output.data.map(|d| d.to_vec()).unwrap_or_default(), took: output.duration })
}
