//! Clusters of which one web server does not work, and many clients, each with a request.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{ClientPlan, FIGURES, HOUR, MS, Plan, RequestPlan, Sick, first_file, lasting};

/// How many clients there are, and the time between two of them, nanoseconds.
const CLIENTS: u64 = 40;
const BETWEEN: u64 = 250 * MS;

pub(super) fn plan(seed: u64, rng: &mut StdRng) -> Plan {
    let figure = FIGURES[rng.random_range(0..FIGURES.len())];
    let servers: Vec<usize> = (0..figure.len()).filter(|node| figure[*node].contains("server")).collect();
    let mut file = first_file(rng, &servers, false);
    file.services[0].pools.truncate(1);
    let sick = Sick { node: servers[rng.random_range(0..servers.len())], hangs: rng.random_ratio(1, 2) };
    let clients = (0..CLIENTS).map(|number| {
        let request =
            RequestPlan { pool: 0, odd: false, padding: 0, body: rng.random_range(0..700), upload: None };
        ClientPlan {
            service: (1, 80),
            starts: 500 * MS + number * BETWEEN,
            requests: vec![request],
            depth: 1,
            timestamps: rng.random_ratio(3, 4),
            mss: 1400,
            piece: usize::MAX,
            pause: 0,
        }
    });
    Plan {
        clients: clients.collect(),
        seed,
        cluster: lasting(figure),
        files: vec![file],
        rollouts: Vec::new(),
        lost: 0,
        twice: rng.random_range(0..60),
        late: rng.random_range(0..200),
        delay: rng.random_range(20_000..3 * MS),
        lateness: rng.random_range(MS..50 * MS),
        message_delay: rng.random_range(20_000..4 * MS),
        skews: figure.iter().map(|_| rng.random_range(0..HOUR)).collect(),
        strictly: false,
        mishaps: Vec::new(),
        sick: Some(sick),
    }
}
