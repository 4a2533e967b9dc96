//! The batches that are measured: the 40 points at which public kernels were measured, and others.

use aril_kernels::Element;

/// One batch: consecutive segments of (rows, rank), each with an adapter of its own; rank 0, which [`Point::with_gaps`] puts
/// between others, is rows without one.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    /// `table` for the 40 points of the published comparison, `figure` for those of Punica's figures, `other`.
    pub(crate) group: &'static str,
    pub(crate) element: Element,
    pub(crate) inputs: u32,
    pub(crate) outputs: u32,
    /// Outputs of further projections that share x in the launch.
    pub(crate) also: Vec<u32>,
    pub(crate) batch: String,
    pub(crate) segments: Vec<(u32, u32)>,
}

impl Point {
    pub(crate) fn rows(&self) -> u32 {
        self.segments.iter().map(|&(rows, _)| rows).sum()
    }

    pub(crate) fn name(&self) -> String {
        let also: String = self.also.iter().map(|outputs| format!("+{outputs}")).collect();
        format!("{} {}→{}{also} {}", self.element.name(), self.inputs, self.outputs, self.batch)
    }

    /// The outputs of each projection.
    pub(crate) fn projections(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(self.outputs).chain(self.also.iter().copied())
    }

    /// The point with one of its projections alone.
    pub(crate) fn alone(&self, projection: usize) -> Point {
        let outputs = self.projections().nth(projection).expect("a projection of the point");
        Point { outputs, also: Vec::new(), ..self.clone() }
    }

    /// The point with rows without an adapter before, between and behind its segments: one to three each.
    pub(crate) fn with_gaps(&self) -> Point {
        let mut segments = vec![(1, 0)];
        for (index, &segment) in (1..).zip(&self.segments) {
            segments.extend([segment, (1 + index % 3, 0)]);
        }
        Point { batch: format!("{}, with gaps", self.batch), segments, ..self.clone() }
    }

    /// The outputs of all of them.
    pub(crate) fn outputs_of_all(&self) -> u32 {
        self.projections().sum()
    }

    fn ranks(&self) -> u64 {
        self.segments.iter().filter(|(rows, _)| *rows > 0).map(|&(_, rank)| u64::from(rank)).sum()
    }

    /// Minimal bytes: every used adapter's weights once, and the activations. v is fp16 or bf16 in this count,
    /// as it is for every peer, although ours is fp32.
    pub(crate) fn bytes(&self, kernel: &str) -> u64 {
        let rows = u64::from(self.rows());
        let (inputs, outputs) = (u64::from(self.inputs), u64::from(self.outputs_of_all()));
        let count = 1 + self.also.len() as u64;
        let v: u64 = self.segments.iter().map(|&(rows, rank)| u64::from(rows) * u64::from(rank)).sum::<u64>() * count;
        let (a, b) = (self.ranks() * inputs * count, self.ranks() * outputs);
        2 * match kernel {
            "shrink" => a + rows * inputs + v,
            "expand" => b + v + 2 * rows * outputs,
            _ => a + b + rows * (inputs + 2 * outputs),
        }
    }
}

/// Rows of each adapter, by the popularity generator of Punica's benchmarks.
fn popularity(name: &str, rows: u32) -> Vec<u32> {
    match name {
        "distinct" => vec![1; rows as usize],
        "identical" => vec![rows],
        "uniform" => {
            let adapters = f64::from(rows).sqrt().ceil() as u32;
            (0..adapters).map(|n| rows / adapters + u32::from(n < rows % adapters)).collect()
        }
        "skewed" => {
            let (mut lengths, mut next, mut sum) = (Vec::new(), 1.0_f64, 0);
            while sum + (next as u32) < rows {
                lengths.push(next as u32);
                sum += next as u32;
                next *= 1.5;
            }
            lengths.push(rows - sum);
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths
        }
        other => {
            // prefill<segments>x<rows>
            let (segments, rows) = other.trim_start_matches("prefill").split_once('x').expect("prefill<n>x<rows>");
            let parse = |text: &str| text.parse::<u32>().expect("a number");
            vec![parse(rows); parse(segments) as usize]
        }
    }
}

