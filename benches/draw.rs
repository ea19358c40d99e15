//! Time to draw one token from 49,152 logits on one thread: what sampling adds to a row of a
//! decode step (a step of 32 rows on 2 cores takes 35 ms).
//!
//! `cargo bench --bench draw`: the median of 5 runs of 400 draws, the copy of the logits that
//! each needs taken off.

use std::time::Instant;

use lenaware::engine::sampling::{Draw, draw};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const VOCABULARY: usize = 49_152;
const DRAWS: u64 = 400;

fn main() {
    // As of a language model: a bell of standard deviation 2.5, and some tokens far above it.
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut logits: Vec<f32> = (0..VOCABULARY)
        .map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() * 2.5 - 15.0)
        .collect();
    for rank in 0..40 {
        logits[rng.random_range(0..VOCABULARY)] = 16.0 - rank as f32 * 0.2;
    }
    let copy = median(&|row| row[0] as u32, &logits);
    println!("{:<34} microseconds", "");
    for (name, temperature, top_p) in [
        ("greedy", 0.0, 1.0),
        ("temperature 0.7", 0.7, 1.0),
        ("temperature 0.7, top-p 0.9", 0.7, 0.9),
        ("temperature 1, top-p 0.95", 1.0, 0.95),
        ("temperature 3, top-p 0.95", 3.0, 0.95),
    ] {
        let seeds = std::cell::Cell::new(0);
        let time = median(
            &|row| {
                seeds.set(seeds.get() + 1);
                let how = Draw {
                    temperature,
                    top_p,
                    seed: seeds.get(),
                    position: 3,
                };
                draw(row, how)
            },
            &logits,
        );
        println!("{name:<34} {:>8.1}", (time - copy) * 1e6);
    }
}

/// Seconds a draw, the copy of the logits included.
fn median(draw: &dyn Fn(&mut [f32]) -> u32, logits: &[f32]) -> f64 {
    let mut row = logits.to_vec();
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..DRAWS {
                row.copy_from_slice(logits);
                std::hint::black_box(draw(std::hint::black_box(&mut row)));
            }
            begun.elapsed().as_secs_f64() / DRAWS as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[2]
}
