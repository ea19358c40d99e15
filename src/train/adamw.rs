//! AdamW with moments that can be stored, and the learning-rate schedule.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use crate::error::{Error, Result};

/// AdamW (Loshchilov and Hutter 2019), f32, one instance for all variables.
pub struct AdamW {
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    step: i32,
    /// First and second moments by variable name.
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl AdamW {
    pub fn new(weight_decay: f64) -> AdamW {
        AdamW {
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay,
            step: 0,
            moments: BTreeMap::new(),
        }
    }

    pub(super) fn moments(&self) -> &BTreeMap<String, (Tensor, Tensor)> {
        &self.moments
    }

    pub(super) fn restore(&mut self, step: usize, moments: BTreeMap<String, (Tensor, Tensor)>) {
        self.step = step as i32;
        self.moments = moments;
    }

    /// One step with learning rate `lr`.
    ///
    /// # Errors
    /// A variable without a gradient: some operation cut the graph, and training it would
    /// silently do nothing.
    pub fn step(&mut self, vars: &BTreeMap<String, Var>, grads: &Gradients, lr: f64) -> Result<()> {
        self.step += 1;
        let (b1, b2) = self.betas;
        let (c1, c2) = (1.0 - b1.powi(self.step), 1.0 - b2.powi(self.step));
        for (name, var) in vars {
            let grad = grads.0.get(name).ok_or_else(|| missing(name))?;
            let (m, v) = match self.moments.remove(name) {
                Some(moments) => moments,
                None => (grad.zeros_like()?, grad.zeros_like()?),
            };
            let m = ((m * b1)? + (grad * (1.0 - b1))?)?;
            let v = ((v * b2)? + (grad.sqr()? * (1.0 - b2))?)?;
            let update = ((&m / c1)? / ((&v / c2)?.sqrt()? + self.eps)?)?;
            let kept = (var.as_tensor() * (1.0 - lr * self.weight_decay))?;
            var.set(&(kept - (update * lr)?)?)?;
            self.moments.insert(name.clone(), (m, v));
        }
        Ok(())
    }
}

fn missing(name: &str) -> Error {
    Error::Numeric(format!(
        "`{name}` received no gradient: an operation on its way to the loss has no backward"
    ))
}

/// Gradients by variable name, summed over the micro-batches of a step.
#[derive(Default)]
pub struct Gradients(pub BTreeMap<String, Tensor>);

impl Gradients {
    /// Adds what one backward pass found.
    ///
    /// # Errors
    /// A variable without a gradient.
    pub fn add(&mut self, vars: &BTreeMap<String, Var>, store: &GradStore) -> Result<()> {
        for (name, var) in vars {
            let grad = store.get(var).ok_or_else(|| missing(name))?;
            let sum = match self.0.remove(name) {
                Some(sum) => (sum + grad)?,
                None => grad.clone(),
            };
            self.0.insert(name.clone(), sum.detach());
        }
        Ok(())
    }

    /// The Euclidean norm over all variables.
    ///
    /// # Errors
    /// Only the tensor library's own.
    pub fn norm(&self) -> Result<f64> {
        let mut squares = 0.0;
        for grad in self.0.values() {
            squares += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        Ok(squares.sqrt())
    }

    /// Scales all so that the norm is at most `limit`; returns the norm before.
    ///
    /// # Errors
    /// Only the tensor library's own.
    pub fn clip(&mut self, limit: f64) -> Result<f64> {
        let norm = self.norm()?;
        if norm > limit {
            for grad in self.0.values_mut() {
                *grad = (&*grad * (limit / norm))?;
            }
        }
        Ok(norm)
    }
}

/// Linear warm-up to 1, then half a cosine down to 0: the factor on the learning rate at
/// `step` of `total` (counted from 0).
pub fn cosine_with_warmup(step: usize, warmup: usize, total: usize) -> f64 {
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let span = total.saturating_sub(warmup).max(1);
    let progress = (step - warmup) as f64 / span as f64;
    0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn finds_the_minimum_of_a_parabola_and_clips() {
        let x = Var::from_tensor(&Tensor::new(&[4f32, -3.0], &Device::Cpu).unwrap()).unwrap();
        let vars = BTreeMap::from([("x".to_string(), x.clone())]);
        let mut optimizer = AdamW::new(0.0);
        for step in 0..400 {
            let loss = x.as_tensor().sqr().unwrap().sum_all().unwrap();
            let mut grads = Gradients::default();
            grads.add(&vars, &loss.backward().unwrap()).unwrap();
            if step == 0 {
                assert!((grads.clip(1.0).unwrap() - 10.0).abs() < 1e-4);
                assert!((grads.norm().unwrap() - 1.0).abs() < 1e-4);
            }
            optimizer.step(&vars, &grads, 0.05).unwrap();
        }
        let found: Vec<f32> = x.as_tensor().to_vec1().unwrap();
        assert!(found.iter().all(|x| x.abs() < 0.05), "{found:?}");
    }

    #[test]
    fn a_variable_off_the_graph_is_an_error() {
        let x = Var::from_tensor(&Tensor::new(1f32, &Device::Cpu).unwrap()).unwrap();
        let lost = Var::from_tensor(&Tensor::new(1f32, &Device::Cpu).unwrap()).unwrap();
        let vars = BTreeMap::from([("lost".to_string(), lost)]);
        let store = x.as_tensor().sqr().unwrap().backward().unwrap();
        let error = Gradients::default().add(&vars, &store).unwrap_err();
        assert!(error.to_string().contains("`lost`"));
    }

    #[test]
    fn the_schedule_warms_up_and_ends_at_zero() {
        assert_eq!(cosine_with_warmup(0, 4, 20), 0.25);
        assert_eq!(cosine_with_warmup(4, 4, 20), 1.0);
        assert!(cosine_with_warmup(20, 4, 20) < 1e-9);
        assert!((cosine_with_warmup(12, 4, 20) - 0.5).abs() < 1e-9);
    }
}
