//! Scales: from values to pixels, with ticks.

/// A scale from the pixel of `low` to that of `high`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    pub(super) ticks: Vec<f64>,
    from: i32,
    to: i32,
}

/// Labels that fit beside a panel.
const TICKS_MAX: usize = 14;

impl Axis {
    /// Powers of two around `values`, with room beside the outermost.
    pub(super) fn powers_of_two(values: &[f64], (from, to): (i32, i32)) -> Self {
        let (low, high) = range(values);
        let (low, high) = (low.log2().floor() as i32, high.log2().ceil() as i32);
        let ticks = (low..=high).map(|power| 2_f64.powi(power)).collect();
        let (low, high) = ((f64::from(low) - 0.3).exp2(), (f64::from(high) + 0.3).exp2());
        Self { low, high, logarithmic: true, ticks, from, to }
    }

    /// Steps of 1, 2 and 5 around `values`, or of powers of ten: equal distances are equal ratios.
    pub(super) fn logarithmic(values: &[f64], (from, to): (i32, i32)) -> Self {
        let (low, high) = range(values);
        let steps = |digits: &[f64]| -> Vec<f64> {
            let powers = low.log10().floor() as i32..=high.log10().floor() as i32 + 1;
            let all: Vec<f64> =
                powers.flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power))).collect();
            let first = all.iter().rposition(|step| *step <= low).unwrap_or(0);
            let last = all.iter().position(|step| *step >= high).unwrap_or(all.len() - 1).max(first + 1);
            all[first..=last].to_vec()
        };
        let mut ticks = steps(&[1.0, 2.0, 5.0]);
        if ticks.len() > TICKS_MAX {
            ticks = steps(&[1.0]);
        }
        let (low, high) = range(&ticks);
        Self { low, high, logarithmic: true, ticks, from, to }
    }

    /// From zero, with some four to eight steps.
    pub(super) fn from_zero(values: &[f64], (from, to): (i32, i32)) -> Self {
        let (_, high) = range(values);
        let power = 10_f64.powf(high.log10().floor());
        let step = [0.1, 0.2, 0.5, 1.0, 2.0].map(|digit| digit * power).into_iter().find(|step| high / step <= 8.0);
        let step = step.unwrap_or(power);
        let count = (high / step).ceil();
        let ticks = (0..=count as i32).map(|n| f64::from(n) * step).collect();
        Self { low: 0.0, high: count * step, logarithmic: false, ticks, from, to }
    }

    /// The pixel of a value.
    pub(super) fn at(&self, value: f64) -> i32 {
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + (f64::from(self.to - self.from) * share).round() as i32
    }
}

/// Least and greatest above zero; 1 and 10 of none.
fn range(values: &[f64]) -> (f64, f64) {
    let good = values.iter().copied().filter(|value| value.is_finite() && *value > 0.0);
    let (low, high) = good.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    if high > 0.0 { (low, high) } else { (1.0, 10.0) }
}

/// A tick's label.
pub(super) fn label(value: f64) -> String {
    if value >= 1e6 {
        format!("{}M", tidy(value / 1e6))
    } else if value >= 1e4 {
        format!("{}k", tidy(value / 1e3))
    } else {
        tidy(value)
    }
}

/// Three digits, without zeros behind the point.
pub(super) fn tidy(value: f64) -> String {
    let text = match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_cover_their_values() {
        let axis = Axis::logarithmic(&[30.0, 40_000.0], (100, 0));
        assert_eq!((axis.ticks.first(), axis.ticks.last()), (Some(&20.0), Some(&50_000.0)));
        assert_eq!((axis.at(20.0), axis.at(50_000.0)), (100, 0));
        let axis = Axis::from_zero(&[12.3, 4.0], (0, 140));
        assert_eq!((axis.ticks.len(), axis.at(0.0), axis.at(14.0)), (8, 0, 140));
        let axis = Axis::powers_of_two(&[1.0, 1000.0], (0, 100));
        assert_eq!(axis.ticks.len(), 11);
        assert_eq!(Axis::logarithmic(&[7.0], (0, 10)).ticks, [5.0, 10.0]);
        assert_eq!(Axis::logarithmic(&[], (0, 10)).ticks, [1.0, 2.0, 5.0, 10.0]);
    }

    #[test]
    fn labels_are_short() {
        let of = [0.5, 1.0, 20.0, 512.0, 20_000.0, 1_500_000.0].map(label);
        assert_eq!(of, ["0.5", "1", "20", "512", "20k", "1.5M"]);
    }
}
