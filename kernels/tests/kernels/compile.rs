//! The real NVRTC, without a GPU: every kernel compiles, and fits the multiprocessor as its variant was designed to.

use aril_kernels::Element;
use aril_kernels::attention;
use aril_kernels::baseline::{launch, merged};
use aril_kernels::compile::{self, Cubin, Unit};
use aril_kernels::gemm::few_rows;
use aril_kernels::lora::variant::{RowTile, Variant};
use aril_kernels::source::Sources;

fn nvrtc_is_here() -> bool {
    match compile::nvrtc_version() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: {error}");
            false
        }
    }
}

/// Registers may differ by so many from the table's: NVRTC's patch versions do.
const REGISTERS_APART: u32 = 2;

/// What kernels occupy, in the order of their compilation, against `footprints/NAME.tsv`: launch bounds make a kernel that
/// needs more registers spill, so that a limit would see nothing. The table is of NVRTC 13.0; with `ARIL_FOOTPRINTS=write` in
/// the environment it is written anew.
struct Footprints {
    name: &'static str,
    found: Vec<(String, [u32; 3])>,
}

impl Footprints {
    fn new(name: &'static str) -> Footprints {
        Footprints { name, found: Vec::new() }
    }

    fn add(&mut self, unit: &Unit, cubin: &Cubin) {
        let defines: Vec<_> = unit.defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
        for footprint in &cubin.footprints {
            let kernel = format!("{} {} {} {}", unit.architecture, unit.source, footprint.kernel, defines.join(" "));
            let figures = [footprint.registers, footprint.spill_bytes, footprint.static_shared_bytes];
            self.found.push((kernel.trim_end().to_owned(), figures));
        }
    }

    /// That every kernel has the registers of the table, spills no more, and that the table has no others.
    fn judge(self) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/kernels/footprints")
            .join(self.name)
            .with_extension("tsv");
        if std::env::var("ARIL_FOOTPRINTS").is_ok_and(|value| value == "write") {
            let line = |(kernel, [registers, spill, shared]): &(String, [u32; 3])| {
                format!("{registers}\t{spill}\t{shared}\t{kernel}\n")
            };
            let lines: String = self.found.iter().map(line).collect();
            let head = "registers\tspilled bytes\tstatic shared bytes\tkernel\n";
            std::fs::write(&path, format!("{head}{lines}")).expect("the table is writable");
            return;
        }
        let version = compile::nvrtc_version().expect("it compiled");
        if version != (13, 0) {
            eprintln!("not compared: the table is of NVRTC 13.0, this is {version:?}");
            return;
        }
        let table = std::fs::read_to_string(&path).expect("the table of this test");
        let rows: Vec<_> = table.lines().skip(1).map(|line| line.splitn(4, '\t').collect::<Vec<_>>()).collect();
        assert_eq!(rows.len(), self.found.len(), "kernels in {}; ARIL_FOOTPRINTS=write makes it anew", path.display());
        let wrong: Vec<_> = rows.iter().zip(&self.found).filter(|(row, found)| !is_as_expected(row, found)).collect();
        assert!(wrong.is_empty(), "not as in {} (ARIL_FOOTPRINTS=write makes it anew): {wrong:#?}", path.display());
    }
}

fn is_as_expected(row: &[&str], (kernel, [registers, spill_bytes, shared_bytes]): &(String, [u32; 3])) -> bool {
    let figure = |column: usize| row[column].parse::<u32>().expect("a number in the table");
    row[3] == kernel
        && figure(0).abs_diff(*registers) <= REGISTERS_APART
        && *spill_bytes <= figure(1)
        && *shared_bytes <= figure(2)
}

#[test]
fn a_kernel_that_occupies_more_than_its_line_says_is_found() {
    let row = ["100", "8", "16", "sm_80 a.cu a"];
    let with = |figures| (row[3].to_owned(), figures);
    for right in [[100, 8, 16], [98, 0, 0], [102, 8, 16]] {
        assert!(is_as_expected(&row, &with(right)));
    }
    for wrong in [[97, 8, 16], [103, 8, 16], [100, 12, 16], [100, 8, 32]] {
        assert!(!is_as_expected(&row, &with(wrong)));
    }
    assert!(!is_as_expected(&row, &("sm_80 a.cu b".to_owned(), [100, 8, 16])));
}

#[test]
fn every_lora_kernel_fits_its_registers_on_both_architectures() {
    if !nvrtc_is_here() {
        return;
    }
    let mut footprints = Footprints::new("lora");
    for architecture in ["sm_80", "sm_90a"] {
        for variant in Variant::all() {
            let unit = variant.unit(architecture);
            let cubin = unit.compile(&Sources::built_in(), None).expect("it compiles");
            assert_eq!(cubin.footprints.len(), 3, "pair, shrink and expand");
            footprints.add(&unit, &cubin);
            for footprint in cubin.footprints {
                let what = format!("{architecture} {variant:?} {footprint:?}");
                // Blocks of 8 and 4 warps that have a multiprocessor each may use 168.
                let most = if variant.rows == RowTile::Staged32 { 168 } else { 128 };
                assert!(footprint.registers <= most, "{what}");
                // The path for older GPUs may keep a few words in local memory; the measured one may not.
                assert!(footprint.spill_bytes <= if architecture == "sm_80" { 96 } else { 0 }, "{what}");
            }
        }
    }
    footprints.judge();
}

