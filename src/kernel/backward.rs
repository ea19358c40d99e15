//! Row-wise pieces of a training step: SwiGLU, softmax and RMS norm with what takes a gradient
//! back through them.

use super::lane::{Isa, Lane, WIDTH, instantiate};

/// 16 floats, or the `left` there are and `fill`.
#[inline(always)]
unsafe fn load_some<L: Lane>(from: *const f32, left: usize, fill: f32) -> L {
    // SAFETY: the caller promises min(left, 16) floats.
    unsafe {
        if left >= WIDTH {
            return L::load(from);
        }
        let mut some = [fill; WIDTH];
        some.as_mut_ptr().copy_from_nonoverlapping(from, left);
        L::load(some.as_ptr())
    }
}

#[inline(always)]
unsafe fn store_some<L: Lane>(value: L, to: *mut f32, left: usize) {
    // SAFETY: the caller promises min(left, 16) floats.
    unsafe {
        if left >= WIDTH {
            value.store(to);
        } else {
            to.copy_from_nonoverlapping(value.to_array().as_ptr(), left);
        }
    }
}

/// 1 / (1 + e^-g).
#[inline(always)]
fn sigmoid<L: Lane>(g: L) -> L {
    let one = L::splat(1.0);
    one.div(one.add(L::zero().sub(g).exp()))
}

instantiate! {
    unsafe fn silu_gate_as = silu_gate_kernel(g: *const f32, u: *const f32, n: usize, y: *mut f32)
}

#[inline(always)]
unsafe fn silu_gate_kernel<L: Lane>(g: *const f32, u: *const f32, n: usize, y: *mut f32) {
    for i in (0..n).step_by(WIDTH) {
        // SAFETY: the caller promises n floats at each pointer.
        unsafe {
            let gate: L = load_some(g.add(i), n - i, 0.0);
            let up: L = load_some(u.add(i), n - i, 0.0);
            store_some(gate.mul(sigmoid(gate)).mul(up), y.add(i), n - i);
        }
    }
}

/// `y = silu(gate) * up`.
pub fn silu_gate(gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == up.len() && up.len() == y.len());
    // SAFETY: lengths checked.
    unsafe {
        silu_gate_as(
            Isa::detect(),
            gate.as_ptr(),
            up.as_ptr(),
            y.len(),
            y.as_mut_ptr(),
        );
    }
}

instantiate! {
    unsafe fn silu_back_as = silu_back_kernel(g: *mut f32, u: *mut f32, d: *const f32, n: usize)
}

#[inline(always)]
unsafe fn silu_back_kernel<L: Lane>(g: *mut f32, u: *mut f32, d: *const f32, n: usize) {
    let one = L::splat(1.0);
    for i in (0..n).step_by(WIDTH) {
        // SAFETY: the caller promises n floats at each pointer.
        unsafe {
            let gate: L = load_some(g.add(i), n - i, 0.0);
            let up: L = load_some(u.add(i), n - i, 0.0);
            let d: L = load_some(d.add(i), n - i, 0.0);
            let s = sigmoid(gate);
            let slope = s.mul(gate.mul(one.sub(s)).add(one));
            store_some(d.mul(up).mul(slope), g.add(i), n - i);
            store_some(d.mul(gate).mul(s), u.add(i), n - i);
        }
    }
}

/// Replaces `gate` and `up` by their gradients, given the gradient `d` of `silu(gate) * up`.
pub fn silu_gate_backward(gate: &mut [f32], up: &mut [f32], d: &[f32]) {
    assert!(gate.len() == up.len() && up.len() == d.len());
    // SAFETY: lengths checked.
    unsafe {
        silu_back_as(
            Isa::detect(),
            gate.as_mut_ptr(),
            up.as_mut_ptr(),
            d.as_ptr(),
            d.len(),
        );
    }
}

instantiate! {
    unsafe fn norm_back_as = norm_back_kernel(
        x: *const f32, w: *const f32, n: usize, eps: f32, dy: *const f32, dx: *mut f32,
    )
}

