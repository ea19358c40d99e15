//! The tensor library's devices.

use candle_core::Device;

use crate::engine::Place;
use crate::error::{Error, Result};

/// The device of a place.
///
/// # Errors
/// One that is not in this build, or not there.
pub fn open(place: Place) -> Result<Device> {
    match place {
        Place::Cpu => Ok(Device::Cpu),
        Place::Cuda(number) if cfg!(feature = "cuda-training") => Device::new_cuda(number)
            .map_err(|e| Error::Usage(format!("the card cuda:{number} does not open: {e}"))),
        Place::Cuda(number) => Err(Error::Usage(format!(
            "tuning on `cuda:{number}` is not in this build: build it with `--features \
             cuda-training`, or use --device cpu"
        ))),
    }
}

/// Bytes that the device can still give, where it says so.
pub fn free_memory(device: &Device) -> Option<usize> {
    match device {
        Device::Cpu => crate::model::memory::available(),
        #[cfg(feature = "cuda-training")]
        Device::Cuda(card) => {
            let context = card.cuda_stream().context().clone();
            context.mem_get_info().ok().map(|(free, _)| free)
        }
        _ => None,
    }
}
