//! Drawing from the nucleus (top-p; Holtzman et al., "The Curious Case of Neural Text
//! Degeneration", 2020) without sorting the vocabulary.
//!
//! Tokens below a bound that the nucleus cannot reach are left out in one vectorized pass; among
//! the few that remain, halves are weighed until the cut is found. Weights are whole numbers,
//! so no sum depends on the order in which it was made.

use crate::kernel::lane::{Isa, Lane, WIDTH, instantiate};

/// One softmax numerator of 1 as a whole number: 2^18 tokens of it fit 64 bits, and what
/// rounds to 0 is less than a millionth of the smallest step of a 32-bit `top_p`.
const ONE: f64 = (1u64 << 44) as f64;

/// Draws a token from the nucleus of `numerators` (`[vocab]`, each between 0 and 1, the largest
/// 1, their sum `total`) by the uniform number `uniform` in 0..1.
pub(super) fn draw(numerators: &[f32], total: f64, top_p: f32, uniform: f64) -> u32 {
    let candidates = candidates(numerators, total, top_p);
    let wanted = (f64::from(top_p) * total * ONE) as u64;
    let mut keys = candidates.clone();
    let (cut, mass) = cut(&mut keys, wanted);
    // In the order of the ids: inverse of the nucleus's cumulative distribution.
    let mut left = ((uniform * mass as f64) as u64).min(mass.saturating_sub(1));
    let mut token = 0;
    for key in candidates.into_iter().filter(|key| *key >= cut) {
        token = id_of(key);
        let weight = weight_of(key);
        if left < weight {
            break;
        }
        left -= weight;
    }
    token
}

/// The keys of all tokens that may be in the nucleus, in the order of their ids.
fn candidates(numerators: &[f32], total: f64, top_p: f32) -> Vec<u64> {
    // Everything below the bound sums to less than what the nucleus may leave out. A hair less,
    // for what `total` lost to rounding.
    let rest = (1.0 - f64::from(top_p)) * total / numerators.len() as f64;
    let bound = (rest * 0.999) as f32;
    let mut found = Vec::new();
    for (block, values) in numerators.chunks(BLOCK).enumerate() {
        // SAFETY: the block's own length is given.
        if unsafe { reaches(Isa::detect(), values.as_ptr(), values.len(), bound) } {
            for (index, value) in values.iter().enumerate() {
                if *value >= bound && *value > 0.0 {
                    found.push(key(*value, (block * BLOCK + index) as u32));
                }
            }
        }
    }
    found
}

/// The smallest key in the nucleus, the fewest largest keys whose weights reach `wanted`, and
/// the nucleus's weight. All keys where they do not reach it.
fn cut(keys: &mut [u64], wanted: u64) -> (u64, u64) {
    let mut open = keys;
    let (mut smallest, mut mass) = (u64::MAX, 0);
    while !open.is_empty() {
        let middle = open.len() / 2;
        // Descending: the larger half and the middle key stand before.
        open.select_nth_unstable_by(middle, |a, b| b.cmp(a));
        let half: u64 = open[..middle].iter().map(|key| weight_of(*key)).sum();
        let with_middle = half + weight_of(open[middle]);
        if mass + half >= wanted && middle > 0 {
            open = &mut open[..middle];
        } else {
            smallest = open[middle];
            mass += with_middle;
            if mass >= wanted {
                break;
            }
            open = &mut open[middle + 1..];
        }
    }
    (smallest, mass)
}

/// Orders tokens by probability, then by id (the earlier is larger). Floats that are not
/// negative are ordered as their bits are.
fn key(numerator: f32, id: u32) -> u64 {
    u64::from(numerator.to_bits()) << 32 | u64::from(!id)
}

fn id_of(key: u64) -> u32 {
    !(key as u32)
}

fn weight_of(key: u64) -> u64 {
    (f64::from(f32::from_bits((key >> 32) as u32)) * ONE) as u64
}

/// Numerators looked at together.
const BLOCK: usize = 8 * WIDTH;

instantiate! {
    /// Whether any of `n` floats is `bound` or more.
    unsafe fn reaches = reaches_kernel(values: *const f32, n: usize, bound: f32) -> bool
}

