//! The matrices of a launch, and a plan that replaces another: checked against what the loaded plan holds, and handed to
//! the kernel.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::Error;
use crate::lora::plan::{PROJECTIONS_MAX, Plan, Release, Site};
use crate::lora::variant::Variant;

/// A 16-bit row-major matrix in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Device address, a multiple of 16.
    pub address: u64,
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub columns: u32,
    /// Elements from one row to the next, a multiple of 8 up to [`STRIDE_MAX`].
    pub stride: u32,
}

/// The longest way from one row of a matrix to the next, in elements: kernels go 8 rows of x or y at a time, whose bytes are
/// counted in 32 bits.
pub const STRIDE_MAX: u32 = (1 << 28) - 8;

/// The most blocks that a grid has.
const BLOCKS_MAX: u32 = i32::MAX as u32;

/// An fp32 row-major matrix in device memory: the intermediate v. A row holds the first `rank` columns of its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intermediate {
    /// Device address, a multiple of 4.
    pub address: u64,
    /// Rows.
    pub rows: u32,
    /// Elements from one row to the next, at least the largest rank and [`STRIDE_MAX`] at most.
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

/// An inbox in device memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cells {
    pub(super) address: u64,
    pub(super) count: u32,
}

/// What the launches of a loaded plan have, captured ones too, and so demand of operands and of plans that replace it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) variant: Variant,
    pub(super) capacity: u32,
    pub(super) shared_bytes: u32,
    pub(super) cluster: u32,
    site: Site,
    depth: u32,
    release: Release,
    inbox_cells: u32,
    rows_end: u32,
    rank_max: u32,
    /// The fewest rows, and the shortest row of v, of all operands that a launch was given: what a captured launch
    /// still holds when the plan is replaced.
    rows_given: AtomicU32,
    v_stride_given: AtomicU32,
}

impl Held {
    /// What launches of this plan have, with at least so many blocks.
    pub(super) fn by(plan: &Plan, capacity: u32) -> Result<Self, Error> {
        let whole = capacity.checked_next_multiple_of(plan.cluster());
        let Some(capacity) = whole.filter(|&blocks| blocks <= BLOCKS_MAX) else {
            let why = format!("a capacity of {capacity} blocks, of which a launch has {BLOCKS_MAX} at most");
            return Err(Error::shape("plan", why));
        };
        check_capacity(plan, capacity)?;
        Ok(Held {
            variant: plan.variant(),
            capacity,
            shared_bytes: plan.shared_bytes(),
            cluster: plan.cluster(),
            site: plan.site().clone(),
            depth: plan.depth(),
            release: plan.release(),
            inbox_cells: plan.inbox_cells(),
            rows_end: plan.rows_end(),
            rank_max: plan.rank_max(),
            rows_given: AtomicU32::new(u32::MAX),
            v_stride_given: AtomicU32::new(u32::MAX),
        })
    }

    /// Holds another plan from now on, unless launches captured so far could not run it.
    pub(super) fn replace(&mut self, plan: &Plan) -> Result<(), Error> {
        let why = if plan.variant() != self.variant {
            Some(format!("it runs as {:?}, not {:?}", plan.variant(), self.variant))
        } else if !plan.site().has_shapes_of(&self.site) {
            Some("it is for another site".to_owned())
        } else if plan.shared_bytes() > self.shared_bytes || plan.depth() != self.depth {
            Some(format!(
                "it needs {} bytes of shared memory with rings of {}, not {} with {}",
                plan.shared_bytes(),
                plan.depth(),
                self.shared_bytes,
                self.depth
            ))
        } else if plan.rows_end() > *self.rows_given.get_mut() || plan.rank_max() > *self.v_stride_given.get_mut() {
            Some(format!(
                "it touches {} rows of rank up to {}, more than operands it was launched with have",
                plan.rows_end(),
                plan.rank_max()
            ))
        } else if plan.cluster() != self.cluster {
            Some(format!("its clusters have {} blocks, not {}", plan.cluster(), self.cluster))
        } else if plan.inbox_cells() > self.inbox_cells {
            Some(format!("it needs {} inbox cells, not {}", plan.inbox_cells(), self.inbox_cells))
        } else {
            None
        };
        if let Some(why) = why {
            return Err(Error::shape("replacing a plan", why + "; load it as a new one"));
        }
        check_capacity(plan, self.capacity)?;
        self.rows_end = plan.rows_end();
        self.rank_max = plan.rank_max();
        Ok(())
    }

    /// The arguments of a launch of the jobs at this address, still without outputs.
    pub(super) fn arguments(
        &self,
        jobs: u64,
        site: &Site,
        x: Option<Matrix>,
        inbox: Option<Cells>,
    ) -> Result<Arguments, Error> {
        if !self.site.has_shapes_of(site) {
            return Err(Error::shape("site", "its element or shapes are not those that the plan was made for"));
        }
        let mut arguments = Arguments {
            jobs,
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
            arguments.inbox = inbox.address;
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
            if v.stride > STRIDE_MAX {
                return Err(Error::shape(what(), stride_too_long(v.stride)));
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
        } else if matrix.stride > STRIDE_MAX {
            stride_too_long(matrix.stride)
        } else if matrix.address == 0 || !matrix.address.is_multiple_of(16) {
            format!("address {:#x} is null or not a multiple of 16", matrix.address)
        } else {
            self.rows_given.fetch_min(matrix.rows, Ordering::Relaxed);
            return Ok(());
        };
        Err(Error::shape(what, why))
    }
}

fn stride_too_long(stride: u32) -> String {
    format!(
        "has a stride of {stride} elements; it may have {STRIDE_MAX}, the last that 32 bits count the bytes of 8 rows of"
    )
}

fn check_capacity(plan: &Plan, capacity: u32) -> Result<(), Error> {
    if plan.jobs().len() > capacity as usize {
        let why = format!("{} jobs do not fit a capacity of {capacity}", plan.jobs().len());
        return Err(Error::shape("plan", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
