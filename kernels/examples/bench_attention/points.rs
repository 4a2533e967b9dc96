//! The batches that are measured.

use aril_kernels::Element;
use aril_kernels::attention::layout::{AttentionShape, blocks_of};

/// One batch of one kernel.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    /// `decode` or `prefill`.
    pub(crate) kernel: &'static str,
    pub(crate) batch: String,
    pub(crate) shape: AttentionShape,
    /// (tokens before, new tokens) of each sequence; one new token in decode.
    pub(crate) sequences: Vec<(u32, u32)>,
    /// Whether an issue's target is judged by it.
    pub(crate) target: bool,
    /// q is drawn from ± this.
    pub(crate) q_scale: f32,
}

/// Scores with a standard deviation of about two: neither an average of all values nor one of them alone.
const Q_SCALE: f32 = 6.0;
/// Of about twelve, seventeen powers of two: the largest score often leads those before it by more than weights may grow.
const Q_SCALE_FAR: f32 = 36.0;

impl Point {
    pub(crate) fn name(&self) -> String {
        let AttentionShape { element, heads, kv_heads, head_dim } = self.shape;
        format!("{} {} {heads}/{kv_heads}×{head_dim} {}", self.kernel, element.name(), self.batch)
    }

    pub(crate) fn rows(&self) -> u32 {
        self.sequences.iter().map(|&(_, new)| new).sum()
    }

    /// (New tokens, tokens before) of each sequence.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (u32, u32)> + Clone {
        self.sequences.iter().map(|&(prefix, new)| (new, prefix))
    }

    /// KV blocks of all sequences.
    pub(crate) fn blocks(&self) -> u32 {
        self.sequences.iter().map(|&(prefix, new)| blocks_of(prefix + new)).sum()
    }

    /// Bytes of keys and values.
    pub(crate) fn kv_bytes(&self) -> u64 {
        u64::from(self.blocks()) * self.shape.kv_layout().block_bytes() as u64
    }
}

const fn shape(element: Element, heads: u32, kv_heads: u32, head_dim: u32) -> AttentionShape {
    AttentionShape { element, heads, kv_heads, head_dim }
}

fn decode(batch: &str, shape: AttentionShape, contexts: Vec<u32>) -> Point {
    let sequences = contexts.into_iter().map(|context| (context - 1, 1)).collect();
    Point { kernel: "decode", batch: batch.to_owned(), shape, sequences, target: false, q_scale: Q_SCALE }
}

fn prefill(batch: &str, shape: AttentionShape, sequences: Vec<(u32, u32)>) -> Point {
    Point { kernel: "prefill", batch: batch.to_owned(), shape, sequences, target: false, q_scale: Q_SCALE }
}

/// Llama-2-7B's heads.
const MHA: AttentionShape = shape(Element::Bf16, 32, 32, 128);
/// Llama-3.1-8B's.
const GQA: AttentionShape = shape(Element::Bf16, 32, 8, 128);
/// One of eight GPUs' part of Llama-3.1-70B.
const SHARD: AttentionShape = shape(Element::Bf16, 8, 1, 128);

/// Contexts from 16 to 4,096 in a geometric series, shuffled by a fixed stride: 32 of them.
fn ragged() -> Vec<u32> {
    let series: Vec<u32> = (0..32).map(|n| (16.0 * 256_f64.powf(f64::from(n) / 31.0)).round() as u32).collect();
    (0..32).map(|n| series[n * 13 % 32]).collect()
}

/// So many contexts that differ by a factor of eight around their mean, shuffled by a fixed stride.
fn around(rows: u32, mean: f64) -> Vec<u32> {
    let context = |n: u32| (mean * 0.9 * 8_f64.powf(f64::from(n) / f64::from(rows - 1) - 0.5)).round() as u32;
    (0..rows).map(|n| context(n * 13 % rows)).collect()
}

