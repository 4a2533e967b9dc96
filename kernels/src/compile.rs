//! Kernel source → cubin, with NVRTC, at run time.

use std::ffi::{CString, c_char};
use std::ptr;

use cudarc::nvrtc::sys;

use crate::source::Sources;
use crate::{Error, cache};

/// What to compile: a source file, the GPU and the constants that select a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// File name among the [`Sources`].
    pub source: &'static str,
    /// `sm_80`, `sm_90a`, … for machine code; `compute_80`, … for PTX, which the driver compiles for a newer GPU.
    pub architecture: String,
    /// Preprocessor definitions, name and value.
    pub defines: Vec<(&'static str, String)>,
}

/// A compiled unit.
#[derive(Debug, Clone)]
pub struct Cubin {
    /// The machine code, an ELF file; or PTX text.
    pub image: Vec<u8>,
    /// The assembler's report, one entry a kernel. Empty when the image came from the cache.
    pub footprints: Vec<Footprint>,
    /// Whether it came from the on-disk cache.
    pub cached: bool,
}

/// What one kernel occupies, as the assembler reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// The kernel's name.
    pub kernel: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes a thread that did not fit in registers and are stored to local memory.
    pub spill_bytes: u32,
    /// Bytes of statically declared shared memory.
    pub static_shared_bytes: u32,
}

/// The version of the NVRTC on this machine.
///
/// # Errors
/// [`Error::LibraryMissing`] if there is none, [`Error::LibraryTooOld`] before 12.3.
pub fn nvrtc_version() -> Result<(i32, i32), Error> {
    // SAFETY: asks the loader only.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::LibraryMissing {
            library: "NVRTC (libnvrtc.so.13 or .so.12)",
            remedy: "install the CUDA toolkit or the package nvidia-cuda-nvrtc and put its lib folder on LD_LIBRARY_PATH",
        });
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two valid out-pointers.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    check_version((major, minor))
}

/// Refuses an NVRTC before that of the oldest driver that [`Gpu::open`](crate::gpu::Gpu::open) takes; 12.0 does not know all instructions of
/// the kernels (`st.async`).
fn check_version((major, minor): (i32, i32)) -> Result<(i32, i32), Error> {
    if (major, minor) < (12, 3) {
        return Err(Error::LibraryTooOld { library: "NVRTC", found: format!("{major}.{minor}"), needed: "12.3" });
    }
    Ok((major, minor))
}

impl Unit {
    /// All options that reach the compiler, the same for the compiler and for the cache key.
    fn options(&self) -> Vec<String> {
        let mut options = vec![
            "--std=c++17".to_owned(),
            format!("--gpu-architecture={}", self.architecture),
            "-default-device".to_owned(),
        ];
        if !self.architecture.starts_with("compute_") {
            options.push("--ptxas-options=-v".to_owned());
        }
        options.extend(self.defines.iter().map(|(name, value)| format!("-D{name}={value}")));
        options
    }

    /// The cubin of this unit, from the cache or from NVRTC.
    ///
    /// # Errors
    /// NVRTC missing or too old, the source not found, or [`Error::Compile`] with the log. A cache that cannot be
    /// read or written is not an error: the unit is compiled again.
    pub fn compile(&self, sources: &Sources, cache: Option<&cache::Cache>) -> Result<Cubin, Error> {
        let version = nvrtc_version()?;
        let text = sources.text(self.source)?;
        let headers = sources.included(&text)?;
        let included: String = headers.iter().map(|(_, text)| text.as_str()).collect();
        let options = self.options();
        let key = cache::key(&[&text, &included, &options.join(" "), &format!("{version:?}")]);
        if let Some(image) = cache.and_then(|cache| cache.read(&key)) {
            return Ok(Cubin { image, footprints: Vec::new(), cached: true });
        }
        let cubin = self.run_nvrtc(&text, &headers, &options)?;
        if let Some(cache) = cache {
            cache.write(&key, &cubin.image);
        }
        Ok(cubin)
    }

