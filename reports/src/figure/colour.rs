//! Colours of figures: fixed in the SVG for the light theme, and replaced by the page's style sheet in the dark one.

use std::fmt::Write;

use plotters::style::RGBColor;

/// Text of axes.
pub(crate) const INK: RGBColor = RGBColor(0x4A, 0x52, 0x5C);
/// Lines behind the data.
pub(crate) const GRID: RGBColor = RGBColor(0xE3, 0xE6, 0xEA);
/// Limits and what was offered.
pub(crate) const RULE: RGBColor = RGBColor(0x1F, 0x23, 0x29);

/// Series, light and dark: told apart by hue and by lightness.
const SERIES: [(RGBColor, &str); 14] = [
    (RGBColor(0x24, 0x6B, 0xCE), "#6EA8FF"),
    (RGBColor(0xD1, 0x4B, 0x1F), "#FF8F66"),
    (RGBColor(0x12, 0x87, 0x66), "#4FD1A5"),
    (RGBColor(0x8B, 0x4F, 0xC7), "#C79BFF"),
    (RGBColor(0xA8, 0x75, 0x00), "#E8BC4A"),
    (RGBColor(0xC2, 0x3B, 0x7E), "#FF86BC"),
    (RGBColor(0x1B, 0x87, 0xA6), "#62CDE8"),
    (RGBColor(0x6B, 0x70, 0x78), "#AEB4BD"),
    (RGBColor(0x2A, 0x2F, 0x8F), "#8F96FF"),
    (RGBColor(0x6E, 0x8B, 0x00), "#B4D93F"),
    (RGBColor(0x8C, 0x1C, 0x2E), "#FF5C73"),
    (RGBColor(0x7A, 0x4A, 0x24), "#D09A6C"),
    (RGBColor(0x00, 0x55, 0x5A), "#2BB3B8"),
    (RGBColor(0xD6, 0x2F, 0xD0), "#FF8AF5"),
];

/// Steps of a quantity, from little to much, light and dark.
const HEAT: [(RGBColor, &str); 9] = [
    (RGBColor(0xE4, 0xEE, 0xF8), "#182C42"),
    (RGBColor(0xC6, 0xDC, 0xF0), "#1B3A5B"),
    (RGBColor(0xA2, 0xC7, 0xE8), "#1E4A77"),
    (RGBColor(0x7A, 0xAE, 0xDD), "#235E96"),
    (RGBColor(0x55, 0x94, 0xD0), "#2E77B8"),
    (RGBColor(0x37, 0x79, 0xBD), "#4593D3"),
    (RGBColor(0x22, 0x5F, 0xA3), "#6BB0E8"),
    (RGBColor(0x12, 0x46, 0x85), "#9ACDF6"),
    (RGBColor(0x08, 0x2F, 0x61), "#D2EBFF"),
];

/// The colour of series `index`; they repeat after fourteen.
pub(crate) fn series(index: usize) -> RGBColor {
    SERIES[index % SERIES.len()].0
}

/// The class of series `index` in a legend.
pub(crate) fn series_class(index: usize) -> String {
    format!("s{}", index % SERIES.len())
}

/// Steps of a heat map.
pub(crate) const HEAT_STEPS: usize = HEAT.len();

/// The colour of a step.
pub(crate) fn heat(step: usize) -> RGBColor {
    HEAT[step.min(HEAT.len() - 1)].0
}

/// The class of a step in a legend.
pub(crate) fn heat_class(step: usize) -> String {
    format!("h{}", step.min(HEAT.len() - 1))
}

fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// The part of the style sheet that colours figures and legends.
pub(crate) fn style() -> String {
    let mut light = String::new();
    let mut dark = String::new();
    let rows = SERIES.iter().enumerate().map(|(i, row)| (series_class(i), row));
    for (class, (colour, in_dark)) in rows.chain(HEAT.iter().enumerate().map(|(i, row)| (heat_class(i), row))) {
        let hex = hex(*colour);
        // Writing to a String cannot fail.
        let _ = write!(light, ".key .{class}{{background:{hex};border-color:{hex}}}");
        let _ = write!(
            dark,
            ".key .{class}{{background:{in_dark};border-color:{in_dark}}}svg [fill='{hex}']{{fill:{in_dark}}}svg [stroke='{hex}']{{stroke:{in_dark}}}"
        );
    }
    for (colour, in_dark) in [(INK, "#A7AFBA"), (GRID, "#2B313A"), (RULE, "#E8EAED")] {
        let hex = hex(colour);
        let _ = write!(dark, "svg [fill='{hex}']{{fill:{in_dark}}}svg [stroke='{hex}']{{stroke:{in_dark}}}");
    }
    format!("{light}@media (prefers-color-scheme:dark){{{dark}}}")
}
