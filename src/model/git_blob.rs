//! The name that git gives a file, by which the hub knows files that are not stored apart (LFS):
//! SHA-1 (RFC 3174) over `blob`, its length and its bytes. Against what breaks on the way, not
//! against forgers, whom SHA-1 does not stop.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::digest::hex;
use crate::error::{Error, Result};

/// The hash of a file as git names it, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub(super) fn name_of(path: &Path) -> Result<String> {
    let failed = |e| Error::io(path, e);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let header = format!("blob {length}\0");
    let content = header.as_bytes().chain(std::io::BufReader::new(file));
    sha1(content, header.len() as u64 + length).map_err(failed)
}

/// Of what `from` gives, which has `length` bytes.
fn sha1(from: impl Read, length: u64) -> std::io::Result<String> {
    // One bit, zeros up to eight bytes before the end of a block, and the length in bits.
    let zeros = (119 - length % 64) % 64;
    let padding = [&[0x80][..], &vec![0; zeros as usize]].concat();
    let bits = (length * 8).to_be_bytes();
    let mut whole = from.take(length).chain(&padding[..]).chain(&bits[..]);
    let mut state = [
        0x6745_2301_u32,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    let mut block = [0; 64];
    for _ in 0..(length + 9).div_ceil(64) {
        whole.read_exact(&mut block)?;
        add(&mut state, &block);
    }
    let bytes: Vec<u8> = state.iter().flat_map(|word| word.to_be_bytes()).collect();
    Ok(hex(&bytes))
}

fn add(state: &mut [u32; 5], block: &[u8; 64]) {
    let mut words = [0u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, b| word << 8 | u32::from(*b));
    }
    for i in 16..80 {
        words[i] = (words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (i, word) in words.iter().enumerate() {
        let (mixed, constant) = match i / 20 {
            0 => ((b & c) | (!b & d), 0x5a82_7999),
            1 => (b ^ c ^ d, 0x6ed9_eba1),
            2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6),
        };
        let next = (a.rotate_left(5))
            .wrapping_add(mixed)
            .wrapping_add(e)
            .wrapping_add(constant)
            .wrapping_add(*word);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    for (sum, part) in state.iter_mut().zip([a, b, c, d, e]) {
        *sum = sum.wrapping_add(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard_and_of_git() {
        let of = |text: &str| sha1(text.as_bytes(), text.len() as u64).unwrap();
        assert_eq!(of(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(of("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let long = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(of(long), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        assert_eq!(
            of(&"a".repeat(1_000_000)),
            "34aa973cd4c4daa4f61eeb2bdbad27316534016f"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        let name = name_of(file.path()).unwrap();
        assert_eq!(name, "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
