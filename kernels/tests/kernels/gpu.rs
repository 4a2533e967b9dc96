//! What opening a GPU says, with or without one. The kernels' checks on a GPU are `kernels/ci/gpu.sh`.

use aril_kernels::Error;
use aril_kernels::gpu::Gpu;

#[test]
fn opening_a_gpu_works_or_says_what_is_missing() {
    match Gpu::open(0) {
        Ok(gpu) => assert!(gpu.chip().multiprocessors > 0 && gpu.l2_bytes() > 0),
        Err(error) => {
            let expected = matches!(
                error,
                Error::LibraryMissing { .. } | Error::LibraryTooOld { .. } | Error::NoGpu { .. } | Error::Driver { .. }
            );
            assert!(expected, "{error}");
            assert!(error.to_string().len() > 20, "{error}");
        }
    }
}
