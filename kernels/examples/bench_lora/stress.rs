//! The same launch many times, in surroundings that change, and every result compared to the bit.
//!
//! A kernel that reads what is not there yet gives another result when memory is slower, when neighbours run, or when
//! shared memory holds something else. Each launch finds shared memory full of a pattern, y as before the first one, the
//! L2 warm, cold or half of either, and begins beside a kernel that ends late or behind one that is done.

use aril_kernels::Error;
use aril_kernels::gpu::Overlap;
use aril_kernels::lora::layout::{AdapterLayout, ProjectionShape};
use aril_kernels::lora::plan::{Plan, Site, Tuning};
use aril_kernels::program::{Compiler, Grid};
use cudarc::driver::sys;
use serde_json::{Value, json};

use crate::bench::{Bench, driver, matrix};
use crate::inputs::{Inputs, packed};
use crate::points::Point;

/// As `Poison` in `stress.cu`.
#[repr(C)]
struct Poison {
    bytes: u32,
    word: u32,
}

/// As `Differences` in `stress.cu`.
#[repr(C)]
struct Differences {
    a: u64,
    b: u64,
    count: u64,
    differing: u64,
    blocks: u32,
    reserved: u32,
}

/// Patterns of shared memory: NaN in every format, zero, and numbers that would show in a sum.
const WORDS: [u32; 4] = [0xffff_ffff, 0, 0x7fc1_7fc1, 0x4500_4500];

/// Launches the pair `repeats` times; counts launches whose y differs from the first one's.
pub(crate) fn stress(
    bench: &mut Bench,
    compiler: &Compiler,
    point: &Point,
    tuning: Tuning,
    repeats: usize,
) -> Result<Value, Error> {
    let poison = compiler.kernel("stress.cu", Vec::new(), "poison_shared")?;
    let compare = compiler.kernel("stress.cu", Vec::new(), "count_differences")?;
    let inputs = Inputs::draw(point, 11);
    let layout = AdapterLayout::new(&[ProjectionShape { inputs: point.inputs, outputs: point.outputs }])?;
    let (packed, mut segments) = packed(std::slice::from_ref(&inputs), point, &layout)?;
    let stream = bench.stream.clone();
    let weights = stream.clone_htod(&packed).map_err(driver("uploading adapters"))?;
    let base = bench.address(&weights);
    segments.iter_mut().for_each(|segment| segment.weights += base);
    let site = Site::new(point.element, layout.places())?;
    let chip = bench.gpu.chip();
    let plan = Plan::new(&site, &segments, chip, tuning)?;
    let loaded = bench.kernels.load(&stream, &plan, plan.jobs().len() as u32)?;
    let x = stream.clone_htod(&inputs.x).map_err(driver("uploading x"))?;
    let before = stream.clone_htod(&inputs.y).map_err(driver("uploading y"))?;
    let y = bench.gpu.allocate::<u16>(&stream, inputs.y.len(), "y")?;
    let first = bench.gpu.allocate::<u16>(&stream, inputs.y.len(), "the first y")?;
    let differing = stream.clone_htod(&vec![0_u32; repeats]).map_err(driver("counting differences"))?;
    let (y_address, first_address, before_address) = (bench.address(&y), bench.address(&first), bench.address(&before));
    let counters = bench.address(&differing);
    let bytes = inputs.y.len() * 2;
    let x_matrix = matrix(&stream, &x, point.rows(), point.inputs);
    let y_matrix = [matrix(&stream, &y, point.rows(), point.outputs)];
    let copy = |to: u64, from: u64| {
        // SAFETY: both buffers are `bytes` long and live until the end of this function.
        unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, stream.cu_stream()) }.result().map_err(driver("copying y"))
    };
    for repeat in 0..repeats {
        let word = WORDS[repeat % WORDS.len()];
        let shared_bytes = chip.shared_bytes_block_max;
        let grid = Grid { blocks: chip.multiprocessors, threads: 256, shared_bytes };
        // SAFETY: the kernel writes its own shared memory.
        unsafe { poison.launch(&stream, grid, &Poison { bytes: shared_bytes, word }, Overlap::None)? };
        if repeat % 3 == 1 {
            bench.stopwatch.sweep()?;
        }
        copy(y_address, before_address)?;
        if repeat % 5 >= 3 {
            // x is copied to itself by a kernel that ends late: the launch's blocks are there before x may be read.
            let whole = inputs.x.len() * 2 / 16 * 16;
            // SAFETY: x is that long.
            unsafe { bench.stopwatch.copy_uncooperatively(x_matrix.address, x_matrix.address, whole)? };
        }
        let overlap = if repeat % 2 == 0 { Overlap::Programmatic } else { Overlap::None };
        // SAFETY: all buffers live until the synchronisation below; one stream.
        unsafe { loaded.pair(&stream, &site, &mut bench.inbox, x_matrix, &y_matrix, overlap)? };
        if repeat == 0 {
            copy(first_address, y_address)?;
        }
        let blocks = chip.multiprocessors * 4;
        let arguments = Differences {
            a: y_address,
            b: first_address,
            count: (bytes / 16) as u64,
            differing: counters + repeat as u64 * 4,
            blocks,
            reserved: 0,
        };
        let grid = Grid { blocks, threads: 256, shared_bytes: 0 };
        // SAFETY: as above; the counter is one of `repeats`.
        unsafe { compare.launch(&stream, grid, &arguments, Overlap::None)? };
    }
    stream.synchronize().map_err(driver("running a stress test"))?;
    let counts = stream.clone_dtoh(&differing).map_err(driver("downloading counts"))?;
    let other = counts.iter().filter(|&&count| count > 0).count();
    let result = stream.clone_dtoh(&first).map_err(driver("downloading y"))?;
    let expected = inputs.expected(point, 0.75);
    let decoded = result.iter().map(|&bits| f64::from(point.element.decode(bits)));
    let deviation = aril_kernels::reference::lora::Deviation::of(decoded, &expected);
    println!(
        "{}: {repeats} launches as {:?}, {} blocks in clusters of {}: {other} differ from the first, whose relative norm is {:.1e}",
        point.name(),
        plan.variant().rows,
        plan.jobs().len(),
        plan.cluster(),
        deviation.relative_norm,
    );
    let correct = other == 0 && deviation.within(1e-2, 0.15);
    Ok(json!({ "point": point.name(), "launches": repeats, "differing": other, "correct": correct }))
}
