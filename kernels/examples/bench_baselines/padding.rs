//! Batches for what padding and idle slots cost: small ranks padded to large ones, adapters that no row uses.

use aril_kernels::Element;

use crate::points::Point;

/// Points, each with the rank that its adapters are padded to.
pub(crate) fn points() -> Vec<(Point, Option<u32>)> {
    let point = |batch: String, segments: Vec<(u32, u32)>| Point {
        group: "padding",
        element: Element::Bf16,
        inputs: 4096,
        outputs: 4096,
        also: Vec::new(),
        batch,
        segments,
    };
    let mut points = Vec::new();
    for padded_to in [16, 32, 64, 128, 256] {
        for (rows, adapters) in [(1, 1), (32, 1), (8, 8), (32, 32), (64, 8)] {
            let batch = format!("r16 {rows} rows of {adapters} adapters, padded to {padded_to}");
            points.push((point(batch, vec![(rows / adapters, 16); adapters as usize]), Some(padded_to)));
        }
    }
    for slots in [8, 32, 128, 256] {
        let mut segments = vec![(4, 16); 8];
        segments.resize(slots, (0, 16));
        points.push((point(format!("r16 32 rows of 8 adapters in {slots} slots"), segments), Some(16)));
    }
    points
}
