//! The kernels compiled as C++ and run under the address and undefined-behaviour sanitizers.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use aril_kernels::lora::variant::Variant;

/// A buffer of a case.
pub(crate) struct Buffer {
    pub(crate) content: Vec<u8>,
    /// Written by the preceding kernel: appears only after the dependency wait.
    pub(crate) hidden: bool,
    pub(crate) output: bool,
}

/// An address that the runner fills in: `target`'s, `addend` bytes further.
pub(crate) struct Pointer {
    /// The buffer that holds it; `None` for the arguments.
    pub(crate) holder: Option<usize>,
    pub(crate) offset: usize,
    pub(crate) target: usize,
    pub(crate) addend: usize,
}

pub(crate) struct Case {
    pub(crate) variant: Variant,
    /// 0 pair, 1 shrink, 2 expand.
    pub(crate) kernel: usize,
    pub(crate) blocks: usize,
    pub(crate) threads: usize,
    pub(crate) shared_bytes: usize,
    /// Blocks in a cluster.
    pub(crate) cluster: usize,
    pub(crate) seed: u64,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) pointers: Vec<Pointer>,
    pub(crate) arguments: Vec<u8>,
}

pub(crate) const KERNELS: [&str; 3] = ["lora_pair", "lora_shrink", "lora_expand"];

impl Case {
    fn to_bytes(&self) -> Vec<u8> {
        let variant = Variant::all().position(|variant| variant == self.variant).expect("one of all variants");
        let mut bytes = Vec::new();
        let word = |bytes: &mut Vec<u8>, value: usize| bytes.extend((value as u64).to_le_bytes());
        word(&mut bytes, variant * KERNELS.len() + self.kernel);
        for value in
            [self.blocks, self.threads, self.shared_bytes, self.cluster, self.seed as usize, self.buffers.len()]
        {
            word(&mut bytes, value);
        }
        for buffer in &self.buffers {
            word(&mut bytes, buffer.content.len());
            word(&mut bytes, usize::from(buffer.hidden) + 2 * usize::from(buffer.output));
            bytes.extend(&buffer.content);
        }
        word(&mut bytes, self.pointers.len());
        for pointer in &self.pointers {
            for value in [pointer.holder.unwrap_or(usize::MAX), pointer.offset, pointer.target, pointer.addend] {
                word(&mut bytes, value);
            }
        }
        word(&mut bytes, self.arguments.len());
        bytes.extend(&self.arguments);
        bytes
    }

    /// The output buffers after the launch, or what the sanitizers said.
    pub(crate) fn run(&self, runner: &Path) -> Result<Vec<Vec<u8>>, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (case, result) = (folder.path().join("case"), folder.path().join("result"));
        std::fs::write(&case, self.to_bytes()).expect("the temporary folder is writable");
        let output = Command::new(runner).arg(&case).arg(&result).output().expect("the runner starts");
        if !output.status.success() {
            return Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        let mut rest = std::fs::read(&result).expect("the runner wrote a result");
        let mut outputs = Vec::new();
        for buffer in self.buffers.iter().filter(|buffer| buffer.output) {
            let tail = rest.split_off(buffer.content.len());
            outputs.push(std::mem::replace(&mut rest, tail));
        }
        Ok(outputs)
    }
}

/// Builds the runner with every variant once a test process. `None`, with a message, where there is no C++ compiler.
pub(crate) fn runner() -> Option<&'static Path> {
    static RUNNER: OnceLock<Option<PathBuf>> = OnceLock::new();
    RUNNER.get_or_init(|| build("runner", |_| true, |source| source.to_owned())).as_deref()
}

/// Builds a runner with some variants of `lora.cu` after `change`, which may plant a fault.
pub(crate) fn build(name: &str, wanted: impl Fn(Variant) -> bool, change: impl Fn(&str) -> String) -> Option<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
    if !cfg!(target_arch = "x86_64") || Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: the CPU shim needs x86-64 and a C++ compiler (g++, or the one that CXX names)");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    for source in ["lora.cu", "lora_staged.cu"] {
        let kernel = std::fs::read_to_string(root.join("cu").join(source)).expect("the kernel source");
        std::fs::write(folder.join(source), change(&kernel)).expect("the target folder is writable");
    }
    std::fs::write(folder.join("kernels.inc"), variants(wanted)).expect("the target folder is writable");
    let binary = folder.join("runner");
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-g", "-DARIL_CPU", "-Wno-unknown-pragmas", "-Wno-unused-function"])
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"])
        .arg(format!("-I{}", folder.display()))
        .arg(format!("-I{}", root.join("cu").display()))
        .arg(format!("-I{}", root.join("shim").display()))
        .arg(root.join("shim/runner.cpp"))
        .arg("-o")
        .arg(&binary)
        .output()
        .expect("the compiler starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(binary)
}

/// Every variant in a namespace of its own, and the function that calls one by index.
fn variants(wanted: impl Fn(Variant) -> bool) -> String {
    let mut text = String::new();
    let mut calls = String::new();
    for (index, variant) in Variant::all().enumerate().filter(|&(_, variant)| wanted(variant)) {
        for (name, value) in variant.defines() {
            let _ = writeln!(text, "#define {name} {value}");
        }
        let _ = writeln!(text, "namespace variant{index} {{\n#include \"{}\"\n}}", variant.unit("").source);
        for (name, _) in variant.defines() {
            let _ = writeln!(text, "#undef {name}");
        }
        for (kernel, name) in KERNELS.iter().enumerate() {
            let number = index * KERNELS.len() + kernel;
            let _ = writeln!(
                calls,
                "case {number}: return variant{index}::{name}(*(const variant{index}::Arguments*)arguments);"
            );
        }
    }
    format!(
        "#include \"primitives.cuh\"\n{text}static void call(u64 kernel, const void* arguments) {{\nswitch (kernel) {{\n{calls}}}\n}}\n"
    )
}
