//! First come, first served, with the memory of the predicted answer set aside on admission
//! (S3, Jin et al. 2023): nobody is displaced as long as the prediction holds.

use super::{Known, Policy};
use crate::schedule::Forecast;

#[derive(Debug, Clone, Copy)]
pub struct Reserving {
    /// The quantile of the forecast that memory is set aside for.
    pub at: f64,
}

impl Policy for Reserving {
    fn size(&self, forecast: &Forecast) -> f64 {
        forecast.at(self.at)
    }

    fn rank(&self, _known: &Known) -> f64 {
        0.0
    }

    fn reserves(&self, known: &Known) -> u32 {
        known.size.ceil() as u32
    }
}
