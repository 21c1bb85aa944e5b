//! How many decisions a second one control connection carries: a distributor's batcher asks over a
//! mesh on loopback, a dispatcher that always knows answers at once. Bounded in count.
//!
//! ```text
//! cargo run --release -p baton-control --example decisions -- [DECISIONS] [UNDECIDED]
//! ```
//! `UNDECIDED` requests wait for a decision at any time (1: light load, batches of one).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::{NodeId, PoolHash, Target};
use baton_control::batch::BatchLimits;
use baton_control::{
    Answer, Ask, Batcher, Mesh, MeshConfig, MeshEvent, Message, NodeClocks, Question, Verdict,
};
use tokio::sync::mpsc::Receiver;

const DISTRIBUTOR: NodeId = NodeId(0);
const DISPATCHER: NodeId = NodeId(1);

/// The most decisions of one run.
const DECISIONS_MAX: u64 = 100_000_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let decisions =
        arguments.next().map_or(Ok(5_000_000), |count| count.parse::<u64>())?.clamp(1, DECISIONS_MAX);
    let undecided = arguments.next().map_or(Ok(4096), |count| count.parse::<usize>())?.max(1);
    let addresses = [free_address()?, free_address()?];
    let dispatcher = std::thread::spawn(move || runtime()?.block_on(dispatch(addresses)));
    let distributor = runtime()?.block_on(distribute(addresses, decisions, undecided));
    let dispatched = dispatcher.join().map_err(|_| "the dispatcher panicked")?;
    distributor.and(dispatched)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn free_address() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

async fn start(me: NodeId, addresses: [SocketAddr; 2]) -> Result<(Mesh, Receiver<MeshEvent>), Failure> {
    let all = [(DISTRIBUTOR, addresses[0]), (DISPATCHER, addresses[1])];
    let (mesh, mut events) = Mesh::start(MeshConfig {
        me,
        cluster_name: "bench".to_owned(),
        digest: [0; 32],
        nodes: vec![[0; 8]; 2],
        names: Vec::new(),
        psk: [1; 32],
        mac: [0; 6],
        boot: u64::from(me.0),
        failure_timeout: Duration::from_secs(1),
        clocks: Arc::new(NodeClocks::new(Instant::now(), Duration::ZERO)),
        listen: all[me.index()].1,
        peers: all.into_iter().filter(|(node, _)| *node != me).collect(),
    })?;
    match events.recv().await {
        Some(MeshEvent::Up { .. }) => Ok((mesh, events)),
        other => Err(format!("expected the peer to come up, got {other:?}").into()),
    }
}

/// Answers whatever is asked, until the distributor is gone.
async fn dispatch(addresses: [SocketAddr; 2]) -> Result<(), Failure> {
    let (mesh, mut events) = start(DISPATCHER, addresses).await?;
    while let Some(MeshEvent::Message { node, message: Message::Ask(ask) }) = events.recv().await {
        let decide = |question: &Question| {
            let server = question.target.map(|target| NodeId((target.0 % 8) as u16));
            Verdict { server, keep: server.map(|server| vec![server]) }
        };
        let answers = ask.questions.iter().map(decide).collect();
        mesh.send(node, &Message::Answer(Answer { batch: ask.batch, answers }))?;
    }
    mesh.stop().await;
    Ok(())
}

/// Keeps `undecided` questions undecided until `decisions` have been made.
async fn distribute(addresses: [SocketAddr; 2], decisions: u64, undecided: usize) -> Result<(), Failure> {
    let (mesh, mut events) = start(DISTRIBUTOR, addresses).await?;
    let limits = BatchLimits { undecided_max: undecided, answer_timeout: Duration::from_secs(5) };
    let mut batcher = Batcher::new(limits);
    let (mut asked, mut decided, mut batches) = (0u64, 0u64, 0u64);
    let started = Instant::now();
    let mut waits: Vec<u64> = Vec::new();
    let mut batch_sent = started;
    let mut send = |ask: Ask| {
        batches += 1;
        mesh.send(DISPATCHER, &Message::Ask(ask))
    };
    loop {
        while asked < decisions && batcher.undecided() < undecided {
            asked += 1;
            let target = Target(asked.wrapping_mul(0x9e37_79b9_7f4a_7c15)); // spread over 64 bits, as hashes are
            let question = Question { pool: PoolHash(0), target: Some(target), at: None };
            if let Some(ask) = batcher.ask(question, (), Instant::now()).map_err(|(_, error)| error)? {
                send(ask)?;
            }
        }
        let Some(MeshEvent::Message { message: Message::Answer(answer), .. }) = events.recv().await else {
            return Err("the dispatcher went away".into());
        };
        waits.push(u64::try_from(batch_sent.elapsed().as_nanos())?);
        let (verdicts, next) = batcher.answered(answer, Instant::now())?;
        decided += verdicts.iter().filter(|(_, verdict)| verdict.server.is_some()).count() as u64;
        batch_sent = Instant::now();
        if let Some(ask) = next {
            send(ask)?;
        }
        if decided == decisions {
            break;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    waits.sort_unstable();
    let median_us = waits.get(waits.len() / 2).copied().unwrap_or(0) / 1000;
    println!(
        "{decisions} decisions in {seconds:.2} s: {:.0}/s, {batches} batches of {:.1} on average, {median_us} us a batch",
        decisions as f64 / seconds,
        decisions as f64 / batches as f64,
    );
    mesh.stop().await;
    Ok(())
}
