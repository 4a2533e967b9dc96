//! What the drafted rows of a replica are to an executor: slices, contexts, prefills and segments.
//!
//! One set of buffers serves all replicas: what a thousand replicas touch in turn should be little.

use crate::batch::{Census, Prefill, Segment, SegmentSums, Slice};
use crate::draft::Distortion;
use crate::replica::Replica;
use crate::residency::Weights;
use crate::rows::Part;
use crate::workload::AdapterId;

/// The buffers, and what else one pass over the rows tells.
#[derive(Debug, Default)]
pub(super) struct Shape {
    pub(super) slices: Vec<Slice>,
    pub(super) contexts: Vec<u32>,
    pub(super) prefills: Vec<Prefill>,
    pub(super) segment_sums: SegmentSums,
    /// The segments and their census, where they are not the replica's own.
    segments: Vec<Segment>,
    census: Census,
    is_corrected: bool,
    /// Rows by adapter, in order of adapter.
    rows: Vec<Share>,
    /// Sum of the contexts, and the largest.
    pub(super) context_sum: u64,
    pub(super) context_max: u32,
    /// Does every row of the batch take part, and decode?
    pub(super) everybody: bool,
    /// The fewest output tokens that a row has to go, if every row decodes.
    pub(super) finish: u32,
}

/// The rows of one adapter.
#[derive(Clone, Copy, Debug)]
struct Share {
    adapter: AdapterId,
    segment: Segment,
}

impl Shape {
    /// Describes the drafted rows, as slices too if `sliced`; false if there are none.
    pub(super) fn write(
        &mut self,
        replica: &Replica,
        weights: &Weights,
        distortion: &Distortion,
        sliced: bool,
    ) -> bool {
        self.slices.clear();
        self.contexts.clear();
        self.prefills.clear();
        let rows = &replica.rows;
        self.everybody = rows.all_decode();
        if rows.all_decodes_in_step() && distortion.is_none() {
            return self.write_plain(replica, sliced);
        }
        self.write_parts(replica, weights, distortion, sliced)
    }

    /// The segments of a replica's batch that was just described: nothing is copied where all of it decodes.
    pub(super) fn segments<'a>(&'a self, replica: &'a Replica) -> &'a [Segment] {
        if self.is_corrected { &self.segments } else { &replica.active.segments }
    }

    /// Sizes of these segments.
    pub(super) fn census<'a>(&'a self, replica: &'a Replica) -> &'a Census {
        if self.is_corrected { &self.census } else { &replica.active.census }
    }

    /// The batch as it is: all that decode take part, and only prompts are looked at one by one.
    fn write_plain(&mut self, replica: &Replica, sliced: bool) -> bool {
        let rows = &replica.rows;
        (self.context_sum, self.context_max) = rows.write_contexts(&mut self.contexts);
        self.finish = if self.everybody { rows.steps_to_finish() } else { 1 };
        self.segment_sums = replica.active.sums;
        self.is_corrected = false;
        let mut emptied = false;
        for part in rows.prefilling_positions().map(|position| rows.part(position)) {
            if let Some(adapter) = part.adapter {
                let position = replica.active.position(adapter).expect("the adapters of the batch are listed");
                if !self.is_corrected {
                    self.is_corrected = true;
                    self.segments.clone_from(&replica.active.segments);
                    self.census.copy_from(&replica.active.census);
                }
                let segment = &mut self.segments[position];
                segment.decode_rows -= 1;
                segment.prefill_rows += part.tokens;
                self.census.change(segment.rank, segment.decode_rows + 1, segment.decode_rows);
                self.census.change(segment.rank, segment.prefill_rows - part.tokens, segment.prefill_rows);
                self.segment_sums.prefill(segment.rank, part.tokens);
                emptied |= segment.decode_rows == 0 && segment.prefill_rows == 0;
            }
            if part.tokens > 0 {
                self.prefills.push(Prefill { chunk: part.tokens, prefix: part.computed });
            }
        }
        if emptied {
            self.segments.retain(|segment| segment.decode_rows > 0 || segment.prefill_rows > 0);
            self.segment_sums = SegmentSums::of(&self.segments);
        }
        if sliced {
            self.slices.extend(rows.parts().filter(|part| part.tokens > 0).map(slice));
        }
        !self.contexts.is_empty() || !self.prefills.is_empty()
    }

