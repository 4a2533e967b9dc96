//! Measuring, keeping and fitting, on a machine whose truth is known.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use aril_calibrate::check::Doubt;
use aril_calibrate::fit::{Fitted, fit};
use aril_calibrate::machine::synthetic::SyntheticGpu;
use aril_calibrate::machine::{Answer, Clocks, Identity, Machine, MachineError, Part, Question, StepShape};
use aril_calibrate::measure::{Budget, Measured, measure};
use aril_calibrate::plan::Plan;
use aril_calibrate::recording::{Recording, Writer};
use aril_calibrate::{CalibrateError, check, diff, read, write};
use aril_sim::profile::attention::PromptCost;
use aril_sim::profile::curve::Curve;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{Profile, ProvenanceKind};

fn budget(seconds: f64) -> Budget {
    Budget { seconds, date: "2000-01-01".to_owned(), commit: "none".to_owned() }
}

fn session(gpu: &mut SyntheticGpu, path: &Path, seconds: f64, resume: bool) -> Measured {
    let plan = Plan::new(&gpu.identity().clone(), &LoraKernel::ALL, 1);
    let (mut writer, already) = match resume {
        true => Writer::resume(path).map(|(writer, recording)| (writer, Some(recording))).unwrap(),
        false => (Writer::create(path).unwrap(), None),
    };
    measure(gpu, &plan, already.as_ref(), &mut writer, &budget(seconds), &mut |_| {}).unwrap()
}

fn recorded(gpu: &mut SyntheticGpu) -> Recording {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("measurements.jsonl");
    let measured = session(gpu, &path, 600.0, false);
    assert_eq!(measured.missing, [], "{} s", measured.seconds);
    Recording::read(&path).unwrap()
}

/// A whole calibration: slow enough to be made once.
fn calibrated() -> &'static (Recording, Fitted) {
    static ONCE: OnceLock<(Recording, Fitted)> = OnceLock::new();
    ONCE.get_or_init(|| {
        let recording = recorded(&mut SyntheticGpu::h200_llama_2_7b(1));
        let fitted = fit(&recording, "synthetic-h200-llama-2-7b", "a test").unwrap();
        (recording, fitted)
    })
}

fn near(what: &str, found: f64, truth: f64, percent: f64) {
    assert!((found / truth - 1.0).abs() * 100.0 < percent, "{what}: {found}, in truth {truth}");
}

#[test]
fn the_fit_finds_the_coefficients_of_a_machine_whose_truth_is_known() {
    let truth = SyntheticGpu::h200_llama_2_7b(1).truth;
    let profile = &calibrated().1.profile;
    for part in [Part::Qkv, Part::O, Part::GateUp, Part::Down] {
        let operation = profile.operations.iter().find(|o| o.name == part.as_str()).unwrap();
        let Curve::Waves(waves) = &operation.cost else { panic!("{part}: {:?}", operation.cost) };
        near(part.as_str(), waves.teraflops, truth.teraflops, 1.5);
        // The others' first wave takes longer than their bytes at any number of rows.
        if matches!(part, Part::Qkv | Part::GateUp) {
            near(part.as_str(), waves.gigabytes_per_second, truth.gigabytes_per_second, 1.5);
        }
        assert!((waves.us - truth.kernel_us).abs() < 0.5, "{part}: {} us", waves.us);
    }
    let kv_us = 4.0 * truth.model.kv_width() as f64 / (truth.decode.1 * 1e3);
    // In rows of one length a token of each and a token of the longest come together: what they cost together is known.
    for rows in [2, 16, 64] {
        let at = |context: u32| profile.decode_attention.us(rows, u64::from(rows) * u64::from(context), context);
        let token = (at(2000) - at(1000)) / (1000.0 * f64::from(rows));
        near("a token of context", token, kv_us, 2.0);
    }
    // One row alone is bound by its bytes or by its own length, whichever takes longer.
    let long_row = truth.decode.0 + 30_000.0 * truth.decode.2.max(kv_us);
    near("a long row", profile.decode_attention.us(1, 30_000, 30_000), long_row, 1.0);
    assert!(matches!(profile.prefill_attention.prompt, PromptCost::Together(_)));
    let segmented = &profile.lora[&LoraKernel::Segmented];
    let lora = |rows: u32| {
        segmented.us(&StepShape::decode(rows, 16).with_adapters(16, &vec![1; rows as usize]).probe(true).view())
    };
    near("a rank of an adapter", (lora(128) - lora(64)) / (64.0 * 16.0), truth.lora.1 + truth.lora.2 / 16.0, 3.0);
    near("the start of adapters", lora(1), truth.lora.0 + 16.0 * truth.lora.1 + truth.lora.2, 3.0);
    near("the host", profile.host.us, truth.host.0, 2.0);
    near("the host, twice the sequences", profile.host.us_per_doubling, truth.host.1, 4.0);
    near("a pinned load", profile.load.pinned_gigabytes_per_second, truth.load.1, 1.0);
    near("a pageable load", profile.load.pageable_gigabytes_per_second, truth.load.2, 1.0);
    near("a copy beside a step", profile.load.copy_slowdown, truth.slowdown.0, 1.5);
    near("a step beside a copy", profile.load.step_slowdown, truth.slowdown.1, 1.5);
    let sag = profile.clock_sag.expect("steps behind prompts were measured");
    near("the time of sagging clocks", sag.us, truth.sag.0, 6.0);
    near("prompt tokens that make them sag wholly", sag.prompt_tokens, truth.sag.1, 1.0);
    for rows in [8_u32, 32] {
        let longer = truth.sag.2 + truth.sag.3 * f64::from(rows);
        near("decode rows on sagged clocks", sag.slower(rows), longer, 5.0);
    }
    near("prompts on sagged clocks", sag.prompts, truth.sag.4, 5.0);
    near("the scale of whole steps", profile.whole_step.scale, 1.0, 1.0);
}

