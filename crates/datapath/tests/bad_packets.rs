//! Packets that cannot be read, that nobody here wants, or that hold garbage: each has its counter, or
//! passes untouched. Needs root.

mod common;

use baton_packet_model::flag::{ACK, FIN, RST, SYN};
use baton_packet_model::{Offer, Verdict};
use common::Tcp;
use common::client::{case, node};
use common::frames::{MSS, SACK, fix_checksums, read};

#[test]
fn what_cannot_be_read_is_counted_and_dropped() {
    node("d", |world, f| {
        let syn = Tcp::new(f, SYN, 1, 0).options(&[MSS]).frame();
        let mut with = |sentence: &str, counted: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = syn.clone();
            change(&mut frame);
            case(world, sentence, &frame, Verdict::Drop, &[counted]);
        };
        with("a first fragment", "drop_fragment", &|p| p[20] = 0x20);
        with("a later fragment", "drop_fragment", &|p| p[21] = 5);
        with("IP options", "drop_ip_options", &|p| p[14] = 0x46);
        with("an IP header too short", "drop_ip_options", &|p| p[14] = 0x44);
        with("cut behind the IP header", "drop_malformed", &|p| p.truncate(34));
        with("cut in the TCP header", "drop_malformed", &|p| p.truncate(50));
        with("cut in the options", "drop_malformed", &|p| p.truncate(56));
        with("tot_len beyond the frame", "drop_malformed", &|p| p[17] += 1);
        with("tot_len inside the TCP header", "drop_malformed", &|p| p[17] = 39);
        with("doff beyond the packet", "drop_malformed", &|p| p[46] = 0xf0);
        with("doff below five", "drop_malformed", &|p| p[46] = 0x40);
        with("a wrong checksum", "drop_checksum", &|p| p[50] ^= 1);
        for (flags, name) in [
            (0, "none"),
            (FIN, "FIN"),
            (SYN | FIN, "SYN FIN"),
            (SYN | RST, "SYN RST"),
            (SYN | ACK, "SYN ACK"),
        ] {
            with(name, "drop_flags", &|p| p[47] = flags);
        }
    });
}

#[test]
fn what_is_for_nobody_here_passes() {
    node("wds", |world, f| {
        let ours = Tcp::new(f, SYN, 1, 0);
        let mut pass = |sentence: &str, frame: &[u8]| {
            assert_eq!(case(world, sentence, frame, Verdict::Next, &[]).frame, frame, "{sentence}");
        };
        for port in [0, 22] {
            let mut other = ours.clone();
            other.flow.vip_port = port;
            pass("no service's port", &other.frame());
        }
        let mut other = ours.clone();
        other.flow.vip = [10, 1, 0, 10].into();
        pass("no service's address", &other.frame());
        let mut frame = other.frame();
        frame[20] = 0x20;
        pass("its fragment", &frame);
        let mut frame = ours.frame();
        frame[23] = 1;
        pass("ICMP to a VIP", &frame);
        frame[12..14].copy_from_slice(&[8, 6]);
        pass("ARP", &frame);
    });
}

#[test]
fn garbage_in_options_ends_their_reading() {
    node("d", |world, f| {
        for (garbage, wscale) in
            [(&[3, 0, 3, 3, 7, 0, 0, 0][..], None), (&[3, 3, 99, 0], Some(8)), (&[253, 40, 3, 3], None)]
        {
            let mut frame = Tcp::new(f, SYN, 1, 0).options(&[MSS, SACK, &[0; 8][..garbage.len()]]).frame();
            let at = 58 + SACK.len();
            frame[at..at + garbage.len()].copy_from_slice(garbage);
            fix_checksums(&mut frame);
            let said = case(world, "answered", &frame, Verdict::Redirect, &["syn_answered"]);
            let offer = Offer::in_cookie(read(&said.frame).sequence_number, false, false);
            assert_eq!((offer.mss, offer.wscale), (1460, wscale), "{garbage:?}");
        }
    });
}