#[inline(always)]
unsafe fn norm_back_kernel<L: Lane>(
    x: *const f32,
    w: *const f32,
    n: usize,
    eps: f32,
    dy: *const f32,
    dx: *mut f32,
) {
    // SAFETY: the caller promises n floats at each pointer.
    unsafe {
        let (mut squares, mut along) = (L::zero(), L::zero());
        for i in (0..n).step_by(WIDTH) {
            let left = n - i;
            let v: L = load_some(x.add(i), left, 0.0);
            let h = load_some::<L>(dy.add(i), left, 0.0).mul(load_some(w.add(i), left, 0.0));
            squares = v.mul_add(v, squares);
            along = h.mul_add(v, along);
        }
        let s = 1.0 / (squares.sum() / n as f32 + eps).sqrt();
        let back = L::splat(-s * s * s * along.sum() / n as f32);
        let s = L::splat(s);
        for i in (0..n).step_by(WIDTH) {
            let left = n - i;
            let v: L = load_some(x.add(i), left, 0.0);
            let h = load_some::<L>(dy.add(i), left, 0.0).mul(load_some(w.add(i), left, 0.0));
            let old: L = load_some(dx.add(i), left, 0.0);
            store_some(h.mul_add(s, back.mul_add(v, old)), dx.add(i), left);
        }
    }
}

/// Adds to `dx` what the gradient `dy` of `rms_norm(x)` gives `x`: with
/// s = 1 / sqrt(mean(x^2) + eps) and h = dy * weight, s h - x s^3 mean(h x).
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    let n = x.len();
    assert!(n == weight.len() && n == dy.len() && n == dx.len());
    // SAFETY: lengths checked.
    unsafe {
        norm_back_as(
            Isa::detect(),
            x.as_ptr(),
            weight.as_ptr(),
            n,
            eps,
            dy.as_ptr(),
            dx.as_mut_ptr(),
        );
    }
}

instantiate! {
    unsafe fn softmax_as = softmax_kernel(x: *mut f32, n: usize) -> f32
}

#[inline(always)]
unsafe fn softmax_kernel<L: Lane>(x: *mut f32, n: usize) -> f32 {
    // SAFETY: the caller promises n floats.
    unsafe {
        let mut top = L::splat(f32::NEG_INFINITY);
        for i in (0..n).step_by(WIDTH) {
            top = top.max(load_some(x.add(i), n - i, f32::NEG_INFINITY));
        }
        let top = top.max_element();
        let mut sum = L::zero();
        for i in (0..n).step_by(WIDTH) {
            let e = load_some::<L>(x.add(i), n - i, f32::NEG_INFINITY)
                .sub(L::splat(top))
                .exp();
            sum = sum.add(e);
            store_some(e, x.add(i), n - i);
        }
        let sum = sum.sum();
        let inverse = L::splat(1.0 / sum);
        for i in (0..n).step_by(WIDTH) {
            let e: L = load_some(x.add(i), n - i, 0.0);
            store_some(e.mul(inverse), x.add(i), n - i);
        }
        top + sum.ln()
    }
}

/// Turns scores into probabilities in place; returns the logarithm of the sum of e^score.
pub fn softmax(x: &mut [f32]) -> f32 {
    // SAFETY: a slice of its own length.
    unsafe { softmax_as(Isa::detect(), x.as_mut_ptr(), x.len()) }
}

instantiate! {
    unsafe fn exp_minus_as = exp_minus_kernel(x: *mut f32, n: usize, log_sum: f32)
}

#[inline(always)]
unsafe fn exp_minus_kernel<L: Lane>(x: *mut f32, n: usize, log_sum: f32) {
    for i in (0..n).step_by(WIDTH) {
        // SAFETY: the caller promises n floats.
        unsafe {
            let score: L = load_some(x.add(i), n - i, 0.0);
            store_some(score.sub(L::splat(log_sum)).exp(), x.add(i), n - i);
        }
    }
}

/// Probabilities again, from scores and the number that [`softmax`] returned for them.
pub fn softmax_again(x: &mut [f32], log_sum: f32) {
    // SAFETY: a slice of its own length.
    unsafe { exp_minus_as(Isa::detect(), x.as_mut_ptr(), x.len(), log_sum) }
}

instantiate! {
    unsafe fn softmax_back_as = softmax_back_kernel(
        p: *const f32, d: *mut f32, n: usize, along: f32, scale: f32,
    )
}

