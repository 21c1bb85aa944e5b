//! Another cluster file while the node runs: read, compared, the host prepared, and every component told.
//! Called by the daemon's loop, for SIGHUP and for `baton reload`.

use std::time::Instant;

use baton_cluster::{Changes, Succession};
use tokio::net::UnixStream;

use crate::NodeError;
use crate::daemon::Daemon;
use crate::listeners::Listeners;
use crate::setup::wanted_by;
use crate::status::Reloaded;

impl Daemon {
    /// `baton reload` asks.
    pub(crate) async fn reload_asked(&mut self, stream: UnixStream) {
        let reloaded = match self.reload().await {
            Ok(changes) => Reloaded {
                node: self.my_name(),
                added: changes.added,
                changed: changes.changed,
                removed: changes.removed,
                error: None,
            },
            Err(error) => Reloaded { error: Some(error), ..Reloaded::default() },
        };
        self.socket.tell(stream, &reloaded);
    }

    /// Reads the cluster file again and goes by it; or says why that cannot be, and goes on as before.
    pub(crate) async fn reload(&mut self) -> Result<Changes, String> {
        let taken = match self.prepared().await {
            Ok((known, changes)) => self.go_by(known).map(|()| changes).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match &taken {
            Ok(Changes { added, changed, removed }) => {
                let (added, changed, removed) = (added.join(", "), changed.join(", "), removed.join(", "));
                tracing::info!(added, changed, removed, "services as the cluster file has them now");
            }
            Err(error) => tracing::error!("cluster file not taken: {error}"),
        }
        taken
    }

    /// What has no connection left of services that have gone, and the VIPs that were theirs alone.
    pub(crate) async fn forget_ended(&mut self) -> Result<(), NodeError> {
        self.services.sweep(&self.datapath)?;
        let Some(known) = self.services.count(&self.datapath, Instant::now()) else { return Ok(()) };
        for (vip, port) in self.services.known().addresses().difference(&known.addresses()) {
            tracing::info!(%vip, port, "nothing is left of it");
        }
        self.go_by(known)?;
        if let Err(error) = self.prepare_host(&self.services.known().clone()).await {
            tracing::error!(error, "a VIP that no service has any more stays on this host");
        }
        Ok(())
    }

    async fn prepared(&self) -> Result<(Succession, Changes), String> {
        let file = (self.options.reread.0)()?;
        let (known, changes) = self.services.known().reload(file).map_err(|error| error.to_string())?;
        self.prepare_host(&known).await?;
        Ok((known, changes))
    }

    /// Before the tables: where a VIP is missing, the server's socket would have no address.
    async fn prepare_host(&self, known: &Succession) -> Result<(), String> {
        let Some(node) = known.cluster.node(self.me).filter(|_| self.options.configure_host) else {
            return Ok(());
        };
        let updated = baton_host::update(&wanted_by(known, node), &self.options.run_dir).await;
        updated.map_err(|error| error.to_string())
    }

    /// The tables first: an error there leaves all as it was. What comes after it is tried again by itself, but for a
    /// second listening socket of the reader.
    fn go_by(&mut self, known: Succession) -> Result<(), NodeError> {
        self.services.follow_up(known, &self.datapath, Instant::now())?;
        if let Some(listeners) = &mut self.listeners
            && let Some(node) = self.services.cluster().node(self.me)
        {
            *listeners = Listeners::watch(wanted_by(self.services.known(), node));
        }
        let listens = match &mut self.placing {
            Some(placing) => placing.reader.listen_as_needed(self.services.cluster()),
            None => Ok(()),
        };
        let promised = self.promise();
        self.troubles.note("what changes while the programs run", promised);
        self.with_placing("guides of other pools", |d, tools| {
            d.guides.pools_changed(tools.services, tools.datapath)
        });
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.pools_changed(self.services.cluster(), &mut self.post);
        }
        listens
    }
}
