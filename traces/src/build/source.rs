//! Where requests come from: the trace, cut and resampled, or a law.

use aril_sim::random::stream;
use aril_sim::time::Span;
use rand::RngExt;

use crate::arrivals::ArrivalLaw;
use crate::build::{Context, synthetic};
use crate::error::{TraceError, nearest};
use crate::format::{Columns, Format};
use crate::input::{Content, Source as File};
use crate::read::{ReadOptions, read_source};
use crate::resample::{resampled, resampled_rows};
use crate::servegen;
use crate::shipped;
use crate::table::Table;
use crate::traffic::{LengthsFrom, Start, TooLong, Traffic};
use crate::workload::{Description, Source};

/// What is offered, before anybody asks for whom.
pub(crate) struct Offer {
    pub(crate) table: Option<Table>,
    pub(crate) source: Source,
    pub(crate) span: Span,
    pub(crate) requests: u64,
    /// The clients, where requests are drawn client by client.
    pub(crate) clients: Vec<String>,
}

/// Reads the trace, if there is one, and decides when its requests come.
pub(crate) fn offer(traffic: &Traffic, context: &Context<'_>, about: &mut Description) -> Result<Offer, TraceError> {
    let Some(name) = &traffic.trace else { return drawn(traffic, about) };
    let shipped = shipped::find(name);
    about.name = name.clone();
    about.source = shipped.map(|shipped| shipped.source.to_owned());
    about.licence = shipped.map(|shipped| shipped.licence.to_owned());
    if is_servegen(name, traffic.format, context)? {
        return clients(name, traffic, context, about);
    }
    let table = load(name, traffic.format, &traffic.columns, traffic, context)?;
    let (table, misfits) = fit(table, name, traffic, context)?;
    match &traffic.arrivals {
        None | Some(ArrivalLaw::Trace) => replay(traffic, context, table, &misfits, about),
        Some(law) => {
            about.notes.extend(misfits.notes(0..u64::MAX, table.len()));
            retimed(traffic, context, table, law, about)
        }
    }
}

/// No trace: everything is drawn.
fn drawn(traffic: &Traffic, about: &mut Description) -> Result<Offer, TraceError> {
    let Some(law) = &traffic.arrivals else {
        let advice = "name a `trace`, or set `arrivals`, as in `arrivals = { poisson = { rate = 5.0 } }`";
        return Err(TraceError::setting("trace", "nothing says when requests come", advice));
    };
    no_start(traffic)?;
    let (process, end_ps, limit, requests) = synthetic(law, traffic, None)?;
    about.name = law_name(law);
    about.assigned.push("arrivals, lengths and adapters are all drawn from laws".into());
    let span = traffic.window.duration.filter(|_| *law != ArrivalLaw::Closed).unwrap_or(Span::ZERO);
    let span = if span.is_zero() && *law != ArrivalLaw::Closed { expected_span(&process, requests) } else { span };
    let source = Source::Law { process, end_ps, limit, rows: None };
    Ok(Offer { table: None, source, span, requests, clients: Vec::new() })
}

/// How long a law takes for so many requests, about.
fn expected_span(process: &crate::arrivals::Process, requests: u64) -> Span {
    let rate = process.expected(Span::from_secs(1_000_000)).unwrap_or(0.0) / 1e6;
    if rate > 0.0 { Span::from_secs_f64(requests as f64 / rate) } else { Span::ZERO }
}

fn law_name(law: &ArrivalLaw) -> String {
    match serde_json::to_value(law) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(table)) => table.keys().next().cloned().unwrap_or_default(),
        _ => "synthetic".into(),
    }
}

fn no_start(traffic: &Traffic) -> Result<(), TraceError> {
    if traffic.window.start.is_some() {
        let advice = "leave out `start`: drawn arrivals begin at 0";
        return Err(TraceError::setting("window.start", "there is no trace to begin in", advice));
    }
    Ok(())
}

