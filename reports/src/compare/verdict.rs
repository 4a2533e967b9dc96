//! One sentence: who is better, by how much, how sure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Basis, CONFIDENCE, Difference, PointComparison, PolicyRuns, difference};
use crate::format;
use crate::metric::{Better, Metric};
use crate::statistics::t_interval;
use crate::terminal::point_name;

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// One policy is better than every other one.
    Better,
    /// The best ones cannot be told apart.
    CannotTell,
    /// Nothing can be ranked: every policy is saturated.
    Saturated,
    /// There is nothing to compare with.
    Alone,
}

/// One sentence, and what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// What can be said.
    pub kind: VerdictKind,
    /// In words.
    pub sentence: String,
    /// The policy that is better than every other one.
    pub winner: Option<String>,
    /// The policy that does best, and those that cannot be told from it.
    #[serde(default)]
    pub leaders: Vec<String>,
    /// It against the baseline, or else against the next best one.
    pub difference: Option<Difference>,
}

/// The policy that does best on `metric`, of those that can be ranked; of all if none can.
pub(super) fn best<'a, 'b>(metric: Metric, policies: &'b [PolicyRuns<'a>]) -> Option<&'b PolicyRuns<'a>> {
    let ranked = rank(metric, policies);
    ranked.first().copied().or_else(|| policies.iter().find(|policy| !policy.bound))
}

/// The policies that can be ranked, best first: not saturated, not a bound, with a value.
fn rank<'a, 'b>(metric: Metric, policies: &'b [PolicyRuns<'a>]) -> Vec<&'b PolicyRuns<'a>> {
    let mut ranked: Vec<_> = policies
        .iter()
        .filter(|policy| !policy.bound && !policy.is_saturated())
        .filter_map(|policy| policy.mean(metric).map(|value| (value, policy)))
        .collect();
    // Stable: equals stay in the order of the scenario.
    ranked.sort_by(|(a, _), (b, _)| match metric.better() {
        Better::Higher => b.total_cmp(a),
        Better::Lower => a.total_cmp(b),
    });
    ranked.into_iter().map(|(_, policy)| policy).collect()
}

impl Verdict {
    /// Over the policies at one point.
    pub(super) fn at_point(metric: Metric, policies: &[PolicyRuns<'_>], baseline: Option<&str>) -> Verdict {
        let ranked = rank(metric, policies);
        let saturated: Vec<&str> =
            policies.iter().filter(|policy| !policy.bound && policy.is_saturated()).map(|p| p.policy).collect();
        let tail = match saturated.as_slice() {
            [] => String::new(),
            names => format!(
                " {} {} saturated and not ranked.",
                format::list(names),
                if names.len() == 1 { "is" } else { "are" }
            ),
        };
        match ranked.as_slice() {
            [] if saturated.is_empty() => {
                Verdict::plain(VerdictKind::Alone, format!("No policy has a value for {}.", metric.title()))
            }
            [] => Verdict::plain(
                VerdictKind::Saturated,
                format!(
                    "Nothing to rank: {} {} saturated at this load.",
                    format::list(&saturated),
                    if saturated.len() == 1 { "is" } else { "are all" }
                ),
            ),
            [only] => Verdict::plain(VerdictKind::Alone, alone(metric, only, !saturated.is_empty()) + &tail),
            [best, others @ ..] => {
                let mut verdict = of_ranked(metric, best, others, baseline);
                verdict.sentence += &tail;
                verdict
            }
        }
    }

    /// Over all points of a sweep.
    pub(super) fn over_points(metric: Metric, points: &[PointComparison]) -> Verdict {
        if let [point] = points {
            return point.verdict.clone();
        }
        let wins = tally(points.iter().filter_map(|point| point.verdict.winner.as_deref()));
        let is_tie = |point: &&PointComparison| point.verdict.kind == VerdictKind::CannotTell;
        let leaders = tally(points.iter().filter(is_tie).flat_map(|point| &point.verdict.leaders).map(String::as_str));
        let count = |kind| points.iter().filter(|point| point.verdict.kind == kind).count();
        let (unknown, saturated) = (count(VerdictKind::CannotTell), count(VerdictKind::Saturated));
        let mut parts: Vec<String> = wins.iter().map(|(name, wins)| format!("{name} is best at {wins}")).collect();
        if unknown > 0 {
            let often: Vec<String> = leaders.iter().take(3).map(|(name, times)| format!("{name} at {times}")).collect();
            parts.push(format!("no single best can be told at {unknown} (among the best: {})", often.join(", ")));
        }
        if saturated > 0 {
            parts.push(format!("every policy is saturated at {saturated}"));
        }
        if parts.is_empty() {
            parts.push("one policy to rank at each".to_owned());
        }
        let winner = wins.first().filter(|(_, count)| *count == points.len()).map(|(name, _)| (*name).to_owned());
        let kind = match (&winner, unknown, saturated) {
            (Some(_), _, _) => VerdictKind::Better,
            (None, 0, all) if all == points.len() && all > 0 => VerdictKind::Saturated,
            (None, 0, 0) if wins.is_empty() => VerdictKind::Alone,
            _ => VerdictKind::CannotTell,
        };
        parts.extend(by_what(metric, points, wins.first().map(|(name, _)| *name)));
        let sentence = format!("Of {} points, on {}, {}.", points.len(), metric.title(), parts.join("; "));
        Verdict { kind, sentence, winner, leaders: Vec::new(), difference: None }
    }

    /// The sentence in two: what is so, and what that rests on (empty where there is nothing to add).
    pub fn in_two(&self) -> (&str, &str) {
        let mut depth = 0;
        let colon = self.sentence.char_indices().find(|&(at, c)| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0 && self.sentence[at..].starts_with(": ")
        });
        match colon {
            Some((at, _)) => (&self.sentence[..at], &self.sentence[at + 2..]),
            None => (&self.sentence, ""),
        }
    }

