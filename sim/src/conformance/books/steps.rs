//! Steps of a replica, from facts alone: one after the other, of those who run there, within its limits.

use super::life::{Phase, Progress};
use super::{Books, Ghost, ensure};
use crate::fact::{Power, Row, Stretch};
use crate::time::Time;
use crate::workload::RequestId;

impl Books<'_> {
    pub(super) fn stretch(&mut self, stretch: &Stretch<'_>) -> Result<(), String> {
        let settings = &self.settings.replicas[stretch.replica.index()];
        let (begin, end) = (stretch.start + stretch.stall, stretch.end());
        let site = &mut self.replicas[stretch.replica.index()];
        ensure(stretch.start >= site.last_end, || "two steps of a replica overlap".into())?;
        ensure(end > begin && end <= self.now, || "a step takes no time, or is not over".into())?;
        ensure(matches!(site.power, Power::On | Power::Draining), || "a replica that is not on takes a step".into())?;
        let before = std::mem::replace(&mut site.last_end, end);
        let emits = stretch.rows.iter().filter(|row| row.emits).map(|row| row.request).collect();
        let batch = std::mem::replace(&mut site.batch, emits);
        same_rows(stretch, before, &batch, &site.batch)?;
        let count = stretch.rows.len() as u32;
        ensure(count > 0 && count <= settings.max_num_seqs, || format!("{count} rows in a step"))?;
        let tokens: u32 = stretch.rows.iter().map(|row| row.tokens).sum();
        ensure(tokens <= settings.max_num_batched_tokens, || format!("{tokens} tokens in a step"))?;
        let mut adapters: Vec<_> = stretch.rows.iter().filter_map(|row| row.adapter).collect();
        adapters.sort_unstable();
        adapters.dedup();
        let distinct = adapters.len() as u32;
        ensure(distinct <= settings.max_loras, || format!("{distinct} adapters in a step"))?;
        // A batcher may count decode rows to one adapter that is not theirs.
        ensure(stretch.segments <= distinct + 1, || format!("{} segments are told", stretch.segments))?;
        let mut there = stretch.start;
        for &adapter in &adapters {
            there = there.max(site.adapters.there(adapter)?);
        }
        ensure(there == begin, || format!("a step is stalled until {begin}, and its adapters are there at {there}"))?;
        let mut contexts = 0;
        for row in stretch.rows.iter() {
            let ghost = |ghost: &&mut Ghost| {
                ghost.progress.id() == row.request && ghost.replica == stretch.replica && ghost.gone > stretch.start
            };
            let runs = |progress: &&mut Progress| progress.phase == Phase::Running(stretch.replica);
            let live = self.live.get_mut(&row.request).filter(runs);
            let progress = match self.ghosts.iter_mut().find(ghost) {
                Some(ghost) if !row.emits => &mut ghost.progress,
                _ => live.ok_or_else(|| format!("request {} is in a step and does not run there", row.request.0))?,
            };
            contexts += progress.step(stretch, &row)?;
        }
        let told = stretch.decode_context_sum;
        // Batches may be padded.
        ensure(told >= contexts, || format!("{contexts} tokens of context in its first step, and {told} are told"))?;
        self.at_its_end(stretch, end)?;
        self.ghosts.retain(|ghost| ghost.replica != stretch.replica || ghost.gone > end);
        Ok(())
    }

    /// Who waits and what is used, at the end of a stretch.
    fn at_its_end(&self, stretch: &Stretch<'_>, end: Time) -> Result<(), String> {
        let (mut used, mut waiting) = (0, 0);
        let settings = &self.settings.replicas[stretch.replica.index()];
        for progress in self.live.values() {
            match progress.phase {
                Phase::Running(at) if at == stretch.replica => used += progress.blocks(settings.block_size),
                Phase::Waiting(at) if at == stretch.replica && progress.waits_since() < end => waiting += 1,
                _ => {}
            }
        }
        ensure(waiting == stretch.waiting, || format!("{waiting} wait, {} are said to wait", stretch.waiting))?;
        let in_step = |ghost: &&Ghost| {
            let row = |row: Row| row.request == ghost.progress.id() && !row.emits;
            ghost.replica == stretch.replica && ghost.gone > stretch.start && stretch.rows.iter().any(row)
        };
        let ghosts = self.ghosts.iter().filter(in_step);
        used += ghosts.map(|ghost| ghost.progress.blocks(settings.block_size)).sum::<u32>();
        ensure(used == stretch.kv_blocks_used, || {
            format!("{used} KV blocks are used, {} are told", stretch.kv_blocks_used)
        })?;
        ensure(used <= settings.kv_blocks, || format!("{used} KV blocks are used of {}", settings.kv_blocks))
    }
}

/// Are those who are said to be the same as in the last stretch, which ended at `before`, the same, and do they go on?
fn same_rows(stretch: &Stretch<'_>, before: Time, last: &[RequestId], now: &[RequestId]) -> Result<(), String> {
    let same = stretch.same_rows as usize;
    ensure(last.get(..same).is_some_and(|first| Some(first) == now.get(..same)), || {
        format!("its first {same} rows are said to be those before, {last:?}")
    })?;
    let goes_on = |row: Row| row.emits && !row.prefill && row.previous_token == Some(before);
    ensure(stretch.rows.iter().take(same).all(goes_on), || "somebody joins the same rows".into())
}
