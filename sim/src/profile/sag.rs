//! What steps take longer behind prompts.
//!
//! Multiplying many rows draws a GPU to its power limit. What it draws is watched over some time, its clocks sag once that is too much and come back within
//! tens of milliseconds, and whatever runs meanwhile is slower than the same at rest, which is what a profile's other figures say. Two numbers are all that
//! there is to know of a GPU's past: what it drew of late, and how far its clocks have sagged, each from 0 to 1. What is drawn goes towards what the running
//! step asks for, and the clocks towards what is drawn, each as a charge does:
//!
//! ```text
//! d drawn / dt = ( load − drawn ) / us        load = min( 1, prompt tokens of the step / prompt_tokens )
//! d sag   / dt = ( drawn − sag ) / us
//! ```
//!
//! So one short prompt hardly shows, and clocks sag on for a while after the last of many. What a step itself makes of the clocks is in its price, with a share
//! of its own ([`ClockSag::own`]); what others before it left is not, and fades while it runs.

mod fading;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::curve::{above_zero, not_negative};
use crate::batch::{BatchShape, Sag};

/// How a GPU's clocks sag under prompts, and what that costs the steps behind them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClockSag {
    /// The time in which each difference falls to 1/e, microseconds.
    pub us: f64,
    /// Prompt tokens of a step that make the clocks sag wholly; fewer do by their share.
    pub prompt_tokens: f64,
    /// With clocks sagged wholly: what a step of few rows takes longer, share of what it takes at rest.
    pub decode: f64,
    /// And for each of its rows, of prompts and of sequences that decode alike: memory is as fast as ever, multiplying is not.
    #[serde(default)]
    pub decode_row: f64,
    /// The most: what a step takes longer whose rows are so many that it only multiplies, as those of prompts are.
    pub prompts: f64,
    /// With clocks that a step's own prompts have made sag wholly: what it takes longer, share of it, beyond what its figures say, which are those of
    /// operations at full clocks.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub own: f64,
}

impl ClockSag {
    /// A step of so many prompt tokens and decode rows that takes `us` at rest, on a GPU whose clocks had sagged to `sag` when it last computed, `rested_us` ago: what it
    /// takes longer, microseconds, and how far the clocks have sagged when it is over.
    pub fn behind(&self, sag: Sag, rested_us: f64, rows: StepRows, us: f64) -> (f64, Sag) {
        self.ready().behind(sag, rested_us, rows, us)
    }

    /// Made ready to be asked often.
    pub(crate) fn ready(&self) -> Sagging {
        let prompts = self.prompts.max(self.decode);
        Sagging {
            us: self.us,
            per_us: 1.0 / self.us,
            per_token: 1.0 / self.prompt_tokens,
            decode: self.decode,
            decode_row: self.decode_row,
            prompts,
            own: self.own,
        }
    }

    /// What a step of so many prompt tokens that would take `us` at full clocks takes longer for what it draws itself, microseconds.
    pub fn own_us(&self, prompt_tokens: u32, us: f64) -> f64 {
        self.ready().own_us(prompt_tokens, us)
    }

    /// The same step again and again, with a rest of `rested_us` after each: what each takes longer in the long run, microseconds.
    pub fn repeated(&self, rows: StepRows, us: f64, rested_us: f64) -> f64 {
        let (ready, times, rests) = (self.ready(), us / self.us, rested_us / self.us);
        let (mut clocks, mut felt) = (Clocks::default(), 0.0);
        for _ in 0..(1.0 + 12.0 * self.us / (us + rested_us)).min(1e3) as u32 {
            felt = clocks.run(ready.load(rows.prompt_tokens), times);
            clocks.run(0.0, rests);
        }
        ready.slower(rows.all()) * felt * self.us
    }

    /// With clocks sagged wholly: what a step of so many rows takes longer, share of what it takes at rest.
    pub fn slower(&self, rows: u32) -> f64 {
        self.ready().slower(rows)
    }

    /// # Errors
    /// A figure that no GPU has.
    pub(super) fn check(&self) -> Result<(), String> {
        for (key, value) in [("us", self.us), ("prompt_tokens", self.prompt_tokens)] {
            above_zero(key, value)?;
        }
        for (key, value) in
            [("decode", self.decode), ("decode_row", self.decode_row), ("prompts", self.prompts), ("own", self.own)]
        {
            not_negative(key, value)?;
        }
        Ok(())
    }
}

