//! What is kept of each request until the run is measured.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use aril_sim::fact::{End, Life, Waits};
use aril_sim::time::Time;

use super::nameless::Nameless;
use crate::ReportError;
use crate::settings::RecorderSettings;

/// No such time, or no adapter.
pub(crate) const NONE: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

/// A request that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) arrival: u64,
    pub(crate) end: u64,
    ttft: u64,
    wait: u64,
    pub(crate) tenant: u32,
    /// [`NONE`]: the base model.
    pub(crate) adapter: u32,
    pub(crate) prompt: u32,
    pub(crate) emitted: u32,
    pub(crate) ending: Ending,
    /// Did it find its adapter? None: it had none, or never reached a replica.
    pub(crate) hit: Option<bool>,
    /// Finished, and within the limits of its class.
    pub(crate) good: bool,
}

/// How a request ended, without reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Finished,
    TimedOut,
    Rejected,
    Unfinished,
}

impl Kept {
    /// `class_of`: the class of each tenant of the catalog.
    pub(crate) fn of(now: Time, life: &Life<'_>, settings: &RecorderSettings, class_of: &[u32]) -> Kept {
        let request = &life.offered.request;
        let arrival = request.arrival.as_ps();
        let since = |time: Option<Time>| time.map_or(NEVER, |time| time.as_ps().saturating_sub(arrival));
        let mut kept = Kept {
            arrival,
            end: now.as_ps().max(arrival),
            ttft: since(life.first_token),
            wait: since(life.scheduled),
            tenant: request.tenant.0,
            adapter: request.adapter.map_or(NONE, |adapter| adapter.0),
            prompt: request.prompt_tokens,
            emitted: life.emitted,
            ending: match life.end {
                End::Finished => Ending::Finished,
                End::TimedOut => Ending::TimedOut,
                End::Rejected(_) => Ending::Rejected,
                End::Unfinished => Ending::Unfinished,
            },
            hit: life.adapter_hit,
            good: false,
        };
        let tenant = request.tenant.index();
        let class = match settings.slo.as_slice() {
            [] => None,
            // Everybody is in it, whom the catalog knows: no need to look.
            [only] => (tenant < class_of.len()).then_some(only),
            classes => class_of.get(tenant).and_then(|class| classes.get(*class as usize)),
        };
        kept.good = kept.is_finished()
            && kept.ttft().is_some_and(|ttft| class.is_none_or(|class| class.is_met(ttft, kept.tpot())));
        kept
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.ending == Ending::Finished
    }

    /// From arrival to first token.
    pub(crate) fn ttft(&self) -> Option<u64> {
        (self.ttft != NEVER).then_some(self.ttft)
    }

    /// From arrival to the first step that contained it.
    pub(crate) fn wait(&self) -> Option<u64> {
        (self.wait != NEVER).then_some(self.wait)
    }

    /// From arrival to the last token, if it came so far.
    pub(crate) fn e2e(&self) -> Option<u64> {
        self.is_finished().then_some(self.end - self.arrival)
    }

    /// Mean time of each token after the first, to the nearest picosecond; none of a single token.
    pub(crate) fn tpot(&self) -> Option<u64> {
        let gaps = u64::from(self.emitted.saturating_sub(1));
        match (self.e2e(), self.ttft()) {
            (Some(e2e), Some(ttft)) if gaps > 0 => Some((e2e.saturating_sub(ttft) + gaps / 2) / gaps),
            _ => None,
        }
    }
}

/// Router, queue, slot, load, prefill, preemption: where the time to first token went, picoseconds.
pub(crate) type Parts = [u64; 6];
/// Where that for the adapter's weights is.
pub(crate) const LOAD: usize = 3;

/// So many requests that are over are kept in memory, and read from the file at once: few enough to stay near.
const RECENT: usize = 1 << 12;

/// All requests that are over, with the parts of their times to first token: the latest in memory, those before them in a file. Memory follows what is in flight.
pub(crate) struct KeptAll {
    /// Records.
    recent: Vec<u8>,
    earlier: Nameless,
    /// Requests in memory and in the file.
    len: u64,
    /// The latest arrival and the latest end.
    lasts: Option<(u64, u64)>,
}

impl KeptAll {
    /// Keeps what memory does not in a file in `folder`.
    pub(crate) fn in_folder(folder: &Path) -> KeptAll {
        KeptAll { recent: Vec::new(), earlier: Nameless::in_folder(folder), len: 0, lasts: None }
    }

    pub(crate) fn push(&mut self, kept: Kept, waits: &Waits) -> Result<(), ReportError> {
        let (arrival, end) = self.lasts.unwrap_or_default();
        self.lasts = Some((arrival.max(kept.arrival), end.max(kept.end)));
        self.len += 1;
        let waits = [waits.router, waits.queue, waits.slot, waits.load, waits.prefill, waits.preemption];
        self.recent.extend_from_slice(&kept.record(&waits.map(|wait| wait.as_ps())));
        if self.recent.len() < RECENT * RECORD {
            return Ok(());
        }
        self.put_away().map_err(ReportError::io("keep requests in", &self.earlier.folder))
    }

    fn put_away(&mut self) -> io::Result<()> {
        self.earlier.open()?.write_all(&self.recent)?;
        self.recent.clear();
        Ok(())
    }

