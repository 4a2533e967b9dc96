//! What a step's adapters add by where they stand and how their work is cut, and what the GEMM's own choices are worth.

use aril_kernels::gemm::few_rows;
use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{Llama, LlamaShape, LoraOrder};
use aril_kernels::lora::plan::{Exchange, Release, Tuning};
use aril_kernels::{Error, llama};
use serde_json::{Value, json};

use crate::steps::{self, Point, Rows, median};
use crate::{Options, rounded};

/// An order, the adapters' choices and the GEMM's.
type Way = (LoraOrder, Tuning, few_rows::Tuning);

fn ways() -> Vec<Way> {
    let plain = (Tuning::default(), few_rows::Tuning::default());
    let blocks = |blocks| Tuning { blocks: Some(blocks), ..plain.0 };
    let mut ways: Vec<Way> = LoraOrder::ALL.into_iter().map(|order| (order, plain.0, plain.1)).collect();
    let along = LoraOrder::Along;
    ways.extend([48, 66, 100, 132, 198].map(|count| (along, blocks(count), plain.1)));
    ways.push((along, Tuning { shared_bytes: Some(48 << 10), ..plain.0 }, plain.1));
    ways.extend([4, 5].map(|stages| (along, plain.0, few_rows::Tuning { stages: Some(stages), ..plain.1 })));
    let global = Tuning { exchange: Some(Exchange::Global), ..plain.0 };
    ways.push((along, global, plain.1));
    for tuning in [plain.0, global] {
        ways.extend(Release::ALL.map(|release| (along, Tuning { release: Some(release), ..tuning }, plain.1)));
    }
    ways
}

pub(crate) fn run(gpu: &Gpu, options: &Options) -> Result<(Value, usize), Error> {
    let models =
        [("llama-2-7b", LlamaShape::llama_2_7b()), ("llama-3.1-70b-shard-tp8", LlamaShape::llama_3_1_70b_shard_tp8())];
    let mut results = Vec::new();
    for (name, shape) in options.models(&models)? {
        let mut llama = steps::open(gpu, options, shape)?;
        for (rows, adapters) in [(32, 32), (32, 1), (8, 8)] {
            // Quick: the orders alone.
            let ways = ways().into_iter().filter(|way| !options.quick || (way.1, way.2) == Default::default());
            for way in ways {
                results.push(one(&mut llama, options, name, Point::decode(rows, 1024, adapters), way)?);
            }
        }
        // Behind a library's GEMM, whatever the order.
        for release in [None].into_iter().chain(Release::ALL.map(Some)) {
            let way = (LoraOrder::After, Tuning { release, ..Tuning::default() }, few_rows::Tuning::default());
            results.push(one(&mut llama, options, name, Point::prompt(512), way)?);
        }
    }
    Ok((json!(results), 0))
}

fn one(
    llama: &mut Llama,
    options: &Options,
    name: &str,
    point: Point,
    (order, lora, gemm): Way,
) -> Result<Value, Error> {
    llama.set_gemm_tuning(gemm);
    llama.set_lora_order(order)?;
    llama.set_lora_tuning(lora);
    let rows = Rows::new(point);
    let repeats = options.repeats.min(10);
    llama.set_rest(point.rest());
    let without = rounded(llama.time_step(&rows.sequences(false), repeats)?);
    let with = rounded(llama.time_step(&rows.sequences(true), repeats)?);
    println!(
        "{name} {}: {order:?}, blocks {:?}, shared bytes {:?}, exchange {:?}, release {:?}, stages {:?}: {:.0} us without, adapters {:+.0} us",
        point.name(),
        lora.blocks,
        lora.shared_bytes,
        lora.exchange,
        lora.release,
        gemm.stages,
        median(&without),
        median(&with) - median(&without),
    );
    Ok(json!({
        "adapters": point.adapters, "rows": point.rows, "chunk": point.chunk, "context": point.context, "model": name,
        "bucket": llama::bucket(point.rows + point.chunk), "order": format!("{order:?}"), "blocks": lora.blocks,
        "shared_bytes": lora.shared_bytes, "exchange": lora.exchange.map(|exchange| format!("{exchange:?}")),
        "release": lora.release.map(|release| format!("{release:?}")), "stages": gemm.stages, "without_us": without, "with_us": with,
    }))
}
