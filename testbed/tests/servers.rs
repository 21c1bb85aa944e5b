//! The web servers beside nginx and Apache: behind Baton they do what they are there for, and their logs
//! say who served what.

use baton_testbed::{
    Content, Dial, DocRoot, Exchange, Figure, Framing, Kind, Load, StartServer, Testbed, WebServer,
};

const SERVERS: [(&str, StartServer); 4] = [
    ("lighttpd", WebServer::lighttpd),
    ("caddy", WebServer::caddy),
    ("node", WebServer::node),
    ("nginx before an application", WebServer::nginx_before_app),
];

#[test]
fn every_server_serves_and_logs_it() {
    for (name, server) in SERVERS {
        let bed = Testbed::builder().figure(Figure::Five).build();
        let files = DocRoot::shared();
        let pages: Vec<Content> =
            [0, 1, 1000, 70_000, 1_000_000].map(|size| Content::new("size", size)).into();
        pages.iter().for_each(|page| drop(files.add(page)));
        let cluster = Figure::Five.start(&bed, server, &files, "policy = \"wrr\"");
        let load = Load::new(Dial::new(cluster.service())).connections(6).requests(10);
        let kept = load.run(bed.client(0), |_, j| pages[j % 5].clone());
        assert!(kept.is_clean() && kept.connections == 6 && kept.by_node.len() == 3, "{name}: {kept}");
        let closed = load.close().run(bed.client(0), |_, j| pages[j % 5].clone());
        assert!(closed.is_clean(), "{name}: {closed}");
        let served = cluster.all_served(pages.iter().map(Content::path), 24);
        assert!(served.values().all(|nodes| nodes.len() == 24), "{name}: {served:?}");
        assert!(cluster.nodes_by_connection().values().all(|nodes| nodes.len() == 1), "{name}");
        cluster.stop();
    }
}

/// Every kind of exchange, on servers that have the application.
#[test]
fn every_kind_of_exchange() {
    for (name, server) in &SERVERS[2..] {
        let bed = Testbed::builder().figure(Figure::Five).build();
        let files = DocRoot::shared();
        files.add(&Content::new("size", 200_000));
        let cluster = Figure::Five.start(&bed, *server, &files, "");
        let mut connection = Dial::new(cluster.service()).open(bed.client(0)).expect("answered");
        let framings = [Framing::Length, Framing::Chunked(1000), Framing::Chunked(100_000)];
        let kinds = [Kind::Get, Kind::Head, Kind::Range(3, 70_000), Kind::Range(150_000, 200_000)];
        let kinds = kinds.into_iter().chain(framings.map(Kind::Echo)).chain(framings.map(Kind::Check));
        for kind in kinds {
            let exchange = Exchange::new("size", 200_000, kind);
            connection.send(&exchange.request()).expect("sent");
            connection.response_to(&exchange).unwrap_or_else(|fault| panic!("{name} {kind:?}: {fault}"));
        }
        drop(connection);
        cluster.stop();
    }
}
