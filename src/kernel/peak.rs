//! What this machine can do at most: the yardstick that the engine's speed is measured by.

use std::time::Instant;

use super::lane::{Isa, Lane, WIDTH, instantiate};
use super::lines::Lines;
use super::packed::Arithmetic;
use super::team::Team;

/// Sums kept in registers, as in the products.
const CHAINS: usize = 24;
const STEPS: usize = 1 << 20;
const RUNS: usize = 20;

/// Floating point operations a second of all threads together, with operands in registers:
/// the best of a few short runs.
pub fn operations_per_s(team: &Team, arithmetic: Arithmetic) -> f64 {
    let isa = Isa::detect();
    let per_step = match arithmetic {
        Arithmetic::F32 => 2,
        Arithmetic::Bf16 => 4,
    };
    let work = (team.threads() * STEPS * CHAINS * WIDTH * per_step) as f64;
    best(|| {
        team.run(&|_| {
            // SAFETY: the kernel touches its own registers only.
            let sum = unsafe { spin(isa, arithmetic == Arithmetic::Bf16, STEPS) };
            std::hint::black_box(sum);
        });
        work
    })
}

/// Bytes a second that all threads together read from memory, far more than caches hold.
///
/// # Errors
/// If 512 MB cannot be had.
pub fn read_bytes_per_s(team: &Team) -> std::io::Result<f64> {
    let lines = (512 << 20) / 64;
    let mut buffer = Lines::zeroed(lines, true)?;
    // Untouched pages are all one page of zeros.
    for line in buffer.iter_mut().step_by(64) {
        line.0[0] = 1.0;
    }
    let isa = Isa::detect();
    let share = lines / team.threads();
    Ok(best(|| {
        team.run(&|id| {
            let part = &buffer[id * share..(id + 1) * share];
            // SAFETY: the part's own length is given.
            let sum = unsafe { read(isa, part.as_ptr().cast(), part.len() * WIDTH) };
            std::hint::black_box(sum);
        });
        (share * team.threads() * 64) as f64
    }))
}

fn best(mut run: impl FnMut() -> f64) -> f64 {
    (0..RUNS)
        .map(|_| {
            let begun = Instant::now();
            let work = run();
            work / begun.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

instantiate! {
    unsafe fn spin = spin_kernel(bf16: bool, steps: usize) -> f32
}

#[inline(always)]
unsafe fn spin_kernel<L: Lane>(bf16: bool, steps: usize) -> f32 {
    let pairs = std::hint::black_box([0x3f80_3f80u32; WIDTH]);
    let (a, b) = (
        L::splat(std::hint::black_box(0.5)),
        L::splat(std::hint::black_box(0.25)),
    );
    let mut sums = [L::zero(); CHAINS];
    if bf16 {
        let pair = std::hint::black_box(0x3f00_3f00);
        for _ in 0..steps {
            for sum in &mut sums {
                // SAFETY: 16 pairs are there.
                *sum = unsafe { sum.add_bf16_dot(pair, pairs.as_ptr()) };
            }
        }
    } else {
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = a.mul_add(b, *sum);
            }
        }
    }
    sums.iter().fold(L::zero(), |x, y| x.add(*y)).sum()
}

instantiate! {
    unsafe fn read = read_kernel(from: *const f32, n: usize) -> f32
}

#[inline(always)]
unsafe fn read_kernel<L: Lane>(from: *const f32, n: usize) -> f32 {
    let mut sums = [L::zero(); 8];
    for start in (0..n / (8 * WIDTH) * (8 * WIDTH)).step_by(8 * WIDTH) {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller promises n floats.
            *sum = sum.add(unsafe { L::load(from.add(start + i * WIDTH)) });
        }
    }
    sums.iter().fold(L::zero(), |x, y| x.add(*y)).sum()
}
