//! Parts of a Llama in the tensor library's operations, with their gradients written out: on
//! its CPU backend, on NVIDIA cards (`cuda-training`) and on Apple's (`metal`). The library's
//! own fused operations cut its gradient graph without a word, and a graph would keep every
//! intermediate; here a block's gradient is computed from its input alone.
//!
//! The residual stream, norms, rotation and softmax are f32; products with frozen weights and
//! attention's products are in the type they are asked for.

pub mod attention;
pub mod decoder;
pub mod device;
pub mod frozen;
pub mod ops;
pub mod weights;

pub use attention::Layout;
pub use frozen::{Frozen, Storage};
