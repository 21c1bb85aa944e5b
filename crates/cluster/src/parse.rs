//! From the text of a cluster file to a [`Cluster`], or to all that is wrong with it. This file
//! holds the sections and their keys; `value` judges single values, `check` what they mean
//! together.

use std::time::Duration;

use toml::de::{DeTable, Error};

use crate::check;
use crate::draft::{Draft, NodeDraft, ServiceDraft};
use crate::keys::Secret;
use crate::pool_draft::{self, read_pools, read_routes};
use crate::protocol_draft::{self, read_default_pool, read_protocol};
use crate::read::Give::{Advice, Value};
use crate::read::{KnownKey, Located, Problems, Section};
use crate::value;
use crate::{
    Cluster, ConfigErrors, Forwarding, Limits, NameRules, Node, NodeId, Pool, PoolId, Protocol, Service,
    ServiceId,
};

/// The longest text that is read: a full cluster, well commented, takes a tenth of it.
const TEXT_MAX: usize = 1 << 20;

const FILE: &[KnownKey] = &[
    ("cluster", Advice("write it as a section, [cluster]")),
    ("node", Advice("head each one with [[node]]")),
    ("service", Advice("head each one with [[service]]")),
    ("limits", Advice("write it as a section, [limits]")),
];
const CLUSTER: &[KnownKey] = &[
    ("name", Value("\"web\"")),
    ("secret", Advice(value::SECRET_HELP)),
    ("failure_timeout_ms", Value("1000")),
    ("control_port", Value("7654")),
    ("handoff_port", Value("6081")),
    ("forwarding", Value("\"auto\"")),
    pool_draft::PRESSURE_LOW,
];
const NODE: &[KnownKey] = &[
    ("name", Value("\"n1\"")),
    ("address", Value("\"10.1.0.11\"")),
    ("interfaces", Value("[\"eth0\"]")),
    ("roles", Value("[\"distributor\", \"server\"]")),
    ("weight", Value("1")),
    ("announce", Value("true")),
    ("pressure_file", Value("\"/run/pressure\"")),
];
const SERVICE: &[KnownKey] = &[
    ("name", Value("\"www\"")),
    ("vips", Value("[\"10.99.0.1\"]")),
    ("port", Value("80")),
    protocol_draft::PROTOCOL,
    protocol_draft::SPEAKS_FIRST,
    protocol_draft::DEFAULT_POOL,
    pool_draft::POLICY,
    pool_draft::CONSULT,
    pool_draft::KEY,
    pool_draft::P_HTTP,
    pool_draft::PRESSURE_LOW,
    pool_draft::MECHANISM,
    pool_draft::LARD,
    ("pool", Advice("head each one with [[service.pool]]")),
    ("route", Advice("head each one with [[service.route]]")),
];
const LIMITS: &[KnownKey] = &[
    ("bindings", Value("262144")),
    ("decisions", Value("262144")),
    ("held_packets", Value("1024")),
    ("reader_connections", Value("1024")),
    ("head_bytes", Value("65536")),
    ("head_timeout_ms", Value("10000")),
];

/// The `[cluster]` section as read.
struct ClusterSection {
    name: Option<String>,
    secret: Option<Secret>,
    failure_timeout: Duration,
    control_port: Located<u16>,
    handoff_port: u16,
    forwarding: Forwarding,
    pressure_low: u8,
}

impl Cluster {
    /// Reads a cluster file (TOML). Strict: what it does not know, it refuses.
    ///
    /// # Errors
    /// All problems found, not only the first, in the order of their lines; of a text that is not
    /// TOML, where it is not. No message holds the secret.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        let mut problems = Problems::new(text);
        if text.len() > TEXT_MAX {
            problems.add(
                None,
                "the file is larger than 1 MiB",
                "a cluster file is a few kilobytes: is this one?",
            );
            return Err(ConfigErrors(problems.into_errors()));
        }
        let (table, syntax_errors) = DeTable::parse_recoverable(text);
        if !syntax_errors.is_empty() {
            add_syntax_errors(text, &syntax_errors, &mut problems);
            return Err(ConfigErrors(problems.into_errors()));
        }
        let cluster = read_file(table.get_ref(), &mut problems);
        match cluster {
            Some(cluster) if problems.is_empty() => Ok(cluster),
            _ => Err(ConfigErrors(problems.into_errors())),
        }
    }
}

