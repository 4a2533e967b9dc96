//! A tiny model against float64.

use std::collections::HashMap;

use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{Build, GemmPath, LlamaShape, LoraOrder};
use aril_kernels::reference::llama::{Adapter, Model};
use aril_kernels::reference::lora::Deviation;
use aril_kernels::{Element, Error};
use serde_json::{Value, json};

use crate::Options;
use crate::case::{Case, StepOutput};

pub(crate) fn run(gpu: &Gpu, options: &Options) -> Result<(Value, usize), Error> {
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    let (mut lines, mut wrong) = (Vec::new(), 0);
    for element in Element::ALL {
        let wide = LlamaShape { head_dim: 128, heads: 6, kv_heads: 2, rope_scaling: None, ..LlamaShape::tiny() };
        for shape in [LlamaShape::tiny(), wide] {
            if options.quick && (element == Element::F16 || shape.head_dim == 128) {
                continue;
            }
            let case = Case::random(shape, element, seed, options.own);
            let expected = expected(&case);
            let ampere = Build { architecture: Some("compute_80".to_owned()), ..options.build.clone() };
            let mut first = None;
            let mut ways: Vec<(String, LoraOrder, GemmPath, &Build)> = LoraOrder::ALL
                .into_iter()
                .map(|order| (format!("{order:?}"), order, GemmPath::Own, &options.build))
                .collect();
            ways.push(("cuBLASLt".to_owned(), LoraOrder::After, GemmPath::CublasLt, &options.build));
            ways.push(("sm_80".to_owned(), LoraOrder::After, GemmPath::Own, &ampere));
            if options.quick {
                ways.retain(|(name, ..)| ["After", "Along", "sm_80"].contains(&name.as_str()));
            }
            if options.own {
                ways.retain(|(_, _, gemm, _)| *gemm == GemmPath::Own);
            }
            for (name, order, gemm, build) in ways {
                let name = format!("{} {} {name}", element.name(), shape.head_dim);
                let checked = one(gpu, &case, &expected, order, gemm, build, &mut first, !options.own);
                let (line, right) = match checked {
                    Ok(Checked { worst, typical, tokens_right, repeats }) => {
                        // Two layers of some ten roundings each: a few units in the last place, more where they add up.
                        let bound = if element == Element::Bf16 { 1.6e-2 } else { 2e-3 };
                        let right = typical < bound && worst < 3.0 * bound && tokens_right && repeats;
                        (
                            json!({
                                "way": name, "relative_norm": worst, "typical": typical, "tokens": tokens_right,
                                "repeats": repeats,
                            }),
                            right,
                        )
                    }
                    Err(error) => (json!({ "way": name, "error": error.to_string() }), false),
                };
                println!("check {}: {line}", if right { "right" } else { "WRONG" });
                wrong += usize::from(!right);
                lines.push(line);
            }
        }
    }
    Ok((json!(lines), wrong))
}

/// What one way gave.
struct Checked {
    /// Largest relative norm of the logits over all parts of all steps.
    worst: f64,
    /// Root of the mean square of those norms.
    typical: f64,
    /// Whether the sampled tokens are the largest of our own logits.
    tokens_right: bool,
    /// Whether a second run, whose decode steps replay the graphs of the first, and a third one without graphs give the
    /// same bits.
    repeats: bool,
}

#[expect(clippy::too_many_arguments, reason = "what is checked, and against what")]
fn one(
    gpu: &Gpu,
    case: &Case,
    expected: &[Vec<Vec<f64>>],
    order: LoraOrder,
    gemm: GemmPath,
    build: &Build,
    first: &mut Option<Vec<StepOutput>>,
    repeats: bool,
) -> Result<Checked, Error> {
    let mut llama = case.open(gpu, case.settings(order, gemm), build)?;
    let results = case.run(&mut llama)?;
    let mut same = true;
    if repeats {
        same &= results == case.run(&mut llama)?;
        llama.set_graphs(false);
        same &= results == case.run(&mut llama)?;
    }
    let (mut worst, mut squares, mut parts) = (0.0_f64, 0.0, 0.0);
    let mut tokens_right = true;
    for (step, (logits, tokens)) in case.steps.iter().zip(&results) {
        for ((part, row), &token) in step.iter().zip(logits).zip(tokens) {
            let reference = &expected[part.sequence][part.start + part.count - 1];
            let deviation = Deviation::of(row.iter().map(|&value| f64::from(value)), reference).relative_norm;
            worst = if deviation.is_nan() { f64::INFINITY } else { worst.max(deviation) };
            squares += deviation * deviation;
            parts += 1.0;
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            tokens_right &= row.iter().position(|&value| value == largest) == Some(token as usize);
        }
    }
    // Whether deltas are written before, beside or along the GEMM must not change a bit. Behind it there are none.
    let writes_delta = order != LoraOrder::After && build.architecture.is_none();
    let as_first = match first {
        Some(first) if writes_delta => *first == results,
        None if writes_delta => {
            *first = Some(results);
            true
        }
        _ => true,
    };
    Ok(Checked { worst, typical: (squares / parts).sqrt(), tokens_right, repeats: same && as_first })
}

fn expected(case: &Case) -> Vec<Vec<Vec<f64>>> {
    let decode = |bits: &Vec<u16>| bits.iter().map(|&bits| case.element.decode(bits)).collect::<Vec<f32>>();
    let tensors: HashMap<_, _> = case.tensors.iter().map(|(&tensor, bits)| (tensor, decode(bits))).collect();
    let model = Model { shape: case.shape, tensors: &tensors };
    let adapters: Vec<HashMap<_, _>> = case
        .adapters
        .iter()
        .map(|adapter| adapter.weights.iter().map(|(&key, bits)| (key, decode(bits))).collect())
        .collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = case
            .sequences
            .iter()
            .map(|(tokens, owner)| {
                let (model, adapters) = (&model, &adapters);
                scope.spawn(move || {
                    let adapter = owner.map(|slot| Adapter {
                        rank: case.adapters[slot as usize].rank as usize,
                        scale: case.adapters[slot as usize].scale,
                        weights: &adapters[slot as usize],
                    });
                    model.logits(tokens, adapter.as_ref())
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a reference thread")).collect()
    })
}