#[test]
fn every_attention_kernel_fits_its_registers_and_shared_memory_on_both_architectures() {
    use attention::variant::Variant;
    if !nvrtc_is_here() {
        return;
    }
    let mut footprints = Footprints::new("attention");
    for architecture in ["sm_80", "sm_90a"] {
        for variant in Variant::all() {
            let unit = variant.unit(architecture);
            let cubin = unit.compile(&Sources::built_in(), None).expect("it compiles");
            footprints.add(&unit, &cubin);
            let [footprint] = &cubin.footprints[..] else { panic!("one kernel a source: {:?}", cubin.footprints) };
            let what = format!("{architecture} {variant:?} {footprint:?}");
            // Two blocks of 128 threads share a multiprocessor.
            assert!(footprint.registers <= 255, "{what}");
            let shared = variant.shared_bytes(8);
            assert!(2 * (shared + 1024) <= 233_472, "two blocks a multiprocessor: {what}, {shared} bytes");
        }
    }
    footprints.judge();
}

#[test]
fn every_baseline_kernel_fits_its_registers_on_both_architectures() {
    if !nvrtc_is_here() {
        return;
    }
    let mut footprints = Footprints::new("baselines");
    for architecture in ["sm_80", "sm_90a"] {
        for element in Element::ALL {
            let unit = launch::unit(element, architecture);
            footprints.add(&unit, &unit.compile(&Sources::built_in(), None).expect("it compiles"));
        }
    }
    // Blocks of 128 threads: 16 a multiprocessor at 32 registers, 8 at 64, 4 at 128.
    assert!(footprints.found.iter().all(|(_, [registers, ..])| *registers <= 128), "{:?}", footprints.found);
    footprints.judge();
}

#[test]
fn the_merge_kernel_leaves_room_for_two_blocks() {
    if !nvrtc_is_here() {
        return;
    }
    let mut footprints = Footprints::new("merge");
    for architecture in ["sm_80", "sm_90a"] {
        for element in Element::ALL {
            let unit = merged::unit(element, architecture);
            footprints.add(&unit, &unit.compile(&Sources::built_in(), None).expect("it compiles"));
        }
    }
    assert!(footprints.found.iter().all(|(_, [registers, ..])| *registers <= 128), "{:?}", footprints.found);
    footprints.judge();
}

#[test]
fn the_measuring_kernels_compile() {
    if !nvrtc_is_here() {
        return;
    }
    let mut footprints = Footprints::new("measuring");
    for architecture in ["sm_80", "sm_90a"] {
        for source in ["memory.cu", "stress.cu"] {
            let unit = Unit { source, architecture: architecture.to_owned(), defines: Vec::new() };
            footprints.add(&unit, &unit.compile(&Sources::built_in(), None).expect("it compiles"));
        }
    }
    footprints.judge();
}

#[test]
fn a_compiler_error_reaches_the_caller_with_its_log() {
    if !nvrtc_is_here() {
        return;
    }
    let mut unit = Variant::all().next().expect("a variant").unit("sm_90a");
    unit.defines.retain(|(name, _)| *name != "ELEMENT");
    unit.defines.push(("ELEMENT", "Fp5".to_owned()));
    let error = unit.compile(&Sources::built_in(), None).expect_err("there is no such format");
    assert!(error.to_string().contains("ELEMENT"), "{error}");
}

#[test]
fn a_second_compilation_comes_from_the_cache() {
    if !nvrtc_is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = aril_kernels::cache::Cache::new(folder.path());
    let unit = Unit { source: "memory.cu", architecture: "sm_80".to_owned(), defines: Vec::new() };
    let first = unit.compile(&Sources::built_in(), Some(&cache)).expect("it compiles");
    let second = unit.compile(&Sources::built_in(), Some(&cache)).expect("it is there");
    assert!(!first.cached && second.cached);
    assert_eq!(first.image, second.image);
}

/// Adds every kernel of a source with these constants, on both architectures.
fn fits(footprints: &mut Footprints, source: &'static str, defines: Vec<(&'static str, String)>, registers_max: u32) {
    for architecture in ["sm_80", "sm_90a"] {
        let unit = Unit { source, architecture: architecture.to_owned(), defines: defines.clone() };
        let cubin = unit.compile(&Sources::built_in(), None).expect("it compiles");
        assert!(!cubin.footprints.is_empty());
        footprints.add(&unit, &cubin);
        for footprint in cubin.footprints {
            assert!(footprint.registers <= registers_max, "{source} {architecture} {defines:?} {footprint:?}");
        }
    }
}

#[test]
fn every_kernel_of_a_llama_step_fits_its_registers_on_both_architectures() {
    if !nvrtc_is_here() {
        return;
    }
    let mut footprints = Footprints::new("llama");
    let element = |element: Element| ("ELEMENT", element.device_name().to_owned());
    for variant in few_rows::Variant::all() {
        fits(&mut footprints, "gemm.cu", variant.defines(), 128);
    }
    for format in Element::ALL {
        for (threads, vectors) in [(256, 1), (256, 2), (512, 2), (1024, 2)] {
            let defines = [("THREADS", threads), ("VECTORS", vectors)].map(|(name, value)| (name, value.to_string()));
            fits(
                &mut footprints,
                "norm.cu",
                [element(format)].into_iter().chain(defines).collect(),
                65_536 / threads.max(512),
            );
        }
        for head in [64, 128] {
            fits(&mut footprints, "rope.cu", vec![element(format), ("HEAD", head.to_string())], 40);
        }
        fits(&mut footprints, "activation.cu", vec![element(format)], 48);
        fits(&mut footprints, "sampling.cu", vec![element(format)], 40);
    }
    fits(&mut footprints, "embedding.cu", Vec::new(), 40);
    footprints.judge();
}
