//! What happens within connections: windows, probes, urgent data, losses, repetitions, resets and ends.

use baton_testbed::rawtcp::{ACK, FIN, Opt, PSH, RST, RawTcp, SYN, Segment, URG};
use baton_testbed::{Exchange, Framing, Kind, get};

use crate::field::{answered, counted, fetch, play};

/// A FIN in the same segment as the request, before and after a move; FINs that cross; and a FIN while
/// the answer is on its way.
#[test]
fn data_and_fin_at_once() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        // The one request with it, or the second, which moves.
        for before in [&[][..], &[&first]] {
            let last = if before.is_empty() { &first } else { &second };
            let mut raw = field.tcp();
            raw.open();
            before.iter().for_each(|content| fetch(&mut raw, content));
            raw.send(raw.segment(FIN | PSH | ACK, &get(last, false)));
            answered(&mut raw, last);
            raw.expect_close();
        }
        // While an answer is on its way. (Of a longer one nginx stops sending then, whoever is in between.)
        let mut raw = field.tcp();
        raw.open();
        fetch(&mut raw, &first);
        raw.write(&get(&second, false));
        raw.expect("data", |s| !s.payload.is_empty());
        raw.send(raw.segment(FIN | ACK, b""));
        answered(&mut raw, &second);
        raw.expect_close();
        // Both FINs on their way at once: the server's is acknowledged only after ours was sent, and ours
        // does not acknowledge it.
        for content in [&first, &second] {
            let mut raw = field.tcp();
            raw.open();
            fetch(&mut raw, &first);
            raw.write(&get(content, true));
            while !raw.has_ended() {
                raw.expect("the answer and the FIN", |s| s.length() > 0);
            }
            let behind = raw.expected().wrapping_sub(1);
            raw.send(Segment { ack: behind, ..raw.segment(FIN | ACK, b"") });
            answered(&mut raw, content);
            raw.ack();
            raw.expect("the ACK of our FIN", |s| s.is(ACK) && s.length() == 0);
            assert_eq!(raw.acked(), raw.seq);
        }
        // And a FIN before anything.
        let mut raw = field.tcp();
        raw.open();
        raw.close();
    });
}

/// The ACK that ends the handshake is lost, and so is the first segment: nobody knows the connection that the next
/// ones are of. The client repeats the first, and is not reset before.
#[test]
fn the_first_packets_are_lost() {
    play(&[], |field| {
        let first = field.pages[0].clone();
        for timestamps in [true, false] {
            let mut raw = field.tcp();
            let mut options = raw.all_options();
            options.retain(|option| timestamps || !matches!(option, Opt::Timestamps(..)));
            raw.syn(&options);
            raw.expect("a SYN-ACK", |s| s.is(SYN | ACK));
            let request = get(&first, false);
            let head = raw.segment(ACK, &request[..9]);
            let rest = Segment { seq: raw.seq.wrapping_add(9), ..raw.segment(PSH | ACK, &request[9..]) };
            raw.send(rest.clone());
            // Longer than it takes to ask everybody.
            std::thread::sleep(std::time::Duration::from_millis(500));
            raw.send(head);
            raw.send(rest);
            answered(&mut raw, &first);
            raw.close();
        }
    });
}

/// Takes what is allowed, and allows no more, until nothing is allowed any more.
fn starve(raw: &mut RawTcp<'_>) {
    while raw.window > 0 {
        let segment = raw.expect("data within the window", |s| !s.payload.is_empty());
        raw.window -= segment.payload.len() as u32;
        raw.ack();
    }
}

/// A window that closes in the middle of an answer, or is closed when the request comes, at first and after
/// a move: the server probes; the update that opens it is lost; the next probe is answered.
#[test]
fn a_window_of_nothing() {
    play(&[], |field| {
        for at_once in [false, true] {
            let large = field.large.clone();
            let mut raw = field.tcp();
            raw.window = 5120;
            raw.connect(&[Opt::Mss(1460), Opt::SackOk, Opt::Timestamps(raw.now(), 0), Opt::Scale(0)]);
            for content in &large {
                if at_once {
                    raw.window = 0;
                    raw.ack();
                }
                raw.write(&get(content, false));
                starve(&mut raw);
                let expected = raw.expected();
                let is_probe = |s: &Segment| s.seq == expected.wrapping_sub(1) && s.payload.is_empty();
                raw.expect("a window probe", is_probe);
                raw.ack();
                raw.expect("the next window probe", is_probe);
                // The update is lost: never sent.
                raw.window = 5120;
                raw.expect("one more window probe", is_probe);
                raw.ack();
                answered(&mut raw, content);
            }
            raw.close();
        }
    });
}

