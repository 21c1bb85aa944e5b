//! What the demo's clients request: a fixed set of contents, some far more often than others. Pure:
//! the same seed gives the same requests.

use baton_testbed::Content;
use rand::Rng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;

/// How many different contents there are.
pub const CONTENTS: usize = 720;
/// Zipf's exponent: content of rank r is requested in proportion to r^-EXPONENT. Web traces show
/// 0.6 to 0.8 (Breslau et al., INFOCOM'99).
const EXPONENT: f64 = 0.8;
/// Bytes of the smallest and the largest body.
const SIZES: [f64; 2] = [1_000.0, 64_000.0];

/// The contents, and how likely each of them is requested.
#[derive(Debug)]
pub struct Workload {
    contents: Vec<Content>,
    popularity: WeightedIndex<f64>,
}

impl Workload {
    /// The workload of this demo, always the same.
    pub fn new() -> Self {
        let contents = (0..CONTENTS).map(|rank| Content::new(&format!("page-{rank}"), size(rank))).collect();
        let weights = (1..=CONTENTS).map(|rank| (rank as f64).powf(-EXPONENT));
        let popularity = WeightedIndex::new(weights).expect("there are contents, of weights above 0");
        Self { contents, popularity }
    }

    /// The next content to request.
    pub fn draw(&self, random: &mut StdRng) -> &Content {
        &self.contents[self.popularity.sample(random)]
    }

    /// Any content, for an example.
    pub fn example(&self) -> &Content {
        &self.contents[0]
    }

    /// The bytes of all contents together.
    pub fn bytes(&self) -> u64 {
        self.contents.iter().map(Content::size).sum()
    }
}

/// Sizes have nothing to do with popularity; small ones are more common than large ones.
fn size(rank: usize) -> u64 {
    let mut random = <StdRng as rand::SeedableRng>::seed_from_u64(rank as u64);
    let [least, most] = SIZES;
    (least * (most / least).powf(random.random::<f64>())) as u64
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::{CONTENTS, Workload};

    #[test]
    fn popular_contents_come_more_often_and_the_same_seed_gives_the_same() {
        let workload = Workload::new();
        let draw = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            (0..20_000).map(|_| workload.draw(&mut random).clone()).collect::<Vec<_>>()
        };
        let drawn = draw(1);
        assert_eq!(drawn, draw(1));
        assert_ne!(drawn, draw(2));
        let times = |rank: usize| drawn.iter().filter(|content| **content == workload.contents[rank]).count();
        // By Zipf's law 1 to 0.062: fifteen times as often, or so.
        assert!(times(0) > 5 * times(31), "{} and {}", times(0), times(31));
        let beyond_one_cache = (CONTENTS / 4..CONTENTS).map(times).sum::<usize>();
        assert!(beyond_one_cache > drawn.len() / 4, "the tail matters: {beyond_one_cache}");
    }
}
