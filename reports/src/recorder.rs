//! Watches one run: streams its tables, and keeps what the metrics need.

mod books;
mod gaps;
mod group_gaps;
pub(crate) mod kept;
mod nameless;
mod occupancy;
mod stretches;
mod table;
mod tables;

use std::path::Path;
use std::sync::Arc;

use aril_sim::fact::{Fact, Life, LoadCause, Observer, Power, Soon, Stretch, Tier};
use aril_sim::time::Time;
use aril_sim::workload::{Catalog, ReplicaId};

pub(crate) use self::books::Books;
use self::books::{Moment, What};
pub(crate) use self::gaps::Gaps;
pub(crate) use self::kept::{Ending, Kept, KeptAll, NONE};
pub(crate) use self::occupancy::Occupancy;
use self::stretches::Stretches;
use self::table::integers::OrNone;
use self::table::word::Word;
use self::table::words::AdapterName;
use self::tables::{Derived, EventRow, Tables};
use crate::ReportError;
use crate::metrics::{RunResult, measure};
use crate::settings::RecorderSettings;
use crate::time_bins::TimeBins;
use crate::timeline::Timeline;

/// Watches one run, and turns into its result when the run is over.
///
/// Observing cannot fail: the first refusal of the file system is kept, writing stops, and [`Recorder::finish`] returns it.
pub struct Recorder {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) settings: RecorderSettings,
    pub(crate) kept: KeptAll,
    pub(crate) gaps: Gaps,
    pub(crate) occupancy: Occupancy,
    pub(crate) counts: Counts,
    pub(crate) series: TimeBins,
    pub(crate) books: Books,
    stretches: Stretches,
    /// When the last fact came, picoseconds.
    last: u64,
    /// The class of each tenant, near each other: the catalog's own lie far apart.
    class_of: Vec<u32>,
    tables: Option<Tables>,
    timeline: Option<Timeline>,
    refusal: Option<ReportError>,
}

/// Series of [`Recorder::series`]: amounts in each bin, or levels integrated over it.
pub(crate) mod series {
    pub(crate) const OFFERED: usize = 0;
    pub(crate) const FINISHED: usize = 1;
    pub(crate) const OUTPUT_TOKENS: usize = 2;
    pub(crate) const IN_SYSTEM: usize = 3;
    pub(crate) const WAITING: usize = 4;
    pub(crate) const BUSY_GPUS: usize = 5;
    pub(crate) const HELD_GPUS: usize = 6;
    pub(crate) const LEN: usize = 7;
}

/// What is only counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) loads_from_host: u64,
    pub(crate) loads_from_disk: u64,
    pub(crate) prefetches: u64,
    pub(crate) bytes_loaded: u128,
    pub(crate) evictions: u64,
    pub(crate) preemptions: u64,
    pub(crate) migrations: u64,
    loads_by_adapter: Vec<u32>,
    /// Loads that are not counted by adapter yet: one at a time, each would wait for memory that is far away.
    loads_recent: Vec<u32>,
}

/// So many loads are counted by adapter together.
const LOADS: usize = 1 << 10;

impl Counts {
    fn load_of(&mut self, adapter: u32) {
        self.loads_recent.push(adapter);
        if self.loads_recent.len() >= LOADS {
            self.count_loads();
        }
    }

    fn count_loads(&mut self) {
        for adapter in self.loads_recent.drain(..) {
            if let Some(loads) = self.loads_by_adapter.get_mut(adapter as usize) {
                *loads += 1;
            }
        }
    }

    /// Loads from the host of each adapter.
    pub(crate) fn loads_by_adapter(&mut self) -> &[u32] {
        self.count_loads();
        &self.loads_by_adapter
    }
}

