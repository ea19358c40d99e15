//! The AVX-512 form of a lane.

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all: a value of `Avx512` is only made and used in kernels that run \
              after AVX-512F was detected (`Isa::detect`); that pointers can be read or written \
              is the caller's promise. Held against plain Rust, bit for bit, by the tests of \
              `lane` and of every kernel"
)]

use std::arch::x86_64::*;

use super::{Lane, WIDTH};

/// One 512-bit register; `BF16` says whether AVX512-BF16 may be used. Only used below functions
/// that enable these instruction sets, after detection.
#[derive(Clone, Copy)]
pub struct Avx512<const BF16: bool>(__m512);

impl<const BF16: bool> Lane for Avx512<BF16> {
    const IS_REGISTER: bool = true;

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
    unsafe fn load_f16(from: *const u16) -> Self {
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16) {
        unsafe {
            let halves =
                _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0);
            _mm256_storeu_si256(to.cast(), halves);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, up));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(rounded));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u32) -> [Self; 2] {
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let high = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            let low = _mm512_slli_epi32::<16>(pairs);
            [low, high].map(|bits| Avx512(_mm512_castsi512_ps(bits)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> [Self; 2] {
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let low = _mm512_and_si512(bytes, _mm512_set1_epi32(15));
            let high = _mm512_srli_epi32::<4>(bytes);
            [
                Avx512(_mm512_cvtepi32_ps(low)),
                Avx512(_mm512_cvtepi32_ps(high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn add_bf16_dot(self, pair: u32, pairs: *const u32) -> Self {
        unsafe {
            let pair = _mm512_set1_epi32(pair as i32);
            if BF16 {
                let a = std::mem::transmute::<__m512i, __m512bh>(pair);
                let b = std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(pairs.cast()));
                return Avx512(_mm512_dpbf16_ps(self.0, a, b));
            }
            let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let a_high = _mm512_castsi512_ps(_mm512_and_si512(pair, mask));
            let a_low = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair));
            let [low, high] = Self::load_bf16_pairs(pairs);
            let sum = _mm512_fmadd_ps(a_high, high.0, self.0);
            Avx512(_mm512_fmadd_ps(a_low, low.0, sum))
        }
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
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(power.0), _mm512_set1_epi32(127));
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
