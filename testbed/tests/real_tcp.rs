//! What real networks and real clients do to TCP, one line of it a test: against a cluster with a switch,
//! whose two pools make a connection move for every other request. Most clients here are scripts that own
//! every bit of their packets ([`baton_testbed::rawtcp`]); what they get is checked by the segment.
//!
//! The scripts share one cluster, and so take turns.

#[path = "real_tcp/field.rs"]
mod field;
#[path = "real_tcp/handshakes.rs"]
mod handshakes;
#[path = "real_tcp/kernels.rs"]
mod kernels;
#[path = "real_tcp/ports.rs"]
mod ports;
#[path = "real_tcp/streams.rs"]
mod streams;
#[path = "real_tcp/wraps.rs"]
mod wraps;