impl Recorder {
    /// Opens the tables and the timeline of a run in `dir`, which is there.
    ///
    /// # Errors
    /// [`ReportError::Settings`] for settings that do not fit the catalog; anything the file system refuses.
    pub fn create(
        dir: &Path,
        catalog: impl Into<Arc<Catalog>>,
        settings: RecorderSettings,
    ) -> Result<Recorder, ReportError> {
        let catalog = catalog.into();
        settings.check(&catalog)?;
        let tables = settings.tables.then(|| Tables::create(dir, &catalog)).transpose()?;
        let timeline = match settings.timeline_events {
            0 => None,
            events => Some(Timeline::create(&dir.join("timeline.json.gz"), events, &catalog, &settings)?),
        };
        Ok(Recorder {
            kept: KeptAll::in_folder(dir),
            gaps: Gaps::new(&settings, dir),
            occupancy: Occupancy::new(&settings),
            counts: Counts { loads_by_adapter: vec![0; catalog.adapters.len()], ..Counts::default() },
            series: TimeBins::new(series::LEN),
            books: Books::default(),
            stretches: Stretches::new(),
            last: 0,
            class_of: catalog.tenants.iter().map(|tenant| tenant.slo_class).collect(),
            tables,
            timeline,
            refusal: None,
            catalog,
            settings,
        })
    }