#[test]
fn shapes_that_were_held_out_are_met_and_no_kind_of_step_is_biased() {
    let fitted = &calibrated().1;
    let held_out = &fitted.profile.held_out;
    for error in held_out.iter().filter(|error| error.split.starts_with("a fifth")) {
        let (median, p95) = if error.of.starts_with("step") { (2.0, 5.0) } else { (3.0, 8.0) };
        assert!(error.median_percent < median && error.p95_percent < p95, "{error:?}");
    }
    for region in ["contexts", "batches", "prompts", "adapters"] {
        let step = held_out.iter().find(|error| error.of == "step" && error.split.contains(region));
        let step = step.unwrap_or_else(|| panic!("no region of {region}"));
        assert!(step.median_percent < 2.0 && step.p95_percent < 5.0, "{step:?}");
    }
    assert!(fitted.bias.len() >= 12);
    for bias in &fitted.bias {
        // A mean that noise makes is none.
        let most = if bias.p_value < 0.05 { 0.5 } else { 1.0 };
        assert!(bias.mean_signed_percent.abs() < most, "{bias}");
        assert!((0.0..=1.0).contains(&bias.p_value), "{bias}");
    }
}

#[test]
fn a_fitted_profile_is_one_that_ships() {
    let (_, fitted) = calibrated();
    let text = write(&fitted.profile);
    assert!(text.len() < 2_000_000, "{} bytes", text.len());
    assert_eq!(read("again", &text).unwrap(), fitted.profile);
    assert_eq!(check(&fitted.profile).unwrap(), [], "nothing is strange");
    assert_eq!(fitted.profile.provenance.kind, ProvenanceKind::Derived, "nobody measured it on hardware");
    // As a measured one it would be of kernels that this build has not.
    let mut measured = fitted.profile.clone();
    measured.provenance.kind = ProvenanceKind::Measured;
    let doubts = check(&measured).unwrap();
    assert!(matches!(doubts.as_slice(), [Doubt::OtherKernels { .. }]), "{doubts:?}");
    let schema = aril_calibrate::text::schema().to_string();
    for key in ["row_buckets", "tiles_per_wave", "us_per_layer_by_rows", "spread", "longest-context"] {
        assert!(schema.contains(key), "{key}");
    }
}

#[test]
fn two_calibrations_of_one_machine_agree_within_two_percent() {
    let first = &calibrated().1.profile;
    let mut again = SyntheticGpu::h200_llama_2_7b(99);
    let second = fit(&recorded(&mut again), "again", "a test").unwrap().profile;
    let same = diff(first, &second).unwrap();
    assert!(same.parts.len() >= 7 && same.only_one.is_empty());
    for part in &same.parts {
        assert!(part.median_percent < 2.0, "{part:?}");
    }
    // A machine that is a tenth slower does not.
    let mut slower = SyntheticGpu::h200_llama_2_7b(99);
    slower.truth.gigabytes_per_second *= 0.9;
    slower.truth.teraflops *= 0.9;
    slower.truth.decode.1 *= 0.9;
    let other = fit(&recorded(&mut slower), "slower", "a test").unwrap().profile;
    let steps = diff(first, &other).unwrap();
    assert!(steps.parts.iter().any(|part| part.part == "decode steps" && part.median_percent > 5.0), "{steps}");
}

