//! Derived profiles against the data sheet itself, worked out apart from them.

use aril_calibrate::probe::{Probe, Shape};
use aril_calibrate::{CalibrateError, derive, profiles};
use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::ProvenanceKind;
use aril_sim::profile::lora::LoraKernel;

/// The least that a step can take: every weight but the embedding is read once, every key and value once, and
/// every row is multiplied by every weight; microseconds.
fn floor_us(gpu: &Gpu, model: &Model, degree: u32, shape: &Shape) -> f64 {
    let degree = f64::from(degree);
    let layers = f64::from(model.layers) * model.layer_matrix_parameters() as f64;
    let head = model.head_parameters() as f64;
    let decode: f64 = shape.contexts.iter().map(|&context| f64::from(context)).sum();
    let prompt: f64 = shape.prefills.iter().map(|part| f64::from(part.chunk)).sum();
    let sequences = (shape.contexts.len() + shape.prefills.len()) as f64;
    let bytes = layers * model.weights.bytes() as f64 + head * 2.0 + decode * model.kv_bytes_per_token() as f64;
    let flops = 2.0 * (layers * (shape.contexts.len() as f64 + prompt) + head * sequences);
    let memory = bytes / degree / (gpu.gigabytes_per_second * 1e3);
    memory.max(flops / degree / (gpu.teraflops(model.weights) * 1e6))
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for rows in [1, 8, 32, 128, 512] {
        shapes.extend([1, 100, 2000, 30_000].map(|context| Shape::decode(rows, context)));
    }
    for chunk in [1, 16, 500, 8192] {
        shapes.extend([0, 4000].map(|prefix| Shape::prefill(chunk, prefix)));
        shapes.push(Shape { contexts: vec![777; 40], ..Shape::prefill(chunk, 0) });
    }
    shapes
}

#[test]
fn no_step_of_a_shipped_profile_is_faster_than_its_hardware() {
    for embedded in profiles() {
        let profile = embedded.profile().unwrap();
        let mut probe = Probe::new(&profile, LoraKernel::None).unwrap();
        for shape in shapes() {
            let (us, floor) =
                (probe.us(&shape), floor_us(&profile.gpu, &profile.model, profile.tensor_parallel, &shape));
            assert!(us >= floor, "{}: {us} us, the hardware needs {floor}", profile.name);
            if profile.provenance.kind == ProvenanceKind::Derived {
                assert!(us < 4.0 * floor + 20_000.0, "{}: {us} us is no roofline of {floor}", profile.name);
            }
        }
    }
}

#[test]
fn any_gpu_and_model_that_fit_each_other_have_a_profile() {
    for gpu in Gpu::names().map(|name| Gpu::named(name).unwrap()) {
        for model in Model::names().map(|name| Model::named(name).unwrap()) {
            for degree in [1, 2, 4, 8] {
                let fits = model.weight_bytes_per_gpu(degree) < gpu.memory_bytes
                    && model.check_tensor_parallel(degree).is_ok();
                match derive(&gpu, &model, degree) {
                    Ok(profile) => {
                        assert!(fits, "{}", profile.name);
                        assert_eq!(aril_calibrate::check(&profile).unwrap(), [], "{}", profile.name);
                    }
                    Err(CalibrateError::Split(_)) => assert!(model.check_tensor_parallel(degree).is_err()),
                    Err(CalibrateError::DoesNotFit(refusal)) => {
                        // Within the last percent the activations decide.
                        assert!(
                            model.weight_bytes_per_gpu(degree) as f64 > 0.98 * gpu.memory_bytes as f64,
                            "{refusal}"
                        );
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
}

#[test]
fn more_gpus_make_a_step_faster_but_not_by_their_number() {
    let (gpu, model) = (Gpu::named("h100").unwrap(), Model::named("llama-3.1-8b").unwrap());
    let step = |degree| {
        let profile = derive(&gpu, &model, degree).unwrap();
        Probe::new(&profile, LoraKernel::None).unwrap().us(&Shape::decode(64, 2000))
    };
    let steps = [1, 2, 4, 8].map(step);
    for pair in steps.windows(2) {
        assert!(pair[1] < pair[0] && pair[1] > pair[0] / 2.0, "{steps:?}");
    }
}

/// In the order of what they move for 32 adapters on 32 rows.
#[test]
fn lora_kernels_cost_in_the_order_of_what_they_move() {
    let profile = derive(&Gpu::named("h200").unwrap(), &Model::named("llama-2-7b").unwrap(), 1).unwrap();
    let shape = Shape::decode(32, 500).with_adapters(8, 16);
    let steps = [LoraKernel::None, LoraKernel::Sgmv, LoraKernel::Bgmv, LoraKernel::GatherBmm, LoraKernel::Loop]
        .map(|kernel| Probe::new(&profile, kernel).unwrap().us(&shape));
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
    let padded = |rank_max| {
        let shape = Shape { rank_max, ..shape.clone() };
        Probe::new(&profile, LoraKernel::Padded).unwrap().us(&shape)
    };
    assert_eq!(padded(16), steps[1], "with one rank there is nothing to pad");
    assert!(padded(64) > padded(16));
}
