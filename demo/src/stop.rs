//! Being asked to stop: SIGINT or SIGTERM sets a flag that everything in the demo looks at, so that
//! its guards remove what it has made. (Were it killed, the testbed's janitor would.)

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Whether the demo has been asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on, SIGINT and SIGTERM ask to stop.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let mut signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        drop(entered);
        let flag = Arc::clone(&stop.0);
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                let [interrupt, terminate] = &mut signals;
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    flag.store(true, Ordering::Relaxed);
                }
            });
        })?;
        Ok(stop)
    }

    /// Whether it has.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