    fn run_nvrtc(&self, text: &str, headers: &[(&str, String)], options: &[String]) -> Result<Cubin, Error> {
        let failed = |log: String| Error::Compile {
            source_name: self.source.to_owned(),
            architecture: self.architecture.clone(),
            log,
        };
        let c = |text: &str| CString::new(text).map_err(|_| failed("the source contains a zero byte".to_owned()));
        let (text, name) = (c(text)?, c(self.source)?);
        let header_names = headers.iter().map(|(name, _)| c(name)).collect::<Result<Vec<_>, _>>()?;
        let header_texts = headers.iter().map(|(_, text)| c(text)).collect::<Result<Vec<_>, _>>()?;
        let addresses = |strings: &[CString]| strings.iter().map(|string| string.as_ptr()).collect::<Vec<_>>();
        let (header_name_pointers, header_text_pointers) = (addresses(&header_names), addresses(&header_texts));
        let options = options.iter().map(|option| c(option)).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = Program(ptr::null_mut());
        // SAFETY: every pointer is to a C string that outlives the program; counts match.
        let (created, compiled) = unsafe {
            let created = sys::nvrtcCreateProgram(
                &mut program.0,
                text.as_ptr(),
                name.as_ptr(),
                headers.len() as i32,
                header_text_pointers.as_ptr(),
                header_name_pointers.as_ptr(),
            );
            if created != sys::nvrtcResult::NVRTC_SUCCESS {
                return Err(failed(format!("nvrtcCreateProgram: {created:?}")));
            }
            (created, sys::nvrtcCompileProgram(program.0, pointers.len() as i32, pointers.as_ptr()))
        };
        debug_assert_eq!(created, sys::nvrtcResult::NVRTC_SUCCESS);
        let log = program.log();
        if compiled != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(failed(format!("{compiled:?}\n{log}")));
        }
        let image = program.image(self.architecture.starts_with("compute_")).map_err(failed)?;
        Ok(Cubin { image, footprints: footprints(&log), cached: false })
    }
}

/// An NVRTC program, destroyed on drop.
struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> String {
        let mut size = 0;
        // SAFETY: the program is live; the buffer has the size that NVRTC asked for.
        unsafe {
            sys::nvrtcGetProgramLogSize(self.0, &mut size);
            let mut log = vec![0_u8; size];
            sys::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast());
            String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned()
        }
    }

    fn image(&self, ptx: bool) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: as above.
        let (result, image) = unsafe {
            if ptx {
                sys::nvrtcGetPTXSize(self.0, &mut size);
            } else {
                sys::nvrtcGetCUBINSize(self.0, &mut size);
            }
            let mut image = vec![0_u8; size];
            let into = image.as_mut_ptr().cast();
            (if ptx { sys::nvrtcGetPTX(self.0, into) } else { sys::nvrtcGetCUBIN(self.0, into) }, image)
        };
        match result {
            sys::nvrtcResult::NVRTC_SUCCESS if size > 0 => Ok(image),
            other => Err(format!("no code for this architecture: {other:?}")),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by nvrtcCreateProgram, destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

/// Reads the report of `--ptxas-options=-v`.
fn footprints(log: &str) -> Vec<Footprint> {
    let mut found: Vec<Footprint> = Vec::new();
    let number_before = |line: &str, words: &str| -> Option<u32> {
        let head = line.split(words).next().filter(|head| head.len() < line.len())?;
        head.split_whitespace().last()?.parse().ok()
    };
    for line in log.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1).and_then(|rest| rest.split('\'').next()) {
            let kernel = name.to_owned();
            found.push(Footprint { kernel, registers: 0, spill_bytes: 0, static_shared_bytes: 0 });
        }
        let Some(last) = found.last_mut() else { continue };
        if let Some(bytes) = number_before(line, " bytes spill stores") {
            last.spill_bytes = bytes;
        }
        if let Some(registers) = number_before(line, " registers") {
            last.registers = registers;
            last.static_shared_bytes = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nvrtc_before_12_3_is_refused() {
        for version in [(12, 3), (12, 4), (13, 0)] {
            assert_eq!(check_version(version).expect("new enough"), version);
        }
        for (version, name) in [((11, 8), "11.8"), ((12, 0), "12.0"), ((12, 2), "12.2"), ((0, 0), "0.0")] {
            match check_version(version) {
                Err(Error::LibraryTooOld { found, needed, .. }) => assert_eq!((found.as_str(), needed), (name, "12.3")),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_assembler_report_is_read_kernel_by_kernel() {
        let log = "ptxas info    : Compiling entry function 'first' for 'sm_90a'\n\
            ptxas         .     24 bytes stack frame, 20 bytes spill stores, 52 bytes spill loads\n\
            ptxas info    : Used 128 registers, used 1 barriers, 24 bytes cumulative stack size\n\
            ptxas info    : Compiling entry function 'second' for 'sm_90a'\n\
            ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 30 registers, used 1 barriers, 4096 bytes smem\n";
        let expected = [("first", 128, 20, 0), ("second", 30, 0, 4096)];
        let found = footprints(log);
        assert_eq!(found.len(), expected.len());
        for (footprint, (kernel, registers, spill, shared)) in found.iter().zip(expected) {
            assert_eq!(footprint.kernel, kernel);
            assert_eq!(
                (footprint.registers, footprint.spill_bytes, footprint.static_shared_bytes),
                (registers, spill, shared)
            );
        }
    }
}
