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
    /// Rows and waiting of each replica as last written.
    counted: Vec<Option<(u64, u32)>>,
    line: Line,
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

    /// A step or a stretch, with what held it up before it, and how many wait.
    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>, pool: &str) -> Result<(), ReportError> {
        self.write(|timeline| {
            let replica = stretch.replica.0;
            timeline.name(replica, pool);
            let begin = stretch.start.as_ps();
            let stall = stretch.stall.as_ps();
            let end = stretch.end().as_ps();
            if stall > 0 {
                timeline.slice(REPLICAS, replica, (begin, stall), |line| line.text("\"waits for a load\""));
                timeline.line.text("{}}");
            }
            let rows = stretch.rows.len() as u64;
            let (prefill, decode) = (stretch.prefill_tokens(), stretch.decode_rows());
            timeline.slice(REPLICAS, replica, (begin + stall, end - begin - stall), |line| {
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
            let line = &mut timeline.line;
            line.text(r#"{"steps":"#).number(stretch.steps.into()).text(r#","rows":"#).number(rows);
            line.text(r#","adapters":"#).number(stretch.segments.into());
            line.text(r#","prefill_tokens":"#).number(prefill.into());
            line.text(r#","kv_blocks":"#).number(stretch.kv_blocks_used.into());
            line.text(r#","waiting":"#).number(stretch.waiting.into()).text("}}");
            // A counter holds until its next value.
            if let Some(counted) = timeline.counted.get_mut(replica as usize)
                && counted.replace((rows, stretch.waiting)) == Some((rows, stretch.waiting))
            {
                return;
            }
            line.text(",\n{\"ph\":\"C\",\"name\":\"replica ").number(replica.into());
            line.text("\",\"pid\":").number(REPLICAS.into()).text(",\"ts\":").micros(begin);
            line.text(r#","args":{"batch":"#).number(rows).text(r#","waiting":"#).number(stretch.waiting.into());
            line.text("}}");
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
                timeline.line.text(&format!(
                    ",\n{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{LINKS},\"tid\":{replica},\"args\":{{\"name\":\"link of replica {replica}\"}}}}"
                ));
            }
            let name = text(&format!("load {adapter}"));
            timeline.slice(LINKS, replica, (link.0, link.1 - link.0), |line| line.text(&name));
            timeline.line.text(r#"{"bytes":"#).number(bytes).text("}}");
        })
    }

    /// Something that took no time.
    pub(crate) fn instant(&mut self, replica: u32, name: &str, at: u64) -> Result<(), ReportError> {
        self.write(|timeline| {
            timeline.last = timeline.last.max(at);
            timeline.line.text(",\n{\"ph\":\"i\",\"s\":\"t\",\"name\":").text(&text(name));
            timeline.line.text(",\"pid\":").number(REPLICAS.into()).text(",\"tid\":").number(replica.into());
            timeline.line.text(",\"ts\":").micros(at).text("}");
        })
    }

    /// Closes the file.
    ///
    /// Gives what it shows, where that is not the whole run.
    pub(crate) fn finish(mut self, ended_at: u64) -> Result<Option<String>, ReportError> {
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

    fn write(&mut self, what: impl FnOnce(&mut Timeline)) -> Result<(), ReportError> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        what(self);
        let written = self.out.write_all(&self.line.0).map_err(ReportError::io("write", &self.path));
        self.line.0.clear();
        written
    }

    fn start(&mut self) -> io::Result<()> {
        self.out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
        write!(self.out, r#"{{"ph":"M","name":"process_name","pid":{REPLICAS},"args":{{"name":"replicas"}}}}"#)?;
        self.out.write_all(b",\n")?;
        write!(self.out, r#"{{"ph":"M","name":"process_name","pid":{LINKS},"args":{{"name":"adapter links"}}}}"#)
    }

    fn name(&mut self, replica: u32, pool: &str) {
        if let Some(named @ false) = self.named.get_mut(replica as usize) {
            *named = true;
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
