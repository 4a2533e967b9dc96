//! The real NVRTC, without a GPU: every kernel compiles, and fits the multiprocessor as its variant was designed to.

use aril_kernels::Element;
use aril_kernels::attention;
use aril_kernels::baseline::{launch, merged};
use aril_kernels::compile::{self, Unit};
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

#[test]
fn every_lora_kernel_fits_its_registers_on_both_architectures() {
    if !nvrtc_is_here() {
        return;
    }
    for architecture in ["sm_80", "sm_90a"] {
        for variant in Variant::all() {
            let cubin = variant.unit(architecture).compile(&Sources::built_in(), None).expect("it compiles");
            assert_eq!(cubin.footprints.len(), 3, "pair, shrink and expand");
            for footprint in cubin.footprints {
                let what = format!("{architecture} {variant:?} {footprint:?}");
                // Blocks of 8 and 4 warps that have a multiprocessor each may use 168.
                let most = if variant.rows == RowTile::Staged32 { 168 } else { 128 };
                assert!((32..=most).contains(&footprint.registers), "{what}");
                // The path for older GPUs may keep a few words in local memory; the measured one may not.
                assert!(footprint.spill_bytes <= if architecture == "sm_80" { 96 } else { 0 }, "{what}");
                assert_eq!(footprint.static_shared_bytes, 0, "{what}");
            }
        }
    }
}

#[test]
fn every_attention_kernel_fits_its_registers_and_shared_memory_on_both_architectures() {
    use attention::variant::Variant;
    if !nvrtc_is_here() {
        return;
    }
    for architecture in ["sm_80", "sm_90a"] {
        for variant in Variant::all() {
            let cubin = variant.unit(architecture).compile(&Sources::built_in(), None).expect("it compiles");
            let [footprint] = &cubin.footprints[..] else { panic!("one kernel a source: {:?}", cubin.footprints) };
            let what = format!("{architecture} {variant:?} {footprint:?}");
            // Two blocks of 128 threads share a multiprocessor.
            assert!((64..=255).contains(&footprint.registers), "{what}");
            assert_eq!(footprint.spill_bytes, 0, "{what}");
            assert_eq!(footprint.static_shared_bytes, 0, "{what}");
            let shared = variant.shared_bytes(8);
            assert!(2 * (shared + 1024) <= 233_472, "two blocks a multiprocessor: {what}, {shared} bytes");
        }
    }
}

#[test]
fn every_baseline_kernel_fits_its_registers_on_both_architectures() {
    if !nvrtc_is_here() {
        return;
    }
    // Blocks of 128 threads: 16 a multiprocessor at 32 registers, 8 at 64, 4 at 128.
    let registers_max = [
        ("bgmv_shrink", 64),
        ("bgmv_expand", 64),
        ("zero_v", 32),
        ("padded_shrink", 128),
        ("padded_expand", 128),
        ("gather_weights", 64),
    ];
    for architecture in ["sm_80", "sm_90a"] {
        for element in Element::ALL {
            let cubin = launch::unit(element, architecture).compile(&Sources::built_in(), None).expect("it compiles");
            assert_eq!(cubin.footprints.len(), registers_max.len());
            for (kernel, registers) in registers_max {
                let footprint = cubin.footprints.iter().find(|footprint| footprint.kernel == kernel).expect(kernel);
                let what = format!("{architecture} {element:?} {footprint:?}");
                assert!((4..=registers).contains(&footprint.registers), "{what}");
                assert_eq!((footprint.spill_bytes, footprint.static_shared_bytes), (0, 0), "{what}");
            }
        }
    }
}

#[test]
fn the_merge_kernel_leaves_room_for_two_blocks() {
    if !nvrtc_is_here() {
        return;
    }
    for architecture in ["sm_80", "sm_90a"] {
        for element in Element::ALL {
            let cubin = merged::unit(element, architecture).compile(&Sources::built_in(), None).expect("it compiles");
            let [footprint] = &cubin.footprints[..] else { panic!("{:?}", cubin.footprints) };
            assert!((32..=128).contains(&footprint.registers), "{architecture} {footprint:?}");
            assert_eq!((footprint.spill_bytes, footprint.static_shared_bytes), (0, 0), "{architecture} {footprint:?}");
        }
    }
}

#[test]
fn the_measuring_kernels_compile() {
    if !nvrtc_is_here() {
        return;
    }
    for architecture in ["sm_80", "sm_90a"] {
        for source in ["memory.cu", "stress.cu"] {
            let unit = Unit { source, architecture: architecture.to_owned(), defines: Vec::new() };
            let cubin = unit.compile(&Sources::built_in(), None).expect("it compiles");
            assert!(cubin.footprints.iter().all(|footprint| footprint.spill_bytes == 0), "{:?}", cubin.footprints);
        }
    }
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

/// Registers and spills of every kernel of a source with these constants, on both architectures.
fn fits(source: &'static str, defines: Vec<(&'static str, String)>, registers_max: u32) {
    for architecture in ["sm_80", "sm_90a"] {
        let unit = Unit { source, architecture: architecture.to_owned(), defines: defines.clone() };
        let cubin = unit.compile(&Sources::built_in(), None).expect("it compiles");
        assert!(!cubin.footprints.is_empty());
        for footprint in cubin.footprints {
            let what = format!("{source} {architecture} {defines:?} {footprint:?}");
            eprintln!("{what}");
            assert!(footprint.registers <= registers_max, "{what}");
            // On older GPUs the GEMM of 64 rows may keep a few words in local memory; a step has no use for it.
            let spill_bytes_max = if architecture == "sm_80" && source == "gemm.cu" { 64 } else { 0 };
            assert!(footprint.spill_bytes <= spill_bytes_max, "{what}");
            assert_eq!(footprint.static_shared_bytes, 0, "{what}");
        }
    }
}

#[test]
fn every_kernel_of_a_llama_step_fits_its_registers_on_both_architectures() {
    if !nvrtc_is_here() {
        return;
    }
    let element = |element: Element| ("ELEMENT", element.device_name().to_owned());
    for variant in few_rows::Variant::all() {
        fits("gemm.cu", variant.defines(), 128);
    }
    for format in Element::ALL {
        for (threads, vectors) in [(256, 1), (256, 2), (512, 2), (1024, 2)] {
            let defines = [("THREADS", threads), ("VECTORS", vectors)].map(|(name, value)| (name, value.to_string()));
            fits("norm.cu", [element(format)].into_iter().chain(defines).collect(), 65_536 / threads.max(512));
        }
        for head in [64, 128] {
            fits("rope.cu", vec![element(format), ("HEAD", head.to_string())], 40);
        }
        fits("activation.cu", vec![element(format)], 48);
        fits("sampling.cu", vec![element(format)], 40);
    }
    fits("embedding.cu", Vec::new(), 40);
}
