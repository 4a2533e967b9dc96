//! The first part of a run as a timeline that Perfetto opens: Chrome's trace event format, gzipped.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aril_sim::fact::Stretch;
use aril_sim::workload::{AdapterId, Catalog};
use flate2::{Compression, GzBuilder, write::GzEncoder};

use crate::ReportError;
use crate::settings::RecorderSettings;

/// Process ids of the tracks.
const REPLICAS: u32 = 1;
const LINKS: u32 = 2;

/// Events that are gathered before they are written: put into words one at a time, each would push what a run needs out of the nearest
/// cache.
const GATHERED: usize = 1 << 14;

/// A timeline under construction: stops at a number of events, and says inside until when it reaches.
pub(crate) struct Timeline {
    path: PathBuf,
    out: GzEncoder<BufWriter<File>>,
    catalog: Arc<Catalog>,
    /// The pool of each replica.
    pools: Vec<String>,
    left: u32,
    limit: u32,
    last: u64,
    gathered: Vec<Event>,
    named: Vec<bool>,
    linked: Vec<bool>,
    /// Rows and waiting of each replica as last written.
    counted: Vec<Option<(u32, u32)>>,
    line: Line,
}

/// What is told of an event; times in picoseconds.
enum Event {
    Stretch {
        replica: u32,
        begin: u64,
        stall: u64,
        end: u64,
        steps: u32,
        rows: u32,
        prefill: u32,
        decode: u32,
        segments: u32,
        kv_blocks: u32,
        waiting: u32,
    },
    Load {
        replica: u32,
        adapter: AdapterId,
        bytes: u64,
        link: (u64, u64),
    },
    Instant {
        replica: u32,
        name: &'static str,
        at: u64,
    },
}

impl Timeline {
    /// Opens the file for at most `events` events of replicas in these pools.
    pub(crate) fn create(
        path: &Path,
        events: u32,
        catalog: &Arc<Catalog>,
        settings: &RecorderSettings,
    ) -> Result<Timeline, ReportError> {
        let file = File::create(path).map_err(ReportError::io("create", path))?;
        // No time of modification: same run, same bytes.
        let out = GzBuilder::new().mtime(0).write(BufWriter::new(file), Compression::fast());
        let replicas = settings.replica_gpus.len();
        let mut timeline = Timeline {
            path: path.to_owned(),
            out,
            catalog: Arc::clone(catalog),
            pools: settings.replica_pool.clone(),
            left: events,
            limit: events,
            last: 0,
            gathered: Vec::with_capacity(GATHERED.min(events as usize)),
            named: vec![false; replicas],
            linked: vec![false; replicas],
            counted: vec![None; replicas],
            line: Line::default(),
        };
        timeline.start().map_err(ReportError::io("write", path))?;
        Ok(timeline)
    }

    /// Is there room for more?
    pub(crate) fn is_open(&self) -> bool {
        self.left > 0
    }

