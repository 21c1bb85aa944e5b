//! Packets on their way out: forwarded, answered, refused.

use std::net::IpAddr;

use baton_cluster::{Flow, NodeId};

use crate::handoff::{Handoff, overhead};
use crate::packet::flag::{ACK, RST, SYN};
use crate::packet::{L3, be16, is_v6, l4};
use crate::{Binding, Packet, Parsed, Run, Verdict, flow_clock};
use baton_datapath::constants::{
    FLAG_MOVED, FLAG_REPLAY, HOPS_MAX, RCV_WSCALE, RTT_CAP_MS, RTT_UNKNOWN, TTL_BETWEEN,
};
use baton_datapath::{Counter, Event};

/// The ones' complement sum of 16-bit words (RFC 1071), folded.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let total: u64 = words.map(|w| u64::from(w[0]) << 8 | w.get(1).map_or(0, |low| u64::from(*low))).sum();
    let mut folded = total;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    folded as u16
}

/// RFC 1624, equation 3: the checksum at `check` after the 16 bits at `at` take a new value. A checksum
/// that was wrong stays wrong.
fn change(frame: &mut [u8], at: usize, new: u16, check: usize) {
    let (Some(old), Some(sum_before)) = (be16(frame, at), be16(frame, check)) else { return };
    let after = !sum(&[&(!sum_before).to_be_bytes(), &(!old).to_be_bytes(), &new.to_be_bytes()]);
    store(frame, at, &new.to_be_bytes());
    store(frame, check, &after.to_be_bytes());
}

fn change32(frame: &mut [u8], at: usize, new: u32, check: usize) {
    change(frame, at, (new >> 16) as u16, check);
    change(frame, at + 2, new as u16, check);
}

