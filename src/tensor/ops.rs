//! What is done to rows by themselves, and the way back.

use candle_core::{D, Result, Tensor};

/// `x / sqrt(mean(x^2) + eps) * weight` of each row of `x` `[rows, width]`.
///
/// # Errors
/// What the tensor library refuses.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    x.broadcast_mul(&inverse_root(x, eps)?)?
        .broadcast_mul(weight)
}

/// The gradient of `x` from that of its norm.
///
/// # Errors
/// What the tensor library refuses.
pub fn rms_norm_backward(x: &Tensor, weight: &Tensor, eps: f32, dy: &Tensor) -> Result<Tensor> {
    let inverse = inverse_root(x, eps)?;
    let dy = dy.broadcast_mul(weight)?;
    let along = (x * &dy)?.mean_keepdim(D::Minus1)?;
    let cubed = (inverse.sqr()? * &inverse)?;
    dy.broadcast_mul(&inverse)? - x.broadcast_mul(&(along * cubed)?)?
}

fn inverse_root(x: &Tensor, eps: f32) -> Result<Tensor> {
    (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?
        .sqrt()?
        .recip()
}

/// Turns each head of `x` `[rows, heads, dim]` by its row's position: the two halves of a head
/// are the parts of a complex number. `cos` and `sin` are `[rows, 1, dim / 2]`.
///
/// # Errors
/// What the tensor library refuses.
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (real, other) = (
        x.narrow(D::Minus1, 0, half)?,
        x.narrow(D::Minus1, half, half)?,
    );
    let turned = (real.broadcast_mul(cos)? - other.broadcast_mul(sin)?)?;
    let across = (other.broadcast_mul(cos)? + real.broadcast_mul(sin)?)?;
    Tensor::cat(&[turned, across], D::Minus1)
}

/// `silu(gate) * up`.
///
/// # Errors
/// What the tensor library refuses.
pub fn silu_gate(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// The gradients of gate and up from that of [`silu_gate`].
///
/// # Errors
/// What the tensor library refuses.
pub fn silu_gate_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let sigmoid = candle_nn::ops::sigmoid(gate)?;
    let d_up = ((gate * &sigmoid)? * dy)?;
    // d silu = sigmoid * (1 + gate * (1 - sigmoid)).
    let slope = (((1.0 - &sigmoid)? * gate)? + 1.0)?;
    let d_gate = (((slope * &sigmoid)? * up)? * dy)?;
    Ok((d_gate, d_up))
}

/// Softmax over the last dimension.
///
/// # Errors
/// What the tensor library refuses.
pub fn softmax(scores: &Tensor) -> Result<Tensor> {
    let largest = scores.max_keepdim(D::Minus1)?;
    let numerators = scores.broadcast_sub(&largest)?.exp()?;
    let sums = numerators.sum_keepdim(D::Minus1)?;
    numerators.broadcast_div(&sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::noise;
    use candle_core::Device;

    fn random(shape: &[usize], seed: u64) -> Tensor {
        let count = shape.iter().product();
        Tensor::from_vec(noise(count, seed), shape, &Device::Cpu).unwrap()
    }

    fn dot(a: &Tensor, b: &Tensor) -> f64 {
        let product = (a * b).unwrap().sum_all().unwrap();
        f64::from(product.to_scalar::<f32>().unwrap())
    }

    /// Whether `gradient` is that of `dot(of(x), dy)`, along a random direction.
    fn check(x: &Tensor, dy: &Tensor, gradient: &Tensor, of: &dyn Fn(&Tensor) -> Tensor) {
        let direction = random(x.dims(), 77);
        let at = |step: f64| {
            let moved = (x + (&direction * step).unwrap()).unwrap();
            dot(&of(&moved), dy)
        };
        let step = 1e-2;
        let found =
            (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step);
        let expected = dot(gradient, &direction);
        assert!(
            (found - expected).abs() < 2e-3 * (1.0 + found.abs()),
            "{found} {expected}"
        );
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (x, dy) = (random(&[5, 16], 1), random(&[5, 16], 2));
        let weight = random(&[16], 3);
        let norm = |x: &Tensor| rms_norm(x, &weight, 1e-5).unwrap();
        let gradient = rms_norm_backward(&x, &weight, 1e-5, &dy).unwrap();
        check(&x, &dy, &gradient, &norm);
        let up = random(&[5, 16], 4);
        let (d_gate, d_up) = silu_gate_backward(&x, &up, &dy).unwrap();
        check(&x, &dy, &d_gate, &|gate| silu_gate(gate, &up).unwrap());
        check(&up, &dy, &d_up, &|up| silu_gate(&x, up).unwrap());
    }

    #[test]
    fn turning_back_undoes_turning() {
        let x = random(&[3, 2, 8], 1);
        let angles = random(&[3, 1, 4], 2);
        let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
        let turned = rotate(&x, &cos, &sin).unwrap();
        let back = rotate(&turned, &cos, &sin.neg().unwrap()).unwrap();
        let apart = (back - &x).unwrap().abs().unwrap().max_all().unwrap();
        assert!(apart.to_scalar::<f32>().unwrap() < 1e-6);
        assert!((dot(&turned, &turned) - dot(&x, &x)).abs() < 1e-4);
    }
}
