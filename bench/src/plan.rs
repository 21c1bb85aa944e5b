//! What is compared: loads and sides, and for how long. Pure.

use std::time::Duration;

use baton_testbed::Content;

/// Different files requested in turn, so that a policy that looks at targets has some to spread.
const FILES: usize = 32;

/// A kind of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Its name in tables and files.
    pub name: &'static str,
    /// Bytes of each body.
    pub bytes: u64,
    /// Whether a connection carries many requests, or one.
    pub keep_alive: bool,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self { name: "1k-close", bytes: 1024, keep_alive: false },
        Self { name: "1m-close", bytes: 1 << 20, keep_alive: false },
        Self { name: "1k-keepalive", bytes: 1024, keep_alive: true },
        Self { name: "1m-keepalive", bytes: 1 << 20, keep_alive: true },
    ];

    /// The files that are requested.
    pub fn files(self) -> Vec<Content> {
        (0..FILES).map(|i| Content::new(&format!("bench{i}"), self.bytes)).collect()
    }
}

/// Who stands between the client and the web servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nobody: the client talks to one web server through the router.
    Nginx,
    /// One node distributes and dispatches for two servers (ATC'00 figure 5).
    BatonFigure5,
    /// The router is the switch, two nodes distribute and serve (ATC'00 figure 7).
    BatonFigure7,
    /// HAProxy reading HTTP, with kept connections to two servers.
    HaproxyHttp,
    /// HAProxy copying bytes.
    HaproxyTcp,
    /// nginx as a proxy, with kept connections to two servers.
    NginxProxy,
}

impl Side {
    /// All of them; the first is what the others are compared with.
    pub const ALL: [Self; 6] = [
        Self::Nginx,
        Self::BatonFigure5,
        Self::BatonFigure7,
        Self::HaproxyHttp,
        Self::HaproxyTcp,
        Self::NginxProxy,
    ];

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::BatonFigure5 => "baton-figure5",
            Self::BatonFigure7 => "baton-figure7",
            Self::HaproxyHttp => "haproxy-http",
            Self::HaproxyTcp => "haproxy-tcp",
            Self::NginxProxy => "nginx-proxy",
        }
    }
}

/// How long and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The loads to put on each side.
    pub loads: Vec<Load>,
    /// The sides; the bare web server is the first.
    pub sides: Vec<Side>,
    /// Rounds; each puts every load on every side once.
    pub rounds: usize,
    /// Further rounds that find the front tier's share.
    pub front_rounds: usize,
    /// How long a load runs before it is measured.
    pub warm: Duration,
    /// How long it is measured.
    pub measured: Duration,
    /// Client connections at any time.
    pub connections: usize,
}

impl Plan {
    /// The order of sides in a round: each round starts with another, so that none is always first.
    pub fn order(&self, round: usize) -> impl Iterator<Item = Side> {
        let first = round % self.sides.len().max(1);
        self.sides.iter().cycle().skip(first).take(self.sides.len()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{Load, Plan, Side};
    use std::time::Duration;

    #[test]
    fn each_round_has_every_side_once() {
        let second = Duration::from_secs(1);
        let (loads, sides) = (Load::ALL.to_vec(), Side::ALL.to_vec());
        let plan =
            Plan { loads, sides, rounds: 1, front_rounds: 0, warm: second, measured: second, connections: 1 };
        for round in 0..8 {
            let order: Vec<_> = plan.order(round).collect();
            assert_eq!(order[0], Side::ALL[round % 6]);
            assert!(Side::ALL.iter().all(|side| order.contains(side)), "{order:?}");
        }
    }

    #[test]
    fn files_are_as_long_as_the_load_says() {
        for load in Load::ALL {
            assert!(load.files().iter().all(|file| file.size() == load.bytes));
        }
    }
}
