//! The matrices of a launch: checked against the plan, and handed to the kernel.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::{CudaStream, DevicePtr};

use super::{Inbox, LoadedPlan};
use crate::Error;
use crate::lora::plan::{PROJECTIONS_MAX, Site};

/// A 16-bit row-major matrix in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Device address, a multiple of 16.
    pub address: u64,
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub columns: u32,
    /// Elements from one row to the next, a multiple of 8.
    pub stride: u32,
}

/// An fp32 row-major matrix in device memory: the intermediate v. A row holds the first `rank` columns of its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intermediate {
    /// Device address, a multiple of 4.
    pub address: u64,
    /// Rows.
    pub rows: u32,
    /// Elements from one row to the next, at least the largest rank.
    pub stride: u32,
}

/// The same layout as `Projection` in `lora.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ProjectionArguments {
    pub(super) a_tiles: u64,
    pub(super) b_tiles: u64,
    pub(super) y: u64,
    pub(super) v: u64,
    pub(super) y_stride: u32,
    pub(super) v_stride: u32,
    pub(super) columns: u32,
    pub(super) reserved: u32,
}

/// The same layout as `Arguments` in `lora.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Arguments {
    pub(super) jobs: u64,
    pub(super) x: u64,
    pub(super) inbox: u64,
    pub(super) x_stride: u32,
    pub(super) inputs: u32,
    pub(super) job_count: u32,
    pub(super) cluster: u32,
    pub(super) depth: u32,
    pub(super) release: u32,
    pub(super) projections: [ProjectionArguments; PROJECTIONS_MAX],
    pub(super) ready: u64,
    pub(super) mark: u32,
    pub(super) reserved_too: u32,
}

impl LoadedPlan {
    pub(super) fn arguments(
        &self,
        stream: &Arc<CudaStream>,
        site: &Site,
        x: Option<Matrix>,
        inbox: Option<&mut Inbox>,
    ) -> Result<Arguments, Error> {
        if !self.site.has_shapes_of(site) {
            return Err(Error::shape("site", "its element or shapes are not those that the plan was made for"));
        }
        let mut arguments = Arguments {
            jobs: self.jobs.device_ptr(stream).0,
            inputs: self.site.inputs(),
            job_count: self.capacity,
            cluster: u32::from(self.cluster > 1),
            depth: self.depth,
            release: self.release as u32,
            ..Arguments::default()
        };
        for (slot, place) in arguments.projections.iter_mut().zip(site.places()) {
            slot.a_tiles = place.a_tiles;
            slot.b_tiles = place.b_tiles;
            slot.columns = place.shape.outputs;
        }
        if let Some(x) = x {
            self.check_matrix("x", x, self.site.inputs())?;
            arguments.x = x.address;
            arguments.x_stride = x.stride;
        }
        if let Some(inbox) = inbox {
            if inbox.count < self.inbox_cells {
                let why = format!("has {} cells, the plan needs {}", inbox.count, self.inbox_cells);
                return Err(Error::shape("inbox", why));
            }
            arguments.inbox = inbox.cells.device_ptr(stream).0;
        }
        Ok(arguments)
    }

    pub(super) fn set_outputs(&self, arguments: &mut Arguments, y: &[Matrix]) -> Result<(), Error> {
        self.check_count("y", y.len())?;
        for (index, (slot, &y)) in arguments.projections.iter_mut().zip(y).enumerate() {
            self.check_matrix(&format!("y of projection {index}"), y, self.site.places()[index].shape.outputs)?;
            slot.y = y.address;
            slot.y_stride = y.stride;
        }
        Ok(())
    }

    pub(super) fn set_intermediates(&self, arguments: &mut Arguments, v: &[Intermediate]) -> Result<(), Error> {
        self.check_count("v", v.len())?;
        for (index, (slot, v)) in arguments.projections.iter_mut().zip(v).enumerate() {
            let what = || format!("v of projection {index}");
            if v.rows < self.rows_end || v.stride < self.rank_max {
                let why = format!(
                    "is {} rows × {}; the plan touches {} rows of rank up to {}",
                    v.rows, v.stride, self.rows_end, self.rank_max
                );
                return Err(Error::shape(what(), why));
            }
            if v.address == 0 || !v.address.is_multiple_of(4) {
                return Err(Error::shape(what(), format!("address {:#x} is null or misaligned", v.address)));
            }
            self.rows_given.fetch_min(v.rows, Ordering::Relaxed);
            self.v_stride_given.fetch_min(v.stride, Ordering::Relaxed);
            slot.v = v.address;
            slot.v_stride = v.stride;
        }
        Ok(())
    }

    fn check_count(&self, what: &str, count: usize) -> Result<(), Error> {
        let needed = self.site.places().len();
        if count != needed {
            return Err(Error::shape(what, format!("{count} matrices for {needed} projections")));
        }
        Ok(())
    }

    fn check_matrix(&self, what: &str, matrix: Matrix, columns: u32) -> Result<(), Error> {
        let why = if matrix.columns != columns {
            format!("has {} columns, the site {columns}", matrix.columns)
        } else if matrix.rows < self.rows_end {
            format!("has {} rows, the plan touches {}", matrix.rows, self.rows_end)
        } else if matrix.stride < matrix.columns || !matrix.stride.is_multiple_of(8) {
            format!("has a stride of {}; it must be a multiple of 8 and at least {}", matrix.stride, matrix.columns)
        } else if matrix.address == 0 || !matrix.address.is_multiple_of(16) {
            format!("address {:#x} is null or not a multiple of 16", matrix.address)
        } else {
            self.rows_given.fetch_min(matrix.rows, Ordering::Relaxed);
            return Ok(());
        };
        Err(Error::shape(what, why))
    }
}