/// [`ClockSag`] made ready: nothing is divided for a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sagging {
    us: f64,
    per_us: f64,
    per_token: f64,
    decode: f64,
    decode_row: f64,
    /// At least as much as few decode rows.
    prompts: f64,
    own: f64,
}

impl Sagging {
    /// [`ClockSag::behind`].
    #[inline(always)]
    pub(crate) fn behind(&self, sag: Sag, rested_us: f64, rows: StepRows, us: f64) -> (f64, Sag) {
        if sag == Sag::NONE {
            return (0.0, if rows.prompt_tokens == 0 { Sag::NONE } else { self.after_rest(rows, us) });
        }
        let mut clocks = Clocks { drawn: sag.drawn(), sagged: sag.sagged() };
        clocks.run(0.0, rested_us * self.per_us);
        let felt = clocks.run(self.load(rows.prompt_tokens), us * self.per_us);
        (self.slower(rows.all()) * felt * self.us, Sag::of(clocks.drawn, clocks.sagged))
    }

    /// How far the clocks have sagged after such a step, where they had not at all before.
    #[inline(always)]
    pub(crate) fn after_rest(&self, rows: StepRows, us: f64) -> Sag {
        let mut clocks = Clocks::default();
        clocks.run(self.load(rows.prompt_tokens), us * self.per_us);
        Sag::of(clocks.drawn, clocks.sagged)
    }

    /// [`ClockSag::own_us`]: a short step is over before the clocks sag.
    ///
    /// Of `t` times [`ClockSag::us`] they are as if sagged wholly for `t − 2 + (2 + t) / eᵗ`. A fraction with both ends of that, `t³ / 6` and `t − 2`,
    /// is never more than 8 % from it and needs no exponential in every look-up.
    #[inline]
    pub(crate) fn own_us(&self, prompt_tokens: u32, us: f64) -> f64 {
        let times = us * self.per_us;
        let square = times * times;
        self.own * self.load(prompt_tokens) * us * (square / (square + 2.0 * times + 6.0))
    }

    /// How far a step of so many prompt tokens makes the clocks sag.
    #[inline(always)]
    fn load(&self, prompt_tokens: u32) -> f64 {
        (f64::from(prompt_tokens) * self.per_token).min(1.0)
    }

    /// What a step of so many rows takes longer where they have sagged wholly, share of it.
    #[inline(always)]
    fn slower(&self, rows: u32) -> f64 {
        (self.decode + self.decode_row * f64::from(rows)).min(self.prompts)
    }
}

/// What of a step its clocks feel.
#[derive(Clone, Copy, Debug)]
pub struct StepRows {
    /// Rows of prompts.
    pub prompt_tokens: u32,
    /// Rows of sequences that decode.
    pub decode_rows: u32,
}

impl StepRows {
    /// All of them.
    pub(crate) fn all(self) -> u32 {
        self.decode_rows.saturating_add(self.prompt_tokens)
    }
}

impl From<&BatchShape<'_>> for StepRows {
    fn from(shape: &BatchShape<'_>) -> StepRows {
        StepRows { prompt_tokens: shape.prefill_tokens(), decode_rows: shape.decode_rows() }
    }
}

/// A GPU's clocks: what it drew of late, and how far they have sagged, each from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    /// What was drawn.
    pub drawn: f64,
    /// How far they have sagged.
    pub sagged: f64,
}

