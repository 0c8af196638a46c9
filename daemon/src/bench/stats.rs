//! Medians, spreads, and the order in which repetitions are taken.

use serde::Serialize;

/// Repetitions of one figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Median of the distances from the median.
    pub(crate) mad: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let median = median(values)?;
        let distances: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        Some(Self {
            median,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mad: self::median(&distances)?,
        })
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], *upper) } else { *upper })
}

/// The mean of ratios.
pub(crate) fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|value| *value <= 0.0) {
        return None;
    }
    Some((values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp())
}

/// The order of all measurements: indices of cases. Cases of one group (the same work, other subjects) follow each other,
/// so that the machine's drift hits them alike; the one that goes first changes every round.
pub(crate) fn plan(groups: &[usize], repeat: u32) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    for group in groups {
        if !order.contains(group) {
            order.push(*group);
        }
    }
    let mut plan = Vec::new();
    for round in 0..repeat as usize {
        for group in &order {
            let mut cases: Vec<usize> = (0..groups.len()).filter(|case| groups[*case] == *group).collect();
            let by = round % cases.len().max(1);
            cases.rotate_left(by);
            plan.extend(cases);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_extremes_and_median_distance() {
        let spread = Spread::of(&[5.0, 1.0, 9.0, 4.0]).unwrap();
        assert_eq!(spread, Spread { median: 4.5, min: 1.0, max: 9.0, mad: 2.0 });
        assert_eq!(Spread::of(&[3.0]), Some(Spread { median: 3.0, min: 3.0, max: 3.0, mad: 0.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn subjects_of_the_same_work_take_turns() {
        // Cases 0 and 2 are one work, 1 and 3 another.
        assert_eq!(plan(&[0, 1, 0, 1], 3), [0, 2, 1, 3, 2, 0, 3, 1, 0, 2, 1, 3]);
        assert_eq!(plan(&[], 3), [0_usize; 0]);
    }

    #[test]
    fn the_mean_of_a_ratio_and_its_inverse_is_one() {
        assert!((geometric_mean(&[4.0, 0.25]).unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(geometric_mean(&[0.0, 1.0]), None);
    }
}
