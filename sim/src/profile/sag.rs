//! What steps take longer behind prompts.
//!
//! Multiplying many rows draws a GPU to its power limit. Its clocks sag while it lasts and come back within tens of milliseconds, and whatever runs
//! meanwhile is slower than the same at rest, which is what a profile's other figures say. One number is all that there is to know of a
//! GPU's past: how far its clocks have sagged, from 0 to 1. It goes towards what the running step asks for, and back to 0 without one, each as a
//! charge does:
//!
//! ```text
//! d sag / dt = ( load − sag ) / us        load = min( 1, prompt tokens of the step / prompt_tokens )
//! ```
//!
//! What a step itself makes of the clocks is in its price; what others before it left is not, and fades while it runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::curve::{above_zero, not_negative};
use crate::batch::Sag;

/// How a GPU's clocks sag under prompts, and what that costs the steps behind them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClockSag {
    /// The time in which a difference falls to 1/e, microseconds.
    pub us: f64,
    /// Prompt tokens of a step that make the clocks sag wholly; fewer do by their share.
    pub prompt_tokens: f64,
    /// With clocks sagged wholly: what a step of decode rows takes longer, share of what it takes at rest.
    pub decode: f64,
    /// The same of a step of so many prompt tokens.
    pub prompts: f64,
}

impl ClockSag {
    /// A step of so many prompt tokens that takes `us` at rest, on a GPU whose clocks had sagged to `sag` when it last computed, `rested_us` ago: what it
    /// takes longer, microseconds, and how far the clocks have sagged when it is over.
    pub fn behind(&self, sag: Sag, rested_us: f64, prompt_tokens: u32, us: f64) -> (f64, Sag) {
        if sag == Sag::NONE && prompt_tokens == 0 {
            return (0.0, Sag::NONE);
        }
        let before = if sag == Sag::NONE { 0.0 } else { sag.share() * (-rested_us / self.us).exp() };
        let (load, slower) = self.under(prompt_tokens);
        let kept = (-us / self.us).exp();
        (slower * before * self.us * (1.0 - kept), Sag::of(load + (before - load) * kept))
    }

    /// The same step again and again, with a rest of `rested_us` after each: what each takes longer in the long run, microseconds.
    pub fn repeated(&self, prompt_tokens: u32, us: f64, rested_us: f64) -> f64 {
        let (load, slower) = self.under(prompt_tokens);
        let (kept, rested) = ((-us / self.us).exp(), (-rested_us / self.us).exp());
        let before = rested * load * (1.0 - kept) / (1.0 - rested * kept);
        slower * before * self.us * (1.0 - kept)
    }

    /// How far a step of so many prompt tokens makes the clocks sag, and what it takes longer where they have sagged wholly, share of it.
    fn under(&self, prompt_tokens: u32) -> (f64, f64) {
        let load = (f64::from(prompt_tokens) / self.prompt_tokens).min(1.0);
        (load, self.decode + (self.prompts - self.decode) * load)
    }

    /// # Errors
    /// A figure that no GPU has.
    pub(super) fn check(&self) -> Result<(), String> {
        for (key, value) in [("us", self.us), ("prompt_tokens", self.prompt_tokens)] {
            above_zero(key, value)?;
        }
        for (key, value) in [("decode", self.decode), ("prompts", self.prompts)] {
            not_negative(key, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAG: ClockSag = ClockSag { us: 35_000.0, prompt_tokens: 1024.0, decode: 0.12, prompts: 0.22 };

    #[test]
    fn a_step_in_two_halves_takes_what_it_takes_in_one() {
        let (whole, after) = SAG.behind(Sag::FULL, 0.0, 0, 20_000.0);
        let (first, between) = SAG.behind(Sag::FULL, 0.0, 0, 10_000.0);
        let (second, last) = SAG.behind(between, 0.0, 0, 10_000.0);
        assert!((whole - first - second).abs() < 1.0, "{whole} {first} {second}");
        assert!((after.share() - last.share()).abs() < 1e-3);
    }

    #[test]
    fn a_step_repeated_is_one_behind_itself() {
        let (mut longer, mut sag) = (0.0, Sag::NONE);
        for _ in 0..20 {
            (longer, sag) = SAG.behind(sag, 30_000.0, 700, 40_000.0);
        }
        let repeated = SAG.repeated(700, 40_000.0, 30_000.0);
        assert!(longer > 0.0 && (longer - repeated).abs() < 1.0, "{longer} {repeated}");
    }

    #[test]
    fn clocks_sag_under_prompts_and_come_back_at_rest_and_under_decode_rows_alike() {
        let (extra, sag) = SAG.behind(Sag::NONE, 0.0, 4096, 1e6);
        assert_eq!((extra, sag), (0.0, Sag::FULL), "what a step does to itself is in its price");
        let (rested, _) = SAG.behind(sag, 35_000.0, 0, 7_000.0);
        let (at_once, _) = SAG.behind(sag, 0.0, 0, 7_000.0);
        assert!((rested / at_once - (-1.0_f64).exp()).abs() < 1e-3);
        assert!((at_once / 7_000.0 - 0.12).abs() < 0.015, "{at_once}");
        assert_eq!(SAG.behind(sag, 200_000.0, 0, 7_000.0).1, Sag::NONE, "too little to count");
        let half = SAG.behind(Sag::NONE, 0.0, 512, 1e6).1;
        assert!((half.share() - 0.5).abs() < 1e-3);
    }
}
