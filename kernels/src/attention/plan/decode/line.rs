//! The line of all units of a decode plan, and where it is cut.

use super::{CUT, DecodeSequence, EMPTY, UNITS_MIN, Worker, blocks_of};

/// All units, with empty places between, and how the line is cut. The places of a (sequence, group): first `empty` ones
/// without a unit, then its units, then as many without one as make a multiple of `grain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) empty: u32,
    pub(super) grain: u32,
    pub(super) groups: u32,
    /// Places of every worker but the last.
    pub(super) quota: u32,
    /// What the busiest worker has to do, in units.
    pub(super) makespan: u32,
}

impl Line {
    /// Cut wherever `most` workers have the same number of places, a multiple of `grain`: no cut falls among the empty ones after the
    /// units of a (sequence, group), but at their end. Each worker has more than there are empty ones in a row, so each has a unit.
    pub(super) fn dense(blocks: impl Iterator<Item = u32>, groups: u32, empty: u32, grain: u32, most: u32) -> Self {
        let places: u32 = blocks.map(|blocks| (blocks + empty).next_multiple_of(grain) * groups).sum();
        let quota = places.div_ceil(most).max(UNITS_MIN.max(grain) + empty).next_multiple_of(grain);
        // Its places, the rest of a piece that another worker began, and a cut at either end.
        let makespan = quota + empty + 2 * CUT;
        Line { empty, grain, groups, quota, makespan }
    }

    /// Every (sequence, group) cut evenly by workers of its own, if there are at least as many workers as of them.
    pub(super) fn even(blocks: impl Iterator<Item = u32> + Clone, groups: u32, most: u32) -> Option<Self> {
        let workers = |quota: u32| -> u64 { blocks.clone().map(|n| u64::from(n.div_ceil(quota) * groups)).sum() };
        let longest = blocks.clone().max()?;
        if workers(longest) > u64::from(most) {
            return None;
        }
        let (mut low, mut high) = (0, longest);
        while high - low > 1 {
            let middle = u32::midpoint(low, high);
            *(if workers(middle) > u64::from(most) { &mut low } else { &mut high }) = middle;
        }
        let quota = high.max(UNITS_MIN);
        let makespan = quota + EMPTY + if longest > quota { CUT } else { 0 };
        Some(Line { empty: 0, grain: quota, groups, quota, makespan })
    }

    pub(super) fn places(self, blocks: u32) -> u32 {
        (self.empty + blocks).next_multiple_of(self.grain)
    }

    /// Sequences with their places.
    pub(super) fn place(self, sequences: &[DecodeSequence]) -> Vec<(DecodeSequence, u32)> {
        let mut place = 0;
        let placed = sequences.iter().map(|&sequence| {
            let here = place;
            place += self.places(blocks_of(sequence.context)) * self.groups;
            (sequence, here)
        });
        placed.collect()
    }

    pub(super) fn cut(self, sequences: &[(DecodeSequence, u32)]) -> Vec<Worker> {
        let Line { quota, .. } = self;
        let end = sequences
            .last()
            .map_or(0, |&(sequence, place)| place + self.places(blocks_of(sequence.context)) * self.groups);
        let mut index = 0;
        let mut before = 0;
        let mut workers = Vec::with_capacity(end.div_ceil(quota) as usize);
        // Units of the sequences before `index`.
        let mut passed = 0;
        for begin in (0..end).step_by(quota as usize) {
            while sequences.get(index + 1).is_some_and(|&(_, place)| place <= begin) {
                passed += blocks_of(sequences[index].0.context) * self.groups;
                index += 1;
            }
            let (sequence, place) = sequences[index];
            let blocks = blocks_of(sequence.context);
            let (group, inside) = ((begin - place) / self.places(blocks), (begin - place) % self.places(blocks));
            let block = inside.saturating_sub(self.empty);
            let units = passed + group * blocks + block;
            if let Some(last) = workers.last_mut() {
                let last: &mut Worker = last;
                last.units = units - before;
            }
            before = units;
            workers.push(Worker { sequence: index as u32, group, block, units: 0, quota });
        }
        let units: u32 = sequences.iter().map(|(sequence, _)| blocks_of(sequence.context) * self.groups).sum();
        if let Some(last) = workers.last_mut() {
            last.units = units - before;
        }
        workers
    }
}
