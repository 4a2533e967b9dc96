//! Where a model's numbers come from.

use crate::Error;

/// The seven projections of a layer that an adapter may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention's output.
    O,
    /// The MLP's gate.
    Gate,
    /// The MLP's first linear part.
    Up,
    /// The MLP's output.
    Down,
}

impl Projection {
    /// All seven, in the order in which an adapter holds them.
    pub const ALL: [Projection; 7] = [
        Projection::Q,
        Projection::K,
        Projection::V,
        Projection::O,
        Projection::Gate,
        Projection::Up,
        Projection::Down,
    ];
}

/// One weight tensor of the model, row-major, as Hugging Face stores it: a projection is \[outputs\]\[inputs\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tensor {
    /// \[vocab\]\[hidden\].
    Embedding,
    /// \[hidden\], before attention.
    AttentionNorm {
        /// From 0.
        layer: u32,
    },
    /// \[hidden\], before the MLP.
    MlpNorm {
        /// From 0.
        layer: u32,
    },
    /// \[outputs\]\[inputs\].
    Projection {
        /// From 0.
        layer: u32,
        /// Which of the seven.
        projection: Projection,
    },
    /// \[hidden\], before the LM head.
    FinalNorm,
    /// \[vocab\]\[hidden\].
    LmHead,
}

/// Where the model's weights come from.
#[non_exhaustive]
pub enum ModelWeights<'a> {
    /// Drawn on the GPU, uniform, scaled so that activations keep their size over the layers; norms are ones.
    Random {
        /// The same seed gives the same weights.
        seed: u64,
    },
    /// Asked for tensor by tensor: bits of the element's format, of the length that the shape says.
    Given(&'a mut dyn FnMut(Tensor) -> Result<Vec<u16>, Error>),
}

/// Which factor of an adapter's pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Half {
    /// A\[inputs\]\[rank\], the transpose of peft's `lora_A`.
    A,
    /// B\[rank\]\[outputs\], the transpose of peft's `lora_B`.
    B,
}

/// Where an adapter's weights come from.
#[non_exhaustive]
pub enum AdapterWeights<'a> {
    /// Drawn on the GPU, uniform, scaled to change activations by a few percent.
    Random {
        /// The same seed gives the same weights.
        seed: u64,
    },
    /// Asked for by layer, projection and half: bits of the element's format, row-major.
    Given(&'a mut dyn FnMut(u32, Projection, Half) -> Result<Vec<u16>, Error>),
}