/// The trace's own arrivals: jittered, cut to the window and, for further seeds, resampled.
fn replay(
    traffic: &Traffic,
    context: &Context<'_>,
    mut table: Table,
    misfits: &Misfits,
    about: &mut Description,
) -> Result<Offer, TraceError> {
    if table.arrivals_ps.is_none() {
        let advice = "choose a law under `arrivals`, such as `arrivals = \"closed\"` or `arrivals = { poisson = { rate = 5.0 } }`";
        return Err(TraceError::setting("arrivals", "the trace has no arrival times", advice));
    }
    if let Some(jitter) = traffic.jitter {
        spread(&mut table, jitter, context.seed);
        table = table.sorted();
        about.assigned.push(format!("arrivals moved later by a uniform draw of up to {jitter}"));
    }
    let start = begin(traffic, &table)?;
    let all = table.arrivals_ps.as_deref().unwrap_or(&[]);
    let end = traffic.window.duration.map_or(u64::MAX, |duration| start.saturating_add(duration.as_ps()));
    let first = all.partition_point(|at| *at < start);
    let last = all.partition_point(|at| *at < end);
    let last = traffic
        .requests
        .map_or(last, |limit| last.min(first.saturating_add(usize::try_from(limit).unwrap_or(usize::MAX))));
    if first == last {
        let problem = format!("no request arrives in it; the trace lasts {}", Span::from_ps(table.span_ps()));
        return Err(TraceError::setting("window", problem, "move it, or make it longer"));
    }
    if let Some(duration) = traffic.window.duration
        && last == all.len()
    {
        // A quiet end is part of a trace; a window that goes on without it would dilute every rate.
        let over = end.saturating_sub(all[last - 1]);
        if over > (duration.as_ps() / 20).max(Span::from_secs(60).as_ps()) {
            let problem = format!(
                "the window ends {} after the last request; the trace lasts {}",
                whole_seconds(over),
                whole_seconds(all[last - 1])
            );
            return Err(TraceError::setting("window.duration", problem, "make it shorter, or begin it earlier"));
        }
    }
    let is_cut_by_number = last < all.partition_point(|at| *at < end);
    let part_end = if is_cut_by_number { all[last - 1].saturating_add(1) } else { end };
    about.notes.extend(misfits.notes(start..part_end, last - first));
    let mut rows: Vec<(u64, u32)> = (first..last).map(|row| (all[row] - start, row as u32)).collect();
    let n = rows.len() as u64;
    let (head, tail) = (rows[0].0, rows[rows.len() - 1].0);
    // A trace goes on for about one gap after its last request; only the resampling needs to know.
    let span = traffic.window.duration.unwrap_or(Span::from_ps(tail));
    if !context.as_recorded {
        let around = traffic.window.duration.map_or(tail + (tail - head) / (n - 1).max(1) + 1, Span::as_ps);
        let mut random = stream(context.seed, "traffic.resample");
        rows = resampled(&rows, around, &traffic.resample, &mut random);
        if rows.is_empty() {
            let problem = format!("no block of {} that was drawn has a request in it", traffic.resample.block);
            return Err(TraceError::setting("resample.block", problem, "choose longer blocks"));
        }
        about.assigned.push(format!(
            "the order of blocks of {} is drawn; what is in them is the trace's",
            traffic.resample.block
        ));
    }
    about.notes.append(&mut table.notes);
    let requests = rows.len() as u64;
    Ok(Offer { table: Some(table), source: Source::Rows(rows.into()), span, requests, clients: Vec::new() })
}

/// For people: no fractions of a second.
fn whole_seconds(ps: u64) -> Span {
    Span::from_secs(ps / 1_000_000_000_000)
}

/// The trace's requests at other times.
fn retimed(
    traffic: &Traffic,
    context: &Context<'_>,
    mut table: Table,
    law: &ArrivalLaw,
    about: &mut Description,
) -> Result<Offer, TraceError> {
    no_start(traffic)?;
    let (process, end_ps, limit, requests) = synthetic(law, traffic, Some(table.len() as u64))?;
    let rows: Vec<u32> = if context.as_recorded {
        (0..table.len() as u32).collect()
    } else {
        about.assigned.push("the order of blocks of the trace's rows is drawn".into());
        resampled_rows(table.len(), &mut stream(context.seed, "traffic.resample"))
    };
    about.assigned.push(format!("arrivals: {}", law_name(law)));
    about.notes.append(&mut table.notes);
    let span = match (law, traffic.window.duration) {
        (ArrivalLaw::Closed, _) => Span::ZERO,
        (_, Some(duration)) => duration,
        (_, None) => expected_span(&process, requests),
    };
    let source = Source::Law { process, end_ps, limit, rows: Some(rows.into()) };
    Ok(Offer { table: Some(table), source, span, requests, clients: Vec::new() })
}

