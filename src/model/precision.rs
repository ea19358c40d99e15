//! With how many bits a model computes.

use crate::kernel::Arithmetic;
use crate::kernel::pages::Element;

/// With how many bits a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Precision {
    /// Of the products with weights.
    pub products: Arithmetic,
    /// Of keys and values in the cache.
    pub cache: Element,
}

impl Precision {
    /// Everything in f32: the default, and what results are quoted in.
    pub const F32: Precision = Precision {
        products: Arithmetic::F32,
        cache: Element::F32,
    };
    /// The name that `--dtype` and files use.
    pub fn name(self) -> &'static str {
        match self.products {
            Arithmetic::F32 => "f32",
            Arithmetic::Bf16 => "bf16",
        }
    }

    /// Products in bf16, keys and values in f16: faster, half the memory, other answers.
    pub const BF16: Precision = Precision {
        products: Arithmetic::Bf16,
        cache: Element::F16,
    };
}
