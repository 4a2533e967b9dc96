//! The kernels compiled as C++ and run under the address and undefined-behaviour sanitizers.
//!
//! A [`Program`] names one kernel of one source with its constants; a [`Runner`] is the executable of a list of them; a
//! [`Case`] is one launch of a program. Programs of one source and the same constants are compiled once.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use aril_kernels::compile::Unit;

/// One kernel of one `.cu` file, with the constants that it is compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// File name in `kernels/cu`.
    pub(crate) source: &'static str,
    pub(crate) defines: Vec<(&'static str, String)>,
    /// Name of the `__global__` function. It may take any number of parameters by value.
    pub(crate) kernel: &'static str,
}

impl Program {
    /// The kernel of a unit as NVRTC would compile it.
    pub(crate) fn of(unit: Unit, kernel: &'static str) -> Program {
        Program { source: unit.source, defines: unit.defines, kernel }
    }

    fn is_compiled_as(&self, other: &Program) -> bool {
        (self.source, &self.defines) == (other.source, &other.defines)
    }
}

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

/// What a launch meets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Around {
    /// The preceding kernel runs beside it: hidden buffers appear, all together, while that kernel still runs.
    pub(crate) beside: bool,
    /// Blocks, warps and what they send to one another are late at random.
    pub(crate) delays: bool,
    /// Which of the faults planted in the source is there, which says `planted == 7` for the seventh: none for 0.
    pub(crate) planted: usize,
}

/// One launch.
pub(crate) struct Case {
    pub(crate) program: Program,
    pub(crate) blocks: usize,
    pub(crate) threads: usize,
    pub(crate) shared_bytes: usize,
    /// Blocks in a cluster.
    pub(crate) cluster: usize,
    pub(crate) seed: u64,
    pub(crate) around: Around,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) pointers: Vec<Pointer>,
    /// The parameters back to back, each aligned as its type demands.
    pub(crate) arguments: Vec<u8>,
}

impl Case {
    fn to_bytes(&self, program: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let word = |bytes: &mut Vec<u8>, value: usize| bytes.extend((value as u64).to_le_bytes());
        word(&mut bytes, program);
        for value in [self.blocks, self.threads, self.shared_bytes, self.cluster, self.seed as usize] {
            word(&mut bytes, value);
        }
        word(&mut bytes, usize::from(self.around.delays));
        word(&mut bytes, self.around.planted);
        word(&mut bytes, self.buffers.len());
        for buffer in &self.buffers {
            word(&mut bytes, buffer.content.len());
            let hidden = if self.around.beside { 4 } else { 1 };
            word(&mut bytes, if buffer.hidden { hidden } else { 0 } + 2 * usize::from(buffer.output));
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
}

/// An executable that runs any of its programs.
pub(crate) struct Runner {
    binary: PathBuf,
    programs: Vec<Program>,
}

impl Runner {
    /// Builds the executable. `name`: a folder of the target directory, one for each runner. `change` gets the text
    /// of each source, and a program that is made of it, and may plant a fault. `None`, with a message, where there is no C++ compiler.
    pub(crate) fn build(
        name: &str,
        programs: Vec<Program>,
        change: impl Fn(&Program, &str) -> String,
    ) -> Option<Runner> {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
        if !cfg!(target_arch = "x86_64") || Command::new(&compiler).arg("--version").output().is_err() {
            eprintln!("skipped: the CPU shim needs x86-64 and a C++ compiler (g++, or the one that CXX names)");
            return None;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("the target folder is writable");
        std::fs::write(folder.join("kernels.inc"), kernels(&programs, &root.join("cu"), change))
            .expect("the target folder is writable");
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
        Some(Runner { binary, programs })
    }

    /// The output buffers after the launch, or what the sanitizers said.
    pub(crate) fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, String> {
        let program =
            self.programs.iter().position(|program| *program == case.program).expect("a program of this runner");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, result) = (folder.path().join("case"), folder.path().join("result"));
        std::fs::write(&path, case.to_bytes(program)).expect("the temporary folder is writable");
        let output = Command::new(&self.binary).arg(&path).arg(&result).output().expect("the runner starts");
        if !output.status.success() {
            return Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        let mut rest = std::fs::read(&result).expect("the runner wrote a result");
        let mut outputs = Vec::new();
        for buffer in case.buffers.iter().filter(|buffer| buffer.output) {
            let tail = rest.split_off(buffer.content.len());
            outputs.push(std::mem::replace(&mut rest, tail));
        }
        Ok(outputs)
    }
}

/// A source with its headers in place of the lines that include them, but for the primitives, which are there once.
fn with_headers(folder: &Path, name: &str) -> String {
    let mut text = format!("#line 1 \"{name}\"\n");
    let source = std::fs::read_to_string(folder.join(name)).expect("the kernel source");
    for (index, line) in source.lines().enumerate() {
        match line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) {
            Some("primitives.cuh") => text.push('\n'),
            Some(header) => {
                text.push_str(&with_headers(folder, header));
                let _ = writeln!(text, "#line {} \"{name}\"", index + 2);
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// Every source with its constants in a namespace of its own, and the function that calls a program by its index.
fn kernels(programs: &[Program], folder: &Path, change: impl Fn(&Program, &str) -> String) -> String {
    let mut text = "#include \"primitives.cuh\"\n".to_owned();
    let mut calls = String::new();
    for (index, program) in programs.iter().enumerate() {
        let space = programs.iter().position(|first| first.is_compiled_as(program)).expect("itself at the latest");
        if space == index {
            let source = change(program, &with_headers(folder, program.source));
            for (name, value) in &program.defines {
                let _ = writeln!(text, "#define {name} {value}");
            }
            let _ = writeln!(text, "namespace program{space} {{\n{source}\n}}");
            let defined = source.lines().filter_map(|line| line.trim_start().strip_prefix("#define "));
            let defined = defined.filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next());
            for name in program.defines.iter().map(|(name, _)| *name).chain(defined) {
                let _ = writeln!(text, "#undef {name}");
            }
        }
        let _ = writeln!(calls, "case {index}: return launch(program{space}::{}, arguments);", program.kernel);
    }
    format!("{text}static void call(u64 program, const u8* arguments) {{\nswitch (program) {{\n{calls}}}\n}}\n")
}
