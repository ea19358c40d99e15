use super::*;
use crate::kernel::elementwise::rms_norm;
use crate::kernel::noise;

/// Compares a gradient with central differences of `loss` in `x`, element by element.
fn check(x: &[f32], gradient: &[f32], loss: impl Fn(&[f32]) -> f64) {
    for i in 0..x.len() {
        let at = |step: f32| {
            let mut moved = x.to_vec();
            moved[i] += step;
            loss(&moved)
        };
        let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
        let found = f64::from(gradient[i]);
        assert!(
            (difference - found).abs() < 3e-3 * (1.0 + difference.abs()),
            "{i}: {found} is not {difference}"
        );
    }
}

fn weighed(y: &[f32], by: &[f32]) -> f64 {
    y.iter().zip(by).map(|(y, w)| f64::from(y * w)).sum()
}

#[test]
fn gradients_match_finite_differences() {
    let n = 37;
    let (x, w, d) = (noise(n, 1), noise(n, 2), noise(n, 3));
    let norm = |x: &[f32]| {
        let mut y = vec![0.0; n];
        rms_norm(x, &w, 1e-5, &mut y);
        weighed(&y, &d)
    };
    let mut dx = vec![1.0; n];
    rms_norm_backward(&x, &w, 1e-5, &d, &mut dx);
    let dx: Vec<f32> = dx.iter().map(|v| v - 1.0).collect();
    check(&x, &dx, norm);

    let gated = |g: &[f32], u: &[f32]| {
        let mut y = vec![0.0; n];
        silu_gate(g, u, &mut y);
        weighed(&y, &d)
    };
    let (mut dg, mut du) = (x.clone(), w.clone());
    silu_gate_backward(&mut dg, &mut du, &d);
    check(&x, &dg, |g| gated(g, &w));
    check(&w, &du, |u| gated(&x, u));

    let soft = |x: &[f32]| {
        let mut p = x.to_vec();
        softmax(&mut p);
        weighed(&p, &d)
    };
    let mut p = x.clone();
    let log_sum = softmax(&mut p);
    let mut again = x.clone();
    softmax_again(&mut again, log_sum);
    for (a, b) in p.iter().zip(&again) {
        assert!((a - b).abs() < 1e-6);
    }
    let mut dx = d.clone();
    softmax_backward(&p, &mut dx, dot(&p, &d), 1.0);
    check(&x, &dx, soft);
}

#[test]
fn a_rotation_there_and_back_changes_nothing() {
    let (cos, sin): (Vec<f32>, Vec<f32>) = (0..20)
        .map(|i| (i as f32 * 0.3).sin_cos())
        .map(|(s, c)| (c, s))
        .unzip();
    let head = noise(40, 5);
    let mut turned = head.clone();
    rotate(&mut turned, &cos, &sin, 1.0);
    let mut plain = head.clone();
    crate::kernel::elementwise::rotate(&mut plain, &cos, &sin);
    for (a, b) in turned.iter().zip(&plain) {
        assert!((a - b).abs() < 1e-6);
    }
    rotate(&mut turned, &cos, &sin, -1.0);
    for (a, b) in turned.iter().zip(&head) {
        assert!((a - b).abs() < 1e-6);
    }
}
