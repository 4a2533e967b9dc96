//! Figures as SVG: text stays text, colours follow the page's theme, and every figure has its table.

mod bars;
mod cdf;
pub(crate) mod colour;
mod heat;
mod over_time;
pub(crate) mod plot;
mod popularity;
pub(crate) mod scale;
mod sweep;

pub(crate) use self::bars::{primary_bars, tail_bars};
pub(crate) use self::cdf::cdf;
pub(crate) use self::heat::{heat, heat_legend};
pub(crate) use self::over_time::{Quantity, batch_sizes, over_time};
pub(crate) use self::popularity::popularity;
pub(crate) use self::sweep::sweep_lines;

/// A figure, its legend and its table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figure {
    /// What it shows.
    pub(crate) title: String,
    /// How to read it, if that needs saying.
    pub(crate) note: String,
    /// The drawing; none if there is nothing to draw.
    pub(crate) svg: String,
    /// Colour class and name of each series.
    pub(crate) legend: Vec<(String, String)>,
    /// The same as numbers.
    pub(crate) table: FigureTable,
    /// Is it one of many of its kind, shown small?
    pub(crate) small: bool,
}

/// The numbers behind a figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct FigureTable {
    pub(crate) headings: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}
