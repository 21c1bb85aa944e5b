//! The one event loop of a node: everything that can wake it, and whose turn it is.
//!
//! Each source of work has a bounded share of a turn, and each turn begins with another one of those that have work,
//! drawn at random: so whichever of them never ends, the others go on. What keeps to a clock (the tick) is looked at in
//! every turn. Between two turns the runtime has its own: it sees what has become readable, and runs the tasks.

use std::future::{pending, ready};
use std::time::{Duration, Instant};

use baton_control::MeshEvent;
use baton_datapath::Hold;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::yield_now;
use tokio::time::sleep_until;

use crate::NodeError;
use crate::clock;
use crate::daemon::Daemon;
use crate::host_work::{Done, Then};
use crate::path::Paths;
use crate::reader::{self, Reader};
use crate::socket::Asked;
use crate::watch::Watched;

/// Loads are told, and waits looked at, this often; while the server takes connections, more often:
/// what a distributor adds up between two reports counts connections that have ended meanwhile.
const TICK: Duration = Duration::from_millis(50);
const BUSY_TICK: Duration = Duration::from_millis(10);
/// Events of the programs gather for this long, so that one message tells of many.
const GATHER: Duration = Duration::from_millis(5);
/// Messages, of peers and of this node to itself, taken in one turn while it is not longer than this.
const MESSAGES_AT_ONCE: usize = 64;
const SHARE: Duration = Duration::from_millis(2);

/// What can wake the node.
enum Wake {
    Stop(&'static str),
    Ended(&'static str),
    Mesh(MeshEvent),
    Held,
    Reader(reader::ReaderEvent),
    Events,
    Asked(Asked),
    Hangup,
    Paths(Paths),
    Host(Done, Then),
    Local,
    Tick,
}

impl Daemon {
    /// Runs until it is told to stop, or cannot go on.
    pub(crate) async fn run(mut self) -> Result<(), NodeError> {
        let signals = |source| NodeError::System { what: "signal handlers", source };
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(signals)?;
        let mut tick_at = tokio::time::Instant::now();
        let mut events_from = tick_at;
        let mesh = self.mesh.clone();
        let mesh_ended = mesh.ended();
        tokio::pin!(mesh_ended);

        self.core.begun(&mut self.outside, clock::moment());
        let ended = loop {
            let more_events = self.more_events;
            let hold_from = self.hold_from;
            let wake = tokio::select! {
                _ = terminate.recv() => Wake::Stop("SIGTERM"),
                _ = interrupt.recv() => Wake::Stop("SIGINT"),
                _ = hangup.recv() => Wake::Hangup,
                () = &mut mesh_ended => Wake::Ended("the control connections"),
                Some(event) = self.mesh_events.recv() => Wake::Mesh(event),
                () = readable(self.outside.hold.as_ref(), hold_from) => Wake::Held,
                event = read(self.outside.reader.as_mut()) => Wake::Reader(event),
                () = async {
                    sleep_until(events_from).await;
                    if !more_events {
                        self.events.readable().await;
                    }
                } => Wake::Events,
                asked = self.socket.asked() => asked.map_or(Wake::Ended("the socket for commands"), Wake::Asked),
                paths = self.paths_seen.recv() => paths.map_or(Wake::Ended("the look at paths"), Wake::Paths),
                (changed, then) = self.host_work.ended() => Wake::Host(changed, then),
                () = ready(()), if self.core.post.has_local() => Wake::Local,
                () = sleep_until(tick_at) => Wake::Tick,
            };
            match wake {
                Wake::Stop(signal) => {
                    tracing::info!(signal, "stopping");
                    break Ok(());
                }
                Wake::Ended(part) => break Err(NodeError::PartEnded(part)),
                Wake::Mesh(event) => self.mesh_events(event),
                Wake::Held => {
                    if let Err(error) = self.held() {
                        break Err(error);
                    }
                    if self.core.is_busy() {
                        tick_at = tick_at.min(tokio::time::Instant::now() + BUSY_TICK);
                    }
                }
                Wake::Reader(event) => self.read(event),
                Wake::Events => {
                    self.events();
                    events_from = tokio::time::Instant::now() + GATHER;
                }
                Wake::Asked(Asked::Status(stream)) => self.status_asked(stream),
                Wake::Asked(Asked::Reload(stream)) => self.reload_ordered(Some(stream)),
                Wake::Hangup => self.reload_ordered(None),
                Wake::Paths(paths) => self.paths_changed(paths),
                Wake::Host(changed, then) => {
                    if let Err(error) = self.host_changed(changed, then) {
                        break Err(error);
                    }
                }
                Wake::Local | Wake::Tick => {}
            }
            if tokio::time::Instant::now() >= tick_at {
                // What has come tells what need not be repeated, or given up.
                if let Ok(event) = self.mesh_events.try_recv() {
                    self.mesh_events(event);
                }
                self.events();
                self.local_messages();
                let busy = self.tick();
                self.watch_host();
                let forgotten = self.forget_ended();
                self.note("services that end", forgotten);
                tick_at = tokio::time::Instant::now() + if busy { BUSY_TICK } else { TICK };
            }
            self.local_messages();
            self.flush();
            yield_now().await;
        };
        self.core.end_leases(&mut self.outside, clock::moment());
        self.mesh.stop().await;
        ended
    }

    /// What peers say, as much as is a turn's share.
    fn mesh_events(&mut self, first: MeshEvent) {
        let began = Instant::now();
        let mut next = Some(first);
        for _ in 0..MESSAGES_AT_ONCE {
            let Some(event) = next.take() else { break };
            self.mesh_event(event);
            if began.elapsed() >= SHARE {
                break;
            }
            next = self.mesh_events.try_recv().ok();
        }
        // Taken already: this turn is one longer.
        if let Some(event) = next {
            self.mesh_event(event);
        }
    }

    /// What this node says to itself, as much as is a turn's share. An answer may be followed by the next question.
    fn local_messages(&mut self) {
        let began = Instant::now();
        for _ in 0..MESSAGES_AT_ONCE {
            if !self.core.local_message(&mut self.outside, clock::moment()) || began.elapsed() >= SHARE {
                break;
            }
        }
    }
}

/// Waits for the reader; for ever on a node that has none.
async fn read(reader: Option<&mut Reader>) -> reader::ReaderEvent {
    match reader {
        Some(reader) => reader.event().await,
        None => pending().await,
    }
}

/// Waits for held packets; for ever on a node that holds none.
async fn readable(hold: Option<&Watched<Hold>>, from: Option<Instant>) {
    let Some(hold) = hold else { return pending().await };
    if let Some(from) = from {
        sleep_until(from.into()).await;
    }
    hold.readable().await;
}