fn point(group: &'static str, element: Element, shape: (u32, u32), rank: u32, rows: u32, name: &str) -> Point {
    let segments = popularity(name, rows).into_iter().map(|rows| (rows, rank)).collect();
    let batch = format!("r{rank} {rows} {name}");
    Point { group, element, inputs: shape.0, outputs: shape.1, also: Vec::new(), batch, segments }
}

fn mixed(shape: (u32, u32), batch: &str, segments: &[(u32, u32)]) -> Point {
    Point {
        group: "other",
        element: Element::Bf16,
        inputs: shape.0,
        outputs: shape.1,
        also: Vec::new(),
        batch: batch.to_owned(),
        segments: segments.to_vec(),
    }
}

/// The 40 points of the comparison of public kernels.
pub(crate) fn table() -> Vec<Point> {
    let square = (4096, 4096);
    let bf16 = |shape, rank, rows, name| point("table", Element::Bf16, shape, rank, rows, name);
    let fp16 = |shape, rank, rows, name| point("table", Element::F16, shape, rank, rows, name);
    let mut points = Vec::new();
    points.extend([1, 4, 16, 32, 64, 128, 256].map(|rows| bf16(square, 16, rows, "distinct")));
    for name in ["uniform", "skewed", "identical"] {
        points.extend([16, 64, 256].map(|rows| bf16(square, 16, rows, name)));
    }
    points.extend([8, 32, 64, 128].map(|rank| bf16(square, rank, 32, "distinct")));
    points.push(bf16(square, 64, 64, "uniform"));
    let shapes = [
        (4096, 11008),
        (11008, 4096),
        (4096, 14336),
        (14336, 4096),
        (4096, 1024),
        (8192, 8192),
        (8192, 28672),
        (28672, 8192),
    ];
    points.extend(shapes.map(|shape| bf16(shape, 16, 32, "distinct")));
    points.extend([(4096, 14336), (14336, 4096), (8192, 8192), (28672, 8192)].map(|s| bf16(s, 64, 64, "uniform")));
    points.push(fp16(square, 16, 32, "distinct"));
    points.push(fp16(square, 16, 64, "uniform"));
    points.push(bf16(square, 16, 2048, "prefill4x512"));
    points.push(bf16(square, 16, 2048, "prefill1x2048"));
    points.push(bf16(square, 16, 4096, "prefill32x128"));
    points.push(bf16(square, 64, 2048, "prefill4x512"));
    points.push(bf16((4096, 14336), 16, 2048, "prefill4x512"));
    points
}

/// Points that the published comparison does not have: other widths, odd and mixed ranks, lopsided segments.
pub(crate) fn others() -> Vec<Point> {
    let bf16 = |shape, rank, rows, name| point("other", Element::Bf16, shape, rank, rows, name);
    let mut points = vec![
        bf16((2048, 8192), 16, 32, "distinct"),
        bf16((3072, 8192), 16, 32, "distinct"),
        bf16((12288, 12288), 16, 32, "distinct"),
        bf16((5120, 27648), 16, 32, "distinct"),
        bf16((1536, 8960), 16, 32, "distinct"),
        bf16((1536, 8960), 64, 64, "uniform"),
        bf16((5120, 5120), 16, 1, "distinct"),
        bf16((5120, 13824), 16, 48, "distinct"),
        bf16((4096, 4096), 16, 512, "distinct"),
        bf16((4096, 4096), 16, 512, "uniform"),
        bf16((4096, 4096), 16, 3, "identical"),
        bf16((4096, 4096), 5, 32, "distinct"),
        bf16((4096, 4096), 24, 32, "distinct"),
        bf16((4096, 4096), 100, 16, "distinct"),
        bf16((4096, 4096), 256, 8, "distinct"),
        bf16((4096, 4096), 16, 100, "skewed"),
        bf16((3072, 3072), 32, 1000, "prefill4x250"),
    ];
    let cycle: Vec<(u32, u32)> = [8, 64, 128].into_iter().cycle().take(30).map(|rank| (1, rank)).collect();
    points.push(mixed((4096, 4096), "30 rows of ranks 8+64+128", &cycle));
    points.push(mixed((4096, 11008), "30 rows of ranks 8+64+128", &cycle));
    let mut lopsided = vec![(200, 16)];
    lopsided.extend([(1, 16); 31]);
    points.push(mixed((4096, 4096), "one segment of 200 rows and 31 single rows, r16", &lopsided));
    let mut one_prefill = vec![(512, 16)];
    one_prefill.extend([(1, 16); 31]);
    points.push(mixed((4096, 4096), "one prefill of 512 rows and 31 single rows, r16", &one_prefill));
    let odd: Vec<(u32, u32)> = (1..=40).map(|n| (n % 4, 1 + n * 3)).collect();
    points.push(mixed((4096, 4096), "40 segments of 0 to 3 rows, ranks 4 to 121", &odd));
    for prompts in [&[(1024, 16)][..], &[(512, 64)]] {
        points.extend(LAUNCHES.map(|launch| beside_of(launch, &DECODES[0], prompts)));
    }
    points
}

