//! Drawing tokens from logits. The random number of a token is a function of the request's
//! seed and the token's position alone, so neither the batch nor an interruption changes it.

mod nucleus;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::kernel::Team;
use crate::kernel::lane::{Isa, Lane, WIDTH, instantiate};

/// How one token is to be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// 0 means the largest logit (the first of equals).
    pub temperature: f32,
    /// Only the nucleus is drawn from: the fewest most probable tokens, earlier ids first among
    /// equals, whose probabilities (after the temperature) reach this. 1 means all tokens.
    pub top_p: f32,
    /// The request's; tokens of one request differ in their position.
    pub seed: u64,
    /// Index of the token in the response.
    pub position: u64,
}

impl Draw {
    /// The most probable token, whatever the seed.
    pub const GREEDY: Draw = Draw {
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
        position: 0,
    };
}

/// Draws one token for each row of `logits` (`[rows, vocab]`, overwritten).
pub fn draw_all(team: &Team, logits: &mut [f32], draws: &[Draw]) -> Vec<u32> {
    if draws.is_empty() {
        return Vec::new();
    }
    let vocab = logits.len() / draws.len();
    let rows: Vec<std::sync::Mutex<(&mut [f32], u32)>> = logits
        .chunks_exact_mut(vocab)
        .map(|row| std::sync::Mutex::new((row, 0)))
        .collect();
    team.for_each(draws.len(), 1, &|row| {
        // Each row is taken once, so the lock is free; it only carries the borrow.
        let mut place = rows[row]
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        place.1 = draw(place.0, draws[row]);
    });
    rows.into_iter()
        .map(|row| {
            row.into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .1
        })
        .collect()
}

/// Draws one token from `logits` (`[vocab]`, overwritten by softmax numerators where the
/// temperature is above 0).
pub fn draw(logits: &mut [f32], how: Draw) -> u32 {
    if how.temperature <= 0.0 {
        return greedy(logits);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(how.seed);
    rng.set_stream(how.position);
    let uniform: f64 = rng.random();
    let largest = largest_of(logits);
    let mut sums = vec![0f32; logits.len().div_ceil(SPAN)];
    for (span, sum) in logits.chunks_mut(SPAN).zip(&mut sums) {
        // SAFETY: the span's own length is given.
        *sum = unsafe {
            numerators(
                Isa::detect(),
                span.as_mut_ptr(),
                span.len(),
                largest,
                1.0 / how.temperature,
            )
        };
    }
    if how.top_p < 1.0 {
        let total = sums.iter().map(|s| f64::from(*s)).sum();
        return nucleus::draw(logits, total, how.top_p, uniform);
    }
    among_all(logits, &sums, uniform)
}

/// Inverse of the cumulative distribution of `numerators`, whose spans sum to `sums`: first
/// the span, then the token in it.
fn among_all(numerators: &[f32], sums: &[f32], uniform: f64) -> u32 {
    let total: f64 = sums.iter().map(|s| f64::from(*s)).sum();
    let mut left = uniform * total;
    let mut chosen = 0;
    for (index, sum) in sums.iter().enumerate() {
        if *sum > 0.0 {
            chosen = index;
            if left < f64::from(*sum) {
                break;
            }
            left -= f64::from(*sum);
        }
    }
    let start = chosen * SPAN;
    let span = &numerators[start..(start + SPAN).min(numerators.len())];
    let mut token = 0;
    for (index, p) in span.iter().enumerate() {
        if *p > 0.0 {
            // Rounding may leave a crumb after the last: then the last possible one is it.
            token = index;
            if left < f64::from(*p) {
                break;
            }
            left -= f64::from(*p);
        }
    }
    (start + token) as u32
}

/// Tokens whose probabilities are summed together before one is looked for.
const SPAN: usize = 512;

fn greedy(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, span) in logits.chunks(SPAN).enumerate() {
        let largest = largest_of(span);
        if largest > best.1 {
            best = (index, largest);
        }
    }
    let start = best.0 * SPAN;
    let span = &logits[start..(start + SPAN).min(logits.len())];
    let within = span.iter().position(|l| *l == best.1).unwrap_or(0);
    (start + within) as u32
}

/// The largest of `values`, NaN left out.
fn largest_of(values: &[f32]) -> f32 {
    // SAFETY: the slice's own length is given.
    unsafe { maximum(Isa::detect(), values.as_ptr(), values.len()) }
}

instantiate! {
    /// The largest of `n` floats; negative infinity for none.
    unsafe fn maximum = maximum_kernel(values: *const f32, n: usize) -> f32
}

#[inline(always)]
unsafe fn maximum_kernel<L: Lane>(values: *const f32, n: usize) -> f32 {
    // SAFETY: the caller promises n floats.
    unsafe {
        let nothing = L::splat(f32::NEG_INFINITY);
        // Four at once, so that no maximum waits for the one before. The running one stands
        // second: where the first is NaN, the second is the result.
        let mut most = [nothing; 4];
        let mut i = 0;
        while i + 4 * WIDTH <= n {
            for (lane, most) in most.iter_mut().enumerate() {
                *most = L::load(values.add(i + lane * WIDTH)).max(*most);
            }
            i += 4 * WIDTH;
        }
        while i + WIDTH <= n {
            most[0] = L::load(values.add(i)).max(most[0]);
            i += WIDTH;
        }
        let [a, b, c, d] = most;
        let mut largest = a.max(b).max(c.max(d)).max_element();
        while i < n {
            largest = largest.max(*values.add(i));
            i += 1;
        }
        largest
    }
}

