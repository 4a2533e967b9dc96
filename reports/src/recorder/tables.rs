//! The three tables of a run: requests, steps, events. Times are picoseconds since the start of the run.

use std::path::Path;
use std::sync::Arc;

use aril_sim::fact::{End, Life, RejectReason, Stretch};
use aril_sim::time::Time;
use aril_sim::workload::Catalog;
use polars::prelude::DataType;

use super::gaps::Tally;
use super::table::Table;
use super::table::cell::{Cell, Column, Row, row};
use super::table::integers::{AdapterRank, OrNone};
use super::table::word::Word;
use super::table::words::{AdapterName, TenantName};
use crate::ReportError;

row! {
    /// One row a request, in the order in which their lives ended. `emitted_tokens` can exceed `output_tokens`: what a preemption cut
    /// from the prompt (`cut` of its event) is generated as more output.
    RequestRow, RequestColumns {
        request: u32, arrival_ps: u64, prompt_tokens: u32, output_tokens: u32, emitted_tokens: u32, end: Word,
        reject_reason: Option<Word>, replica: Option<u32>, scheduled_ps: Option<u64>, first_token_ps: Option<u64>, end_ps: u64,
        ttft_ps: Option<u64>, tpot_ps: Option<u64>, e2e_ps: Option<u64>, wait_router_ps: u64, wait_queue_ps: u64, wait_slot_ps: u64,
        wait_load_ps: u64, wait_prefill_ps: u64, wait_preemption_ps: u64, adapter_hit: Option<bool>, preemptions: u32, migrations: u32,
        slo_met: bool, tenant: TenantName, adapter: AdapterName, rank: AdapterRank,
    }
}

row! {
    /// One row a stretch: step j (from 0) takes `first_ps + j × increment_ps`.
    StepRow, StepColumns {
        replica: u32, start_ps: u64, stall_ps: u64, first_ps: u64, increment_ps: u64, steps: u32, decode_rows: u32, prefill_tokens: u32,
        prefill_rows: u32, segments: u32, padding_rows: u32, decode_context_sum: u64, kv_blocks_used: u32, waiting: u32,
    }
}

row! {
    /// One row an event. What an event does not have is null. A line of memory: with many adapters few rows are more.
    ///
    /// `amount`: output tokens to compute again (`routed`), KV blocks freed (`preempted`). `cut`: tokens of its prompt that a preempted
    /// request did not compute and will generate.
    EventRow, EventColumns {
        time_ps: u64, event: Word, request: OrNone<u32>, replica: OrNone<u32>, to_replica: OrNone<u32>, tier: Option<Word>,
        bytes: OrNone<u64>, cause: Option<Word>, link_start_ps: OrNone<u64>, link_done_ps: OrNone<u64>, amount: OrNone<u32>,
        cut: OrNone<u32>, adapter: AdapterName,
    }
}

impl StepRow {
    /// A stretch, of whose rows so much was seen.
    pub(super) fn of(stretch: &Stretch<'_>, tally: &Tally) -> StepRow {
        StepRow {
            replica: stretch.replica.0,
            start_ps: stretch.start.as_ps(),
            stall_ps: stretch.stall.as_ps(),
            first_ps: stretch.first.as_ps(),
            increment_ps: stretch.increment.as_ps(),
            steps: stretch.steps,
            decode_rows: tally.decode_rows,
            prefill_tokens: tally.prefill_tokens,
            prefill_rows: stretch.rows.len() as u32 - tally.decode_rows,
            segments: stretch.segments,
            padding_rows: stretch.padding_rows,
            decode_context_sum: stretch.decode_context_sum,
            kv_blocks_used: stretch.kv_blocks_used,
            waiting: stretch.waiting,
        }
    }
}

// Beyond a line of memory, each event of many adapters would wait for two.
const _: () = assert!(size_of::<EventRow>() <= 64);