/// Batches beside those that are published, for the sweeps that the plan's rules follow from: around the points where one
/// rule gives way to another.
pub(crate) fn neighbours() -> Vec<Point> {
    let bf16 = |shape, rank, rows, name| point("neighbour", Element::Bf16, shape, rank, rows, name);
    let mut points = Vec::new();
    for shape in [(5120, 5120), (6144, 6144), (8192, 8192), (5120, 13824), (11008, 4096), (14336, 4096)] {
        points.push(bf16(shape, 16, 1, "distinct"));
    }
    points.extend([2, 4, 6, 8].map(|rows| bf16((5120, 5120), 16, rows, "distinct")));
    points.push(bf16((5120, 5120), 32, 1, "distinct"));
    for shape in [(4096, 11008), (4096, 14336), (4096, 8192), (8192, 28672)] {
        points.extend([1, 2, 4].map(|rows| bf16(shape, 16, rows, "distinct")));
    }
    points.push(bf16((4096, 14336), 8, 1, "distinct"));
    points.push(bf16((4096, 14336), 32, 1, "distinct"));
    for shape in [(16384, 4096), (20480, 8192), (28672, 4096), (14336, 8192), (8192, 28672)] {
        points.push(bf16(shape, 64, 64, "uniform"));
    }
    points.push(bf16((28672, 8192), 32, 64, "uniform"));
    points.push(bf16((28672, 8192), 128, 64, "uniform"));
    points.push(bf16((28672, 8192), 64, 16, "uniform"));
    points.push(bf16((28672, 8192), 64, 144, "uniform"));
    for rank in [4, 8, 24, 40] {
        points.extend([16, 24, 32, 48, 64].map(|rows| bf16((4096, 4096), rank, rows, "distinct")));
    }
    points.push(bf16((2048, 8192), 8, 32, "distinct"));
    points.push(bf16((4096, 11008), 8, 32, "distinct"));
    points.push(bf16((11008, 4096), 8, 32, "distinct"));
    for (rows, single, rank) in
        [(256, 31, 16), (300, 31, 16), (400, 31, 16), (512, 7, 16), (512, 63, 16), (700, 31, 16), (512, 31, 64)]
    {
        let mut segments = vec![(rows, rank)];
        segments.extend(vec![(1, rank); single]);
        let batch = format!("one prefill of {rows} rows and {single} single rows, r{rank}");
        points.push(mixed((4096, 4096), &batch, &segments));
        if rows == 512 {
            points.push(mixed((4096, 14336), &batch, &segments));
        }
    }
    points.push(mixed((4096, 4096), "40 segments of 10 rows, r16", &[(10, 16); 40]));
    for (rows, single, rank) in [(20, 64, 16), (512, 3, 64)] {
        let segments = [vec![(rows, rank)], vec![(1, rank); single]].concat();
        points.push(mixed((4096, 4096), &format!("{rows} rows and {single} single rows, r{rank}"), &segments));
    }
    points.push(mixed(
        (4096, 4096),
        "4 prefills of 128 rows and 31 single rows, r16",
        &[vec![(128, 16); 4], vec![(1, 16); 31]].concat(),
    ));
    for (shape, rank, rows, name) in [
        ((3072, 3072), 32, 1000, "prefill5x200"),
        ((4096, 4096), 32, 1000, "prefill4x250"),
        ((3072, 3072), 48, 1000, "prefill4x250"),
        ((4096, 4096), 64, 2048, "prefill1x2048"),
        ((4096, 4096), 64, 4096, "prefill8x512"),
        ((4096, 4096), 64, 1024, "prefill2x512"),
        ((4096, 14336), 64, 2048, "prefill4x512"),
        ((14336, 4096), 64, 2048, "prefill4x512"),
        ((4096, 4096), 128, 2048, "prefill4x512"),
        ((4096, 4096), 128, 1024, "prefill2x512"),
        ((4096, 4096), 64, 512, "prefill1x512"),
        ((4096, 14336), 128, 2048, "prefill4x512"),
        ((4096, 4096), 256, 2048, "prefill4x512"),
        ((4096, 4096), 32, 2048, "prefill4x512"),
        // For racecheck, which holds a warp that waits for its cluster until those that copy wait, too: a ring that the shrink empties.
        ((1536, 1536), 64, 2048, "prefill4x512"),
    ] {
        points.push(bf16(shape, rank, rows, name));
    }
    points
}

