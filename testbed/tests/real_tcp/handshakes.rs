//! How connections begin: options, flags and data on SYNs, and the order of the first packets.

use baton_testbed::get;
use baton_testbed::rawtcp::{ACK, AE, CWR, ECE, FIN, Opt, PSH, SYN, Segment};

use crate::field::{answered, fetch, play};

/// A client that asks for ECN, classic or accurate, gets a plain SYN-ACK, and no ECN afterwards (the judge
/// refuses either); marks that a router set nevertheless do no harm.
#[test]
fn ecn_is_cleanly_refused() {
    play(&[], |field| {
        for asks in [ECE | CWR, AE | ECE | CWR] {
            for ecn in 0..4 {
                let [first, second] = field.pages.clone();
                let mut raw = field.tcp();
                let options = raw.all_options();
                raw.send(Segment { options, ..raw.segment(SYN | asks, b"") });
                let syn_ack = raw.expect("a SYN-ACK", |s| s.is(SYN | ACK));
                assert!(!syn_ack.has(ECE) && !syn_ack.has(CWR) && !syn_ack.has(AE), "{syn_ack:?}");
                raw.send(Segment { ecn, ..raw.segment(ACK, b"") });
                for content in [&first, &second, &first] {
                    raw.send(Segment { ecn, ..raw.segment(ACK | PSH, &get(content, false)) });
                    answered(&mut raw, content);
                }
                raw.close();
            }
        }
    });
}

/// A cookie is asked for, or data comes with the SYN: the SYN alone is acknowledged, with no cookie, and
/// the client sends its data again.
#[test]
fn fast_open_falls_back() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        let cookie = Opt::Other(34, vec![1, 2, 3, 4, 5, 6, 7, 8]);
        for (option, data) in [
            (Opt::Other(34, vec![]), false),
            (cookie.clone(), false),
            (cookie, true),
            (Opt::Other(254, vec![0xf9, 0x89]), true),
        ] {
            let request = get(&first, false);
            let mut raw = field.tcp();
            let start = raw.seq.wrapping_add(1);
            let mut options = raw.all_options();
            options.push(option);
            let payload = if data { &request[..] } else { &[] };
            raw.send(Segment { options, ..raw.segment(SYN, payload) });
            let syn_ack = raw.expect("a SYN-ACK", |s| s.is(SYN | ACK));
            assert_eq!(syn_ack.ack, start, "the SYN alone");
            raw.seq = start;
            raw.ack();
            fetch(&mut raw, &first);
            fetch(&mut raw, &second);
            raw.close();
        }
    });
}

/// A SYN that offers Multipath TCP (RFC 8684) gets a plain SYN-ACK: the client goes on with plain TCP.
#[test]
fn multipath_tcp_falls_back() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        for mptcp in [vec![0x01, 0x01], vec![0x01, 0x81], vec![0x00, 0x81, 1, 2, 3, 4, 5, 6, 7, 8]] {
            let mut raw = field.tcp();
            let mut options = raw.all_options();
            options.push(Opt::Other(30, mptcp));
            let syn_ack = raw.connect(&options);
            assert!(syn_ack.options.iter().all(|option| !matches!(option, Opt::Other(..))));
            fetch(&mut raw, &first);
            fetch(&mut raw, &second);
            raw.close();
        }
    });
}

/// Each window scale; more than 14 counts as 14 (RFC 7323 2.3). No server may go beyond a window of a few
/// units, before and after the connection has moved.
#[test]
fn every_window_scale() {
    play(&[], |field| {
        let large = field.large.clone();
        for scale in 0..=15 {
            let mut raw = field.tcp();
            let unit = 1 << scale.min(14);
            raw.window = unit * 3_u32.max(9000 / unit);
            let (mss, now) = (Opt::Mss(1460), Opt::Timestamps(raw.now(), 0));
            let syn_ack = raw.connect(&[mss, Opt::SackOk, now, Opt::Scale(scale)]);
            assert!(syn_ack.scale().is_some());
            large.iter().for_each(|content| fetch(&mut raw, content));
            raw.close();
        }
    });
}

