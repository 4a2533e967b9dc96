//! What the copy engine must know of x to bring boxes of it into shared memory.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::Matrix;
use crate::{Element, Error};

/// A matrix in boxes of some rows × 64 columns, whose rows of 128 bytes are swizzled on the way; what lies outside is zero.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Boxes {
    map: sys::CUtensorMap,
}

const COLUMNS: u32 = 64;

impl Default for Boxes {
    fn default() -> Self {
        Boxes { map: sys::CUtensorMap { opaque: [0; 16] } }
    }
}

impl Boxes {
    /// Boxes of so many rows of a matrix.
    pub(super) fn of(matrix: Matrix, element: Element, rows: u32) -> Result<Self, Error> {
        let mut boxes = Boxes::default();
        let data_type = match element {
            Element::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Element::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        };
        let size = [u64::from(matrix.columns), u64::from(matrix.rows)];
        let stride = [u64::from(matrix.stride) * 2];
        let (extent, steps) = ([COLUMNS, rows], [1, 1]);
        // SAFETY: all arrays are as long as two dimensions demand, and outlive the call; it reads no device memory.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut boxes.map,
                data_type,
                2,
                matrix.address as *mut c_void,
                size.as_ptr(),
                stride.as_ptr(),
                extent.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(Error::driver("describing x to the copy engine"))?;
        Ok(boxes)
    }

    pub(super) fn as_parameter(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}
