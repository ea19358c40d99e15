//! What a fitted predictor is stored as: one safetensors file, its settings as JSON in the
//! header, so that numbers and settings cannot come apart.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::persist;

const SETTINGS: &str = "settings";

/// Writes settings and tensors to `path` in one step.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, settings: &impl Serialize, tensors: &[(&str, Tensor)]) -> Result<()> {
    let cannot =
        |e: &dyn std::fmt::Display| Error::malformed(path, format!("cannot be written: {e}"));
    let text = serde_json::to_string(settings).map_err(|e| cannot(&e))?;
    let header = HashMap::from([(SETTINGS.to_string(), text)]);
    let tensors: BTreeMap<&str, &Tensor> = tensors.iter().map(|(name, t)| (*name, t)).collect();
    let bytes = safetensors::serialize(tensors, Some(header)).map_err(|e| cannot(&e))?;
    persist::write(path, &bytes)
}

/// A file that was read back.
pub struct FittedFile<S> {
    pub settings: S,
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
}

impl<S: DeserializeOwned> FittedFile<S> {
    /// Reads settings and tensors.
    ///
    /// # Errors
    /// A file that is missing, damaged, or not one of these.
    pub fn read(path: &Path) -> Result<FittedFile<S>> {
        let bytes = crate::regular_file::bytes(path)?;
        let damaged = |why: String| Error::malformed(path, format!("{why}: train again"));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|e| damaged(format!("is damaged ({e})")))?;
        let text = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get(SETTINGS))
            .ok_or_else(|| damaged("does not state its settings".into()))?;
        let settings = serde_json::from_str(text)
            .map_err(|e| damaged(format!("states settings that make no sense ({e})")))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| damaged(format!("is damaged ({e})")))?;
        Ok(FittedFile {
            settings,
            path: path.to_path_buf(),
            tensors,
        })
    }

    /// The error of a file that is not what it should be.
    pub fn damaged(&self, why: &str) -> Error {
        Error::malformed(&self.path, format!("{why}: train again"))
    }

    fn vector(&self, name: &str, dtype: DType) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .filter(|t| t.rank() == 1 && t.dtype() == dtype)
            .ok_or_else(|| self.damaged(&format!("has no vector `{name}`")))
    }

    /// A vector of f64, all finite.
    ///
    /// # Errors
    /// None of that name, or values that are not finite.
    pub fn f64s(&self, name: &str) -> Result<Vec<f64>> {
        let values: Vec<f64> = self.vector(name, DType::F64)?.to_vec1()?;
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(values),
            false => Err(self.damaged(&format!("holds values in `{name}` that are not finite"))),
        }
    }

    /// A vector of f32, all finite.
    ///
    /// # Errors
    /// None of that name, or values that are not finite.
    pub fn f32s(&self, name: &str) -> Result<Vec<f32>> {
        let values: Vec<f32> = self.vector(name, DType::F32)?.to_vec1()?;
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(values),
            false => Err(self.damaged(&format!("holds values in `{name}` that are not finite"))),
        }
    }

    /// A vector of u32.
    ///
    /// # Errors
    /// None of that name.
    pub fn u32s(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.vector(name, DType::U32)?.to_vec1()?)
    }

    /// A vector of bytes.
    ///
    /// # Errors
    /// None of that name.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        Ok(self.vector(name, DType::U8)?.to_vec1()?)
    }
}

/// A vector as a tensor, for [`write`].
///
/// # Errors
/// None in practice: the tensor library's.
pub fn tensor<T: candle_core::WithDType>(values: &[T]) -> Result<Tensor> {
    Ok(Tensor::from_slice(values, values.len(), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let tensors = [
            ("x", tensor(&[1.0f64, 2.0]).unwrap()),
            ("n", tensor(&[1.0f64, f64::NAN]).unwrap()),
            ("none", tensor::<f32>(&[]).unwrap()),
            ("k", tensor(&[7u32]).unwrap()),
        ];
        write(&path, &("settings", 3), &tensors).unwrap();
        let file: FittedFile<(String, u32)> = FittedFile::read(&path).unwrap();
        assert_eq!(file.settings, ("settings".to_string(), 3));
        assert_eq!(file.f64s("x").unwrap(), [1.0, 2.0]);
        assert_eq!(file.u32s("k").unwrap(), [7]);
        assert!(file.f32s("none").unwrap().is_empty());
        let message = file.f64s("n").unwrap_err().to_string();
        assert!(message.contains("not finite") && message.contains("train again"));
        assert!(file.f64s("k").is_err());
        assert!(FittedFile::<u32>::read(&path).is_err());

        let bytes = std::fs::read(&path).unwrap();
        for end in [0, 7, 40, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let error = FittedFile::<(String, u32)>::read(&path).err().unwrap();
            assert!(error.to_string().contains("train again"), "{error}");
        }
    }
}