instantiate! {
    /// Replaces logits by e^((logit - largest) * inverse_temperature) and returns their sum.
    unsafe fn numerators = numerators_kernel(
        logits: *mut f32, n: usize, largest: f32, inverse_temperature: f32,
    ) -> f32
}

#[inline(always)]
unsafe fn numerators_kernel<L: Lane>(
    logits: *mut f32,
    n: usize,
    largest: f32,
    inverse_temperature: f32,
) -> f32 {
    // SAFETY: the caller promises n floats.
    unsafe {
        let (largest, scale) = (L::splat(largest), L::splat(inverse_temperature));
        let mut sum = L::zero();
        let whole = n / WIDTH * WIDTH;
        for i in (0..whole).step_by(WIDTH) {
            let e = L::load(logits.add(i)).sub(largest).mul(scale).exp();
            e.store(logits.add(i));
            sum = sum.add(e);
        }
        if whole < n {
            let mut rest = [f32::NEG_INFINITY; WIDTH];
            for i in whole..n {
                rest[i - whole] = *logits.add(i);
            }
            let e = L::load(rest.as_ptr()).sub(largest).mul(scale).exp();
            sum = sum.add(e);
            let e = e.to_array();
            for i in whole..n {
                *logits.add(i) = e[i - whole];
            }
        }
        sum.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits: Vec<f32> = (0..1100).map(|i| ((i * 37 % 101) as f32) * 0.05).collect();
        let temperature = 0.7f32;
        let weights: Vec<f64> = logits
            .iter()
            .map(|l| f64::from(l / temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        let draws = 40_000;
        let mut counts = vec![0f64; logits.len()];
        for seed in 0..draws {
            let how = Draw {
                temperature,
                top_p: 1.0,
                seed,
                position: seed % 7,
            };
            counts[draw(&mut logits.clone(), how) as usize] += 1.0;
        }
        let chi_squared: f64 = counts
            .iter()
            .zip(&weights)
            .map(|(count, w)| {
                let expected = w / total * draws as f64;
                (count - expected).powi(2) / expected
            })
            .sum();
        // 1,099 degrees of freedom: mean 1,099, standard deviation 47.
        assert!(chi_squared < 1_099.0 + 4.0 * 47.0, "{chi_squared}");
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let how = Draw {
            temperature: 0.0,
            top_p: 1.0,
            seed: 1,
            position: 0,
        };
        assert_eq!(draw(&mut [0.5, 3.0, 3.0, -1.0], how), 1);
        assert_eq!(draw(&mut [f32::NEG_INFINITY; 5], how), 0);
        assert_eq!(draw(&mut [f32::NAN; 40], how), 0);
        for n in [1, 15, 16, 63, 64, 65, 511, 513, 1030] {
            for at in [0, n / 3, n / 2, n - 1] {
                let mut logits: Vec<f32> = (0..n).map(|i| -((i % 7) as f32)).collect();
                logits[at] = 9.0;
                logits[n - 1] = 9.0;
                assert_eq!(draw(&mut logits, how), at as u32, "{n}");
                assert_eq!(largest_of(&logits), 9.0);
            }
        }
    }

    #[test]
    fn the_largest_is_the_same_on_every_instruction_set_and_never_nan() {
        let mut values: Vec<f32> = (0..777).map(|i| ((i * 131 % 997) as f32).sin()).collect();
        values[70] = f32::NAN;
        values[776] = f32::NAN;
        for n in 0..values.len() {
            let fold = values[..n]
                .iter()
                .copied()
                .fold(f32::NEG_INFINITY, f32::max);
            for isa in crate::kernel::lane::isas_to_test() {
                // SAFETY: as many as there are.
                let found = unsafe { maximum(isa, values.as_ptr(), n) };
                assert_eq!(found, fold);
            }
        }
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_only() {
        let logits: Vec<f32> = (0..300).map(|i| (i as f32 * 0.1).sin()).collect();
        let how = |seed, position| Draw {
            temperature: 1.0,
            top_p: 1.0,
            seed,
            position,
        };
        let alone = draw(&mut logits.clone(), how(5, 9));
        let team = Team::new(2);
        let mut rows = [logits.clone(), logits.clone(), logits.clone()].concat();
        let drawn = draw_all(&team, &mut rows, &[how(1, 0), how(5, 9), how(2, 4)]);
        assert_eq!(drawn[1], alone);
        let many: std::collections::HashSet<u32> = (0..50)
            .map(|position| draw(&mut logits.clone(), how(5, position)))
            .collect();
        assert!(many.len() > 20);
    }
}
