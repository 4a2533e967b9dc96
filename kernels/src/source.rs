//! Where the kernel sources come from: built in, or a folder while a kernel is being worked on.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Error;

/// The kernel sources and the headers they share.
#[derive(Debug, Clone)]
pub struct Sources {
    folder: Option<PathBuf>,
}

const BUILT_IN: [(&str, &str); 23] = [
    ("primitives.cuh", include_str!("../cu/primitives.cuh")),
    ("decode_parts.cuh", include_str!("../cu/decode_parts.cuh")),
    ("lora.cuh", include_str!("../cu/lora.cuh")),
    ("lora_exchange.cuh", include_str!("../cu/lora_exchange.cuh")),
    ("lora_stages.cuh", include_str!("../cu/lora_stages.cuh")),
    ("lora_stream.cuh", include_str!("../cu/lora_stream.cuh")),
    ("lora_fragments.cuh", include_str!("../cu/lora_fragments.cuh")),
    ("lora_warpgroups.cuh", include_str!("../cu/lora_warpgroups.cuh")),
    ("activation.cu", include_str!("../cu/activation.cu")),
    ("decode_attention.cu", include_str!("../cu/decode_attention.cu")),
    ("embedding.cu", include_str!("../cu/embedding.cu")),
    ("gemm.cu", include_str!("../cu/gemm.cu")),
    ("lora.cu", include_str!("../cu/lora.cu")),
    ("lora_staged.cu", include_str!("../cu/lora_staged.cu")),
    ("memory.cu", include_str!("../cu/memory.cu")),
    ("baseline.cu", include_str!("../cu/baseline.cu")),
    ("merge.cu", include_str!("../cu/merge.cu")),
    ("norm.cu", include_str!("../cu/norm.cu")),
    ("prefill_parts.cuh", include_str!("../cu/prefill_parts.cuh")),
    ("prefill_attention.cu", include_str!("../cu/prefill_attention.cu")),
    ("rope.cu", include_str!("../cu/rope.cu")),
    ("sampling.cu", include_str!("../cu/sampling.cu")),
    ("stress.cu", include_str!("../cu/stress.cu")),
];

impl Sources {
    /// The sources that this crate was built with.
    pub fn built_in() -> Self {
        Sources { folder: None }
    }

    /// Sources read from a folder at each compilation, so that a kernel can be changed without a new build.
    pub fn in_folder(folder: &Path) -> Self {
        Sources { folder: Some(folder.to_owned()) }
    }

    /// The names of all sources.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// What a source includes, directly or not, each with its text.
    ///
    /// # Errors
    /// As [`Sources::text`].
    pub fn included(&self, text: &str) -> Result<Vec<(&'static str, String)>, Error> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        let mut texts = vec![text.to_owned()];
        while let Some(text) = texts.pop() {
            let wanted = text.lines().filter_map(|line| line.strip_prefix("#include \""));
            for name in wanted.filter_map(|rest| rest.split('"').next()) {
                // The shim's own header is not among them, and NVRTC does not ask for it.
                let Some(name) = Sources::names().find(|&known| known == name) else { continue };
                if found.iter().all(|(known, _)| *known != name) {
                    let text = self.text(name)?;
                    texts.push(text.clone());
                    found.push((name, text));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// The text of one source.
    ///
    /// # Errors
    /// [`Error::File`] if it is not built in or cannot be read from the folder.
    pub fn text(&self, name: &str) -> Result<String, Error> {
        match &self.folder {
            Some(folder) => {
                let path = folder.join(name);
                std::fs::read_to_string(&path).map_err(|cause| Error::File {
                    doing: "reading the kernel source",
                    path,
                    cause,
                })
            }
            None => {
                BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned()).ok_or_else(|| {
                    Error::File {
                        doing: "looking for the built-in kernel source",
                        path: name.into(),
                        cause: std::io::ErrorKind::NotFound.into(),
                    }
                })
            }
        }
    }

    /// SHA-256 over all sources, in hexadecimal: what a measurement names as its kernels.
    ///
    /// # Errors
    /// As [`Sources::text`].
    pub fn hash(&self) -> Result<String, Error> {
        self.hash_of(Sources::names())
    }

    /// The same over some sources: those that one kernel is made of, so that a measurement stays that of its kernels when
    /// others change.
    ///
    /// # Errors
    /// As [`Sources::text`].
    pub fn hash_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<String, Error> {
        let mut hash = Sha256::new();
        for name in names {
            hash.update(name.as_bytes());
            hash.update([0]);
            hash.update(self.text(name)?.as_bytes());
            hash.update([0]);
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_includes_is_found_at_any_depth_and_once() {
        let sources = Sources::built_in();
        let names = |source: &str| {
            let text = sources.text(source).expect("built in");
            sources.included(&text).expect("built in").into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names("norm.cu"), ["primitives.cuh"]);
        assert_eq!(names("lora.cu"), ["lora.cuh", "lora_exchange.cuh", "lora_stream.cuh", "primitives.cuh"]);
    }

    #[test]
    fn a_hash_is_that_of_the_named_sources() {
        let sources = Sources::built_in();
        let hash = |names: &[&str]| sources.hash_of(names.iter().copied()).expect("built in");
        assert_ne!(hash(&["primitives.cuh", "lora.cu"]), hash(&["primitives.cuh", "memory.cu"]));
        assert_ne!(hash(&["primitives.cuh"]), hash(&[]));
        assert_eq!(sources.hash().expect("built in"), sources.hash_of(Sources::names()).expect("built in"));
        assert!(sources.hash_of(["no.cu"].into_iter()).is_err());
    }
}
