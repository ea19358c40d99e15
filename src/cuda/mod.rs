//! Llama on an NVIDIA card: weights, keys and values in bf16, sums and the residual stream in
//! f32; only drawn tokens come back. Products of more than four rows are cuBLAS's, everything
//! else are the kernels of `kernels.cu`, compiled at run time for the model and the card.
//!
//! Unlike on the CPU, a row's logits may differ in their last bits between batches of different
//! sizes: the products of one row and of many are summed in different orders.

pub mod check;
mod decoder;
mod device;
mod kernels;
mod llama;
mod pages;
mod weights;

pub use device::Device;
pub use llama::CudaLlama;
