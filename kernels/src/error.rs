use std::path::PathBuf;

/// What went wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A CUDA library cannot be loaded.
    #[error("{library} was not found: {remedy}")]
    LibraryMissing {
        /// The library's name.
        library: &'static str,
        /// What would make it available.
        remedy: &'static str,
    },
    /// A library was found but is too old.
    #[error("{library} is version {found}, but {needed} or newer is needed; put a newer one first on the loader path")]
    LibraryTooOld {
        /// The library's name.
        library: &'static str,
        /// Version found, as `major.minor`.
        found: String,
        /// Oldest version that works.
        needed: &'static str,
    },
    /// The driver sees no such GPU.
    #[error("GPU {ordinal} does not exist: the driver sees {count} (check CUDA_VISIBLE_DEVICES)")]
    NoGpu {
        /// The GPU asked for.
        ordinal: usize,
        /// How many there are.
        count: i32,
    },
    /// The GPU lacks instructions that the kernels use.
    #[error("GPU {name} has compute capability {major}.{minor}; the kernels need 8.0 or newer")]
    GpuTooOld {
        /// The GPU's name.
        name: String,
        /// Major compute capability.
        major: i32,
        /// Minor compute capability.
        minor: i32,
    },
    /// A driver call failed.
    #[error("CUDA driver: {doing}: {code}")]
    Driver {
        /// What was being done.
        doing: String,
        /// The driver's own words.
        code: String,
    },
    /// A call of cuBLAS or cuBLASLt failed.
    #[error("cuBLAS: {doing}: {code}")]
    Blas {
        /// What was being done.
        doing: String,
        /// The library's own words.
        code: String,
    },
    /// Not enough device memory.
    #[error("{what} needs {needed_bytes} bytes of device memory, {free_bytes} are free")]
    OutOfMemory {
        /// What needed it.
        what: String,
        /// Bytes asked for.
        needed_bytes: usize,
        /// Bytes free at that moment.
        free_bytes: usize,
    },
    /// NVRTC refused a kernel source.
    #[error("compiling {source_name} for {architecture} failed:\n{log}")]
    Compile {
        /// The source file.
        source_name: String,
        /// The GPU architecture.
        architecture: String,
        /// The compiler's log.
        log: String,
    },
    /// A file could not be read or written.
    #[error("{doing} {path}: {cause}", path = path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// A shape that the kernels cannot serve, or operands that do not fit each other.
    #[error("{what}: {why}")]
    Shape {
        /// The operand.
        what: String,
        /// What is wrong with it and what would be right.
        why: String,
    },
}

impl Error {
    pub(crate) fn shape(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Shape { what: what.into(), why: why.into() }
    }

    pub(crate) fn driver(doing: impl Into<String>) -> impl FnOnce(cudarc::driver::DriverError) -> Error {
        let doing = doing.into();
        move |code| Error::Driver { doing, code: format!("{code:?}") }
    }
}
