//! Lies that the books must name: facts of honest runs, with one of them dropped, told twice, told at another time, or with another
//! figure in it.
//!
//! Each check of the books has words of its own, and a lie here that makes it say them.

mod adapters;
mod lives;
mod places;
mod run;
mod steps;
mod waits;

use std::collections::BTreeSet;

use aril_sim::settings::ReplicaSettings;

use super::case::Case;
use run::Run;

/// What is told otherwise than it was.
struct Lie {
    what: &'static str,
    /// Words of the check that is made for it.
    named: &'static str,
    /// The run with a lie in place of this fact; none if it cannot be told of it.
    tell: fn(&Run, usize) -> Option<Run>,
}

/// How often a lie is told, and how often of one run.
const TELLINGS: usize = 1_000;
const TELLINGS_OF_A_RUN: usize = 20;

fn honest() -> Vec<Run> {
    let runs: Vec<Run> = (1..=500).map(|seed| Run::of(&Case::draw(seed))).collect();
    for run in &runs {
        assert_eq!(run.problem(), None, "nobody has lied yet");
    }
    runs
}

fn lies() -> impl Iterator<Item = &'static Lie> {
    [places::LIES, lives::LIES, steps::LIES, adapters::LIES, waits::LIES].into_iter().flatten()
}

#[test]
fn every_lie_is_noticed_and_named() {
    let runs = honest();
    let mut faults = Vec::new();
    for lie in lies() {
        let (mut told, mut named, mut others) = (0, 0, BTreeSet::new());
        for run in &runs {
            let tellings = (0..run.facts.len()).filter_map(|place| Some((place, (lie.tell)(run, place)?)));
            for (place, lied) in tellings.take(TELLINGS_OF_A_RUN) {
                told += 1;
                match lied.problem() {
                    Some(problem) if problem.contains(lie.named) => named += 1,
                    Some(problem) => {
                        others.insert(problem.rsplit(": ").next().unwrap_or_default().to_owned());
                    }
                    None => faults.push(format!("{}: not noticed in place of {:?}", lie.what, run.facts[place])),
                }
            }
            if told >= TELLINGS && named > 0 {
                break;
            }
        }
        if named == 0 {
            faults.push(format!("{}: told {told} times, never named \"{}\", but {others:?}", lie.what, lie.named));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A limit that is tighter than the one that was kept: whoever went up to it went beyond.
type Tighter = fn(&mut ReplicaSettings);

const LIMITS: &[(&str, Tighter)] = &[
    (" sequences in a batch of", |replica| replica.max_num_seqs -= 1),
    (" tokens in a step", |replica| replica.max_num_batched_tokens /= 2),
    (" adapters in a step", |replica| replica.max_loras -= 1),
    (" KV blocks are used of", |replica| replica.kv_blocks = replica.kv_blocks * 2 / 3),
    (" adapters do not fit", |replica| replica.gpu_adapters = run::less(replica.gpu_adapters)),
];

#[test]
fn every_limit_is_known_to_the_books() {
    let runs = honest();
    for (named, tighter) in LIMITS {
        let over = |run: &Run| {
            let mut run = run.clone();
            run.case.scenario.settings.replicas.iter_mut().for_each(tighter);
            run.problem().is_some_and(|problem| problem.contains(named))
        };
        let count = runs.iter().filter(|run| over(run)).count();
        assert!(count >= 5, "{named}: {count} of {} runs are beyond it", runs.len());
    }
}

#[test]
fn every_check_of_the_books_has_a_lie() {
    let sources = concat!(
        include_str!("../../src/conformance/books.rs"),
        include_str!("../../src/conformance/books/adapters.rs"),
        include_str!("../../src/conformance/books/life.rs"),
        include_str!("../../src/conformance/books/little.rs"),
        include_str!("../../src/conformance/books/steps.rs"),
        include_str!("../../src/conformance/books/waits.rs"),
    );
    let code = sources.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let checks = code.matches("ensure(").count() - code.matches("fn ensure(").count() + code.matches(".ok_or").count();
    let named: BTreeSet<&str> = lies().map(|lie| lie.named).chain(LIMITS.iter().map(|(named, _)| *named)).collect();
    for words in &named {
        assert_eq!(code.matches(words).count(), 1, "\"{words}\" are the words of one check");
    }
    assert_eq!(named.len(), checks, "checks, and words that lies make them say");
}
