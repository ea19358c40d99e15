//! Row-wise pieces of a Llama block: RMS norm and rotary embedding.

use super::lane::{Isa, Lane, WIDTH, instantiate};
use super::team::{Disjoint, Team};

instantiate! {
    /// `y = x / sqrt(mean(x^2) + eps) * weight` over `n` elements, the sum of squares in a
    /// fixed order.
    unsafe fn rms_norm_raw = rms_norm_kernel(
        x: *const f32, weight: *const f32, n: usize, eps: f32, y: *mut f32,
    )
}

#[inline(always)]
unsafe fn rms_norm_kernel<L: Lane>(
    x: *const f32,
    weight: *const f32,
    n: usize,
    eps: f32,
    y: *mut f32,
) {
    // SAFETY: the caller promises n elements at each pointer.
    unsafe {
        let whole = n / WIDTH * WIDTH;
        let mut squares = L::zero();
        for i in (0..whole).step_by(WIDTH) {
            let v = L::load(x.add(i));
            squares = v.mul_add(v, squares);
        }
        let mut sum = squares.sum();
        for i in whole..n {
            sum = (*x.add(i)).mul_add(*x.add(i), sum);
        }
        let scale = 1.0 / (sum / n as f32 + eps).sqrt();
        for i in (0..whole).step_by(WIDTH) {
            let v = L::load(x.add(i)).mul(L::splat(scale));
            v.mul(L::load(weight.add(i))).store(y.add(i));
        }
        for i in whole..n {
            *y.add(i) = *x.add(i) * scale * *weight.add(i);
        }
    }
}

/// RMS norm of one row: `y = x / sqrt(mean(x^2) + eps) * weight`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == y.len());
    // SAFETY: lengths checked.
    unsafe {
        rms_norm_raw(
            Isa::detect(),
            x.as_ptr(),
            weight.as_ptr(),
            x.len(),
            eps,
            y.as_mut_ptr(),
        );
    }
}

/// [`rms_norm`] of the first `rows` rows of `x`, by all threads; rows are as wide as `weight`.
///
/// # Panics
/// If a slice is shorter than the rows.
pub fn rms_norm_rows(team: &Team, rows: usize, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    let y = Disjoint::new(y);
    team.for_each(rows, 8, &|row| {
        // SAFETY: each row is written by one call.
        let y = unsafe { y.slice(row * width, width) };
        rms_norm(&x[row * width..][..width], weight, eps, y);
    });
}

/// Rotates one head in place, Hugging Face's half-split form: element `i` pairs with
/// `i + d/2`; `cos` and `sin` hold `d/2` values for the position.
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rms_norm_matches_double_precision() {
        let x: Vec<f32> = (0..37).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let w: Vec<f32> = (0..37).map(|i| 1.0 + i as f32 * 0.01).collect();
        let mut y = vec![0.0; 37];
        rms_norm(&x, &w, 1e-5, &mut y);
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 37.0;
        for i in 0..37 {
            let expected = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(w[i]);
            assert!((f64::from(y[i]) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn rotation_keeps_the_norm_and_turns_by_the_angle() {
        let mut head = [1.0, 2.0, 3.0, 4.0];
        let (angle0, angle1) = (0.3f32, 1.1f32);
        rotate(
            &mut head,
            &[angle0.cos(), angle1.cos()],
            &[angle0.sin(), angle1.sin()],
        );
        assert!((head[0] - (angle0.cos() - 3.0 * angle0.sin())).abs() < 1e-6);
        assert!((head[2] - (3.0 * angle0.cos() + angle0.sin())).abs() < 1e-6);
        let norm: f32 = head.iter().map(|x| x * x).sum();
        assert!((norm - 30.0).abs() < 1e-4);
    }
}
