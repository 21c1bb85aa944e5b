//! Any bytes from a stranger, to either end of a connection in set-up: an error or patience, never
//! a panic, never a peer that is met.
#![no_main]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::NodeId;
use baton_control::Hello;
use baton_control::session::{Identity, Session};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| {
    let (dials, bytes) = input;
    let now = Instant::now();
    let hello = Hello {
        cluster: String::new(),
        node: NodeId(0),
        digest: [0; 32],
        mac: [0; 6],
        boot: 0,
        software: String::new(),
    };
    let peers = [NodeId(1)].into();
    let identity = Arc::new(Identity { hello, psk: [7; 32], peers, failure_timeout: Duration::from_secs(1) });
    let session =
        if dials { Session::dial(identity, NodeId(1), now) } else { Session::listen(identity, now) };
    let mut session = session.expect("a session");
    let mut heard = VecDeque::new();
    let _refused = session.receive(bytes, now, &mut heard);
    assert!(heard.is_empty() && !session.is_open());
});
