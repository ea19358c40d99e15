//! Sixteen f32 side by side: the unit in which the kernels are written, with an AVX-512 form
//! and a plain Rust form that give the same bits.

use std::sync::OnceLock;

/// Elements in a lane.
pub const WIDTH: usize = 16;

/// A cache line of f32: gives packed buffers their 64-byte alignment.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line(pub [f32; WIDTH]);

impl Line {
    pub const ZERO: Line = Line([0.0; WIDTH]);
}

/// A zeroed buffer of lines straight from the system: pages are only touched when written,
/// and large ones are asked for, since decoding streams all weights once a step and small
/// pages cost a look-up each 4 KiB.
pub struct Lines {
    map: memmap2::MmapMut,
    lines: usize,
}

impl Lines {
    /// # Errors
    /// If the system has no address space left for `lines` lines of 64 bytes.
    pub fn zeroed(lines: usize, large_pages: bool) -> std::io::Result<Lines> {
        let bytes = lines
            .checked_mul(size_of::<Line>())
            .ok_or_else(|| std::io::Error::other("buffer size overflows"))?;
        let map = memmap2::MmapMut::map_anon(bytes.max(1))?;
        #[cfg(target_os = "linux")]
        if large_pages {
            // Only a wish: without it everything works, a little slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = large_pages;
        Ok(Lines { map, lines })
    }
}

impl std::ops::Deref for Lines {
    type Target = [Line];
    fn deref(&self) -> &[Line] {
        // SAFETY: the map is page-aligned, at least `lines * 64` bytes long, and any bytes
        // are valid floats.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.lines) }
    }
}

impl std::ops::DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.lines) }
    }
}

/// Views lines as plain floats.
pub fn floats(lines: &[Line]) -> &[f32] {
    // SAFETY: `Line` is exactly `[f32; WIDTH]` without padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * WIDTH) }
}

/// Views lines as plain floats, to write.
pub fn floats_mut(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: as in `floats`, and the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * WIDTH) }
}

