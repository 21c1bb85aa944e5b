//! A node's machine at work: its programs, its stack, its server, its reader.

use std::collections::VecDeque;

use baton_cluster::{Flow, Protocol};
use baton_core::Head;
use baton_datapath::Counter;
use baton_datapath::constants::OPTION_TIMESTAMPS;
use baton_packet_model::{self as model, Outcome, Verdict};
use rand::Rng as _;

use super::{Ended, Happening, ROUTER, World, is_from_vip, is_whole, mac};
use crate::message::RequestId;
use crate::plan::MS;
use crate::segment::{RST, Segment};
use crate::server::take_request;
use crate::shell::{Holder, Socket};
use crate::tcp::{End, after};

impl World<'_> {
    /// A packet comes to a node's programs.
    pub(super) fn ingress(&mut self, node: usize, frame: &[u8], released: bool) -> Ended {
        let life = self.nodes[node].life;
        let shell = &mut self.nodes[node].shell;
        let clock = shell.clock();
        let outcome = if released {
            shell.model.ingress_released(frame, clock)
        } else {
            shell.model.ingress(frame, clock)
        };
        // Behind the end of a stale socket, and what arrived with it, the packet comes again; so does a packet of the
        // reader's that came in between (`end_stale_socket` and `requeue` in the programs).
        let counts = |counter: Counter| outcome.counted.contains_key(&counter);
        let between = outcome.verdict == Verdict::Drop
            && counts(Counter::ReaderPacket)
            && !counts(Counter::DropEarlySegment);
        if counts(Counter::StaleSocketEnded) || between {
            let (frame, released) = (frame.to_vec(), released && between);
            self.soon(MS / 10, Happening::Frame { node, life, frame, released });
        }
        self.outcome(node, outcome)
    }

    /// What has become of a packet at a node.
    pub(super) fn outcome(&mut self, node: usize, outcome: Outcome) -> Ended {
        let Outcome { verdict, frame, to, counted, events } = outcome;
        let why: Vec<&str> = counted.keys().map(|counter| counter.name()).collect();
        self.tell(format!("   n{node}: {verdict:?} {}", why.join(" ")));
        self.summary.moves += counted.get(&Counter::Moved).copied().unwrap_or(0);
        self.summary.read += counted.get(&Counter::ReaderAdopted).copied().unwrap_or(0);
        let adopted = counted.contains_key(&Counter::Adopted);
        let read = counted.contains_key(&Counter::ReaderAdopted);
        let life = self.nodes[node].life;
        let shell = &mut self.nodes[node].shell;
        for (counter, n) in counted {
            *shell.counters.entry(counter).or_default() += n;
        }
        shell.events.extend(events);
        self.tell_events(node);
        match verdict {
            Verdict::Drop => {}
            Verdict::Next => return Ok(()),
            Verdict::Stack => {
                let holder = if read { Holder::Reader } else { Holder::Server };
                self.stack(node, &frame, (adopted || read).then_some(holder))?;
            }
            Verdict::Redirect => match to {
                Some(to) => {
                    let mut frame = frame;
                    frame[..6].copy_from_slice(&mac(to.index()));
                    frame[6..12].copy_from_slice(&mac(node));
                    self.send_to_node(Some(node), to.index(), frame);
                }
                None if is_from_vip(&frame) => self.send_to_client(node, frame),
                None => self.soon(MS, Happening::Held { node, life, frame }),
            },
        }
        self.moved_away(node)
    }

    /// Sockets whose connections the programs have moved end without a word.
    pub(super) fn moved_away(&mut self, node: usize) -> Ended {
        let shell = &mut self.nodes[node].shell;
        let stack = &shell.model.stack.sockets;
        shell.sockets.retain(|flow, _| stack.contains_key(flow));
        Ok(())
    }

    /// A packet for the node's own stack.
    pub(super) fn stack(&mut self, node: usize, frame: &[u8], adopted: Option<Holder>) -> Ended {
        let Some(((client, client_port), (to, port), segment)) = Segment::parse(frame) else { return Ok(()) };
        let flow = Flow { client, client_port, vip: to, vip_port: port };
        let now = self.now;
        let shell = &mut self.nodes[node].shell;
        if adopted == Some(Holder::Server) && self.plan.sick.is_some_and(|sick| sick.node == node) {
            // The packet never gets to the socket that it was meant to make.
            shell.model.stack.sockets.remove(&flow);
            return Ok(());
        }
        if let Some(holder) = adopted {
            let Some(b) = shell.model.tables.bindings.get(&flow) else {
                return Err("adopted without binding".into());
            };
            let stamps = u32::from(b.options) & OPTION_TIMESTAMPS != 0;
            let theirs = segment.timestamps.map_or(0, |(value, _)| value);
            let end = End::new(segment.ack, segment.seq, stamps.then_some(theirs), (b.clock, now));
            let answers = VecDeque::new();
            let socket = Socket {
                holder,
                start_seq: b.start_seq,
                end,
                request: None,
                answers,
                is_read: false,
                timer: None,
            };
            shell.sockets.insert(flow, socket);
        }
        let Some(socket) = shell.sockets.get_mut(&flow) else {
            if segment.has(RST) {
                shell.model.stack.sockets.remove(&flow);
                return Ok(());
            }
            // As a listener answers that knows no such connection (RFC 9293 3.10.7.2).
            let reset = Segment {
                seq: segment.ack,
                ack: 0,
                flags: RST,
                window: 0,
                timestamps: None,
                mss: None,
                payload: Vec::new(),
            };
            return self.leaves(node, &flow, &reset);
        };
        socket.end.receive(&segment, now);
        if socket.end.is_reset {
            shell.sockets.remove(&flow);
            shell.model.stack.sockets.remove(&flow);
            return Ok(());
        }
        self.serve(node, flow)
    }

    /// What a socket's holder does with what has come, and what the socket sends.
    pub(super) fn serve(&mut self, node: usize, flow: Flow) -> Ended {
        let Some(socket) = self.nodes[node].shell.sockets.get_mut(&flow) else { return Ok(()) };
        match socket.holder {
            Holder::Server => {
                self.serve_request(node, flow)?;
                let Some(socket) = self.nodes[node].shell.sockets.get_mut(&flow) else { return Ok(()) };
                if socket.answers.is_empty() && socket.end.they_ended() {
                    socket.end.close();
                }
            }
            Holder::Reader => self.reader_has(node, flow),
        }
        self.flush_socket(node, flow)
    }

    /// The next request, when the one before is answered.
    fn serve_request(&mut self, node: usize, flow: Flow) -> Ended {
        let now = self.now;
        let Some(socket) = self.nodes[node].shell.sockets.get_mut(&flow) else { return Ok(()) };
        if !socket.answers.is_empty() {
            return Ok(());
        }
        if socket.request.is_none()
            && let Some(head) = take_request(&mut socket.end.input)
        {
            let request = head.map_err(|head| format!("n{node} has got what is no request: {head:?}"))?;
            let word = request.goes_on(&socket.end.input);
            socket.end.write(word);
            let (id, pool) = (request.id, request.pool);
            socket.request = Some(request);
            self.executes(node, id, pool)?;
        }
        let Some(socket) = self.nodes[node].shell.sockets.get_mut(&flow) else { return Ok(()) };
        let Some(request) = &socket.request else { return Ok(()) };
        let Some(taken) = request.take_content(&mut socket.end.input) else { return Ok(()) };
        taken.map_err(|error| format!("n{node}, request {:?}: {error}", request.id))?;
        let rng = &mut self.rng;
        socket.answers = request.pieces(node, now, |most| rng.random_range(0..=most));
        socket.request = None;
        Ok(())
    }

    pub(super) fn executes(&mut self, node: usize, id: RequestId, pool: usize) -> Ended {
        self.tell(format!("n{node} executes request {} of client {}", id.1, id.0));
        if !self.permits(node, id, pool) {
            return Err(format!("n{node} must not serve request {id:?} of pool p{pool}"));
        }
        let times = self.executed.entry(id).or_default();
        times.push(node);
        // What a machine that stopped may have had, another may have again.
        if times.len() > 1 && !self.plan.crashes() {
            return Err(format!("request {id:?} is served by {times:?}"));
        }
        Ok(())
    }

    /// Sends what a socket has to send, and keeps the model's view of it.
    pub(super) fn flush_socket(&mut self, node: usize, flow: Flow) -> Ended {
        let now = self.now;
        let Some(socket) = self.nodes[node].shell.sockets.get_mut(&flow) else { return Ok(()) };
        while let Some((at, _)) = socket.answers.front()
            && *at <= now
        {
            let Some((_, piece)) = socket.answers.pop_front() else { break };
            socket.end.write(&piece);
        }
        let segments = socket.end.send(now, |most| most);
        self.note_socket(node, &flow);
        for segment in segments {
            self.leaves(node, &flow, &segment)?;
        }
        let life = self.nodes[node].life;
        let Some(socket) = self.nodes[node].shell.sockets.get_mut(&flow) else { return Ok(()) };
        let next = socket.holder == Holder::Server
            && socket.answers.is_empty()
            && ((socket.request.is_none() && is_whole(&socket.end.input))
                || (socket.end.they_ended() && !socket.end.is_closed()));
        let times = [socket.end.due, socket.answers.front().map(|(at, _)| *at), next.then_some(now + 1)];
        let Some(at) = times.into_iter().flatten().min() else { return Ok(()) };
        if socket.timer.is_none_or(|timer| at < timer || timer <= now) {
            socket.timer = Some(at);
            self.at(at, Happening::Socket { node, life, flow });
        }
        Ok(())
    }

    pub(super) fn note_socket(&mut self, node: usize, flow: &Flow) {
        let shell = &mut self.nodes[node].shell;
        let Some(socket) = shell.sockets.get(flow) else { return };
        let end = &socket.end;
        if end.is_over() {
            shell.sockets.remove(flow);
            shell.model.stack.sockets.remove(flow);
            return;
        }
        let established = (!end.is_closing()).then(|| model::Established {
            write_seq: end.write_seq(),
            snd_nxt: end.snd_nxt(),
            out_of_order: end.has_gap(),
            cwnd: 10,
            rtt_ms: 1,
        });
        let reach = model::Reach {
            window: 64_000,
            snd_una: end.snd_una(),
            snd_nxt: end.snd_nxt(),
            max_window: 64_000,
        };
        let known = model::Socket {
            start_seq: Some(socket.start_seq),
            rcv_nxt: end.rcv_nxt,
            reach: Some(reach),
            established,
        };
        shell.model.stack.sockets.insert(*flow, known);
    }

    /// A socket's time has come.
    pub(super) fn socket(&mut self, node: usize, flow: Flow) -> Ended {
        let now = self.now;
        let Some(socket) = self.nodes[node].shell.sockets.get_mut(&flow) else { return Ok(()) };
        let again = socket.end.repeat(now, |most| most);
        if let Some(segment) = again {
            self.leaves(node, &flow, &segment)?;
        }
        self.serve(node, flow)
    }

    /// A segment of the node's stack on its way out.
    pub(super) fn leaves(&mut self, node: usize, flow: &Flow, segment: &Segment) -> Ended {
        let frame = segment.frame(flow, true, (mac(node), ROUTER));
        let shell = &mut self.nodes[node].shell;
        let clock = shell.clock();
        let holder = shell.sockets.get(flow).map(|socket| socket.holder);
        let outcome = shell.model.egress(&frame, clock);
        self.tell(format!("from n{node} {segment:?}"));
        let passes = outcome.verdict == Verdict::Next;
        let why: Vec<&str> = outcome.counted.keys().map(|counter| counter.name()).collect();
        if !why.is_empty() {
            self.tell(format!("   n{node}: {:?} {}", outcome.verdict, why.join(" ")));
        }
        let shell = &mut self.nodes[node].shell;
        for (counter, n) in outcome.counted {
            *shell.counters.entry(counter).or_default() += n;
        }
        shell.events.extend(outcome.events);
        self.tell_events(node);
        if passes {
            if holder == Some(Holder::Server) {
                self.one_owner(node, flow, segment)?;
            }
            self.send_to_client(node, frame);
        }
        Ok(())
    }

    /// Any byte of a connection comes from one node.
    pub(super) fn one_owner(&mut self, node: usize, flow: &Flow, segment: &Segment) -> Ended {
        let (from, to) = (segment.seq, segment.seq.wrapping_add(segment.payload.len() as u32));
        if from == to {
            return Ok(());
        }
        let number = usize::from(flow.client_port - 40_000);
        let sent = self.sent.entry((number, flow.client_port)).or_default();
        let other =
            sent.0.iter().find(|(start, end, by)| *by != node && after(*end, from) && after(to, *start));
        if let Some((_, _, by)) = other.filter(|_| !self.plan.crashes()) {
            return Err(format!("n{node} and n{by} send the same bytes of client {number}'s connection"));
        }
        sent.0.push((from, to, node));
        Ok(())
    }

    /// The reader has something of a connection: its head, perhaps. Once: what comes behind is taken with it.
    pub(super) fn reader_has(&mut self, node: usize, flow: Flow) {
        let life = self.nodes[node].life;
        let Some(socket) = self.nodes[node].shell.sockets.get_mut(&flow) else { return };
        if is_whole(&socket.end.input) && !socket.is_read {
            socket.is_read = true;
            self.soon(MS, Happening::Read { node, life, flow });
        }
    }

    /// The core hears of a head that the reader has.
    pub(super) fn head(&mut self, node: usize, flow: Flow) -> Ended {
        let Some(socket) = self.nodes[node].shell.sockets.get(&flow) else { return Ok(()) };
        if socket.holder != Holder::Reader {
            return Ok(());
        }
        let bytes = socket.end.input.clone();
        let protocol = if flow.vip_port == 80 { Protocol::Http } else { Protocol::Tcp };
        let head = Head { stream: flow, flow, protocol, bytes };
        self.core(node, |core, shell, now| {
            core.read(head, shell, now);
            core.flush(shell, now);
        })
    }

    pub(super) fn reader_refuses(&mut self, node: usize, flow: Flow) -> Ended {
        self.tell(format!("n{node} refuses a request of {flow}"));
        if self.plan.mishaps.is_empty() {
            return Err(format!("n{node} refuses a request of {flow}"));
        }
        if let Some(socket) = self.nodes[node].shell.sockets.get_mut(&flow) {
            socket.end.input.clear();
            socket.end.write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n");
            socket.end.close();
        }
        self.flush_socket(node, flow)
    }
}
