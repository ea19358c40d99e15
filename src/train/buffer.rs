//! Memory of a training step: taken from the system once and kept, since fresh pages are
//! cleared by the kernel, which took most of a step's time when every tensor was its own.

use crate::error::{Error, Result};
use crate::kernel::lane::WIDTH;
use crate::kernel::lines::{Lines, floats, floats_mut};

/// Floats that grow and never shrink; what they hold after growing is not said.
#[derive(Default)]
pub(super) struct Buffer {
    lines: Option<Lines>,
    len: usize,
}

impl Buffer {
    /// Makes room for `len` floats, and these the buffer's.
    pub(super) fn resize(&mut self, len: usize) -> Result<()> {
        let lines = len.div_ceil(WIDTH);
        if self.lines.as_ref().is_none_or(|l| l.len() < lines) {
            // The old ones first: both at once may be too much.
            self.lines = None;
            let fresh = Lines::zeroed(lines, true).map_err(|e| {
                Error::Memory(format!(
                    "no memory for a training step: {e}; use a smaller --micro-batch-size"
                ))
            })?;
            self.lines = Some(fresh);
        }
        self.len = len;
        Ok(())
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.lines.as_ref().map_or(&[], |l| &floats(l)[..self.len])
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.lines {
            Some(lines) => &mut floats_mut(lines)[..self.len],
            None => &mut [],
        }
    }
}
