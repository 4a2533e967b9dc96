//! Reads ServeGen's files out of an archive or a folder.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Place, Position, TraceError, quoted};
use crate::input::{Content, Source};
use crate::servegen::{Bucket, Client, Gaps, Histogram, Window};

/// Length of a window where a client has only one, s.
const WINDOW_S: f64 = 600.0;
/// No file of the data is larger.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Parts of a prompt, in data sets of text and of images.
const INPUTS: [&str; 5] = ["input_tokens", "text_tokens", "image_tokens", "audio_tokens", "video_tokens"];

/// The two files of a client.
#[derive(Default)]
struct Pair {
    trace: Option<(PathBuf, String)>,
    dataset: Option<(PathBuf, String)>,
}

/// All clients, in the order of their numbers, and the time that their windows cover, idle ones included.
pub(crate) struct Data {
    pub(crate) clients: Vec<Client>,
    pub(crate) start_s: f64,
    pub(crate) end_s: f64,
}

/// Reads a data set.
pub(crate) fn read(source: &Source<'_>, folder: Option<&Path>) -> Result<Data, TraceError> {
    let mut pairs = BTreeMap::new();
    match folder {
        Some(folder) => from_folder(folder, &mut pairs)?,
        None => from_archive(source, &mut pairs)?,
    }
    let mut data = Data { clients: Vec::new(), start_s: f64::INFINITY, end_s: 0.0 };
    for (number, pair) in pairs {
        let Some((path, text)) = pair.trace else { continue };
        let (windows, start_s, end_s) = windows(&path, &text)?;
        data.start_s = data.start_s.min(start_s);
        data.end_s = data.end_s.max(end_s);
        let lengths = pair.dataset.map(|(path, text)| buckets(&path, &text)).transpose()?.unwrap_or_default();
        data.clients.push(Client { name: format!("client-{number}"), windows, lengths });
    }
    if data.clients.is_empty() {
        let detail =
            "; ServeGen's data are files chunk-N-trace.csv and chunk-N-dataset.json in an archive or a folder".into();
        return Err(TraceError::Empty { place: Place::file(&source.name), detail });
    }
    Ok(data)
}

fn from_folder(folder: &Path, pairs: &mut BTreeMap<u32, Pair>) -> Result<(), TraceError> {
    for entry in std::fs::read_dir(folder).map_err(|e| TraceError::io(folder, e))? {
        let path = entry.map_err(|e| TraceError::io(folder, e))?.path();
        if chunk(&path).is_some() {
            let bytes = std::fs::read(&path).map_err(|e| TraceError::io(&path, e))?;
            put(path, bytes, pairs)?;
        }
    }
    Ok(())
}

fn from_archive(source: &Source<'_>, pairs: &mut BTreeMap<u32, Pair>) -> Result<(), TraceError> {
    let Content::Tar(reader) = source.open()? else {
        return Err(TraceError::Malformed {
            place: Place::file(&source.name),
            problem: "not a tar archive".into(),
            advice: "give ServeGen's data as a .tar, .tar.gz or .tar.zst, or as a folder".into(),
        });
    };
    let io = |e| TraceError::io(&source.name, e);
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path().map_err(io)?.into_owned();
        if chunk(&path).is_some() {
            let mut bytes = Vec::new();
            entry.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
            put(source.name.join(path), bytes, pairs)?;
        }
    }
    Ok(())
}

/// The client's number and whether it is the file of its rates.
fn chunk(path: &Path) -> Option<(u32, bool)> {
    let name = path.file_name()?.to_str()?.strip_prefix("chunk-")?;
    let (number, kind) = name.split_once('-')?;
    let is_trace = match kind {
        "trace.csv" => true,
        "dataset.json" => false,
        _ => return None,
    };
    Some((number.parse().ok()?, is_trace))
}

fn put(path: PathBuf, bytes: Vec<u8>, pairs: &mut BTreeMap<u32, Pair>) -> Result<(), TraceError> {
    let Some((number, is_trace)) = chunk(&path) else { return Ok(()) };
    let text = String::from_utf8(bytes).map_err(|_| TraceError::Encoding {
        place: Place::file(&path),
        found: "not UTF-8".into(),
        advice: "fetch the archive again",
    })?;
    let pair = pairs.entry(number).or_default();
    let slot = if is_trace { &mut pair.trace } else { &mut pair.dataset };
    if let Some((other, _)) = slot.replace((path.clone(), text)) {
        return Err(TraceError::Malformed {
            place: Place::file(&path),
            problem: format!("client {number} is also in {}", other.display()),
            advice: "give one data set at a time".into(),
        });
    }
    Ok(())
}

