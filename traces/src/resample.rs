//! Further seeds of a replayed trace: blocks of it, drawn with replacement, in another order.

use aril_sim::random::Stream;
use rand::RngExt;

use crate::traffic::Resample;

/// Arrivals in another order: (ps from the start, row), by time.
///
/// The circular block bootstrap of Politis and Romano: each block of the new stream is a stretch of the old one that
/// begins at a uniformly drawn instant, and the end of the trace is followed by its start. With a reach, the instant
/// lies within it of the block's own place (the local block bootstrap of Paparoditis and Politis).
pub(crate) fn resampled(arrivals: &[(u64, u32)], span_ps: u64, how: &Resample, stream: &mut Stream) -> Vec<(u64, u32)> {
    let block = how.block.as_ps().clamp(1, span_ps.max(1));
    let reach = how.reach.map(|reach| reach.as_ps());
    let mut result = Vec::with_capacity(arrivals.len());
    let mut begin = 0;
    while begin < span_ps {
        let length = block.min(span_ps - begin);
        let from = match reach.filter(|reach| *reach < span_ps / 2) {
            None => stream.random_range(0..span_ps),
            Some(reach) => {
                let shift = stream.random_range(0..=2 * reach);
                ((u128::from(begin) + u128::from(span_ps) + u128::from(shift) - u128::from(reach))
                    % u128::from(span_ps)) as u64
            }
        };
        copy(arrivals, from, length, span_ps, begin, &mut result);
        begin += length;
    }
    result
}

/// Appends what arrives in `from .. from + length`, around the end, moved to `begin`.
fn copy(arrivals: &[(u64, u32)], from: u64, length: u64, span_ps: u64, begin: u64, result: &mut Vec<(u64, u32)>) {
    let range = |low: u64, high: u64| {
        let first = arrivals.partition_point(|(at, _)| *at < low);
        let last = arrivals.partition_point(|(at, _)| *at < high);
        &arrivals[first..last]
    };
    let before_end = length.min(span_ps - from);
    result.extend(range(from, from + before_end).iter().map(|(at, row)| (begin + (at - from), *row)));
    let after_start = length - before_end;
    result.extend(range(0, after_start).iter().map(|(at, row)| (begin + before_end + at, *row)));
}

/// Rows of a trace whose times are not used, in blocks of about √n, begun anywhere.
pub(crate) fn resampled_rows(rows: usize, stream: &mut Stream) -> Vec<u32> {
    let block = rows.isqrt().max(1);
    let mut result = Vec::with_capacity(rows);
    while result.len() < rows {
        let from = stream.random_range(0..rows);
        let take = block.min(rows - result.len());
        result.extend((from..from + take).map(|row| (row % rows) as u32));
    }
    result
}
