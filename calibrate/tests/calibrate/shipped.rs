//! What ships is what the makers make, and is found by the names that scenarios use.

use aril_calibrate::check::Doubt;
use aril_calibrate::fit::unjudged;
use aril_calibrate::machine::{Part, Question};
use aril_calibrate::page::markdown;
use aril_calibrate::recording::Recording;
use aril_calibrate::{CalibrateError, check, diff, embedded, find, profiles, resolve, show};
use aril_sim::model::{Model, Precision};
use aril_sim::profile::ProvenanceKind;
use aril_sim::profile::curve::Curve;
use aril_sim::profile::lora::LoraKernel;

use crate::{measurements, requests};

#[test]
fn every_committed_profile_is_what_its_maker_makes() {
    for (name, text) in embedded::make(&requests()).unwrap() {
        let committed = find(&name).unwrap();
        assert!(committed.text == text, "{name} is stale: cargo run -p aril-calibrate --example make_profiles");
    }
    for embedded in profiles().iter().filter(|embedded| embedded.is_measured()) {
        let name = embedded.name();
        let recording = Recording::read(&embedded::recorded(&measurements(), &name)).unwrap();
        let made = unjudged(&recording, &name, "a test").unwrap();
        // A fit is a long sum of logarithms: another machine's last digit may differ.
        for part in diff(&embedded.profile().unwrap(), &made).unwrap().parts {
            assert!(part.worst.1.abs() < 0.1, "{name} is stale: {part:?}");
        }
    }
}

#[test]
fn every_shipped_profile_carries_the_name_and_the_provenance_that_it_claims() {
    for embedded in profiles() {
        let profile = embedded.profile().unwrap();
        assert_eq!(profile.name, embedded.name());
        assert_eq!((profile.model.name.as_str(), profile.tensor_parallel), (embedded.model, embedded.tensor_parallel));
        let kind = match embedded.family {
            family if family.starts_with("derived-") => ProvenanceKind::Derived,
            family if family.starts_with("measured-") => ProvenanceKind::Measured,
            _ => ProvenanceKind::Published,
        };
        assert_eq!(profile.provenance.kind, kind, "{}", profile.name);
        assert!(!profile.provenance.source.is_empty());
        // One GPU cannot measure what several say to each other.
        let measured = kind == ProvenanceKind::Measured && profile.tensor_parallel == 1;
        assert_eq!(profile.assumptions.is_empty(), measured, "{}", profile.name);
        let page = show(&profile).unwrap().to_string();
        assert!(page.contains(kind.as_str()) && page.contains(&profile.name), "{page}");
    }
}

#[test]
fn nothing_about_a_shipped_profile_is_strange() {
    for embedded in profiles() {
        let profile = embedded.profile().unwrap();
        let mut doubts = check(&profile).unwrap();
        if profile.provenance.kind == ProvenanceKind::Measured {
            // Kernels go on; and a library's kernel for a larger product can really be the quicker one.
            doubts.retain(|doubt| !matches!(doubt, Doubt::OtherKernels { .. } | Doubt::Decreasing { .. }));
        }
        assert_eq!(doubts, [], "{}", embedded.name());
    }
}

#[test]
fn measured_profiles_say_how_far_they_are_off_and_what_they_were_measured_with() {
    for embedded in profiles().iter().filter(|embedded| embedded.is_measured()) {
        let profile = embedded.profile().unwrap();
        assert!(embedded.text.len() < 2_000_000);
        assert!(profile.held_out.iter().any(|error| error.of == "step" && error.shapes > 50));
        assert!(profile.spread.iter().any(|spread| spread.of == "step") && profile.validity.rows.is_some());
        let p = &profile.provenance;
        for said in [&p.gpu, &p.driver, &p.cuda, &p.clocks, &p.kernel_source_hash, &p.commit, &p.date] {
            assert!(said.as_ref().is_some_and(|text| !text.is_empty()), "{p:?}");
        }
    }
}

#[test]
fn strange_profiles_raise_the_doubt_that_they_should() {
    let mut profile = find("derived-h200-llama-2-7b").unwrap().profile().unwrap();
    profile.provenance.kind = ProvenanceKind::Measured;
    profile.whole_step.scale = 0.5;
    let doubts = check(&profile).unwrap();
    assert!(doubts.contains(&Doubt::NotHeldOut) && doubts.contains(&Doubt::NoRange));
    assert!(doubts.contains(&Doubt::Unsaid { key: "driver" }));
    assert!(doubts.iter().any(|doubt| matches!(doubt, Doubt::BelowRoofline { .. })));
    assert!(!doubts.iter().any(|doubt| matches!(doubt, Doubt::Decreasing { .. })));
    profile.operations[0].cost = Curve::Table { rows: vec![1.0, 64.0], us: vec![900.0, 100.0] };
    let doubts = check(&profile).unwrap();
    assert!(doubts.iter().any(|doubt| matches!(doubt, Doubt::Decreasing { .. })), "{doubts:?}");
}

/// 80 MB over PCIe Gen4 x16: the paper hopes for 2 ms, the link needs more.
#[test]
fn a_load_takes_what_the_link_needs() {
    let profile = find("punica-a100-80gb-llama-2-7b").unwrap().profile().unwrap();
    let (bytes, us) = show(&profile).unwrap().load;
    assert_eq!(bytes, 79_953_920);
    assert!((us - 79_953_920.0 / 31.5e3).abs() < 1e-3, "{us}");
    assert!(profile.load.link(false).duration(bytes) > profile.load.link(true).duration(bytes));
    assert!(profile.switch_time(LoraKernel::Merged) > profile.switch_time(LoraKernel::Sgmv));
    assert_eq!(profile.lora_kind(LoraKernel::Bgmv), ProvenanceKind::Derived);
}

