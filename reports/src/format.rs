//! Numbers for people: three digits that matter, and a unit.

use crate::metric::{Metric, Unit};
use crate::statistics::Interval;

/// Three significant digits, thousands with commas, no exponent between 10^-4 and 10^15.
pub fn number(x: f64) -> String {
    if !x.is_finite() {
        return "–".to_owned();
    }
    if x == 0.0 {
        return "0".to_owned();
    }
    if x.abs() < 1e-4 || x.abs() >= 1e15 {
        return format!("{x:.2e}");
    }
    let magnitude = x.abs().log10().floor() as i32;
    // Rounding may reach the next power of ten: 9.996 is 10.0.
    let rounded = round_to(x, 2 - magnitude);
    let magnitude = rounded.abs().log10().floor() as i32;
    let decimals = (2 - magnitude).max(0) as usize;
    commas(&format!("{:.decimals$}", round_to(x, 2 - magnitude)))
}

fn round_to(x: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits.abs());
    if digits >= 0 { (x * scale).round() / scale } else { (x / scale).round() * scale }
}

/// A round number at an axis: no digits that say nothing, thousands and millions by letter.
pub(crate) fn axis(x: f64) -> String {
    let (scaled, letter) = match x.abs() {
        size if size >= 1e9 => (x / 1e9, "G"),
        size if size >= 1e6 => (x / 1e6, "M"),
        size if size >= 1e4 => (x / 1e3, "k"),
        _ => (x, ""),
    };
    let mut text = format!("{scaled:.6}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text.replace('-', "−") + letter
}

/// A round time at an axis.
pub(crate) fn axis_seconds(s: f64) -> String {
    let (scale, unit) = match s.abs() {
        size if size < 0.999_5e-3 => (1e6, "µs"),
        size if size < 0.999_5 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    if s == 0.0 { "0".to_owned() } else { format!("{} {unit}", axis((s * scale * 1e6).round() / 1e6)) }
}

/// A whole number with commas.
pub fn count(n: u64) -> String {
    commas(&n.to_string())
}

fn commas(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("−", rest));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = String::from(sign);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// Seconds in the unit that suits them.
pub fn seconds(s: f64) -> String {
    let size = s.abs();
    let (scale, unit) = match size {
        0.0 => (1.0, "s"),
        _ if size < 0.999_5e-6 => (1e9, "ns"),
        _ if size < 0.999_5e-3 => (1e6, "µs"),
        _ if size < 0.999_5 => (1e3, "ms"),
        _ if size < 999.5 => (1.0, "s"),
        _ if size < 10_000.0 => (1.0 / 60.0, "min"),
        _ => (1.0 / 3600.0, "h"),
    };
    format!("{} {unit}", number(s * scale))
}

/// A share of one as a percentage with one decimal; two close to all or nothing.
pub fn share(x: f64) -> String {
    let percent = if (x * 100.0).abs() < 0.05 && x <= 0.0 { 0.0 } else { x * 100.0 };
    if percent > 99.9 && percent < 100.0 || percent > 0.0 && percent < 0.1 {
        // Never round almost all up to all.
        return if percent > 99.99 {
            "> 99.99 %".to_owned()
        } else if percent < 0.01 {
            "< 0.01 %".to_owned()
        } else {
            format!("{percent:.2} %")
        };
    }
    format!("{percent:.1} %")
}

/// How far off a published figure, as a percentage with its sign and one decimal: `+4.2 %`, and `0.0 %` for what rounds to nothing.
pub fn deviation(x: f64) -> String {
    let text = format!("{:+.1} %", x * 100.0);
    if matches!(text.as_str(), "+0.0 %" | "-0.0 %") { "0.0 %".to_owned() } else { text }
}

/// A relative size as a percentage: three significant digits, at most two decimals.
pub fn percent(x: f64) -> String {
    let percent = x * 100.0;
    match percent.abs() {
        size if size < 0.005 => "0 %".to_owned(),
        size if size < 0.995 => format!("{percent:.2} %").replace('-', "−"),
        _ => format!("{} %", number(percent)),
    }
}

/// As [`percent`], with its sign; what is more than ten times as much is told as a factor.
pub fn signed_percent(x: f64) -> String {
    if x > 9.0 {
        return format!("{}×", number(1.0 + x));
    }
    let text = percent(x);
    if x > 0.0 && text != "0 %" { format!("+{text}") } else { text }
}

/// A difference with the half width of its interval: `−15.9 ± 2.0 %`. `scale` turns the difference into a part of a baseline;
/// without it, shares differ in percentage points and the rest in its own unit.
pub fn plus_minus(metric: Metric, mean: f64, half: f64, scale: Option<f64>) -> String {
    let (mean, half, unit) = match (scale, metric.unit()) {
        (Some(scale), _) if mean * scale > 9.0 => {
            return format!("{}× ± {}", number(1.0 + mean * scale), number(half * scale.abs()));
        }
        (Some(scale), _) => (mean * scale * 100.0, half * scale.abs() * 100.0, " %"),
        (None, Unit::Share) => (mean * 100.0, half * 100.0, " pp"),
        (None, _) => return format!("{} ± {}", signed(metric, mean), value(metric, half)),
    };
    let digits = if half > 0.0 { (1 - half.log10().floor() as i32).clamp(0, 2) as usize } else { 2 };
    let write = |x: f64| {
        let text = format!("{x:.digits$}");
        if text.trim_start_matches(['-', '0', '.']).is_empty() { format!("{:.digits$}", 0.0) } else { commas(&text) }
    };
    let sign = if mean > 0.0 && write(mean) != write(0.0) { "+" } else { "" };
    format!("{sign}{} ± {}{unit}", write(mean), write(half))
}

/// A difference with its interval: with the half width, `−15.9 ± 2.0 %`, or with both ends where one was cut off at the most that
/// can be lost: `−60 % [−100 % to +10 %]`. `scale` as in [`plus_minus`].
pub fn with_interval(metric: Metric, mean: f64, interval: Interval, scale: Option<f64>) -> String {
    let (below, above) = (mean - interval.low, interval.high - mean);
    if (above - below).abs() <= 1e-6 * above.abs() {
        return plus_minus(metric, mean, above, scale);
    }
    let write = |x: f64| scale.map_or_else(|| signed(metric, x), |scale| signed_percent(x * scale));
    format!("{} [{} to {}]", write(mean), write(interval.low), write(interval.high))
}

/// A value of a metric with its unit.
pub fn value(metric: Metric, x: f64) -> String {
    match metric.unit() {
        Unit::PerSecond => format!("{}/s", number(x)),
        Unit::Share => share(x),
        Unit::Seconds => seconds(x),
        Unit::Dollars => format!("${}", number(x)),
        Unit::GpuHours => format!("{} GPU-h", number(x)),
        Unit::Count if x.fract() == 0.0 && x >= 0.0 => count(x as u64),
        Unit::Count => number(x),
    }
}

/// A difference of a metric with its sign and unit. Differences of shares are in percentage points.
pub fn signed(metric: Metric, x: f64) -> String {
    let text = match metric.unit() {
        Unit::Share => format!("{} pp", number(x * 100.0)),
        Unit::Dollars if x < 0.0 => format!("−${}", number(-x)),
        _ => value(metric, x),
    };
    if x > 0.0 { format!("+{text}") } else { text }
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// The text with its first letter in upper case.
pub fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_not_less_than_nothing() {
        for x in [0.0, -0.0, -1e-9, -0.000_4] {
            assert_eq!(share(x), "0.0 %", "{x}");
            assert_eq!(deviation(x), "0.0 %", "{x}");
        }
        assert_eq!((deviation(0.042), deviation(-0.0006)), ("+4.2 %".to_owned(), "-0.1 %".to_owned()));
        assert_eq!(share(-0.02), "-2.0 %");
    }

    #[test]
    fn numbers_keep_three_digits_and_never_an_exponent_that_nobody_wants() {
        for (x, text) in [
            (0.0, "0"),
            (9.996, "10.0"),
            (0.012345, "0.0123"),
            (1234.0, "1,230"),
            (2_880_000.0, "2,880,000"),
            (-12.34, "−12.3"),
            (99.95, "100"),
            (0.0999, "0.0999"),
            (0.09996, "0.100"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(x), text, "{x}");
        }
    }

    #[test]
    fn seconds_take_the_unit_that_suits_them() {
        for (s, text) in [
            (0.0, "0 s"),
            (12.3e-6, "12.3 µs"),
            (0.0456, "45.6 ms"),
            (0.999_7, "1.00 s"),
            (90.0, "90.0 s"),
            (3600.0, "60.0 min"),
            (36_000.0, "10.0 h"),
        ] {
            assert_eq!(seconds(s), text);
        }
    }

    #[test]
    fn a_difference_has_no_more_digits_than_its_interval_deserves() {
        let text = |mean: f64, half: f64| plus_minus(Metric::Goodput, mean, half, Some(1.0));
        assert_eq!(text(-0.159, 0.0196), "−15.9 ± 2.0 %");
        assert_eq!(text(0.000_758, 0.000_4), "+0.08 ± 0.04 %");
        assert_eq!(text(0.25, 0.131), "+25 ± 13 %");
        assert_eq!(text(0.0, 0.0), "0.00 ± 0.00 %");
        assert_eq!(text(-0.000_001, 0.001), "0.00 ± 0.10 %");
        assert_eq!(text(164.0, 13.0), "165× ± 13.0");
        assert_eq!(plus_minus(Metric::Attainment, -0.158, 0.016, None), "−15.8 ± 1.6 pp");
        assert_eq!(
            [signed_percent(0.000_758), signed_percent(0.0504), signed_percent(-0.2)],
            ["+0.08 %", "+5.04 %", "−20.0 %"]
        );
    }

    #[test]
    fn an_interval_that_was_cut_off_shows_both_ends() {
        let interval = |low, high| Interval { mean: -0.6, low, high, samples: 2 };
        let text = |low, high| with_interval(Metric::TtftP99, -0.6, interval(low, high), Some(1.0));
        assert_eq!(text(-0.72, -0.48), "−60 ± 12 %");
        assert_eq!(text(-1.0, 0.1), "−60.0 % [−100 % to +10.0 %]");
    }

    #[test]
    fn almost_all_is_never_written_as_all() {
        assert_eq!(
            [share(0.99995), share(0.9996), share(1.0), share(0.0), share(0.00001)],
            ["> 99.99 %", "99.96 %", "100.0 %", "0.0 %", "< 0.01 %"]
        );
    }
}
