//! What a launch is given, and what a plan demands of it.

use std::sync::atomic::{AtomicU32, Ordering};

use super::layout::AttentionShape;
use crate::Error;
use crate::lora::launch::Matrix;

/// One layer's keys and values in device memory, laid out as [`super::layout`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCache {
    /// Device address, a multiple of 16.
    pub address: u64,
    /// KV blocks.
    pub blocks: u32,
}

/// The KV blocks of all sequences in device memory, u32 each, as the plan was given them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockTable {
    /// Device address, a multiple of 4.
    pub address: u64,
    /// Entries.
    pub entries: u32,
}

/// One past the largest row, KV block and table entry that a plan touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    pub(crate) rows: u32,
    pub(crate) blocks: u32,
    pub(crate) entries: u32,
}

/// The smallest operands that launches were given: what a captured launch still holds when its plan is replaced.
#[derive(Debug)]
pub(crate) struct Given {
    rows: AtomicU32,
    blocks: AtomicU32,
    entries: AtomicU32,
}

impl Given {
    pub(crate) fn nothing() -> Self {
        let most = || AtomicU32::new(u32::MAX);
        Given { rows: most(), blocks: most(), entries: most() }
    }

    /// Refuses a plan that launches captured so far could not run.
    pub(crate) fn allows(&self, extent: Extent) -> Result<(), Error> {
        for (needed, given, what) in [
            (extent.rows, &self.rows, "rows"),
            (extent.blocks, &self.blocks, "KV blocks"),
            (extent.entries, &self.entries, "entries of the block table"),
        ] {
            let given = given.load(Ordering::Relaxed);
            if needed > given {
                let why = format!("it touches {needed} {what}, operands that it was launched with have {given}");
                return Err(Error::shape("replacing a plan", why + "; load it as a new one"));
            }
        }
        Ok(())
    }
}

/// Checks the operands of one launch and notes how large they are.
pub(crate) fn check(
    shape: &AttentionShape,
    extent: Extent,
    given: &Given,
    q: Matrix,
    cache: KvCache,
    table: BlockTable,
    out: Matrix,
) -> Result<(), Error> {
    for (what, matrix) in [("q", q), ("the result", out)] {
        let columns = shape.row_elements();
        let why = if matrix.columns != columns {
            format!("has {} columns, the heads {columns}", matrix.columns)
        } else if matrix.rows < extent.rows {
            format!("has {} rows, the plan touches {}", matrix.rows, extent.rows)
        } else if matrix.stride < columns || !matrix.stride.is_multiple_of(8) {
            format!("has a stride of {}; it must be a multiple of 8 and at least {columns}", matrix.stride)
        } else {
            address(matrix.address, 16)
        };
        if !why.is_empty() {
            return Err(Error::shape(what, why));
        }
    }
    for (what, unit, count, needed, address) in [
        ("the KV cache", "blocks", cache.blocks, extent.blocks, address(cache.address, 16)),
        ("the block table", "entries", table.entries, extent.entries, address(table.address, 4)),
    ] {
        if count < needed {
            return Err(Error::shape(what, format!("has {count} {unit}, the plan touches {needed}")));
        }
        if !address.is_empty() {
            return Err(Error::shape(what, address));
        }
    }
    given.rows.fetch_min(q.rows.min(out.rows), Ordering::Relaxed);
    given.blocks.fetch_min(cache.blocks, Ordering::Relaxed);
    given.entries.fetch_min(table.entries, Ordering::Relaxed);
    Ok(())
}

/// What is wrong with an address; nothing if it is right.
fn address(address: u64, alignment: u64) -> String {
    if address == 0 || !address.is_multiple_of(alignment) {
        return format!("address {address:#x} is null or not a multiple of {alignment}");
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    const SHAPE: AttentionShape = AttentionShape { element: Element::Bf16, heads: 8, kv_heads: 2, head_dim: 64 };
    const EXTENT: Extent = Extent { rows: 3, blocks: 10, entries: 7 };
    const Q: Matrix = Matrix { address: 4096, rows: 3, columns: 512, stride: 520 };
    const CACHE: KvCache = KvCache { address: 4096, blocks: 10 };
    const TABLE: BlockTable = BlockTable { address: 4, entries: 7 };

    #[test]
    fn operands_smaller_than_the_plan_or_misaligned_are_refused() {
        let given = Given::nothing();
        let check = |q, cache, table, out| check(&SHAPE, EXTENT, &given, q, cache, table, out);
        assert!(check(Q, CACHE, TABLE, Q).is_ok());
        for bad in [
            Matrix { rows: 2, ..Q },
            Matrix { columns: 256, ..Q },
            Matrix { stride: 504, ..Q },
            Matrix { stride: 516, ..Q },
            Matrix { address: 8, ..Q },
            Matrix { address: 0, ..Q },
        ] {
            for refused in [check(bad, CACHE, TABLE, Q), check(Q, CACHE, TABLE, bad)] {
                assert!(matches!(refused, Err(Error::Shape { .. })), "{bad:?}");
            }
        }
        for bad in [KvCache { blocks: 9, ..CACHE }, KvCache { address: 24, ..CACHE }] {
            assert!(check(Q, bad, TABLE, Q).is_err(), "{bad:?}");
        }
        assert!(check(Q, CACHE, BlockTable { address: 12, ..TABLE }, Q).is_ok(), "entries are words");
        for bad in [
            BlockTable { entries: 6, ..TABLE },
            BlockTable { address: 0, ..TABLE },
            BlockTable { address: 6, ..TABLE },
            BlockTable { address: 5, ..TABLE },
        ] {
            assert!(check(Q, CACHE, bad, Q).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_replaced_plan_may_touch_what_every_launch_was_given_and_no_more() {
        let given = Given::nothing();
        let large = Extent { rows: 5, blocks: 11, entries: 8 };
        assert!(given.allows(large).is_ok(), "nothing was launched");
        let roomy = Matrix { rows: 9, ..Q };
        let cache = KvCache { blocks: 20, ..CACHE };
        check(&SHAPE, EXTENT, &given, roomy, cache, BlockTable { entries: 8, ..TABLE }, roomy).expect("they fit");
        assert!(given.allows(large).is_ok());
        check(&SHAPE, EXTENT, &given, roomy, CACHE, TABLE, roomy).expect("they fit too");
        assert!(given.allows(EXTENT).is_ok());
        assert!(given.allows(large).is_err());
    }

    #[test]
    fn the_smallest_of_each_operand_bounds_a_replaced_plan() {
        let roomy = Matrix { rows: 9, ..Q };
        let (cache, table) = (KvCache { blocks: 20, ..CACHE }, BlockTable { entries: 20, ..TABLE });
        let one_more = [
            Extent { rows: EXTENT.rows + 1, ..EXTENT },
            Extent { blocks: EXTENT.blocks + 1, ..EXTENT },
            Extent { entries: EXTENT.entries + 1, ..EXTENT },
        ];
        for (tight, (q, cache, table, out)) in [
            (None, (roomy, cache, table, roomy)),
            (Some(0), (Q, cache, table, roomy)),
            (Some(0), (roomy, cache, table, Q)),
            (Some(1), (roomy, CACHE, table, roomy)),
            (Some(2), (roomy, cache, TABLE, roomy)),
        ] {
            let given = Given::nothing();
            check(&SHAPE, EXTENT, &given, q, cache, table, out).expect("they fit");
            for (index, &extent) in one_more.iter().enumerate() {
                assert_eq!(given.allows(extent).is_err(), tight == Some(index), "{extent:?} of {given:?}");
            }
        }
    }
}