fn store(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The octets of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The type of a frame, and an IP header without options, for so many bytes of payload, never to be
/// fragmented.
pub(super) fn ip_header(payload: u16, ttl: u8, protocol: u8, from: IpAddr, to: IpAddr) -> ([u8; 2], Vec<u8>) {
    let addresses = [octets(from), octets(to)].concat();
    if from.is_ipv6() {
        let [high, low] = payload.to_be_bytes();
        return ([0x86, 0xdd], [&[0x60, 0, 0, 0, high, low, protocol, ttl][..], &addresses].concat());
    }
    let [high, low] = (payload + 20).to_be_bytes();
    let mut header = [&[0x45, 0, high, low, 0, 0, 0x40, 0, ttl, protocol, 0, 0][..], &addresses].concat();
    let check = !sum(&[&header]);
    store(&mut header, 10, &check.to_be_bytes());
    ([8, 0], header)
}

/// Seq, ack, flags and window of a packet of our own.
pub(super) struct Reply {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// What its timestamp says, if not the flow's clock.
    pub(super) clock: Option<u32>,
}

/// Whether a SYN's own checksum is right. (Its payload, if it has one, is never used.)
pub(super) fn checksum_is_right(p: &Packet, frame: &[u8]) -> bool {
    let (l4, v6) = (l4(frame), is_v6(frame));
    let Some(said) = be16(frame, if v6 { L3 + 4 } else { L3 + 2 }).map(usize::from) else { return false };
    let length = if v6 { said } else { said - 20 };
    let Some(tcp) = frame.get(l4..l4 + length) else { return false };
    let (client, vip) = (octets(p.flow.client), octets(p.flow.vip));
    sum(&[&client, &vip, &[0, 6], &(length as u16).to_be_bytes(), tcp]) == 0xffff
}

impl Run<'_> {
    /// Sends the packet on as it is, with less to live: there is no router on the way.
    pub(super) fn forward(&mut self, p: &Packet, to: NodeId, why: Counter) -> Verdict {
        self.forward_frame(&p.flow, p.ttl, to, why)
    }

    /// As above, of any packet about a connection.
    pub(super) fn forward_frame(&mut self, flow: &Flow, ttl: u8, to: NodeId, why: Counter) -> Verdict {
        let Some(peer) = self.model.tables.nodes.get(&to).copied() else {
            return self.drop(Counter::FaultMap);
        };
        if self.wrapped.is_some() || peer.routed || flow.vip.is_ipv6() != peer.address.is_ipv6() {
            self.count(why);
            let hops = self.wrapped.map_or(0, |(_, hops)| hops + 1);
            if u32::from(hops) >= HOPS_MAX {
                return self.drop(Counter::DropLoop);
            }
            let forwarded = Handoff::forwarded(self.model.settings.node, hops, self.clock);
            return self.wrap(&forwarded, flow, to);
        }
        if ttl <= 1 {
            return self.drop(Counter::DropTtl);
        }
        self.set_ttl((ttl - 1).min(TTL_BETWEEN as u8));
        self.count(why);
        self.to = Some(to);
        Verdict::Redirect
    }

    fn set_ttl(&mut self, ttl: u8) {
        if is_v6(&self.frame) {
            return store(&mut self.frame, L3 + 7, &[ttl]);
        }
        let protocol = self.frame.get(L3 + 9).copied().unwrap_or(0);
        change(&mut self.frame, L3 + 8, u16::from(ttl) << 8 | u16::from(protocol), L3 + 10);
    }

    /// The largest packet that reaches every node.
    fn path_mtu(&self) -> u16 {
        let (link, path) = (self.model.settings.mtu, self.model.tables.path_mtu);
        if path == 0 { link } else { path }
    }

    /// In a wrapping that says this, to a node; what does not fit the way is told to its sender.
    fn wrap(&mut self, handoff: &Handoff, flow: &Flow, to: NodeId) -> Verdict {
        let Some(peer) = self.model.tables.nodes.get(&to).copied() else {
            return self.drop(Counter::FaultMap);
        };
        let (seq, ack) = match self.model.parse(&self.frame) {
            Parsed::Tcp(p) => (p.seq, p.ack),
            _ => (0, 0),
        };
        let settings = self.model.settings;
        let overhead = overhead(settings.address);
        if self.frame.len() - L3 + overhead > usize::from(self.path_mtu()) {
            let (flow, mtu) = (*flow, self.path_mtu() - overhead as u16);
            self.events.push(Event::TooBig { flow, seq, mtu, node: to });
            return self.drop(Counter::DropTooBig);
        }
        let keys = self.model.tables.keys;
        match handoff.wrap(
            &keys,
            (&self.frame, *flow, ack),
            settings.address,
            peer.address,
            settings.handoff_port,
        ) {
            Some(frame) => (self.frame, self.to) = (frame, Some(to)),
            None => return self.drop(Counter::FaultRewrite),
        }
        Verdict::Redirect
    }

    /// A packet of our own to the client, in place of the one that it sent.
    pub(super) fn answer(&mut self, p: &Packet, r: &Reply) -> Verdict {
        let options = self.answer_options(p, r);
        let mut tcp = Vec::new();
        tcp.extend(p.flow.vip_port.to_be_bytes());
        tcp.extend(p.flow.client_port.to_be_bytes());
        tcp.extend(r.seq.to_be_bytes());
        tcp.extend(r.ack.to_be_bytes());
        tcp.extend([(((20 + options.len()) / 4) << 4) as u8, r.flags]);
        tcp.extend(r.window.to_be_bytes());
        tcp.extend([0; 4]); // checksum, urgent pointer
        tcp.extend(options);
        let (from, to) = (octets(p.flow.vip), octets(p.flow.client));
        let check = !sum(&[&from, &to, &[0, 6], &(tcp.len() as u16).to_be_bytes(), &tcp]);
        store(&mut tcp, 16, &check.to_be_bytes());

        self.frame.truncate(L3);
        self.frame.extend(ip_header(tcp.len() as u16, 64, 6, p.flow.vip, p.flow.client).1);
        self.frame.extend(tcp);
        Verdict::Redirect
    }

    /// What the client offered and no more (RFC 9293 3.2, RFC 7323 1.3 and 3.2), padded to words.
    fn answer_options(&self, p: &Packet, r: &Reply) -> Vec<u8> {
        let syn = r.flags & SYN != 0;
        let mut out = Vec::new();
        if r.flags & RST != 0 {
            return out;
        }
        let timestamps = p.options.timestamps;
        if syn {
            let headers = if p.flow.vip.is_ipv6() { 60 } else { 40 };
            let mss = self.path_mtu() - (overhead(self.model.settings.address) + headers) as u16;
            out.extend([2, 4]);
            out.extend(mss.to_be_bytes());
        }
        match (syn && p.options.sack, timestamps) {
            (true, Some(_)) => out.extend([4, 2]),
            (true, None) => out.extend([1, 1, 4, 2]),
            (false, Some(_)) => out.extend([1, 1]),
            (false, None) => {}
        }
        if let Some((tsval, _)) = timestamps {
            out.extend([8, 10]);
            let clock = r.clock.unwrap_or_else(|| flow_clock(&self.model.tables.keys, &p.flow, self.clock));
            out.extend(clock.to_be_bytes());
            out.extend(tsval.to_be_bytes());
        }
        if syn && p.options.wscale.is_some() {
            out.extend([1, 3, 3, RCV_WSCALE as u8]);
        }
        out
    }

    /// The client gets a RST in answer to its packet (RFC 9293 3.10.7.1).
    pub(super) fn refuse(&mut self, p: &Packet, why: Counter) -> Verdict {
        self.count(why);
        self.answer(p, &Reply { seq: p.ack, ack: 0, flags: RST, window: 0, clock: None })
    }

    /// As at a port where nobody listens (RFC 9293 3.10.7.1): all of the segment is acknowledged.
    pub(super) fn refuse_syn(&mut self, p: &Packet, why: Counter) -> Verdict {
        self.count(why);
        let ack = p.seq.wrapping_add(1).wrapping_add(p.payload.len() as u32);
        self.answer(p, &Reply { seq: 0, ack, flags: RST | ACK, window: 0, clock: None })
    }

    /// Changes sequence and acknowledgement numbers and flags in place.
    pub(super) fn renumber(&mut self, seq: u32, ack: u32, flags: u8) {
        let l4 = l4(&self.frame);
        let check = l4 + 16;
        let offset = self.frame.get(l4 + 12).copied().unwrap_or(0);
        change(&mut self.frame, l4 + 12, u16::from_be_bytes([offset, flags]), check);
        change32(&mut self.frame, l4 + 4, seq, check);
        change32(&mut self.frame, l4 + 8, ack, check);
    }

    /// The options become payload.
    pub(super) fn without_options(&mut self) {
        let l4 = l4(&self.frame);
        let flags = self.frame.get(l4 + 13).copied().unwrap_or(0);
        change(&mut self.frame, l4 + 12, u16::from_be_bytes([5 << 4, flags]), l4 + 16);
    }

    /// As below, for a connection that has had a server: not behind what that one said last.
    pub(super) fn clock_after(&self, p: &Packet, b: &Binding) -> u32 {
        let clock = self.clock_for(p, b.rtt_ms);
        let said_later = b.clock.wrapping_sub(clock).cast_signed() > 0;
        if b.has(FLAG_MOVED) && said_later { b.clock } else { clock }
    }

    /// What the flow's clock reads for the server's socket to go on from: what the client echoed, plus
    /// what has passed since, but no more than one round trip.
    pub(super) fn clock_for(&self, p: &Packet, rtt_ms: u16) -> u32 {
        let echoed = p.options.timestamps.map_or(0, |(_, tsecr)| tsecr);
        let ahead = flow_clock(&self.model.tables.keys, &p.flow, self.clock).wrapping_sub(echoed) as i32;
        let cap = if u32::from(rtt_ms) == RTT_UNKNOWN { RTT_CAP_MS } else { u32::from(rtt_ms) };
        echoed.wrapping_add(ahead.clamp(0, cap as i32) as u32)
    }

    /// Wraps the packet for the server's node and sends it there.
    pub(super) fn send_handoff(&mut self, p: &Packet, b: &Binding, to: NodeId) -> Verdict {
        let handoff = Handoff {
            hops: 0,
            options: b.options,
            snd_wscale: b.snd_wscale,
            start_seq: b.start_seq,
            tsval: self.clock_after(p, b),
            issued: b.issued,
            mss: b.mss,
            distributor: b.distributor,
            reserved: 0,
            rtt_ms: b.rtt_ms,
            cwnd: b.cwnd,
            flags: (b.flags & (FLAG_REPLAY | FLAG_MOVED)) as u16,
            replay_end: b.replay_end,
        };
        let verdict = self.wrap(&handoff, &p.flow, to);
        if verdict != Verdict::Drop && NodeId(b.distributor) == self.model.settings.node {
            *self.model.tables.evidence.sent.entry(to).or_default() += 1;
        }
        verdict
    }

    /// A handoff packet goes on to the node that its connection was decided for since: what it says
    /// stays, but for the time of that decision.
    pub(super) fn hand_on(&mut self, flow: &Flow, h: &Handoff, b: &Binding, to: NodeId) -> Verdict {
        if u32::from(h.hops) + 1 >= HOPS_MAX {
            return self.drop(Counter::DropLoop);
        }
        let on = Handoff { hops: h.hops + 1, issued: b.issued, ..*h };
        self.wrap(&on, flow, to)
    }
}
