//! `baton check`: is this cluster file right, and what does it say?

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use baton_cluster::{Cluster, ConfigErrors, NameRoute, Node, Pool, Protocol, Service, Warning};
use baton_http::{HostMatch, PathMatch, Route};
use clap::Args;
use serde_json::{Value, json};

use crate::config;
use crate::exit::{Exit, Failure};
use crate::output::{count, print, print_json, table};

/// Tell what is wrong with a cluster file, or what it says
///
/// Every problem is told with its line and what to do. Warnings are about what is allowed but
/// probably not meant. The machines themselves are not looked at: `baton doctor` does that.
#[derive(Args)]
#[command(after_help = "\
Examples:
  baton check cluster.toml
  ssh s1 cat /etc/baton/cluster.toml | baton check -
  baton check cluster.toml --json | jq .problems

Exit codes: 0 it is right (perhaps with warnings), 1 it has problems, 2 wrong usage")]
pub struct Check {
    /// The cluster file; - reads it from standard input
    file: PathBuf,
    /// Tell it as JSON: file, ok, problems, warnings, cluster; error and help if it cannot be read
    #[arg(long)]
    pub json: bool,
}

impl Check {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let is_input = self.file.as_os_str() == "-";
        let file = if is_input { Path::new("standard input") } else { &*self.file };
        let text =
            if is_input { config::standard_input(Exit::Failed) } else { config::text(file, Exit::Failed) };
        let text =
            text.map_err(|failure| failure.with("file", file.display().to_string()).with("ok", false))?;
        let parsed = Cluster::parse(&text);
        let exposed = if is_input { None } else { config::exposed(file) };
        let warnings: Vec<_> = parsed.iter().flat_map(Cluster::warnings).chain(exposed).collect();
        if self.json {
            print_json(&as_json(file, &parsed, &warnings))?;
            return parsed.map(drop).map_err(|_| Failure::told(Exit::Failed, String::new()));
        }
        match parsed {
            Ok(cluster) => print(&describe(file, &cluster, &warnings)),
            Err(errors) => {
                let mut told = config::problems(file, &text, &errors);
                let n = count(errors.0.len(), "problem");
                told.push_str(&format!("\n{}: {n}\n", file.display()));
                Err(Failure::told(Exit::Failed, told))
            }
        }
    }
}

fn describe(file: &Path, cluster: &Cluster, warnings: &[Warning]) -> String {
    let mut told = String::new();
    for Warning { what, help } in warnings {
        told.push_str(&format!("warning: {what}\n   = help: {help}\n\n"));
    }
    told.push_str(&format!(
        "cluster {}: {}, {}\n\n",
        cluster.name,
        count(cluster.nodes.len(), "node"),
        count(cluster.services.len(), "service")
    ));
    told.push_str(&nodes(cluster));
    told.push('\n');
    told.push_str(&services(cluster));
    told.push('\n');
    told.push_str(&pools(cluster));
    for routes in [routes(cluster), name_routes(cluster)] {
        if !routes.is_empty() {
            told.push_str(&format!("\n{routes}"));
        }
    }
    told.push_str(&format!("\n{} is right", file.display()));
    if !warnings.is_empty() {
        told.push_str(&format!(", with {}", count(warnings.len(), "warning")));
    }
    told.push('\n');
    told
}

fn nodes(cluster: &Cluster) -> String {
    let rows = cluster.nodes.iter().map(|node| {
        let weight = if node.roles.server { node.weight.to_string() } else { "-".to_owned() };
        let interfaces =
            if node.interfaces.is_empty() { "by address".to_owned() } else { node.interfaces.join(", ") };
        [
            node.name.clone(),
            node.address.to_string(),
            node.roles.to_string(),
            weight,
            interfaces,
            list(&announced(cluster, node)),
        ]
    });
    table(["NODE", "ADDRESS", "ROLES", "WEIGHT", "INTERFACES", "ANNOUNCES"], rows)
}

fn services(cluster: &Cluster) -> String {
    let rows = cluster.services.iter().map(|service| {
        let Service { name, vips, port, .. } = service;
        let place = |vip: &_| SocketAddr::from((*vip, *port)).to_string();
        let vips = vips.iter().map(place).collect::<Vec<_>>().join(", ");
        let served = match service.protocol {
            Protocol::Http if service.is_strict(cluster) => "in their pool alone",
            Protocol::Http => "anywhere",
            Protocol::Tls => "by server name (TLS)",
            Protocol::Tcp => "by load alone (TCP)",
        };
        [name.clone(), vips, served.to_owned()]
    });
    table(["SERVICE", "CLIENTS CONNECT TO", "REQUESTS ARE SERVED"], rows)
}

fn pools(cluster: &Cluster) -> String {
    let unless = |nothing: bool, text: &str| if nothing { "-".to_owned() } else { text.to_owned() };
    let rows = cluster.services.iter().flat_map(|service| {
        cluster.pools_of(service.id).map(move |pool| {
            [
                service.name.clone(),
                pool.name.clone(),
                names(cluster, pool),
                pool.policy.kind.to_string(),
                pool.consult.name().to_owned(),
                unless(service.protocol == Protocol::Tcp, &pool.key.to_string()),
                unless(service.protocol != Protocol::Http, pool.p_http.name()),
            ]
        })
    });
    table(["SERVICE", "POOL", "SERVERS", "POLICY", "CONSULT", "KEY", "P-HTTP"], rows)
}

