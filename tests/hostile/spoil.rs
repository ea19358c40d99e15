//! Spoils a good file.

use rand::Rng;

/// Numbers that readers stumble over.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
/// And words.
const WORDS: [&str; 16] = [
    "-1",
    "1e999",
    "NaN",
    "null",
    "0",
    "18446744073709551616",
    "99999999999",
    "\"\"",
    "[]",
    "{}",
    "\u{0}",
    "\u{1b}[2J",
    "\u{fffd}",
    "{{",
    "[[[[[[[[",
    "\n",
];

/// A copy with one to four mistakes in it; one in eight is cut off as well.
pub fn spoil(good: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        // Headers are at the beginning: half of the mistakes are made there.
        let reach = match rng.random_bool(0.5) {
            true => bytes.len().min(512),
            false => bytes.len(),
        };
        let at = rng.random_range(0..=reach);
        let rest = bytes.len() - at;
        match rng.random_range(0..6) {
            0 if rest > 0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => {
                let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_le_bytes();
                let width = (1_usize << rng.random_range(0..4)).min(rest);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            2 => {
                let word = WORDS[rng.random_range(0..WORDS.len())];
                let gone = rng.random_range(0..=rest.min(12));
                bytes.splice(at..at + gone, word.bytes());
            }
            3 => drop(bytes.drain(at..at + rng.random_range(0..=rest.min(64)))),
            4 => {
                let twice = bytes[at..at + rng.random_range(0..=rest.min(64))].to_vec();
                bytes.splice(at..at, twice);
            }
            _ if rest > 0 => bytes[at] = rng.random(),
            _ => (),
        }
    }
    if rng.random_bool(0.125) {
        bytes.truncate(rng.random_range(0..=bytes.len()));
    }
    bytes
}
