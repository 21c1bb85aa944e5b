//! Another cluster file while the node runs: read, compared, the host prepared, and every component told.
//! Called by the daemon's loop, for SIGHUP and for `baton reload`.

use baton_cluster::{Changes, Succession};

use crate::daemon::Daemon;
use crate::host_work::{Done, Orderer, Then};
use crate::listeners::Listeners;
use crate::setup::wanted_by;
use crate::status::Reloaded;
use crate::{NodeError, clock};

impl Daemon {
    /// `baton reload`, or SIGHUP: goes by the cluster file as it is by then, when it is the order's turn.
    pub(crate) fn reload_ordered(&mut self, orderer: Orderer) {
        if let Err(orderer) = self.host_work.order(orderer) {
            self.reloaded(Err("too many orders to reload wait for their turn".to_owned()), orderer);
        }
        self.next_reload();
    }

    /// A change of the host has ended, or a look at it. An error: the node has to leave.
    pub(crate) fn host_changed(&mut self, changed: Done, then: Then) -> Result<(), NodeError> {
        let mut stays = Ok(());
        match then {
            Then::Looked => stays = self.looked(changed),
            Then::GoBy { known, changes, orderer } => {
                let taken = changed.and_then(|_| self.go_by(*known).map_err(|error| error.to_string()));
                self.reloaded(taken.map(|()| changes), orderer);
            }
            Then::Ended => {
                if let Err(error) = changed {
                    tracing::error!(error, "a VIP that no service has any more stays on this host");
                }
            }
        }
        self.next_reload();
        stays
    }

    /// What has no connection left of services that have gone, and the VIPs that were theirs alone.
    pub(crate) fn forget_ended(&mut self) -> Result<(), NodeError> {
        self.core.sweep_services(&mut self.outside)?;
        // What a change under way ends with goes by the services as they are.
        if self.host_work.is_busy() {
            return Ok(());
        }
        let Some(known) = self.core.count_ending(&mut self.outside, clock::moment()) else { return Ok(()) };
        for (vip, port) in self.core.services().known().addresses().difference(&known.addresses()) {
            tracing::info!(%vip, port, "nothing is left of it");
        }
        self.go_by(known)?;
        let known = self.core.services().known().clone();
        self.change_host(&known, Then::Ended);
        Ok(())
    }

    /// Reads the cluster file of the next order, and has the host prepared for it.
    fn next_reload(&mut self) {
        while let Some(orderer) = self.host_work.next() {
            let read = (self.options.reread.0)();
            let known = self.core.services().known();
            match read.and_then(|file| known.reload(file).map_err(|error| error.to_string())) {
                Ok((known, changes)) => {
                    let then = Then::GoBy { known: Box::new(known.clone()), changes, orderer };
                    self.change_host(&known, then);
                }
                Err(error) => self.reloaded(Err(error), orderer),
            }
        }
    }

    /// Before the tables: where a VIP is missing, the server's socket would have no address.
    fn change_host(&mut self, known: &Succession, then: Then) {
        let node = known.cluster.node(self.core.me()).filter(|_| self.options.configure_host);
        let wanted = node.map(|node| wanted_by(known, node));
        self.host_work.begin(wanted, self.options.run_dir.clone(), then);
    }

    /// The node goes by another file, or goes on as before: says so.
    fn reloaded(&mut self, taken: Result<Changes, String>, orderer: Orderer) {
        match &taken {
            Ok(Changes { added, changed, removed }) => {
                let (added, changed, removed) = (added.join(", "), changed.join(", "), removed.join(", "));
                tracing::info!(added, changed, removed, "services as the cluster file has them now");
            }
            Err(error) => tracing::error!("cluster file not taken: {error}"),
        }
        let Some(stream) = orderer else { return };
        let reloaded = match taken {
            Ok(Changes { added, changed, removed }) => {
                Reloaded { node: self.my_name(), added, changed, removed, error: None }
            }
            Err(error) => Reloaded { error: Some(error), ..Reloaded::default() },
        };
        self.socket.tell(stream, &reloaded);
    }

    /// The tables first: an error there leaves all as it was. What comes after it is tried again by itself, but for a
    /// second listening socket of the reader.
    fn go_by(&mut self, known: Succession) -> Result<(), NodeError> {
        self.core.go_by(known, &mut self.outside, clock::moment())?;
        let (services, me) = (self.core.services(), self.core.me());
        if let Some(listeners) = &mut self.listeners
            && let Some(node) = services.cluster().node(me)
        {
            *listeners = Listeners::watch(wanted_by(services.known(), node), self.outside.queues.clone());
        }
        let listens = match &mut self.outside.reader {
            Some(reader) => reader.listen_as_needed(services.cluster()),
            None => Ok(()),
        };
        let promised = self.promise();
        self.note("what changes while the programs run", promised);
        self.core.pools_changed(&mut self.outside, clock::moment());
        listens
    }
}
