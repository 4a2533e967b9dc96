//! Figures over time: nothing is lost, and everything is where it belongs.

use aril_reports::RecorderSettings;
use aril_sim::time::Span;

use crate::facts::{record, settings};
use crate::metrics::{close, sample, seconds};
use crate::queue::{Route, Setup};

#[test]
fn figures_over_time_lose_nothing() {
    let (_, told, result) = sample();
    let series = &result.series;
    let total = |values: &[f64]| values.iter().sum::<f64>() * series.bin_s;
    assert!(close(total(&series.offered_per_s), told.lives.len() as f64));
    assert!(close(total(&series.output_tokens_per_s), told.lives.iter().map(|life| f64::from(life.emitted)).sum()));
    let stays: f64 = told.lives.iter().map(|life| life.at.since(life.offered.request.arrival).as_secs_f64()).sum();
    assert!(close(total(&series.in_system), stays));
    assert!(close(result.metrics.little.request_seconds, stays));
    assert!(close(total(&series.busy_gpus), result.metrics.gpu.hours_busy * 3600.0));
    assert!(close(total(&series.held_gpus), result.metrics.gpu.hours_held * 3600.0));
    let rows: f64 = result.heat.rows.iter().flatten().map(|rows| f64::from(*rows)).sum::<f64>() * result.heat.bin_s;
    let with_stall: f64 = told.busy_ps.iter().map(|(rows, ps)| *rows as f64 * seconds(*ps)).sum();
    // The heat map shows a stalled batch as a batch, in single precision.
    assert!(rows >= with_stall * (1.0 - 1e-5) && rows <= with_stall * 1.1, "{rows} {with_stall}");
}

#[test]
fn output_comes_evenly_over_each_step_and_what_held_it_up() {
    // One at a time, each with a load of its own; bins are much shorter than steps.
    let setup = Setup { replicas: 1, slots: 1, requests: 8, rate_per_s: 40.0, ..Setup::new(Route::RoundRobin, 9) };
    let (told, result) = record(&setup, RecorderSettings { warmup: Span::ZERO, drain: Span::ZERO, ..settings(&setup) });
    let series = result.unwrap().series;
    assert!(told.stall_ps > 0, "loads hold up steps");
    let mut found = 0.0;
    for (bin, per_s) in series.output_tokens_per_s.iter().enumerate() {
        found += per_s * series.bin_s;
        let end = (bin + 1) as f64 * series.bin_s;
        let part = |from: f64, to: f64| ((end - from) / (to - from)).clamp(0.0, 1.0);
        let due =
            told.output.iter().map(|(from, to, tokens)| *tokens as f64 * part(from.as_secs_f64(), to.as_secs_f64()));
        let due = due.sum::<f64>();
        // Whole tokens, rounded down.
        assert!(found <= due + 1e-6 && found > due - 1.0 - 1e-6, "{bin}: {found} {due}");
    }
}
