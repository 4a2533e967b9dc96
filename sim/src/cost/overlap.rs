//! What adapters add to a whole step, by what their launches take alone.

use crate::profile::lora::LoraKernel;
use crate::profile::{LoraOverlap, Profile, StepRows, WholeStep, beside};

/// Compiled from [`WholeStep`].
#[derive(Clone, Debug)]
pub(super) struct Overlap {
    /// The scale of adapters behind the products, and what they take beyond it, over all layers; the same in a step with a prompt.
    scale: f64,
    us: f64,
    prompt_us: f64,
    /// Beside the products of at most so many rows.
    few_rows: u32,
    few: Few,
    /// The last two roots were taken of this: rows, what adapters take, what they take beside products.
    last: (u32, f64, f64),
}

/// The scale of adapters and what they take beyond it, over all layers; what each row adds to both; and what products take longer beside them, in a
/// layer, by rows: none where that is not known.
#[derive(Clone, Debug, Default)]
struct Few {
    scale: f64,
    scale_row: f64,
    us: f64,
    us_row: f64,
    least: Vec<f64>,
}

/// What a step's adapters add to it.
#[derive(Clone, Copy)]
pub(super) struct Adapters {
    /// In each layer, before the scale of the step.
    pub(super) us: f64,
    /// Over all layers, whatever they take.
    pub(super) gap_us: f64,
}

impl Overlap {
    pub(super) fn compile(profile: &Profile, kernel: LoraKernel) -> Overlap {
        let layers = f64::from(profile.model.layers);
        let WholeStep { lora_scale, us_per_layer_lora, us_per_layer_lora_prompt, lora_few_rows, .. } =
            &profile.whole_step;
        // Other kernels run behind the products, however few their rows.
        let few = lora_few_rows.as_ref().filter(|_| kernel == LoraKernel::Segmented);
        let of = |few: &LoraOverlap| Few {
            scale: few.scale,
            scale_row: few.scale_row,
            us: few.us_per_layer * layers,
            us_row: few.us_per_layer_row * layers,
            least: (0..=few.rows_max).map_while(|rows| few.least_us(profile.padded(rows))).collect(),
        };
        Overlap {
            scale: *lora_scale,
            us: us_per_layer_lora * layers,
            prompt_us: us_per_layer_lora_prompt * layers,
            few_rows: few.map_or(0, |few| few.rows_max),
            few: few.map(of).unwrap_or_default(),
            last: (0, f64::NAN, f64::NAN),
        }
    }

    /// What adapters add that take so long alone, in each layer; nothing is launched for those that are idle or merged.
    #[inline(always)]
    pub(super) fn of(&mut self, alone_us: f64, launched: bool, rows: StepRows) -> Adapters {
        let all = rows.all();
        if all > self.few_rows {
            let prompt_us = if rows.prompt_tokens > 0 { self.prompt_us } else { 0.0 };
            return Adapters { us: self.scale * alone_us, gap_us: if launched { self.us + prompt_us } else { 0.0 } };
        }
        let (few, count) = (&self.few, f64::from(all));
        let us = (few.scale + few.scale_row * count) * alone_us;
        if !launched {
            return Adapters { us, gap_us: 0.0 };
        }
        let gap_us = few.us + few.us_row * count;
        let Some(&least) = few.least.get(all as usize) else { return Adapters { us, gap_us } };
        // Steps of the same rows and adapters follow each other.
        if self.last.0 != all || self.last.1 != us {
            self.last = (all, us, beside(least, us));
        }
        Adapters { us: self.last.2, gap_us }
    }
}
