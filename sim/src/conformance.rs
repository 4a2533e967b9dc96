//! Is a policy fit to be used? Checks for policy authors, and the tools by which the engine itself is tested.
//!
//! [`Check::run`] sends small random scenarios through a set of policies and checks what must hold whatever they choose:
//!
//! - the same run tells the same facts in the same order, watched or not;
//! - the books balance, as seen from outside ([`Books`]);
//! - steps advanced one by one and many at once tell the same facts ([`Record`]): asked twice about the same state, a
//!   policy answers the same;
//! - names of tenants and adapters, and the numbers of tenants, make no difference;
//! - every request is served or turned away: nothing waits for ever.
//!
//! A failure is shrunk to a minimal scenario and prints it.
//!
//! ```
//! use aril_sim::conformance::{Check, RandomPolicies};
//!
//! let policies = RandomPolicies::plain(7).make();
//! if let Err(failure) = Check::default().run(&policies) {
//!     panic!("{failure}");
//! }
//! ```

mod books;
mod prices;
mod random;
mod scenario;
mod shrink;
mod told;
mod witness;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::engine::{Ended, Stalled};
use crate::fact::{Fact, Observer};
use crate::policy::Policies;
use crate::time::Time;

pub use books::Books;
pub use prices::{Promise, ToyPrices};
pub use random::RandomPolicies;
pub use scenario::{Scenario, Terrain};
pub use shrink::shrink;
pub use told::{Record, Told, first_difference};
use witness::{Naive, Witness};

/// More facts than any small scenario has: a run that tells more goes round in circles.
const FACTS_MAX: u64 = 2_000_000;

/// Which scenarios, and how strict?
#[derive(Clone, Debug)]
pub struct Check {
    /// How many scenarios.
    pub scenarios: u64,
    /// Seed of the first; the others count up from it.
    pub first_seed: u64,
    /// What the scenarios may contain.
    pub terrain: Terrain,
    /// Must the numbers of tenants make no difference? Not so for policies that break ties by them.
    pub tenant_numbers: bool,
}

impl Default for Check {
    fn default() -> Check {
        Check { scenarios: 200, first_seed: 1, terrain: Terrain::Serveable, tenant_numbers: true }
    }
}

impl Check {
    /// Checks the policies on every scenario.
    ///
    /// # Errors
    /// The first [`Failure`], shrunk.
    pub fn run(&self, policies: &Policies) -> Result<(), Box<Failure>> {
        let examine = |scenario: &Scenario| self.examine(scenario, policies);
        for seed in self.first_seed..self.first_seed + self.scenarios {
            let scenario = Scenario::draw(seed, self.terrain);
            if let Some(finding) = examine(&scenario) {
                let (scenario, finding) = shrink(scenario, finding, Scenario::smaller, examine);
                return Err(Box::new(Failure { finding, scenario }));
            }
        }
        Ok(())
    }

    /// What is wrong with the policies on this scenario? None: nothing.
    pub fn examine(&self, scenario: &Scenario, policies: &Policies) -> Option<Finding> {
        let finding = |claim| move |detail| Some(Finding { claim, detail });
        let at_once = match watched(scenario, policies, true) {
            Ok(run) => run,
            Err(detail) => return finding("the books balance")(detail),
        };
        if self.terrain == Terrain::Serveable
            && let Err(stalled) = &at_once.ended
        {
            return finding("nothing waits for ever")(stalled.to_string());
        }
        let step_by_step = match watched(scenario, policies, false) {
            Ok(run) => run,
            Err(detail) => return finding("the books balance step by step")(detail),
        };
        if let Err(detail) = repeats(scenario, policies, &at_once) {
            return finding("a run repeats")(detail);
        }
        if let Some(detail) = renaming(scenario, policies, &at_once, self.tenant_numbers) {
            return finding("names make no difference")(detail);
        }
        differs(at_once, step_by_step).and_then(finding("many steps at once are the same steps"))
    }
}

/// Which claim does not hold, and how it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What should have been true.
    pub claim: &'static str,
    /// What was seen instead.
    pub detail: String,
}