/// Keepalive probes, with the byte of garbage that old ones have and without: each is answered at once,
/// before the first request, after it, and after a move.
#[test]
fn keepalive_probes() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        let mut raw = field.tcp();
        raw.open();
        raw.probe(b"");
        raw.probe(b"x");
        raw.probe(b"");
        for content in [&first, &second, &first, &second] {
            fetch(&mut raw, content);
            raw.probe(b"");
            raw.probe(b"x");
        }
        raw.close();
    });
}

/// Urgent data is data: what the programs read is what the server gets, whichever byte is called urgent.
#[test]
fn urgent_data_is_data() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        for urgent in [1, 2, 5, 12, 40] {
            let mut raw = field.tcp();
            raw.open();
            for content in [&first, &second, &first] {
                raw.send(Segment { urgent, ..raw.segment(ACK | PSH | URG, &get(content, false)) });
                answered(&mut raw, content);
            }
            // A head that the reader has to read.
            let request = get(&second, false);
            let (head, tail) = request.split_at(9);
            raw.send(Segment { urgent, ..raw.segment(ACK | PSH | URG, head) });
            raw.send(Segment { urgent, ..raw.segment(ACK | PSH | URG, tail) });
            answered(&mut raw, &second);
            raw.close();
        }
    });
}

/// Requests repeated in other pieces than they were sent in: overlapping, shorter, longer, with the next
/// request behind, with the end of the one before in front.
#[test]
fn overlapping_retransmissions() {
    // What a node forwards may meet the connection that comes back to it.
    play(&["drop_loop?"], |field| {
        let [first, second] = field.pages.clone();
        let (one, two) = (get(&first, false), get(&second, false));
        let both = [&one[..], &two].concat();
        let at = |raw: &RawTcp<'_>, start: u32, place: usize, bytes: &[u8]| Segment {
            seq: start.wrapping_add(place as u32),
            ..raw.segment(ACK | PSH, bytes)
        };
        // Whole, and then pieces of it that nobody needs, before the answer has come.
        let mut raw = field.tcp();
        raw.open();
        let start = raw.seq;
        raw.write(&one);
        for (from, to) in [(0, 10), (5, 30), (20, one.len()), (0, one.len())] {
            raw.send(at(&raw, start, from, &one[from..to]));
        }
        answered(&mut raw, &first);
        // Pieces of both, from the old one into the new one, which moves.
        raw.send(at(&raw, start, 0, &both));
        answered(&mut raw, &second);
        raw.send(at(&raw, start, one.len() - 3, &both[one.len() - 3..]));
        fetch(&mut raw, &first);
        raw.close();
        // In pieces that overlap from the start, and in the middle of the connection.
        let mut raw = field.tcp();
        raw.open();
        for content in [&first, &second, &first] {
            let (start, request) = (raw.seq, get(content, false));
            for (from, to) in [(0, 7), (3, 25), (0, 30), (29, request.len())] {
                raw.send(at(&raw, start, from, &request[from..to]));
            }
            answered(&mut raw, content);
        }
        raw.close();
        // The next request behind the repeated first one.
        let mut raw = field.tcp();
        raw.open();
        let start = raw.seq;
        raw.write(&one);
        raw.send(at(&raw, start, 0, &both));
        answered(&mut raw, &first);
        raw.send(at(&raw, start, 0, &both));
        answered(&mut raw, &second);
        raw.close();
    });
}

