//! Comparisons and pages: what a reader relies on.

use std::fs;

use aril_reports::compare::{Standing, Verdict, VerdictKind};
use aril_reports::{
    Expectation, ExpectedCell, Metric, ProfileNote, Provenance, RecorderSettings, ReportInput, RunInfo, RunResult,
    Summary, Traffic, Trust, compare, legend, summary_schema, tables, write,
};
use aril_sim::time::Span;

use crate::facts::{record, settings};
use crate::queue::{Route, Setup};

fn result(setup: &Setup) -> RunResult {
    let settings = RecorderSettings { warmup: Span::from_secs(2), drain: Span::from_secs(1), ..settings(setup) };
    record(setup, settings).1.unwrap()
}

fn input(policies: &[(&str, Route)], seeds: &[u64], rate_per_s: f64) -> ReportInput {
    let mut runs = Vec::new();
    for (policy, route) in policies {
        for seed in seeds {
            let setup = Setup { rate_per_s, requests: 1000, ..Setup::new(*route, *seed) };
            let info = RunInfo {
                policy: (*policy).to_owned(),
                seed: *seed,
                point: Vec::new(),
                bound: policy.starts_with("oracle"),
            };
            runs.push((info, result(&setup)));
        }
    }
    of_runs(runs, seeds)
}

fn of_runs(runs: Vec<(RunInfo, RunResult)>, seeds: &[u64]) -> ReportInput {
    ReportInput {
        name: "<i>name</i>".to_owned(),
        description: "\"quotes\" & <b>markup</b>".to_owned(),
        trust: Trust {
            profiles: vec![ProfileNote {
                name: "p".to_owned(),
                kind: Provenance::Published,
                source: "<u>somebody</u>".to_owned(),
            }],
            seeds: seeds.to_vec(),
            warmup: "after the warm-up".to_owned(),
            not_modelled: vec!["everything else".to_owned()],
            build: "test".to_owned(),
            ..Trust::default()
        },
        runs,
        baseline: None,
        primary: Metric::Goodput,
        expectations: Vec::new(),
    }
}

fn html(input: &ReportInput) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(input, folder.path()).unwrap();
    fs::read_to_string(folder.path().join("report.html")).unwrap()
}