    /// Closes the files and measures the run.
    ///
    /// # Errors
    /// The first refusal of the file system; [`ReportError::Books`] if a request has no end, Little's law does not hold to the
    /// picosecond, or tokens were lost; [`ReportError::Empty`] if nothing is left to measure.
    pub fn finish(mut self, ended_at: Time) -> Result<RunResult, ReportError> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let ended_at = ended_at.as_ps().max(self.last);
        self.count_stretches()?;
        self.books.count(&mut self.series);
        if let Some(tables) = self.tables.take() {
            tables.finish()?;
        }
        let shows = self.timeline.take().map(|timeline| timeline.finish(ended_at)).transpose()?.flatten();
        self.books.check()?;
        self.occupancy.close(ended_at, &mut self.series);
        Ok(RunResult { timeline_shows: shows, ..measure(self, ended_at)? })
    }

    fn note(&mut self, at: Time, request: u32, what: What) {
        self.books.note(Moment { at: at.as_ps(), request, what }, &mut self.series);
    }

    fn ended(&mut self, now: Time, life: &Life<'_>) -> Result<(), ReportError> {
        let kept = Kept::of(now, life, &self.settings, &self.class_of);
        let what = if kept.is_finished() { What::Finished } else { What::Failed };
        self.note(now, life.offered.request.id.0, what);
        self.books.end(&kept, life);
        self.gaps.over(life.offered.request.id.0);
        self.kept.push(kept, &life.waits)?;
        let Some(tables) = &mut self.tables else { return Ok(()) };
        let times = Derived { ttft: kept.ttft(), tpot: kept.tpot(), e2e: kept.e2e(), good: kept.good };
        tables.request(now, life, times)
    }

    fn stretch(&mut self, stretch: &Stretch<'_>) -> Result<(), ReportError> {
        let tally = self.gaps.tally(stretch);
        self.gaps.stretch(stretch, &tally)?;
        self.books.emitted(tally.emitted(stretch.steps));
        self.stretches.push(stretch, tally);
        if let Some(timeline) = self.timeline.as_mut().filter(|timeline| timeline.is_open()) {
            timeline.stretch(stretch, tally.decode_rows, tally.prefill_tokens)?;
        }
        if self.stretches.is_full() { self.count_stretches() } else { Ok(()) }
    }

    #[inline(never)]
    fn count_stretches(&mut self) -> Result<(), ReportError> {
        self.stretches.count(&mut self.gaps, &mut self.occupancy, &mut self.series);
        let written = self.tables.as_mut().map_or(Ok(()), |tables| tables.steps(&self.stretches.rows));
        self.stretches.rows.clear();
        written
    }

    fn event(&mut self, event: EventRow) -> Result<(), ReportError> {
        self.tables.as_mut().map_or(Ok(()), |tables| tables.event(event))
    }

    fn mark(&mut self, now: Time, replica: u32, name: &'static str) -> Result<(), ReportError> {
        self.timeline.as_mut().map_or(Ok(()), |timeline| timeline.instant(replica, name, now.as_ps()))
    }

    fn load(&mut self, now: Time, fact: &Fact<'_>) -> Result<(), ReportError> {
        let Fact::LoadStarted { replica, adapter, from, bytes, cause, start, done } = fact else { return Ok(()) };
        match from {
            Tier::Disk => self.counts.loads_from_disk += 1,
            Tier::Host | Tier::Gpu => self.counts.loads_from_host += 1,
        }
        if *from == Tier::Host {
            self.counts.load_of(adapter.0);
        }
        self.counts.prefetches += u64::from(*cause == LoadCause::Prefetch);
        self.counts.bytes_loaded += u128::from(*bytes);
        let link = (start.as_ps(), done.as_ps());
        if let Some(timeline) = self.timeline.as_mut().filter(|timeline| timeline.is_open()) {
            timeline.load(replica.0, *adapter, *bytes, link)?;
        }
        self.event(EventRow {
            replica: OrNone(replica.0),
            tier: Some(name_of(*from)),
            bytes: OrNone(*bytes),
            cause: Some(if *cause == LoadCause::Prefetch { Word::Prefetch } else { Word::Demand }),
            link_start_ps: OrNone(link.0),
            link_done_ps: OrNone(link.1),
            adapter: AdapterName(adapter.0),
            ..EventRow::new(now, Word::Load)
        })
    }

    fn take(&mut self, now: Time, fact: &Fact<'_>) -> Result<(), ReportError> {
        match fact {
            Fact::Offered(offered) => {
                self.note(now, offered.request.id.0, What::Offered);
                self.gaps.arrived(offered);
            }
            Fact::Held(request) => {
                return self.event(EventRow { request: OrNone(request.0), ..EventRow::new(now, Word::Held) });
            }
            Fact::Routed { request, replica, recompute } => {
                return self.event(EventRow {
                    request: OrNone(request.0),
                    replica: OrNone(replica.0),
                    amount: OrNone(*recompute),
                    ..EventRow::new(now, Word::Routed)
                });
            }
            Fact::Scheduled { request, .. } => self.note(now, request.0, What::Scheduled),
            Fact::LoadStarted { .. } => return self.load(now, fact),
            // Its row was written when it began: links serve in order, so its end was known.
            Fact::LoadDone { .. } => {}
            Fact::Evicted { replica, adapter, tier, bytes } => {
                self.counts.evictions += u64::from(*tier == Tier::Gpu);
                return self.event(EventRow {
                    replica: OrNone(replica.0),
                    tier: Some(name_of(*tier)),
                    bytes: OrNone(*bytes),
                    adapter: AdapterName(adapter.0),
                    ..EventRow::new(now, Word::Evicted)
                });
            }
            Fact::Stretch(stretch) => return self.stretch(stretch),
            Fact::Preempted { request, replica, blocks, cut } => {
                self.counts.preemptions += 1;
                self.mark(now, replica.0, "preempted")?;
                return self.event(EventRow {
                    request: OrNone(request.0),
                    replica: OrNone(replica.0),
                    amount: OrNone(*blocks),
                    cut: OrNone(*cut),
                    ..EventRow::new(now, Word::Preempted)
                });
            }
            Fact::Migrated { request, from, to } => {
                self.counts.migrations += 1;
                self.mark(now, from.0, "migrated away")?;
                return self.event(EventRow {
                    request: OrNone(request.0),
                    replica: OrNone(from.0),
                    to_replica: OrNone(to.0),
                    ..EventRow::new(now, Word::Migrated)
                });
            }
            Fact::Power { replica, power } => {
                self.occupancy.power(now.as_ps(), *replica, *power, &mut self.series);
                let name = power_name(*power);
                self.mark(now, replica.0, name.text())?;
                return self.event(EventRow { replica: OrNone(replica.0), ..EventRow::new(now, name) });
            }
            Fact::Ended(life) => return self.ended(now, life),
        }
        Ok(())
    }
}

impl Observer for Recorder {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if self.refusal.is_some() {
            return;
        }
        self.last = self.last.max(now.as_ps());
        self.refusal = self.take(now, fact).err();
    }

    fn expect(&self, replica: ReplicaId, soon: &Soon<'_>) {
        self.gaps.expect(replica, soon);
    }
}

/// How a tier is called in the tables.
fn name_of(tier: Tier) -> Word {
    match tier {
        Tier::Gpu => Word::Gpu,
        Tier::Host => Word::Host,
        Tier::Disk => Word::Disk,
    }
}

/// How a change of power is called in the tables.
fn power_name(power: Power) -> Word {
    match power {
        Power::Off => Word::PowerOff,
        Power::Starting => Word::PowerStarting,
        Power::On => Word::PowerOn,
        Power::Draining => Word::PowerDraining,
    }
}