/// A RST counts only where the other end expects the next byte (RFC 5961 3.2): others, far from there or
/// near, change nothing, at whatever stage.
#[test]
fn resets_out_of_place() {
    play(&["drop_blind_reset"], |field| {
        let [first, second] = field.pages.clone();
        let closed = field.cluster.counted("closed");
        let mut raw = field.tcp();
        raw.open();
        let blind = |raw: &mut RawTcp<'_>, far: u32| {
            let rst = Segment { seq: raw.seq.wrapping_add(far), ..raw.segment(RST, b"") };
            raw.forge(&rst);
            raw.forge(&Segment { flags: RST | ACK, ack: raw.expected(), ..rst });
        };
        for far in [1 << 30, 1 << 31, u32::MAX] {
            blind(&mut raw, far);
        }
        raw.probe(b"x");
        for content in [&first, &second, &first, &second] {
            fetch(&mut raw, content);
            for far in [1 << 30, 1 << 31, u32::MAX - 5] {
                blind(&mut raw, far);
            }
            raw.probe(b"x");
        }
        let moved = field.cluster.counted("closed") - closed;
        assert_eq!(moved, 3, "connections ended by anything but moves");
        // Near, but not there: asked back.
        raw.forge(&Segment { seq: raw.seq.wrapping_add(10), ..raw.segment(RST, b"") });
        raw.expect("a challenge", |s| s.is(ACK) && s.length() == 0);
        fetch(&mut raw, &first);
        // And there it ends.
        raw.send(raw.segment(RST, b""));
        counted(field, "closed", closed + 5);
    });
}

/// A RST where it should be, at every stage: the connection is over, and the port serves the next one.
#[test]
fn resets_in_place() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        let port = field.port();
        for (isn, before) in (0..).zip([&[][..], &[&first], &[&first, &second], &[&second]]) {
            let mut raw = field.raw.tcp(port, field.to).isn(isn << 24);
            raw.open();
            before.iter().for_each(|content| fetch(&mut raw, content));
            let count = if before.is_empty() { "open_reset" } else { "closed" };
            let so_far = field.cluster.counted(count);
            raw.send(raw.segment(RST, b""));
            counted(field, count, so_far + 1);
        }
        let mut raw = field.raw.tcp(port, field.to);
        raw.open();
        fetch(&mut raw, &first);
        raw.close();
    });
}

/// What the client has lost of an answer, and says so by SACK, is sent again and nothing else; before and
/// after a move.
#[test]
fn selective_acknowledgements_of_an_answer() {
    play(&[], |field| {
        let large = field.large.clone();
        let mut raw = field.tcp();
        raw.open();
        for content in &large {
            let repeated = raw.repeated();
            raw.write(&get(content, false));
            raw.expect("data", |s| s.payload.len() > 500);
            raw.lose("the next segment", |s| !s.payload.is_empty());
            for _ in 0..4 {
                raw.expect("data behind the gap", |s| !s.payload.is_empty());
                raw.ack();
            }
            answered(&mut raw, content);
            assert_eq!(raw.repeated(), repeated, "bytes sent again that were not lost");
        }
        raw.close();
    });
}

/// What comes of an upload behind a gap is acknowledged selectively, by each server.
#[test]
fn selective_acknowledgements_of_an_upload() {
    play(&[], |field| {
        let ([first, second], upload) = (field.pages.clone(), upload(20_000));
        let (request, mut raw) = (upload.request(), field.tcp());
        raw.open();
        fetch(&mut raw, &first);
        fetch(&mut raw, &second);
        let start = raw.seq;
        let pieces: Vec<(usize, &[u8])> = request.chunks(1000).enumerate().collect();
        let place = |i: usize| start.wrapping_add(1000 * i as u32);
        for (i, piece) in pieces.iter().filter(|(i, _)| *i != 3 && *i != 4) {
            raw.send(Segment { seq: place(*i), ..raw.segment(ACK | PSH, piece) });
            if *i == 7 {
                raw.expect("the block behind the gap", |s| s.sack().contains(&(place(5), place(8))));
            }
        }
        // What came while the connection moved may come after what did not.
        if raw.acked() != place(3) {
            raw.expect("all before the gap", |s| s.ack == place(3));
        }
        for i in [4, 3] {
            raw.send(Segment { seq: place(i), ..raw.segment(ACK | PSH, pieces[i].1) });
        }
        let answer = raw.answer();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"ok 20000\n"[..]));
        fetch(&mut raw, &second);
        raw.close();
    });
}

/// An upload that the testbed's application checks.
pub fn upload(bytes: u64) -> Exchange {
    Exchange::new("upload", bytes, Kind::Check(Framing::Length))
}
