//! A cluster in network namespaces on one Linux machine: clients, a router, nodes with real web
//! servers, loss on the links, and what is needed to see what went over them.
//!
//! End-to-end tests, the demo and the benchmarks are built from it. It knows nothing of Baton's
//! insides: it runs the `baton` binary as an operator would, and judges by what clients, captures
//! and counters see. It never touches the machine's own interfaces.
//!
//! It must run as root. What cannot be set up is a panic that says what to install or mend, never
//! a skipped test. Everything that is made is a guard that removes it when dropped, also while a
//! test is unwinding; what a killed test could not drop, a janitor cleans up from outside.
//!
//! ```no_run
//! use baton_testbed::{Capture, Content, Dial, DocRoot, Load, Testbed, WebServer};
//!
//! let bed = Testbed::builder().nodes(1).build();
//! let page = Content::new("page", 1024);
//! let files = DocRoot::shared();
//! files.add(&page);
//! let _server = WebServer::nginx(bed.node(0), &files);
//!
//! let capture = Capture::start(bed.client(0), 80);
//! let to = bed.node(0).at(80);
//! let summary = Load::new(Dial::new(to)).connections(8).requests(50).run(bed.client(0), |_, _| page.clone());
//! assert!(summary.is_clean(), "{summary}");
//! assert_eq!(capture.stop().resets(), 0);
//! ```
//!
//! conntrack observes every node and the router, as a stateful firewall there would. When a testbed goes, it must
//! have called no packet invalid; a test that sends broken ones on purpose builds it `unobserved`, and says why.
//!
//! Which network all this is on, `BATON_NETWORK` says unless the builder does (see [`Network`]): IPv4 or
//! IPv6, nodes on one link or with a router between them. A test that names no address, but asks the
//! testbed, its machines or the cluster for them, runs over all.
//!
//! With Baton before the web servers, a switch on the router, and loss in both directions:
//!
//! ```no_run
//! # use baton_testbed::{Baton, Capture, Content, Dial, DocRoot, Load, Packets, Testbed, WebServer};
//! # let config = "";
//! let bed = Testbed::builder().nodes(3).wire().build();
//! let files = DocRoot::shared();
//! let pages: Vec<Content> = (0..20).map(|i| Content::new("page", 1000 * i)).collect();
//! pages.iter().for_each(|page| drop(files.add(page)));
//! let _servers: Vec<_> = bed.nodes().iter().map(|node| WebServer::nginx(node, &files)).collect();
//! let config = bed.router().scratch().write("cluster.toml", config);
//! let batons = Baton::start_all(bed.nodes().iter().chain([bed.router()]), &config);
//!
//! let capture = Capture::start(bed.client(0), 80);
//! let losses = [bed.lose(3.0, Packets::FromClients), bed.lose(3.0, Packets::ToClients)];
//! let load = Load::new(Dial::new((bed.vip(0), 80))).connections(20).requests(25);
//! let summary = load.run(bed.client(0), |i, j| pages[(i + j) % pages.len()].clone());
//! assert!(summary.is_clean(), "{summary}");
//! assert!(losses.iter().all(|loss| loss.lost() > 0));
//! assert_eq!(capture.stop().resets(), 0);
//! batons.into_iter().for_each(Baton::stop);
//! ```

mod baton;
mod capture;
mod certificate;
mod client;
mod content;
mod counters;
mod disturb;
mod exchange;
mod figure;
mod flows;
mod frames;
mod host;
mod janitor;
mod line;
mod load;
mod loss;
mod netns;
mod network;
mod observer;
mod origin;
mod outsider;
mod owners;
mod pcap;
mod process;
pub mod rawtcp;
mod scratch;
mod second;
mod served;
mod servers;
mod telling;
mod tools;
mod topology;
mod wall_clock;
mod webserver;

pub use baton::{Baton, baton_binary};
pub use capture::Capture;
pub use certificate::Certificate;
pub use client::{Connection, Dial, Fault, Response, get};
pub use content::{Content, DocRoot};
pub use counters::Counters;
pub use disturb::Disturb;
pub use exchange::{Exchange, Framing, Kind};
pub use figure::{Cluster, Figure, StartServer, counted, node_status};
pub use flows::{Analysis, Direction, Flow, Segment, SynOptions};
pub use frames::{Frames, Tcp, icmp_packet, ip_header, set_header_checksum, tcp_packet, udp_packet};
pub use host::Host;
pub use line::{Disturbance, Line};
pub use load::{Load, Summary};
pub use loss::{Loss, Packets};
pub use netns::Namespace;
pub use network::{Family, Layout, Network};
pub use observer::Invalid;
pub use origin::Origin;
pub use owners::{Sign, TwoOwners};
pub use process::Process;
pub use scratch::Scratch;
pub use tools::{patient, wait_until};
pub use topology::{Builder, Testbed};
pub use webserver::{Logged, WebServer};
