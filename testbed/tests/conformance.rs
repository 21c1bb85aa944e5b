//! Baton changes nothing of what a web server says: raw conversations with each of five servers, alone
//! and behind Baton, give the same transcripts, their ends included.

use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::{Content, DocRoot, Figure, Host, StartServer, Testbed, WebServer};

mod conversations;
use conversations::{Conversation, Transcript, all};

/// A server that says nothing for so long waits for the client.
const SILENCE: Duration = Duration::from_millis(400);
/// When two transcripts differ, the machine may have been slow: once more, with more patience.
const LONG_SILENCE: Duration = Duration::from_secs(3);

/// Leads all conversations at once.
fn lead(client: &Host, to: SocketAddr, which: &[Conversation], silence: Duration) -> Vec<Transcript> {
    std::thread::scope(|scope| {
        let one = |conversation| move || Conversation::lead(conversation, client, to, silence);
        let talks: Vec<_> = which.iter().map(|conversation| scope.spawn(one(conversation))).collect();
        talks.into_iter().map(|talk| talk.join().expect("a transcript")).collect()
    })
}

/// What was said, with long lines cut.
fn shown(transcript: &Transcript) -> String {
    let line = |line: &String| line.chars().take(150).collect::<String>();
    let lines: Vec<String> = transcript.said.iter().take(30).map(line).collect();
    format!("  end: {:?}\n  {}", transcript.end, lines.join("\n  "))
}

fn transcripts_are_the_same(name: &str, server: StartServer) {
    let bed = Testbed::builder().figure(Figure::Five);
    // Half-closes behind the request among them.
    let bed = bed.unobserved("a node that has not seen the SYN is given a first packet with a FIN").build();
    let files = DocRoot::shared();
    files.add(&Content::new("page", 3000));
    let cluster = Figure::Five.start(&bed, server, &files, "policy = \"wrr\"");
    let (client, alone) = (bed.client(0), bed.node(1).at(80));

    let mut which = all();
    assert!(which.len() >= 100, "{}", which.len());
    let mut wrong = Vec::new();
    for silence in [SILENCE, LONG_SILENCE] {
        let direct = lead(client, alone, &which, silence);
        let behind = lead(client, cluster.service(), &which, silence);
        let all = which.into_iter().zip(direct.into_iter().zip(behind));
        wrong = all.filter(|(conversation, (a, b))| !conversation.same(a, b)).collect();
        which = wrong.iter().map(|(conversation, _)| conversation.clone()).collect();
    }
    for (conversation, (direct, behind)) in &wrong {
        let (direct, behind) = (shown(direct), shown(behind));
        println!("{name}, {}:\n alone\n{direct}\n behind Baton\n{behind}\n", conversation.name);
    }
    let names: Vec<&str> = wrong.iter().map(|(conversation, _)| conversation.name).collect();
    assert!(wrong.is_empty(), "{name} says something else behind Baton: {names:?}");
    cluster.stop();
}

#[test]
fn nginx() {
    transcripts_are_the_same("nginx", WebServer::nginx_before_app);
}

#[test]
fn apache() {
    transcripts_are_the_same("apache", WebServer::apache);
}

#[test]
fn lighttpd() {
    transcripts_are_the_same("lighttpd", WebServer::lighttpd);
}

#[test]
fn caddy() {
    transcripts_are_the_same("caddy", WebServer::caddy);
}

#[test]
fn node() {
    transcripts_are_the_same("node", WebServer::node);
}
