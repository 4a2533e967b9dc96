//! Is a profile one that prices can be made of?

use std::fmt;

use super::attention::{DecodeAttention, PromptCost};
use super::curve::{above_zero, finite, increasing, not_negative};
use super::{HostCost, Profile, Range, SCHEMA, SCHEMA_OLDEST, Spread, WholeStep};

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadProfile {
    /// The profile's name.
    pub profile: String,
    /// Where in it, as a path of keys.
    pub key: String,
    /// What is wrong and what is needed.
    pub problem: String,
}

impl fmt::Display for BadProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "profile `{}`: {}: {}", self.profile, self.key, self.problem)
    }
}

impl std::error::Error for BadProfile {}

impl Profile {
    /// Is every figure possible?
    ///
    /// # Errors
    /// The first that is not, with its key.
    pub fn check(&self) -> Result<(), BadProfile> {
        if !(SCHEMA_OLDEST..=SCHEMA).contains(&self.schema) {
            let known = format!("{SCHEMA_OLDEST} to {SCHEMA}");
            return Err(self.bad("schema")(format!(
                "{} is none of the versions {known} that this build reads",
                self.schema
            )));
        }
        if self.schema == 2
            && let Some(part) = self.said_anew()
        {
            return Err(self.bad("schema")(format!(
                "version 3 means something else by {part} than 2: fit its recording again"
            )));
        }
        if self.name.trim().is_empty() {
            return Err(self.bad("name")("it is empty".to_owned()));
        }
        self.model.check().map_err(self.bad("model"))?;
        self.model.check_tensor_parallel(self.tensor_parallel).map_err(self.bad("tensor_parallel"))?;
        self.gpu.check().map_err(self.bad("gpu"))?;
        self.check_host().map_err(self.bad("host"))?;
        self.check_whole_step().map_err(self.bad("whole_step"))?;
        if let Some(sag) = &self.clock_sag {
            sag.check().map_err(self.bad("clock_sag"))?;
        }
        match &self.vidur {
            Some(tables) => {
                tables.check().map_err(|(key, problem)| self.bad(&format!("vidur.{key}"))(problem))?;
                self.check_no_parts()?;
            }
            None => self.check_parts()?,
        }
        for (kernel, cost) in &self.lora {
            cost.check().map_err(self.bad(&format!("lora.{kernel}")))?;
        }
        self.check_load().map_err(self.bad("load"))?;
        for spread in &self.spread {
            spread.check().map_err(self.bad(&format!("spread.{}", spread.of)))?;
        }
        self.check_validity().map_err(self.bad("validity"))
    }

    fn bad(&self, key: &str) -> impl FnOnce(String) -> BadProfile + use<> {
        let (profile, key) = (self.name.clone(), key.to_owned());
        move |problem: String| BadProfile { profile, key, problem }
    }

    fn check_parts(&self) -> Result<(), BadProfile> {
        if self.operations.is_empty() {
            return Err(self.bad("operations")("there is none: at least one is needed".to_owned()));
        }
        for operation in &self.operations {
            operation.cost.check().map_err(self.bad(&format!("operations.{}", operation.name)))?;
        }
        if let Some(pair) = self.row_buckets.windows(2).find(|pair| pair[0] >= pair[1]) {
            let problem = format!("{} is followed by {}: they must increase", pair[0], pair[1]);
            return Err(self.bad("row_buckets")(problem));
        }
        self.prefill_attention.check().map_err(self.bad("prefill_attention"))?;
        if self.decode_attention.bounds.is_empty() {
            return Err(self.bad("decode_attention.bounds")("it is empty: at least one is needed".to_owned()));
        }
        let DecodeAttention { bounds, ways, .. } = &self.decode_attention;
        for regime in &self.decode_attention.regimes {
            regime.check().map_err(self.bad("decode_attention.regimes"))?;
        }
        for bound in bounds.iter().chain(ways) {
            bound.check().map_err(self.bad(&format!("decode_attention.{}", bound.name)))?;
        }
        Ok(())
    }

    /// Tables of whole layers leave nothing to parts.
    fn check_no_parts(&self) -> Result<(), BadProfile> {
        let parts = [
            ("host", self.host != HostCost::default()),
            ("whole_step", self.whole_step != WholeStep::default()),
            ("operations", !self.operations.is_empty()),
            ("prefill_attention", !self.prefill_attention.is_none()),
            ("decode_attention", !self.decode_attention.is_none()),
        ];
        match parts.into_iter().find(|(_, is_there)| *is_there) {
            Some((key, _)) => {
                Err(self.bad(key)("the tables in `vidur` price whole layers: leave one of the two out".to_owned()))
            }
            None => Ok(()),
        }
    }