#[test]
fn a_budget_that_is_cut_still_fits_and_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.jsonl");
    let mut gpu = SyntheticGpu::h200_llama_2_7b(3);
    let first = session(&mut gpu, &path, 20.0, false);
    assert!(first.seconds < 21.0 && !first.missing.is_empty());
    let cut = Recording::read(&path).unwrap();
    assert_eq!(cut.missing as usize, first.missing.len());
    let rough = fit(&cut, "rough", "a test").unwrap();
    assert!(rough.notes.iter().any(|note| note.contains("missing")), "{:?}", rough.notes);
    let step = rough.profile.held_out.iter().find(|error| error.of == "step").unwrap();
    assert!(step.median_percent < 2.0, "{step:?}");
    let second = session(&mut gpu, &path, 600.0, true);
    let whole = Recording::read(&path).unwrap();
    assert_eq!((second.missing.len(), whole.missing, whole.sessions.len()), (0, 0, 2));
    assert_eq!(whole.points.len(), (first.points + second.points) as usize, "nothing is measured twice");
}

#[test]
fn a_file_cut_in_the_middle_is_no_result_and_can_be_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.jsonl");
    let mut gpu = SyntheticGpu::h200_llama_2_7b(4);
    session(&mut gpu, &path, 10.0, false);
    let text = fs::read_to_string(&path).unwrap();
    let cut = text.trim_end().rfind('\n').unwrap() - 20;
    fs::write(&path, &text[..cut]).unwrap();
    assert!(matches!(Recording::read(&path), Err(CalibrateError::Recording { .. })));
    let measured = session(&mut gpu, &path, 600.0, true);
    assert_eq!(measured.missing, []);
    assert_eq!(Recording::read(&path).unwrap().sessions.len(), 2);
}

#[test]
fn damage_is_found_at_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.jsonl");
    session(&mut SyntheticGpu::h200_llama_2_7b(5), &path, 4.0, false);
    let text = fs::read_to_string(&path).unwrap();
    let refused = |text: &str| Recording::parse("m.jsonl", text).unwrap_err().to_string();
    assert!(Recording::parse("m.jsonl", &text).is_ok());
    // A figure is changed, a line is lost, another version, the end is missing, another machine.
    let third: Vec<&str> = text.lines().collect();
    let changed = text.replacen("\"us\":[", "\"us\":[1", 1);
    let line = text.lines().position(|line| line.contains("\"us\":[")).unwrap() + 1;
    assert!(refused(&changed).starts_with(&format!("m.jsonl:{line}: the line is damaged")), "{}", refused(&changed));
    let lost: String = third.iter().enumerate().filter(|(i, _)| *i != 3).map(|(_, l)| format!("{l}\n")).collect();
    assert!(refused(&lost).contains("points"), "{}", refused(&lost));
    let without_end: String = third[..third.len() - 1].iter().map(|l| format!("{l}\n")).collect();
    assert!(refused(&without_end).contains("--resume"), "{}", refused(&without_end));
    assert!(refused("").contains("--resume"));
    assert!(refused("{\"line\":\"session\"}\n").contains("checksum"));
    let mut other = SyntheticGpu::h200_llama_2_7b(5);
    let mixed = folder.path().join("mixed.jsonl");
    fs::write(&mixed, &text).unwrap();
    let mut renamed = other.identity().clone();
    renamed.gpu = "another GPU".to_owned();
    let plan = Plan::new(&renamed, &[], 1);
    let (mut writer, _) = Writer::resume(&mixed).unwrap();
    let mut stranger = Renamed { gpu: &mut other, identity: renamed };
    measure(&mut stranger, &plan, None, &mut writer, &budget(1.0), &mut |_| {}).unwrap();
    let error = Recording::read(&mixed).unwrap_err().to_string();
    assert!(error.contains("another GPU") && error.contains("synthetic H200"), "{error}");
}

/// The same machine under another name.
struct Renamed<'a> {
    gpu: &'a mut SyntheticGpu,
    identity: aril_calibrate::machine::Identity,
}

impl Machine for Renamed<'_> {
    fn identity(&self) -> &aril_calibrate::machine::Identity {
        &self.identity
    }

    fn measure(
        &mut self,
        question: &aril_calibrate::machine::Question,
        repeats: u32,
    ) -> Result<aril_calibrate::machine::Answer, aril_calibrate::machine::MachineError> {
        self.gpu.measure(question, repeats)
    }

    fn clocks(&mut self) -> aril_calibrate::machine::Clocks {
        self.gpu.clocks()
    }

    fn seconds(&self) -> f64 {
        self.gpu.seconds()
    }
}

/// A machine that is slower after it chose its kernels, until it rests.
struct Choosing {
    gpu: SyntheticGpu,
    chosen: BTreeSet<u32>,
    heated: bool,
    asked_hot: u32,
}

impl Machine for Choosing {
    fn identity(&self) -> &Identity {
        self.gpu.identity()
    }

    fn make_ready(&mut self, question: &Question) -> Result<bool, MachineError> {
        let chosen = question.shape().is_some_and(|shape| self.chosen.insert(shape.rows()));
        self.heated |= chosen;
        Ok(chosen)
    }