/// Lines `start, rate, cv, law, shape, scale`; an idle window has no law. Windows with requests, and the time of all, s.
fn windows(path: &Path, text: &str) -> Result<(Vec<Window>, f64, f64), TraceError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut windows = Vec::new();
    let mut starts: Vec<f64> = Vec::new();
    let mut above: Option<(Box<str>, Position)> = None;
    for record in reader.records() {
        let record = record.map_err(|error| TraceError::Malformed {
            place: Place::file(path),
            problem: error.to_string(),
            advice: "fetch the archive again".into(),
        })?;
        let position = Position::Line(record.position().map_or(1, csv::Position::line));
        let place = Place { file: path.to_owned(), position: Some(position) };
        if record.len() != 6 {
            return Err(TraceError::Malformed {
                place,
                problem: format!("{} fields in place of 6", record.len()),
                advice: "if it is the last line, the file is truncated: fetch it again".into(),
            });
        }
        let number = |column: usize, name: &str| {
            let text = &record[column];
            text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(|| TraceError::Value {
                place: place.clone(),
                column: name.into(),
                found: quoted(text).into(),
                expected: "a number from 0 on".into(),
                advice: "correct the line".into(),
            })
        };
        let start_s = number(0, "start")?;
        let start = (quoted(&record[0]).into(), position);
        match above.replace(start.clone()) {
            Some((before, above)) if starts.last().is_some_and(|before| *before >= start_s) => {
                return Err(TraceError::Unsorted { place, now: start.0, before, above });
            }
            _ => {}
        }
        starts.push(start_s);
        let (rate, shape) = (number(1, "rate")?, number(4, "shape")?);
        let gaps = match &record[3] {
            "" => continue,
            "Gamma" => Gaps::Gamma { shape },
            "Weibull" => Gaps::Weibull { shape },
            other => {
                return Err(TraceError::Value {
                    place,
                    column: "law".into(),
                    found: quoted(other).into(),
                    expected: "Gamma, Weibull or nothing".into(),
                    advice: "correct the line".into(),
                });
            }
        };
        if rate > 0.0 {
            windows.push(Window { start_s, length_s: WINDOW_S, rate, gaps });
        }
    }
    // Windows lie side by side: the shortest step is their length.
    let step_s = starts.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let length_s = if step_s.is_finite() { step_s } else { WINDOW_S };
    windows.iter_mut().for_each(|window| window.length_s = length_s);
    let (Some(first), Some(last)) = (starts.first(), starts.last()) else {
        return Err(TraceError::Empty { place: Place::file(path), detail: "; it should have a line a window".into() });
    };
    Ok((windows, *first, last + length_s))
}

/// `{start: {field: "{length: probability, …}"}}`; buckets without data are left out.
fn buckets(path: &Path, text: &str) -> Result<Vec<Bucket>, TraceError> {
    let wrong = |line: usize, problem: String| TraceError::Malformed {
        place: if line > 0 { Place::line(path, line as u64) } else { Place::file(path) },
        problem,
        advice: "expected {\"start\": {\"input_tokens\": \"{length: probability, …}\", \"output_tokens\": …}}".into(),
    };
    let object: Map<String, Value> = serde_json::from_str(text).map_err(|e| wrong(e.line(), e.to_string()))?;
    let mut buckets = Vec::new();
    for (start, fields) in &object {
        let start_s: f64 = start
            .parse()
            .ok()
            .filter(|s: &f64| s.is_finite())
            .ok_or_else(|| wrong(0, format!("{start:?} is no number of seconds")))?;
        let histogram = |field: &str| match fields.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => {
                Histogram::parse(text).map_err(|problem| wrong(0, format!("{start}, {field}: {problem}")))
            }
            Some(_) => Err(wrong(0, format!("{start}, {field}: not a string"))),
        };
        let input: Vec<Histogram> =
            INPUTS.iter().filter_map(|field| histogram(field).transpose()).collect::<Result<_, _>>()?;
        if let (false, Some(output)) = (input.is_empty(), histogram("output_tokens")?) {
            buckets.push(Bucket { start_s, input, output });
        }
    }
    buckets.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    Ok(buckets)
}
