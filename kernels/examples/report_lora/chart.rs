//! Curves on logarithmic axes, as SVG.

use std::path::Path;

use plotters::prelude::*;

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

const COLOURS: [RGBColor; 5] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(120, 120, 120),
];
/// One named curve.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Dots without a line between them.
    pub(crate) scattered: bool,
}

/// A chart with both axes logarithmic.
pub(crate) fn chart(path: &Path, title: &str, x_name: &str, y_name: &str, curves: &[Curve]) -> Outcome {
    let all = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (x_low, x_high) = bounds(&mut all().map(|point| point.0));
    let (y_low, y_high) = bounds(&mut all().map(|point| point.1));
    let area = SVGBackend::new(path, (860, 520)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(60)
        .build_cartesian_2d((x_low * 0.9..x_high * 1.1).log_scale(), (y_low * 0.85..y_high * 1.15).log_scale())?;
    chart.configure_mesh().x_desc(x_name).y_desc(y_name).light_line_style(WHITE).draw()?;
    for (index, curve) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let colour = if index < COLOURS.len() { colour.mix(1.0) } else { colour.mix(0.5) };
        let drawn = if curve.scattered {
            chart.draw_series(curve.points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?
        } else {
            chart.draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)))?
        };
        drawn.label(&curve.name).legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
