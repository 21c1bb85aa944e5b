//! What a request is taken for: a corpus of spellings, valid, odd and ambiguous, against eight web servers that
//! tell what they have read, each alone and behind Baton. Behind Baton every answer is the server's own, but for
//! the requests that docs/requests.md leaves in doubt where pools differ in servers: these are refused by Baton
//! itself. And no request is ever answered by a server outside the pool that the server itself takes it for.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::{Dial, DocRoot, Figure, Host, StartServer, Testbed, WebServer};

mod spellings;
use spellings::{Case, Of, all};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// What Baton's own answers say.
const OWN: &str = "cannot be read in one way only";

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// What the server took the request for.
    pool: Option<String>,
    body: String,
}

/// What came back on a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    answers: Vec<Answer>,
    /// The nodes that answered, where they say so.
    nodes: Vec<Option<String>>,
    /// Nothing came for a long time.
    silent: bool,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (answer, node) in self.answers.iter().zip(&self.nodes) {
            let body: String = answer.body.chars().take(60).collect();
            write!(f, "[{} {:?} by {node:?}: {body:?}]", answer.status, answer.pool)?;
        }
        if self.silent { f.write_str(" then silence") } else { Ok(()) }
    }
}

/// Sends these, each as one write, and takes so many answers to each.
fn ask(client: &Host, to: SocketAddr, requests: &[(&[u8], usize)]) -> Said {
    use std::io::{Read, Write};
    let mut said = Said::default();
    let Ok(mut stream) = Dial::new(to).patience(PATIENCE).stream(client) else {
        said.silent = true;
        return said;
    };
    let (mut got, mut ended) = (Vec::new(), false);
    for (bytes, answers) in requests {
        if stream.write_all(bytes).is_err() {
            break;
        }
        let mut left = *answers;
        while left > 0 {
            if let Some((answer, node, length)) = answer(&got, ended) {
                got.drain(..length);
                let interim = answer.status < 200;
                said.answers.push(answer);
                said.nodes.push(node);
                left -= usize::from(!interim);
                continue;
            }
            if ended {
                return said;
            }
            let mut piece = [0; 16384];
            match stream.read(&mut piece) {
                Ok(0) => ended = true,
                Ok(read) => got.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    said.silent = true;
                    return said;
                }
                Err(_) => ended = true,
            }
        }
    }
    said
}

/// The answer that begins these bytes, who says that he gave it, and its length.
fn answer(got: &[u8], ended: bool) -> Option<(Answer, Option<String>, usize)> {
    let head = got.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&got[..head]);
    let mut lines = text.split("\r\n");
    let status = lines.next()?.get(9..12)?.parse().ok()?;
    let header = |name: &str| {
        let named = |line: &&str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        text.split("\r\n").find(named).and_then(|line| line.split_once(':')).map(|(_, v)| v.trim().to_owned())
    };
    let rest = &got[head + 4..];
    let length = match header("content-length").map(|length| length.parse::<usize>()) {
        Some(length) => length.ok().filter(|length| *length <= rest.len())?,
        None if status < 200 || status == 204 || status == 304 => 0,
        None => Some(rest.len()).filter(|_| ended)?,
    };
    let body = String::from_utf8_lossy(&rest[..length]).into_owned();
    Some((Answer { status, pool: header("x-pool"), body }, header("x-node"), head + 4 + length))
}

/// The corpus on one connection each: with nothing before it, or behind a request of a pool.
const BEFORE: [Option<&str>; 3] = [None, Some("/public/first"), Some("/private/first")];

fn request_before(path: Option<&str>) -> Vec<u8> {
    path.map_or_else(Vec::new, |path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes())
}

struct Place<'a> {
    client: &'a Host,
    alone: SocketAddr,
    /// Strict, then those whose pool is every server.
    services: Vec<(&'static str, SocketAddr)>,
}

