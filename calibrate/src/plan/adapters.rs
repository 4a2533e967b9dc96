//! What adapters add to a layer, by kernel: segments, ranks, rows and popularities.

use aril_sim::profile::lora::LoraKernel;
use aril_sim::random;
use rand::RngExt;

use super::Draft;
use super::steps::log_uniform;
use crate::machine::{AdapterRows, Prompt, Question, StepShape};

/// How rows spread over adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popularity {
    /// Every row its own.
    Distinct,
    /// About the square root of the rows, evenly.
    Uniform,
    /// Each adapter has half as many again as the next.
    Skewed,
    /// One for all.
    Identical,
}

impl Popularity {
    /// All four.
    pub const ALL: [Popularity; 4] =
        [Popularity::Distinct, Popularity::Uniform, Popularity::Skewed, Popularity::Identical];

    /// Rows of each adapter, most popular first.
    pub fn rows(self, rows: u32) -> Vec<u32> {
        match self {
            Popularity::Distinct => vec![1; rows as usize],
            Popularity::Identical => vec![rows],
            Popularity::Uniform => even(rows, f64::from(rows).sqrt().ceil() as u32),
            Popularity::Skewed => {
                // A geometric series of ratio 2/3 whose smallest member is a row.
                let mut left = rows;
                let mut shares = Vec::new();
                while left > 0 {
                    let share = left.div_ceil(3);
                    shares.push(share);
                    left -= share;
                }
                shares
            }
        }
    }
}

/// So many rows over so many adapters, as evenly as possible.
pub(super) fn even(rows: u32, adapters: u32) -> Vec<u32> {
    (0..adapters).map(|index| rows / adapters + u32::from(index < rows % adapters)).collect()
}

pub(super) fn plan(draft: &mut Draft, kernels: &[LoraKernel], seed: u64) {
    for &kernel in kernels.iter().filter(|kernel| !kernel.is_free() && **kernel != LoraKernel::Sgmv) {
        if kernel == LoraKernel::Segmented { ours(draft, seed) } else { others(draft, kernel, seed) }
    }
}

fn ask(draft: &mut Draft, stage: u32, kernel: LoraKernel, shape: StepShape) {
    draft.ask(stage, Question::Lora { kernel, shape });
}

/// The kernel that simulations use by default: everything.
fn ours(draft: &mut Draft, seed: u64) {
    let kernel = LoraKernel::Segmented;
    let decode = |rows: u32| StepShape::decode(rows, 16);
    for (index, rows) in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].into_iter().enumerate() {
        for (p, popularity) in Popularity::ALL.into_iter().enumerate() {
            let stage = if (index + p) % 2 == 0 { 1 } else { 2 };
            ask(draft, stage, kernel, decode(rows).with_adapters(16, &popularity.rows(rows)));
        }
    }
    for rank in [8, 16, 32, 64, 128] {
        for (s, segments) in
            [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256].into_iter().enumerate()
        {
            for each in [1, 4] {
                let stage = if each == 1 && s % 2 == 0 { 1 } else { 2 };
                let shape = decode(segments * each).with_adapters(rank, &vec![each; segments as usize]);
                ask(draft, stage, kernel, shape);
            }
        }
    }
    for rank in [8, 16, 32, 64, 128] {
        for (index, chunk) in [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192].into_iter().enumerate() {
            let stage = if rank == 16 || (rank == 64 && index % 3 == 0) { 1 } else { 2 };
            let mut shape = StepShape::prompt(chunk, 0);
            shape.adapters.push(AdapterRows { rank, decode: 0, prompts: 1 });
            ask(draft, stage, kernel, shape);
        }
    }
    let mut random = random::stream(seed, "calibration adapters");
    for index in 0..120 {
        ask(draft, if index < 40 { 1 } else { 2 }, kernel, mixed(&mut random));
    }
    for index in 0..80 {
        ask(draft, if index < 30 { 1 } else { 2 }, kernel, prompted(&mut random));
    }
}