/// The operations kernels are written in. All pointers must be valid for 16 floats; no
/// alignment is needed. Implementations with intrinsics must only be reached from functions
/// that enable their instruction set.
pub trait Lane: Copy {
    fn zero() -> Self;
    fn splat(value: f32) -> Self;
    /// # Safety
    /// `from` must be readable for 16 floats.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `to` must be writable for 16 floats.
    unsafe fn store(self, to: *mut f32);
    /// `self * by + add`, rounded once.
    fn mul_add(self, by: Self, add: Self) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// The larger of each pair; operands are never NaN here.
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    /// To the nearest integer, ties to even.
    fn round(self) -> Self;
    /// `self * 2^power`, for whole `power` in -126..=127.
    fn scale_by_power_of_two(self, power: Self) -> Self;
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

/// Plain Rust; compilers turn it into whatever vectors they are allowed.
#[derive(Clone, Copy)]
pub struct Portable([f32; WIDTH]);

macro_rules! each {
    ($self:ident, $other:ident, $a:ident, $b:ident, $body:expr) => {{
        let mut out = $self.0;
        for i in 0..WIDTH {
            let ($a, $b) = ($self.0[i], $other.0[i]);
            out[i] = $body;
        }
        Portable(out)
    }};
}

impl Lane for Portable {
    #[inline(always)]
    fn zero() -> Self {
        Portable([0.0; WIDTH])
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Portable([value; WIDTH])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises 16 readable floats.
        Portable(unsafe { from.cast::<[f32; WIDTH]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises 16 writable floats.
        unsafe { to.cast::<[f32; WIDTH]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    fn mul_add(self, by: Self, add: Self) -> Self {
        let mut out = self.0;
        for i in 0..WIDTH {
            out[i] = self.0[i].mul_add(by.0[i], add.0[i]);
        }
        Portable(out)
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        each!(self, other, a, b, a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        each!(self, other, a, b, a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        each!(self, other, a, b, a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        each!(self, other, a, b, a / b)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        each!(self, other, a, b, if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        each!(self, other, a, b, if a < b { a } else { b })
    }
    #[inline(always)]
    fn round(self) -> Self {
        let mut out = self.0;
        for x in &mut out {
            *x = x.round_ties_even();
        }
        Portable(out)
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, power: Self) -> Self {
        each!(self, power, a, n, {
            a * f32::from_bits(((n as i32 + 127) as u32) << 23)
        })
    }
    #[inline(always)]
    fn to_array(self) -> [f32; WIDTH] {
        self.0
    }
    #[inline(always)]
    fn zero_where_below(self, test: Self, bound: f32) -> Self {
        each!(self, test, a, t, if t < bound { 0.0 } else { a })
    }
}

#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Lane, WIDTH};
    use std::arch::x86_64::*;

    /// One 512-bit register. Only used below functions that enable AVX-512F, after detection.
    #[derive(Clone, Copy)]
    pub struct Avx512(__m512);

    // SAFETY of every block below: `Avx512` values are only made and used inside kernels that
    // run after AVX-512F was detected (see `Isa::detect`); pointers are the caller's promise.
    impl Lane for Avx512 {
        #[inline(always)]
        fn zero() -> Self {
            Avx512(unsafe { _mm512_setzero_ps() })
        }
        #[inline(always)]
        fn splat(value: f32) -> Self {
            Avx512(unsafe { _mm512_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Avx512(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        fn mul_add(self, by: Self, add: Self) -> Self {
            Avx512(unsafe { _mm512_fmadd_ps(self.0, by.0, add.0) })
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn div(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_div_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_max_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_min_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn round(self) -> Self {
            Avx512(unsafe {
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
            })
        }
        #[inline(always)]
        fn scale_by_power_of_two(self, power: Self) -> Self {
            Avx512(unsafe {
                let exponent =
                    _mm512_add_epi32(_mm512_cvtps_epi32(power.0), _mm512_set1_epi32(127));
                let factor = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent));
                _mm512_mul_ps(self.0, factor)
            })
        }
        #[inline(always)]
        fn to_array(self) -> [f32; WIDTH] {
            let mut out = [0.0; WIDTH];
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) };
            out
        }
        #[inline(always)]
        fn zero_where_below(self, test: Self, bound: f32) -> Self {
            Avx512(unsafe {
                let keep = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(test.0, _mm512_set1_ps(bound));
                _mm512_maskz_mov_ps(keep, self.0)
            })
        }
    }
}

/// The instruction sets a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    Avx512,
    Avx2,
    Portable,
}

impl Isa {
    /// What this machine has, found once. `LENAWARE_ISA=portable|avx2` asks for less, to
    /// compare or to rule a kernel out.
    pub fn detect() -> Isa {
        static FOUND: OnceLock<Isa> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let asked = std::env::var("LENAWARE_ISA").unwrap_or_default();
            let best = Isa::best();
            match (asked.as_str(), best) {
                ("portable", _) => Isa::Portable,
                ("avx2", Isa::Avx512) => Isa::Avx2,
                _ => best,
            }
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Isa {
        if is_x86_feature_detected!("avx512f") {
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
            #[target_feature(enable = "avx512f")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $type),*) $(-> $ret)? {
                unsafe { $kernel::<$crate::kernel::lane::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $type),*) $(-> $ret)? {
                unsafe { $kernel::<$crate::kernel::lane::Portable>($($arg),*) }
            }
            // SAFETY: each instantiation runs only where its instruction set was detected;
            // the rest is the caller's promise.
            unsafe {
                match isa {
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
        Isa::Avx512 => vec![Isa::Avx512, Isa::Avx2, Isa::Portable],
        Isa::Avx2 => vec![Isa::Avx2, Isa::Portable],
        Isa::Portable => vec![Isa::Portable],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe fn exp_into<L: Lane>(from: *const f32, to: *mut f32) {
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
        unsafe {
            exp_of(
                Isa::detect(),
                [f32::NEG_INFINITY; WIDTH].as_ptr(),
                out.as_mut_ptr(),
            )
        };
        assert_eq!(out, [0.0; WIDTH]);
    }
}
