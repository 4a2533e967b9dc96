//! The measuring kernels on the CPU shim: a copy copies all, a fill fills all, and neither leaves its buffer.

use aril_kernels::Element;

use crate::shim::{Around, Buffer, Case, Pointer, Program, Runner};

fn program(kernel: &'static str) -> Program {
    Program { source: "memory.cu", defines: Vec::new(), kernel }
}

#[test]
fn a_copy_and_a_fill_reach_every_element_and_no_other() {
    let programs = vec![program("copy_vectors"), program("fill_bf16"), program("fill_f16")];
    let Some(runner) = Runner::build("memory", programs, |_, source| source.to_owned()) else { return };
    let pointer = |offset, target| Pointer { holder: None, offset, target, addend: 0 };
    let case = |kernel, blocks: u32, buffers, pointers, arguments| Case {
        program: program(kernel),
        blocks: blocks as usize,
        threads: 256,
        shared_bytes: 0,
        cluster: 1,
        seed: 3,
        around: Around::default(),
        buffers,
        pointers,
        arguments,
    };

    for (vectors, blocks) in [(1, 1_u32), (255, 2), (2600, 2)] {
        let content: Vec<u8> = (0..vectors * 16).map(|n| (n * 7 % 251) as u8).collect();
        let y = Buffer { content: vec![0xff; content.len()], hidden: false, output: true };
        let x = Buffer { content: content.clone(), hidden: false, output: false };
        let mut arguments = vec![0; 16];
        arguments.extend((vectors as u64).to_le_bytes());
        arguments.extend(blocks.to_le_bytes());
        let case = case("copy_vectors", blocks, vec![y, x], vec![pointer(0, 0), pointer(8, 1)], arguments);
        assert_eq!(runner.run(&case).expect("it runs"), [content], "{vectors} vectors");
    }

    for (element, kernel) in [(Element::Bf16, "fill_bf16"), (Element::F16, "fill_f16")] {
        let (words, scale) = (1000_u64, 0.25_f32);
        let buffer = Buffer { content: vec![0xff; words as usize * 4], hidden: false, output: true };
        let mut arguments = vec![0; 8];
        arguments.extend(words.to_le_bytes());
        arguments.extend(9_u64.to_le_bytes());
        arguments.extend(scale.to_le_bytes());
        arguments.extend(2_u32.to_le_bytes());
        let filled = runner.run(&case(kernel, 2, vec![buffer], vec![pointer(0, 0)], arguments)).expect("it runs");
        let values: Vec<f32> =
            filled[0].chunks_exact(2).map(|pair| element.decode(u16::from_le_bytes([pair[0], pair[1]]))).collect();
        assert!(values.iter().all(|value| value.abs() <= scale), "all written, none beyond the scale");
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let distinct: std::collections::BTreeSet<u32> = values.iter().map(|value| value.to_bits()).collect();
        assert!(mean.abs() < 0.02 && distinct.len() > 200, "mean {mean}, {} values", distinct.len());
    }
}

#[test]
fn differences_are_counted_each_once_and_shared_memory_is_full_of_the_pattern() {
    let program = |kernel| Program { source: "stress.cu", defines: Vec::new(), kernel };
    let programs = vec![program("count_differences"), program("poison_shared")];
    // The pattern leaves the block through a store that is there for this test alone.
    let plant = |_: &Program, source: &str| {
        source.replacen(
            "  for (u32 n = thread_index(); n < args.bytes / 4; n += 256) words[n] = args.word;\n",
            "  for (u32 n = thread_index(); n < args.bytes / 4; n += 256) words[n] = args.word;\n  block_barrier();\n  for (u32 n = thread_index(); n < args.bytes / 4; n += 256) if (words[n] != args.word) fail(\"not filled\");\n",
            1,
        )
    };
    let Some(runner) = Runner::build("stress", programs, plant) else { return };
    let pointer = |offset, target| Pointer { holder: None, offset, target, addend: 0 };
    let vectors = 1300_usize;
    let a: Vec<u8> = (0..vectors * 16).map(|n| (n * 11 % 253) as u8).collect();
    let mut b = a.clone();
    for (vector, byte) in [(0, 0), (255, 3), (700, 9), (700, 12), (1299, 15)] {
        b[vector * 16 + byte] ^= 1;
    }
    let input = |content: &[u8]| Buffer { content: content.to_vec(), hidden: false, output: false };
    let mut arguments = vec![0; 16];
    arguments.extend((vectors as u64).to_le_bytes());
    arguments.extend([0; 8]);
    arguments.extend(2_u32.to_le_bytes());
    arguments.extend([0; 4]);
    let case = Case {
        program: program("count_differences"),
        blocks: 2,
        threads: 256,
        shared_bytes: 0,
        cluster: 1,
        seed: 5,
        around: Around::default(),
        buffers: vec![input(&a), input(&b), Buffer { content: vec![0; 4], hidden: false, output: true }],
        pointers: vec![pointer(0, 0), pointer(8, 1), pointer(24, 2)],
        arguments,
    };
    assert_eq!(runner.run(&case).expect("it runs"), [4_u32.to_le_bytes().to_vec()], "four vectors differ");
    let case = Case {
        program: program("poison_shared"),
        blocks: 3,
        threads: 256,
        shared_bytes: 4096,
        cluster: 1,
        seed: 6,
        around: Around::default(),
        buffers: Vec::new(),
        pointers: Vec::new(),
        arguments: [4096_u32, 0x7fc1_7fc1].iter().flat_map(|word| word.to_le_bytes()).collect(),
    };
    runner.run(&case).expect("every word holds the pattern");
}
