//! Runs every scenario of a folder on all cores, without writing anything.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use aril_reports::change::{Identity, Recorded, Recording, digest_of};
use rayon::prelude::*;

use super::folder::{Folder, ScenarioFile};
use crate::document::{Changes, Document};
use crate::error::ArilError;
use crate::manifest::{self, build};
use crate::node::Node;
use crate::plan::Plan;
use crate::registry::Registry;
use crate::run::recorded;

/// What a scenario gave, and how long its runs took together, seconds.
pub(super) struct Ran {
    pub(super) recording: Recording,
    pub(super) wall_s: f64,
}

/// Keys of a scenario that do not change what is asked; seeds are compared one by one.
const NOT_THE_QUESTION: [&str; 5] = ["description", "report", "seed", "seeds", "expect"];

/// Runs all scenarios of a folder, in its order. One that fails does not keep the others from running.
pub(super) fn all(registry: &Registry, folder: &Folder) -> Vec<Result<Ran, String>> {
    let guarded = |scenario: &ScenarioFile| {
        // A broken invariant of one scenario is a finding about it, not the end of the others.
        catch_unwind(AssertUnwindSafe(|| one(registry, scenario).map_err(|error| error.to_string()))).unwrap_or_else(
            |panic| {
                let said = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Err(format!("the simulator broke an invariant: {}", said.unwrap_or_default()))
            },
        )
    };
    folder.scenarios.par_iter().map(guarded).collect()
}

pub(super) fn one(registry: &Registry, scenario: &ScenarioFile) -> Result<Ran, ArilError> {
    let set = vec!["report.tables=false".to_owned(), "report.timeline_events=0".to_owned()];
    let document = Document::load(&scenario.path, &Changes { set, ..Changes::default() })?;
    let plan = Plan::new(&document, registry, &[])?;
    let identity = identity(&document, &plan)?;
    let began = Instant::now();
    let groups: Vec<(usize, usize)> =
        (0..plan.points.len()).flat_map(|point| (0..plan.seeds.len()).map(move |seed| (point, seed))).collect();
    let runs: Vec<Vec<Recorded>> = groups
        .par_iter()
        .map(|&(point, seed)| recorded(&plan, point, seed))
        .collect::<Result<_, _>>()
        .map_err(|error| crate::cli::placed(&document, error))?;
    Ok(Ran {
        recording: Recording { place: scenario.path.display().to_string(), identity, runs: by_policy(&plan, runs) },
        wall_s: began.elapsed().as_secs_f64(),
    })
}

/// From point, seed, policy to point, policy, seed: the order of the scenario.
fn by_policy(plan: &Plan, runs: Vec<Vec<Recorded>>) -> Vec<Recorded> {
    let mut ordered: Vec<(usize, usize, usize, Recorded)> = Vec::new();
    for (group, runs) in runs.into_iter().enumerate() {
        let (point, seed) = (group / plan.seeds.len(), group % plan.seeds.len());
        ordered.extend(runs.into_iter().enumerate().map(|(policy, run)| (point, policy, seed, run)));
    }
    ordered.sort_by_key(|(point, policy, seed, _)| (*point, *policy, *seed));
    ordered.into_iter().map(|(.., run)| run).collect()
}

/// What the scenario asks, as its file says it: defaults that later builds add do not make it another one.
fn identity(document: &Document, plan: &Plan) -> Result<Identity, ArilError> {
    let mut asked: Node = document.root.clone();
    NOT_THE_QUESTION.iter().for_each(|key| {
        asked.take(key);
    });
    let is_profile = |name: &str| {
        plan.variants
            .iter()
            .any(|variant| variant.setup.scenario.pool.iter().any(|(_, pool)| pool.profile.as_deref() == Some(name)))
    };
    let inputs: Vec<String> = manifest::inputs(plan)?
        .into_iter()
        .filter(|input| !is_profile(&input.name))
        .map(|input| format!("{} {}", input.name, input.sha256))
        .collect();
    let asked = serde_json::to_string(&asked).map_err(aril_reports::ReportError::from)?;
    let mut profiles: Vec<(String, String)> = plan
        .variants
        .iter()
        .flat_map(|variant| &variant.setup.profiles)
        .map(|profile| (profile.name.clone(), digest_of(&aril_calibrate::text::write(profile))))
        .collect();
    profiles.sort();
    profiles.dedup();
    Ok(Identity {
        name: plan.scenario.name.clone(),
        scenario: Some(digest_of(&format!("{asked}\n{}", inputs.join("\n")))),
        profiles,
        build: Some(format!("aril {} ({})", build().version, build().commit)),
    })
}
