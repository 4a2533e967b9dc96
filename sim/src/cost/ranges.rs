//! Is a step within what a profile knows?

use crate::batch::BatchShape;
use crate::profile::{Range, StepRows, Validity};

/// What can be out of range, in the order of the bits of [`Ranges::outside`].
pub(super) const OUTSIDE: [&str; 8] = [
    "decode rows",
    "context",
    "rows in a step",
    "prefill chunk",
    "prefill prefix",
    "adapters in a step",
    "rank",
    "several adapters merged",
];

/// [`Validity`], where what is not named holds everywhere.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    decode_rows: Range,
    pub(super) context: Range,
    rows: Range,
    chunk: Range,
    prefix: Range,
    segments: Range,
    rank: Range,
    /// Adapters in a step that may be merged at once.
    merged: Range,
}

const EVERYWHERE: Range = Range { min: 0, max: u32::MAX };

impl Ranges {
    pub(super) fn new(validity: &Validity, merged: bool) -> Ranges {
        let of = |range: Option<Range>| range.unwrap_or(EVERYWHERE);
        Ranges {
            decode_rows: of(validity.decode_rows),
            context: of(validity.context),
            rows: of(validity.rows),
            chunk: of(validity.chunk),
            prefix: of(validity.prefix),
            segments: of(validity.segments),
            rank: of(validity.rank),
            merged: if merged { Range { min: 0, max: 1 } } else { EVERYWHERE },
        }
    }

    /// A bit for everything of the step that is out of range. A kernel that computes no adapters is in range whatever they are.
    #[inline(always)]
    pub(super) fn outside(&self, shape: &BatchShape<'_>, rows: StepRows, computes_adapters: bool) -> u32 {
        // Mostly all is in range: of no difference to an end of its range is the sign set.
        let mut signs = 0;
        let room = |range: Range, value: u32| {
            (i64::from(value) - i64::from(range.min)) | (i64::from(range.max) - i64::from(value))
        };
        self.each(shape, rows, computes_adapters, |_, range, value| signs |= room(range, value));
        if signs >= 0 { 0 } else { self.reasons(shape, rows, computes_adapters) }
    }

    #[cold]
    #[inline(never)]
    fn reasons(&self, shape: &BatchShape<'_>, rows: StepRows, computes_adapters: bool) -> u32 {
        let mut outside = 0;
        self.each(shape, rows, computes_adapters, |reason, range, value| {
            outside |= u32::from(!range.contains(value)) << reason;
        });
        outside
    }

    /// All that has a range, by its place in [`OUTSIDE`].
    #[inline(always)]
    fn each(
        &self,
        shape: &BatchShape<'_>,
        rows: StepRows,
        computes_adapters: bool,
        mut check: impl FnMut(u32, Range, u32),
    ) {
        if rows.decode_rows > 0 {
            check(0, self.decode_rows, rows.decode_rows);
            check(1, self.context, shape.decode_context_max);
        }
        if !shape.is_decode_only() {
            check(2, self.rows, rows.all());
            for part in shape.prefills {
                check(3, self.chunk, part.chunk);
                check(4, self.prefix, part.prefix);
            }
        }
        if !shape.segments.is_empty() {
            if computes_adapters {
                let (least, largest) = shape.segment_sums.ranks;
                check(5, self.segments, shape.segments.len() as u32);
                check(6, self.rank, least);
                check(6, self.rank, largest);
            }
            // Weights hold one adapter at a time: a step with two cannot exist.
            check(7, self.merged, shape.segments.len() as u32);
        }
    }
}