    fn plain(kind: VerdictKind, sentence: String) -> Verdict {
        Verdict { kind, sentence, winner: None, leaders: Vec::new(), difference: None }
    }
}

/// By how much, with its interval: the narrowest lead of whoever leads most often, or else the widest difference that is no lead.
fn by_what(metric: Metric, points: &[PointComparison], winner: Option<&str>) -> Option<String> {
    let known = points.iter().filter_map(|point| Some((point, point.verdict.difference.as_ref()?)));
    let size = |d: &Difference| d.relative.unwrap_or(d.mean).abs();
    let by_size =
        |a: &(&PointComparison, &Difference), b: &(&PointComparison, &Difference)| size(a.1).total_cmp(&size(b.1));
    let ((point, difference), what) = match winner {
        Some(name) => {
            let led = known.filter(|(point, _)| point.verdict.winner.as_deref() == Some(name));
            (led.min_by(by_size)?, format!("the narrowest lead of {name}"))
        }
        None => {
            let tied = known.filter(|(point, _)| point.verdict.kind == VerdictKind::CannotTell);
            (tied.max_by(by_size)?, "the widest difference of those".to_owned())
        }
    };
    let corrected = if point.policies.len() > 2 { CORRECTED } else { "" };
    Some(format!("{what} is {}, at {}", said(metric, difference, corrected), point_name(&point.point)))
}