    /// Shows each request to `look`, in the order in which they ended.
    pub(crate) fn each(&self, mut look: impl FnMut(&Kept, &Parts)) -> Result<(), ReportError> {
        if let Some(file) = &self.earlier.file {
            read_each(file, &mut look).map_err(ReportError::io("read kept requests in", &self.earlier.folder))?;
        }
        show(&self.recent, &mut look);
        Ok(())
    }

    /// How many are there?
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The latest arrival and the latest end; none of no requests.
    pub(crate) fn lasts(&self) -> Option<(u64, u64)> {
        self.lasts
    }
}

fn read_each(mut file: &File, look: &mut impl FnMut(&Kept, &Parts)) -> io::Result<()> {
    file.rewind()?;
    let mut bytes = vec![0; RECENT * RECORD];
    let mut filled = 0;
    loop {
        match file.read(&mut bytes[filled..])? {
            0 if filled == 0 => return Ok(()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => filled += more,
        }
        let whole = show(&bytes[..filled], look);
        bytes.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

/// Shows the records that are whole; gives their bytes.
fn show(bytes: &[u8], look: &mut impl FnMut(&Kept, &Parts)) -> usize {
    let (records, _) = bytes.as_chunks::<RECORD>();
    for record in records {
        let (kept, parts) = Kept::read(record);
        look(&kept, &parts);
    }
    records.len() * RECORD
}

/// Bytes of a request in the file: ten times, four numbers, and what else there is in one more.
const RECORD: usize = 10 * 8 + 5 * 4;

const ENDINGS: [Ending; 4] = [Ending::Finished, Ending::TimedOut, Ending::Rejected, Ending::Unfinished];
const HITS: [Option<bool>; 3] = [None, Some(false), Some(true)];

impl Kept {
    fn record(&self, parts: &Parts) -> [u8; RECORD] {
        let hit = HITS.iter().position(|hit| *hit == self.hit).unwrap_or(0);
        let rest = self.ending as u32 | (hit as u32) << 8 | u32::from(self.good) << 16;
        let [a, b, c, d, e, f] = *parts;
        let times = [self.arrival, self.end, self.ttft, self.wait, a, b, c, d, e, f];
        let numbers = [self.tenant, self.adapter, self.prompt, self.emitted, rest];
        let mut record = [0; RECORD];
        let (of_times, of_numbers) = record.split_at_mut(10 * 8);
        of_times.copy_from_slice(times.map(u64::to_le_bytes).as_flattened());
        of_numbers.copy_from_slice(numbers.map(u32::to_le_bytes).as_flattened());
        record
    }

    fn read(record: &[u8; RECORD]) -> (Kept, Parts) {
        let (of_times, of_numbers) = record.split_at(10 * 8);
        let (times, numbers) = (of_times.as_chunks::<8>().0, of_numbers.as_chunks::<4>().0);
        let time = |at: usize| u64::from_le_bytes(times[at]);
        let number = |at: usize| u32::from_le_bytes(numbers[at]);
        let [ending, hit, good, _] = number(4).to_le_bytes();
        let kept = Kept {
            arrival: time(0),
            end: time(1),
            ttft: time(2),
            wait: time(3),
            tenant: number(0),
            adapter: number(1),
            prompt: number(2),
            emitted: number(3),
            ending: ENDINGS[usize::from(ending)],
            hit: HITS[usize::from(hit)],
            good: good > 0,
        };
        (kept, std::array::from_fn(|part| time(4 + part)))
    }
}

#[cfg(test)]
mod tests {
    use aril_sim::time::Span;

    use super::*;

    #[test]
    fn what_is_kept_in_a_file_comes_back_as_it_was_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut all = KeptAll::in_folder(folder.path());
        let request = |i: u64| Kept {
            arrival: i,
            end: i * 3,
            ttft: if i.is_multiple_of(5) { NEVER } else { i / 2 },
            wait: u64::MAX - i,
            tenant: i as u32,
            adapter: if i.is_multiple_of(7) { NONE } else { i as u32 + 1 },
            prompt: i as u32 + 2,
            emitted: u32::MAX - i as u32,
            ending: ENDINGS[i as usize % 4],
            hit: HITS[i as usize % 3],
            good: i.is_multiple_of(2),
        };
        let count = 2 * RECENT as u64 + 123;
        for i in 0..count {
            let [router, queue, slot, load, prefill, preemption] =
                std::array::from_fn(|part| Span::from_ps(i * 10 + part as u64));
            all.push(request(i), &Waits { router, queue, slot, load, prefill, preemption }).unwrap();
        }
        assert_eq!((all.len(), all.lasts()), (count, Some((count - 1, (count - 1) * 3))));
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "the file has no name");
        for _ in 0..2 {
            let mut next = 0;
            all.each(|kept, parts| {
                assert_eq!((*kept, *parts), (request(next), std::array::from_fn(|part| next * 10 + part as u64)));
                next += 1;
            })
            .unwrap();
            assert_eq!(next, count);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let mut all = KeptAll::in_folder(Path::new("/nowhere/at/all"));
        let kept = Kept {
            arrival: 0,
            end: 1,
            ttft: NEVER,
            wait: NEVER,
            tenant: 0,
            adapter: NONE,
            prompt: 1,
            emitted: 0,
            ending: Ending::Rejected,
            hit: None,
            good: false,
        };
        let refused = (0..RECENT).find_map(|_| all.push(kept, &Waits::default()).err()).unwrap().to_string();
        assert!(refused.contains("/nowhere/at/all"), "{refused}");
    }
}
