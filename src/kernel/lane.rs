//! Sixteen f32 side by side: the unit in which the kernels are written, with an AVX-512 form
//! and a plain Rust form that give the same bits.

use std::sync::OnceLock;

/// Elements in a lane.
pub const WIDTH: usize = 16;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use portable::Portable;

/// Asks for the cache line at `at`, which may lie anywhere, to be brought near.
#[inline(always)]
pub fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The operations kernels are written in. All pointers must be valid for 16 floats; no
/// alignment is needed. Implementations with intrinsics must only be reached from functions
/// that enable their instruction set.
pub trait Lane: Copy {
    /// Whether a lane is a single register (and not 16 separate floats).
    const IS_REGISTER: bool;

    /// Sixteen zeros.
    fn zero() -> Self;
    /// Sixteen times `value`.
    fn splat(value: f32) -> Self;
    /// Sixteen floats from memory.
    ///
    /// # Safety
    /// `from` must be readable for 16 floats.
    unsafe fn load(from: *const f32) -> Self;
    /// Sixteen floats to memory.
    ///
    /// # Safety
    /// `to` must be writable for 16 floats.
    unsafe fn store(self, to: *mut f32);
    /// 16 f16 widened, which is exact.
    /// # Safety
    /// `from` must be readable for 16 halves.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Rounds to f16, ties to even.
    /// # Safety
    /// `to` must be writable for 16 halves.
    unsafe fn store_f16(self, to: *mut u16);
    /// Rounds to bf16, ties to even.
    /// # Safety
    /// `to` must be writable for 16 halves.
    unsafe fn store_bf16(self, to: *mut u16);
    /// 16 pairs of bf16 widened: the low halves, then the high halves.
    /// # Safety
    /// `from` must be readable for 16 pairs.
    unsafe fn load_bf16_pairs(from: *const u32) -> [Self; 2];
    /// 16 signed bytes as floats.
    /// # Safety
    /// `from` must be readable for 16 bytes.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// 16 bytes as floats: their low nibbles, then their high nibbles.
    /// # Safety
    /// `from` must be readable for 16 bytes.
    unsafe fn load_nibbles(from: *const u8) -> [Self; 2];
    /// Adds the dot products of one pair of bf16 with 16 pairs: first the high halves', then
    /// the low halves' product, each sum rounded once to f32. (The instruction also takes
    /// numbers below 2^-126 for 0, which plain Rust does not.)
    /// # Safety
    /// `pairs` must be readable for 16 pairs.
    unsafe fn add_bf16_dot(self, pair: u32, pairs: *const u32) -> Self;
    /// `self * by + add`, rounded once.
    fn mul_add(self, by: Self, add: Self) -> Self;
    /// Elementwise sum.
    fn add(self, other: Self) -> Self;
    /// Elementwise difference.
    fn sub(self, other: Self) -> Self;
    /// Elementwise product.
    fn mul(self, other: Self) -> Self;
    /// Elementwise quotient.
    fn div(self, other: Self) -> Self;
    /// The larger of each pair; operands are never NaN here.
    fn max(self, other: Self) -> Self;
    /// The smaller of each pair; operands are never NaN here.
    fn min(self, other: Self) -> Self;
    /// To the nearest integer, ties to even.
    fn round(self) -> Self;
    /// `self * 2^power`, for whole `power` in -126..=127.
    fn scale_by_power_of_two(self, power: Self) -> Self;
    /// The elements in order.
    fn to_array(self) -> [f32; WIDTH];

    /// Sum in a fixed tree order.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut a = self.to_array();
        let mut width = WIDTH / 2;
        while width > 0 {
            for i in 0..width {
                a[i] += a[i + width];
            }
            width /= 2;
        }
        a[0]
    }

    /// The largest element.
    #[inline(always)]
    fn max_element(self) -> f32 {
        self.to_array()
            .into_iter()
            .fold(f32::NEG_INFINITY, f32::max)
    }

    /// e^x for x <= 88, with a relative error below 2e-7; below -87 the result is 0.
    #[inline(always)]
    fn exp(self) -> Self {
        // Cephes' expf: x = n ln 2 + r with |r| <= ln 2 / 2, then a degree-5 polynomial in r.
        let clamped = self.max(Self::splat(-87.5)).min(Self::splat(88.0));
        let n = clamped.mul(Self::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(Self::splat(-0.693_359_4), clamped);
        let r = n.mul_add(Self::splat(2.121_944_4e-4), r);
        let mut p = Self::splat(1.987_569_1e-4);
        for c in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ] {
            p = p.mul_add(r, Self::splat(c));
        }
        let e = p.mul_add(r.mul(r), r).add(Self::splat(1.0));
        // Two halves, since 2^-127 has no normal exponent.
        let half = n.mul(Self::splat(0.5)).round();
        let e = e
            .scale_by_power_of_two(half)
            .scale_by_power_of_two(n.sub(half));
        // Anything this small is nothing: keeps -inf exact and skips subnormals.
        e.zero_where_below(self, -87.0)
    }

    /// `self`, but 0 where `test < bound`.
    fn zero_where_below(self, test: Self, bound: f32) -> Self;
}

