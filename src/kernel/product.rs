//! `y = x W^T` for few rows of `x`: weights packed once in panels of 32 output columns,
//! `[panel][in][32]`; a tile of up to 12 rows keeps its sums in registers and walks `in` once.
//! Every output is one chain of fused multiply-adds in ascending `in`, so a row's result does
//! not depend on the rows beside it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::lane::{Isa, Lane, Line, Lines, WIDTH, instantiate};
use super::team::Team;

/// Output columns in a panel: two lanes.
pub const PANEL: usize = 2 * WIDTH;
/// Rows whose sums fit the 32 vector registers of AVX-512: 12 x 2 sums, 2 weights, 1 activation.
const TILE: usize = 12;
/// With 16 registers of 8 floats nothing larger stays in registers.
const TILE_PORTABLE: usize = 2;

/// A weight matrix `[out, in]` packed for [`PackedWeights::product`].
pub struct PackedWeights {
    rows_out: usize,
    rows_in: usize,
    panels: Lines,
}

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

impl PackedWeights {
    /// Packs row-major matrices `[out_i, in]` one below the other, as if they were one.
    ///
    /// # Errors
    /// If memory for the packed copy cannot be had.
    ///
    /// # Panics
    /// If a matrix's size is not a multiple of `rows_in`.
    pub fn pack(matrices: &[&[f32]], rows_in: usize) -> std::io::Result<PackedWeights> {
        let row_at = |at: usize| {
            let mut at = at;
            for matrix in matrices {
                let rows = matrix.len() / rows_in;
                if at < rows {
                    return Some(&matrix[at * rows_in..(at + 1) * rows_in]);
                }
                at -= rows;
            }
            None
        };
        for matrix in matrices {
            assert_eq!(matrix.len() % rows_in, 0, "matrix is not [out, {rows_in}]");
        }
        let rows_out = matrices.iter().map(|m| m.len() / rows_in).sum();
        Self::pack_rows(rows_out, rows_in, row_at)
    }

    /// Packs `gate` and `up`, both `[out, in]`, alternating 16 rows of each, for
    /// [`Epilogue::SiluGate`]. `out` must be a multiple of 16.
    ///
    /// # Errors
    /// If memory for the packed copy cannot be had.
    pub fn pack_gated(gate: &[f32], up: &[f32], rows_in: usize) -> std::io::Result<PackedWeights> {
        let out = gate.len() / rows_in;
        assert!(gate.len() == up.len() && out.is_multiple_of(WIDTH));
        Self::pack_rows(2 * out, rows_in, |at| {
            let (panel, column) = (at / PANEL, at % PANEL);
            let (matrix, row) = if column < WIDTH {
                (gate, panel * WIDTH + column)
            } else {
                (up, panel * WIDTH + column - WIDTH)
            };
            Some(&matrix[row * rows_in..(row + 1) * rows_in])
        })
    }

    fn pack_rows<'a>(
        rows_out: usize,
        rows_in: usize,
        row_at: impl Fn(usize) -> Option<&'a [f32]>,
    ) -> std::io::Result<PackedWeights> {
        let count = rows_out.div_ceil(PANEL);
        let mut panels = Lines::zeroed(count * rows_in * 2, true)?;
        for panel in 0..count {
            let lines = &mut panels[panel * rows_in * 2..(panel + 1) * rows_in * 2];
            for column in 0..PANEL {
                let Some(row) = row_at(panel * PANEL + column) else {
                    break;
                };
                for (k, &w) in row.iter().enumerate() {
                    lines[2 * k + column / WIDTH].0[column % WIDTH] = w;
                }
            }
        }
        Ok(PackedWeights {
            rows_out,
            rows_in,
            panels,
        })
    }

    /// Width of the product.
    pub fn rows_out(&self) -> usize {
        self.rows_out
    }

    pub fn rows_in(&self) -> usize {
        self.rows_in
    }

    /// Copies row `at` of the unpacked matrix (the embedding of token `at`, where the head
    /// is tied) into `to`.
    pub fn unpack_row(&self, at: usize, to: &mut [f32]) {
        let (panel, column) = (at / PANEL, at % PANEL);
        let lines = &self.panels[panel * self.rows_in * 2..(panel + 1) * self.rows_in * 2];
        for (k, x) in to.iter_mut().enumerate() {
            *x = lines[2 * k + column / WIDTH].0[column % WIDTH];
        }
    }

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
            loop {
                let start = next.fetch_add(block, Ordering::Relaxed);
                if start >= count {
                    break;
                }
                for panel in start..(start + block).min(count) {
                    let call = PanelCall {
                        weights: self.panels[panel * self.rows_in * 2..].as_ptr(),
                        x: x.as_ptr(),
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
                    // SAFETY: `x` and `y` were checked above, and each panel writes its own
                    // columns only.
                    unsafe { panel_product(isa, &call) };
                }
            }
        });
    }
}