/// Every subset of the options, none among them: nothing is agreed on that was not offered.
#[test]
fn any_options_or_none() {
    play(&[], |field| {
        let pages = field.pages.clone();
        for set in 0..16 {
            let mut raw = field.tcp();
            let all = raw.all_options();
            let some = all.into_iter().enumerate().filter(|(i, _)| set & 1 << i != 0);
            let options: Vec<Opt> = some.map(|(_, option)| option).collect();
            let syn_ack = raw.connect(&options);
            assert!(syn_ack.mss().is_some(), "{syn_ack:?}");
            let agreed = [
                syn_ack.options.contains(&Opt::SackOk),
                syn_ack.timestamps().is_some(),
                syn_ack.scale().is_some(),
            ];
            let [sack, stamps, scale] = [2, 4, 8].map(|bit| set & bit != 0);
            // A cookie without timestamps has room for scales only beside SACK.
            assert_eq!(agreed, [sack, stamps, scale && (sack || stamps)]);
            pages.iter().for_each(|content| fetch(&mut raw, content));
            raw.close();
        }
    });
}

/// A small MSS is kept to, down to the least that a cookie tells apart (536 bytes; 1220 with IPv6), as with
/// the kernel's own SYN cookies; no MSS means the same.
#[test]
fn a_small_mss() {
    play(&[], |field| {
        let large = field.large.clone();
        for mss in [0, 1, 88, 535, 536, 1000, 1219, 1220, 1300, 1400, 1460, 8960, 65_535] {
            let mut raw = field.tcp();
            raw.connect(&[Opt::Mss(mss), Opt::SackOk, Opt::Scale(7)]);
            large.iter().for_each(|content| fetch(&mut raw, content));
            raw.close();
        }
    });
}

/// A SYN that comes twice, with other timestamps the second time, has one answer: also when it comes once
/// more on a connection that is used, or has moved.
#[test]
fn a_syn_that_is_repeated() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        for late in 0..4 {
            let mut raw = field.tcp();
            let start = raw.seq;
            let options = raw.all_options();
            let syn = Segment { options, ..raw.segment(SYN, b"") };
            let mut again = syn.clone();
            again.options[2] = Opt::Timestamps(raw.now().wrapping_add(1000), 0);
            raw.send(syn.clone());
            raw.tick(1000);
            raw.send(again.clone());
            raw.expect("a SYN-ACK", |s| s.is(SYN | ACK));
            raw.expect("another SYN-ACK", |s| s.is(SYN | ACK));
            raw.ack();
            let repeat = |raw: &mut baton_testbed::rawtcp::RawTcp<'_>, now| {
                if late == now {
                    assert_eq!(syn.seq, start);
                    raw.send(again.clone());
                    raw.expect("another SYN-ACK", |s| s.is(SYN | ACK));
                    raw.ack();
                }
            };
            repeat(&mut raw, 0);
            fetch(&mut raw, &first);
            repeat(&mut raw, 1);
            fetch(&mut raw, &first);
            fetch(&mut raw, &second);
            repeat(&mut raw, 2);
            fetch(&mut raw, &second);
            fetch(&mut raw, &first);
            repeat(&mut raw, 3);
            fetch(&mut raw, &first);
            fetch(&mut raw, &second);
            raw.close();
        }
    });
}

/// The request comes before the handshake's ACK, or without it.
#[test]
fn a_request_before_the_handshakes_ack() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        for late in [false, true] {
            let mut raw = field.tcp();
            let options = raw.all_options();
            raw.syn(&options);
            raw.expect("a SYN-ACK", |s| s.is(SYN | ACK));
            let ack = raw.segment(ACK, b"");
            raw.write(&get(&first, false));
            if late {
                raw.send(ack);
            }
            answered(&mut raw, &first);
            fetch(&mut raw, &second);
            raw.close();
        }
    });
}

/// The second half of a head, or the next request, comes before the first; a FIN before the data. Each is
/// dropped, counted, and right when it is repeated.
#[test]
fn first_packets_out_of_order() {
    play(&["drop_early_segment"], |field| {
        let [first, second] = field.pages.clone();
        let halves = get(&first, false);
        let (head, tail) = halves.split_at(halves.len() / 2);
        let (one, next) = (get(&first, false), get(&second, false));
        for (before, after) in [(head, tail), (&one, &next)] {
            let mut raw = field.tcp();
            raw.open();
            let early =
                Segment { seq: raw.seq.wrapping_add(before.len() as u32), ..raw.segment(ACK | PSH, after) };
            let start = raw.seq;
            raw.send(early);
            raw.seq = start;
            raw.write(before);
            raw.write(after);
            answered(&mut raw, &first);
            if after == next {
                answered(&mut raw, &second);
            }
            raw.close();
        }
        let mut raw = field.tcp();
        raw.open();
        let start = raw.seq;
        raw.send(Segment { seq: start.wrapping_add(one.len() as u32), ..raw.segment(FIN | ACK, b"") });
        raw.seq = start;
        raw.write(&one);
        raw.send(raw.segment(FIN | ACK, b""));
        answered(&mut raw, &first);
        raw.expect_close();
    });
}