/// How often each name occurs, the most frequent first, ties in order of first appearance.
fn tally<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, usize)> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for name in names {
        match counts.iter_mut().find(|(other, _)| *other == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

/// What to say of a single policy that can be ranked.
fn alone(metric: Metric, policy: &PolicyRuns<'_>, others_saturated: bool) -> String {
    let value = policy.mean(metric).map_or_else(|| "?".to_owned(), |value| format::value(metric, value));
    let spread = match t_interval(&policy.values(metric), CONFIDENCE) {
        Some(interval) if interval.high > interval.low => format!(
            " (95 % interval {} to {}, {} seeds)",
            format::value(metric, interval.low),
            format::value(metric, interval.high),
            interval.samples
        ),
        _ => String::new(),
    };
    if others_saturated {
        format!("Only {} keeps up with the load: {} {value}{spread}.", policy.policy, metric.title())
    } else {
        format!("{}: {} {value}{spread}; there is no other policy to compare with.", policy.policy, metric.title())
    }
}

/// A headline names so many policies and counts the rest.
const NAMED_MAX: usize = 6;

/// The first of the names, and how many more there are.
fn some(names: &[&str]) -> String {
    if names.len() <= NAMED_MAX {
        return format::list(names);
    }
    let more = format!("{} more", names.len() - NAMED_MAX + 1);
    let mut shown = names[..NAMED_MAX - 1].to_vec();
    shown.push(&more);
    format::list(&shown)
}

/// Of intervals wider than 95 % by themselves, because the best was picked after the fact.
const CORRECTED: &str = ", corrected for picking the best";

/// What to say of at least two policies that can be ranked.
fn of_ranked(metric: Metric, best: &PolicyRuns<'_>, others: &[&PolicyRuns<'_>], baseline: Option<&str>) -> Verdict {
    // The best one was picked after the fact: each of the comparisons it has to win gets its share of the 5 %.
    let confidence = 1.0 - (1.0 - CONFIDENCE) / others.len() as f64;
    let against = |other: &PolicyRuns<'_>, metric| difference(metric, best, other, confidence);
    let is_beaten = |other: &PolicyRuns<'_>| against(other, metric).and_then(|d| d.is_better()) == Some(true);
    let equals: Vec<&PolicyRuns<'_>> = others.iter().copied().filter(|other| !is_beaten(other)).collect();
    let opponent = others.iter().copied().find(|other| Some(other.policy) == baseline).unwrap_or(others[0]);
    let opponent = if equals.is_empty() { opponent } else { equals[0] };
    let difference = against(opponent, metric);
    let value = best.mean(metric).map_or_else(String::new, |value| format::value(metric, value));
    let corrected = if others.len() > 1 { CORRECTED } else { "" };
    let said = difference.as_ref().map(|d| said(metric, d, corrected)).unwrap_or_default();
    if equals.is_empty() {
        let role = if Some(opponent.policy) == baseline { "the baseline" } else { "the next best" };
        let sentence = format!(
            "{} is best on {}: {value}, {said} against {role}, {}.",
            best.policy,
            metric.title(),
            opponent.policy
        );
        return Verdict {
            kind: VerdictKind::Better,
            sentence,
            winner: Some(best.policy.to_owned()),
            leaders: vec![best.policy.to_owned()],
            difference,
        };
    }
    let names: Vec<&str> = std::iter::once(best.policy).chain(equals.iter().map(|other| other.policy)).collect();
    let beaten: Vec<&PolicyRuns<'_>> = others.iter().copied().filter(|other| !names.contains(&other.policy)).collect();
    let (base, rest): (Vec<&PolicyRuns<'_>>, Vec<&PolicyRuns<'_>>) =
        beaten.iter().copied().partition(|other| Some(other.policy) == baseline);
    let rest: Vec<&str> = rest.iter().map(|other| other.policy).collect();
    let same = difference.as_ref().is_some_and(|d| d.mean == 0.0);
    // Only the best was held against those that it beats.
    let mut sentence = match base.first() {
        // Whoever set a baseline asks about it first.
        Some(base) => {
            let by = against(base, metric).map(|d| by_how_much(metric, &d)).unwrap_or_default();
            let against_it = if same {
                format!("the same as {}", opponent.policy)
            } else {
                format!("{said} against {}", opponent.policy)
            };
            format!(
                "{} is better on {} than the baseline, {}{by}, and cannot be told from {}: {value}, {against_it}",
                best.policy,
                metric.title(),
                base.policy,
                some(&names[1..])
            )
        }
        None if same => {
            let who =
                if names.len() == 2 { "both".to_owned() } else { format!("{} and {}", best.policy, opponent.policy) };
            format!("Cannot tell {} apart on {}: {who} {value}", some(&names), metric.title())
        }
        None => format!(
            "Cannot tell {} apart on {}: {} {value}, {said} against {}",
            some(&names),
            metric.title(),
            best.policy,
            opponent.policy
        ),
    };
    if !rest.is_empty() {
        sentence +=
            &format!("; {} is {}better than {}", best.policy, if base.is_empty() { "" } else { "also " }, some(&rest));
    }
    if let Some(more) = second_opinion(metric, best, &equals, confidence) {
        sentence += &more;
    }
    let leaders = names.iter().map(|name| (*name).to_owned()).collect();
    Verdict { kind: VerdictKind::CannotTell, sentence: sentence + ".", winner: None, leaders, difference }
}

/// A difference in brackets, without its interval.
fn by_how_much(metric: Metric, d: &Difference) -> String {
    match d.relative {
        Some(relative) => format!(" ({})", format::signed_percent(relative)),
        None => format!(" ({})", format::signed(metric, d.mean)),
    }
}

/// Where policies tie on what decides, one difference in latency is worth a clause.
fn second_opinion(
    metric: Metric,
    best: &PolicyRuns<'_>,
    equals: &[&PolicyRuns<'_>],
    confidence: f64,
) -> Option<String> {
    let [other] = equals else { return None };
    let second = if metric == Metric::TtftP99 { Metric::TpotP99 } else { Metric::TtftP99 };
    let d = difference(second, best, other, confidence)?;
    d.is_better()?;
    let relative = d.relative?;
    let (who, than) = if relative < 0.0 { (best.policy, other.policy) } else { (other.policy, best.policy) };
    let less = if relative < 0.0 { -relative } else { relative / (1.0 + relative) };
    Some(format!("; {} of {who} is {} lower than that of {than}", second.title(), format::percent(less)))
}

/// A difference in words: relative where there is something to relate to.
fn said(metric: Metric, d: &Difference, corrected: &str) -> String {
    let scale = d.relative.filter(|_| d.mean != 0.0).map(|relative| relative / d.mean);
    let write = |x: f64| match scale {
        Some(scale) => format::signed_percent(x * scale),
        None => format::signed(metric, x),
    };
    let basis = |n: usize| match d.basis {
        Basis::Seeds => format!("{n} seeds"),
        _ => format!("one seed, {n} blocks of time"),
    };
    match d.interval {
        Some(interval) => {
            // One percent sign for both ends.
            let (low, high) = (write(interval.low), write(interval.high));
            let low = if high.ends_with(" %") { low.trim_end_matches(" %").to_owned() } else { low };
            format!("{} (95 % interval {low} to {high}, {}{corrected})", write(d.mean), basis(interval.samples))
        }
        None => format!("{} (one seed: no interval)", write(d.mean)),
    }
}