/// Where the window begins, ps from the start of the trace.
fn begin(traffic: &Traffic, table: &Table) -> Result<u64, TraceError> {
    match traffic.window.start {
        None => Ok(0),
        Some(Start::After(span)) => Ok(span.as_ps()),
        Some(Start::Date(date)) => {
            let Some(origin) = table.origin_unix_ps else {
                let advice = "write a duration from the start of the trace, such as \"10m\"";
                return Err(TraceError::setting("window.start", "the times of the trace are no dates", advice));
            };
            u64::try_from(date - origin).map_err(|_| {
                let problem = format!("the trace begins later, at {}", Start::Date(origin));
                TraceError::setting("window.start", problem, "begin within the trace")
            })
        }
    }
}

fn spread(table: &mut Table, jitter: Span, seed: u64) {
    let mut random = stream(seed, "traffic.jitter");
    for at in table.arrivals_ps.iter_mut().flatten() {
        *at = at.saturating_add(random.random_range(0..jitter.as_ps().max(1)));
    }
}

/// A shipped trace's bytes or a file; an error if there is neither.
fn open<'a>(name: &'a str, context: &Context<'_>) -> Result<File<'a>, TraceError> {
    if let Some(shipped) = shipped::find(name) {
        return Ok(File::shipped(shipped.name, shipped.bytes));
    }
    let path = context.base.join(name);
    if path.exists() {
        return Ok(File::owned(path));
    }
    let shipped: Vec<&'static str> = shipped::shipped().iter().map(|shipped| shipped.name).collect();
    let nearest = nearest(name, shipped.iter().copied());
    Err(TraceError::UnknownTrace { nearest, name: name.to_owned(), path, shipped })
}

/// Reads a trace by its shipped name or its path.
fn load(
    name: &str,
    format: Option<Format>,
    columns: &Columns,
    traffic: &Traffic,
    context: &Context<'_>,
) -> Result<Table, TraceError> {
    let options = ReadOptions { arrival_unit: traffic.arrival_unit, sort: traffic.sort, failures: traffic.failures };
    let format = format.or(shipped::find(name).map(|shipped| shipped.format));
    read_source(&open(name, context)?, format, columns, &options)
}

fn is_servegen(name: &str, format: Option<Format>, context: &Context<'_>) -> Result<bool, TraceError> {
    if let Some(format) = format.or(shipped::find(name).map(|shipped| shipped.format)) {
        return Ok(format == Format::Servegen);
    }
    let file = open(name, context)?;
    Ok(context.base.join(name).is_dir() || matches!(file.open()?, Content::Tar(_)))
}

/// Requests drawn from ServeGen's clients.
fn clients(name: &str, traffic: &Traffic, context: &Context<'_>, about: &mut Description) -> Result<Offer, TraceError> {
    let of_rows = [
        ("arrivals", traffic.arrivals.as_ref().is_some_and(|law| *law != ArrivalLaw::Trace)),
        ("columns", !traffic.columns.is_empty()),
        ("jitter", traffic.jitter.is_some()),
    ];
    if let Some((key, _)) = of_rows.iter().find(|(_, set)| *set) {
        let advice = "leave it out; `servegen = { rate = … }` sets the rate";
        return Err(TraceError::setting(*key, "ServeGen publishes rates and histograms, not requests", advice));
    }
    let start = match traffic.window.start {
        None => Span::ZERO,
        Some(Start::After(span)) => span,
        Some(Start::Date(_)) => {
            let advice = "write a duration from the start of the data, such as \"6h\"";
            return Err(TraceError::setting("window.start", "the times of ServeGen are no dates", advice));
        }
    };
    let folder = context.base.join(name);
    let folder = (shipped::find(name).is_none() && folder.is_dir()).then_some(folder);
    let data = servegen::read(&open(name, context)?, folder.as_deref())?;
    let duration = traffic.window.duration.map(Span::as_secs_f64);
    let model = servegen::Model::new(data, &traffic.servegen, start.as_secs_f64(), duration, about)?;
    let limit = traffic.requests.unwrap_or(u64::from(u32::MAX));
    let requests = limit.min(model.expected.round() as u64);
    if requests >= u64::from(u32::MAX) {
        let problem = format!("{:.0} requests are more than ids can count", model.expected);
        return Err(TraceError::setting("servegen.rate", problem, "lower the rate, or shorten the window"));
    }
    let span = Span::from_secs_f64(model.end_s - model.start_s);
    let clients = model.clients.iter().map(|client| client.name.clone()).collect();
    Ok(Offer { table: None, source: Source::Clients { model, limit }, span, requests, clients })
}

