//! Makes a host what its node needs, as far as that is safe: kernel settings of this network namespace,
//! the VIPs, the announcement of them. The daemon calls it at start, `doctor --fix` when asked
//! (but for the VIPs that bring clients' packets).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use crate::announce::announce;
use crate::facts::{Interface, Merges, Net};
use crate::link::Links;
use crate::plan::{self, NeededAddress, Setting};
use crate::sysctl::Sysctl;
use crate::undo::{HostChange, Undo};
use crate::{HostError, Wanted};

/// Changes what is not as `wanted` needs it, and writes each change down in `run_dir` first. What is
/// right already is not touched and will not be undone. Applying twice changes nothing more; changes of
/// an earlier run that ended without undoing are taken over, or undone if they are not wanted now.
///
/// # Errors
/// When something cannot be read or changed; then all that was changed is undone as far as possible.
pub async fn apply(wanted: &Wanted, run_dir: &Path) -> Result<Undo, HostError> {
    apply_and(wanted, run_dir, Announcing::All).await
}

/// The same for a host without Baton's programs: announced VIPs are left as they are, for to whoever has one of these clients'
/// packets come, and without programs the host's own stack would answer them with a RST.
///
/// # Errors
/// As [`apply`].
pub async fn prepare(wanted: &Wanted, run_dir: &Path) -> Result<Undo, HostError> {
    apply_and(wanted, run_dir, Announcing::Nothing).await
}

async fn apply_and(wanted: &Wanted, run_dir: &Path, announcing: Announcing) -> Result<Undo, HostError> {
    let undo = Undo::at(run_dir, &wanted.node);
    let _lock = undo.lock().await?;
    match change(wanted, &undo, announcing).await {
        Ok(_) => Ok(undo),
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
    if let Err(error) = change(wanted, &undo, Announcing::All).await {
        drop(undo.revert(|change| !before.contains(change)).await);
        return Err(error);
    }
    Ok(())
}

/// One thing that was not as the node needs it, and has been put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// What: a kernel setting, an address and its interface.
    pub what: String,
    /// How it was found.
    pub found: String,
    /// How it is now.
    pub now: String,
}

impl fmt::Display for Mended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, found, now } = self;
        write!(f, "{what}: found {found}, put back {now}")
    }
}

/// Which announced VIPs neighbours hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announcing {
    /// Every one.
    All,
    /// Those that were not there.
    New,
    /// None, and none comes.
    Nothing,
}

/// Changes what is not right; what that was.
pub(crate) async fn change(
    wanted: &Wanted,
    undo: &Undo,
    announcing: Announcing,
) -> Result<Vec<Mended>, HostError> {
    let links = Links::open()?;
    let net = links.read().await?;
    let interfaces = plan::interfaces(wanted, &net)?;
    let settings = plan::settings(wanted, &net, &interfaces);
    let places = plan::places(wanted, &interfaces);
    let mut mended = Vec::new();

    undo.revert(|change| !is_wanted(change, &settings, &places, &interfaces)).await?;
    // Settings come before addresses, or a server would answer ARP for its VIP for a moment,
    // and an interface without IPv6 would refuse the address.
    for setting in &settings {
        mended.extend(mend(setting, undo)?);
    }
    for interface in &interfaces {
        mended.extend(limit(&links, interface, undo).await?);
    }
    let before = mended.len();
    let comes = |place: &&NeededAddress| place.interface == "lo" || announcing != Announcing::Nothing;
    for place in places.iter().filter(comes) {
        mended.extend(hold(&links, &net, place, undo).await?);
    }
    if let Some(first) = interfaces.first()
        && announcing != Announcing::Nothing
        && (announcing == Announcing::All || mended.len() > before)
    {
        wanted.on_interface.iter().try_for_each(|vip| announce_if_up(first, *vip))?;
    }
    Ok(mended)
}

/// Whether [`change`] would change nothing of this.
pub(crate) fn is_right(wanted: &Wanted, net: &Net, interfaces: &[Interface]) -> Result<bool, HostError> {
    let held =
        plan::places(wanted, interfaces).iter().all(|place| net.holds(&place.interface, place.address));
    let lo = wanted.on_loopback.is_empty() || net.interface("lo").is_none_or(|lo| lo.up);
    let merges = interfaces.iter().all(|interface| plan::merges(interface).is_none());
    Ok(held && lo && merges && settings_are_right(wanted, net, interfaces)?)
}

/// The same of kernel settings alone, which nobody tells of.
pub(crate) fn settings_are_right(
    wanted: &Wanted,
    net: &Net,
    interfaces: &[Interface],
) -> Result<bool, HostError> {
    for setting in plan::settings(wanted, net, interfaces) {
        if setting.in_force(&values(&setting)?).is_some_and(|value| !(setting.good)(value)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The kernel settings that must be known to judge one.
fn values(setting: &Setting) -> Result<BTreeMap<Sysctl, String>, HostError> {
    let mut values = BTreeMap::new();
    for sysctl in setting.reads() {
        if let Some(value) = sysctl.read()? {
            values.insert(sysctl.clone(), value);
        }
    }
    Ok(values)
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

fn mend(setting: &Setting, undo: &Undo) -> Result<Option<Mended>, HostError> {
    let values = values(setting)?;
    let Some(was) = values.get(&setting.sysctl) else { return Ok(None) };
    if setting.in_force(&values).is_some_and(setting.good) {
        return Ok(None);
    }
    let (name, set) = (setting.sysctl.clone(), setting.value.to_owned());
    undo.record(HostChange::Sysctl { name, was: was.clone(), set })?;
    setting.sysctl.write(setting.value)?;
    let (what, found) = (setting.sysctl.to_string(), was.clone());
    Ok(Some(Mended { what, found, now: setting.value.to_owned() }))
}

async fn limit(links: &Links, interface: &Interface, undo: &Undo) -> Result<Option<Mended>, HostError> {
    let (Some(set), Some(was)) = (plan::merges(interface), interface.merges) else { return Ok(None) };
    undo.record(HostChange::Merges { interface: interface.name.clone(), was, set })?;
    links.set_merges(interface, set).await?;
    let most = |merges: Merges| format!("up to {} bytes", merges.ipv6.max(merges.ipv4) - 1);
    let what = format!("what {} merges", interface.name);
    Ok(Some(Mended { what, found: most(was), now: most(set) }))
}

async fn hold(
    links: &Links,
    net: &Net,
    place: &NeededAddress,
    undo: &Undo,
) -> Result<Option<Mended>, HostError> {
    let Some(interface) = net.interface(&place.interface) else { return Ok(None) };
    let down = interface.name == "lo" && !interface.up;
    if down {
        links.set_up(interface).await?;
    }
    let mended = |what, found: &str, now: &str| Mended { what, found: found.to_owned(), now: now.to_owned() };
    if net.holds(&place.interface, place.address) {
        return Ok(down.then(|| mended(interface.name.clone(), "down", "up")));
    }
    undo.record(HostChange::Address { interface: place.interface.clone(), address: place.address })?;
    links.add(interface, place.address).await?;
    let what = format!("{} on {}", place.address, place.interface);
    Ok(Some(mended(what, "gone", "there")))
}

/// An interface that is down has no neighbours to tell; `judge` says that it is down.
fn announce_if_up(interface: &Interface, vip: IpAddr) -> Result<(), HostError> {
    if interface.up { announce(interface, vip) } else { Ok(()) }
}