#[test]
fn differences_are_paired_by_seed_with_the_tabled_interval() {
    let input = input(&[("a", Route::LeastLoaded), ("b", Route::ByAdapter)], &[1, 2, 3, 4], 45.0);
    let comparison = compare(&ReportInput { baseline: Some("a".to_owned()), ..input.clone() });
    let of = |policy: &str, seed: u64| {
        input
            .runs
            .iter()
            .find(|(info, _)| info.policy == policy && info.seed == seed)
            .and_then(|(_, run)| run.metrics.ttft.p99)
            .unwrap()
    };
    let differences: Vec<f64> = (1..=4).map(|seed| of("b", seed) - of("a", seed)).collect();
    let mean = differences.iter().sum::<f64>() / 4.0;
    let deviation = (differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
    // 3.1824 is the tabled 97.5 % quantile of Student's t at three degrees of freedom.
    let half = 3.182_446 * deviation / 2.0;
    let row = &comparison.points[0].policies[1];
    let difference = row.cell(Metric::TtftP99).unwrap().difference.clone().unwrap();
    let interval = difference.interval.unwrap();
    assert!((difference.mean - mean).abs() < 1e-12);
    assert!((interval.high - interval.low - 2.0 * half).abs() < 1e-5 * half, "{interval:?} {half}");
    assert_eq!(difference.is_better(), Some(false));
    assert!(comparison.points[0].policies[0].cells.iter().all(|cell| cell.difference.is_none()));
}

#[test]
fn equal_policies_tie_and_the_verdict_cannot_tell() {
    let input = input(&[("a", Route::RoundRobin), ("b", Route::RoundRobin)], &[1, 2, 3], 20.0);
    let comparison = compare(&input);
    assert_eq!(comparison.verdict.kind, VerdictKind::CannotTell);
    assert!(
        comparison.verdict.sentence.starts_with("Cannot tell a and b apart on goodput"),
        "{}",
        comparison.verdict.sentence
    );
    let row = &comparison.points[0].policies[1];
    assert!(row.cells.iter().filter_map(|cell| cell.difference.as_ref()).all(|d| d.standing == Standing::Tie));
}

#[test]
fn a_clear_winner_is_named_and_a_bound_never_wins() {
    let input = input(
        &[("spread", Route::LeastLoaded), ("hash", Route::ByAdapter), ("oracle", Route::LeastLoaded)],
        &[1, 2, 3, 4],
        40.0,
    );
    let comparison = compare(&input);
    assert_eq!(comparison.verdict.winner.as_deref(), Some("spread"), "{}", comparison.verdict.sentence);
    let page = html(&input);
    assert!(page.contains(">bound<"));
}

#[test]
fn saturated_policies_are_named_and_not_ranked() {
    let comparison = compare(&input(&[("a", Route::LeastLoaded), ("b", Route::ByAdapter)], &[1, 2], 160.0));
    assert_eq!(comparison.verdict.kind, VerdictKind::Saturated);
    assert_eq!(comparison.verdict.sentence, "Nothing to rank: a and b are all saturated at this load.");
    // At a load between, the one that hashes is saturated and the other is not.
    let comparison = compare(&input(&[("a", Route::LeastLoaded), ("b", Route::ByAdapter)], &[1, 2], 50.0));
    assert_eq!(comparison.points[0].policies.iter().map(|row| row.is_saturated()).collect::<Vec<_>>(), [false, true]);
    assert!(
        comparison.verdict.sentence.starts_with("Only a keeps up with the load"),
        "{}",
        comparison.verdict.sentence
    );
    assert!(comparison.verdict.sentence.ends_with("b is saturated and not ranked."), "{}", comparison.verdict.sentence);
}

#[test]
fn a_single_seed_has_intervals_from_blocks_and_says_so() {
    let input = input(&[("a", Route::LeastLoaded), ("b", Route::ByAdapter)], &[1], 40.0);
    let comparison = compare(&input);
    let difference = comparison.verdict.difference.clone().unwrap();
    let interval = difference.interval.unwrap();
    assert_eq!(interval.samples, 20);
    // Paired block by block, though the runs end at different times.
    let goodput = |run: &RunResult| run.metrics.blocks.iter().map(|block| block.goodput_per_s).collect::<Vec<_>>();
    let (a, b) = (goodput(&input.runs[0].1), goodput(&input.runs[1].1));
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    let mean = differences.iter().sum::<f64>() / 20.0;
    let deviation = (differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 19.0).sqrt();
    // 2.0930 is the tabled 97.5 % quantile of Student's t at 19 degrees of freedom.
    let half = 2.093_024 * deviation / 20f64.sqrt();
    assert!(((interval.high - interval.low) / 2.0 / half - 1.0).abs() < 1e-4, "{interval:?} {half}");
    assert!(comparison.verdict.sentence.contains("one seed, 20 blocks of time"), "{}", comparison.verdict.sentence);
    assert!(html(&input).contains("20 blocks of time of the only seed"));
    let scatter = "the scatter of 20 blocks of time of the run";
    assert!(html(&input).contains(scatter) && legend(&comparison).contains(scatter), "it is not that of repeated runs");
}

#[test]
fn names_with_markup_are_escaped_wherever_they_appear() {
    let setup = Setup { rate_per_s: 20.0, requests: 800, ..Setup::new(Route::RoundRobin, 2) };
    let info = |policy: &str| RunInfo {
        policy: policy.to_owned(),
        seed: 2,
        point: vec![("<axis>".to_owned(), "<value>".to_owned())],
        bound: false,
    };
    let mut input = of_runs(
        vec![(info("<img src=x onerror=alert(1)>"), result(&setup)), (info("\"><script>"), result(&setup))],
        &[2],
    );
    input.expectations.push(Expectation {
        title: "<h1>".to_owned(),
        source: "<em>".to_owned(),
        axes: vec!["<td>".to_owned()],
        rows: vec![ExpectedCell {
            labels: vec!["<tr>".to_owned()],
            published: 1.0,
            ours: Some(1.0),
            tolerance: 0.1,
            ..ExpectedCell::default()
        }],
        ..Expectation::default()
    });
    let page = html(&input);
    for raw in [
        "<img",
        "<script",
        "<i>name",
        "<b>markup",
        "<u>",
        "<axis>",
        "<value>",
        "<h1>\"",
        "<em>",
        "<tr>\"",
        "onerror=alert(1)>",
    ] {
        assert!(!page.contains(raw), "{raw} in the page");
    }
    assert!(page.contains("&lt;script&gt;alert('tenant')&lt;/script&gt;"), "the tenant's name is there, escaped");
    assert!(page.contains("&lt;img src=x"), "the policy's name is there, escaped");
}

#[test]
fn the_page_stands_alone_and_every_figure_has_its_table() {
    let page = html(&input(&[("a", Route::LeastLoaded), ("b", Route::Fullest)], &[1, 2], 25.0));
    for outside in ["http://", "https://", "//cdn", "<script", "<link", "@import", "url(", "<img"] {
        assert!(!page.contains(outside), "{outside} in the page");
    }
    let figures = page.matches("<figure").count();
    assert!(figures >= 12, "{figures}");
    assert_eq!(page.matches("<svg").count(), figures);
    for figure in page.split("<figure").skip(1) {
        let figure = figure.split("</figure>").next().unwrap();
        assert!(figure.contains("as a table") && figure.contains("<td>"), "{}", &figure[..300]);
        assert!(figure.contains("published costs"), "{}", &figure[..300]);
    }
    assert!(page.contains("href=\"runs/a/seed-1/manifest.toml\"") && page.contains("prefers-color-scheme:dark"));
    assert!(page.len() < 2_000_000, "{}", page.len());
}

#[test]
fn the_same_input_gives_the_same_page_and_summary() {
    let input = input(&[("a", Route::LeastLoaded), ("b", Route::Fullest)], &[1, 2], 25.0);
    let files = || {
        let folder = tempfile::tempdir().unwrap();
        let written = write(&input, folder.path()).unwrap();
        (fs::read(written.report).unwrap(), fs::read(written.summary).unwrap())
    };
    assert!(files() == files());
}

#[test]
fn a_summary_is_read_back_and_follows_its_schema() {
    let input = input(&[("a", Route::LeastLoaded), ("b", Route::Fullest)], &[1, 2], 25.0);
    let folder = tempfile::tempdir().unwrap();
    let written = write(&input, folder.path()).unwrap();
    let text = fs::read_to_string(written.summary).unwrap();
    let summary: Summary = serde_json::from_str(&text).unwrap();
    // Both sides were read from text: a reader may be off by one in the last bit of a number.
    let again = serde_json::to_string(&Summary::of(&input)).unwrap();
    assert_eq!(summary, serde_json::from_str::<Summary>(&again).unwrap());
    assert_eq!(summary.schema, "aril-summary/1");
    let schema = serde_json::to_value(summary_schema()).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let required: Vec<&str> = schema["required"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    assert!(required.iter().all(|name| value.get(name).is_some()) && required.contains(&"comparison"), "{required:?}");
    let described = schema["$defs"]["RunMetrics"]["properties"].as_object().unwrap();
    assert!(
        value["runs"][0]["metrics"]
            .as_object()
            .unwrap()
            .keys()
            .all(|name| described[name].get("description").is_some())
    );
}

#[test]
fn a_sweep_has_a_line_for_each_policy_and_a_verdict_over_all_points() {
    let mut runs = Vec::new();
    for rate in [10.0, 30.0, 40.0] {
        for (policy, route) in [("a", Route::LeastLoaded), ("b", Route::ByAdapter)] {
            for seed in [1, 2, 3] {
                let setup = Setup { rate_per_s: rate, requests: 800, ..Setup::new(route, seed) };
                let info = RunInfo {
                    policy: policy.to_owned(),
                    seed,
                    point: vec![("rate".to_owned(), rate.to_string())],
                    bound: false,
                };
                runs.push((info, result(&setup)));
            }
        }
    }
    let input = of_runs(runs, &[1, 2, 3]);
    let comparison = compare(&input);
    assert_eq!(comparison.points.len(), 3);
    assert_eq!(
        tables(&comparison).iter().map(|table| table.title.as_str()).collect::<Vec<_>>(),
        ["rate = 10", "rate = 30", "rate = 40"]
    );
    assert!(
        comparison
            .verdict
            .sentence
            .starts_with("Of 3 points, on goodput, a is best at 1; no single best can be told at 2 ("),
        "{}",
        comparison.verdict.sentence
    );
    let by = comparison.verdict.sentence.split("; the narrowest lead of a is ").nth(1).unwrap_or_default();
    assert!(by.contains("95 % interval") && by.contains("at rate = "), "{}", comparison.verdict.sentence);
    let page = html(&input);
    assert!(page.contains("Each point of the sweep") && page.matches("<details class=\"point\">").count() == 3);
    let opening = page.split("Each point of the sweep").next().unwrap();
    let table = opening.split("<table").nth(1).and_then(|rest| rest.split("</table>").next()).unwrap();
    for asked in ["goodput", "attainment", "TTFT p99", "TPOT p99", "cost per million output tokens"] {
        assert!(table.contains(asked), "the first screen of a sweep says {asked}");
    }
    assert_eq!(table.matches("<tr").count(), 1 + 3 * 2, "a row for each policy at each point");
}

#[test]
fn the_verdict_is_told_first_and_what_it_rests_on_after_it() {
    let kind = VerdictKind::CannotTell;
    let of = |sentence: &str| Verdict {
        kind,
        sentence: sentence.to_owned(),
        winner: None,
        leaders: Vec::new(),
        difference: None,
    };
    let verdict = of("a is best on goodput: 4.1/s, +3 % (95 % interval: +1 to +5 %) against the next best, b.");
    let rest = "4.1/s, +3 % (95 % interval: +1 to +5 %) against the next best, b.";
    assert_eq!(verdict.in_two(), ("a is best on goodput", rest));
    let better =
        of("a is better on goodput than the baseline, c (+20 %), and cannot be told from b: 4.1/s, +3 % against b.");
    assert_eq!(better.in_two().1, "4.1/s, +3 % against b.");
    let over = of("Of 8 points, on goodput, no single best can be told at 8 (among the best: a at 8).");
    assert_eq!(over.in_two(), (over.sentence.as_str(), ""));
}

#[test]
fn a_closed_loop_is_ranked_by_what_decides() {
    let mut runs = Vec::new();
    for (policy, batch) in [("small batches", 4), ("large batches", 16)] {
        for seed in [1, 2, 3] {
            let setup = Setup { rate_per_s: 1e9, requests: 400, batch, ..Setup::new(Route::LeastLoaded, seed) };
            let settings = RecorderSettings { traffic: Traffic::Closed, ..settings(&setup) };
            let info = RunInfo { policy: policy.to_owned(), seed, ..RunInfo::default() };
            runs.push((info, record(&setup, settings).1.unwrap()));
        }
    }
    let input = ReportInput { primary: Metric::TotalTokenThroughput, ..of_runs(runs, &[1, 2, 3]) };
    let verdict = compare(&input).verdict;
    assert_eq!(verdict.winner.as_deref(), Some("large batches"), "{}", verdict.sentence);
    assert!(html(&input).contains("Prompt and output tokens"));
}

#[test]
fn a_closed_loop_with_one_seed_has_intervals_from_the_blocks_of_each_window() {
    let runs = [("small", 4), ("large", 16)].map(|(policy, batch)| {
        let setup = Setup { rate_per_s: 1e9, requests: 600, batch, ..Setup::new(Route::LeastLoaded, 1) };
        let settings = RecorderSettings { traffic: Traffic::Closed, ..settings(&setup) };
        (RunInfo { policy: policy.to_owned(), seed: 1, ..RunInfo::default() }, record(&setup, settings).1.unwrap())
    });
    let input = ReportInput { primary: Metric::TotalTokenThroughput, ..of_runs(runs.to_vec(), &[1]) };
    let verdict = compare(&input).verdict;
    assert_eq!(verdict.winner.as_deref(), Some("large"), "{}", verdict.sentence);
    let half = |run: &RunResult| {
        let values: Vec<f64> = run.metrics.blocks.iter().map(|block| block.total_tokens_per_s).collect();
        let mean = values.iter().sum::<f64>() / 20.0;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 19.0;
        // 2.0930 is the tabled 97.5 % quantile of Student's t at 19 degrees of freedom.
        2.093_024 * (variance / 20.0).sqrt()
    };
    let interval = verdict.difference.unwrap().interval.unwrap();
    let expected = half(&input.runs[0].1).hypot(half(&input.runs[1].1));
    assert!(((interval.high - interval.low) / 2.0 / expected - 1.0).abs() < 1e-4, "{interval:?} {expected}");
}

#[test]
fn runs_with_other_requests_are_noted() {
    let runs = [("a", 800), ("b", 700)].map(|(policy, requests)| {
        let setup = Setup { requests, rate_per_s: 20.0, ..Setup::new(Route::RoundRobin, 1) };
        (RunInfo { policy: policy.to_owned(), seed: 1, ..RunInfo::default() }, result(&setup))
    });
    let comparison = compare(&of_runs(runs.to_vec(), &[1]));
    assert!(
        comparison.notes.iter().any(|note| note.contains("different numbers of requests")),
        "{:?}",
        comparison.notes
    );
}

#[test]
fn a_warmup_that_is_longer_than_the_traffic_is_an_error_with_a_way_out() {
    let setup = Setup { requests: 100, ..Setup::new(Route::RoundRobin, 1) };
    let error = record(&setup, RecorderSettings { warmup: Span::from_secs(3600), ..settings(&setup) }).1.unwrap_err();
    assert!(error.to_string().contains("shorten them"), "{error}");
}
