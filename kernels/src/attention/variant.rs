//! The compiled forms of the attention kernels.

use crate::Element;
use crate::compile::Unit;

/// One compiled form of one of the two kernels. The numbers reach the sources as definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// `decode_attention.cu`.
    Decode {
        /// Number format.
        element: Element,
        /// Width of a head.
        head_dim: u32,
        /// KV blocks in a warp's ring.
        depth: u32,
    },
    /// `prefill_attention.cu`.
    Prefill {
        /// Number format.
        element: Element,
        /// Width of a head.
        head_dim: u32,
        /// Fragments of 16 places a warp: tiles of 64 places with one, of 128 with two.
        fragments: u32,
        /// Whether the keys of a tile may be cut.
        split: bool,
    },
}

/// Warps a block, of both kernels.
pub(crate) const WARPS: u32 = 4;

/// Threads a block, of both kernels.
pub(crate) const THREADS: u32 = WARPS * 32;

/// Depths of a warp's ring that the decode kernel is compiled for, the one that plans prefer first: 16 KiB a warp are
/// enough to hide the latency of memory, and more of them bring nothing.
pub(crate) fn depths(head_dim: u32) -> [u32; 2] {
    if head_dim == 64 { [4, 6] } else { [2, 3] }
}

impl Variant {
    /// Every variant that a plan may choose.
    pub fn all() -> impl Iterator<Item = Variant> {
        Element::ALL.into_iter().flat_map(|element| {
            [64, 128].into_iter().flat_map(move |head_dim| {
                let decode =
                    depths(head_dim).into_iter().map(move |depth| Variant::Decode { element, head_dim, depth });
                let prefill = [(1, false), (2, false), (1, true), (2, true)].into_iter();
                let prefill =
                    prefill.map(move |(fragments, split)| Variant::Prefill { element, head_dim, fragments, split });
                decode.chain(prefill)
            })
        })
    }

    /// The kernel's name.
    pub fn kernel(self) -> &'static str {
        match self {
            Variant::Decode { .. } => "decode_attention",
            Variant::Prefill { .. } => "prefill_attention",
        }
    }

    /// What to compile for an architecture (`sm_80`, `sm_90a`, …).
    pub fn unit(self, architecture: &str) -> Unit {
        Unit { source: self.source(), architecture: architecture.to_owned(), defines: self.defines() }
    }

    pub(crate) fn source(self) -> &'static str {
        match self {
            Variant::Decode { .. } => "decode_attention.cu",
            Variant::Prefill { .. } => "prefill_attention.cu",
        }
    }

    pub(crate) fn defines(self) -> Vec<(&'static str, String)> {
        let (element, head_dim, last) = match self {
            Variant::Decode { element, head_dim, depth } => (element, head_dim, vec![("DEPTH", depth.to_string())]),
            Variant::Prefill { element, head_dim, fragments, split } => {
                (element, head_dim, vec![("FRAGMENTS", fragments.to_string()), ("SPLIT", u32::from(split).to_string())])
            }
        };
        let mut defines = vec![("ELEMENT", element.device_name().to_owned()), ("HEAD_DIM", head_dim.to_string())];
        defines.extend(last);
        defines
    }

    /// Dynamic shared memory a block. `queries`: query heads that share a KV head.
    pub fn shared_bytes(self, queries: u32) -> u32 {
        match self {
            Variant::Decode { head_dim, depth, .. } => {
                let unit = 2 * 16 * head_dim * 2;
                let queries = queries.min(QUERIES_MAX);
                let buffers = if queries <= 4 { 2 } else { 1 };
                let exchange = buffers * WARPS * queries * ((head_dim + 4) * 4 + 8);
                WARPS * depth * unit + exchange + 16
            }
            Variant::Prefill { head_dim, fragments, .. } => {
                let row = head_dim * 2;
                WARPS * 16 * fragments * row + 2 * 2 * 64 * row
            }
        }
    }
}

/// Query heads that one unit of decode work holds.
pub(crate) const QUERIES_MAX: u32 = 8;
