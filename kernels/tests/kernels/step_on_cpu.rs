//! The small kernels of a Llama step on the CPU shim against float64.

use std::sync::OnceLock;

use aril_kernels::Element;
use aril_kernels::reference::lora::Deviation;
use aril_kernels::reference::step::{gated, largest, norm, rotate};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::shim::{Around, Buffer, Case, Pointer, Program, Runner};

fn element(format: Element) -> (&'static str, String) {
    ("ELEMENT", format.device_name().to_owned())
}

fn rms_norm(format: Element, threads: usize, vectors: usize) -> Program {
    let defines = vec![element(format), ("THREADS", threads.to_string()), ("VECTORS", vectors.to_string())];
    Program { source: "norm.cu", defines, kernel: "rms_norm" }
}

fn rope(format: Element, head: u32) -> Program {
    Program { source: "rope.cu", defines: vec![element(format), ("HEAD", head.to_string())], kernel: "rope_and_append" }
}

fn activation(format: Element) -> Program {
    Program { source: "activation.cu", defines: vec![element(format)], kernel: "silu_mul" }
}

fn sampling(format: Element, kernel: &'static str) -> Program {
    Program { source: "sampling.cu", defines: vec![element(format)], kernel }
}

fn embedding() -> Program {
    Program { source: "embedding.cu", defines: Vec::new(), kernel: "embed" }
}

fn runner() -> Option<&'static Runner> {
    static RUNNER: OnceLock<Option<Runner>> = OnceLock::new();
    let programs = || {
        let each = Element::ALL.into_iter().flat_map(|format| {
            [
                rms_norm(format, 256, 1),
                rms_norm(format, 256, 2),
                rms_norm(format, 512, 2),
                rms_norm(format, 1024, 2),
                rope(format, 64),
                rope(format, 128),
                activation(format),
                sampling(format, "largest_of_parts"),
                sampling(format, "largest_of_rows"),
            ]
        });
        each.chain([embedding()]).collect()
    };
    RUNNER.get_or_init(|| Runner::build("step", programs(), |_, source| source.to_owned())).as_ref()
}

