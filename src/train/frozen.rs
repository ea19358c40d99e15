//! Operations with frozen weights for candle's autograd. Candle's own matmul would compute a
//! gradient for every weight, and its fused norm has no backward at all and cuts the graph
//! without an error; these return the gradient of their input alone.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::error;
use crate::kernel::elementwise::rms_norm;
use crate::kernel::{Arithmetic, Epilogue, PackedWeights, Team};

/// `x W^T` with `W` `[out, in]` frozen, packed for both directions.
#[derive(Clone)]
pub struct FrozenLinear {
    forward: Arc<PackedWeights>,
    /// `W^T`: turns a gradient of the output into one of the input.
    backward: Arc<PackedWeights>,
    team: Arc<Team>,
}

impl FrozenLinear {
    /// Packs `weight`, row-major `[out, in]`.
    ///
    /// # Errors
    /// No memory.
    pub fn new(weight: &[f32], rows_in: usize, team: Arc<Team>) -> error::Result<FrozenLinear> {
        let out = weight.len() / rows_in;
        let mut transposed = vec![0.0; weight.len()];
        for (o, row) in weight.chunks_exact(rows_in).enumerate() {
            for (k, w) in row.iter().enumerate() {
                transposed[k * out + o] = *w;
            }
        }
        let memory = |e| error::Error::Memory(format!("no memory for training weights: {e}"));
        Ok(FrozenLinear {
            forward: Arc::new(
                PackedWeights::pack(&[weight], rows_in, Arithmetic::F32).map_err(memory)?,
            ),
            backward: Arc::new(
                PackedWeights::pack(&[&transposed], out, Arithmetic::F32).map_err(memory)?,
            ),
            team,
        })
    }

    /// `x`: `[.., in]` -> `[.., out]`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self.clone())
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        product(&self.forward, &self.team, storage, layout)
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let reversed = FrozenLinear {
            forward: self.backward.clone(),
            backward: self.forward.clone(),
            team: self.team.clone(),
        };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&reversed)?))
    }
}

fn product(
    weights: &PackedWeights,
    team: &Team,
    storage: &CpuStorage,
    layout: &Layout,
) -> Result<(CpuStorage, Shape)> {
    let x = contiguous(storage, layout)?;
    let mut dims = layout.dims().to_vec();
    let Some(last) = dims.last_mut() else {
        candle_core::bail!("a product needs at least one dimension");
    };
    if *last != weights.rows_in() {
        candle_core::bail!("rows of {last} do not fit weights of {}", weights.rows_in());
    }
    *last = weights.rows_out();
    let rows = x.len() / weights.rows_in();
    let mut y = vec![0.0; rows * weights.rows_out()];
    weights.product(team, x, rows, Epilogue::Store, &mut y);
    Ok((CpuStorage::F32(y), Shape::from(dims)))
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("frozen operations take contiguous f32 on the CPU"),
    }
}

/// RMS norm over the last dimension with a frozen weight.
#[derive(Clone)]
pub struct FrozenNorm {
    weight: Arc<Vec<f32>>,
    eps: f32,
    team: Arc<Team>,
}

impl FrozenNorm {
    pub fn new(weight: Vec<f32>, eps: f32, team: Arc<Team>) -> FrozenNorm {
        FrozenNorm {
            weight: Arc::new(weight),
            eps,
            team,
        }
    }

    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self.clone())
    }

    /// Runs `row(index, x, y)` for every row, over the team.
    fn rows(&self, count: usize, y: &mut [f32], row: impl Fn(usize, &mut [f32]) + Sync) {
        let n = self.weight.len();
        let parts: Vec<std::sync::Mutex<&mut [f32]>> =
            y.chunks_exact_mut(n).map(std::sync::Mutex::new).collect();
        self.team.for_each(count, 16, &|index| {
            let mut part = parts[index].lock().unwrap_or_else(|e| e.into_inner());
            row(index, &mut part);
        });
    }
}

impl CustomOp1 for FrozenNorm {
    fn name(&self) -> &'static str {
        "frozen-rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let n = self.weight.len();
        let mut y = vec![0.0; x.len()];
        self.rows(x.len() / n, &mut y, |index, y| {
            rms_norm(&x[index * n..(index + 1) * n], &self.weight, self.eps, y);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let backward = NormBackward(self.clone());
        let grad = grad.contiguous()?;
        Ok(Some(x.contiguous()?.apply_op2_no_bwd(&grad, &backward)?))
    }
}

/// With s = 1 / sqrt(mean(x^2) + eps) and h = grad * weight:
/// dx = s h - x s^3 mean(h x).
struct NormBackward(FrozenNorm);

impl CustomOp2 for NormBackward {
    fn name(&self) -> &'static str {
        "frozen-rms-norm-backward"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, grad) = (contiguous(s1, l1)?, contiguous(s2, l2)?);
        let weight = &*self.0.weight;
        let n = weight.len();
        let mut dx = vec![0.0; x.len()];
        self.0.rows(x.len() / n, &mut dx, |index, dx| {
            let x = &x[index * n..(index + 1) * n];
            let grad = &grad[index * n..(index + 1) * n];
            let (mut squares, mut along) = (0f32, 0f32);
            for i in 0..n {
                squares += x[i] * x[i];
                along += grad[i] * weight[i] * x[i];
            }
            let s = 1.0 / (squares / n as f32 + self.0.eps).sqrt();
            let back = s * s * s * along / n as f32;
            for i in 0..n {
                dx[i] = s * grad[i] * weight[i] - back * x[i];
            }
        });
        Ok((CpuStorage::F32(dx), l1.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Compares a gradient with central differences, element by element.
    fn check(x: &Var, loss: impl Fn(&Tensor) -> Result<Tensor>) {
        let grads = loss(x).unwrap().backward().unwrap();
        let grad: Vec<f32> = grads
            .get(x)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
        for i in 0..values.len() {
            let at = |step: f32| -> f32 {
                let mut moved = values.clone();
                moved[i] += step;
                let moved = Tensor::from_vec(moved, x.shape(), &Device::Cpu).unwrap();
                loss(&moved).unwrap().to_scalar().unwrap()
            };
            let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((difference - grad[i]).abs() < 2e-3 * (1.0 + difference.abs()));
        }
    }

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let team = Team::new(2);
        let x = Tensor::from_vec(wave(3 * 20, 0.7), (3, 20), &Device::Cpu).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let linear = FrozenLinear::new(&wave(7 * 20, 0.31), 20, team.clone()).unwrap();
        check(&x, |x| linear.apply(x)?.sqr()?.sum_all());
        let norm = FrozenNorm::new(wave(20, 0.9), 1e-5, team);
        check(&x, |x| norm.apply(x)?.powf(3.0)?.sum_all());
    }
}