    /// Row by row: a part of the batch is left out, or what is priced differs from it.
    #[inline(never)]
    fn write_parts(&mut self, replica: &Replica, weights: &Weights, distortion: &Distortion, sliced: bool) -> bool {
        self.rows.clear();
        (self.context_sum, self.context_max) = (0, 0);
        self.finish = if self.everybody { replica.rows.steps_to_finish() } else { 1 };
        // As if every row decoded, with its own adapter; the rows that do not are corrected below.
        let active = replica.active.adapters.iter().zip(&replica.active.segments);
        self.rows.extend(active.map(|(&adapter, &segment)| Share { adapter, segment }));
        let mut last = None;
        let mut anybody = false;
        for part in replica.rows.parts() {
            if part.tokens == 0 {
                self.correct(part.adapter, |segment| segment.decode_rows -= 1);
                continue;
            }
            anybody = true;
            if sliced {
                self.slices.push(slice(part));
            }
            last = self.part(&part, weights, distortion).or(last);
        }
        if !anybody {
            return false;
        }
        if let Some((rows, context)) = distortion.padding
            && rows > 0
        {
            self.contexts.extend(std::iter::repeat_n(context, rows as usize));
            self.context_sum += u64::from(rows) * u64::from(context);
            self.context_max = self.context_max.max(context);
            self.correct(last, |segment| segment.decode_rows += rows);
        }
        let taken = |share: &&Share| share.segment.prefill_rows > 0 || share.segment.decode_rows > 0;
        self.is_corrected = true;
        self.segments.clear();
        self.segments.extend(self.rows.iter().filter(taken).map(|share| share.segment));
        self.segment_sums = SegmentSums::of(&self.segments);
        self.census = Census::of(&self.segments);
        true
    }

    /// Describes a drafted row. Gives the adapter that it is counted to.
    fn part(&mut self, part: &Part, weights: &Weights, distortion: &Distortion) -> Option<AdapterId> {
        let length = distortion.length.unwrap_or(0);
        if part.prefill {
            let chunk = part.tokens.max(length.saturating_sub(part.computed));
            self.prefills.push(Prefill { chunk, prefix: part.computed });
            let rows = distortion.prompt_rows.unwrap_or(chunk);
            self.correct(part.adapter, |segment| {
                segment.decode_rows -= 1;
                segment.prefill_rows += rows;
            });
            return part.adapter;
        }
        let context = (part.computed + 1).max(length);
        self.contexts.push(context);
        self.context_sum += u64::from(context);
        self.context_max = self.context_max.max(context);
        let Some(other) = distortion.decode_adapter else { return part.adapter };
        self.correct(part.adapter, |segment| segment.decode_rows -= 1);
        if let Some(adapter) = other
            && let Err(position) = self.position(adapter)
        {
            let rank = weights.of(adapter).rank;
            let segment = Segment { rank, prefill_rows: 0, decode_rows: 0 };
            self.rows.insert(position, Share { adapter, segment });
        }
        self.correct(other, |segment| segment.decode_rows += 1);
        other
    }

    fn position(&self, adapter: AdapterId) -> Result<usize, usize> {
        self.rows.binary_search_by_key(&adapter, |share| share.adapter)
    }

    fn correct(&mut self, adapter: Option<AdapterId>, change: impl FnOnce(&mut Segment)) {
        let Some(adapter) = adapter else { return };
        let position = self.position(adapter).expect("the adapters of the batch are listed");
        change(&mut self.rows[position].segment);
    }
}

fn slice(part: Part) -> Slice {
    Slice {
        request: part.request,
        adapter: part.adapter,
        context_before: part.computed,
        tokens: part.tokens,
        prefill: part.prefill,
        emits: part.emits,
    }
}
