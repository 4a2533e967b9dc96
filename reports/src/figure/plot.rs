//! One chart: axes, and marks in their coordinates.

use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::colour;
use super::scale::Scale;
use crate::ReportError;

/// What is drawn, first to last.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    /// A line through points.
    Line { colour: RGBColor, width: u32, points: Vec<(f64, f64)> },
    /// A band between two lines.
    Band { colour: RGBColor, low: Vec<(f64, f64)>, high: Vec<(f64, f64)> },
    /// Dots.
    Dots { colour: RGBColor, points: Vec<(f64, f64)> },
    /// Circles.
    Rings { colour: RGBColor, points: Vec<(f64, f64)> },
    /// A dashed line through points.
    Dashes { colour: RGBColor, points: Vec<(f64, f64)> },
    /// A filled rectangle.
    Box { colour: RGBColor, from: (f64, f64), to: (f64, f64) },
    /// A text, left of or right of its place.
    Text { text: String, at: (f64, f64), right: bool },
}

/// A chart in units of half a pixel.
pub(crate) struct Plot {
    /// For errors and for those who cannot see it.
    pub(crate) name: String,
    pub(crate) size: (u32, u32),
    pub(crate) x: Scale,
    pub(crate) y: Scale,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    /// Room for the labels of the y axis.
    pub(crate) left: u32,
    /// Lines across at the ticks?
    pub(crate) grid: (bool, bool),
    pub(crate) marks: Vec<Mark>,
}

/// Full width.
pub(crate) const WIDE: (u32, u32) = (1880, 640);
/// Two or three side by side.
pub(crate) const SMALL: (u32, u32) = (980, 560);
const FONT: i32 = 30;

impl Plot {
    /// The chart as SVG, to be placed in a page: without size, and with a name.
    ///
    /// # Errors
    /// [`ReportError::Figure`] with what the plotter said.
    pub(crate) fn draw(&self) -> Result<String, ReportError> {
        let mut svg = String::new();
        self.draw_on(&mut svg).map_err(|message| ReportError::Figure { figure: self.name.clone(), message })?;
        let body = svg.find('>').map_or("", |end| &svg[end + 1..]);
        let name = maud::html! { (self.name) }.into_string();
        let body = body
            .replace(" opacity=\"1\"", "")
            .replace(" stroke=\"none\"", "")
            .replace(" font-family=\"sans-serif\"", "");
        Ok(format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{name}\">{}",
            self.size.0,
            self.size.1,
            body.replace(">\n", ">").replace("\n<", "<")
        ))
    }

    fn draw_on(&self, svg: &mut String) -> Result<(), String> {
        let root = SVGBackend::with_string(svg, self.size).into_drawing_area();
        let font = |size: i32| ("sans-serif", size).into_font().color(&colour::INK);
        if !self.y_label.is_empty() {
            let style = font(FONT).pos(Pos::new(HPos::Left, VPos::Top));
            root.draw(&Text::new(self.y_label.clone(), (4, 6), style)).map_err(said)?;
        }
        let mut chart = ChartBuilder::on(&root)
            .margin_top(if self.y_label.is_empty() { 16 } else { 60 })
            .margin_right(48)
            .margin_bottom(if self.x_label.is_empty() { 6 } else { 44 })
            .x_label_area_size(48)
            .y_label_area_size(self.left)
            .build_cartesian_2d(self.x.clone(), self.y.clone())
            .map_err(said)?;
        let mut mesh = chart.configure_mesh();
        mesh.axis_style(colour::GRID.stroke_width(2))
            .bold_line_style(colour::GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .label_style(font(FONT))
            .set_all_tick_mark_size(8);
        if !self.grid.0 {
            mesh.disable_x_mesh();
        }
        if !self.grid.1 {
            mesh.disable_y_mesh();
        }
        mesh.draw().map_err(said)?;
        if !self.x_label.is_empty() {
            let style = font(FONT).pos(Pos::new(HPos::Right, VPos::Bottom));
            let at = (self.size.0 as i32 - 48, self.size.1 as i32 - 2);
            root.draw(&Text::new(self.x_label.clone(), at, style)).map_err(said)?;
        }
        for mark in &self.marks {
            match mark {
                Mark::Line { colour, width, points } => {
                    let points = points.iter().map(|point| self.inside(*point)).collect::<Vec<_>>();
                    chart
                        .draw_series(std::iter::once(PathElement::new(points, colour.stroke_width(*width))))
                        .map_err(said)?;
                }
                Mark::Band { colour, low, high } => {
                    let outline: Vec<_> =
                        low.iter().chain(high.iter().rev()).map(|point| self.inside(*point)).collect();
                    chart.draw_series(std::iter::once(Polygon::new(outline, colour.mix(0.18)))).map_err(said)?;
                }
                Mark::Dots { colour, points } => {
                    let dots = points.iter().map(|point| Circle::new(self.inside(*point), 7, colour.filled()));
                    chart.draw_series(dots).map_err(said)?;
                }
                Mark::Rings { colour, points } => {
                    let rings = points.iter().map(|point| Circle::new(self.inside(*point), 8, colour.stroke_width(3)));
                    chart.draw_series(rings).map_err(said)?;
                }
                Mark::Dashes { colour, points } => {
                    let points: Vec<_> = points.iter().map(|point| self.inside(*point)).collect();
                    let dashes = DashedLineSeries::new(points, 14, 10, colour.stroke_width(4));
                    chart.draw_series(dashes).map_err(said)?;
                }
                Mark::Box { colour, from, to } => {
                    let corners = [self.inside(*from), self.inside(*to)];
                    chart.draw_series(std::iter::once(Rectangle::new(corners, colour.filled()))).map_err(said)?;
                }
                Mark::Text { text, at, right } => {
                    let side = if *right { HPos::Left } else { HPos::Right };
                    let style = font(FONT - 2).pos(Pos::new(side, VPos::Center));
                    let (x, y) = chart.backend_coord(&self.inside(*at));
                    let x = if *right { x + 10 } else { x - 10 };
                    root.draw(&Text::new(text.clone(), (x, y), style)).map_err(said)?;
                }
            }
        }
        root.present().map_err(said)
    }

    fn inside(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.clamp(x), self.y.clamp(y))
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The values at both ends of an axis.
pub(crate) fn ends(scale: &Scale) -> (f64, f64) {
    let range = scale.range();
    (range.start, range.end)
}