#[test]
fn a_scenario_finds_a_profile_by_its_family_and_its_model() {
    let model = Model::named("llama-2-13b").unwrap();
    assert_eq!(resolve("punica-a100-80gb", &model, 1).unwrap().name, "punica-a100-80gb-llama-2-13b");
    assert_eq!(resolve("punica-a100-80gb-llama-2-13b", &model, 1).unwrap().name, "punica-a100-80gb-llama-2-13b");
    assert_eq!(resolve("derived-h200", &model, 1).unwrap().name, "derived-h200-llama-2-13b");
    // Not committed, made on the spot.
    assert_eq!(resolve("derived-l40s", &model, 1).unwrap().name, "derived-l40s-llama-2-13b");
    assert_eq!(resolve("derived-h200", &model, 2).unwrap().tensor_parallel, 2);
    let fp8 = Model::named("llama-3.1-8b").unwrap().with_weights(Precision::Fp8);
    assert_eq!(resolve("derived-h100", &fp8, 1).unwrap().model.weights, Precision::Fp8);
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    let model = Model::named("llama-3.1-8b").unwrap();
    let error = resolve("punica-a100-80gb", &model, 1).unwrap_err();
    assert!(matches!(error, CalibrateError::NotForModel { .. }) && error.to_string().contains("llama-2-7b"), "{error}");
    let error = resolve("derived-h20", &model, 1).unwrap_err().to_string();
    assert!(error.contains("did you mean `derived-h200`"), "{error}");
    let large = Model::named("llama-3.1-70b").unwrap();
    assert!(matches!(resolve("derived-h100", &large, 1), Err(CalibrateError::DoesNotFit(_))));
}

#[test]
fn a_profile_differs_from_itself_in_nothing_and_from_another_in_what_they_share() {
    let of = |name: &str| find(name).unwrap().profile().unwrap();
    let own = of("derived-h200-llama-2-7b");
    let same = diff(&own, &own).unwrap();
    assert!(same.labels.is_empty() && same.only_one.is_empty());
    assert!(same.parts.iter().all(|part| part.worst.1 == 0.0) && same.parts.len() >= 7);
    // An H200 is an H100 with more bandwidth: only faster, and prefill least of all.
    let other = diff(&of("derived-h100-llama-2-7b"), &own).unwrap();
    let part = |name: &str| other.parts.iter().find(|part| part.part == name).unwrap();
    assert!(part("decode steps").mean_signed_percent < part("prefill steps").mean_signed_percent);
    assert!(part("decode steps").median_percent < (1.0 - 3350.0 / 4800.0) * 100.0);
    assert!(other.labels.iter().any(|(key, from, to)| (*key, from.as_str(), to.as_str()) == ("gpu", "h100", "h200")));
}

#[test]
fn the_readme_shows_the_figures_that_were_measured() {
    let name = "measured-h200-llama-2-7b";
    let recording = Recording::read(&embedded::recorded(&measurements(), name)).unwrap();
    let table = markdown(&find(name).unwrap().profile().unwrap(), &[recording]).unwrap();
    let readme = std::fs::read_to_string(measurements().join("../../README.md")).unwrap();
    assert!(readme.contains(&table), "cargo run -p aril-calibrate --example quoted_figures {name}\n{table}");
}

/// Products fall with the rows only where the recording shows it beyond its scatter.
#[test]
fn where_a_measured_product_falls_with_the_rows_the_recording_shows_it() {
    for embedded in profiles().iter().filter(|embedded| embedded.is_measured()) {
        let profile = embedded.profile().unwrap();
        let recording = Recording::read(&embedded::recorded(&measurements(), &embedded.name())).unwrap();
        let sound = recording.sound();
        // A tenth of a question's answers are below, a tenth above; several questions of one size scatter as widely as all of them, as in the fit.
        let tenths = |part: Part, rows: u32| {
            let mine = sound.iter().filter(|point| {
                matches!(&point.question, Question::Operation { operation, shape } if *operation == part
                    && profile.padded(if part.is_by_sequence() { shape.sequences() } else { shape.rows() }) == rows)
            });
            let (lows, highs): (Vec<f64>, Vec<f64>) = mine
                .map(|point| {
                    let mut us = point.us.clone();
                    us.sort_by(f64::total_cmp);
                    let at = |share: f64| us[(share * (us.len() - 1) as f64).round() as usize];
                    (at(0.1), at(0.9))
                })
                .unzip();
            (lows.into_iter().fold(f64::INFINITY, f64::min), highs.into_iter().fold(0.0, f64::max))
        };
        for part in Part::ALL.into_iter().filter(|part| part.is_by_rows()) {
            let operation = profile.operations.iter().find(|operation| operation.name == part.as_str()).unwrap();
            let Curve::Waves(waves) = &operation.cost else { panic!("{part} is {:?}", operation.cost) };
            for pair in waves.rows.windows(2) {
                let (smaller, larger) = (operation.cost.us(pair[0]), operation.cost.us(pair[1]));
                if larger < smaller * (1.0 - 1e-6) {
                    let (low, _) = tenths(part, pair[0] as u32);
                    let (_, high) = tenths(part, pair[1] as u32);
                    assert!(
                        high < low * 1.02,
                        "{part} falls from {pair:?}: {smaller} to {larger} us, measured {low} and {high}"
                    );
                }
            }
        }
    }
}
