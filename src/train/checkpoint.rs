//! A training run on disk: adapter matrices, moments and the number of steps done, in one
//! safetensors file written aside and renamed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::persist;

use super::Training;

impl Training {
    /// Writes what is needed to continue.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        for (name, var) in self.model.vars() {
            tensors.insert(format!("var.{name}"), var.as_tensor().clone());
        }
        for (name, (m, v)) in self.optimizer.moments() {
            tensors.insert(format!("m.{name}"), m.clone());
            tensors.insert(format!("v.{name}"), v.clone());
        }
        let header = HashMap::from([("step".to_string(), self.step.to_string())]);
        let bytes = safetensors::serialize(&tensors, Some(header))
            .map_err(|e| Error::malformed(path, format!("cannot be written: {e}")))?;
        persist::write(path, &bytes)
    }

    /// Continues from what [`Training::save`] wrote.
    ///
    /// # Errors
    /// A file that is not such a checkpoint, or one of another adapter.
    pub fn restore(&mut self, path: &Path) -> Result<()> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let wrong =
            |what: String| Error::malformed(path, format!("{what}: delete it to start anew"));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|e| wrong(format!("is not a checkpoint ({e})")))?;
        let step = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get("step")?.parse().ok())
            .ok_or_else(|| wrong("does not say how many steps were done".into()))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| wrong(format!("is not a checkpoint ({e})")))?;
        let take = |key: String, like: &Tensor| {
            tensors
                .get(&key)
                .filter(|t| t.dims() == like.dims())
                .cloned()
                .ok_or_else(|| wrong(format!("has no `{key}` of the right shape")))
        };
        let mut moments = BTreeMap::new();
        for (name, var) in self.model.vars() {
            let value = take(format!("var.{name}"), var.as_tensor())?;
            if step > 0 {
                let m = take(format!("m.{name}"), var.as_tensor())?;
                let v = take(format!("v.{name}"), var.as_tensor())?;
                moments.insert(name.clone(), (m, v));
            }
            var.set(&value)?;
        }
        self.optimizer.restore(step, moments);
        self.step = step;
        Ok(())
    }
}