/// Tables of which there may be several, as they are written when there is one alone.
const SINGLE: [(&str, &str); 4] = [
    ("[node]", "[[node]]"),
    ("[service]", "[[service]]"),
    ("[service.pool]", "[[service.pool]]"),
    ("[service.route]", "[[service.route]]"),
];

/// One problem a line: after its first, a TOML parser's further words on a line mislead. It calls the second
/// `[node]` a duplicate key, and so each key below it.
fn add_syntax_errors(text: &str, errors: &[Error], problems: &mut Problems) {
    let head = |line: &str| line.split('#').next().unwrap_or_default().replace([' ', '\t', '\r'], "");
    let single = |line: &str| SINGLE.into_iter().find(|(written, _)| head(line) == *written);
    let singles: Vec<_> = (1..).zip(text.lines()).filter_map(|(n, line)| Some((n, single(line)?))).collect();
    for (line, (written, meant)) in &singles {
        let what = format!("{written} is one table, and there may be several");
        problems.add(*line, what, format_args!("write {meant}, with double brackets, before each of them"));
    }
    let mut last = None;
    for error in errors.iter().filter(|error| singles.is_empty() || error.message() != "duplicate key") {
        let line = error.span().map(|span| problems.line_at(span.start));
        if line.is_none() || line != last {
            problems.add(line, error.message(), "the file is TOML; see https://toml.io for its rules");
        }
        last = line;
    }
}

fn read_file(table: &DeTable<'_>, problems: &mut Problems) -> Option<Cluster> {
    let mut file = Section::open("a cluster file", FILE, table, 1, problems);
    let header = match file.section("cluster", "[cluster]", CLUSTER) {
        Some(section) => Some(read_header(section)),
        None if table.contains_key("cluster") => None,
        None => {
            file.problems.add(None, "there is no [cluster]", "add one, or start from `baton init`");
            None
        }
    };
    let limits = file.section("limits", "[limits]", LIMITS).map_or_else(Limits::default, read_limits);
    let nodes = file.required_tables("node", "[[node]]", "add a [[node]] for each machine");
    let needed = "add a [[service]] with the VIP and port that clients connect to";
    let services = file.required_tables("service", "[[service]]", needed);
    let node = |at| read_node(Section::open_at("[[node]]", NODE, at, problems));
    let nodes = nodes.into_iter().map(node).collect();
    let service = |at| read_service(Section::open_at("[[service]]", SERVICE, at, problems));
    let draft = Draft {
        control_port: header.as_ref().map_or(Located { value: 0, line: 1 }, |header| header.control_port),
        nodes,
        services: services.into_iter().map(service).collect(),
    };
    check::together(&draft, problems);
    build(header?, draft, limits)
}

fn read_header(mut section: Section<'_, '_>) -> ClusterSection {
    let header_line = section.line();
    let timeout_ms = section.number("failure_timeout_ms", 200..=60_000_u64);
    let name =
        section.required_string("name").and_then(|at| value::name(at, "the cluster's", section.problems));
    let secret = section.required_string("secret").and_then(|at| value::secret(at, section.problems));
    let forwarding = section
        .string("forwarding")
        .and_then(|at| value::choice(at, "forwarding", &Forwarding::ALL, Forwarding::name, section.problems));
    ClusterSection {
        name: name.map(|at| at.value),
        secret: secret.map(Secret::new),
        failure_timeout: Duration::from_millis(timeout_ms.map_or(1000, |at| at.value)),
        control_port: section
            .number("control_port", 1..=u16::MAX)
            .unwrap_or(Located { value: 7654, line: header_line }),
        forwarding: forwarding.unwrap_or_default(),
        handoff_port: section.number("handoff_port", 1..=u16::MAX).map_or(6081, |at| at.value),
        pressure_low: section.number("pressure_low", 1..=100).map_or(Pool::PRESSURE_LOW, |at| at.value),
    }
}

fn read_node(mut section: Section<'_, '_>) -> NodeDraft {
    let name = section.required_string("name").and_then(|at| value::name(at, "the node's", section.problems));
    let address = section.required_string("address").and_then(|at| value::address(at, section.problems));
    let interfaces = section.strings("interfaces").map(|at| value::interfaces(&at.value, section.problems));
    let roles = section.required_strings("roles").and_then(|at| value::roles(&at, section.problems));
    let pressure_file =
        section.string("pressure_file").and_then(|at| value::pressure_file(at, section.problems));
    NodeDraft {
        line: section.line(),
        name,
        address,
        roles,
        interfaces: interfaces.unwrap_or_default(),
        weight: section.number("weight", 1..=100).map_or(1, |at| at.value),
        announce: section.boolean("announce").unwrap_or(true),
        pressure_file,
    }
}