#[inline(always)]
unsafe fn softmax_back_kernel<L: Lane>(
    p: *const f32,
    d: *mut f32,
    n: usize,
    along: f32,
    scale: f32,
) {
    for i in (0..n).step_by(WIDTH) {
        // SAFETY: the caller promises n floats at both pointers.
        unsafe {
            let p: L = load_some(p.add(i), n - i, 0.0);
            let change = load_some::<L>(d.add(i), n - i, 0.0).sub(L::splat(along));
            store_some(p.mul(change).mul(L::splat(scale)), d.add(i), n - i);
        }
    }
}

/// Replaces the gradient `d` of probabilities `p` by that of their scores, times `scale`:
/// p (d - along), where `along` is the sum of p d.
pub fn softmax_backward(p: &[f32], d: &mut [f32], along: f32, scale: f32) {
    assert!(p.len() == d.len());
    // SAFETY: lengths checked.
    unsafe {
        softmax_back_as(
            Isa::detect(),
            p.as_ptr(),
            d.as_mut_ptr(),
            d.len(),
            along,
            scale,
        );
    }
}

instantiate! {
    unsafe fn dot_as = dot_kernel(x: *const f32, y: *const f32, n: usize) -> f32
}

#[inline(always)]
unsafe fn dot_kernel<L: Lane>(x: *const f32, y: *const f32, n: usize) -> f32 {
    let mut sum = L::zero();
    for i in (0..n).step_by(WIDTH) {
        // SAFETY: the caller promises n floats at both pointers.
        unsafe {
            let x: L = load_some(x.add(i), n - i, 0.0);
            sum = x.mul_add(load_some(y.add(i), n - i, 0.0), sum);
        }
    }
    sum.sum()
}

/// The sum of products, in a fixed order.
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    assert!(x.len() == y.len());
    // SAFETY: lengths checked.
    unsafe { dot_as(Isa::detect(), x.as_ptr(), y.as_ptr(), x.len()) }
}

instantiate! {
    unsafe fn scale_as = scale_kernel(x: *mut f32, n: usize, by: f32)
}

#[inline(always)]
unsafe fn scale_kernel<L: Lane>(x: *mut f32, n: usize, by: f32) {
    for i in (0..n).step_by(WIDTH) {
        // SAFETY: the caller promises n floats.
        unsafe {
            let v: L = load_some(x.add(i), n - i, 0.0);
            store_some(v.mul(L::splat(by)), x.add(i), n - i);
        }
    }
}

/// Multiplies all by one number.
pub fn scale(x: &mut [f32], by: f32) {
    // SAFETY: a slice of its own length.
    unsafe { scale_as(Isa::detect(), x.as_mut_ptr(), x.len(), by) }
}

instantiate! {
    unsafe fn rotate_as = rotate_kernel(
        a: *mut f32, b: *mut f32, cos: *const f32, sin: *const f32, n: usize, sign: f32,
    )
}

#[inline(always)]
unsafe fn rotate_kernel<L: Lane>(
    a: *mut f32,
    b: *mut f32,
    cos: *const f32,
    sin: *const f32,
    n: usize,
    sign: f32,
) {
    for i in (0..n).step_by(WIDTH) {
        let left = n - i;
        // SAFETY: the caller promises n floats at each pointer.
        unsafe {
            let (x, y): (L, L) = (
                load_some(a.add(i), left, 0.0),
                load_some(b.add(i), left, 0.0),
            );
            let c: L = load_some(cos.add(i), left, 0.0);
            let s = load_some::<L>(sin.add(i), left, 0.0).mul(L::splat(sign));
            store_some(x.mul(c).sub(y.mul(s)), a.add(i), left);
            store_some(y.mul(c).add(x.mul(s)), b.add(i), left);
        }
    }
}

/// Rotates one head as [`super::elementwise::rotate`] does; `sign` -1 turns it back, which is
/// also what its gradient needs.
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    assert!(head.len() == 2 * half && sin.len() == half);
    let (a, b) = head.split_at_mut(half);
    // SAFETY: lengths checked.
    unsafe {
        rotate_as(
            Isa::detect(),
            a.as_mut_ptr(),
            b.as_mut_ptr(),
            cos.as_ptr(),
            sin.as_ptr(),
            half,
            sign,
        );
    }
}

#[cfg(test)]
#[path = "backward_tests.rs"]
mod tests;