impl Place<'_> {
    fn ask(&self, to: SocketAddr, case: &Case, before: Option<&str>) -> Said {
        let first = request_before(before);
        let all = [(&first[..], 1), (&case.sent[..], case.of.len())];
        ask(self.client, to, if before.is_some() { &all } else { &all[1..] })
    }

    /// What is wrong with a case.
    fn judge(&self, case: &Case, before: Option<&str>) -> Vec<String> {
        let alone = self.ask(self.alone, case, before);
        let mut wrong = Vec::new();
        for (name, service) in &self.services {
            let behind = self.ask(*service, case, before);
            let strict = *name == "strict";
            let mut say = |what: &str| {
                let sent = String::from_utf8_lossy(&case.sent);
                wrong.push(format!(
                    "{name}, after {before:?}, {sent:?}: {what}\n  alone {alone}\n  baton {behind}"
                ));
            };
            if behind.silent && !alone.silent {
                say("silence");
            }
            let skip = usize::from(before.is_some());
            let refused =
                case.of.iter().position(|of| *of == Of::Refused).filter(|_| strict).map(|at| at + skip);
            let untaken = |answer: &Answer| case.empty_lines && answer.status == 400;
            let untaken = alone.answers.iter().position(untaken).or_else(|| {
                let few = case.empty_lines && alone.answers.len() < skip + case.of.len();
                few.then_some(alone.answers.len())
            });
            let untaken = untaken.filter(|_| strict);
            let same = refused.or(untaken).unwrap_or(usize::MAX).min(alone.answers.len());
            if behind.answers.get(..same) != alone.answers.get(..same) {
                say("differs");
            }
            match (refused, refused.and_then(|at| behind.answers.get(at))) {
                (None, _) if behind.answers.len() != alone.answers.len() && untaken.is_none() => {
                    say("another number of answers");
                }
                (Some(at), None) if alone.answers.len() > at => say("not refused"),
                (Some(_), Some(own)) if own.status != 400 || !own.body.contains(OWN) => say("not refused"),
                (Some(at), _) if behind.answers.len() > at + 1 => say("answered behind what was refused"),
                _ => {}
            }
            if !strict {
                continue;
            }
            for (i, (answer, node)) in behind.answers.iter().zip(&behind.nodes).enumerate() {
                let right = match answer.pool.as_deref() {
                    Some("private") => Some("c"),
                    Some(_) => Some("b"),
                    None => None,
                };
                // A server that refuses a request did not take it for anything.
                if answer.status < 400 && right.is_some() && node.as_deref() != right {
                    say(&format!("answer {i} by a server outside the pool"));
                }
                let expected = i.checked_sub(skip).and_then(|i| case.of.get(i)).map(|of| match of {
                    Of::Public => "b",
                    Of::Private => "c",
                    Of::Refused => "nobody",
                });
                if let (Some(node), Some(expected)) = (node, expected)
                    && node != expected
                {
                    say(&format!("answer {i} by {node}, not by {expected}"));
                }
            }
        }
        wrong
    }
}

/// Three services: one with two pools of one server each, and two with one pool of both.
fn config(bed: &Testbed) -> String {
    let strict = r#"
[[service.pool]]
name = "public"
servers = ["b"]
policy = "lard"
[[service.pool]]
name = "private"
servers = ["c"]
policy = "lard"
[[service.route]]
pool = "private"
path = "/private/"
[[service.route]]
pool = "private"
host = "private.example.com"
"#;
    let mut text = Figure::Five.config(bed, strict);
    for (index, p_http) in [(1, "stay"), (2, "move")] {
        let vip = bed.vip(index);
        text += &format!(
            "[[service]]\nname = \"{p_http}\"\nvips = [\"{vip}\"]\nport = 80\npolicy = \"lard\"\np_http = \"{p_http}\"\n"
        );
    }
    text
}

fn agrees(name: &str, server: StartServer) {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    for index in [1, 2] {
        match bed.network().is_routed() {
            true => bed.route_vip(bed.vip(index), bed.node(0)),
            false => bed.vip_on_link(bed.vip(index)),
        }
    }
    let cluster = Figure::Five.start_with(&bed, server, &files, &config(&bed));
    let services = ["strict", "stay", "move"];
    let services = (0..).zip(services).map(|(i, name)| (name, SocketAddr::new(bed.vip(i), 80))).collect();
    let place = Place { client: bed.client(0), alone: bed.node(1).at(80), services };
    let cases = all();
    assert!(cases.len() > 100, "{}", cases.len());
    let mut which: Vec<(&Case, Option<&str>)> =
        cases.iter().flat_map(|case| BEFORE.map(|before| (case, before))).collect();
    let mut wrong = Vec::new();
    // The machine may have been slow: once more, one after the other.
    for threads in [12, 1] {
        let place = &place;
        let share = which.len().div_ceil(threads).max(1);
        let found: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = which
                .chunks(share)
                .map(|part| {
                    scope.spawn(move || {
                        part.iter().map(|(case, before)| place.judge(case, *before)).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a verdict")).collect()
        });
        wrong = found.iter().flatten().cloned().collect();
        let again = which.iter().zip(&found).filter(|(_, wrong)| !wrong.is_empty());
        which = again.map(|(which, _)| *which).collect();
    }
    wrong.iter().for_each(|wrong| println!("{name}, {wrong}"));
    assert!(wrong.is_empty(), "{name}: {} are wrong", wrong.len());
    for fault in ["fault_rewrite", "fault_map", "event_lost"] {
        assert_eq!(cluster.counted(fault), 0, "{fault}");
    }
    cluster.stop();
}

#[test]
fn nginx() {
    agrees("nginx", WebServer::telling_nginx);
}

#[test]
fn nginx_unmerged() {
    agrees("nginx, merge_slashes off", WebServer::telling_nginx_unmerged);
}

#[test]
fn apache() {
    agrees("apache", WebServer::telling_apache);
}

#[test]
fn lighttpd() {
    agrees("lighttpd", WebServer::telling_lighttpd);
}

#[test]
fn caddy() {
    agrees("caddy", WebServer::telling_caddy);
}

#[test]
fn node() {
    agrees("node", WebServer::telling_node);
}

#[test]
fn haproxy() {
    agrees("haproxy", WebServer::telling_haproxy);
}

#[test]
fn python() {
    agrees("python", WebServer::telling_python);
}