fn read_service(mut section: Section<'_, '_>) -> ServiceDraft {
    let name =
        section.required_string("name").and_then(|at| value::name(at, "the service's", section.problems));
    let vips = section.required_strings("vips").map(|at| value::vips(&at, section.problems));
    let port = section.required_number("port", 1..=u16::MAX);
    let protocol = read_protocol(&mut section);
    let default_pool = read_default_pool(&mut section, protocol);
    let pools = read_pools(&mut section, name.as_ref(), protocol);
    let routes = read_routes(&mut section, protocol);
    let vips = vips.unwrap_or_default();
    ServiceDraft { line: section.line(), name, vips, port, protocol, default_pool, pools, routes }
}

fn read_limits(mut section: Section<'_, '_>) -> Limits {
    let default = Limits::default();
    let head_timeout = section.number("head_timeout_ms", 100..=600_000_u64);
    let mut limit = |key, default, range| section.number(key, range).map_or(default, |at| at.value);
    Limits {
        bindings: limit("bindings", default.bindings, 1 << 10..=1 << 24),
        decisions: limit("decisions", default.decisions, 1 << 10..=1 << 24),
        held_packets: limit("held_packets", default.held_packets, 1 << 4..=1 << 16),
        reader_connections: limit("reader_connections", default.reader_connections, 1 << 4..=1 << 16),
        head_bytes: limit("head_bytes", default.head_bytes, 1 << 10..=1 << 16),
        head_timeout: head_timeout.map_or(default.head_timeout, |at| Duration::from_millis(at.value)),
    }
}

/// The cluster, if every part of it could be read.
fn build(header: ClusterSection, draft: Draft, limits: Limits) -> Option<Cluster> {
    let nodes = (0..).zip(draft.nodes).map(|(id, node)| node.build(NodeId(id)));
    let nodes: Vec<Node> = nodes.collect::<Option<_>>()?;
    let servers: Vec<(String, NodeId)> =
        nodes.iter().filter(|node| node.roles.server).map(|node| (node.name.clone(), node.id)).collect();
    let (mut services, mut pools) = (Vec::new(), Vec::new());
    for (id, service) in (0..).zip(draft.services) {
        services.push(service.build(ServiceId(id), &mut pools, &servers, header.pressure_low)?);
    }
    Some(Cluster {
        name: header.name?,
        failure_timeout: header.failure_timeout,
        control_port: header.control_port.value,
        handoff_port: header.handoff_port,
        forwarding: header.forwarding,
        nodes,
        services,
        pools,
        limits,
        secret: header.secret?,
    })
}

impl NodeDraft {
    fn build(self, id: NodeId) -> Option<Node> {
        Some(Node {
            id,
            name: self.name?.value,
            address: self.address?.value,
            interfaces: self.interfaces,
            roles: self.roles?.value,
            weight: self.weight,
            announce: self.announce,
            pressure_file: self.pressure_file,
        })
    }
}

impl ServiceDraft {
    /// The service; its pools are added to those of the services before it.
    fn build(
        self,
        id: ServiceId,
        pools: &mut Vec<Pool>,
        servers: &[(String, NodeId)],
        pressure_low: u8,
    ) -> Option<Service> {
        let first = pools.len();
        let name = self.name?.value;
        for pool in self.pools {
            let place = PoolId(u16::try_from(pools.len()).ok()?);
            pools.push(pool.build(place, (id, &name), servers, pressure_low)?);
        }
        let own = pools.get(first..)?;
        let is_tls = self.protocol == Protocol::Tls;
        let default_pool = match self.default_pool {
            Some(at) => Some(own.iter().position(|pool| pool.name == at.value)?),
            None => (is_tls && self.routes.is_empty()).then_some(0),
        };
        let (named, routes) = self.routes.into_iter().partition::<Vec<_>, _>(|_| is_tls);
        let names = named.into_iter().map(|route| route.build_name(own)).collect::<Option<_>>()?;
        Some(Service {
            id,
            name,
            vips: self.vips.into_iter().map(|at| at.value).collect(),
            port: self.port?.value,
            pools: own.iter().map(|pool| pool.id).collect(),
            protocol: self.protocol,
            routes: routes.into_iter().map(|route| route.build(own)).collect::<Option<_>>()?,
            names: NameRules::new(names, default_pool),
        })
    }
}
