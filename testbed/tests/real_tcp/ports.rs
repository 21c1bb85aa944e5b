//! Who is who: ports that are used again at once, and many clients behind one address.

use baton_testbed::get;
use baton_testbed::rawtcp::{ACK, RawTcp, SYN};

use crate::field::{answered, fetch, play};

/// How the connection before ends, or does not.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// The client closes first.
    Client,
    /// The server closes first: it keeps the port in TIME_WAIT.
    Server,
    /// The client forgets it.
    Forgotten,
    /// The client forgets it in the middle of an answer.
    Busy,
    /// The client forgets it before any request.
    Open,
    /// Both ends were on their way: the server still waits for the last ACK.
    LastAck,
}

/// A client that uses its port again at once, whatever has become of the connection before, wherever that
/// was, and whether the new sequence numbers are higher or lower.
#[test]
fn a_port_that_is_used_again_at_once() {
    use End::{Busy, Client, Forgotten, LastAck, Open, Server};
    play(&[], |field| {
        let (pages, large) = (field.pages.clone(), field.large.clone());
        let port = field.port();
        let steps = [1 << 20, (1 << 30) + 99, (3 << 30) + 99, 70_000, u32::MAX - 70_000];
        let mut isn = 0_u32;
        for (i, step) in steps.into_iter().enumerate() {
            for end in [Client, Server, Forgotten, Busy, Open, LastAck] {
                for which in [0, 1] {
                    isn = isn.wrapping_add(step);
                    let mut raw = field.raw.tcp(port, field.to).isn(isn).clock(isn);
                    raw.open();
                    if end != Open {
                        fetch(&mut raw, &pages[which]);
                        if i % 2 == 0 {
                            fetch(&mut raw, &pages[1 - which]);
                        }
                    }
                    finish(raw, end, &large[which]);
                }
            }
        }
    });
}

fn finish(mut raw: RawTcp<'_>, end: End, large: &baton_testbed::Content) {
    match end {
        End::Client => raw.close(),
        End::Server => {
            raw.write(&get(large, true));
            answered(&mut raw, large);
            raw.read(1);
            assert!(raw.has_ended());
            raw.close();
        }
        End::Busy => {
            raw.write(&get(large, false));
            raw.expect("data", |s| !s.payload.is_empty());
        }
        End::LastAck => {
            let fin = raw.segment(baton_testbed::rawtcp::FIN | ACK, b"");
            raw.send(fin);
            raw.expect("the server's FIN", |s| s.has(baton_testbed::rawtcp::FIN));
        }
        End::Forgotten | End::Open => {}
    }
    // What still comes for it must not be taken for the next one's.
    raw.forget();
}

/// Many clients behind one address, on adjacent ports, all at the same stage at once.
#[test]
fn many_clients_behind_one_address() {
    play(&[], |field| {
        let pages = field.pages.clone();
        let mut all: Vec<RawTcp<'_>> = (0..64).map(|_| field.tcp()).collect();
        for raw in &mut all {
            let options = raw.all_options();
            raw.syn(&options);
        }
        for raw in all.iter_mut().rev() {
            raw.expect("a SYN-ACK", |s| s.is(SYN | ACK));
            raw.ack();
        }
        for round in 0..4 {
            let content = |i: usize| &pages[(i + round / 2) % 2];
            for (i, raw) in all.iter_mut().enumerate() {
                raw.write(&get(content(i), false));
            }
            for (i, raw) in all.iter_mut().enumerate().rev() {
                answered(raw, content(i));
            }
        }
        all.iter_mut().for_each(RawTcp::close);
    });
}