    /// A step or a stretch, with what held it up before it, and how many wait. So many of its rows decode, and so many tokens are
    /// prefilled.
    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>, decode: u32, prefill: u32) -> Result<(), ReportError> {
        self.gather(Event::Stretch {
            replica: stretch.replica.0,
            begin: stretch.start.as_ps(),
            stall: stretch.stall.as_ps(),
            end: stretch.end().as_ps(),
            steps: stretch.steps,
            rows: stretch.rows.len() as u32,
            prefill,
            decode,
            segments: stretch.segments,
            kv_blocks: stretch.kv_blocks_used,
            waiting: stretch.waiting,
        })
    }

    /// A copy on the link of a replica.
    pub(crate) fn load(
        &mut self,
        replica: u32,
        adapter: AdapterId,
        bytes: u64,
        link: (u64, u64),
    ) -> Result<(), ReportError> {
        self.gather(Event::Load { replica, adapter, bytes, link })
    }

    /// Something that took no time.
    pub(crate) fn instant(&mut self, replica: u32, name: &'static str, at: u64) -> Result<(), ReportError> {
        self.gather(Event::Instant { replica, name, at })
    }

    fn gather(&mut self, event: Event) -> Result<(), ReportError> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        self.gathered.push(event);
        if self.gathered.len() < GATHERED { Ok(()) } else { self.write() }
    }

    /// Writes what was gathered.
    fn write(&mut self) -> Result<(), ReportError> {
        let mut gathered = std::mem::take(&mut self.gathered);
        for event in &gathered {
            match event {
                Event::Stretch { .. } => self.tell_stretch(event),
                Event::Load { replica, adapter, bytes, link } => self.tell_load(*replica, *adapter, *bytes, *link),
                Event::Instant { replica, name, at } => self.tell_instant(*replica, name, *at),
            }
            self.out.write_all(&self.line.0).map_err(ReportError::io("write", &self.path))?;
            self.line.0.clear();
        }
        gathered.clear();
        self.gathered = gathered;
        Ok(())
    }

    fn tell_stretch(&mut self, event: &Event) {
        let Event::Stretch { replica, begin, stall, end, steps, rows, prefill, decode, segments, kv_blocks, waiting } =
            *event
        else {
            return;
        };
        self.name(replica);
        if stall > 0 {
            self.slice(REPLICAS, replica, (begin, stall), |line| line.text("\"waits for a load\""));
            self.line.text("{}}");
        }
        self.slice(REPLICAS, replica, (begin + stall, end - begin - stall), |line| {
            line.text("\"");
            if prefill > 0 {
                line.text("prefill ").number(prefill.into());
            }
            if prefill > 0 && decode > 0 {
                line.text(" + ");
            }
            if prefill == 0 || decode > 0 {
                line.text("decode ").number(decode.into());
            }
            line.text("\"")
        });
        let line = &mut self.line;
        line.text(r#"{"steps":"#).number(steps.into()).text(r#","rows":"#).number(rows.into());
        line.text(r#","adapters":"#).number(segments.into());
        line.text(r#","prefill_tokens":"#).number(prefill.into());
        line.text(r#","kv_blocks":"#).number(kv_blocks.into());
        line.text(r#","waiting":"#).number(waiting.into()).text("}}");
        // A counter holds until its next value.
        if let Some(counted) = self.counted.get_mut(replica as usize)
            && counted.replace((rows, waiting)) == Some((rows, waiting))
        {
            return;
        }
        line.text(",\n{\"ph\":\"C\",\"name\":\"replica ").number(replica.into());
        line.text("\",\"pid\":").number(REPLICAS.into()).text(",\"ts\":").micros(begin);
        line.text(r#","args":{"batch":"#).number(rows.into()).text(r#","waiting":"#).number(waiting.into());
        line.text("}}");
    }

    fn tell_load(&mut self, replica: u32, adapter: AdapterId, bytes: u64, link: (u64, u64)) {
        if let Some(linked @ false) = self.linked.get_mut(replica as usize) {
            *linked = true;
            self.line.text(&format!(
                ",\n{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{LINKS},\"tid\":{replica},\"args\":{{\"name\":\"link of replica {replica}\"}}}}"
            ));
        }
        let adapter = self.catalog.adapters.get(adapter.index()).map_or("?", |adapter| adapter.name.as_str());
        let name = text(&format!("load {adapter}"));
        self.slice(LINKS, replica, (link.0, link.1 - link.0), |line| line.text(&name));
        self.line.text(r#"{"bytes":"#).number(bytes).text("}}");
    }

    fn tell_instant(&mut self, replica: u32, name: &str, at: u64) {
        self.last = self.last.max(at);
        self.line.text(",\n{\"ph\":\"i\",\"s\":\"t\",\"name\":").text(&text(name));
        self.line.text(",\"pid\":").number(REPLICAS.into()).text(",\"tid\":").number(replica.into());
        self.line.text(",\"ts\":").micros(at).text("}");
    }

    /// Closes the file.
    ///
    /// Gives what it shows, where that is not the whole run.
    pub(crate) fn finish(mut self, ended_at: u64) -> Result<Option<String>, ReportError> {
        self.write()?;
        let (limit, left, last) = (self.limit, self.left, self.last);
        let note = match left {
            0 => format!("the first {limit} events, until {} s of a run of {} s", seconds(last), seconds(ended_at)),
            _ => "the whole run".to_owned(),
        };
        let path = self.path.clone();
        let close = |timeline: &mut Timeline| write!(timeline.out, "\n],\"otherData\":{{\"shows\":\"{note}\"}}}}\n");
        close(&mut self).map_err(ReportError::io("write", &path))?;
        let mut file = self.out.finish().map_err(ReportError::io("write", &path))?;
        file.flush().map_err(ReportError::io("write", &path))?;
        Ok((left == 0).then_some(note))
    }

    fn start(&mut self) -> io::Result<()> {
        self.out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
        write!(self.out, r#"{{"ph":"M","name":"process_name","pid":{REPLICAS},"args":{{"name":"replicas"}}}}"#)?;
        self.out.write_all(b",\n")?;
        write!(self.out, r#"{{"ph":"M","name":"process_name","pid":{LINKS},"args":{{"name":"adapter links"}}}}"#)
    }

    fn name(&mut self, replica: u32) {
        if let Some(named @ false) = self.named.get_mut(replica as usize) {
            *named = true;
            let pool = self.pools.get(replica as usize).map_or("", String::as_str);
            let name = text(&format!("replica {replica} ({pool})"));
            self.line.text(&format!(
                ",\n{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{REPLICAS},\"tid\":{replica},\"args\":{{\"name\":{name}}}}}"
            ));
        }
    }

    /// Something that took time; its arguments and a closing brace follow.
    fn slice(
        &mut self,
        process: u32,
        thread: u32,
        (start, length): (u64, u64),
        name: impl FnOnce(&mut Line) -> &mut Line,
    ) {
        self.last = self.last.max(start + length);
        let line = name(self.line.text(",\n{\"ph\":\"X\",\"name\":"));
        line.text(",\"pid\":").number(process.into()).text(",\"tid\":").number(thread.into());
        line.text(",\"ts\":").micros(start).text(",\"dur\":").micros(length).text(",\"args\":");
    }
}

/// A piece of JSON under construction, without the detour over formatted strings.
#[derive(Default)]
struct Line(Vec<u8>);

impl Line {
    #[inline(always)]
    fn text(&mut self, text: &str) -> &mut Line {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: u64) -> &mut Line {
        self.padded(number, 1)
    }

    /// Microseconds, as the format wants them, to the last picosecond.
    fn micros(&mut self, ps: u64) -> &mut Line {
        self.number(ps / 1_000_000).text(".").padded(ps % 1_000_000, 6)
    }

    /// With at least so many digits.
    fn padded(&mut self, mut number: u64, digits: usize) -> &mut Line {
        let mut buffer = [b'0'; 20];
        let mut at = buffer.len();
        while number >= 10 {
            at -= 2;
            buffer[at] = b'0' + (number / 10 % 10) as u8;
            buffer[at + 1] = b'0' + (number % 10) as u8;
            number /= 100;
        }
        if number > 0 {
            at -= 1;
            buffer[at] = b'0' + number as u8;
        }
        at = at.min(buffer.len() - digits);
        self.0.extend_from_slice(&buffer[at..]);
        self
    }
}

fn seconds(ps: u64) -> String {
    format!("{}.{:03}", ps / 1_000_000_000_000, ps / 1_000_000_000 % 1000)
}

/// A JSON string.
fn text(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}