/// The table that lengths are drawn from.
pub(crate) fn lengths_table(
    traffic: &Traffic,
    from: &LengthsFrom,
    context: &Context<'_>,
    about: &mut Description,
) -> Result<Table, TraceError> {
    let unordered = Traffic { sort: Some(true), arrival_unit: None, ..traffic.clone() };
    let table = load(&from.trace, from.format, &from.columns, &unordered, context)?;
    let (mut table, misfits) = fit(table, &from.trace, traffic, context)?;
    about.notes.extend(misfits.notes(0..u64::MAX, table.len()));
    about.notes.append(&mut table.notes);
    Ok(table)
}

/// Requests that the model had no room for, or not enough, by their arrivals: notes count those that are replayed.
struct Misfits {
    name: String,
    /// Tokens, prompt and output together.
    context: u32,
    /// Left out or cut, as the scenario says.
    how: TooLong,
    /// Prompts without room for output: arrival, ps from the start of the trace, and tokens.
    too_long: Vec<(u64, u32)>,
    /// Arrivals of those whose output ends earlier.
    stopped: Vec<u64>,
}

impl Misfits {
    /// What a report says of those that arrive in this part of the trace; `replayed` requests of it are.
    fn notes(&self, part: std::ops::Range<u64>, replayed: usize) -> Vec<String> {
        let mut notes = Vec::new();
        let too_long: Vec<u32> =
            self.too_long.iter().filter(|(at, _)| part.contains(at)).map(|(_, tokens)| *tokens).collect();
        if let Some(most) = too_long.iter().max() {
            let (of, done) = match self.how {
                TooLong::Drop => (replayed + too_long.len(), "left out".to_owned()),
                _ => (replayed, format!("cut to {} tokens", self.context - 1)),
            };
            notes.push(no_room(&self.name, too_long.len(), of, self.context, *most) + ": " + &done);
        }
        let stopped = self.stopped.iter().filter(|at| part.contains(at)).count();
        if stopped > 0 {
            notes.push(format!(
                "{stopped} outputs of {} end earlier, where the context of {} tokens is full",
                self.name, self.context
            ));
        }
        notes
    }
}

fn no_room(name: &str, n: usize, of: usize, context: u32, most: u32) -> String {
    format!(
        "{n} of {of} prompts of {name} leave no room for output in a context of {context} tokens; the longest has {most}"
    )
}

/// Deals with prompts that leave the model no room.
fn fit(mut table: Table, name: &str, traffic: &Traffic, context: &Context<'_>) -> Result<(Table, Misfits), TraceError> {
    let longest = context.max_model_len - 1;
    let mut misfits = Misfits {
        name: name.to_owned(),
        context: context.max_model_len,
        how: traffic.too_long,
        too_long: Vec::new(),
        stopped: Vec::new(),
    };
    if traffic.input_tokens.is_some() {
        return Ok((table, misfits));
    }
    let arrival = |table: &Table, row: usize| table.arrivals_ps.as_ref().map_or(0, |arrivals| arrivals[row]);
    let too_long = (0..table.len()).filter(|row| table.input_tokens[*row] > longest);
    misfits.too_long = too_long.map(|row| (arrival(&table, row), table.input_tokens[row])).collect();
    if let Some(most) = misfits.too_long.iter().map(|(_, tokens)| *tokens).max() {
        let problem = || no_room(name, misfits.too_long.len(), table.len(), context.max_model_len, most);
        match traffic.too_long {
            TooLong::Refuse => {
                let advice = "say what becomes of them: \"drop\" or \"clip\"; or serve a model with a longer context";
                return Err(TraceError::setting("too_long", problem(), advice));
            }
            TooLong::Drop => {
                let rows: Vec<usize> = (0..table.len()).filter(|row| table.input_tokens[*row] <= longest).collect();
                if rows.is_empty() {
                    return Err(TraceError::setting("too_long", problem(), "serve a model with a longer context"));
                }
                table = table.select(&rows);
            }
            TooLong::Clip => table.input_tokens.iter_mut().for_each(|tokens| *tokens = (*tokens).min(longest)),
        }
    }
    let room = |row: usize| context.max_model_len.saturating_sub(table.input_tokens[row]);
    let stopped = (0..table.len()).filter(|row| table.output_tokens[*row] > room(*row));
    misfits.stopped = stopped.map(|row| arrival(&table, row)).collect();
    Ok((table, misfits))
}
