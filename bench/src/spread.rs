//! Many measurements of one thing, as one figure: the median and the extremes. Pure.

use serde::Serialize;

/// What some rounds gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// The spread of these values, rounded to `digits` behind the point; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>, digits: i32) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        let unit = 10f64.powi(digits);
        let round = |value: f64| (value * unit).round() / unit;
        Some(Self { median: round((low + high) / 2.0), min: round(min), max: round(max) })
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied(), 2);
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[2.0]), Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(spread(&[4.0, 1.0, 100.0, 2.0]), Some(Spread { median: 3.0, min: 1.0, max: 100.0 }));
        assert_eq!(spread(&[1.0 / 3.0]).map(|s| s.median), Some(0.33));
    }
}
