//! The tensor library's devices.

use candle_core::Device;

use crate::engine::Place;
use crate::error::{Error, Result};
use crate::model::source::one_line;

/// The device of a place.
///
/// # Errors
/// One that is not in this build, or not there.
pub fn open(place: Place) -> Result<Device> {
    match place {
        Place::Cpu => Ok(Device::Cpu),
        Place::Cuda(number) if cfg!(feature = "cuda-training") => {
            Device::new_cuda(number).map_err(|e| {
                Error::Usage(format!(
                    "the card cuda:{number} does not open: {}",
                    one_line(e)
                ))
            })
        }
        Place::Metal => Device::new_metal(0).map_err(|e| {
            let why = one_line(e);
            Error::Usage(format!("Apple's graphics processor does not open: {why}"))
        }),
        Place::Cuda(number) => Err(Error::Usage(format!(
            "tuning on `cuda:{number}` is not in this build: build it with `--features \
             cuda-training`, or use --device cpu"
        ))),
    }
}

/// Bytes that the device can still give, where it says so.
pub fn free_memory(device: &Device) -> Option<usize> {
    match device {
        Device::Cpu => crate::memory::available(),
        #[cfg(feature = "cuda-training")]
        Device::Cuda(card) => {
            let context = card.cuda_stream().context().clone();
            context.mem_get_info().ok().map(|(free, _)| free)
        }
        _ => None,
    }
}
