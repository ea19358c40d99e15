//! Ridge regression from standardised features to a length, on whichever scale suits: the line
//! that `ridge` puts on hidden states and `encoder` on a sentence's vector.

use std::path::Path;

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::fitted_file::{self, FittedFile, tensor};
use super::length_scale::LengthScale;
use super::unit_of;

const FILE: &str = "ridge.safetensors";

/// A fitted line: features -> length on a scale.
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
    length_scale: LengthScale,
    intercept: f64,
    /// No prediction exceeds this (the longest training label).
    limit: f64,
}

/// Standardised features, ready to be solved for any penalty.
pub(super) struct System {
    mean: Vec<f64>,
    scale: Vec<f64>,
    gram: DMatrix<f64>,
    /// A side a scale, in the order of [`LengthScale::ALL`].
    sides: [(DVector<f64>, Ends); 3],
}

impl System {
    pub(super) fn new(rows: &[&[f32]], labels: &[f64]) -> System {
        let (n, d) = (rows.len(), rows[0].len());
        let column = |j: usize| rows.iter().map(move |s| f64::from(s[j]));
        let mean: Vec<f64> = (0..d).map(|j| column(j).sum::<f64>() / n as f64).collect();
        let scale: Vec<f64> = (0..d)
            .map(|j| {
                let variance = column(j).map(|x| (x - mean[j]).powi(2)).sum::<f64>() / n as f64;
                unit_of(variance)
            })
            .collect();
        let x = DMatrix::from_fn(n, d, |i, j| (f64::from(rows[i][j]) - mean[j]) / scale[j]);
        let limit = labels.iter().copied().fold(1.0, f64::max);
        let sides = LengthScale::ALL.map(|length_scale| {
            let on_scale = || labels.iter().map(|l| length_scale.of(*l));
            let intercept = on_scale().sum::<f64>() / n as f64;
            let y = DVector::from_iterator(n, on_scale().map(|l| l - intercept));
            let ends = Ends {
                length_scale,
                intercept,
                limit,
            };
            (x.tr_mul(&y), ends)
        });
        System {
            gram: x.tr_mul(&x),
            sides,
            mean,
            scale,
        }
    }

    /// The line of every scale.
    pub(super) fn solve(&self, penalty: f64) -> Result<[RidgeFit; 3]> {
        let d = self.mean.len();
        let penalised = &self.gram + DMatrix::identity(d, d) * penalty;
        let factor = penalised
            .cholesky()
            .ok_or_else(|| Error::Numeric("the features make a singular system".into()))?;
        Ok(self.sides.each_ref().map(|(side, ends)| RidgeFit {
            mean: self.mean.clone(),
            scale: self.scale.clone(),
            weights: factor.solve(side).iter().copied().collect(),
            ends: *ends,
        }))
    }
}

impl RidgeFit {
    /// Numbers that a row has.
    pub fn features(&self) -> usize {
        self.weights.len()
    }

    /// The scale on which lengths were learnt.
    pub fn length_scale(&self) -> LengthScale {
        self.ends.length_scale
    }

    /// A line of the same scale, fitted on other rows.
    ///
    /// # Errors
    /// Features that make a singular system.
    pub(super) fn again(&self, rows: &[&[f32]], labels: &[f64], penalty: f64) -> Result<RidgeFit> {
        let mut lines = System::new(rows, labels).solve(penalty)?.into_iter();
        lines
            .find(|line| line.length_scale() == self.length_scale())
            .ok_or_else(|| Error::Numeric("no line of that scale".into()))
    }

    /// Tokens predicted from a row.
    pub fn predict(&self, row: &[f32]) -> f64 {
        let value = self.ends.intercept
            + row
                .iter()
                .enumerate()
                .map(|(j, x)| (f64::from(*x) - self.mean[j]) / self.scale[j] * self.weights[j])
                .sum::<f64>();
        self.ends
            .length_scale
            .tokens(value)
            .clamp(1.0, self.ends.limit)
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

    /// Reads what training left in a predictor's folder.
    ///
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
        let value = |row: &[f32; 3]| 3.0 + 0.3 * f64::from(row[0]) - 0.2 * f64::from(row[1]);
        let views: Vec<&[f32]> = rows.iter().map(<[f32; 3]>::as_slice).collect();
        for (place, scale) in LengthScale::ALL.into_iter().enumerate() {
            let labels: Vec<f64> = rows.iter().map(|r| scale.tokens(value(r))).collect();
            let lines = System::new(&views, &labels).solve(1e-6).unwrap();
            let fitted = &lines[place];
            assert_eq!(fitted.length_scale(), scale);
            for (row, label) in rows.iter().zip(&labels) {
                assert!((fitted.predict(row) / label - 1.0).abs() < 1e-3);
            }
            assert_eq!(&fitted.again(&views, &labels, 1e-6).unwrap(), fitted);
        }
        let labels: Vec<f64> = rows.iter().map(|r| value(r).exp()).collect();
        let [fitted, ..] = System::new(&views, &labels).solve(1e-6).unwrap();
        // Beyond what was seen, no further than the longest.
        assert!(fitted.predict(&[100.0, 0.0, 1.0]) <= labels.iter().copied().fold(1.0, f64::max));
        let dir = tempfile::tempdir().unwrap();
        fitted.write(dir.path()).unwrap();
        assert_eq!(RidgeFit::read(dir.path()).unwrap(), fitted);
        std::fs::write(dir.path().join(FILE), b"broken").unwrap();
        assert!(RidgeFit::read(dir.path()).is_err());
    }
}
