//! What judging must reach, on real simulations: a planted slowdown is caught, and different seeds raise no alarm.

use std::fs;

use aril_reports::Metric;
use aril_reports::change::{
    Aspect, BASELINE_SUFFIX, Baseline, HISTORY_SUFFIX, Recording, Rules, Verdict, compare_recordings,
};
use tempfile::TempDir;

use super::folder::ScenarioFile;
use super::runs;
use crate::builtin;

/// A cluster that keeps up: time to first token is mostly the time of steps.
const SCENARIO: &str = r#"
name = "planted"

[model]
name = "llama-2-7b"

[traffic]
arrivals      = { poisson = { rate = 3.0 } }
requests      = 150
input_tokens  = { uniform = [16, 512] }
output_tokens = { uniform = [1, 48] }
popularity    = { zipf = { s = 0.9, adapters = 8 } }
ranks         = { 16 = 1.0 }

[engine.aril]
max_num_seqs = 16

[pool.gpu]
replicas = 2
profile  = "p.toml"

[slo.all]
ttft = "200ms"
tpot = "40ms"

[policy]
least-loaded = { router = "least-loaded" }
punica-paper = { preset = "punica-paper" }
"#;

/// A scenario with a profile whose steps take `scale` times as long.
fn record(folder: &TempDir, scale: f64, head: &str) -> Recording {
    record_of(folder, scale, &format!("{head}\n{SCENARIO}"))
}

fn record_of(folder: &TempDir, scale: f64, scenario: &str) -> Recording {
    let mut profile = aril_calibrate::resolve(
        "punica-a100-80gb",
        &aril_sim::model::Model::named("llama-2-7b").expect("a known model"),
        1,
    )
    .expect("a shipped profile");
    profile.whole_step.scale = scale;
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("the file can be written");
    write("p.toml", &aril_calibrate::text::write(&profile));
    write("s.toml", scenario);
    let path = |name: String| folder.path().join(name);
    let scenario = ScenarioFile {
        file: "s.toml".to_owned(),
        path: path("s.toml".to_owned()),
        baseline: path(format!("s{BASELINE_SUFFIX}")),
        history: path(format!("s{HISTORY_SUFFIX}")),
    };
    runs::one(&builtin::registry(), &scenario).expect("the scenario runs").recording
}

/// As it is written down and read again.
fn through_a_baseline(folder: &TempDir, recording: &Recording) -> Recording {
    let path = folder.path().join(format!("s{BASELINE_SUFFIX}"));
    Baseline::of(recording).expect("a baseline").write(&path).expect("it can be written");
    Baseline::read(&path).expect("it can be read").recording(&path)
}

/// The p99 of a few hundred requests jumps by percents when any cost changes a little, as batches form otherwise; that of
/// thousands moves with the cost.
#[test]
fn two_percent_more_ttft_is_caught_with_twenty_seeds_at_one_percent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let long = SCENARIO.replace("= 150", "= 4000").replace("punica-paper = { preset = \"punica-paper\" }\n", "");
    let scenario = format!("seeds = 20\n{long}");
    let base = through_a_baseline(&folder, &record_of(&folder, 1.0, &scenario));
    let new = record_of(&folder, 1.023, &scenario);
    assert_eq!((new.runs.len(), new.runs[0].offered), (20, 4000));
    let compared = compare_recordings(&base, &new, &Rules::default(), &[Aspect::Profile]).expect("comparable");
    assert_eq!(compared.rules.alpha, 0.01);
    assert_eq!(compared.unlike.len(), 1, "only the profile differs: {:?}", compared.unlike);
    assert_eq!(compared.verdict, Verdict::Worse, "{}", compared.sentence());
    let row = compared.rows.iter().find(|row| row.subject.metric == Metric::TtftP99).expect("the row");
    let change = row.estimate.expect("an estimate").change;
    assert!((0.0175..0.0225).contains(&change), "planted were 2 %: {change}");
    assert_eq!(row.verdict, Verdict::Worse, "{} ({})", row.change(), row.interval());
}

#[test]
fn the_same_build_gives_what_its_baseline_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let base = through_a_baseline(&folder, &record(&folder, 1.0, "seeds = 3"));
    let compared =
        compare_recordings(&base, &record(&folder, 1.0, "seeds = 3"), &Rules::default(), &[]).expect("comparable");
    assert!(compared.is_identical(), "{}", compared.sentence());
}

#[test]
fn a_change_of_one_part_in_ten_million_does_not_pass_unnoticed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let base = through_a_baseline(&folder, &record(&folder, 1.0, "seeds = 3"));
    let new = record(&folder, 1.000_000_1, "seeds = 3");
    let compared = compare_recordings(&base, &new, &Rules::default(), &[Aspect::Profile]).expect("comparable");
    assert!(!compared.is_identical());
    assert_eq!(compared.runs.identical, 0);
    assert_ne!(compared.verdict, Verdict::Worse, "{}", compared.sentence());
}

#[test]
fn fifty_comparisons_of_different_seeds_raise_at_most_one_alarm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = record(&folder, 1.0, "seed = 5000\nseeds = 2000");
    let mut alarms = Vec::new();
    for pair in 0..50u64 {
        let side = |half: u64| {
            let first = 5000 + pair * 40 + half * 20;
            let runs = all.runs.iter().filter(|run| (first..first + 20).contains(&run.run.seed)).cloned().collect();
            Recording { runs, ..all.clone() }
        };
        let compared = compare_recordings(&side(0), &side(1), &Rules::default(), &[]).expect("comparable");
        assert!(
            !compared.rows.is_empty()
                && compared.rows.iter().all(|row| row.estimate.is_some_and(|e| e.seeds_new == 20))
        );
        let alarm = matches!(compared.verdict, Verdict::Worse | Verdict::Better);
        alarms.extend(alarm.then(|| compared.sentence()));
    }
    assert!(alarms.len() <= 1, "{} alarms: {alarms:#?}", alarms.len());
}
