//! A training run on disk: trained values, moments, the best values so far and the number of
//! steps done, in one safetensors file written aside and renamed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::persist;

use super::{Best, Training};

impl Training {
    /// Names and shapes of what is trained: a checkpoint of another run has others.
    fn layout(&self) -> String {
        let entries = self.model.parameters.entries().iter();
        let lines = entries.map(|e| format!("{} {:?}\n", e.name, e.shape));
        lines.collect()
    }

    /// Writes what is needed to continue.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors: BTreeMap<&str, Tensor> = BTreeMap::new();
        let mut put = |name, values: &[f32]| -> Result<()> {
            tensors.insert(name, Tensor::new(values, &Device::Cpu)?);
            Ok(())
        };
        put("values", &self.model.parameters.values)?;
        if self.step > 0 {
            put("first_moments", &self.optimizer.first)?;
            put("second_moments", &self.optimizer.second)?;
        }
        let mut header = HashMap::from([
            ("step".to_string(), self.step.to_string()),
            ("stale".to_string(), self.stale.to_string()),
            ("layout".to_string(), self.layout()),
        ]);
        if let Some(best) = &self.best {
            put("best_values", &best.values)?;
            header.insert("best_step".into(), best.step.to_string());
            header.insert("best_loss".into(), best.loss.to_string());
        }
        let bytes = safetensors::serialize(&tensors, Some(header))
            .map_err(|e| Error::malformed(path, format!("cannot be written: {e}")))?;
        persist::write(path, &bytes)
    }

    /// Continues from what [`Training::save`] wrote.
    ///
    /// # Errors
    /// A file that is not such a checkpoint, or one of another run; nothing is changed then.
    pub fn restore(&mut self, path: &Path) -> Result<()> {
        let bytes = crate::regular_file::bytes(path)?;
        let wrong =
            |what: String| Error::malformed(path, format!("{what}: delete it to start anew"));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|e| wrong(format!("is not a checkpoint ({e})")))?;
        let header = header.metadata().clone().unwrap_or_default();
        let number = |key: &str| header.get(key).and_then(|v| v.parse::<usize>().ok());
        let step =
            number("step").ok_or_else(|| wrong("does not say how many steps were done".into()))?;
        if header.get("layout") != Some(&self.layout()) {
            return Err(wrong("was written by a run with another adapter".into()));
        }
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| wrong(format!("is not a checkpoint ({e})")))?;
        let count = self.model.parameters.values.len();
        let take = |key: &str| -> Result<Vec<f32>> {
            tensors
                .get(key)
                .filter(|t| t.dims() == [count])
                .and_then(|t| t.to_vec1().ok())
                .ok_or_else(|| wrong(format!("has no `{key}` of the right shape")))
        };
        let values = take("values")?;
        let moments = match step {
            0 => (Vec::new(), Vec::new()),
            _ => (take("first_moments")?, take("second_moments")?),
        };
        let best = match (number("best_step"), header.get("best_loss")) {
            (Some(step), Some(loss)) => Some(Best {
                step,
                loss: loss
                    .parse()
                    .map_err(|_| wrong("has a best loss that is no number".into()))?,
                values: take("best_values")?,
            }),
            _ => None,
        };
        self.model.parameters.values = values;
        self.optimizer.step = step;
        (self.optimizer.first, self.optimizer.second) = moments;
        self.step = step;
        self.best = best;
        self.stale = number("stale").unwrap_or(0);
        Ok(())
    }
}
