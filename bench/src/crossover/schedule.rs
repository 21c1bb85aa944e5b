//! What the crossover measures, in which order. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::Content;

/// Bytes of the bodies.
pub const SIZES: [u64; 6] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Files that are requested in turn: enough that some are of each server when every eighth moves.
const FILES: usize = 32;

/// How requests that alternate between two servers get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Baton moves the connection; so many requests in a row are for the same server.
    Moving(usize),
    /// Baton leaves the connection where it is: the same requests, served by one server.
    Staying,
    /// HAProxy fetches from the right server over a connection that it keeps.
    Haproxy,
}

impl Way {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Moving(1) => "baton-move",
            Self::Moving(2) => "baton-move-2nd",
            Self::Moving(4) => "baton-move-4th",
            Self::Moving(_) => "baton-move-8th",
            Self::Staying => "baton-stay",
            Self::Haproxy => "haproxy",
        }
    }

    /// Moves for each request.
    pub fn moves(self) -> f64 {
        match self {
            Self::Moving(row) => 1.0 / row as f64,
            Self::Staying | Self::Haproxy => 0.0,
        }
    }

    /// The files to request in turn.
    pub fn files(self, bytes: u64) -> Vec<Content> {
        let row = if let Self::Moving(row) = self { row } else { 1 };
        let pool = |i: usize| if (i / row).is_multiple_of(2) { "b" } else { "c" };
        (0..FILES).map(|i| Content::new(&format!("{}/cross{i}", pool(i)), bytes)).collect()
    }

    /// Which of the three addresses (moving, HAProxy, staying) it is at.
    pub fn at(self, [moving, haproxy, staying]: [SocketAddr; 3]) -> SocketAddr {
        match self {
            Self::Moving(_) => moving,
            Self::Haproxy => haproxy,
            Self::Staying => staying,
        }
    }
}

/// One load on one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Try {
    /// How requests get there.
    pub way: Way,
    /// Bytes of the bodies.
    pub bytes: u64,
    /// Whether there is one connection alone, so that latency is not queueing.
    pub alone: bool,
}

/// How long and how often.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Bytes of the bodies.
    pub sizes: Vec<u64>,
    /// Rounds.
    pub rounds: usize,
    /// How long a load runs before it is measured.
    pub warm: Duration,
    /// How long it is measured.
    pub measured: Duration,
    /// Client connections at any time.
    pub connections: usize,
}

impl Schedule {
    /// The groups of a round, for one size after the other. Baton's daemons are started for a group of
    /// Baton's and ended after it. Who is first changes from round to round.
    pub fn groups(&self, round: usize) -> Vec<Vec<Try>> {
        let of_size = |bytes: &u64| {
            let mut batons = vec![Way::Moving(1), Way::Staying];
            let smallest = Some(bytes) == self.sizes.first();
            if smallest {
                batons.extend([2, 4, 8].map(Way::Moving));
            }
            let first = round % batons.len();
            batons.rotate_left(first);
            let mut groups = [batons, vec![Way::Haproxy]].map(|ways| tries(&ways, *bytes, smallest));
            groups.rotate_left(round % 2);
            groups
        };
        self.sizes.iter().flat_map(of_size).collect()
    }
}

fn tries(ways: &[Way], bytes: u64, smallest: bool) -> Vec<Try> {
    let busy = ways.iter().map(|way| Try { way: *way, bytes, alone: false });
    let alone =
        ways.iter().filter(|way| smallest && matches!(way, Way::Moving(1) | Way::Staying | Way::Haproxy));
    busy.chain(alone.map(|way| Try { way: *way, bytes, alone: true })).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SIZES, Schedule, Try, Way};

    fn schedule() -> Schedule {
        let second = Duration::from_secs(1);
        Schedule { sizes: SIZES.to_vec(), rounds: 5, warm: second, measured: second, connections: 50 }
    }

    #[test]
    fn a_round_has_everything_once_whoever_is_first() {
        for round in 0..10 {
            let tries: Vec<Try> = schedule().groups(round).concat();
            assert_eq!(tries.len(), 3 * SIZES.len() + 3 + 3, "round {round}");
            for bytes in SIZES {
                for way in [Way::Moving(1), Way::Staying, Way::Haproxy] {
                    let wanted = Try { way, bytes, alone: false };
                    assert_eq!(tries.iter().filter(|one| **one == wanted).count(), 1, "{wanted:?}");
                }
            }
        }
        assert_ne!(schedule().groups(0)[0], schedule().groups(1)[0]);
    }

    #[test]
    fn requests_change_servers_as_often_as_they_say() {
        for row in [1, 2, 4, 8] {
            let files = Way::Moving(row).files(1024);
            let server = |i: usize| files[i % files.len()].path().starts_with("/c/");
            let changes = (0..files.len()).filter(|i| server(*i) != server(i + 1)).count();
            assert_eq!(changes as f64, files.len() as f64 * Way::Moving(row).moves());
            assert!(files.iter().all(|file| file.size() == 1024));
        }
    }
}
