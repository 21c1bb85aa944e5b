//! Whether a server works, by what packets show: evidence and time in, a doubt out. One judge for each thing that may
//! be broken by itself: a server's port, as its own node sees it; the way to a server, as a distributor sees it.
//!
//! What a client can fake must not count. A client that vanishes, acknowledges nothing or resets gives no sign at all:
//! signs come from machines of the cluster. What is left to it is a first packet that no kernel takes (a wrong checksum),
//! again and again. So a connection that lasts outweighs whatever was seen before it: a server is doubted only while it
//! takes nobody. Whoever is alone with a server can make it doubted; nobody loses by that but himself, until the next
//! client that tries it.
//!
//! A slow answer is no sign: a socket that acknowledges its request is alive, however long its web server thinks.

use std::net::IpAddr;
use std::time::Duration;

use baton_cluster::Sign;

/// Signs that are needed, where one may be a packet's own fault.
const SIGNS: u32 = 3;

/// For how long the server must have taken nobody, where signs may be packets' own faults.
const NOBODY_FOR: Duration = Duration::from_secs(2);

/// The same when all signs are one client's: a firewall may be against that client alone, or the client be up to
/// something; and for how long its signs must have gone on.
const ALONE_FOR: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));

/// A sign is forgotten when none has come for so long: one now and then is a fault of its own.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// A connection has lasted when it is not reset so soon after its first word.
const LASTS: Duration = Duration::from_millis(500);

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    /// What was seen since the last connection that lasted.
    signs: Option<Signs>,
    doubt: Option<Doubt>,
    fresh: Fresh,
    /// When it was last known that a connection had lasted.
    worked: Option<Duration>,
}

/// Why a server is doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What was seen last.
    pub sign: Sign,
    /// How often, since it last worked.
    pub count: u32,
    /// When it was first seen, by the clock that the judge is told.
    pub since: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Signs {
    last: Doubt,
    at: Duration,
    /// The first sign's client, while all are its.
    client: Option<IpAddr>,
}

/// Connections of which it is not known yet whether they last: those taken in the present period, and in the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Fresh {
    since: Duration,
    before: Period,
    present: Period,
    /// Of all of them, how many were reset.
    reset: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Period {
    taken: u64,
    /// Signs seen since the last of them: what these connections do not speak against.
    later: Option<Signs>,
}

impl Judge {
    /// A sign, of a connection of this client if it was one's. `spoke`: the connection had been told to
    /// [`Judge::taken`].
    pub fn seen(&mut self, sign: Sign, client: Option<IpAddr>, spoke: bool, now: Duration) {
        self.settle(now);
        if spoke {
            self.fresh.reset += 1;
        }
        let Fresh { before, present, .. } = &mut self.fresh;
        for signs in [&mut self.signs, &mut before.later, &mut present.later] {
            *signs = Some(Signs::with(*signs, sign, client, now));
        }
        self.decide(now);
    }

    /// So many connections more were taken by the server's kernel.
    pub fn taken(&mut self, connections: u64, now: Duration) {
        self.settle(now);
        if connections > 0 {
            self.fresh.present.taken += connections;
            self.fresh.present.later = None;
        }
    }

    /// It works, for sure.
    pub fn works(&mut self, now: Duration) {
        (self.signs, self.doubt, self.worked) = (None, None, Some(now));
    }

    /// Time has passed.
    pub fn settle(&mut self, now: Duration) {
        for _ in 0..2 {
            if now.saturating_sub(self.fresh.since) >= LASTS {
                self.next_period(now);
            }
        }
        self.decide(now);
    }

    /// Why the server is doubted, if it is.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    fn next_period(&mut self, now: Duration) {
        let Fresh { since, before, present, reset } = self.fresh;
        // After a pause both are over.
        let next = if now.saturating_sub(since) >= 2 * LASTS { since + LASTS } else { now };
        // Those that were reset may have been of either period.
        let left = reset.saturating_sub(before.taken).min(present.taken);
        self.fresh = Fresh { since: next, before: present, present: Period::default(), reset: left };
        if before.taken > reset {
            (self.signs, self.worked) = (before.later, Some(now));
            self.doubt = None;
        }
    }

    fn decide(&mut self, now: Duration) {
        let Some(signs) = self.signs else { return };
        if self.doubt.is_some() || self.convince(&signs, now) {
            self.doubt = Some(signs.last);
        }
    }

    fn convince(&self, signs: &Signs, now: Duration) -> bool {
        let Doubt { sign, count, since } = signs.last;
        match sign {
            // The kernel's own word, whoever asks.
            Sign::NobodyListens | Sign::QueueStands => true,
            Sign::HandoffsLost => count >= SIGNS,
            Sign::Refused | Sign::NeverBegins | Sign::ResetFirst => {
                let Fresh { before, present, reset, .. } = self.fresh;
                let waits = before.taken + present.taken > reset;
                let alone = signs.client.is_some();
                let (nobody_for, seen_for) = if alone { ALONE_FOR } else { (NOBODY_FOR, Duration::ZERO) };
                let quiet = self.worked.is_none_or(|at| now.saturating_sub(at) >= nobody_for);
                let long = now.saturating_sub(since) >= seen_for;
                count >= SIGNS && !waits && quiet && long
            }
        }
    }
}

impl Signs {
    /// One more.
    fn with(known: Option<Self>, sign: Sign, client: Option<IpAddr>, now: Duration) -> Self {
        match known.filter(|signs| now.saturating_sub(signs.at) < FORGOTTEN_AFTER) {
            Some(Signs { last, client: first, .. }) => Signs {
                last: Doubt { sign, count: last.count.saturating_add(1), ..last },
                at: now,
                client: first.filter(|first| Some(*first) == client),
            },
            None => Signs { last: Doubt { sign, count: 1, since: now }, at: now, client },
        }
    }
}

#[cfg(test)]
mod tests;
