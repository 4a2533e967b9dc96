//! The two 16-bit number formats of activations and weights.

use half::{bf16, f16};

/// Format of x, y and the weights. Sums and the intermediate v are always fp32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// IEEE half precision: 10 bits of mantissa.
    F16,
    /// Brain float: 7 bits of mantissa, the exponent range of fp32.
    Bf16,
}

impl Element {
    /// Both formats.
    pub const ALL: [Element; 2] = [Element::F16, Element::Bf16];

    /// `fp16` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Element::F16 => "fp16",
            Element::Bf16 => "bf16",
        }
    }

    /// The type's name in the kernel sources.
    pub fn device_name(self) -> &'static str {
        match self {
            Element::F16 => "F16",
            Element::Bf16 => "Bf16",
        }
    }

    /// The nearest value of this format, as its 16 bits.
    pub fn encode(self, value: f32) -> u16 {
        match self {
            Element::F16 => f16::from_f32(value).to_bits(),
            Element::Bf16 => bf16::from_f32(value).to_bits(),
        }
    }

    /// The value of 16 bits of this format; exact.
    pub fn decode(self, bits: u16) -> f32 {
        match self {
            Element::F16 => f16::from_bits(bits).to_f32(),
            Element::Bf16 => bf16::from_bits(bits).to_f32(),
        }
    }
}