impl EventRow {
    /// An event that has nothing but a time.
    pub(super) fn new(now: Time, event: Word) -> EventRow {
        EventRow {
            time_ps: now.as_ps(),
            event,
            request: OrNone::NONE,
            replica: OrNone::NONE,
            to_replica: OrNone::NONE,
            tier: None,
            bytes: OrNone::NONE,
            cause: None,
            link_start_ps: OrNone::NONE,
            link_done_ps: OrNone::NONE,
            amount: OrNone::NONE,
            cut: OrNone::NONE,
            adapter: AdapterName(u32::MAX),
        }
    }
}

/// The times of a request that follow from its life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Derived {
    pub(crate) ttft: Option<u64>,
    pub(crate) tpot: Option<u64>,
    pub(crate) e2e: Option<u64>,
    pub(crate) good: bool,
}

/// The tables of one run.
pub(crate) struct Tables {
    requests: Table<RequestRow>,
    steps: Table<StepRow>,
    events: Table<EventRow>,
}

impl Tables {
    pub(crate) fn create(dir: &Path, catalog: &Arc<Catalog>) -> Result<Tables, ReportError> {
        Ok(Tables {
            requests: Table::create(&dir.join("requests.parquet"), catalog)?,
            steps: Table::create(&dir.join("steps.parquet"), catalog)?,
            events: Table::create(&dir.join("events.parquet"), catalog)?,
        })
    }

    pub(crate) fn request(&mut self, now: Time, life: &Life<'_>, times: Derived) -> Result<(), ReportError> {
        let request = &life.offered.request;
        let waits = &life.waits;
        let (end, reason) = name_of(life.end);
        let adapter = request.adapter.map_or(u32::MAX, |adapter| adapter.0);
        self.requests.push(RequestRow {
            request: request.id.0,
            arrival_ps: request.arrival.as_ps(),
            prompt_tokens: request.prompt_tokens,
            output_tokens: life.offered.outcome.output_tokens,
            emitted_tokens: life.emitted,
            end,
            reject_reason: reason,
            replica: life.replica.map(|replica| replica.0),
            scheduled_ps: life.scheduled.map(Time::as_ps),
            first_token_ps: life.first_token.map(Time::as_ps),
            end_ps: now.as_ps(),
            ttft_ps: times.ttft,
            tpot_ps: times.tpot,
            e2e_ps: times.e2e,
            wait_router_ps: waits.router.as_ps(),
            wait_queue_ps: waits.queue.as_ps(),
            wait_slot_ps: waits.slot.as_ps(),
            wait_load_ps: waits.load.as_ps(),
            wait_prefill_ps: waits.prefill.as_ps(),
            wait_preemption_ps: waits.preemption.as_ps(),
            adapter_hit: life.adapter_hit,
            preemptions: life.preemptions,
            migrations: life.migrations,
            slo_met: times.good,
            tenant: TenantName(request.tenant.0),
            adapter: AdapterName(adapter),
            rank: AdapterRank(adapter),
        })
    }

    /// Takes in up to 128 stretches; fewer only as the last ones.
    pub(crate) fn steps(&mut self, rows: &[StepRow]) -> Result<(), ReportError> {
        self.steps.append(rows)
    }

    pub(super) fn event(&mut self, event: EventRow) -> Result<(), ReportError> {
        self.events.push(event)
    }

    /// Writes what is buffered and the footers.
    pub(crate) fn finish(self) -> Result<(), ReportError> {
        self.requests.finish()?;
        self.steps.finish()?;
        self.events.finish()
    }
}

/// How an end is called in the tables, and why it was a rejection.
fn name_of(end: End) -> (Word, Option<Word>) {
    match end {
        End::Finished => (Word::Finished, None),
        End::TimedOut => (Word::TimedOut, None),
        End::Unfinished => (Word::Unfinished, None),
        End::Rejected(RejectReason::TooLong) => (Word::Rejected, Some(Word::TooLong)),
        End::Rejected(RejectReason::AdapterTooLarge) => (Word::Rejected, Some(Word::AdapterTooLarge)),
        End::Rejected(RejectReason::Router) => (Word::Rejected, Some(Word::Router)),
    }
}
