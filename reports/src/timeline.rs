//! The first part of a run as a timeline that Perfetto opens: Chrome's trace event format, gzipped.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use aril_sim::fact::Stretch;
use flate2::{Compression, GzBuilder, write::GzEncoder};

use crate::ReportError;

/// Process ids of the tracks.
const REPLICAS: u32 = 1;
const LINKS: u32 = 2;

/// A timeline under construction: stops at a number of events, and says inside until when it reaches.
pub(crate) struct Timeline {
    path: PathBuf,
    out: GzEncoder<BufWriter<File>>,
    left: u32,
    limit: u32,
    last: u64,
    named: Vec<bool>,
    linked: Vec<bool>,
}

impl Timeline {
    /// Opens the file for at most `events` events.
    pub(crate) fn create(path: &Path, events: u32, replicas: usize) -> Result<Timeline, ReportError> {
        let file = File::create(path).map_err(ReportError::io("create", path))?;
        // No time of modification: same run, same bytes.
        let out = GzBuilder::new().mtime(0).write(BufWriter::new(file), Compression::fast());
        let mut timeline = Timeline {
            path: path.to_owned(),
            out,
            left: events,
            limit: events,
            last: 0,
            named: vec![false; replicas],
            linked: vec![false; replicas],
        };
        timeline.start().map_err(ReportError::io("write", path))?;
        Ok(timeline)
    }

    /// Is there room for more?
    pub(crate) fn is_open(&self) -> bool {
        self.left > 0
    }

    /// A step or a stretch, with what held it up before it, and how many wait.
    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>, pool: &str) -> Result<(), ReportError> {
        self.write(|timeline| {
            let replica = stretch.replica.0;
            timeline.name(replica, pool)?;
            let begin = stretch.start.as_ps();
            let stall = stretch.stall.as_ps();
            let end = stretch.end().as_ps();
            if stall > 0 {
                timeline.slice(REPLICAS, replica, "waits for a load", begin, stall, "{}")?;
            }
            let rows = stretch.rows.len();
            let prefill = stretch.prefill_tokens();
            let name = match (prefill, stretch.decode_rows()) {
                (0, decode) => format!("decode {decode}"),
                (tokens, 0) => format!("prefill {tokens}"),
                (tokens, decode) => format!("prefill {tokens} + decode {decode}"),
            };
            let more = format!(
                r#"{{"steps":{},"rows":{rows},"adapters":{},"prefill_tokens":{prefill},"kv_blocks":{},"waiting":{}}}"#,
                stretch.steps, stretch.segments, stretch.kv_blocks_used, stretch.waiting
            );
            timeline.slice(REPLICAS, replica, &name, begin + stall, end - begin - stall, &more)?;
            timeline.counter(replica, begin, rows, stretch.waiting)
        })
    }

    /// A copy on the link of a replica.
    pub(crate) fn load(
        &mut self,
        replica: u32,
        adapter: &str,
        bytes: u64,
        link: (u64, u64),
    ) -> Result<(), ReportError> {
        self.write(|timeline| {
            if let Some(linked @ false) = timeline.linked.get_mut(replica as usize) {
                *linked = true;
                timeline.event(&format!(
                    r#"{{"ph":"M","name":"thread_name","pid":{LINKS},"tid":{replica},"args":{{"name":"link of replica {replica}"}}}}"#
                ))?;
            }
            let name = format!("load {adapter}");
            timeline.slice(LINKS, replica, &name, link.0, link.1 - link.0, &format!(r#"{{"bytes":{bytes}}}"#))
        })
    }

    /// Something that took no time.
    pub(crate) fn instant(&mut self, replica: u32, name: &str, at: u64) -> Result<(), ReportError> {
        self.write(|timeline| {
            timeline.last = timeline.last.max(at);
            let name = text(name);
            timeline.event(&format!(
                r#"{{"ph":"i","s":"t","name":{name},"pid":{REPLICAS},"tid":{replica},"ts":{}}}"#,
                micros(at)
            ))
        })
    }

    /// Closes the file.
    pub(crate) fn finish(mut self, ended_at: u64) -> Result<(), ReportError> {
        let (limit, left, last) = (self.limit, self.left, self.last);
        let note = match left {
            0 => format!("the first {limit} events, until {} s of a run of {} s", seconds(last), seconds(ended_at)),
            _ => "the whole run".to_owned(),
        };
        let path = self.path.clone();
        let close = |timeline: &mut Timeline| write!(timeline.out, "\n],\"otherData\":{{\"shows\":\"{note}\"}}}}\n");
        close(&mut self).map_err(ReportError::io("write", &path))?;
        let mut file = self.out.finish().map_err(ReportError::io("write", &path))?;
        file.flush().map_err(ReportError::io("write", &path))
    }

    fn write(&mut self, what: impl FnOnce(&mut Timeline) -> io::Result<()>) -> Result<(), ReportError> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        what(self).map_err(ReportError::io("write", &self.path))
    }

    fn start(&mut self) -> io::Result<()> {
        self.out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
        write!(self.out, r#"{{"ph":"M","name":"process_name","pid":{REPLICAS},"args":{{"name":"replicas"}}}}"#)?;
        self.event(&format!(r#"{{"ph":"M","name":"process_name","pid":{LINKS},"args":{{"name":"adapter links"}}}}"#))
    }

    fn name(&mut self, replica: u32, pool: &str) -> io::Result<()> {
        if let Some(named @ false) = self.named.get_mut(replica as usize) {
            *named = true;
            let name = text(&format!("replica {replica} ({pool})"));
            self.event(&format!(
                r#"{{"ph":"M","name":"thread_name","pid":{REPLICAS},"tid":{replica},"args":{{"name":{name}}}}}"#
            ))?;
        }
        Ok(())
    }

    fn slice(&mut self, process: u32, thread: u32, name: &str, start: u64, length: u64, more: &str) -> io::Result<()> {
        self.last = self.last.max(start + length);
        let name = text(name);
        self.event(&format!(
            r#"{{"ph":"X","name":{name},"pid":{process},"tid":{thread},"ts":{},"dur":{},"args":{more}}}"#,
            micros(start),
            micros(length)
        ))
    }

    fn counter(&mut self, replica: u32, at: u64, rows: usize, waiting: u32) -> io::Result<()> {
        self.event(&format!(
            r#"{{"ph":"C","name":"replica {replica}","pid":{REPLICAS},"ts":{},"args":{{"batch":{rows},"waiting":{waiting}}}}}"#,
            micros(at)
        ))
    }

    fn event(&mut self, json: &str) -> io::Result<()> {
        self.out.write_all(b",\n")?;
        self.out.write_all(json.as_bytes())
    }
}

/// Microseconds, as the format wants them, to the last picosecond.
fn micros(ps: u64) -> String {
    format!("{}.{:06}", ps / 1_000_000, ps % 1_000_000)
}

fn seconds(ps: u64) -> String {
    format!("{}.{:03}", ps / 1_000_000_000_000, ps / 1_000_000_000 % 1000)
}

/// A JSON string.
fn text(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}