#[inline(always)]
unsafe fn reaches_kernel<L: Lane>(values: *const f32, n: usize, bound: f32) -> bool {
    // SAFETY: the caller promises n floats.
    unsafe {
        let mut most = L::zero();
        let mut i = 0;
        while i + WIDTH <= n {
            most = L::load(values.add(i)).max(most);
            i += WIDTH;
        }
        let mut largest = most.max_element();
        while i < n {
            largest = largest.max(*values.add(i));
            i += 1;
        }
        largest >= bound
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Draw, draw as draw_token};
    use super::*;

    /// The nucleus by its definition: ids, sorted.
    fn by_sorting(numerators: &[f32], top_p: f32) -> Vec<u32> {
        let total: f64 = numerators.iter().map(|p| f64::from(*p)).sum();
        let mut order: Vec<u32> = (0..numerators.len() as u32).collect();
        order.sort_by(|a, b| {
            let (p, q) = (numerators[*a as usize], numerators[*b as usize]);
            q.total_cmp(&p).then(a.cmp(b))
        });
        let mut sum = 0.0;
        let mut ids = Vec::new();
        for id in order {
            ids.push(id);
            sum += f64::from(numerators[id as usize]);
            if sum >= f64::from(top_p) * total {
                break;
            }
        }
        ids.sort_unstable();
        ids
    }

    fn selected(numerators: &[f32], top_p: f32) -> Vec<u32> {
        let total: f64 = numerators.iter().map(|p| f64::from(*p)).sum();
        let all = candidates(numerators, total, top_p);
        let wanted = (f64::from(top_p) * total * ONE) as u64;
        let (cut, _) = cut(&mut all.clone(), wanted);
        all.into_iter().filter(|k| *k >= cut).map(id_of).collect()
    }

    #[test]
    fn the_nucleus_is_that_of_a_full_sort() {
        for vocab in [1usize, 2, 17, 128, 129, 1000, 49_152] {
            for scale in [0.0f32, 0.5, 4.0, 20.0] {
                let mut numerators: Vec<f32> = (0..vocab)
                    .map(|i| (-scale * ((i * 7919 % 1009) as f32 / 100.0)).exp())
                    .collect();
                numerators[vocab / 2] = 1.0;
                for top_p in [1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, 0.999_999] {
                    // At a tie of sums either cut is right to the last bit: such points are
                    // shunned by a step that no sum of these has.
                    let top_p = top_p * 0.999_983;
                    assert_eq!(
                        selected(&numerators, top_p),
                        by_sorting(&numerators, top_p),
                        "{vocab} {scale} {top_p}"
                    );
                }
            }
        }
    }

    #[test]
    fn among_equals_the_earlier_ids_are_taken_and_one_token_always_is() {
        let equal = [1.0f32; 1000];
        assert_eq!(selected(&equal, 0.0105), (0..11).collect::<Vec<u32>>());
        assert_eq!(selected(&equal, 1e-9), [0]);
        let mut one = [1e-3f32; 50];
        one[30] = 1.0;
        one[7] = 0.4;
        assert_eq!(selected(&one, 0.5), [30]);
        assert_eq!(selected(&one, 0.8), [7, 30]);
    }

    #[test]
    fn frequencies_follow_the_renormalized_nucleus() {
        let logits: Vec<f32> = (0..1100).map(|i| ((i * 37 % 101) as f32) * 0.05).collect();
        let (temperature, top_p) = (0.7f32, 0.6f32);
        let numerators: Vec<f32> = logits.iter().map(|l| (l / temperature).exp()).collect();
        let nucleus = by_sorting(&numerators, top_p);
        assert!((100..900).contains(&nucleus.len()));
        let weight = |id: u32| f64::from(numerators[id as usize]);
        let total: f64 = nucleus.iter().map(|id| weight(*id)).sum();
        let draws = 40_000;
        let mut counts = vec![0f64; logits.len()];
        for seed in 0..draws {
            let how = Draw {
                temperature,
                top_p,
                seed,
                position: seed % 7,
            };
            counts[draw_token(&mut logits.clone(), how) as usize] += 1.0;
        }
        let inside: f64 = nucleus.iter().map(|id| counts[*id as usize]).sum();
        assert_eq!(inside, draws as f64);
        let chi_squared: f64 = nucleus
            .iter()
            .map(|id| {
                let expected = weight(*id) / total * draws as f64;
                (counts[*id as usize] - expected).powi(2) / expected
            })
            .sum();
        let freedom = nucleus.len() as f64 - 1.0;
        let bound = freedom + 4.0 * (2.0 * freedom).sqrt();
        assert!(chi_squared < bound, "{chi_squared} {freedom}");
    }

    #[test]
    fn no_row_of_odd_numbers_panics() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0] {
            for top_p in [0.5, 1.0] {
                let how = Draw {
                    temperature: 0.7,
                    top_p,
                    seed: 1,
                    position: 0,
                };
                assert!(draw_token(&mut [value; 300], how) < 300);
            }
        }
    }
}
