//! A changed cluster file, given to the programs and to their model.

use std::net::IpAddr;
use std::time::Duration;

use baton_cluster::Flow;
use baton_datapath::DatapathError;
use baton_datapath::constants::{FLAG_LEFT, HALF_CLOSED_MS};
use baton_packet_model::Binding;

use super::play::Play;
use super::steps::Step;
use crate::common::frames::{VIP, VIP_V6};
use crate::common::furnish::PORTS;

impl Play<'_> {
    /// What a changed cluster file brings.
    pub fn reload(&mut self, step: &Step) -> Result<(), DatapathError> {
        match step {
            Step::End { flow } => {
                let flow = self.flow_of(*flow);
                self.world.end(flow.vip, flow.vip_port)
            }
            Step::Close { flow } => {
                let flow = self.flow_of(*flow);
                self.world.close(flow.vip, flow.vip_port)
            }
            Step::Serve { flow, change } => {
                let port = self.flow_of(*flow).vip_port;
                self.world.serve(port, *change)
            }
            Step::Seen { flow } => {
                let port = self.flow_of(*flow).vip_port;
                self.world.seen(port, "t.example.com")
            }
            _ => Ok(()),
        }
    }

    /// How many connections of each address there are.
    pub fn count_connections(&self) -> Result<(), String> {
        let now = self.world.clock().kernel_ns;
        let addresses: Vec<_> = PORTS.flat_map(|port| [(VIP, port), (VIP_V6, port)]).collect();
        let known = self.world.programs.connections_at(&addresses, Duration::from_nanos(now));
        let bindings = &self.world.model.tables.bindings;
        let live = |(vip, port): &(IpAddr, u16)| {
            let has_left = |b: &Binding| {
                let minutes = i64::from(HALF_CLOSED_MS) * 1_000_000;
                b.flags & FLAG_LEFT != 0 && now.wrapping_sub(b.seen_ns).cast_signed() > minutes
            };
            let is_there = |f: &Flow, b: &Binding| {
                (f.vip, f.vip_port) == (*vip, *port) && b.is_live(now) && !has_left(b)
            };
            bindings.iter().filter(|(f, b)| is_there(f, b)).count() as u64
        };
        let said: Vec<_> = addresses.iter().map(live).collect();
        if known == said {
            Ok(())
        } else {
            Err(format!("connections_at: {known:?}, the model says {said:?}"))
        }
    }
}
