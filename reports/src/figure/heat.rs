//! Batch size by GPU over time, as in the paper's Fig. 13.

use super::plot::{Mark, Plot};
use super::scale::Scale;
use super::{Figure, FigureTable, colour};
use crate::ReportError;
use crate::format;
use crate::metrics::{Heat, Series};

/// More columns than this cannot be told apart.
const COLUMNS_MAX: usize = 160;
/// More rows than this are drawn as groups of replicas.
const ROWS_MAX: usize = 40;

/// The batch size of each replica over time; the darker, the fuller. `run_s`: when the run ended.
pub(crate) fn heat(policy: &str, heat: &Heat, series: &Series, run_s: f64) -> Result<Figure, ReportError> {
    let group = heat.rows.len().div_ceil(ROWS_MAX).max(1);
    let bins = heat.rows.iter().map(Vec::len).max().unwrap_or(0);
    let merge = bins.div_ceil(COLUMNS_MAX).max(1);
    let columns = bins.div_ceil(merge);
    // Of all replicas of a row, the last of which may have fewer.
    let at = |row: usize, bin: usize| {
        heat.rows[row].get(bin).copied().unwrap_or(0.0) * heat.members(row).len() as f32 / heat.replicas_per_row as f32
    };
    let mut marks = Vec::new();
    let groups = heat.rows.len().div_ceil(group);
    for row in 0..groups {
        let members = row * group..((row + 1) * group).min(heat.rows.len());
        let replicas = members.clone().map(|row| heat.members(row).len()).sum::<usize>() as f32;
        let level = |column: usize| {
            let cells =
                members.clone().flat_map(|row| (column * merge..(column + 1) * merge).map(move |bin| at(row, bin)));
            let mean = cells.sum::<f32>() * heat.replicas_per_row as f32 / replicas / merge as f32;
            step(mean, heat.rows_max)
        };
        let mut column = 0;
        while column < columns {
            let here = level(column);
            let mut end = column + 1;
            while end < columns && level(end) == here {
                end += 1;
            }
            if let Some(here) = here {
                let width = merge as f64 * heat.bin_s;
                let (low, high) = (row as f64 - 0.5, row as f64 + 0.44);
                marks.push(Mark::Box {
                    colour: colour::heat(here),
                    from: (column as f64 * width, low),
                    to: (end as f64 * width, high),
                });
            }
            column = end;
        }
    }
    let replicas = group * heat.replicas_per_row;
    let labels = (0..groups)
        .map(|row| if groups <= 20 || row % 5 == 0 { format!("{}", row * replicas) } else { String::new() })
        .collect();
    let plot = Plot {
        name: format!("Batch size by replica over time, {policy}"),
        size: (980, 110 + (groups as u32 * 26).clamp(78, 560)),
        x: Scale::time(run_s),
        y: Scale::names(labels).downwards(),
        x_label: String::new(),
        y_label: if replicas == 1 { "replica".to_owned() } else { format!("replica, each row the mean of {replicas}") },
        left: 70,
        grid: (false, false),
        marks,
    };
    Ok(Figure {
        title: policy.to_owned(),
        note: String::new(),
        svg: plot.draw()?,
        legend: Vec::new(),
        table: table(heat, series, run_s),
        small: true,
    })
}

/// The legend of all heat maps.
pub(crate) fn heat_legend(rows_max: u32) -> Vec<(String, String)> {
    (0..colour::HEAT_STEPS)
        .map(|step| {
            let edge =
                |step: usize| (step as f64 * f64::from(rows_max) / colour::HEAT_STEPS as f64).ceil().max(1.0) as u32;
            let (low, high) = (edge(step), if step + 1 == colour::HEAT_STEPS { rows_max } else { edge(step + 1) - 1 });
            (colour::heat_class(step), if low >= high { format!("{low}") } else { format!("{low}–{high}") })
        })
        .collect()
}

/// The step of a mean batch size; none if the GPU idled.
fn step(rows: f32, rows_max: u32) -> Option<usize> {
    let share = f64::from(rows) / f64::from(rows_max.max(1));
    (rows > 0.005).then(|| ((share * colour::HEAT_STEPS as f64) as usize).min(colour::HEAT_STEPS - 1))
}

/// Per replica, or for a few of them together: mean batch, share of time with a batch, mean batch while there is one.
fn table(heat: &Heat, series: &Series, run_s: f64) -> FigureTable {
    let bins = series.busy_gpus.len().max(1);
    let rows = heat.rows.iter().enumerate().map(|(row, rows)| {
        let members = heat.members(row);
        let total: f64 = rows.iter().map(|rows| f64::from(*rows)).sum::<f64>() * heat.bin_s;
        let used = rows.iter().filter(|rows| **rows > 0.005).count();
        vec![
            if members.len() == 1 {
                members.start.to_string()
            } else {
                format!("{}–{}", members.start, members.end - 1)
            },
            format::number(if run_s > 0.0 { total / run_s } else { 0.0 }),
            format::share(used as f64 / bins as f64),
            if used == 0 { "–".to_owned() } else { format::number(total / (used as f64 * heat.bin_s)) },
        ]
    });
    FigureTable {
        headings: ["replica", "mean batch", "bins with a batch", "mean batch in those"].map(str::to_owned).to_vec(),
        rows: rows.collect(),
    }
}
