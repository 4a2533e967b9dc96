//! Published figures beside ours, cell by cell.

use std::collections::BTreeMap;

use aril_reports::statistics::t_interval;
use aril_reports::{Expectation, ExpectedCell, Metric};

use super::Finished;
use crate::document::read_named;
use crate::error::ArilError;
use crate::plan::{Plan, beside};
use crate::scenario::Expect;
use crate::wrong::suggest;

/// What a column of the published table stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Column {
    Policy,
    /// The path of a swept setting.
    Swept(String),
    Metric(Metric),
}

/// A published table: its columns and rows.
pub(crate) struct Published {
    names: Vec<String>,
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    /// Lines before the header that begin with `#`: where the figures come from.
    source: String,
}

impl Published {
    /// Reads and understands the table of `expect`.
    ///
    /// # Errors
    /// A file that cannot be read, or a column or number that cannot be understood.
    pub(crate) fn read(plan: &Plan, expect: &Expect) -> Result<Published, ArilError> {
        let path = beside(&plan.directory, &expect.table);
        let input = |problem: String, help: String| ArilError::Input { path: path.clone(), problem, help };
        let text = read_named(&plan.directory, &expect.table, "expect.table")?;
        let comments = text.lines().take_while(|line| line.starts_with('#'));
        let source = comments.map(|line| line.trim_start_matches('#').trim()).collect::<Vec<_>>().join(" ");
        let mut reader =
            csv::ReaderBuilder::new().comment(Some(b'#')).trim(csv::Trim::All).from_reader(text.as_bytes());
        let broken = |error: csv::Error| input(error.to_string(), "a table is CSV with a header".to_owned());
        let names: Vec<String> = reader.headers().map_err(broken)?.iter().map(str::to_owned).collect();
        let columns = names
            .iter()
            .map(|name| column(plan, expect, name).map_err(|(problem, help)| input(problem, help)))
            .collect::<Result<Vec<_>, _>>()?;
        if !columns.iter().any(|column| matches!(column, Column::Metric(_))) {
            return Err(input("no column is a metric".to_owned(), metric_help("")));
        }
        let mut rows = Vec::new();
        for (number, record) in (1..).zip(reader.records()) {
            let row: Vec<String> = record.map_err(broken)?.iter().map(str::to_owned).collect();
            for ((column, name), cell) in columns.iter().zip(&names).zip(&row) {
                let is_number = cell.is_empty() || cell.parse::<f64>().is_ok_and(f64::is_finite);
                if matches!(column, Column::Metric(_)) && !is_number {
                    let problem = format!("row {number}, column `{name}`: `{cell}` is not a number");
                    return Err(input(problem, "leave a cell empty where nothing was published".to_owned()));
                }
            }
            rows.push(row);
        }
        for key in expect.fitted.keys().chain(expect.exempt.iter().flat_map(|exemption| exemption.rows.keys())) {
            if !names.contains(key) {
                let help = suggest(key, names.iter().map(String::as_str), "its columns");
                return Err(input(format!("[expect] names a column `{key}`, which the table does not have"), help));
            }
        }
        Ok(Published { names, columns, rows, source })
    }
}

fn column(plan: &Plan, expect: &Expect, name: &str) -> Result<Column, (String, String)> {
    let target = expect.columns.get(name).map_or(name, String::as_str);
    if target == "policy" {
        return Ok(Column::Policy);
    }
    let swept: Vec<&str> = plan.points[0].values.iter().map(|(path, _)| path.as_str()).collect();
    let last = |path: &str| path.rsplit('.').next() == Some(target) || path.split('.').next() == Some(target);
    let mut named = swept.iter().filter(|path| **path == target || last(path));
    if let Some(path) = named.next()
        && (named.next().is_none() || swept.contains(&target))
    {
        let path = if swept.contains(&target) { target } else { path };
        return Ok(Column::Swept(path.to_owned()));
    }
    match serde_json::from_value(serde_json::Value::String(target.to_owned())) {
        Ok(metric) => Ok(Column::Metric(metric)),
        Err(_) => {
            let problem = format!("the column `{name}` is neither `policy`, nor a swept setting, nor a metric");
            Err((problem, format!("say what it is with `columns = {{ {name} = … }}`; {}", metric_help(target))))
        }
    }
}

fn metric_help(near: &str) -> String {
    let names: Vec<String> = Metric::ALL.iter().map(|metric| name_of(*metric)).collect();
    suggest(near, names.iter().map(String::as_str), "metrics")
}

fn name_of(metric: Metric) -> String {
    match serde_json::to_value(metric) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// A table for each metric of the published one.
pub(super) fn tables(plan: &Plan, expect: &Expect, finished: &[Finished]) -> Result<Vec<Expectation>, ArilError> {
    let published = Published::read(plan, expect)?;
    let metrics = published.columns.iter().enumerate().filter_map(|(position, column)| match column {
        Column::Metric(metric) => Some((position, *metric)),
        _ => None,
    });
    Ok(metrics.map(|(position, metric)| published.table(expect, position, metric, finished)).collect())
}

impl Published {
    fn table(&self, expect: &Expect, position: usize, metric: Metric, finished: &[Finished]) -> Expectation {
        let labels = |row: &[String]| {
            self.columns
                .iter()
                .zip(row)
                .filter(|(column, _)| !matches!(column, Column::Metric(_)))
                .map(|(_, cell)| cell.clone())
                .collect()
        };
        let cell = |row: &Vec<String>| {
            let published: f64 = row[position].parse().ok()?;
            let runs: Vec<&Finished> = finished.iter().filter(|run| self.is_about(row, run)).collect();
            let values: Vec<f64> = runs.iter().filter_map(|run| metric.of(&run.result.metrics)).collect();
            let ours = (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
            Some(ExpectedCell {
                labels: labels(row),
                published,
                ours,
                interval: t_interval(&values, 0.95),
                fitted: !expect.fitted.is_empty() && self.matches(row, &expect.fitted),
                exempt: expect
                    .exempt
                    .iter()
                    .find(|exemption| self.matches(row, &exemption.rows))
                    .map(|exemption| exemption.reason.clone()),
                tolerance: expect.tolerance.share,
                run: runs.first().map(|run| run.info.folder()),
            })
        };
        Expectation {
            title: format!("{}, published and ours", metric.title()),
            source: self.source.clone(),
            unit: self.names[position].clone(),
            axes: labels(&self.names),
            rows: self.rows.iter().filter_map(cell).collect(),
        }
    }

    fn matches(&self, row: &[String], wanted: &BTreeMap<String, String>) -> bool {
        wanted
            .iter()
            .all(|(name, value)| self.names.iter().zip(row).any(|(column, cell)| column == name && cell == value))
    }

    fn is_about(&self, row: &[String], run: &Finished) -> bool {
        self.columns.iter().zip(row).all(|(column, cell)| match column {
            Column::Policy => *cell == run.info.policy,
            Column::Swept(path) => run.info.point.iter().any(|(axis, value)| axis == path && value == cell),
            Column::Metric(_) => true,
        })
    }
}
