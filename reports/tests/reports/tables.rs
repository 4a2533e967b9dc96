//! The tables and the timeline of a run.

use std::fs;
use std::io::Read;
use std::path::Path;

use aril_reports::{Recorder, RecorderSettings, ReportError, RunResult};
use aril_sim::fact::{End, Fact, Observer, Power, Tier};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{AdapterId, ReplicaId, RequestId};
use polars::prelude::{DataFrame, ParquetReader, SerReader};

use crate::facts::{Told, settings};
use crate::queue::{self, Route, Setup};
use crate::rows::{Cell, ToldRows};

fn sample() -> Setup {
    let (chunk, kv_blocks, timeout) = (256, 300, Some(Span::from_secs(1)));
    Setup { requests: 1500, rate_per_s: 60.0, chunk, kv_blocks, timeout, ..Setup::new(Route::ByAdapter, 11) }
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
        assert_eq!(number("output_tokens", row), Some(life.offered.outcome.output_tokens.into()));
        assert_eq!(number("emitted_tokens", row), Some(life.emitted.into()));
        assert_eq!(number("preemptions", row), Some(life.preemptions.into()));
        assert_eq!(number("scheduled_ps", row), life.scheduled.map(Time::as_ps));
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
fn steps_and_events_are_read_back_as_told() {
    let folder = tempfile::tempdir().unwrap();
    let setup = sample();
    let settings = RecorderSettings { warmup: Span::ZERO, drain: Span::ZERO, tables: true, ..settings(&setup) };
    let mut told = ToldRows::default();
    let mut recorder = Recorder::create(folder.path(), setup.catalog(), settings).unwrap();
    let ended_at = queue::run(&setup, &mut (&mut told, &mut recorder));
    // Of these a toy cluster has none.
    let rare = [
        Fact::Held(RequestId(7)),
        Fact::Migrated { request: RequestId(8), from: ReplicaId(1), to: ReplicaId(2) },
        Fact::Evicted { replica: ReplicaId(3), adapter: AdapterId(4), tier: Tier::Host, bytes: 5 },
        Fact::Power { replica: ReplicaId(0), power: Power::Draining },
        Fact::Power { replica: ReplicaId(0), power: Power::Off },
        Fact::Power { replica: ReplicaId(0), power: Power::Starting },
    ];
    rare.iter().for_each(|fact| (&mut told, &mut recorder).observe(ended_at, fact));
    recorder.finish(ended_at).unwrap();
    let some = |event: &'static str, column: &str| {
        let rows = told.events.iter().filter(|cells| cells.contains(&("event", Cell::Word(event))));
        rows.flatten().filter(|(name, cell)| *name == column && *cell != Cell::Number(0)).count()
    };
    let counts = [some("routed", "amount"), some("preempted", "amount"), some("preempted", "cut")];
    assert!(counts.iter().all(|count| *count > 5), "the sample has some of each: {counts:?}");
    let catalog = setup.catalog();
    for (file, rows) in [("steps.parquet", &told.steps), ("events.parquet", &told.events)] {
        let table = read(&folder.path().join(file));
        assert_eq!(table.height(), rows.len(), "{file}");
        for column in table.columns() {
            for (row, cells) in rows.iter().enumerate() {
                let told = cells.iter().find(|(name, _)| *name == column.name().as_str()).map(|(_, cell)| *cell);
                let found = column.get(row).unwrap();
                let is_same = match told {
                    None => found.is_null(),
                    Some(Cell::Number(number)) => found.extract::<u64>() == Some(number),
                    Some(Cell::Word(word)) => found.get_str() == Some(word),
                    Some(Cell::Adapter(id)) => found.get_str() == Some(&catalog.adapters[id as usize].name),
                };
                assert!(is_same, "{file}, row {row}, {}: {found:?}, told {told:?}", column.name());
            }
        }
        // What was told has a column.
        let names = table.get_column_names();
        for (name, _) in rows.iter().flatten() {
            assert!(names.iter().any(|column| column.as_str() == *name), "{file}: {name}");
        }
    }
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