/// Words of 16 bits as they lie in memory.
fn halves(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn read(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

struct Launch {
    program: Program,
    blocks: usize,
    threads: usize,
    shared_bytes: usize,
    /// Content, whether the preceding kernel wrote it, whether it is wanted back; `None`: a null pointer.
    buffers: Vec<Option<(Vec<u8>, bool, bool)>>,
    /// What follows the pointers in the arguments.
    tail: Vec<u8>,
}

impl Launch {
    fn run(self, runner: &Runner) -> Vec<Vec<u8>> {
        let mut buffers = Vec::new();
        let mut pointers = Vec::new();
        for (index, buffer) in self.buffers.iter().enumerate() {
            let Some((content, hidden, output)) = buffer.clone() else { continue };
            pointers.push(Pointer { holder: None, offset: 8 * index, target: buffers.len(), addend: 0 });
            buffers.push(Buffer { content, hidden, output });
        }
        let mut arguments = vec![0; 8 * self.buffers.len()];
        arguments.extend(self.tail);
        let Launch { program, blocks, threads, shared_bytes, .. } = self;
        let what = format!("{program:?}");
        let case = Case {
            program,
            blocks,
            threads,
            shared_bytes,
            cluster: 1,
            seed: 5,
            around: Around::default(),
            buffers,
            pointers,
            arguments,
        };
        runner.run(&case).unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}

struct Draw(ChaCha8Rng, Element);

impl Draw {
    fn values(&mut self, count: usize, scale: f32) -> Vec<u16> {
        (0..count).map(|_| self.1.encode((self.0.random::<f32>() * 2.0 - 1.0) * scale)).collect()
    }
}

fn wide(format: Element, bits: &[u16]) -> Vec<f64> {
    bits.iter().map(|&bits| f64::from(format.decode(bits))).collect()
}

fn close(format: Element, result: &[u16], expected: &[f64], what: &str) {
    let deviation = Deviation::of(result.iter().map(|&bits| f64::from(format.decode(bits))), expected);
    let bound = if format == Element::Bf16 { 4e-3 } else { 6e-4 };
    assert!(deviation.relative_norm < bound, "{what} {format:?}: {deviation:?}");
}

/// Each value is the expected one rounded once: fp32 on the way leaves very little more.
fn nearest(format: Element, result: &[u16], expected: &[f64], what: &str) {
    let round = |value: f64| format.decode(format.encode(value as f32));
    for (index, (&bits, &expected)) in result.iter().zip(expected).enumerate() {
        // The smallest sigmoid of fp32 is 2^-128; below, there is zero.
        let left = expected.abs() * 2_f64.powi(-18) + 1e-36;
        let (value, least, most) = (format.decode(bits), round(expected - left), round(expected + left));
        assert!((least..=most).contains(&value), "{what} {format:?}: [{index}] is {value}, not {expected}");
    }
}

#[test]
fn the_norm_adds_what_came_before_and_leaves_the_delta_zero() {
    let Some(runner) = runner() else { return };
    for format in Element::ALL {
        // The widest of each block of threads, and such as leave threads without a vector, or with one of two.
        for (width, threads, vectors, with_y, with_delta, slots) in [
            (72, 256, 1, false, false, None),
            (2048, 256, 1, true, false, None),
            (2056, 256, 2, true, true, Some([1_i32, -1, 0])),
            (5120, 512, 2, true, true, None),
            (8192, 512, 2, true, false, Some([-1, 0, 1])),
            (8200, 1024, 2, false, false, None),
            (16_384, 1024, 2, true, true, Some([1, 0, -1])),
        ] {
            let mut draw = Draw(ChaCha8Rng::seed_from_u64(1), format);
            // Where ε is nothing, where it is about the mean of squares, and where it is nearly all.
            let scales = [2.0, 4e-3, 6e-4];
            let rows = scales.len();
            let [h, y, d] = [(); 3].map(|()| scales.map(|scale| draw.values(width, scale)).concat());
            let weight = draw.values(width, 1.5);
            let mut tail = words(&[width as u32 / 8]);
            tail.extend(1e-5_f32.to_le_bytes());
            let poison = vec![0x7fff_u16; rows * width];
            let outputs = Launch {
                program: rms_norm(format, threads, vectors),
                blocks: rows,
                threads,
                shared_bytes: (threads + 32) * 4,
                buffers: vec![
                    Some((halves(&h), true, true)),
                    with_y.then(|| (halves(&y), true, false)),
                    with_delta.then(|| (halves(&d), true, true)),
                    Some((halves(&weight), false, false)),
                    Some((halves(&poison), false, true)),
                    slots.map(|slots| (words(&slots.map(i32::cast_unsigned)), false, false)),
                ],
                tail,
            }
            .run(runner);
            let (stored, out) = (read(&outputs[0]), read(outputs.last().expect("the result")));
            if with_delta {
                assert!(outputs[1].iter().all(|&byte| byte == 0), "the delta is zero again");
            }
            let weight: Vec<f32> = weight.iter().map(|&bits| format.decode(bits)).collect();
            for row in 0..rows {
                let line = row * width..(row + 1) * width;
                let mut sum = wide(format, &h[line.clone()]);
                for (part, present) in [(&y, with_y), (&d, with_delta)] {
                    if present {
                        sum.iter_mut().zip(wide(format, &part[line.clone()])).for_each(|(sum, part)| *sum += part);
                    }
                }
                let round = |value: f64| f64::from(format.decode(format.encode(value as f32)));
                let (expected, normalised) = norm(&sum, &weight, 1e-5, round);
                let what = format!("row {row} of width {width}");
                nearest(format, &stored[line.clone()], &expected, &format!("{what}, residual"));
                let slot = slots.map_or(row as i32, |slots| slots[row]);
                if let Ok(slot) = usize::try_from(slot) {
                    nearest(format, &out[slot * width..(slot + 1) * width], &normalised, &what);
                }
            }
            if slots.is_some() {
                assert!(out[2 * width..].iter().all(|&bits| bits == 0x7fff), "a row without a slot is not written");
            }
        }
    }
}

#[test]
fn rotary_embedding_and_append_put_each_row_where_its_slot_says() {
    let Some(runner) = runner() else { return };
    for format in Element::ALL {
        for (head, heads, kv_heads, with_delta) in [(64, 3, 1, true), (128, 4, 2, false)] {
            let mut draw = Draw(ChaCha8Rng::seed_from_u64(2), format);
            let (rows, contexts, blocks) = (3, 40, 3);
            let all = heads + 2 * kv_heads;
            let [y, d] = [(); 2].map(|()| draw.values(rows * all * head, 2.0));
            let table: Vec<f32> = (0..contexts * head).map(|_| draw.0.random::<f32>() * 2.0 - 1.0).collect();
            let positions = [39_u32, 0, 7];
            // The last row goes nowhere.
            let slots = [33_i32, 2, -1];
            let cache = vec![0x7fff_u16; blocks * kv_heads * 2 * 16 * head];
            let blocks_row = (all * head / 8).div_ceil(256);
            let outputs = Launch {
                program: rope(format, head as u32),
                blocks: rows * blocks_row,
                threads: 256,
                shared_bytes: 0,
                buffers: vec![
                    Some((halves(&y), true, false)),
                    with_delta.then(|| (halves(&d), true, true)),
                    Some((halves(&vec![0x7fff; rows * heads * head]), false, true)),
                    Some((halves(&cache), false, true)),
                    Some((table.iter().flat_map(|value| value.to_le_bytes()).collect(), false, false)),
                    Some((words(&positions), false, false)),
                    Some((words(&slots.map(i32::cast_unsigned)), false, false)),
                ],
                tail: words(&[heads as u32, kv_heads as u32, blocks_row as u32, 0]),
            }
            .run(runner);
            let mut outputs = outputs.into_iter();
            if with_delta {
                let delta = outputs.next().expect("the delta");
                assert!(delta.iter().all(|&byte| byte == 0), "the delta is zero again");
            }
            let q = read(&outputs.next().expect("q"));
            let kv = read(&outputs.next().expect("the cache"));
            let mut written = 0;
            for row in 0..rows {
                let turns: Vec<(f64, f64)> = table[positions[row] as usize * head..][..head]
                    .chunks_exact(2)
                    .map(|pair| (f64::from(pair[0]), f64::from(pair[1])))
                    .collect();
                for index in 0..all {
                    let at = (row * all + index) * head;
                    let mut values = wide(format, &y[at..at + head]);
                    if with_delta {
                        values.iter_mut().zip(wide(format, &d[at..at + head])).for_each(|(value, d)| *value += d);
                    }
                    let expected = if index < heads + kv_heads { rotate(&values, &turns) } else { values };
                    if index < heads {
                        close(format, &q[(row * heads + index) * head..][..head], &expected, "q");
                    } else if let Ok(slot) = usize::try_from(slots[row]) {
                        let (kv_head, value) = ((index - heads) % kv_heads, (index - heads) / kv_heads);
                        let plane = (slot / 16 * kv_heads + kv_head) * 2 + value;
                        close(format, &kv[(plane * 16 + slot % 16) * head..][..head], &expected, "cache");
                        written += head;
                    }
                }
            }
            assert_eq!(kv.iter().filter(|&&bits| bits != 0x7fff).count(), written, "nothing else is written");
        }
    }
}

#[test]
fn the_activation_gates_and_leaves_the_delta_zero() {
    let Some(runner) = runner() else { return };
    for format in Element::ALL {
        for with_delta in [false, true] {
            let mut draw = Draw(ChaCha8Rng::seed_from_u64(3), format);
            // Of gate and up: where e^-gate is small, large, and more than fp32 has.
            let scales = [(6.0, 6.0), (0.1, 6.0), (25.0, 6.0), (100.0, 2.0), (2e4, 1.0)];
            let (rows, width) = (scales.len(), 456);
            let [y, d] = [(); 2].map(|()| {
                let row = |(gate, up)| [draw.values(width, gate), draw.values(width, up)].concat();
                scales.map(row).concat()
            });
            let outputs = Launch {
                program: activation(format),
                blocks: (rows * width / 8).div_ceil(256),
                threads: 256,
                shared_bytes: 0,
                buffers: vec![
                    Some((halves(&y), true, false)),
                    with_delta.then(|| (halves(&d), true, true)),
                    Some((halves(&vec![0x7fff; rows * width]), false, true)),
                ],
                tail: words(&[rows as u32, width as u32 / 8]),
            }
            .run(runner);
            assert!(!with_delta || outputs[0].iter().all(|&byte| byte == 0), "the delta is zero again");
            let out = read(outputs.last().expect("the result"));
            let sum = |at: usize| {
                let delta = if with_delta { f64::from(format.decode(d[at])) } else { 0.0 };
                f64::from(format.decode(y[at])) + delta
            };
            let expected: Vec<f64> = (0..rows * width)
                .map(|n| (n / width * 2 * width + n % width, n))
                .map(|(at, _)| gated(sum(at), sum(at + width)))
                .collect();
            nearest(format, &out, &expected, "activation");
        }
    }
}

#[test]
fn sampling_takes_the_lowest_index_of_the_largest_logit() {
    let Some(runner) = runner() else { return };
    for format in Element::ALL {
        let (rows, vocab, parts) = (6, 1000, 3);
        let mut draw = Draw(ChaCha8Rng::seed_from_u64(4), format);
        let mut logits = draw.values(rows * vocab, 4.0);
        let nan = 0x7fff;
        // Ties across parts; ties of zeros of both signs; all negative; a NaN; nothing but NaN.
        (logits[700], logits[333], logits[334]) = (format.encode(5.0), format.encode(5.0), format.encode(5.0));
        logits[vocab..2 * vocab].iter_mut().for_each(|bits| *bits |= 0x8000);
        logits[2 * vocab + 17] = nan;
        logits[3 * vocab..4 * vocab].fill(nan);
        logits[4 * vocab..5 * vocab]
            .iter_mut()
            .enumerate()
            .for_each(|(n, bits)| *bits = if n.is_multiple_of(3) { 0x8000 } else { 0 });
        logits[5 * vocab..].fill(format.encode(-1.5));
        let partial = vec![0xff_u8; rows * parts * 8];
        let tokens = words(&vec![u32::MAX; rows]);
        let launch = |kernel, blocks, partial: Vec<u8>| Launch {
            program: sampling(format, kernel),
            blocks,
            threads: 256,
            shared_bytes: 256 * 8,
            buffers: vec![
                Some((halves(&logits), true, false)),
                Some((partial, false, true)),
                Some((tokens.clone(), false, true)),
            ],
            tail: words(&[vocab as u32 / 8, parts as u32]),
        };
        let first = launch("largest_of_parts", rows * parts, partial).run(runner);
        let second = launch("largest_of_rows", rows, first[0].clone()).run(runner);
        for (row, token) in second[1].chunks_exact(4).enumerate() {
            let values: Vec<f32> = logits[row * vocab..(row + 1) * vocab].iter().map(|&b| format.decode(b)).collect();
            let token = u32::from_le_bytes([token[0], token[1], token[2], token[3]]);
            assert_eq!(token as usize, largest(&values), "{format:?}, row {row}");
        }
    }
}

#[test]
fn the_embedding_copies_each_token_s_row() {
    let Some(runner) = runner() else { return };
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(5), Element::Bf16);
    let (width, tokens) = (2104, [4_u32, 0, 6, 4]);
    let table = draw.values(7 * width, 1.0);
    let outputs = Launch {
        program: embedding(),
        blocks: tokens.len(),
        threads: 256,
        shared_bytes: 0,
        buffers: vec![
            Some((halves(&table), false, false)),
            Some((words(&tokens), true, false)),
            Some((halves(&vec![0; tokens.len() * width]), false, true)),
        ],
        tail: words(&[width as u32 / 8, 0]),
    }
    .run(runner);
    let expected: Vec<u16> =
        tokens.iter().flat_map(|&token| table[token as usize * width..][..width].to_vec()).collect();
    assert_eq!(read(&outputs[0]), expected);
}
