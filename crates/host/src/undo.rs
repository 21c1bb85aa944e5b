//! The journal of what this node's configuration changed on its host, and the undoing of it. Each
//! change is written down before it is made, so that whoever comes after a kill can undo it.
//!
//! The file is the only truth: the daemon and `doctor --fix` may both hold an [`Undo`] of one node. It
//! belongs in a folder that a reboot empties (`/run`), as the changes it names do not survive one
//! either; for the same reason it is never flushed to a disk.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::HostError;
use crate::address::host_prefix;
use crate::facts::Merges;
use crate::link::Links;
use crate::sysctl::Sysctl;

/// One change that was made, or was about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostChange {
    /// A kernel setting was changed.
    Sysctl {
        /// Which.
        name: Sysctl,
        /// Its value before.
        was: String,
        /// The value that was set.
        set: String,
    },
    /// A VIP was added to an interface, as `address`/32 or `address`/128.
    Address {
        /// The interface.
        interface: String,
        /// The address.
        address: IpAddr,
    },
    /// What the kernel merges of what arrives on an interface was limited.
    Merges {
        /// The interface.
        interface: String,
        /// The limits before.
        was: Merges,
        /// Those that were set.
        set: Merges,
    },
}

impl HostChange {
    /// Whether both are about the same thing.
    fn same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sysctl { name: a, .. }, Self::Sysctl { name: b, .. }) => a == b,
            (Self::Address { .. }, Self::Address { .. }) => self == other,
            (Self::Merges { interface: a, .. }, Self::Merges { interface: b, .. }) => a == b,
            _ => false,
        }
    }
}

/// What became of a change when it was to be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// The host is as it was before the change.
    Restored(HostChange),
    /// Someone else has changed it since, so it was left as it is.
    LeftAlone(HostChange),
}

/// The journal of one node. Dropping it undoes nothing: call [`Undo::run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    path: PathBuf,
}

impl Undo {
    /// The journal of `node` in `run_dir`, whether or not it exists.
    pub fn at(run_dir: &Path, node: &str) -> Self {
        Self { path: run_dir.join(format!("{node}.undo")) }
    }

    /// What has been changed and not undone, oldest first; empty when there is no journal.
    ///
    /// # Errors
    /// [`HostError::Journal`] and [`HostError::JournalDamaged`].
    pub fn changes(&self) -> Result<Vec<HostChange>, HostError> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| HostError::JournalDamaged { path: self.path.clone(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Undoes every change, newest first: restores settings that still have the value that was set,
    /// removes addresses that were added. What cannot be undone stays in the journal.
    ///
    /// `lo` is never set down again: what else uses it by now is not known.
    ///
    /// # Errors
    /// The first failure; the other changes are undone all the same.
    pub async fn run(&self) -> Result<Vec<Undone>, HostError> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let _lock = self.lock().await?;
        self.revert(|_| true).await
    }

    /// Undoes the changes that `which` picks. The caller holds the lock.
    pub(crate) async fn revert(&self, which: impl Fn(&HostChange) -> bool) -> Result<Vec<Undone>, HostError> {
        let links = Links::open()?;
        let mut left = self.changes()?;
        let mut undone = Vec::new();
        let mut failure = None;
        for change in left.clone().into_iter().rev().filter(which) {
            match revert(&links, &change).await {
                Ok(outcome) => {
                    left.retain(|other| *other != change);
                    self.store(&left)?;
                    undone.push(outcome);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(undone), Err)
    }

    /// Writes down a change that is about to be made. The caller holds the lock.
    pub(crate) fn record(&self, change: HostChange) -> Result<(), HostError> {
        let mut changes = self.changes()?;
        match changes.iter_mut().find(|other| other.same_place(&change)) {
            // The operator took our change back, and it is made again: theirs is now what was before.
            Some(other) => *other = change,
            None => changes.push(change),
        }
        self.store(&changes)
    }

    /// Waits until no other process changes a host by a journal in this folder.
    pub(crate) async fn lock(&self) -> Result<File, HostError> {
        const PATIENCE: Duration = Duration::from_secs(10);
        const PAUSE: Duration = Duration::from_millis(10);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|source| self.failed(source))?;
        let file = File::open(folder).map_err(|source| self.failed(source))?;
        let locked = tokio::time::timeout(PATIENCE, async {
            loop {
                match file.try_lock() {
                    Err(TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
                    Err(TryLockError::Error(source)) => return Err(self.failed(source)),
                    Ok(()) => return Ok(()),
                }
            }
        });
        let busy = |_| HostError::Busy { path: folder.to_owned(), seconds: PATIENCE.as_secs() };
        locked.await.map_err(busy)??;
        Ok(file)
    }

    /// Replaces the journal at once, so that a kill leaves either the old or the new one.
    fn store(&self, changes: &[HostChange]) -> Result<(), HostError> {
        let stored = if changes.is_empty() {
            fs::remove_file(&self.path)
        } else {
            let new = self.path.with_extension("undo.new");
            let text = serde_json::to_vec_pretty(changes).map_err(io::Error::from);
            text.and_then(|text| fs::write(&new, text)).and_then(|()| fs::rename(&new, &self.path))
        };
        stored.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> HostError {
        HostError::Journal { path: self.path.clone(), source }
    }
}

async fn revert(links: &Links, change: &HostChange) -> Result<Undone, HostError> {
    let restored = match change {
        HostChange::Sysctl { name, was, set } => match name.read()? {
            Some(now) if now == *was => true,
            Some(now) if now == *set => name.write(was).map(|()| true)?,
            _ => false,
        },
        HostChange::Address { interface, address } => {
            let net = links.read().await?;
            let ours = |held: &&crate::Held| {
                held.interface == *interface
                    && held.address == *address
                    && held.prefix == host_prefix(*address)
            };
            match net.addresses.iter().find(ours).and_then(|held| net.interface(&held.interface)) {
                Some(interface) => links.remove(interface, *address).await.map(|()| true)?,
                // Gone already, with its interface or by the operator's hand.
                None => !net.holds(interface, *address),
            }
        }
        HostChange::Merges { interface, was, set } => {
            let net = links.read().await?;
            match net.interface(interface).map(|found| (found, found.merges)) {
                Some((found, Some(now))) if now == *set => {
                    links.set_merges(found, *was).await.map(|()| true)?
                }
                Some((_, now)) => now == Some(*was),
                None => true,
            }
        }
    };
    Ok(if restored { Undone::Restored(change.clone()) } else { Undone::LeftAlone(change.clone()) })
}
