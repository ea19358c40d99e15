//! A card: its context, one stream for everything, cuBLAS, and what it can do.

use std::sync::Arc;

use cudarc::cublas::{self, CudaBlas};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DriverError, sys};

use crate::error::{Error, Result};

use super::kernels::Kernels;

/// An NVIDIA card, opened.
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    name: String,
}

/// How the result of a product is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Bf16,
    F32,
    /// Added to the f32 that are there.
    AddF32,
}

impl Device {
    /// Opens the card of this number.
    ///
    /// # Errors
    /// No driver, no such card, a card older than bf16 (compute capability 8.0), or missing
    /// libraries; the message says which.
    pub fn open(ordinal: usize) -> Result<Device> {
        if let Some(what) = missing_library() {
            return Err(Error::Usage(format!(
                "{what} is not found: install it, set LD_LIBRARY_PATH to its folder, or use \
                 --device cpu"
            )));
        }
        let count = CudaContext::device_count().map_err(failed("counting the cards"))?;
        if ordinal >= usize::try_from(count).unwrap_or(0) {
            return Err(Error::Usage(format!(
                "there is no card cuda:{ordinal}: {count} found; use --device cpu"
            )));
        }
        let context = CudaContext::new(ordinal).map_err(failed("opening the card"))?;
        let (major, minor) = context
            .compute_capability()
            .map_err(failed("asking the card"))?;
        let name = context.name().map_err(failed("asking the card"))?;
        if major < 8 {
            return Err(Error::Usage(format!(
                "{name} has compute capability {major}.{minor}, bf16 needs 8.0: use --device cpu"
            )));
        }
        // SAFETY: everything runs on the one stream, in order; nothing needs events.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("opening a stream"))?;
        let blas = CudaBlas::new(stream.clone())
            .map_err(|e| Error::Numeric(format!("cuBLAS does not start: {e}")))?;
        Ok(Device {
            context,
            stream,
            blas,
            name,
        })
    }

    /// The card's name, as NVIDIA calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// (free, total) bytes of the card's memory.
    ///
    /// # Errors
    /// If the card does not answer.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.context
            .mem_get_info()
            .map_err(failed("asking for free memory"))
    }

    /// Multiprocessors.
    pub(super) fn processors(&self) -> Result<usize> {
        let count = self
            .context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(failed("asking the card"))?;
        Ok(usize::try_from(count).unwrap_or(1).max(1))
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Waits for all that was asked for.
    ///
    /// # Errors
    /// What went wrong on the card meanwhile.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("computing"))
    }

    /// Room for `len` values; `what` names it where there is none.
    pub(super) fn room<T: cudarc::driver::DeviceRepr>(
        &self,
        len: usize,
        what: &str,
    ) -> Result<CudaSlice<T>> {
        // SAFETY: every buffer is written before it is read (weights by their upload, pages by
        // the positions below a sequence's length, the others within the pass).
        unsafe { self.stream.alloc(len.max(1)) }.map_err(|error| {
            let (free, total) = self.memory().unwrap_or_default();
            Error::Memory(format!(
                "no memory on {} for {what} of {:.1} GB ({:.1} of {:.1} GB free): {}",
                self.name,
                (len * size_of::<T>()) as f64 / 1e9,
                free as f64 / 1e9,
                total as f64 / 1e9,
                text_of(&error)
            ))
        })
    }

    pub(super) fn upload<T: cudarc::driver::DeviceRepr>(
        &self,
        values: &[T],
        what: &str,
    ) -> Result<CudaSlice<T>> {
        let mut room = self.room(values.len(), what)?;
        self.stream
            .memcpy_htod(values, &mut room)
            .map_err(failed("copying to the card"))?;
        Ok(room)
    }

    /// `y[rows, n] = x[rows, k] * w[n, k]^T`, all row after row; `x` and `w` bf16.
    pub(super) fn product(
        &self,
        y: sys::CUdeviceptr,
        kept: Output,
        w: sys::CUdeviceptr,
        x: sys::CUdeviceptr,
        (rows, n, k): (usize, usize, usize),
    ) -> Result<()> {
        use cublas::sys::{
            cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType_t,
        };
        let one = 1f32;
        let beta = f32::from(u8::from(kept == Output::AddF32));
        let y_type = match kept {
            Output::Bf16 => cudaDataType_t::CUDA_R_16BF,
            Output::F32 | Output::AddF32 => cudaDataType_t::CUDA_R_32F,
        };
        let (rows, n, k) = (rows as i32, n as i32, k as i32);
        // SAFETY: the callers' buffers hold what the sizes say; scalars are read at the call.
        unsafe {
            cublas::result::gemm_ex(
                *self.blas.handle(),
                cublasOperation_t::CUBLAS_OP_T,
                cublasOperation_t::CUBLAS_OP_N,
                n,
                rows,
                k,
                (&raw const one).cast(),
                w as *const _,
                cudaDataType_t::CUDA_R_16BF,
                k,
                x as *const _,
                cudaDataType_t::CUDA_R_16BF,
                k,
                (&raw const beta).cast(),
                y as *mut _,
                y_type,
                n,
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|e| Error::Numeric(format!("cuBLAS: {e}")))
    }

    /// Bytes per second, read plus written, of a copy within the card's memory: the median of
    /// ten copies of 2 GiB (or a fifth of the free memory, where that is less) of random data.
    pub(super) fn copy_bandwidth(&self, kernels: &Kernels) -> Result<f64> {
        let bytes = (2 << 30).min(self.memory()?.0 / 5);
        let from = kernels.random(self, bytes / 2, 1.0, 7)?;
        let mut to = self.room::<u16>(bytes / 2, "a copy's target")?;
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let mut seconds = Vec::new();
        for _ in 0..12 {
            let begin = self.stream.record_event(flags).map_err(failed("timing"))?;
            self.stream
                .memcpy_dtod(&from, &mut to)
                .map_err(failed("copying"))?;
            let end = self.stream.record_event(flags).map_err(failed("timing"))?;
            seconds.push(f64::from(begin.elapsed_ms(&end).map_err(failed("timing"))?) / 1e3);
        }
        let seconds = &mut seconds[2..];
        seconds.sort_by(f64::total_cmp);
        Ok(2.0 * bytes as f64 / seconds[seconds.len() / 2])
    }
}

/// The library that is not there, where libraries are found when they are needed.
#[cfg(not(feature = "cuda-training"))]
fn missing_library() -> Option<&'static str> {
    // SAFETY: looking for libraries runs nothing but their initialisers.
    let there = unsafe {
        [
            (sys::is_culib_present(), "NVIDIA's driver (libcuda.so)"),
            (cublas::sys::is_culib_present(), "cuBLAS (libcublas.so.13)"),
            (
                cudarc::nvrtc::sys::is_culib_present(),
                "NVRTC (libnvrtc.so.13)",
            ),
        ]
    };
    let missing = there.into_iter().find(|(there, _)| !there);
    missing.map(|(_, what)| what)
}

/// Linked libraries are there, or the program does not start.
#[cfg(feature = "cuda-training")]
fn missing_library() -> Option<&'static str> {
    None
}

/// Turns a driver's refusal into an error that says what was being done.
pub(super) fn failed(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Numeric(format!("the card failed at {what}: {}", text_of(&error)))
}

fn text_of(error: &DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("{error:?}"),
    }
}
