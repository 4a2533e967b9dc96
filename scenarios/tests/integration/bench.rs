//! A folder of its own for each test, and the program run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A small scenario that runs in milliseconds.
pub(crate) const SMALL: &str = r#"name = "small"

[model]
name = "llama-2-7b"

[traffic]
arrivals = { poisson = { rate = 4.0 } }
requests = 60
input_tokens = 32
output_tokens = { uniform = [1, 64] }
popularity = { zipf = { s = 0.9, adapters = 8 } }
ranks = { 16 = 1.0 }

[engine.aril]
max_num_seqs = 8

[pool.a100-80gb]
replicas = 2
profile = "punica-a100-80gb"

[slo.all]
ttft = "1s"
tpot = "50ms"

[policy]
spread = { router = "least-loaded" }
punica = { preset = "punica-paper" }
"#;

/// A folder and the program.
pub(crate) struct Bench {
    folder: TempDir,
}

/// What the program did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// With a file `s.toml` of this text.
    pub(crate) fn with(text: &str) -> Bench {
        let bench = Bench::new();
        bench.write("s.toml", text);
        bench
    }

    /// With the small scenario after one replacement, which must apply.
    pub(crate) fn changed(from: &str, to: &str) -> Bench {
        assert!(SMALL.contains(from), "the small scenario has no {from:?}");
        Bench::with(&SMALL.replacen(from, to, 1))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folders can be made");
        fs::write(path, text).expect("files can be written");
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).expect("the file is text")
    }

    pub(crate) fn aril(&self, arguments: &[&str]) -> Done {
        let output = Command::new(env!("CARGO_BIN_EXE_aril"))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("the program starts");
        Done {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("output is text"),
            err: String::from_utf8(output.stderr).expect("messages are text"),
        }
    }

    /// Runs it and expects success.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let done = self.aril(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {}{}", done.err, done.out);
        done.out
    }

    /// Every file below a folder, sorted, with `/` between the parts.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        fn below(folder: &Path, prefix: &str, files: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.path().is_dir() { below(&entry.path(), &format!("{name}/"), files) } else { files.push(name) }
            }
        }
        let mut files = Vec::new();
        below(&self.path(folder), "", &mut files);
        files.sort();
        files
    }
}
