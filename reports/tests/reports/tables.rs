//! The tables and the timeline of a run.

use std::fs;
use std::io::Read;
use std::path::Path;

use aril_reports::{Recorder, RecorderSettings, ReportError, RunResult};
use aril_sim::fact::End;
use aril_sim::time::Span;
use polars::prelude::{DataFrame, ParquetReader, SerReader};

use crate::facts::{Told, settings};
use crate::queue::{self, Route, Setup};

fn sample() -> Setup {
    Setup { requests: 1500, rate_per_s: 60.0, timeout: Some(Span::from_secs(1)), ..Setup::new(Route::ByAdapter, 11) }
}

fn write(setup: &Setup, dir: &Path, timeline_events: u32) -> (Told, Result<RunResult, ReportError>) {
    let settings =
        RecorderSettings { warmup: Span::ZERO, drain: Span::ZERO, tables: true, timeline_events, ..settings(setup) };
    let mut told = Told::default();
    let mut recorder = Recorder::create(dir, setup.catalog(), settings).unwrap();
    let ended_at = queue::run(setup, &mut (&mut told, &mut recorder));
    (told, recorder.finish(ended_at))
}

fn read(path: &Path) -> DataFrame {
    ParquetReader::new(fs::File::open(path).unwrap()).finish().unwrap()
}

#[test]
fn requests_are_read_back_as_they_ended() {
    let folder = tempfile::tempdir().unwrap();
    let setup = sample();
    let (told, result) = write(&setup, folder.path(), 0);
    assert_eq!(result.unwrap().files, ["requests.parquet", "steps.parquet", "events.parquet"]);
    let table = read(&folder.path().join("requests.parquet"));
    assert_eq!(table.height(), told.lives.len());
    let number = |column: &str, row: usize| table.column(column).unwrap().get(row).unwrap().extract::<u64>();
    let text = |column: &str, row: usize| table.column(column).unwrap().str().unwrap().get(row).map(str::to_owned);
    let catalog = setup.catalog();
    for (row, life) in told.lives.iter().enumerate() {
        let request = &life.offered.request;
        assert_eq!(number("request", row), Some(request.id.0.into()));
        assert_eq!(number("arrival_ps", row), Some(request.arrival.as_ps()));
        assert_eq!(number("ttft_ps", row), life.ttft());
        assert_eq!(number("e2e_ps", row), life.e2e());
        assert_eq!(number("wait_load_ps", row), Some(life.waits.load.as_ps()));
        assert_eq!(text("tenant", row).as_ref(), Some(&catalog.tenants[request.tenant.index()].name));
        assert_eq!(text("adapter", row), request.adapter.map(|adapter| catalog.adapters[adapter.index()].name.clone()));
        assert_eq!(number("rank", row), request.adapter.map(|adapter| catalog.adapters[adapter.index()].rank.into()));
        let end = match life.end {
            End::Finished => "finished",
            End::TimedOut => "timed_out",
            End::Rejected(_) => "rejected",
            End::Unfinished => "unfinished",
        };
        assert_eq!(text("end", row).as_deref(), Some(end));
    }
}

#[test]
fn steps_and_events_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let (told, result) = write(&sample(), folder.path(), 0);
    result.unwrap();
    let steps = read(&folder.path().join("steps.parquet"));
    assert_eq!(steps.height() as u64, told.stretches);
    let sum = |column: &str| steps.column(column).unwrap().as_materialized_series().sum::<u64>().unwrap();
    assert_eq!(sum("stall_ps"), told.stall_ps);
    let events = read(&folder.path().join("events.parquet"));
    let names = events.column("event").unwrap().str().unwrap();
    let count = |name: &str| names.iter().filter(|event| *event == Some(name)).count() as u64;
    assert_eq!(
        (count("load"), count("evicted"), count("power_on")),
        (told.loads.values().sum::<u64>() + told.loads_from_disk, told.evictions, told.on.len() as u64)
    );
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&first, &second] {
        write(&sample(), folder.path(), 2000).1.unwrap();
    }
    for file in ["requests.parquet", "steps.parquet", "events.parquet", "timeline.json.gz"] {
        let bytes = |folder: &tempfile::TempDir| fs::read(folder.path().join(file)).unwrap();
        assert!(bytes(&first) == bytes(&second), "{file}");
        assert!(bytes(&first).len() > 500, "{file}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_fills_up_during_the_run_is_reported_at_its_end() {
    for file in ["requests.parquet", "steps.parquet", "events.parquet", "timeline.json.gz"] {
        let folder = tempfile::tempdir().unwrap();
        // Every write to this device fails as on a full disk.
        std::os::unix::fs::symlink("/dev/full", folder.path().join(file)).unwrap();
        let error = write(&sample(), folder.path(), 100_000).1.unwrap_err();
        assert!(
            matches!(&error, ReportError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
            "{file}: {error}"
        );
    }
}

#[test]
fn a_timeline_is_json_that_says_how_far_it_reaches() {
    let folder = tempfile::tempdir().unwrap();
    let (told, result) = write(&sample(), folder.path(), 500);
    let result = result.unwrap();
    let mut json = String::new();
    let file = fs::File::open(folder.path().join("timeline.json.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut json).unwrap();
    let timeline: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(timeline["otherData"]["shows"].as_str().unwrap().starts_with("the first 500 events, until "));
    assert_eq!(
        result.timeline_shows.as_deref(),
        timeline["otherData"]["shows"].as_str(),
        "and the report beside its link"
    );
    let whole = tempfile::tempdir().unwrap();
    assert_eq!(write(&sample(), whole.path(), 10_000_000).1.unwrap().timeline_shows, None);
    let events = timeline["traceEvents"].as_array().unwrap();
    let steps = events.iter().filter(|event| event["ph"] == "X" && event["pid"] == 1).count();
    assert!(steps > 100 && (steps as u64) < told.stretches, "{steps}");
    assert!(events.iter().all(|event| event["ph"] == "M" || event["ts"].as_f64().is_some()));
    assert!(events.iter().any(|event| event["ph"] == "X" && event["pid"] == 2), "loads have a track");
}

#[test]
fn without_tables_and_timeline_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let setup = sample();
    let settings = RecorderSettings { warmup: Span::ZERO, drain: Span::ZERO, ..settings(&setup) };
    let mut recorder = Recorder::create(folder.path(), setup.catalog(), settings).unwrap();
    let ended_at = queue::run(&setup, &mut recorder);
    recorder.finish(ended_at).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
