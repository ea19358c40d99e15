//! Ridge regression from standardised features to the logarithm of a length: the line that
//! `ridge` puts on hidden states and `encoder` on a sentence's vector.

use std::path::Path;

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::fitted_file::{self, FittedFile, tensor};

const FILE: &str = "ridge.safetensors";

/// A fitted line: features -> log length.
#[derive(Debug, Clone, PartialEq)]
pub struct RidgeFit {
    mean: Vec<f64>,
    scale: Vec<f64>,
    weights: Vec<f64>,
    ends: Ends,
}

/// The numbers beside the vectors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Ends {
    intercept: f64,
    /// No prediction exceeds this (the longest training label).
    limit: f64,
}

/// Standardised features, ready to be solved for any penalty.
pub(super) struct System {
    mean: Vec<f64>,
    scale: Vec<f64>,
    gram: DMatrix<f64>,
    moments: DVector<f64>,
    ends: Ends,
}

impl System {
    pub(super) fn new(rows: &[&[f32]], labels: &[f64]) -> System {
        let (n, d) = (rows.len(), rows[0].len());
        let column = |j: usize| rows.iter().map(move |s| f64::from(s[j]));
        let mean: Vec<f64> = (0..d).map(|j| column(j).sum::<f64>() / n as f64).collect();
        let scale: Vec<f64> = (0..d)
            .map(|j| {
                let variance = column(j).map(|x| (x - mean[j]).powi(2)).sum::<f64>() / n as f64;
                // A feature that never changes says nothing; do not divide by it.
                if variance > 1e-12 {
                    variance.sqrt()
                } else {
                    1.0
                }
            })
            .collect();
        let x = DMatrix::from_fn(n, d, |i, j| (f64::from(rows[i][j]) - mean[j]) / scale[j]);
        let logs: Vec<f64> = labels.iter().map(|l| l.max(1.0).ln()).collect();
        let intercept = logs.iter().sum::<f64>() / n as f64;
        let y = DVector::from_iterator(n, logs.iter().map(|l| l - intercept));
        System {
            gram: x.tr_mul(&x),
            moments: x.tr_mul(&y),
            mean,
            scale,
            ends: Ends {
                intercept,
                limit: labels.iter().copied().fold(1.0, f64::max),
            },
        }
    }

    pub(super) fn solve(&self, penalty: f64) -> Result<RidgeFit> {
        let d = self.moments.len();
        let penalised = &self.gram + DMatrix::identity(d, d) * penalty;
        let weights = penalised
            .cholesky()
            .ok_or_else(|| Error::Numeric("the features make a singular system".into()))?
            .solve(&self.moments);
        Ok(RidgeFit {
            mean: self.mean.clone(),
            scale: self.scale.clone(),
            weights: weights.iter().copied().collect(),
            ends: self.ends,
        })
    }
}

impl RidgeFit {
    /// Numbers that a row has.
    pub fn features(&self) -> usize {
        self.weights.len()
    }

    /// Tokens predicted from a row.
    pub fn predict(&self, row: &[f32]) -> f64 {
        let log = self.ends.intercept
            + row
                .iter()
                .enumerate()
                .map(|(j, x)| (f64::from(*x) - self.mean[j]) / self.scale[j] * self.weights[j])
                .sum::<f64>();
        log.exp().clamp(1.0, self.ends.limit)
    }

    /// Writes the fit into a predictor's folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let tensors = [
            ("mean", tensor(&self.mean)?),
            ("scale", tensor(&self.scale)?),
            ("weights", tensor(&self.weights)?),
        ];
        fitted_file::write(&dir.join(FILE), &self.ends, &tensors)
    }

    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(dir: &Path) -> Result<RidgeFit> {
        let file: FittedFile<Ends> = FittedFile::read(&dir.join(FILE))?;
        let fit = RidgeFit {
            mean: file.f64s("mean")?,
            scale: file.f64s("scale")?,
            weights: file.f64s("weights")?,
            ends: file.settings,
        };
        let features = fit.features();
        if fit.mean.len() != features
            || fit.scale.len() != features
            || fit.scale.contains(&0.0)
            || !fit.ends.intercept.is_finite()
            || !(fit.ends.limit >= 1.0 && fit.ends.limit.is_finite())
        {
            return Err(file.damaged("holds vectors of different sizes or numbers of no sense"));
        }
        Ok(fit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_and_survives_storage() {
        let rows: Vec<[f32; 3]> = (0..60u8)
            .map(|i| [f32::from(i % 7), f32::from(i % 5), 1.0])
            .collect();
        let length =
            |row: &[f32; 3]| (3.0 + 0.3 * f64::from(row[0]) - 0.2 * f64::from(row[1])).exp();
        let labels: Vec<f64> = rows.iter().map(length).collect();
        let views: Vec<&[f32]> = rows.iter().map(|r| r.as_slice()).collect();
        let fitted = System::new(&views, &labels).solve(1e-6).unwrap();
        for (row, label) in rows.iter().zip(&labels) {
            assert!((fitted.predict(row) / label - 1.0).abs() < 1e-3);
        }
        // Beyond what was seen, no further than the longest.
        assert!(fitted.predict(&[100.0, 0.0, 1.0]) <= labels.iter().copied().fold(1.0, f64::max));
        let dir = tempfile::tempdir().unwrap();
        fitted.write(dir.path()).unwrap();
        assert_eq!(RidgeFit::read(dir.path()).unwrap(), fitted);
        std::fs::write(dir.path().join(FILE), b"broken").unwrap();
        assert!(RidgeFit::read(dir.path()).is_err());
    }
}
