//! `[sweep]`: every combination, each with every policy and seed.

use super::bench::{Bench, SMALL};

fn summary(bench: &Bench, arguments: &[&str]) -> serde_json::Value {
    let mut all = vec!["run", "s.toml", "--format", "json"];
    all.extend(arguments);
    serde_json::from_str(&bench.ok(&all)).expect("JSON")
}

#[test]
fn a_point_of_a_sweep_gives_the_numbers_of_its_values_set_by_hand() {
    let swept = SMALL.to_owned()
        + "[sweep]\n\"traffic.rate_scale\" = { from = 1, to = 4, points = 3, spacing = \"log\" }\n\"engine.aril.max_num_seqs\" = [4, 8]\n";
    let bench = Bench::with(&swept);
    let whole = summary(&bench, &["--out", "whole"]);
    assert_eq!(whole["runs"].as_array().expect("runs").len(), 3 * 2 * 2);
    bench.write("s.toml", SMALL);
    let one =
        summary(&bench, &["--set", "traffic.rate_scale=2", "--set", "engine.aril.max_num_seqs=8", "--out", "one"]);
    let point = serde_json::json!([["traffic.rate_scale", "2"], ["engine.aril.max_num_seqs", "8"]]);
    for run in one["runs"].as_array().expect("runs") {
        let same = whole["runs"]
            .as_array()
            .expect("runs")
            .iter()
            .find(|other| other["run"]["point"] == point && other["run"]["policy"] == run["run"]["policy"]);
        assert_eq!(same.expect("the point is there")["metrics"], run["metrics"]);
    }
}

#[test]
fn a_published_table_is_judged_cell_by_cell_and_a_miss_exits_with_1() {
    let swept = SMALL.to_owned()
        + "[sweep]\n\"engine.aril.max_num_seqs\" = [4, 8]\n\n[expect]\ntable = \"published.csv\"\ntolerance = \"10%\"\nfitted = { max_num_seqs = \"4\" }\n\n[[expect.exempt]]\npolicy = \"spread\"\nreason = \"another machine\"\n";
    let bench = Bench::with(&swept);
    bench.write(
        "published.csv",
        "# somebody\npolicy,max_num_seqs,total-token-throughput\npunica,4,1\npunica,8,1\nspread,8,1\nunheard-of,8,1\n",
    );
    let done = bench.aril(&["run", "s.toml"]);
    assert_eq!(done.code, 1, "{}{}", done.err, done.out);
    for text in ["fitted", "MISSES", "exempt: another machine", "no run", "0 of 1 judged cells"] {
        assert!(done.out.contains(text), "{text} is not in\n{}", done.out);
    }
    let json: serde_json::Value = serde_json::from_str(&bench.text("runs/small/summary.json")).expect("JSON");
    let ours = json["expectations"][0]["rows"][1]["ours"].as_f64().expect("our figure");
    bench.write("published.csv", format!("policy,max_num_seqs,total-token-throughput\npunica,8,{ours}\n"));
    bench.write(
        "s.toml",
        bench.text("s.toml").replace("[[expect.exempt]]\npolicy = \"spread\"\nreason = \"another machine\"\n", ""),
    );
    assert!(bench.ok(&["run", "s.toml", "--force"]).contains("1 of 1 judged cells"));
}

#[test]
fn a_base_that_only_its_sweep_completes_is_whole() {
    let bench = Bench::changed("replicas = 2\n", "");
    bench.write("s.toml", bench.text("s.toml") + "[sweep]\n\"pool.a100-80gb.replicas\" = [1, 3]\n");
    assert!(bench.ok(&["check", "s.toml"]).contains("\"pool.a100-80gb.replicas\" = [1, 3]"));
}