/// A pointer that several threads write through, each its own columns.
struct SharedOutput(*mut f32);
// SAFETY: see `product_as`.
unsafe impl Sync for SharedOutput {}

struct PanelCall {
    weights: *const Line,
    x: *const f32,
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
    let largest = if is_register::<L>() {
        TILE
    } else {
        TILE_PORTABLE
    };
    // Tiles of nearly equal height: 32 rows as 11 + 11 + 10, not 12 + 12 + 8.
    let tiles = call.rows.div_ceil(largest);
    let mut row = 0;
    for tile_index in 0..tiles {
        let end = call.rows * (tile_index + 1) / tiles;
        // SAFETY: rows row..end are within `call.rows`.
        unsafe {
            match end - row {
                1 => tile::<L, 1>(call, row),
                2 => tile::<L, 2>(call, row),
                3 => tile::<L, 3>(call, row),
                4 => tile::<L, 4>(call, row),
                5 => tile::<L, 5>(call, row),
                6 => tile::<L, 6>(call, row),
                7 => tile::<L, 7>(call, row),
                8 => tile::<L, 8>(call, row),
                9 => tile::<L, 9>(call, row),
                10 => tile::<L, 10>(call, row),
                11 => tile::<L, 11>(call, row),
                _ => tile::<L, 12>(call, row),
            }
        }
        row = end;
    }
}

/// Whether a lane is a single register (and not 16 separate floats).
#[inline(always)]
fn is_register<L: Lane>() -> bool {
    align_of::<L>() == align_of::<Line>()
}

#[inline(always)]
unsafe fn tile<L: Lane, const R: usize>(call: &PanelCall, row: usize) {
    // SAFETY: the caller promises R rows from `row`; a panel holds 2 lines for each k.
    unsafe {
        let mut sums = [[L::zero(); 2]; R];
        let weights = call.weights.cast::<f32>();
        let x = call.x.add(row * call.rows_in);
        for k in 0..call.rows_in {
            let w0 = L::load(weights.add(k * PANEL));
            let w1 = L::load(weights.add(k * PANEL + WIDTH));
            for r in 0..R {
                let a = L::splat(*x.add(r * call.rows_in + k));
                sums[r][0] = a.mul_add(w0, sums[r][0]);
                sums[r][1] = a.mul_add(w1, sums[r][1]);
            }
        }
        for r in 0..R {
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

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn equals_the_plain_sum_bit_for_bit_on_every_instruction_set() {
        let team = Team::new(2);
        for (out, inn) in [(1, 1), (31, 7), (64, 48), (100, 33)] {
            let w = noise(out * inn, 1);
            let packed = PackedWeights::pack(&[&w], inn).unwrap();
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
        let (out, inn) = (96, 80);
        let packed = PackedWeights::pack(&[&noise(out * inn, 4)], inn).unwrap();
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

    #[test]
    fn gated_products_apply_silu() {
        let (out, inn, rows) = (48, 20, 5);
        let (gate, up) = (noise(out * inn, 6), noise(out * inn, 7));
        let packed = PackedWeights::pack_gated(&gate, &up, inn).unwrap();
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

    #[test]
    fn unpacks_its_rows() {
        let w = noise(50 * 6, 9);
        let packed = PackedWeights::pack(&[&w[..20 * 6], &w[20 * 6..]], 6).unwrap();
        let mut row = vec![0.0; 6];
        for at in 0..50 {
            packed.unpack_row(at, &mut row);
            assert_eq!(row, w[at * 6..(at + 1) * 6]);
        }
    }
}
