//! Prices are exact, monotone, and honest about their range.

use aril_calibrate::probe::Shape;
use aril_calibrate::profiles;
use aril_sim::batch::{BatchShape, CostModel, Prefill, Segment};
use aril_sim::cost::CompiledCost;
use aril_sim::profile::attention::{DecodeBound, PromptCost};
use aril_sim::profile::lora::{LoraCost, LoraKernel};
use aril_sim::profile::{HostCost, Per, Profile, ProvenanceKind, Range, Rows};
use aril_sim::time::Span;
use proptest::prelude::*;

fn profile(index: usize) -> Profile {
    profiles()[index % profiles().len()].profile().unwrap()
}

/// A profile with several bounds of attention, a slow-down and overlap: everything that a measured one may have.
fn intricate() -> Profile {
    let mut profile = aril_calibrate::find("punica-a100-80gb-llama-2-7b").unwrap().profile().unwrap();
    profile.load.step_slowdown = 1.37;
    profile.whole_step.scale = 0.93;
    profile.whole_step.us = -11.0;
    profile.whole_step.us_per_layer = 0.7;
    profile.validity.context = Some(Range { min: 1, max: 1500 });
    profile.decode_attention.bounds.push(DecodeBound {
        name: "few rows".to_owned(),
        rows: vec![1.0, 8.0, 64.0],
        us: vec![9.0, 7.0, 30.0],
        us_per_token: vec![0.02, 0.003, 0.0101],
        us_per_longest_token: vec![0.001, 0.02, 0.05],
    });
    profile
}

fn price(cost: &mut CompiledCost, shape: &Shape, copying: bool) -> aril_sim::batch::Price {
    cost.price(&BatchShape { copies_in_flight: copying, ..shape.view() })
}

fn grown(shape: &Shape, steps: u32) -> Shape {
    Shape { contexts: shape.contexts.iter().map(|context| context + steps).collect(), ..shape.clone() }
}

/// What a step costs by its numbers of rows and sequences alone, microseconds: products, norms, gaps.
fn by_rows(profile: &Profile, shape: &Shape) -> f64 {
    let prompts: u32 = shape.prefills.iter().map(|part| part.chunk).sum();
    let all = shape.contexts.len() as u32 + prompts;
    let sequences = (shape.contexts.len() + shape.prefills.len()) as u32;
    let layers = f64::from(profile.model.layers);
    let whole = &profile.whole_step;
    let operations = profile.operations.iter().map(|operation| {
        let rows = if operation.over == Rows::All { all } else { sequences };
        let times = if operation.per == Per::Layer { layers } else { 1.0 };
        times * whole.scale * operation.cost.us(f64::from(profile.padded(rows)))
    });
    operations.sum::<f64>() + layers * whole.layer_us(f64::from(profile.padded(all)))
}

/// What the attention of a step's decode rows costs, microseconds, whether its kernel cuts long contexts, and how.
fn by_contexts(profile: &Profile, shape: &Shape) -> (f64, bool, Option<usize>) {
    let attention = &profile.decode_attention;
    let rows = shape.contexts.len() as u32;
    let sum = shape.contexts.iter().map(|&context| u64::from(context)).sum();
    let longest = shape.contexts.iter().copied().max().unwrap_or(0);
    let regime = attention.regime(rows, sum, longest);
    // Pieces of short contexts are whole; of others a plan of regimes cuts all that it does not name whole.
    let cuts = match regime {
        Some(index) => {
            let name = &attention.regimes[index].name;
            !(name == "whole" || name == "short" || name.starts_with("rounds"))
        }
        None => !attention.regimes.is_empty(),
    };
    (f64::from(profile.model.layers) * profile.whole_step.scale * attention.us(rows, sum, longest), cuts, regime)
}

/// What more may save on a measured GPU, microseconds: what these alone save. A library's next kernel for more rows can really be
/// the quicker one, and a plan that cuts contexts for these rows may cut them otherwise or not at all for one row more, or take
/// larger tiles for longer contexts.
fn saved_by_plans(profile: &Profile, shape: &Shape, larger: &Shape) -> f64 {
    if profile.provenance.kind != ProvenanceKind::Measured {
        return 0.0;
    }
    let rows = (by_rows(profile, shape) - by_rows(profile, larger)).max(0.0);
    let ((before, cuts, how), (after, still, other)) = (by_contexts(profile, shape), by_contexts(profile, larger));
    let other_plan = how != other || (cuts && (!still || shape.contexts.len() != larger.contexts.len()));
    let decode = if other_plan { (before - after).max(0.0) } else { 0.0 };
    let ((before, size), (after, other)) = (by_prompts(profile, shape), by_prompts(profile, larger));
    let prompts = if size.is_some() && other.is_some() && size != other { (before - after).max(0.0) } else { 0.0 };
    let adapters = (by_adapters(profile, shape) - by_adapters(profile, larger)).max(0.0);
    // A step that takes less draws for a shorter time: the fraction of `Sagging::own_us` rises by up to 1.0015 of what a step does.
    (rows + decode + prompts + adapters) * (1.0 + 1.0015 * profile.clock_sag.map_or(0.0, |sag| sag.own))
}

