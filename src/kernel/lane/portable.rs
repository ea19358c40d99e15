//! The plain Rust form of a lane.

use super::{Lane, WIDTH};

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
    const IS_REGISTER: bool = false;

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
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: the caller promises 16 readable halves.
        let halves = unsafe { from.cast::<[u16; WIDTH]>().read_unaligned() };
        Portable(halves.map(|bits| half::f16::from_bits(bits).to_f32_const()))
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16) {
        let halves = self.0.map(|x| half::f16::from_f32_const(x).to_bits());
        // SAFETY: the caller promises 16 writable halves.
        unsafe { to.cast::<[u16; WIDTH]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        let halves = self.0.map(|x| {
            let bits = x.to_bits();
            (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
        });
        // SAFETY: the caller promises 16 writable halves.
        unsafe { to.cast::<[u16; WIDTH]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u32) -> [Self; 2] {
        // SAFETY: the caller promises 16 readable pairs.
        let pairs = unsafe { from.cast::<[u32; WIDTH]>().read_unaligned() };
        [
            Portable(pairs.map(|p| f32::from_bits(p << 16))),
            Portable(pairs.map(|p| f32::from_bits(p & 0xffff_0000))),
        ]
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller promises 16 readable bytes.
        let bytes = unsafe { from.cast::<[i8; WIDTH]>().read_unaligned() };
        Portable(bytes.map(f32::from))
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> [Self; 2] {
        // SAFETY: the caller promises 16 readable bytes.
        let bytes = unsafe { from.cast::<[u8; WIDTH]>().read_unaligned() };
        [
            Portable(bytes.map(|b| f32::from(b & 15))),
            Portable(bytes.map(|b| f32::from(b >> 4))),
        ]
    }
    #[inline(always)]
    unsafe fn add_bf16_dot(self, pair: u32, pairs: *const u32) -> Self {
        // SAFETY: the caller promises 16 readable pairs.
        let [low, high] = unsafe { Self::load_bf16_pairs(pairs) };
        let a_high = Self::splat(f32::from_bits(pair & 0xffff_0000));
        let a_low = Self::splat(f32::from_bits(pair << 16));
        a_low.mul_add(low, a_high.mul_add(high, self))
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