impl Clocks {
    /// Under so much load for `times` of [`ClockSag::us`]: what had been left before, summed over that while it fades, in the same unit.
    #[inline(always)]
    pub fn run(&mut self, load: f64, times: f64) -> f64 {
        let kept = fading::left(times);
        let felt = self.sagged * (1.0 - kept) + self.drawn * (1.0 - kept - times * kept);
        let (drawn, sagged) = (self.drawn - load, self.sagged - load);
        self.drawn = load + drawn * kept;
        self.sagged = load + (sagged + drawn * times) * kept;
        felt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAG: ClockSag =
        ClockSag { us: 35_000.0, prompt_tokens: 1024.0, decode: 0.12, decode_row: 0.01, prompts: 0.22, own: 0.2 };
    const DECODE: StepRows = StepRows { prompt_tokens: 0, decode_rows: 0 };

    fn prompt(prompt_tokens: u32) -> StepRows {
        StepRows { prompt_tokens, decode_rows: 0 }
    }

    #[test]
    fn a_long_step_of_prompts_makes_its_own_clocks_sag_and_a_short_one_does_not() {
        let mut clocks = Clocks::default();
        let (mut us, parts) = (0.0, 2000);
        for _ in 0..parts {
            clocks.run(0.5, 280_000.0 / 35_000.0 / f64::from(parts));
            us += clocks.sagged * 280_000.0 / f64::from(parts);
        }
        assert!((SAG.own_us(512, 280_000.0) / (0.2 * us) - 1.0).abs() < 1e-2, "{us}");
        for us in [1.0, 3e3, 1e4, 3e4, 6e4, 1e5, 3e5, 1e6] {
            let t: f64 = us / 35_000.0;
            // Of short times the exact form is a difference of what is nearly equal.
            let exact = if t < 1e-2 { t.powi(3) / 6.0 } else { t - 2.0 + (2.0 + t) * (-t).exp() };
            assert!((SAG.own_us(4096, us) / (0.2 * 35_000.0 * exact) - 1.0).abs() < 0.08, "{us}");
        }
        assert!(SAG.own_us(4096, 7_000.0) < 0.2 * 7_000.0 * 0.01);
        assert_eq!((SAG.own_us(0, 1e6), SAG.own_us(4096, 0.0)), (0.0, 0.0));
    }

    #[test]
    fn a_step_in_two_halves_takes_what_it_takes_in_one() {
        let (whole, after) = SAG.behind(Sag::FULL, 0.0, DECODE, 20_000.0);
        let (first, between) = SAG.behind(Sag::FULL, 0.0, DECODE, 10_000.0);
        let (second, last) = SAG.behind(between, 0.0, DECODE, 10_000.0);
        assert!((whole - first - second).abs() < 1.0, "{whole} {first} {second}");
        assert!((after.sagged() - last.sagged()).abs() < 1e-3 && (after.drawn() - last.drawn()).abs() < 1e-3);
    }

    #[test]
    fn a_step_repeated_is_one_behind_itself() {
        let (mut longer, mut sag) = (0.0, Sag::NONE);
        for _ in 0..20 {
            (longer, sag) = SAG.behind(sag, 30_000.0, prompt(700), 40_000.0);
        }
        let repeated = SAG.repeated(prompt(700), 40_000.0, 30_000.0);
        assert!(longer > 0.0 && (longer - repeated).abs() < 1.0, "{longer} {repeated}");
    }

    #[test]
    fn clocks_sag_under_prompts_and_come_back_at_rest_and_under_decode_rows_alike() {
        let (extra, sag) = SAG.behind(Sag::NONE, 0.0, prompt(4096), 1e6);
        assert_eq!((extra, sag), (0.0, Sag::FULL), "what a step does to itself is in its price");
        let (rested, _) = SAG.behind(sag, 35_000.0, DECODE, 7.0);
        let (at_once, _) = SAG.behind(sag, 0.0, DECODE, 7.0);
        assert!((at_once / 7.0 - 0.12).abs() < 1e-3, "{at_once}");
        assert!((rested / at_once - 2.0 * (-1.0_f64).exp()).abs() < 1e-3, "{rested}");
        assert_eq!(SAG.behind(sag, 300_000.0, DECODE, 7_000.0).1, Sag::NONE, "too little to count");
        let half = SAG.behind(Sag::NONE, 0.0, prompt(512), 1e6).1;
        assert!((half.sagged() - 0.5).abs() < 1e-3);
    }

    #[test]
    fn clocks_sag_on_after_a_short_prompt() {
        let (_, behind) = SAG.behind(Sag::NONE, 0.0, prompt(1024), 10_000.0);
        let (_, later) = SAG.behind(behind, 0.0, DECODE, 7_000.0);
        assert!(behind.sagged() < 0.05 && later.sagged() > 1.5 * behind.sagged(), "{behind:?} {later:?}");
        assert!(later.drawn() < behind.drawn());
    }

    #[test]
    fn many_rows_feel_it_more_than_few_whatever_they_are_of() {
        let slower = |prompt_tokens, decode_rows| {
            SAG.behind(Sag::FULL, 0.0, StepRows { prompt_tokens, decode_rows }, 10.0).0 / 10.0
        };
        assert!((slower(0, 0) - 0.12).abs() < 1e-3 && (slower(0, 5) - 0.17).abs() < 1e-3);
        assert_eq!((slower(5, 0), slower(2, 3)), (slower(0, 5), slower(0, 5)));
        let most = slower(0, 10);
        assert!((most - 0.22).abs() < 1e-3);
        assert_eq!((slower(0, 500), slower(4096, 0), slower(11, 0)), (most, most, most));
    }
}