/// What our kernel's launches take for the adapters of a step where a plan shares them out, microseconds: larger tiles or other members for more
/// rows can be the quicker ones.
fn by_adapters(profile: &Profile, shape: &Shape) -> f64 {
    let is_planned =
        |cost: &&LoraCost| cost.planned.is_some() || cost.few_rows.as_ref().is_some_and(|few| few.planned.is_some());
    let Some(cost) = profile.lora.get(&LoraKernel::Segmented).filter(is_planned) else { return 0.0 };
    let prompts: u32 = shape.prefills.iter().map(|part| part.chunk).sum();
    if shape.segments.is_empty() {
        return 0.0;
    }
    let rows = shape.contexts.len() as u32 + prompts;
    f64::from(profile.model.layers) * profile.whole_step.lora_us(rows, profile.padded(rows), cost.us(&shape.view()))
}

/// What the attention of a step's prompts costs, microseconds, which size of tile its kernel's plan chooses, and into how many pieces it cuts
/// their keys: of more pieces each adds up less.
fn by_prompts(profile: &Profile, shape: &Shape) -> (f64, Option<(usize, u64)>) {
    let prompts: Vec<(u32, u32)> = shape.prefills.iter().map(|part| (part.chunk, part.prefix)).collect();
    let attention = &profile.prefill_attention;
    let size = match &attention.prompt {
        PromptCost::Tiles(tiled) => tiled.planned(prompts.iter().copied()).map(|planned| {
            let cut = planned.checked_sub(tiled.sizes.len());
            (planned, cut.map_or(0, |size| tiled.split_sums(prompts.iter().copied(), size).tiles as u64))
        }),
        _ => None,
    };
    let whole = &profile.whole_step;
    (f64::from(profile.model.layers) * whole.scale * whole.prompt_scale * attention.us(&prompts), size)
}