/// A few prompts with adapters of their own beside decode rows with others: the step of an engine that admits.
fn prompted(random: &mut random::Stream) -> StepShape {
    let decodes = if random.random_bool(0.3) { 0 } else { log_uniform(random, 1, 48) };
    let mut shape = StepShape::default();
    let mut rows = 0;
    let ranks: &[u32] = if decodes <= 20 { &[8, 16, 32, 64] } else { &[8, 16] };
    let single = random.random_bool(0.4).then(|| ranks[random.random_range(0..ranks.len())]);
    let rank = |random: &mut random::Stream| single.unwrap_or_else(|| ranks[random.random_range(0..ranks.len())]);
    for _ in 0..decodes {
        let decode = random.random_range(1..3);
        rows += decode;
        shape.adapters.push(AdapterRows { rank: rank(random), decode, prompts: 0 });
    }
    for _ in 0..random.random_range(1..4) {
        shape.prompts.push(Prompt { chunk: log_uniform(random, 16, 2048), prefix: 0 });
        shape.adapters.push(AdapterRows { rank: rank(random), decode: 0, prompts: 1 });
    }
    if rows > 0 {
        shape.decode.push((rows, 16));
    }
    shape
}

/// Some decode rows and prompts with adapters of mixed ranks, and some rows with none.
fn mixed(random: &mut random::Stream) -> StepShape {
    let ranks: &[u32] = if random.random_bool(0.5) { &[8, 16] } else { &[8, 16, 32, 64, 128] };
    let most = if ranks.len() == 2 { 96 } else { 28 };
    let adapters = random.random_range(1..most);
    let mut shape = StepShape::default();
    let mut rows = 0;
    for _ in 0..adapters {
        let rank = ranks[random.random_range(0..ranks.len())];
        let with_prompt = random.random_bool(0.06);
        let decode = if with_prompt { random.random_range(0..3) } else { random.random_range(1..5) };
        rows += decode;
        if with_prompt {
            shape.prompts.push(Prompt { chunk: 16 << random.random_range(0..7), prefix: 0 });
        }
        shape.adapters.push(AdapterRows { rank, decode, prompts: u32::from(with_prompt) });
    }
    rows += random.random_range(0..8);
    if rows > 0 {
        shape.decode.push((rows, 16));
    }
    shape
}

/// Kernels for comparison: enough for their price, not for every corner.
fn others(draft: &mut Draft, kernel: LoraKernel, seed: u64) {
    let decode = |rows: u32| StepShape::decode(rows, 16);
    for (index, rows) in [1, 4, 16, 32, 64, 128, 256].into_iter().enumerate() {
        for popularity in Popularity::ALL {
            let plain = matches!(popularity, Popularity::Distinct | Popularity::Identical);
            let stage = if plain && index % 2 == 0 { 1 } else { 2 };
            ask(draft, stage, kernel, decode(rows).with_adapters(16, &popularity.rows(rows)));
        }
    }
    for rank in [8, 32, 64, 128] {
        for segments in [1, 4, 8, 16, 32] {
            let stage = if matches!((rank, segments), (8 | 64, 4 | 16)) { 1 } else { 2 };
            ask(draft, stage, kernel, decode(segments).with_adapters(rank, &vec![1; segments as usize]));
        }
    }
    for ranks in [[8, 64], [16, 128], [8, 128]] {
        for pairs in [1, 4, 12] {
            let adapters = (0..2 * pairs).map(|i| AdapterRows { rank: ranks[i % 2], decode: 1, prompts: 0 });
            let shape = StepShape { adapters: adapters.collect(), ..decode(2 * pairs as u32) };
            ask(draft, 2, kernel, shape);
        }
    }
    for chunk in [16, 64, 128, 256, 512, 1024, 2048, 4096] {
        let mut shape = StepShape::prompt(chunk, 0);
        shape.adapters.push(AdapterRows { rank: 16, decode: 0, prompts: 1 });
        ask(draft, if chunk == 256 { 1 } else { 2 }, kernel, shape);
    }
    // The same for each of these kernels.
    let mut random = random::stream(seed, "calibration other adapters");
    for index in 0..16 {
        ask(draft, if index < 4 { 1 } else { 2 }, kernel, prompted(&mut random));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_popularity_shares_out_every_row() {
        for rows in [1, 2, 3, 7, 32, 64, 500] {
            for popularity in Popularity::ALL {
                let shares = popularity.rows(rows);
                assert_eq!(shares.iter().sum::<u32>(), rows, "{popularity:?}");
                assert!(shares.windows(2).all(|pair| pair[0] >= pair[1]) && !shares.contains(&0), "{popularity:?}");
            }
        }
        assert_eq!(Popularity::Uniform.rows(64).len(), 8);
        assert!(Popularity::Skewed.rows(64).len() > 8 && Popularity::Skewed.rows(64)[0] > 16);
    }
}