/// Routes by precedence, each service's last row being what no route takes; nothing when there are
/// none.
fn routes(cluster: &Cluster) -> String {
    let rows = cluster.services.iter().filter(|service| !service.routes.is_empty()).flat_map(|service| {
        let rules = cluster.rules(service.id).unwrap_or_default();
        let pools: Vec<_> = cluster.pools_of(service.id).collect();
        let name = |place: usize| pools.get(place).map_or_else(String::new, |pool| pool.name.clone());
        let row = |route: &Route| {
            let host = host(&route.host).unwrap_or_else(|| "any".to_owned());
            [service.name.clone(), host, path(&route.path), methods(&route.methods), name(route.pool)]
        };
        let nothing = String::new;
        let default = name(rules.default_pool());
        let rest = [service.name.clone(), "any other".to_owned(), nothing(), nothing(), default];
        rules.routes().iter().map(row).chain([rest]).collect::<Vec<_>>()
    });
    table(["SERVICE", "HOST", "PATH", "METHODS", "POOL"], rows)
}

/// [`routes`] of TLS.
fn name_routes(cluster: &Cluster) -> String {
    let of_tls = cluster.services.iter().filter(|service| !service.names.routes().is_empty());
    let rows = of_tls.flat_map(|service| {
        let pools: Vec<_> = cluster.pools_of(service.id).collect();
        let name = |place: usize| pools.get(place).map_or_else(String::new, |pool| pool.name.clone());
        let row = |route: &NameRoute| {
            let host = host(&route.host).unwrap_or_else(|| "any".to_owned());
            let alpn = route.alpn.clone().unwrap_or_else(|| "any".to_owned());
            [service.name.clone(), host, alpn, name(route.pool)]
        };
        let default = service.names.default_pool().map_or_else(|| "refused".to_owned(), name);
        let rest = [service.name.clone(), "any other".to_owned(), String::new(), default];
        service.names.routes().iter().map(row).chain([rest]).collect::<Vec<_>>()
    });
    table(["SERVICE", "SERVER NAME", "ALPN", "POOL"], rows)
}

/// The hosts of a route as the cluster file writes them; `None`: any.
fn host(host: &HostMatch) -> Option<String> {
    (*host != HostMatch::Any).then(|| host.to_string())
}

/// The paths of a route, the beginning of many marked by dots.
fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Any => "any".to_owned(),
        PathMatch::Prefix(prefix) => format!("{prefix}..."),
        PathMatch::Exact(path) => path.clone(),
    }
}

fn methods(methods: &[String]) -> String {
    if methods.is_empty() { "any".to_owned() } else { methods.join(", ") }
}

/// The names of a pool's servers.
fn names(cluster: &Cluster, pool: &Pool) -> String {
    let names = pool.servers.iter().filter_map(|server| cluster.node(*server));
    names.map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The VIPs that a node announces on its link.
fn announced(cluster: &Cluster, node: &Node) -> Vec<String> {
    let announces = |vip: &_| cluster.announcers(*vip).contains(&node.id);
    cluster.vips().into_iter().filter(announces).map(|vip| vip.to_string()).collect()
}

fn list(vips: &[String]) -> String {
    if vips.is_empty() { "-".to_owned() } else { vips.join(", ") }
}

fn as_json(file: &Path, parsed: &Result<Cluster, ConfigErrors>, warnings: &[Warning]) -> Value {
    let problems = parsed.as_ref().err().into_iter().flat_map(|errors| &errors.0);
    json!({
        "file": file.display().to_string(),
        "ok": parsed.is_ok(),
        "problems": problems.map(config::as_json).collect::<Vec<_>>(),
        "warnings": warnings
            .iter()
            .map(|warning| json!({ "what": warning.what, "help": warning.help }))
            .collect::<Vec<_>>(),
        "cluster": parsed.as_ref().ok().map(cluster_json),
    })
}

fn cluster_json(cluster: &Cluster) -> Value {
    let node = |node: &Node| {
        json!({
            "name": node.name,
            "id": node.id,
            "address": node.address,
            "interfaces": node.interfaces,
            "roles": node.roles.names().collect::<Vec<_>>(),
            "weight": node.weight,
            "announces": announced(cluster, node),
        })
    };
    let pool = |pool: &Pool| {
        json!({
            "name": pool.name,
            "id": pool.id,
            "servers": pool.servers,
            "policy": pool.policy.kind,
            "consult": pool.consult,
            "key": pool.key,
            "p_http": pool.p_http,
        })
    };
    let pool_name =
        |service: &Service, at: usize| cluster.pools_of(service.id).nth(at).map(|pool| &pool.name);
    let route = |service: &Service, route: &Route| {
        let (path, exact) = match &route.path {
            PathMatch::Any => (None, None),
            PathMatch::Prefix(prefix) => (Some(prefix), None),
            PathMatch::Exact(path) => (None, Some(path)),
        };
        json!({
            "host": host(&route.host),
            "path": path,
            "path_exact": exact,
            "methods": route.methods,
            "pool": pool_name(service, route.pool),
        })
    };
    let name = |service: &Service, route: &NameRoute| json!({ "host": host(&route.host), "alpn": route.alpn, "pool": pool_name(service, route.pool) });
    let service = |service: &Service| {
        json!({
            "name": service.name,
            "id": service.id,
            "vips": service.vips,
            "port": service.port,
            "protocol": service.protocol,
            "strict": service.is_strict(cluster),
            "pools": cluster.pools_of(service.id).map(pool).collect::<Vec<_>>(),
            "routes": service.routes.iter().map(|r| route(service, r)).collect::<Vec<_>>(),
            "names": service.names.routes().iter().map(|r| name(service, r)).collect::<Vec<_>>(),
            "default_pool": service.names.default_pool().and_then(|at| pool_name(service, at)),
        })
    };
    json!({
        "name": cluster.name,
        "nodes": cluster.nodes.iter().map(node).collect::<Vec<_>>(),
        "services": cluster.services.iter().map(service).collect::<Vec<_>>(),
    })
}
