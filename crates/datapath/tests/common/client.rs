//! A client written by hand at a node that is no real one, and the way the cases are told.

use baton_cluster::Flow;
use baton_datapath::State;
use baton_packet_model::flag::{ACK, PSH, SYN};
use baton_packet_model::{Outcome, Verdict};

use super::frames::{MSS, SACK, WSCALE, flow, read, timestamps};
use super::{Tcp, World, in_netns};

pub const REQUEST: &[u8] = b"GET /a?q HTTP/1.1\r\nHost: x\r\n\r\n";
pub const DATA: u8 = ACK | PSH;

/// A client whose handshake is complete.
#[derive(Clone, Copy)]
pub struct Client {
    pub flow: Flow,
    /// Its next byte.
    pub seq: u32,
    /// Ours.
    pub ack: u32,
    pub tsval: u32,
}

impl Client {
    /// SYN, SYN-ACK and ACK at a distributor.
    pub fn connected(world: &mut World, flow: Flow) -> Self {
        let client = Self::greeted(world, flow, 1000);
        case(
            world,
            "the ACK completes the handshake",
            &client.sends(ACK).frame(),
            Verdict::Drop,
            &["handshake_ack"],
        );
        client
    }

    pub fn greeted(world: &mut World, flow: Flow, isn: u32) -> Self {
        let syn = Tcp::new(flow, SYN, isn, 0).options(&[MSS, SACK, WSCALE, &timestamps(9, 0)]);
        let said = case(world, "a SYN is answered", &syn.frame(), Verdict::Redirect, &["syn_answered"]);
        Self::answered(flow, isn, &said.frame)
    }

    /// As above, by the programs alone.
    pub fn greeted_by_programs(world: &World, flow: Flow, isn: u32) -> Self {
        let syn = Tcp::new(flow, SYN, isn, 0).options(&[MSS, SACK, WSCALE, &timestamps(9, 0)]);
        Self::answered(flow, isn, &world.programs.run_ingress(&syn.frame()).expect("a test-run").frame)
    }

    fn answered(flow: Flow, isn: u32, frame: &[u8]) -> Self {
        let tcp = read(frame);
        let tsval = tcp.options_iterator().find_map(|o| match o {
            Ok(etherparse::TcpOptionElement::Timestamp(value, _)) => Some(value),
            _ => None,
        });
        Self { flow, seq: isn + 1, ack: tcp.sequence_number.wrapping_add(1), tsval: tsval.unwrap_or(0) }
    }

    pub fn sends(&self, flags: u8) -> Tcp {
        Tcp::new(self.flow, flags, self.seq, self.ack).options(&[&timestamps(10, self.tsval)])
    }

    pub fn requests(&self) -> Tcp {
        self.sends(DATA).data(REQUEST)
    }
}

/// A packet arrives: its fate, and all that was counted.
#[track_caller]
pub fn case(world: &mut World, sentence: &str, frame: &[u8], verdict: Verdict, counted: &[&str]) -> Outcome {
    let said = world.ingress(frame);
    assert_eq!((said.verdict, &world.counted[..]), (verdict, counted), "{sentence}");
    said
}

#[track_caller]
pub fn state(world: &World, flow: &Flow) -> Option<State> {
    world.programs.whole_binding(flow).expect("bindings").map(|b| b.state)
}

pub fn node(letters: &'static str, test: impl FnOnce(&mut World, Flow) + Send + 'static) {
    in_netns(move || {
        let f = flow(40_000);
        test(&mut World::new(letters, &[f]), f);
    });
}