prop_compose! {
    fn decode_batch()(contexts in prop::collection::vec(1_u32..3000, 1..64), adapters in 0_u32..33, rank in prop::sample::select(vec![8_u32, 16, 64, 128]))
        -> Shape {
        let rows = contexts.len() as u32;
        let shape = Shape { contexts, ..Shape::default() };
        if adapters == 0 { shape } else { shape.with_adapters(adapters.min(rows), rank) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_promise_equals_pricing_step_by_step(shape in decode_batch(), index in 0_usize..100, copying: bool) {
        for profile in [profile(index), intricate()] {
            let mut cost = CompiledCost::compile(&profile, LoraKernel::None).unwrap();
            let promise = price(&mut cost, &shape, copying);
            prop_assert!(promise.steps >= 1);
            let (mut sum, steps) = (Span::ZERO, promise.steps.min(700));
            for step in 0..steps {
                let single = price(&mut cost, &grown(&shape, step), copying).first;
                prop_assert_eq!(single, promise.first + promise.increment * u64::from(step), "step {} of {}", step, promise.steps);
                sum += single;
            }
            prop_assert_eq!(promise.sum(steps), sum);
        }
    }

    #[test]
    fn more_of_anything_never_costs_less(shape in decode_batch(), index in 0_usize..100, kernel in 0_usize..8, prompt in 1_u32..4000) {
        let profile = profile(index);
        let kernel = LoraKernel::ALL[kernel];
        let Ok(mut cost) = CompiledCost::compile(&profile, kernel) else { return Ok(()) };
        let mut longer = shape.clone();
        longer.contexts[0] += 1;
        let mut wider = shape.clone();
        wider.contexts.push(1);
        let mut prompted = shape.clone();
        prompted.prefills.push(Prefill { chunk: prompt, prefix: 0 });
        let mut more = vec![longer, wider, prompted.clone()];
        if let Some(&first) = shape.segments.first() {
            let mut another = shape.clone();
            another.segments.push(Segment { decode_rows: 1, ..first });
            another.contexts.push(1);
            let mut higher = shape.clone();
            higher.segments[0].rank *= 2;
            let mut slots = shape.clone();
            slots.slots += 8;
            more.extend([another, higher, slots]);
        }
        let mut later = prompted.clone();
        later.prefills[0].prefix += 100;
        let grown = more.into_iter().map(|larger| (shape.clone(), larger)).chain([(prompted, later)]);
        for (shape, larger) in grown {
            let base = price(&mut cost, &shape, false).first;
            let price = price(&mut cost, &larger, false).first;
            let saved = saved_by_plans(&profile, &shape, &larger);
            let saved = if saved > 0.0 { Span::from_secs_f64((saved + 1e-5) * 1e-6) } else { Span::ZERO };
            prop_assert!(price + saved >= base, "{}, {kernel}: {price} < {base} - {saved} for {larger:?}", profile.name);
        }
    }

    /// Of few rows what the products beside them take longer, of more a gap, of those with a prompt a longer one.
    #[test]
    fn adapters_add_to_a_step_what_the_profile_says(shape in decode_batch(), index in 0_usize..100, prompt in 0_u32..200) {
        let mut profile = profile(index);
        if !profile.lora.contains_key(&LoraKernel::Segmented) || shape.segments.is_empty() {
            return Ok(());
        }
        (profile.host, profile.clock_sag) = (HostCost::default(), None);
        profile.whole_step.us_per_layer_lora_prompt = 1.5;
        let mut shape = shape;
        if prompt > 0 {
            shape.prefills.push(Prefill { chunk: prompt, prefix: 0 });
        }
        let without = Shape { segments: Vec::new(), slots: 0, ..shape.clone() };
        let us = |kernel, shape: &Shape| {
            let mut cost = CompiledCost::compile(&profile, kernel).unwrap();
            price(&mut cost, shape, false).first.as_secs_f64() * 1e6
        };
        let added = us(LoraKernel::Segmented, &shape) - us(LoraKernel::None, &without);
        let whole = &profile.whole_step;
        let rows = shape.contexts.len() as u32 + prompt;
        let few = whole.lora_few_rows.as_ref().is_some_and(|few| rows <= few.rows_max);
        let gap = if prompt > 0 && !few { whole.us_per_layer_lora_prompt } else { 0.0 };
        let alone = profile.lora[&LoraKernel::Segmented].us(&shape.view());
        let says = f64::from(profile.model.layers) * (whole.lora_us(rows, profile.padded(rows), alone) + gap);
        prop_assert!((added - says).abs() < 1e-5, "{}: {added} for {says}", profile.name);
    }

    #[test]
    fn copies_beside_a_step_slow_it_down_by_the_factor_of_the_profile(shape in decode_batch()) {
        let profile = intricate();
        let mut cost = CompiledCost::compile(&profile, LoraKernel::Sgmv).unwrap();
        let (alone, beside) = (price(&mut cost, &shape, false).first, price(&mut cost, &shape, true).first);
        let ratio = beside.as_secs_f64() / alone.as_secs_f64();
        prop_assert!((ratio / profile.load.step_slowdown - 1.0).abs() < 1e-6, "{ratio}");
    }
}

#[test]
fn a_promise_ends_where_the_range_does_and_what_is_beyond_is_counted() {
    let mut profile = intricate();
    profile.decode_attention.bounds.truncate(1);
    profile.validity.decode_rows = Some(Range { min: 1, max: 4 });
    profile.validity.rank = Some(Range { min: 8, max: 64 });
    let mut cost = CompiledCost::compile(&profile, LoraKernel::Sgmv).unwrap();
    let inside = price(&mut cost, &Shape::decode(4, 1491), false);
    assert_eq!(inside.steps, 10, "the last step within 1,500 tokens is the tenth");
    assert_eq!(cost.coverage().outside, []);
    assert_eq!(price(&mut cost, &Shape::decode(5, 1501), false).steps, u32::MAX);
    price(&mut cost, &Shape::decode(4, 10).with_adapters(2, 128), false);
    price(&mut cost, &Shape::prefill(512, 0), false);
    let coverage = cost.coverage();
    assert_eq!(coverage.lookups, 4);
    assert_eq!(coverage.outside, [("decode rows", 1), ("context", 1), ("rank", 1)]);
}

#[test]
fn two_adapters_merged_at_once_are_counted_as_impossible() {
    let mut cost = CompiledCost::compile(&intricate(), LoraKernel::Merged).unwrap();
    price(&mut cost, &Shape::decode(8, 100).with_adapters(1, 16), false);
    assert_eq!(cost.coverage().outside, []);
    price(&mut cost, &Shape::decode(8, 100).with_adapters(2, 16), false);
    assert_eq!(cost.coverage().outside, [("several adapters merged", 1)]);
}

#[test]
fn the_three_figures_of_lora_are_told_apart() {
    let mut profile = intricate();
    let cost = profile.lora.get_mut(&LoraKernel::Sgmv).unwrap();
    (cost.idle_us, cost.idle_us_per_slot, cost.us) = (3.0, 0.5, 20.0);
    let figures = aril_calibrate::show::lora_figures(&profile, LoraKernel::Sgmv).unwrap();
    let layers = f64::from(profile.model.layers) * profile.whole_step.scale;
    assert!((figures.idle_us - layers * 3.5).abs() < 1e-3, "{}", figures.idle_us);
    assert!(figures.fixed_us > layers * 23.5, "{}", figures.fixed_us);
    let off = aril_calibrate::show::lora_figures(&profile, LoraKernel::Merged).unwrap();
    assert_eq!((off.fixed_us, off.idle_us, off.segment_us), (0.0, 0.0, 0.0));
}

#[test]
fn a_kernel_without_figures_is_refused_with_the_ones_there_are() {
    let error = CompiledCost::compile(&intricate(), LoraKernel::Segmented).unwrap_err().to_string();
    assert!(error.contains("lora.segmented") && error.contains("sgmv") && error.contains("none"), "{error}");
}