    /// A part that version 3 says otherwise than version 2.
    fn said_anew(&self) -> Option<&'static str> {
        let parts = [
            ("tiles of prompts", matches!(self.prefill_attention.prompt, PromptCost::Tiles(_))),
            ("clocks that sag", self.clock_sag.is_some()),
        ];
        parts.into_iter().find_map(|(part, there)| there.then_some(part))
    }

    fn check_host(&self) -> Result<(), String> {
        let host = &self.host;
        for (key, value) in [
            ("us", host.us),
            ("us_per_sequence", host.us_per_sequence),
            ("us_per_doubling", host.us_per_doubling),
            ("us_per_prompt_doubling", host.us_per_prompt_doubling),
            ("us_per_prompt", host.us_per_prompt),
            ("us_per_segment", host.us_per_segment),
            ("us_prompts", host.us_prompts),
            ("us_adapters", host.us_adapters),
            ("us_prompts_and_adapters", host.us_prompts_and_adapters),
            ("us_per_collection", host.us_per_collection),
        ] {
            not_negative(key, value)?;
        }
        Ok(())
    }

    fn check_whole_step(&self) -> Result<(), String> {
        let whole = &self.whole_step;
        above_zero("scale", whole.scale)?;
        above_zero("lora_scale", whole.lora_scale)?;
        above_zero("prompt_scale", whole.prompt_scale)?;
        for (key, value) in [
            ("us", whole.us),
            ("us_per_layer", whole.us_per_layer),
            ("us_per_layer_lora", whole.us_per_layer_lora),
            ("us_per_layer_lora_prompt", whole.us_per_layer_lora_prompt),
            ("us_per_layer_prompt", whole.us_per_layer_prompt),
            ("us_per_layer_mixed", whole.us_per_layer_mixed),
        ] {
            finite(key, value)?;
        }
        if let Some(few) = &whole.lora_few_rows {
            above_zero("lora_few_rows.scale", few.scale)?;
            above_zero("lora_few_rows.scale_row", few.scale + few.scale_row * f64::from(few.rows_max))?;
            finite("lora_few_rows.us_per_layer", few.us_per_layer)?;
            finite("lora_few_rows.us_per_layer_row", few.us_per_layer_row)?;
            if few.rows.len() != few.least_us.len() {
                let (rows, values) = (few.rows.len(), few.least_us.len());
                return Err(format!("{rows} lora_few_rows.rows but {values} least_us: one for each"));
            }
            if !few.rows.is_empty() {
                increasing("lora_few_rows.rows", &few.rows)?;
            }
            for value in &few.least_us {
                not_negative("lora_few_rows.least_us", *value)?;
            }
            if few.least_us.windows(2).any(|pair| pair[0] > pair[1]) {
                return Err("lora_few_rows.least_us must not fall".to_owned());
            }
        }
        if whole.rows.len() != whole.us_per_layer_by_rows.len() {
            let (rows, values) = (whole.rows.len(), whole.us_per_layer_by_rows.len());
            return Err(format!("{rows} rows but {values} us_per_layer_by_rows: one for each"));
        }
        if !whole.rows.is_empty() {
            increasing("rows", &whole.rows)?;
        }
        whole.us_per_layer_by_rows.iter().try_for_each(|&value| finite("us_per_layer_by_rows", value))
    }

    fn check_load(&self) -> Result<(), String> {
        let load = &self.load;
        not_negative("us", load.us)?;
        above_zero("pinned_gigabytes_per_second", load.pinned_gigabytes_per_second)?;
        above_zero("pageable_gigabytes_per_second", load.pageable_gigabytes_per_second)?;
        for (key, factor) in [("copy_slowdown", load.copy_slowdown), ("step_slowdown", load.step_slowdown)] {
            if !(factor.is_finite() && factor >= 1.0) {
                return Err(format!("{key} is {factor}: a factor of at least 1"));
            }
        }
        Ok(())
    }

    fn check_validity(&self) -> Result<(), String> {
        let v = &self.validity;
        let ranges: [(&str, Option<Range>); 7] = [
            ("decode_rows", v.decode_rows),
            ("context", v.context),
            ("rows", v.rows),
            ("chunk", v.chunk),
            ("prefix", v.prefix),
            ("segments", v.segments),
            ("rank", v.rank),
        ];
        for (key, range) in ranges {
            if let Some(range) = range
                && range.min > range.max
            {
                return Err(format!("{key} goes from {} to {}: min must not be above max", range.min, range.max));
            }
        }
        Ok(())
    }
}

impl Spread {
    fn check(&self) -> Result<(), String> {
        increasing("levels", &self.levels)?;
        if let Some(level) = self.levels.iter().find(|level| **level > 1.0) {
            return Err(format!("levels has {level}: shares are at most 1"));
        }
        for (key, values) in [("ratio", &self.ratio), ("residual", &self.residual)] {
            if values.len() != self.levels.len() {
                return Err(format!("{} levels but {} {key}: one for each", self.levels.len(), values.len()));
            }
            values.iter().try_for_each(|&value| above_zero(key, value))?;
            if values.windows(2).any(|pair| pair[0] > pair[1]) {
                return Err(format!("{key} must not decrease"));
            }
        }
        Ok(())
    }
}