/// Batches of prompts only, for the rules of theirs: one to eight of 64 to 2048 rows, ranks 8 to 128, other widths, and
/// projections that share x. Those that matter most come first.
pub(crate) fn prompts() -> Vec<Point> {
    let square = (4096, 4096);
    let mut batches: Vec<(String, Vec<u32>)> = Vec::new();
    for (count, lengths) in [
        (1, &[512, 128, 1024, 256, 64, 2048, 200, 400, 700][..]),
        (2, &[512, 128, 256, 1024]),
        (4, &[128, 512, 64, 250]),
        (8, &[64, 128, 512]),
    ] {
        batches.extend(lengths.iter().map(|&rows| (format!("prefill{count}x{rows}"), vec![rows; count])));
    }
    batches.push(("prefill512+64".to_owned(), vec![512, 64]));
    batches.push(("prefill1024+128+32".to_owned(), vec![1024, 128, 32]));
    let point = |(inputs, outputs): (u32, u32), also: &[u32], rank: u32, (name, lengths): &(String, Vec<u32>)| Point {
        group: "prompt",
        element: Element::Bf16,
        inputs,
        outputs,
        also: also.to_vec(),
        batch: format!("r{rank} {name}"),
        segments: lengths.iter().map(|&rows| (rows, rank)).collect(),
    };
    let some: Vec<_> = ["prefill1x512", "prefill1x128", "prefill2x256", "prefill1x2048", "prefill4x512"]
        .iter()
        .filter_map(|name| batches.iter().find(|(other, _)| other == name))
        .collect();
    let mut points = Vec::new();
    for rank in [64, 16] {
        points.extend(batches.iter().map(|batch| point(square, &[], rank, batch)));
        let shared = [
            (square, &[4096, 4096][..]),
            ((4096, 11008), &[11008]),
            (square, &[1024, 1024]),
            ((4096, 14336), &[14336]),
        ];
        for (shape, also) in shared {
            points.extend(some[..4].iter().map(|batch| point(shape, also, rank, batch)));
        }
        for shape in [(11008, 4096), (4096, 14336), (14336, 4096), (5120, 5120)] {
            points.extend(some.iter().map(|batch| point(shape, &[], rank, batch)));
        }
    }
    for rank in [128, 32, 8] {
        points.extend(batches.iter().map(|batch| point(square, &[], rank, batch)));
    }
    points.extend(some.iter().map(|batch| point(square, &[], 256, batch)));
    for shape in [(11008, 4096), (14336, 4096), (4096, 14336)] {
        points.push(point(shape, &[], 32, some[0]));
    }
    // Lengths as they come, and ranks that differ.
    let lengths = [37, 411, 129, 705, 53];
    for rank in [16, 32, 64, 128] {
        points.push(mixed(square, &format!("r{rank} prefill lengths"), &lengths.map(|rows| (rows, rank))));
    }
    points.push(mixed(square, "r8+64 prefill4x256", &[(256, 8), (256, 64), (256, 8), (256, 64)]));
    points.push(mixed(square, "r16+64 prefill lengths", &[(411, 16), (129, 64), (705, 16), (53, 64)]));
    // Several rounds of groups that differ, the longest last but one as they come.
    let rounds = [(705, 8), (1200, 16), (53, 64), (960, 32), (411, 64), (300, 16)];
    for (outputs, also) in [(4096, &[][..]), (4096, &[1024, 1024]), (14336, &[14336])] {
        points.push(Point {
            also: also.to_vec(),
            ..mixed((4096, outputs), "r8+16+32+64 prefill lengths in rounds", &rounds)
        });
    }
    points.push(mixed(square, "r8+16 prefill lengths in rounds", &rounds.map(|(rows, rank)| (rows, rank.min(16)))));
    points
}

