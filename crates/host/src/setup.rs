//! Makes a host what its node needs, as far as that is safe: kernel settings of this network namespace,
//! the VIPs, the announcement of them. The daemon calls it at start, `doctor --fix` when asked.

use std::collections::BTreeMap;
use std::path::Path;

use crate::announce::announce;
use crate::facts::{Interface, Net};
use crate::link::Links;
use crate::plan::{self, NeededAddress, Setting};
use crate::undo::{HostChange, Undo};
use crate::{HostError, Wanted};

/// Changes what is not as `wanted` needs it, and writes each change down in `run_dir` first. What is
/// right already is not touched and will not be undone. Applying twice changes nothing more; changes of
/// an earlier run that ended without undoing are taken over, or undone if they are not wanted now.
///
/// # Errors
/// When something cannot be read or changed; then all that was changed is undone as far as possible.
pub async fn apply(wanted: &Wanted, run_dir: &Path) -> Result<Undo, HostError> {
    let undo = Undo::at(run_dir, &wanted.node);
    let _lock = undo.lock().await?;
    match change(wanted, &undo).await {
        Ok(()) => Ok(undo),
        Err(error) => {
            // The first error is the one to tell; what cannot be undone stays in the journal.
            drop(undo.revert(|_| true).await);
            Err(error)
        }
    }
}

/// The same for a node that runs, and of which something else is wanted now: what it has no use for any
/// more is undone.
///
/// # Errors
/// As [`apply`]; but then only what was changed by this call is undone.
pub async fn update(wanted: &Wanted, run_dir: &Path) -> Result<(), HostError> {
    let undo = Undo::at(run_dir, &wanted.node);
    let _lock = undo.lock().await?;
    let before = undo.changes()?;
    if let Err(error) = change(wanted, &undo).await {
        drop(undo.revert(|change| !before.contains(change)).await);
        return Err(error);
    }
    Ok(())
}

async fn change(wanted: &Wanted, undo: &Undo) -> Result<(), HostError> {
    let links = Links::open()?;
    let net = links.read().await?;
    let interfaces = plan::interfaces(wanted, &net)?;
    let settings = plan::settings(wanted, &net, &interfaces);
    let places = plan::places(wanted, &interfaces);

    undo.revert(|change| !is_wanted(change, &settings, &places, &interfaces)).await?;
    // Settings come before addresses, or a server would answer ARP for its VIP for a moment,
    // and an interface without IPv6 would refuse the address.
    for setting in &settings {
        mend(setting, undo)?;
    }
    for interface in &interfaces {
        limit(&links, interface, undo).await?;
    }
    for place in &places {
        hold(&links, &net, place, undo).await?;
    }
    if let Some(first) = interfaces.first() {
        wanted.on_interface.iter().try_for_each(|vip| announce_if_up(first, *vip))?;
    }
    Ok(())
}

fn is_wanted(
    change: &HostChange,
    settings: &[Setting],
    places: &[NeededAddress],
    interfaces: &[Interface],
) -> bool {
    match change {
        HostChange::Sysctl { name, .. } => settings.iter().any(|setting| setting.sysctl == *name),
        HostChange::Address { interface, address } => {
            places.iter().any(|place| place.interface == *interface && place.address == *address)
        }
        HostChange::Merges { interface, .. } => interfaces.iter().any(|i| i.name == *interface),
    }
}

fn mend(setting: &Setting, undo: &Undo) -> Result<(), HostError> {
    let mut values = BTreeMap::new();
    for sysctl in setting.reads() {
        if let Some(value) = sysctl.read()? {
            values.insert(sysctl.clone(), value);
        }
    }
    let Some(was) = values.get(&setting.sysctl) else { return Ok(()) };
    if setting.in_force(&values).is_some_and(setting.good) {
        return Ok(());
    }
    let (name, set) = (setting.sysctl.clone(), setting.value.to_owned());
    undo.record(HostChange::Sysctl { name, was: was.clone(), set })?;
    setting.sysctl.write(setting.value)
}

async fn limit(links: &Links, interface: &Interface, undo: &Undo) -> Result<(), HostError> {
    let (Some(set), Some(was)) = (plan::merges(interface), interface.merges) else { return Ok(()) };
    undo.record(HostChange::Merges { interface: interface.name.clone(), was, set })?;
    links.set_merges(interface, set).await
}

async fn hold(links: &Links, net: &Net, place: &NeededAddress, undo: &Undo) -> Result<(), HostError> {
    let Some(interface) = net.interface(&place.interface) else { return Ok(()) };
    if interface.name == "lo" && !interface.up {
        links.set_up(interface).await?;
    }
    if net.holds(&place.interface, place.address) {
        return Ok(());
    }
    undo.record(HostChange::Address { interface: place.interface.clone(), address: place.address })?;
    links.add(interface, place.address).await
}

/// An interface that is down has no neighbours to tell; `judge` says that it is down.
fn announce_if_up(interface: &Interface, vip: std::net::IpAddr) -> Result<(), HostError> {
    if interface.up { announce(interface, vip) } else { Ok(()) }
}
