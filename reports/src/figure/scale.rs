//! Axes with round ticks, linear or logarithmic.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// How the values of an axis are written.
pub(crate) type Writer = fn(f64) -> String;

/// An axis.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    downwards: bool,
    ticks: Vec<f64>,
    labels: Vec<String>,
}

impl Scale {
    /// From `low` to at least `high`, with about `ticks` round ticks; the axis ends at a tick where `extend` says so.
    pub(crate) fn linear(low: f64, high: f64, ticks: usize, extend: bool, write: Writer) -> Scale {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / ticks as f64);
        let first = (low / step).ceil() as i64;
        let last = if extend { (high / step - 1e-9).ceil() as i64 } else { (high / step + 1e-9).floor() as i64 };
        let ticks: Vec<f64> = (first..=last).map(|i| i as f64 * step).collect();
        let high = if extend { last as f64 * step } else { high };
        let labels = ticks.iter().map(|tick| write(*tick)).collect();
        Scale { low, high, log: false, downwards: false, ticks, labels }
    }

    /// Times from zero, in round numbers of the unit that suits them.
    pub(crate) fn time(high_s: f64) -> Scale {
        let high = if high_s > 0.0 { high_s } else { 1.0 };
        let (unit, name) = match high {
            _ if high >= 172_800.0 => (86_400.0, "d"),
            _ if high >= 10_800.0 => (3600.0, "h"),
            _ if high >= 240.0 => (60.0, "min"),
            _ if high >= 1.0 => (1.0, "s"),
            _ => (1e-3, "ms"),
        };
        let mut scale = Scale::linear(0.0, high / unit, 8, false, plain);
        scale.ticks.iter_mut().for_each(|tick| *tick *= unit);
        scale.high = high;
        if let Some(last) = scale.labels.last_mut() {
            *last = format!("{last} {name}");
        }
        scale
    }

    /// Logarithmic over positive values; ticks at the powers of ten alone, at 1, 2 and 5 of each, or closer: three if it can be.
    pub(crate) fn log(low: f64, high: f64, write: Writer) -> Scale {
        let low = if low > 0.0 { low } else { 1e-3 };
        let high = if high > low * 1.5 { high } else { low * 1.5 };
        let decades = (high / low).log10();
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let skip = ((decades / 8.0).ceil() as i32).max(1);
        let ticks_at = |parts: &[f64]| -> Vec<f64> {
            (first..=last)
                .filter(|power| (power - first) % skip == 0)
                .flat_map(|power| parts.iter().map(move |part| part * 10f64.powi(power)))
                .filter(|tick| *tick >= low * 0.999 && *tick <= high * 1.001)
                .collect()
        };
        let choices: [&[f64]; 4] = [
            &[1.0],
            &[1.0, 2.0, 5.0],
            &[1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0],
            &[1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0],
        ];
        let closest = if decades > 2.2 { &choices[..1] } else { &choices[1..] };
        let enough = closest.iter().map(|parts| ticks_at(parts)).find(|ticks| ticks.len() >= 3);
        let ticks = enough.unwrap_or_else(|| ticks_at(closest[closest.len() - 1]));
        let labels = ticks.iter().map(|tick| write(*tick)).collect();
        Scale { low, high, log: true, downwards: false, ticks, labels }
    }

    /// Named places at 0, 1, 2, …
    pub(crate) fn names(labels: Vec<String>) -> Scale {
        let ticks = (0..labels.len()).map(|i| i as f64).collect();
        Scale { low: -0.5, high: labels.len() as f64 - 0.5, log: false, downwards: false, ticks, labels }
    }

    /// With its least value on top.
    pub(crate) fn downwards(mut self) -> Scale {
        self.downwards = true;
        self
    }

    /// The value nearest to `x` that is on the axis.
    pub(crate) fn clamp(&self, x: f64) -> f64 {
        x.clamp(self.low, self.high)
    }

    fn position(&self, x: f64) -> f64 {
        let place = |x: f64| if self.log { x.max(self.low).log10() } else { x };
        let position = (place(x) - place(self.low)) / (place(self.high) - place(self.low));
        if self.downwards { 1.0 - position } else { position }
    }
}

fn plain(x: f64) -> String {
    crate::format::axis(x)
}

/// The least of 1, 2, 2.5, 5 × 10^n that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let parts = [1.0, 2.0, 2.5, 5.0, 10.0];
    parts.iter().map(|part| part * power).find(|round| *round >= step * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (self.position(*value) * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        let nearest = self.ticks.iter().position(|tick| (tick - value).abs() <= value.abs() * 1e-9 + 1e-12);
        nearest.map_or_else(String::new, |index| self.labels[index].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::linear(0.0, 37.0, 5, true, plain);
        assert_eq!(scale.ticks, [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(Scale::linear(0.0, 37.0, 5, false, plain).high, 37.0);
        let log = Scale::log(0.013, 4.2, crate::format::axis_seconds);
        assert_eq!(log.labels, ["100 ms", "1 s"]);
        let narrow = Scale::log(0.024, 0.07, crate::format::axis_seconds);
        assert_eq!(narrow.labels, ["30 ms", "40 ms", "60 ms"], "one tick says nothing of a scale");
        assert!(log.position(0.013).abs() < 1e-12 && (log.position(4.2) - 1.0).abs() < 1e-12);
    }
}