    fn measure(&mut self, question: &Question, repeats: u32) -> Result<Answer, MachineError> {
        if let Question::Operation { operation: Part::LmHead, .. } = question {
            return Ok(vec![if self.heated { 120.0 } else { 100.0 }].into());
        }
        self.asked_hot += u32::from(self.heated);
        self.gpu.measure(question, repeats)
    }

    fn clocks(&mut self) -> Clocks {
        self.gpu.clocks()
    }

    fn seconds(&self) -> f64 {
        self.gpu.seconds()
    }

    fn rest(&mut self, seconds: f64) {
        self.heated = false;
        self.gpu.rest(seconds);
    }
}

#[test]
fn a_machine_that_chose_its_kernels_for_a_question_rests_before_it_answers() {
    let gpu = SyntheticGpu::h200_llama_2_7b(8);
    let plan = Plan::new(gpu.identity(), &[], 1);
    let mut machine = Choosing { gpu, chosen: BTreeSet::new(), heated: false, asked_hot: 0 };
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(&folder.path().join("choosing.jsonl")).unwrap();
    measure(&mut machine, &plan, None, &mut writer, &budget(8.0), &mut |_| {}).unwrap();
    assert!(machine.chosen.len() > 20, "{}", machine.chosen.len());
    assert_eq!(machine.asked_hot, 0);
}

#[test]
fn what_a_hot_machine_said_does_not_count_and_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hot.jsonl");
    let mut gpu = SyntheticGpu::h200_llama_2_7b(6);
    gpu.hot = Some((300..700, 1.3));
    session(&mut gpu, &path, 600.0, false);
    let hot = Recording::read(&path).unwrap();
    assert!(hot.unsound() > 20, "{}", hot.unsound());
    gpu.hot = None;
    let again = session(&mut gpu, &path, 600.0, true);
    assert!(again.points as usize >= hot.unsound());
    let fitted = fit(&Recording::read(&path).unwrap(), "cool", "a test").unwrap();
    let step = fitted.profile.held_out.iter().find(|error| error.of == "step").unwrap();
    assert!(step.p95_percent < 2.0, "{step:?}");
    assert!(fitted.notes.iter().any(|note| note.contains("hot")));
}

/// Steps that a machine pads to buckets are priced as padded, and exactly at the sizes that were measured.
#[test]
fn a_profile_pads_rows_as_its_machine_does() {
    let profile = Profile { row_buckets: vec![1, 2, 4, 8, 64], ..calibrated().1.profile.clone() };
    for (rows, padded) in [(0, 0), (1, 1), (3, 4), (8, 8), (9, 64), (64, 64), (65, 65)] {
        assert_eq!(profile.padded(rows), padded);
    }
    let mut probe = aril_calibrate::probe::Probe::new(&profile, LoraKernel::None).unwrap();
    let matrices = |rows: u32, probe: &mut aril_calibrate::probe::Probe| {
        probe.us(&aril_calibrate::probe::Shape::decode(rows, 64))
            - f64::from(profile.model.layers)
                * profile.decode_attention.us(rows, u64::from(rows) * 64, 64)
                * profile.whole_step.scale
            - profile.host.us_per_doubling * aril_sim::profile::doublings(rows)
    };
    let (nine, sixty_four) = (matrices(9, &mut probe), matrices(64, &mut probe));
    assert!((nine / sixty_four - 1.0).abs() < 1e-6, "{nine} and {sixty_four}");
}

/// One GPU of eight: what they say to each other is priced from link figures, after all else was fitted and judged without it.
#[test]
fn the_collective_of_a_shard_is_priced_from_the_link_and_says_so() {
    let mut gpu = SyntheticGpu::h200_llama_2_7b(7);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard.jsonl");
    session(&mut gpu, &path, 25.0, false);
    let mut recording = Recording::read(&path).unwrap();
    let alone = fit(&recording, "alone", "a test").unwrap().profile;
    for session in &mut recording.sessions {
        session.machine.tensor_parallel = 2;
        // Each of two GPUs does half of the work of a model twice as wide.
        session.machine.model.heads *= 2;
        session.machine.model.kv_heads *= 2;
    }
    let fitted = fit(&recording, "shard", "a test").unwrap();
    let shard = &fitted.profile;
    assert!(alone.operations.iter().all(|operation| operation.name != "all-reduce") && alone.assumptions.is_empty());
    assert!(shard.operations.iter().any(|operation| operation.name == "all-reduce"));
    assert!(shard.assumptions.contains_key("link_efficiency"));
    assert!(shard.provenance.note.as_ref().unwrap().contains("priced from link figures"));
    assert!(fitted.notes.iter().any(|note| note.contains("priced from link figures")), "{:?}", fitted.notes);
}
