//! What other plans gave at the points that miss a target, and whether one of them meets it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{Measured, Set, short_hash};

/// What `lora-*-tried.json` says of one point.
struct Trial<'a> {
    copy_us: f64,
    /// Back to back, and after another kernel: in terms of the run that tried.
    targets: [f64; 2],
    plans: Vec<Tried<'a>>,
}

struct Tried<'a> {
    plan: &'a str,
    /// Whether the plan would choose it back to back, and after another kernel.
    own: [bool; 2],
    /// Microseconds back to back, and after another kernel where that was measured.
    us: [Option<f64>; 2],
    /// What it took after another kernel is what it took after a plain copy kernel.
    stands_in: bool,
}

/// Who of the tried plans meets a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    /// The point's own plan, in the run that tried: what is missing is less than what runs, or kernels before a call, differ by.
    Own,
    /// Another plan: the rules choose one that is slower.
    Other,
    Nobody,
    NotTried,
}

const WHEN: [&str; 2] = ["back to back", "after another kernel"];

impl<'a> Trial<'a> {
    fn find(report: &'a Value, set: &Set<'_>, point: &Measured<'_>) -> Option<Trial<'a>> {
        let name = point.text("point");
        let result = report["results"].as_array()?.iter().find(|result| result["point"].as_str() == Some(name))?;
        let copy_us = result["copy_us"].as_f64()?;
        let own = |when: usize, plan: &str| result["own"][when].as_str() == Some(plan);
        let plans = result["tried"].as_array()?.iter().filter_map(|tried| {
            let plan = tried["plan"].as_str()?;
            let pair = tried["pair_us"].as_f64()?;
            let gemm = tried["after_gemm_us"].as_f64().filter(|&us| us > pair);
            let after = gemm.or_else(|| tried["after_us"].as_f64());
            let own = [own(0, plan), own(1, plan)];
            Some(Tried { plan, own, us: [Some(pair), after], stands_in: gemm.is_none() && after.is_some() })
        });
        Some(Trial { copy_us, targets: set.targets_at(copy_us, point), plans: plans.collect() })
    }

    fn met(&self, when: usize) -> Met {
        let meets = |tried: &&Tried<'_>| tried.us[when].is_some_and(|us| us <= self.targets[when]);
        let meeting: Vec<&Tried<'_>> = self.plans.iter().filter(meets).collect();
        match meeting.iter().any(|tried| tried.own[when]) {
            _ if meeting.is_empty() => Met::Nobody,
            true => Met::Own,
            false => Met::Other,
        }
    }

    /// The quickest plans, with a mark on those that meet the target.
    fn quickest(&self, when: usize, count: usize) -> String {
        let mut timed: Vec<(f64, &Tried<'_>)> =
            self.plans.iter().filter_map(|tried| Some((tried.us[when]?, tried))).collect();
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let shown = timed.iter().take(count).map(|(us, tried)| {
            let own = if tried.own[when] { " (own)" } else { "" };
            let stands_in = if when == 1 && tried.stands_in { " †" } else { "" };
            let mark = if *us <= self.targets[when] { " ✓" } else { "" };
            format!("{}{own} **{us:.2}**{stands_in}{mark}", tried.plan)
        });
        shown.collect::<Vec<_>>().join("; ")
    }
}

/// The table of tried plans, and for which points one of them meets the target.
///
/// `bounds` ends the sentence of what is left where none does.
pub(crate) fn write(page: &mut String, report: &Value, set: &Set<'_>, missed: &[&Measured<'_>], bounds: &str) {
    if !report["results"].is_array() {
        return;
    }
    let trials: Vec<(&Measured<'_>, Option<Trial<'_>>)> =
        missed.iter().map(|&point| (point, Trial::find(report, set, point))).collect();
    let _ = write!(
        page,
        "\nWhat other plans gave at these points, in one run on one {} with sources `{}`, {} (a copy and the targets of that \
         run beside them): the five quickest of those that were tried, as row tile, blocks, members of a cluster (1: sums \
         go through global memory), shared memory a block, when the next launch may start its blocks; and the three \
         quickest after the backbone's GEMM, where that was measured. *Own* is what the plan chooses; ✓: within the target; \
         †: after a plain copy kernel, as above.\n\n",
        report["gpu"].as_str().unwrap_or("?").trim_start_matches("NVIDIA "),
        short_hash(report),
        report["date"].as_str().unwrap_or("?"),
    );
    for (when, name) in WHEN.iter().enumerate() {
        let met: Vec<(&str, Met)> = trials
            .iter()
            .filter(|(point, _)| set.misses(point)[when])
            .map(|(point, trial)| (point.text("point"), trial.as_ref().map_or(Met::NotTried, |trial| trial.met(when))))
            .collect();
        page.push_str(&summary(name, &met));
    }
    let _ = write!(
        page,
        "Where no tried plan meets its target, no rule that chooses among them would: what is left there is the kernels' or the \
         hardware's{bounds}.\n\n\
         | point | copy | target | tried, back to back: µs | target after another | tried, after another: µs |\n\
         |---|---|---|---|---|---|\n",
    );
    for (point, trial) in &trials {
        let name = point.text("point");
        let Some(trial) = trial else {
            let _ = writeln!(page, "| {name} | | | not measured | | not measured |");
            continue;
        };
        let [target, target_after] = trial.targets;
        let after = trial.quickest(1, 3);
        let _ = writeln!(
            page,
            "| {name} | {:.2} | {target:.2} | {} of {} tried: {} | {target_after:.2} | {} |",
            trial.copy_us,
            trial.plans.len().min(5),
            trial.plans.len(),
            trial.quickest(0, 5),
            if after.is_empty() { "not measured" } else { &after },
        );
    }
}

/// Of the points that miss one target: which of them a tried plan would serve.
fn summary(when: &str, met: &[(&str, Met)]) -> String {
    if met.is_empty() {
        return String::new();
    }
    let mut text = format!("Of the {} points that miss {when}:", met.len());
    let cases = [
        (
            Met::Other,
            "another plan than the point's own meets the target, so that the plan's rules miss it and not the hardware",
        ),
        (
            Met::Own,
            "the point's own plan meets it in this run, so that what is missing is less than what two runs, or two kernels before the call, differ by",
        ),
        (Met::Nobody, "no tried plan meets it"),
        (Met::NotTried, "nothing was tried"),
    ];
    let mut parts = Vec::new();
    for (which, what) in cases {
        let names: Vec<&str> = met.iter().filter(|(_, met)| *met == which).map(|(name, _)| *name).collect();
        // The rows of the table show the rest.
        let listed =
            if names.is_empty() || which == Met::Nobody { String::new() } else { format!(" ({})", names.join("; ")) };
        if !names.is_empty() {
            parts.push(format!(" at **{}** {what}{listed}", names.len()));
        }
    }
    text.push_str(&parts.join(","));
    text.push_str(". ");
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Peers;

    fn report() -> Value {
        json!({ "results": [{ "point": "p", "copy_us": 4.0, "own": ["slow", "slow"], "tried": [
            { "plan": "slow", "pair_us": 5.0, "after_us": 9.0, "after_gemm_us": 8.0 },
            { "plan": "quick", "pair_us": 4.0, "after_us": 7.0, "after_gemm_us": 3.0 },
            { "plan": "other", "pair_us": 6.0, "after_us": null, "after_gemm_us": null },
        ] }] })
    }

    fn with_trial(copy_us: f64, then: impl Fn(Trial<'_>)) {
        let mut report = report();
        report["results"][0]["copy_us"] = json!(copy_us);
        let (run, point, peers) = (json!({ "gpu": "H100" }), json!({ "point": "p" }), Peers(Vec::new()));
        let set = Set { name: "lora", report: &run, points: &[], peers: &peers, current: "" };
        then(Trial::find(&report, &set, &Measured(&point)).expect("the point was tried"));
    }

    #[test]
    fn a_time_after_the_gemm_below_that_back_to_back_is_no_time() {
        with_trial(4.0, |trial| {
            let after: Vec<_> = trial.plans.iter().map(|tried| (tried.us[1], tried.stands_in)).collect();
            assert_eq!(after, [(Some(8.0), false), (Some(7.0), true), (None, false)]);
        });
    }

    #[test]
    fn who_meets_a_target_is_told_apart() {
        // 1.15 × 3 + 1 = 4.45 and 1.25 × 3 + 2.4 = 6.15.
        with_trial(3.0, |trial| assert_eq!([trial.met(0), trial.met(1)], [Met::Other, Met::Nobody]));
        // 6.75 and 8.65.
        with_trial(5.0, |trial| assert_eq!([trial.met(0), trial.met(1)], [Met::Own, Met::Own]));
        // 5.6 and 7.4.
        with_trial(4.0, |trial| assert_eq!([trial.met(0), trial.met(1)], [Met::Own, Met::Other]));
    }
}
