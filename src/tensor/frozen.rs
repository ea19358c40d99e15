//! Frozen matrices in the form that memory allows: dense, or quantized in blocks and widened
//! whenever they are used.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How frozen weights are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In the type that products are computed in.
    #[default]
    Dense,
    /// 8.5 bits a weight: blocks of 32 eight-bit integers with a scale (llama.cpp's Q8_0).
    #[value(name = "q8_0")]
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight: blocks of 256 four-bit integers (llama.cpp's Q4_K); matrices whose
    /// rows are no multiple of 256 are kept in Q8_0.
    #[value(name = "q4_k")]
    #[serde(rename = "q4_k")]
    Q4K,
}

impl Storage {
    /// The name in files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Storage::Dense => "dense",
            Storage::Q8_0 => "q8_0",
            Storage::Q4K => "q4_k",
        }
    }

    /// Of the blocks of a matrix with rows of so many weights; none for dense ones.
    ///
    /// # Errors
    /// Rows that no block divides.
    fn blocks(self, row: usize) -> Result<Option<GgmlDType>> {
        let found = match self {
            Storage::Dense => return Ok(None),
            Storage::Q4K if row.is_multiple_of(256) => GgmlDType::Q4K,
            _ if row.is_multiple_of(32) => GgmlDType::Q8_0,
            _ => {
                return Err(Error::Usage(format!(
                    "rows of {row} weights cannot be quantized in blocks of 32: use \
                     --frozen-weights dense"
                )));
            }
        };
        Ok(Some(found))
    }

    /// Bytes of a matrix, dense ones in `dtype`.
    ///
    /// # Errors
    /// Rows that no block divides.
    pub fn bytes(self, (out, row): (usize, usize), dtype: DType) -> Result<usize> {
        Ok(match self.blocks(row)? {
            None => out * row * dtype.size_in_bytes(),
            Some(blocks) => out * row / blocks.block_size() * blocks.type_size(),
        })
    }
}

/// `W` `[out, in]`, frozen: `x W^T` forward, `dy W` backward.
pub struct Frozen {
    weight: Weight,
    /// Products are computed in this type.
    dtype: DType,
}

enum Weight {
    Dense(Tensor),
    Quantized(QTensor),
}

impl Frozen {
    /// Takes an f32 matrix on the CPU to `device`.
    ///
    /// # Errors
    /// No memory there; rows that no block divides.
    pub fn new(matrix: &Tensor, storage: Storage, dtype: DType, device: &Device) -> Result<Frozen> {
        let (_, row) = matrix.dims2()?;
        let weight = match storage.blocks(row)? {
            None => Weight::Dense(matrix.to_dtype(dtype)?.to_device(device)?),
            Some(blocks) => Weight::Quantized(QTensor::quantize_onto(matrix, blocks, device)?),
        };
        Ok(Frozen { weight, dtype })
    }

    /// The matrix in the type of the products.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn widened(&self) -> candle_core::Result<Tensor> {
        match &self.weight {
            Weight::Dense(tensor) => Ok(tensor.clone()),
            Weight::Quantized(blocks) => blocks.dequantize(&blocks.device())?.to_dtype(self.dtype),
        }
    }

    /// `x W^T` of rows `x` `[rows, in]`, f32.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let weight = self.widened()?;
        x.to_dtype(self.dtype)?
            .matmul(&weight.t()?)?
            .to_dtype(DType::F32)
    }

    /// The gradient of `x` from that of the product, f32.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn backward(&self, dy: &Tensor) -> candle_core::Result<Tensor> {
        let weight = self.widened()?;
        dy.to_dtype(self.dtype)?
            .contiguous()?
            .matmul(&weight)?
            .to_dtype(DType::F32)
    }

    /// Rows of the matrix by their numbers, f32: a lookup.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn rows(&self, numbers: &Tensor) -> candle_core::Result<Tensor> {
        self.widened()?
            .index_select(numbers, 0)?
            .to_dtype(DType::F32)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        match &self.weight {
            Weight::Dense(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Weight::Quantized(blocks) => blocks.storage_size_in_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::noise;

    #[test]
    fn quantized_products_are_near_and_take_what_they_say() {
        let matrix = Tensor::from_vec(noise(64 * 256, 1), (64, 256), &Device::Cpu).unwrap();
        let x = Tensor::from_vec(noise(3 * 256, 2), (3, 256), &Device::Cpu).unwrap();
        let dy = Tensor::from_vec(noise(3 * 64, 3), (3, 64), &Device::Cpu).unwrap();
        let size = |t: &Tensor| {
            t.sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        let of = |storage, dtype| Frozen::new(&matrix, storage, dtype, &Device::Cpu).unwrap();
        let exact = of(Storage::Dense, DType::F32);
        for (storage, dtype, most) in [
            (Storage::Dense, DType::BF16, 5e-3),
            (Storage::Q8_0, DType::F32, 8e-3),
            (Storage::Q4K, DType::F32, 0.09),
        ] {
            let near = of(storage, dtype);
            for (a, b) in [
                (exact.forward(&x).unwrap(), near.forward(&x).unwrap()),
                (exact.backward(&dy).unwrap(), near.backward(&dy).unwrap()),
            ] {
                let error = (size(&(&a - b).unwrap()) / size(&a)).sqrt();
                assert!(error > 0.0 && error < most, "{storage:?}: {error}");
            }
            assert_eq!(near.bytes(), storage.bytes((64, 256), dtype).unwrap());
        }
        // Rows of 96: eight bits where four cannot be.
        let narrow = Tensor::from_vec(noise(8 * 96, 1), (8, 96), &Device::Cpu).unwrap();
        let kept = Frozen::new(&narrow, Storage::Q4K, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(kept.bytes(), 8 * 3 * 34);
        let odd = Tensor::from_vec(noise(8 * 40, 1), (8, 40), &Device::Cpu).unwrap();
        let refused = Frozen::new(&odd, Storage::Q8_0, DType::F32, &Device::Cpu).err();
        assert!(refused.unwrap().to_string().contains("--frozen-weights"));
    }
}