/// Segments of a decode step whose ranks differ, few or much, and of one rank.
const DECODES: [(&str, &[(u32, u32)]); 3] = [
    (
        "r8 to 128",
        &[
            (4, 128),
            (3, 128),
            (1, 128),
            (1, 128),
            (1, 128),
            (1, 128),
            (3, 64),
            (3, 64),
            (2, 64),
            (1, 64),
            (1, 64),
            (4, 32),
            (4, 32),
            (2, 32),
            (4, 16),
            (1, 16),
            (4, 8),
            (4, 8),
            (2, 8),
            (2, 8),
            (1, 8),
            (1, 8),
            (1, 8),
            (1, 8),
        ],
    ),
    ("r8 to 64", &[(1, 64), (2, 64), (4, 32), (1, 32), (3, 16), (1, 16), (2, 16), (4, 8), (1, 8), (1, 8)]),
    ("r16", &[(1, 16); 24]),
];

/// The launches of a layer of Llama-2-7B: inputs, and outputs of each projection.
const LAUNCHES: [(u32, &[u32]); 4] =
    [(4096, &[4096, 4096, 4096]), (4096, &[4096]), (4096, &[11008, 11008]), (11008, &[4096])];

/// Prompts beside decode rows, as steps of an engine have them, and decode rows alone.
pub(crate) fn beside() -> Vec<Point> {
    let prompts: [&[(u32, u32)]; 15] = [
        &[],
        &[(64, 64)],
        &[(128, 128)],
        &[(256, 16)],
        &[(512, 32)],
        &[(512, 64)],
        &[(512, 128)],
        &[(1024, 16)],
        &[(1024, 128)],
        &[(2048, 16)],
        &[(256, 64), (64, 8)],
        &[(512, 16), (128, 8)],
        &[(256, 16), (256, 32), (256, 64)],
        &[(200, 64), (100, 8), (50, 128)],
        &[(700, 32), (900, 64)],
    ];
    let mut points = Vec::new();
    for (decode, prompts) in DECODES.iter().flat_map(|decode| prompts.iter().map(move |prompts| (decode, prompts))) {
        if decode.0 != "r16" || prompts.iter().all(|&(_, rank)| rank == 16) {
            points.extend(LAUNCHES.map(|launch| beside_of(launch, decode, prompts)));
        }
    }
    points
}

fn beside_of(
    (inputs, outputs): (u32, &[u32]),
    (name, decode): &(&str, &[(u32, u32)]),
    prompts: &[(u32, u32)],
) -> Point {
    let named: Vec<String> = prompts.iter().map(|(rows, rank)| format!("{rows}r{rank}")).collect();
    let batch = match named.is_empty() {
        true => format!("decode rows of {name}"),
        false => format!("{} beside decode rows of {name}", named.join("+")),
    };
    let segments: Vec<_> = decode.iter().chain(prompts).copied().collect();
    Point { also: outputs[1..].to_vec(), ..mixed((inputs, outputs[0]), &batch, &segments) }
}

/// The batches of Punica's figures 7 to 9: 1 to 64 rows, four popularities; the projection of figure 8 at rank 16 and a
/// square one at the ranks of figure 9.
pub(crate) fn figures() -> Vec<Point> {
    let mut points = Vec::new();
    for (shape, rank) in
        [((4096, 11008), 16), ((4096, 4096), 8), ((4096, 4096), 16), ((4096, 4096), 32), ((4096, 4096), 64)]
    {
        for name in ["distinct", "uniform", "skewed", "identical"] {
            for rows in [1, 2, 4, 8, 16, 32, 48, 64] {
                points.push(point("figure", Element::F16, shape, rank, rows, name));
            }
        }
    }
    points
}