/// The instruction sets a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512F with the dot product of AVX512-BF16.
    Avx512Bf16,
    /// AVX-512F.
    Avx512,
    /// AVX2 with FMA, in which plain Rust is compiled once more.
    Avx2,
    /// Plain Rust for whatever the program was built for.
    Portable,
}

impl Isa {
    /// What this machine has, found once. `LENAWARE_ISA=portable|avx2|avx512` asks for less,
    /// to compare or to rule a kernel out.
    pub fn detect() -> Isa {
        static FOUND: OnceLock<Isa> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let asked = std::env::var("LENAWARE_ISA").unwrap_or_default();
            let best = Isa::best();
            match (asked.as_str(), best) {
                ("portable", _) => Isa::Portable,
                ("avx2", Isa::Avx512 | Isa::Avx512Bf16) => Isa::Avx2,
                ("avx512", Isa::Avx512Bf16) => Isa::Avx512,
                _ => best,
            }
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Isa {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
            Isa::Avx512Bf16
        } else if is_x86_feature_detected!("avx512f") {
            Isa::Avx512
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Isa::Avx2
        } else {
            Isa::Portable
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Isa {
        Isa::Portable
    }
}

/// Writes the three instantiations of a generic kernel `fn $kernel<L: Lane>(..)`
/// and a `$name(isa, ..)` that picks one.
macro_rules! instantiate {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident = $kernel:ident ( $($arg:ident : $type:ty),* $(,)? ) $(-> $ret:ty)?) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::kernel::lane::Isa, $($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bf16")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512_bf16($($arg: $type),*) $(-> $ret)? {
                // SAFETY: the caller's promise is passed on.
                unsafe { $kernel::<$crate::kernel::lane::Avx512<true>>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $type),*) $(-> $ret)? {
                // SAFETY: the caller's promise is passed on.
                unsafe { $kernel::<$crate::kernel::lane::Avx512<false>>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $type),*) $(-> $ret)? {
                // SAFETY: the caller's promise is passed on.
                unsafe { $kernel::<$crate::kernel::lane::Portable>($($arg),*) }
            }
            // SAFETY: each instantiation runs only where its instruction set was detected;
            // the rest is the caller's promise.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::kernel::lane::Isa::Avx512Bf16 => avx512_bf16($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::kernel::lane::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::kernel::lane::Isa::Avx2 => avx2($($arg),*),
                    _ => $kernel::<$crate::kernel::lane::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use instantiate;

#[cfg(test)]
pub(crate) fn isas_to_test() -> Vec<Isa> {
    match Isa::best() {
        Isa::Avx512Bf16 => vec![Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Portable],
        Isa::Avx512 => vec![Isa::Avx512, Isa::Avx2, Isa::Portable],
        Isa::Avx2 => vec![Isa::Avx2, Isa::Portable],
        Isa::Portable => vec![Isa::Portable],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe fn exp_into<L: Lane>(from: *const f32, to: *mut f32) {
        // SAFETY: both are lanes, as is promised.
        unsafe { L::load(from).exp().store(to) }
    }
    instantiate! { unsafe fn exp_of = exp_into(from: *const f32, to: *mut f32) }

    #[test]
    fn exp_is_accurate_and_the_same_on_every_instruction_set() {
        let mut worst = 0f64;
        for block in 0..2000 {
            let xs: [f32; WIDTH] =
                std::array::from_fn(|i| -86.9 + (block * WIDTH + i) as f32 * (170.0 / 32_000.0));
            let mut bits: Vec<[u32; WIDTH]> = Vec::new();
            for isa in isas_to_test() {
                let mut out = [0.0; WIDTH];
                // SAFETY: both are lanes.
                unsafe { exp_of(isa, xs.as_ptr(), out.as_mut_ptr()) };
                for (x, e) in xs.iter().zip(out) {
                    let truth = f64::from(*x).exp();
                    worst = worst.max(((f64::from(e) - truth) / truth).abs());
                }
                bits.push(out.map(f32::to_bits));
            }
            assert!(bits.windows(2).all(|w| w[0] == w[1]));
        }
        assert!(worst < 2e-7, "{worst}");
        let mut out = [1.0; WIDTH];
        // SAFETY: both are lanes.
        unsafe {
            exp_of(
                Isa::detect(),
                [f32::NEG_INFINITY; WIDTH].as_ptr(),
                out.as_mut_ptr(),
            );
        };
        assert_eq!(out, [0.0; WIDTH]);
    }
}
