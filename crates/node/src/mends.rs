//! What has been put back on this node's host, and followed: counted, said, and shown in the status. Who changes the
//! same thing again and again fights with this node, and that is said too. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_host::Mended;

use crate::status::HostStatus;

/// The same thing put back so often within so long: something fights it.
const FIGHT: (usize, Duration) = (5, Duration::from_secs(60));

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Mends {
    mended: u64,
    followed: u64,
    last: Option<String>,
    /// When each thing was put back, the last few times.
    times: BTreeMap<String, Vec<Duration>>,
    fought: Option<(String, Duration)>,
}

impl Mends {
    /// Something has been put back; `now` by any clock that does not step.
    pub(crate) fn mended(&mut self, one: &Mended, now: Duration) {
        self.mended += 1;
        tracing::warn!(mended = self.mended, "somebody has changed this host: {one}");
        self.last = Some(cut(&one.to_string()));
        let (often, within) = FIGHT;
        // Names of interfaces may be any: things that were put back once, long ago, are forgotten.
        self.times.retain(|_, times| times.last().is_some_and(|last| now.saturating_sub(*last) < within));
        let times = self.times.entry(one.what.clone()).or_default();
        times.retain(|time| now.saturating_sub(*time) < within);
        times.push(now);
        if times.len() >= often {
            if self.fought.is_none() {
                tracing::error!(
                    "something fights this node: {} was changed {} times in a minute and put back each time; \
                     find the program that sets it (a network manager, a configuration system) and stop it",
                    one.what,
                    times.len()
                );
            }
            self.fought = Some((one.what.clone(), now));
        }
    }

    /// A change of the host has been followed.
    pub(crate) fn followed(&mut self, what: &str) {
        self.followed += 1;
        tracing::info!(followed = self.followed, "this host has changed: {what}");
        self.last = Some(cut(what));
    }

    /// For the status.
    pub(crate) fn status(&self, lost: Option<&str>, now: Duration) -> HostStatus {
        let fought = self.fought.as_ref().filter(|(_, at)| now.saturating_sub(*at) < FIGHT.1);
        HostStatus {
            mended: self.mended,
            followed: self.followed,
            last: self.last.clone(),
            fought: fought.map(|(what, _)| cut(what)),
            lost: lost.map(cut),
            ..HostStatus::default()
        }
    }

    /// What was fought over and is not any more is said once.
    pub(crate) fn tick(&mut self, now: Duration) {
        if let Some((what, _)) = self.fought.take_if(|(_, at)| now.saturating_sub(*at) >= FIGHT.1) {
            tracing::info!("nothing fights for {what} any more");
        }
    }
}

/// As much of a text as a status has room for.
fn cut(text: &str) -> String {
    let most = text.len().min(HostStatus::TEXT_BYTES_MAX);
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_again_and_again_is_fought_over() {
        let second = Duration::from_secs;
        let one = |what: &str| Mended { what: what.into(), found: "gone".into(), now: "there".into() };
        let mut mends = Mends::default();
        for n in 0..4 {
            mends.mended(&one("10.99.0.1 on lo"), second(n));
            mends.mended(&one(&format!("{n}")), second(n));
        }
        assert_eq!(mends.status(None, second(4)).fought, None, "four times, and four others once");
        mends.mended(&one("10.99.0.1 on lo"), second(59));
        assert_eq!(mends.status(None, second(59)).fought.as_deref(), Some("10.99.0.1 on lo"));
        assert_eq!(mends.status(None, second(119)).fought, None, "not for a minute");
        mends.tick(second(119));
        for n in 0..4 {
            mends.mended(&one("10.99.0.1 on lo"), second(200 + 30 * n));
        }
        let status = mends.status(Some("no interface"), second(290));
        assert_eq!((status.fought, status.mended, status.lost.as_deref()), (None, 13, Some("no interface")));
        assert_eq!(status.last.as_deref(), Some("10.99.0.1 on lo: found gone, put back there"));
    }
}
