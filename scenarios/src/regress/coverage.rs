//! Does our own regression folder run every policy and every cost model?

use std::path::Path;

use aril_sim::profile::lora::LoraKernel;

use super::folder::Folder;
use crate::builtin;
use crate::document::{Changes, Document};
use crate::plan::Plan;
use crate::scenario::Choice;

#[test]
fn every_policy_every_profile_and_every_kernel_is_watched() {
    let folder = Folder::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("regression"), &[]).expect("the folder");
    let registry = builtin::registry();
    let (mut policies, mut profiles, mut kernels) = (Vec::new(), Vec::new(), Vec::new());
    for scenario in &folder.scenarios {
        let document = Document::load(&scenario.path, &Changes::default()).expect("a scenario");
        let plan = Plan::new(&document, &registry, &[]).unwrap_or_else(|error| panic!("{error}"));
        for variant in &plan.variants {
            let scenario = &variant.setup.scenario;
            let mut chosen = |kind: &'static str, choice: &Option<Choice>| {
                policies.extend(choice.iter().map(|choice| (kind, choice.name.clone())));
            };
            chosen("router", &scenario.router);
            chosen("batcher", &scenario.batcher);
            chosen("evictor", &scenario.evictor);
            chosen("load_path", &scenario.load_path);
            chosen("preemptor", &scenario.preemptor);
            chosen("migrator", &scenario.migrator);
            chosen("scaler", &scenario.scaler);
            profiles.extend(variant.setup.profiles.iter().map(|profile| profile.name.clone()));
            kernels.extend(scenario.engine.settings().lora_kernel);
        }
    }
    let unwatched: Vec<_> = registry
        .abouts()
        .into_iter()
        .filter(|about| !policies.contains(&(about.kind, about.name.clone())))
        .map(|about| format!("{} {}", about.kind, about.name))
        .collect();
    assert!(unwatched.is_empty(), "no scenario of scenarios/regression runs {unwatched:?}");
    let shipped: Vec<_> =
        aril_calibrate::profiles().iter().map(|shipped| shipped.profile().expect("a profile")).collect();
    let unwatched: Vec<_> =
        shipped.iter().map(|profile| &profile.name).filter(|name| !profiles.contains(name)).collect();
    assert!(unwatched.is_empty(), "no scenario of scenarios/regression runs on {unwatched:?}");
    let priced =
        |kernel: LoraKernel| kernel.is_free() || shipped.iter().any(|profile| profile.lora.contains_key(&kernel));
    let unwatched: Vec<_> =
        LoraKernel::ALL.into_iter().filter(|kernel| priced(*kernel) && !kernels.contains(kernel)).collect();
    assert!(unwatched.is_empty(), "no scenario of scenarios/regression runs {unwatched:?}");
}