/// A claim that does not hold, and the smallest scenario found in which it does not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What is wrong.
    pub finding: Finding,
    /// Where it shows.
    pub scenario: Scenario,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { claim, detail } = &self.finding;
        write!(f, "not true: {claim}.\n{detail}\nin this scenario:\n{}", self.scenario)
    }
}

impl std::error::Error for Failure {}

/// What a run told, and how it ended.
#[derive(Debug)]
pub struct Run {
    /// Facts in the order in which they were told.
    pub told: Vec<Told>,
    /// The end.
    pub ended: Result<Ended, Stalled>,
}

/// Runs a scenario under the eyes of [`Books`], and step by step on an executor that sums up every batch anew.
///
/// # Errors
/// What does not balance, or the message of a panic.
pub fn watched(scenario: &Scenario, policies: &Policies, stretches: bool) -> Result<Run, String> {
    let mut books = Books::new(&scenario.settings, &scenario.catalog);
    let mut record = Record::default();
    let witness = Witness::default();
    let mut watcher = ((&mut books, &mut record), (&witness, Patience(FACTS_MAX)));
    let ended = quietly(|| match stretches {
        true => scenario.run_on(witness.of(scenario.prices.clone()), policies, true, &mut watcher),
        false => scenario.run_on(witness.of(Naive(scenario.prices.clone())), policies, false, &mut watcher),
    });
    let problem = books.problem().map(str::to_owned);
    let ended = ended.map_err(|panic| problem.clone().unwrap_or(panic))?;
    match (problem, &ended) {
        (Some(problem), _) => return Err(problem),
        (None, Ok(_)) => books.close()?,
        (None, Err(_)) => {}
    }
    Ok(Run { told: record.into_told(), ended })
}

/// The first difference between a run with many steps at once and one step by step; none if they are the same run.
pub fn differs(at_once: Run, step_by_step: Run) -> Option<String> {
    let sorted = |mut told: Vec<Told>| {
        told.sort();
        told
    };
    let (left, right) = (sorted(at_once.told), sorted(step_by_step.told));
    if let Some(text) = first_difference(("at once", &left), ("step by step", &right)) {
        return Some(text);
    }
    let end = |ended: Result<Ended, Stalled>| match ended {
        Ok(ended) => format!("ended at {} ps after {} requests", ended.at.as_ps(), ended.offered),
        Err(stalled) => format!("{stalled:?}"),
    };
    let (left, right) = (end(at_once.ended), end(step_by_step.ended));
    (left != right).then(|| format!("  at once: {left}\n  step by step: {right}\n"))
}

/// Is the same run the same again, and the same when nobody watches?
fn repeats(scenario: &Scenario, policies: &Policies, first: &Run) -> Result<(), String> {
    let mut record = Record::default();
    let ended = quietly(|| scenario.run(policies, true, &mut record))?;
    let unwatched = quietly(|| scenario.run(policies, true, &mut ()))?;
    if let Some(text) = first_difference(("first", &first.told), ("again", &record.into_told())) {
        return Err(text);
    }
    if ended != first.ended || unwatched != first.ended {
        return Err(format!("ends: {:?}, again {ended:?}, unwatched {unwatched:?}", first.ended));
    }
    Ok(())
}

fn renaming(scenario: &Scenario, policies: &Policies, first: &Run, tenant_numbers: bool) -> Option<String> {
    let mut record = Record::default();
    let renamed = scenario.renamed(tenant_numbers);
    if let Err(panic) = quietly(|| renamed.run(policies, true, &mut record)) {
        return Some(panic);
    }
    // Lives tell their tenants; everything else must be told in the same words.
    let plain = |told: &[Told]| told.iter().map(Told::without_tenant).collect::<Vec<_>>();
    first_difference(("named", &plain(&first.told)), ("renamed", &plain(&record.into_told())))
}

/// The message of a panic as an error: a policy that panics fails its check, it does not end it.
fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        format!("a panic: {}", text.unwrap_or("without a message"))
    })
}

/// Ends a run that goes round in circles.
struct Patience(u64);

impl Observer for Patience {
    fn observe(&mut self, now: Time, _: &Fact<'_>) {
        self.0 = self.0.checked_sub(1).unwrap_or_else(|| panic!("{FACTS_MAX} facts by {now}: the run goes in circles"));
    }
}
