//! The guard, which stands where the programs do not: it drops what is for a service, and nothing else. Needs root.

mod common;

use baton_datapath::Counter;
use baton_packet_model::Verdict;
use baton_packet_model::flag::{ACK, FIN, PSH, RST, SYN};
use common::Tcp;
use common::client::node;

#[test]
fn only_what_is_for_a_service_is_dropped() {
    node("wds", |world, f| {
        let mut dropped = 0;
        for port in [80, 81, 82, 22, 0, 65_535] {
            for flags in [SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK, RST] {
                let mut to = f;
                to.vip_port = port;
                let whole = Tcp::new(to, flags, 7, 9).frame();
                for length in [whole.len(), whole.len() - 1, 40] {
                    let frame = &whole[..length.min(whole.len())];
                    let said = world.programs.run_guard(frame).expect("a run").verdict;
                    assert_eq!(
                        said,
                        world.model.guard(frame, false),
                        "port {port}, {flags:02x}, {length} bytes"
                    );
                    dropped += u64::from(said == Verdict::Drop);
                    let is_service = (80..=82).contains(&port) && length == whole.len();
                    assert!(!is_service || said == Verdict::Drop, "port {port}, {flags:02x}");
                }
            }
        }
        let counted = world.programs.counters().expect("counters").get(Counter::DropUnattended);
        assert!(dropped >= 18 && counted == dropped, "{counted} counted, {dropped} dropped");
    });
}