pub(crate) fn all() -> Vec<Point> {
    let fp16 = |shape| AttentionShape { element: Element::F16, ..shape };
    let narrow = |shape| AttentionShape { head_dim: 64, ..shape };
    let mut lopsided = vec![65_536];
    lopsided.extend([100; 31]);
    let mut points = vec![
        Point { target: true, ..decode("32 × 2048", MHA, vec![2048; 32]) },
        decode("32 × 2048", fp16(MHA), vec![2048; 32]),
        decode("32 × 2048", GQA, vec![2048; 32]),
        decode("32 × 2048", SHARD, vec![2048; 32]),
        decode("32 × 2048", narrow(MHA), vec![2048; 32]),
        decode("32 × 1024", MHA, vec![1024; 32]),
        decode("32 ragged, 16 to 4096", MHA, ragged()),
        decode("32 ragged, 16 to 4096", GQA, ragged()),
        decode("1 × 32768", MHA, vec![32_768]),
        decode("1 × 32768", GQA, vec![32_768]),
        decode("1 × 32768", SHARD, vec![32_768]),
        decode("1 × 1024", MHA, vec![1024]),
        decode("1 × 1024", GQA, vec![1024]),
        decode("8 × 1024", MHA, vec![1024; 8]),
        decode("one of 65536, 31 of 100", GQA, lopsided),
        decode("256 × 512", MHA, vec![512; 256]),
        decode("256 × 512", GQA, vec![512; 256]),
        decode("256 × 77", GQA, vec![77; 256]),
        decode("48 × 48", MHA, vec![48; 48]),
        decode("64 × 64", MHA, vec![64; 64]),
        decode("160 × 48", GQA, vec![48; 160]),
        decode("128 around 50", MHA, around(128, 50.0)),
        decode("512 around 26", MHA, around(512, 26.0)),
        decode("512 around 50", MHA, around(512, 50.0)),
        decode("512 around 90", MHA, around(512, 90.0)),
        decode("256 around 50", GQA, around(256, 50.0)),
        decode("512 around 90", GQA, around(512, 90.0)),
        decode("128 around 300", MHA, around(128, 300.0)),
        decode("64 around 1000", MHA, around(64, 1000.0)),
        decode("448 around 50", SHARD, around(448, 50.0)),
        decode("512 × 16", MHA, vec![16; 512]),
        decode("512 × 33", MHA, vec![33; 512]),
        decode("40 × 16", MHA, vec![16; 40]),
        decode("300 × 90", MHA, vec![90; 300]),
        decode("200 × 120", GQA, vec![120; 200]),
        decode("100 × 200", GQA, vec![200; 100]),
        decode("96 × 300", GQA, vec![300; 96]),
        decode("48 around 60", MHA, around(48, 60.0)),
        decode("256 around 70", MHA, around(256, 70.0)),
        decode("256 around 140", MHA, around(256, 140.0)),
        decode("160 around 90", GQA, around(160, 90.0)),
        decode("300 around 200", GQA, around(300, 200.0)),
        decode("512 around 150", SHARD, around(512, 150.0)),
        Point { target: true, ..prefill("4096", MHA, vec![(0, 4096)]) },
        prefill("4096", fp16(MHA), vec![(0, 4096)]),
        prefill("4096", GQA, vec![(0, 4096)]),
        prefill("4096", SHARD, vec![(0, 4096)]),
        prefill("4096", narrow(MHA), vec![(0, 4096)]),
        prefill("512 after 8192", MHA, vec![(8192, 512)]),
        prefill("512 after 8192", GQA, vec![(8192, 512)]),
        prefill("2048", MHA, vec![(0, 2048)]),
        prefill("512", MHA, vec![(0, 512)]),
        prefill("32 of 128", MHA, vec![(0, 128); 32]),
        prefill("64 of 30", GQA, vec![(0, 30); 64]),
        prefill("16384", MHA, vec![(0, 16_384)]),
    ];
    for (shape, chunks) in [
        (MHA, &[(16, 2048), (16, 32_768), (64, 8192), (256, 8192), (256, 32_768)][..]),
        (
            GQA,
            &[
                (16, 512),
                (16, 2048),
                (16, 8192),
                (16, 32_768),
                (32, 8192),
                (64, 2048),
                (64, 8192),
                (64, 32_768),
                (128, 8192),
                (256, 1024),
                (256, 2048),
                (256, 8192),
                (256, 32_768),
            ],
        ),
        (SHARD, &[(16, 2048), (16, 32_768), (64, 8192), (256, 2048), (256, 32_768), (512, 8192)]),
    ] {
        points.extend(
            chunks.iter().map(|&(new, before)| prefill(&format!("{new} after {before}"), shape, vec![(before, new)])),
        );
    }
    points.push(prefill("8 of 32 after 4096", GQA, vec![(4096, 32); 8]));
    points.push(prefill(
        "8 ragged chunks",
        GQA,
        vec![(0, 700), (1000, 512), (17, 1), (300, 33), (0, 129), (5000, 64), (0, 2000), (64, 64)],
    ));
    points
}

/// Small batches that are checked in full and not timed.
pub(crate) fn checks() -> Vec<Point> {
    let mut points = Vec::new();
    for element in Element::ALL {
        for (heads, kv_heads) in [(4, 4), (8, 2), (7, 1), (8, 1), (12, 1)] {
            for head_dim in [64, 128] {
                let shape = shape(element, heads, kv_heads, head_dim);
                points.push(decode("ragged", shape, vec![1, 2, 15, 16, 17, 31, 300, 1000, 33, 5000, 16]));
                points.push(decode("one long", shape, vec![20_000]));
                points.push(prefill(
                    "ragged",
                    shape,
                    vec![(0, 1), (0, 63), (1, 64), (15, 65), (62, 3), (333, 129), (16, 128), (64, 257), (1000, 17)],
                ));
                points.push(prefill("few after many", shape, vec![(4000, 33), (3000, 1), (0, 5), (700, 130)]));
                let far = |point: Point| Point { q_scale: Q_SCALE_FAR, ..point };
                points.push(far(decode("scores far apart", shape, vec![16, 300, 1000])));
                points.push(far(prefill("scores far apart", shape, vec![(1000, 33), (62, 3), (0, 130)])));
            }
        }
    }
    points
}
