//! `y = x W^T` for few rows of `x`: a tile of up to 12 rows keeps its sums for a panel of 32
//! output columns in registers and walks `in` once. Every output is one chain of fused
//! multiply-adds in ascending `in` (in bf16, of pairs of them), so a row's result does not
//! depend on the rows beside it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::lane::{Isa, Lane, WIDTH, instantiate, prefetch};
use super::lines::{Line, floats_mut};
use super::packed::{Arithmetic, PANEL, PackedWeights, Storage};
use super::team::Team;
use super::widen::{Affine4, Bf16, Plain, Scaled8, Weights};

/// Rows whose sums fit the 32 vector registers of AVX-512: 12 x 2 sums, 2 weights, 1 activation.
const TILE: usize = 12;
/// With 16 registers of 8 floats nothing larger stays in registers.
const TILE_PORTABLE: usize = 2;

/// What becomes of a finished sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// `y = sum`
    Store,
    /// `y += sum`: the residual connection.
    Add,
    /// Columns alternate 16 gates and 16 ups (see [`PackedWeights::pack_gated`]):
    /// `y = silu(gate) * up`, half as wide as the product.
    SiluGate,
}

/// A thread's own copies of what a product reads: they stay in its caches.
#[derive(Default)]
struct Scratch {
    /// A panel widened to f32, `[in][32]`.
    panel: Vec<Line>,
    /// `x` rounded to bf16, `[rows][in / 2]` pairs.
    pairs: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl PackedWeights {
    /// `y = epilogue(x W^T)`: `x` is `[rows, in]`, `y` is `[rows, out]` (`[rows, out / 2]`
    /// for [`Epilogue::SiluGate`]), both row-major.
    ///
    /// # Panics
    /// If a slice is shorter than its shape.
    pub fn product(&self, team: &Team, x: &[f32], rows: usize, epilogue: Epilogue, y: &mut [f32]) {
        self.product_as(Isa::detect(), team, x, rows, epilogue, y);
    }

    pub(crate) fn product_as(
        &self,
        isa: Isa,
        team: &Team,
        x: &[f32],
        rows: usize,
        epilogue: Epilogue,
        y: &mut [f32],
    ) {
        if rows == 0 {
            return;
        }
        let width = match epilogue {
            Epilogue::SiluGate => self.rows_out / 2,
            _ => self.rows_out,
        };
        assert!(x.len() >= rows * self.rows_in && y.len() >= rows * width);
        let count = self.rows_out.div_ceil(PANEL);
        // A few blocks a thread, so that a thread that was held up is helped by the others.
        let block = (count / (team.threads() * 4)).clamp(1, 16);
        let next = AtomicUsize::new(0);
        let y = SharedOutput(y.as_mut_ptr());
        team.run(&|_| {
            let y = &y;
            SCRATCH.with_borrow_mut(|scratch| {
                let claim = || next.fetch_add(block, Ordering::Relaxed);
                let mut start = claim();
                if start < count {
                    self.prepare(isa, x, rows, scratch);
                }
                while start < count {
                    // Claimed one ahead, to know which panel comes after this block's last.
                    let following = claim();
                    let end = (start + block).min(count);
                    for panel in start..end {
                        let ahead = if panel + 1 < end {
                            panel + 1
                        } else {
                            following
                        };
                        let weights = self.panel(panel);
                        let call = PanelCall {
                            weights: weights.as_ptr().cast(),
                            weight_bytes: size_of_val(weights),
                            ahead: if ahead < count {
                                self.panel(ahead).as_ptr().cast()
                            } else {
                                std::ptr::null()
                            },
                            storage: self.storage,
                            arithmetic: self.arithmetic,
                            x: x.as_ptr(),
                            pairs: scratch.pairs.as_ptr(),
                            wide: floats_mut(&mut scratch.panel).as_mut_ptr(),
                            rows,
                            rows_in: self.rows_in,
                            column: match epilogue {
                                Epilogue::SiluGate => panel * WIDTH,
                                _ => panel * PANEL,
                            },
                            width,
                            epilogue,
                            y: y.0,
                        };
                        // SAFETY: `x` and `y` were checked above, `scratch` was prepared, and
                        // each panel writes its own columns only.
                        unsafe { panel_product(isa, &call) };
                    }
                    start = following;
                }
            });
        });
    }

    /// Makes a thread's scratch ready: room for a widened panel, `x` in bf16. That each thread
    /// rounds all of `x` for itself is cheaper than waiting for one another.
    fn prepare(&self, isa: Isa, x: &[f32], rows: usize, scratch: &mut Scratch) {
        if scratch.panel.len() < 2 * self.rows_in {
            scratch.panel.resize(2 * self.rows_in, Line::ZERO);
        }
        if self.arithmetic == Arithmetic::Bf16 {
            let values = rows * self.rows_in;
            if scratch.pairs.len() < values / 2 {
                scratch.pairs.resize(values / 2, 0);
            }
            // SAFETY: both hold `values` elements.
            unsafe { round_to_bf16(isa, x.as_ptr(), values, scratch.pairs.as_mut_ptr().cast()) };
        }
    }
}

instantiate! {
    /// Rounds `n` floats to bf16.
    unsafe fn round_to_bf16 = round_kernel(x: *const f32, n: usize, to: *mut u16)
}

#[inline(always)]
unsafe fn round_kernel<L: Lane>(x: *const f32, n: usize, to: *mut u16) {
    // SAFETY: the caller promises n elements at both pointers.
    unsafe {
        let whole = n / WIDTH * WIDTH;
        for i in (0..whole).step_by(WIDTH) {
            L::load(x.add(i)).store_bf16(to.add(i));
        }
        for i in whole..n {
            *to.add(i) = half::bf16::from_f32(*x.add(i)).to_bits();
        }
    }
}

/// A pointer that several threads write through, each its own columns.
struct SharedOutput(*mut f32);
// SAFETY: see `product_as`.
unsafe impl Sync for SharedOutput {}

struct PanelCall {
    weights: *const u8,
    weight_bytes: usize,
    /// The panel that this thread takes next, or null.
    ahead: *const u8,
    storage: Storage,
    arithmetic: Arithmetic,
    x: *const f32,
    /// `x` in bf16, for [`Arithmetic::Bf16`].
    pairs: *const u32,
    /// Room for `[in][32]` floats.
    wide: *mut f32,
    rows: usize,
    rows_in: usize,
    /// First output column of this panel.
    column: usize,
    width: usize,
    epilogue: Epilogue,
    y: *mut f32,
}

instantiate! {
    /// One panel for all rows.
    unsafe fn panel_product = panel(call: &PanelCall)
}

#[inline(always)]
unsafe fn panel<L: Lane>(call: &PanelCall) {
    // SAFETY: the caller's promises are passed on.
    unsafe {
        match (call.arithmetic, call.storage) {
            (Arithmetic::Bf16, _) => tiles::<L, Pairs>(call, call.weights),
            (_, Storage::F32) => tiles::<L, Plain>(call, call.weights),
            (_, Storage::Bf16) => widened::<L, Bf16>(call),
            (_, Storage::Affine4) => widened::<L, Affine4>(call),
            (_, Storage::Scaled8) => widened::<L, Scaled8>(call),
        }
    }
}

/// Widens weights in registers where one tile takes all rows, else once for all tiles.
#[inline(always)]
unsafe fn widened<L: Lane, S: Weights>(call: &PanelCall) {
    // SAFETY: `wide` has room for the panel.
    unsafe {
        if call.rows <= largest_tile::<L>() {
            tiles::<L, S>(call, call.weights);
            return;
        }
        for piece in 0..call.rows_in / S::IN {
            let from = call.weights.add(piece * S::LINES * size_of::<Line>());
            let scales = S::scales::<L>(from);
            for i in 0..S::IN {
                let [w0, w1] = S::weights::<L>(from, scales, i);
                let to = call.wide.add((piece * S::IN + i) * PANEL);
                w0.store(to);
                w1.store(to.add(WIDTH));
            }
        }
        tiles::<L, Plain>(call, call.wide.cast());
    }
}

#[inline(always)]
fn largest_tile<L: Lane>() -> usize {
    if L::IS_REGISTER { TILE } else { TILE_PORTABLE }
}

#[inline(always)]
unsafe fn tiles<L: Lane, S: Tile>(call: &PanelCall, weights: *const u8) {
    // Tiles of nearly equal height: 32 rows as 11 + 11 + 10, not 12 + 12 + 8.
    let tiles = call.rows.div_ceil(largest_tile::<L>());
    // Memory rests while further tiles meet a panel that is in the caches by now: time to bring
    // the next panel near. A single tile is bound by memory and has none to spare.
    let share = if tiles > 1 && !call.ahead.is_null() {
        call.weight_bytes / (tiles * call.rows_in)
    } else {
        0
    };
    let mut row = 0;
    for tile_index in 0..tiles {
        let end = call.rows * (tile_index + 1) / tiles;
        let ahead = Ahead {
            from: call.ahead.wrapping_add(tile_index * share * call.rows_in),
            share,
        };
        // SAFETY: rows row..end are within `call.rows`.
        unsafe {
            match end - row {
                1 => S::tile::<L, 1>(call, weights, row, ahead),
                2 => S::tile::<L, 2>(call, weights, row, ahead),
                3 => S::tile::<L, 3>(call, weights, row, ahead),
                4 => S::tile::<L, 4>(call, weights, row, ahead),
                5 => S::tile::<L, 5>(call, weights, row, ahead),
                6 => S::tile::<L, 6>(call, weights, row, ahead),
                7 => S::tile::<L, 7>(call, weights, row, ahead),
                8 => S::tile::<L, 8>(call, weights, row, ahead),
                9 => S::tile::<L, 9>(call, weights, row, ahead),
                10 => S::tile::<L, 10>(call, weights, row, ahead),
                11 => S::tile::<L, 11>(call, weights, row, ahead),
                _ => S::tile::<L, 12>(call, weights, row, ahead),
            }
        }
        row = end;
    }
}

/// What a tile prefetches on its way.
#[derive(Clone, Copy)]
struct Ahead {
    from: *const u8,
    /// Bytes for each of the panel's `in` positions; 0 for nothing.
    share: usize,
}

impl Ahead {
    #[inline(always)]
    fn fetch(self, position: usize) {
        if self.share > 0 {
            prefetch(self.from.wrapping_add(position * self.share));
        }
    }
}

/// R rows from `row` against a panel.
trait Tile {
    /// # Safety
    /// The rows must exist, and `weights` must be a panel of the storage's form.
    unsafe fn tile<L: Lane, const R: usize>(
        call: &PanelCall,
        weights: *const u8,
        row: usize,
        ahead: Ahead,
    );
}

impl<S: Weights> Tile for S {
    #[inline(always)]
    unsafe fn tile<L: Lane, const R: usize>(
        call: &PanelCall,
        weights: *const u8,
        row: usize,
        ahead: Ahead,
    ) {
        // SAFETY: the caller promises R rows from `row`, and a panel of `in` positions.
        unsafe {
            let mut sums = [[L::zero(); 2]; R];
            let x = call.x.add(row * call.rows_in);
            for piece in 0..call.rows_in / S::IN {
                let from = weights.add(piece * S::LINES * size_of::<Line>());
                let scales = S::scales::<L>(from);
                for i in 0..S::IN {
                    ahead.fetch(piece * S::IN + i);
                    let [w0, w1] = S::weights::<L>(from, scales, i);
                    for r in 0..R {
                        let a = L::splat(*x.add(r * call.rows_in + piece * S::IN + i));
                        sums[r][0] = a.mul_add(w0, sums[r][0]);
                        sums[r][1] = a.mul_add(w1, sums[r][1]);
                    }
                }
            }
            finish_tile(call, row, sums);
        }
    }
}

/// [`Arithmetic::Bf16`]: pairs of weights meet pairs of activations.
struct Pairs;

impl Tile for Pairs {
    #[inline(always)]
    unsafe fn tile<L: Lane, const R: usize>(
        call: &PanelCall,
        weights: *const u8,
        row: usize,
        ahead: Ahead,
    ) {
        // SAFETY: the caller promises R rows from `row`; `pairs` holds all rows.
        unsafe {
            let mut sums = [[L::zero(); 2]; R];
            let half = call.rows_in / 2;
            let weights = weights.cast::<u32>();
            let x = call.pairs.add(row * half);
            for k in 0..half {
                ahead.fetch(2 * k);
                let (w0, w1) = (weights.add(k * PANEL), weights.add(k * PANEL + WIDTH));
                for r in 0..R {
                    let a = *x.add(r * half + k);
                    sums[r][0] = sums[r][0].add_bf16_dot(a, w0);
                    sums[r][1] = sums[r][1].add_bf16_dot(a, w1);
                }
            }
            finish_tile(call, row, sums);
        }
    }
}

#[inline(always)]
unsafe fn finish_tile<L: Lane, const R: usize>(call: &PanelCall, row: usize, sums: [[L; 2]; R]) {
    for r in 0..R {
        // SAFETY: R rows from `row` exist.
        unsafe {
            let y = call.y.add((row + r) * call.width + call.column);
            finish(call, y, sums[r]);
        }
    }
}

#[inline(always)]
unsafe fn finish<L: Lane>(call: &PanelCall, y: *mut f32, sums: [L; 2]) {
    // SAFETY: `y` points at this panel's first column; columns past `width` are not written.
    unsafe {
        match call.epilogue {
            Epilogue::SiluGate => {
                // silu(g) * u = g * u / (1 + e^-g); for very negative g, e^-g saturates and
                // the quotient is as good as 0.
                let (g, u) = (sums[0], sums[1]);
                let e = L::zero().sub(g).exp();
                g.mul(u).div(e.add(L::splat(1.0))).store(y);
            }
            Epilogue::Store | Epilogue::Add => {
                for (half, sum) in sums.into_iter().enumerate() {
                    let first = half * WIDTH;
                    let left = call.width.saturating_sub(call.column + first);
                    let y = y.add(first);
                    if left >= WIDTH {
                        let sum = if call.epilogue == Epilogue::Add {
                            L::load(y).add(sum)
                        } else {
                            sum
                        };
                        sum.store(y);
                    } else {
                        let sum = sum.to_array();
                        for (i, s) in sum.into_iter().enumerate().take(left) {
                            let old = if call.epilogue == Epilogue::Add {
                                *y.add(i)
                            } else {
                                0.0
                            };
                            *y.add(i) = old + s;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::lane::isas_to_test;
    use crate::kernel::noise;

    #[test]
    fn equals_the_plain_sum_bit_for_bit_on_every_instruction_set() {
        let team = Team::new(2);
        for (out, inn) in [(1, 1), (31, 7), (64, 48), (100, 33)] {
            let w = noise(out * inn, 1);
            let packed = PackedWeights::pack(&[&w], inn, Arithmetic::F32).unwrap();
            for rows in [1, 2, 3, 12, 13, 29] {
                let x = noise(rows * inn, 2);
                let start = noise(rows * out, 3);
                for isa in isas_to_test() {
                    let mut y = start.clone();
                    packed.product_as(isa, &team, &x, rows, Epilogue::Add, &mut y);
                    for r in 0..rows {
                        for o in 0..out {
                            let mut sum = 0f32;
                            for k in 0..inn {
                                sum = x[r * inn + k].mul_add(w[o * inn + k], sum);
                            }
                            assert_eq!(y[r * out + o], start[r * out + o] + sum);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let (out, inn) = (96, 96);
        let mut w = noise(out * inn, 4);
        // Steps of 1/8 in every block: fits 4 bits.
        for (i, w) in w.iter_mut().enumerate() {
            *w = ((*w * 7.5 + 7.5).round() + if i % 32 < 2 { 0.0 } else { 0.5 }).floor() / 8.0;
        }
        for (arithmetic, weights) in [
            (Arithmetic::F32, noise(out * inn, 4)),
            (Arithmetic::Bf16, noise(out * inn, 4)),
            (Arithmetic::F32, w),
        ] {
            let packed = PackedWeights::pack(&[&weights], inn, arithmetic).unwrap();
            let x = noise(64 * inn, 5);
            let mut all = vec![0.0; 64 * out];
            packed.product(&Team::new(3), &x, 64, Epilogue::Store, &mut all);
            let alone_team = Team::new(1);
            for row in 0..64 {
                let mut alone = vec![0.0; out];
                let x = &x[row * inn..(row + 1) * inn];
                packed.product(&alone_team, x, 1, Epilogue::Store, &mut alone);
                assert_eq!(alone, all[row * out..(row + 1) * out]);
            }
        }
    }

    #[test]
    fn every_storage_of_the_same_weights_gives_the_same_bits() {
        let (out, inn) = (70, 64);
        // -8 to 7 eighths: exact in 4 bits, 8 bits and bf16.
        let w: Vec<f32> = (0..out * inn)
            .map(|i| ((i * 7 + i / 16) % 16) as f32 / 8.0 - 1.0)
            .collect();
        let rows: Vec<&[f32]> = w.chunks_exact(inn).collect();
        let team = Team::new(2);
        for count in [1, 3, 12, 13, 40] {
            let x = noise(count * inn, 2);
            let mut results: Vec<Vec<f32>> = Vec::new();
            for storage in [
                Storage::F32,
                Storage::Bf16,
                Storage::Affine4,
                Storage::Scaled8,
            ] {
                let packed = PackedWeights::pack_as(&rows, inn, Arithmetic::F32, storage).unwrap();
                for isa in isas_to_test() {
                    let mut y = vec![0.0; count * out];
                    packed.product_as(isa, &team, &x, count, Epilogue::Store, &mut y);
                    results.push(y);
                }
            }
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }

    #[test]
    fn bf16_products_are_chains_of_rounded_pairs_on_every_instruction_set() {
        let (out, inn) = (45, 34);
        let round = |x: f32| half::bf16::from_f32(x).to_f32();
        let w = noise(out * inn, 1);
        let packed = PackedWeights::pack(&[&w], inn, Arithmetic::Bf16).unwrap();
        for rows in [1, 5, 27] {
            let x = noise(rows * inn, 2);
            for isa in isas_to_test() {
                let mut y = vec![0.0; rows * out];
                packed.product_as(isa, &Team::new(2), &x, rows, Epilogue::Store, &mut y);
                for r in 0..rows {
                    for o in 0..out {
                        let mut sum = 0f32;
                        for k in (0..inn).step_by(2) {
                            for k in [k + 1, k] {
                                let (a, b) = (round(x[r * inn + k]), round(w[o * inn + k]));
                                sum = a.mul_add(b, sum);
                            }
                        }
                        assert_eq!(y[r * out + o], sum, "{isa:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn gated_products_apply_silu() {
        let (out, inn, rows) = (48, 20, 5);
        let (gate, up) = (noise(out * inn, 6), noise(out * inn, 7));
        let packed = PackedWeights::pack_gated(&gate, &up, inn, Arithmetic::F32).unwrap();
        let x = noise(rows * inn, 8);
        let dot = |w: &[f32], o: usize, r: usize| -> f64 {
            (0..inn)
                .map(|k| f64::from(x[r * inn + k]) * f64::from(w[o * inn + k]))
                .sum()
        };
        let mut results = Vec::new();
        for isa in isas_to_test() {
            let mut y = vec![0.0; rows * out];
            packed.product_as(isa, &Team::new(2), &x, rows, Epilogue::SiluGate, &mut y);
            for r in 0..rows {
                for o in 0..out {
                    let (g, u) = (dot(&gate, o, r), dot(&up, o, r));
                    let expected = g / (1.0 + (-g).exp()) * u;
                    assert!((f64::from(y[r * out + o]) - expected).abs() < 1e-5);
                }
            }
            results.push(y);
        }
        assert!(results.windows(2).all(|w| w[0] == w[1]));
    }
}
