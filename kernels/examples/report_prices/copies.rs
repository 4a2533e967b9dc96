//! The table of the copies.

use std::fmt::Write as _;

use serde_json::Value;

use crate::Measured;

pub(crate) fn write(page: &mut String, report: &Value, card: &str) {
    let step = &report["step"];
    let _ = writeln!(
        page,
        "## Adapter copies, host → device\n\nBy events on a stream of their own. *Beside* a running step: {}; {} rows at a context of {}. Copies \
         run one after the other for as long as the step is replayed; *in a row* is the same without the step; \
         *slower* divides beside by in a row, and the step by itself alone, measured in between. *Host* is how long the call holds its thread.\n\n![GB/s by size](prices-{card}-copies.svg)\n\n\
         | memory | size | pieces | alone, µs | p10 to p90 | GB/s | host, µs | in a row, µs | beside, µs | slower | step alone, µs | step beside, µs | slower |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|",
        step["what"].as_str().unwrap_or("?"),
        step["rows"],
        step["context"],
    );
    for copy in report["results"].as_array().into_iter().flatten().map(Measured) {
        let (alone, beside) = (copy.median("alone_us"), copy.median("beside_us"));
        let row = copy.median("in_a_row_us");
        let (step_alone, step_beside) = (copy.number("step_alone_us"), copy.number("step_beside_us"));
        let spread = |key: &str| copy.0["alone_us"][key].as_f64().unwrap_or(f64::NAN);
        let _ = writeln!(
            page,
            "| {} | {} | {} | **{alone:.1}** | {:.1} to {:.1} | {:.1} | {:.1} | {row:.1} | {beside:.1} | × {:.3} | {step_alone:.0} | {step_beside:.0} | × {:.3} |",
            copy.text("memory"),
            size(copy.number("bytes")),
            copy.number("pieces"),
            spread("p10"),
            spread("p90"),
            copy.number("bytes") / alone / 1e3,
            copy.median("host_us"),
            beside / row,
            step_beside / step_alone,
        );
    }
    page.push('\n');
}

/// The figures of another run, on another machine.
pub(crate) fn again(page: &mut String, report: &Value) {
    let _ = writeln!(
        page,
        "An earlier run on another machine of this kind ({}, {}), in which *in a row* was not measured: *beside* is \
         divided by *alone*:\n\n\
         | memory | size | pieces | alone, µs | p10 to p90 | GB/s | beside, µs | slower | step alone, µs | step beside, µs | slower |\n\
         |---|---|---|---|---|---|---|---|---|---|---|",
        report["gpu"].as_str().unwrap_or("?"),
        report["date"].as_str().unwrap_or("?"),
    );
    for copy in report["results"].as_array().into_iter().flatten().map(Measured) {
        let (alone, beside) = (copy.median("alone_us"), copy.median("beside_us"));
        let (step_alone, step_beside) = (copy.number("step_alone_us"), copy.number("step_beside_us"));
        let spread = |key: &str| copy.0["alone_us"][key].as_f64().unwrap_or(f64::NAN);
        let _ = writeln!(
            page,
            "| {} | {} | {} | **{alone:.1}** | {:.1} to {:.1} | {:.1} | {beside:.1} | × {:.3} | {step_alone:.0} | {step_beside:.0} | × {:.3} |",
            copy.text("memory"),
            size(copy.number("bytes")),
            copy.number("pieces"),
            spread("p10"),
            spread("p90"),
            copy.number("bytes") / alone / 1e3,
            beside / alone,
            step_beside / step_alone,
        );
    }
    page.push('\n');
}

fn size(bytes: f64) -> String {
    let kib = bytes / 1024.0;
    if kib < 1024.0 { format!("{kib:.0} KiB") } else { format!("{:.0} MiB", kib / 1024.0) }
}
