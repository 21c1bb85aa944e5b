//! The cluster file.

use baton_cluster::{Changes, Cluster, NodeId, PoolId, ServiceId, Succession};
use baton_http::parse_request;

/// Any text as a cluster file: a cluster that keeps its promises, or problems that point into the text.
pub fn cluster_file(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    match Cluster::parse(text) {
        Ok(cluster) => {
            keeps_its_promises(&cluster);
            let again = Cluster::parse(text).expect("the same text");
            assert_eq!(again.digest(), cluster.digest());
            may_be_reloaded(cluster, again);
            true
        }
        Err(problems) => {
            let lines = text.split('\n').count();
            assert!(!problems.0.is_empty() && !problems.to_string().is_empty());
            assert!(problems.0.iter().all(|p| p.line.is_none_or(|line| (1..=lines).contains(&line))));
            false
        }
    }
}

/// The same file changes nothing, and one service less is that.
fn may_be_reloaded(cluster: Cluster, mut again: Cluster) {
    let known = Succession::new(cluster);
    let (same, changes) = known.reload(again.clone()).expect("the same file");
    assert_eq!((changes, same.service_ids()), (Changes::default(), known.service_ids()));
    if again.has_switch()
        && again.services.len() > 1
        && let Some(gone) = again.services.pop()
    {
        again.pools.retain(|pool| pool.service != gone.id);
        let (after, changes) = known.reload(again).expect("fewer");
        assert_eq!(changes.removed, [gone.name]);
        assert_eq!(after.addresses(), known.addresses());
    }
}

fn keeps_its_promises(cluster: &Cluster) {
    assert!((1..=Cluster::DISPATCHERS_MAX).contains(&cluster.dispatchers().count()));
    assert!((1..=NodeId::MAX_NODES).contains(&cluster.nodes.len()));
    assert!((1..=ServiceId::MAX_SERVICES).contains(&cluster.services.len()));
    assert!((1..=PoolId::MAX_POOLS).contains(&cluster.pools.len()));
    let request = b"GET /a/b?c=d HTTP/1.1\r\nHost: www.example.com\r\nCookie: a=b\r\n\r\n";
    let baton_http::Parsed::Complete(request, _) = parse_request(request) else { panic!("a clear request") };
    for service in &cluster.services {
        let rules = cluster.rules(service.id).expect("of each service");
        let pool = rules.choose(&request);
        assert!(pool < service.pools.len());
        let _ = rules.target_bytes(pool, &request);
        for vip in &service.vips {
            assert!(cluster.announcers(*vip).iter().all(|id| cluster.node(*id).is_some()));
        }
    }
    for pool in &cluster.pools {
        assert!(!pool.servers.is_empty());
        assert!(pool.servers.iter().all(|id| cluster.node(*id).is_some_and(|node| node.roles.server)));
    }
    let _ = (cluster.keys(), cluster.warnings());
}
