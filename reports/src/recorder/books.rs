//! Conserved quantities, counted from outside of the engine.

use aril_sim::fact::Life;

use super::kept::Kept;
use super::series;
use crate::ReportError;
use crate::time_bins::TimeBins;

/// What a run owes and has: requests in the system and waiting over time, stays, ends and tokens.
///
/// Moments are noted as they come and counted some at a time: between two of them a run has been elsewhere, and many in a row find near
/// what they change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    noted: Vec<Moment>,
    in_system: u64,
    waiting: u64,
    changed: u64,
    pub(crate) area: u128,
    sojourns: u128,
    offered: u64,
    ended: u64,
    emitted_in_steps: u128,
    emitted_in_lives: u128,
    scheduled: Vec<u64>,
    wrong_waits: Option<u32>,
}

/// A request came, was in a step, or went. Times are picoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: u64,
    pub(super) request: u32,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Offered,
    Scheduled,
    Finished,
    /// It ended otherwise.
    Failed,
}

/// So many moments are counted together.
const NOTED: usize = 256;

impl Books {
    /// Something happened, after all that was noted before.
    pub(super) fn note(&mut self, moment: Moment, over_time: &mut TimeBins) {
        self.noted.push(moment);
        if self.noted.len() >= NOTED {
            self.count(over_time);
        }
    }

    /// Counts what was noted.
    #[inline(never)]
    pub(super) fn count(&mut self, over_time: &mut TimeBins) {
        let mut noted = std::mem::take(&mut self.noted);
        for Moment { at, request, what } in noted.drain(..) {
            if what != What::Offered && !self.is_scheduled(request) {
                self.advance(at, over_time);
                self.waiting = self.waiting.saturating_sub(1);
            }
            match what {
                What::Scheduled => {}
                What::Offered => {
                    self.advance(at, over_time);
                    self.offered += 1;
                    self.in_system += 1;
                    self.waiting += 1;
                    over_time.count(series::OFFERED, at, 1);
                }
                What::Finished | What::Failed => {
                    self.advance(at, over_time);
                    self.in_system = self.in_system.saturating_sub(1);
                    self.ended += 1;
                    if what == What::Finished {
                        over_time.count(series::FINISHED, at, 1);
                    }
                }
            }
        }
        self.noted = noted;
    }

    /// Was it in a step before? From now on it was.
    fn is_scheduled(&mut self, request: u32) -> bool {
        let (word, bit) = (request as usize / 64, 1u64 << (request % 64));
        if word >= self.scheduled.len() {
            self.scheduled.resize(word + 1, 0);
        }
        let before = self.scheduled[word];
        self.scheduled[word] |= bit;
        before & bit != 0
    }

    /// Brings the areas under the numbers of requests in the system, and waiting, up to `now`.
    fn advance(&mut self, now: u64, over_time: &mut TimeBins) {
        let Books { in_system, waiting, changed, .. } = *self;
        if now > changed {
            self.area += u128::from(in_system) * u128::from(now - changed);
            over_time.integrate(series::IN_SYSTEM, changed, now, in_system);
            over_time.integrate(series::WAITING, changed, now, waiting);
            self.changed = now;
        }
    }

    /// So many tokens were emitted in steps.
    pub(super) fn emitted(&mut self, tokens: u64) {
        self.emitted_in_steps += u128::from(tokens);
    }

    /// A life is over.
    pub(super) fn end(&mut self, kept: &Kept, life: &Life<'_>) {
        self.sojourns += u128::from(kept.end - kept.arrival);
        self.emitted_in_lives += u128::from(kept.emitted);
        let whole = kept.ttft().unwrap_or(kept.end - kept.arrival);
        if life.waits.total().as_ps() != whole && self.wrong_waits.is_none() {
            self.wrong_waits = Some(life.offered.request.id.0);
        }
    }

    /// Little's law as an identity, one end for each request, and no token lost.
    pub(super) fn check(&self) -> Result<(), ReportError> {
        if self.offered != self.ended {
            return Err(ReportError::Books(format!("{} requests were offered and {} ended", self.offered, self.ended)));
        }
        if self.area != self.sojourns {
            return Err(ReportError::Books(format!(
                "Little's law: requests in the system add up to {} ps over time, their stays to {} ps",
                self.area, self.sojourns
            )));
        }
        if self.emitted_in_steps != self.emitted_in_lives {
            return Err(ReportError::Books(format!(
                "steps emitted {} tokens, requests received {}",
                self.emitted_in_steps, self.emitted_in_lives
            )));
        }
        match self.wrong_waits {
            Some(request) => Err(ReportError::Books(format!(
                "the waits of request {request} do not add up to its time to first token"
            ))),
            None => Ok(()),
        }
    }
}
