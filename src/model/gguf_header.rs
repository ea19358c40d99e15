//! A first pass over a GGUF header that trusts nothing: every count, length, shape and offset
//! is held against the size of the file before the tensor library reads it for good, so that a
//! cut, damaged or hostile file is an error and never a panic or a huge allocation.

use std::collections::HashSet;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::error::{Error, Result};

const MAX_NAME: u64 = 1 << 16;
const MAX_STRING: u64 = 64 << 20;
const MAX_ENTRIES: u64 = 1 << 16;
/// Array elements of the whole file: the largest vocabularies have 262,144 tokens, with a score
/// and a kind each and half a million merges. In memory an element takes 32 bytes and a text
/// what it holds besides.
const MAX_ELEMENTS: u64 = 1 << 21;
const MAX_DEPTH: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// Checks the header of a GGUF file and gives its length in bytes (the tensors follow, aligned).
pub(super) fn check(path: &Path) -> Result<u64> {
    let file = crate::regular_file::open(path)?;
    let len = file.limit();
    let mut scan = Scan {
        inner: BufReader::with_capacity(1 << 16, file),
        at: 0,
        len,
        elements: 0,
    };
    scan.header().map_err(|why| damaged(path, &why))
}

/// The error for a file that is not what it should be.
pub(super) fn damaged(path: &Path, why: &str) -> Error {
    Error::malformed(
        path,
        format!("damaged or not a GGUF model file ({why}): download it again"),
    )
}

/// Elements and bytes of a block of a ggml type; none for types that are not read.
fn block(ggml_type: u32) -> Option<(u64, u64)> {
    Some(match ggml_type {
        0 => (1, 4),
        1 | 30 => (1, 2),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        _ => return None,
    })
}

/// Bytes of a metadata value of fixed size.
fn scalar(value_type: u32) -> Option<u64> {
    Some(match value_type {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

struct Scan<R> {
    inner: R,
    at: u64,
    len: u64,
    elements: u64,
}

type Outcome<T> = std::result::Result<T, String>;

impl<R: Read> Scan<R> {
    fn header(&mut self) -> Outcome<u64> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err("it does not begin with GGUF".into());
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("version {version} is not read, only 2 and 3"));
        }
        let (tensors, entries) = (self.u64()?, self.u64()?);
        if tensors == 0 || tensors > MAX_ENTRIES || entries > MAX_ENTRIES {
            return Err(format!("{tensors} tensors and {entries} metadata entries"));
        }
        let mut alignment = DEFAULT_ALIGNMENT;
        for _ in 0..entries {
            let key = self.text()?;
            let value_type = self.u32()?;
            if key == "general.alignment" {
                if value_type != U32 {
                    return Err("`general.alignment` is not a u32".into());
                }
                alignment = u64::from(self.u32()?);
                if !alignment.is_power_of_two() || alignment > 1 << 16 {
                    return Err(format!("alignment {alignment}"));
                }
            } else {
                self.value(value_type, 0)
                    .map_err(|why| format!("`{key}`: {why}"))?;
            }
        }
        let mut names = HashSet::new();
        let mut ends = Vec::new();
        for _ in 0..tensors {
            let name = self.text()?;
            let (offset, size) = self
                .tensor(alignment)
                .map_err(|why| format!("tensor `{name}`: {why}"))?;
            ends.push((name.clone(), offset, size));
            if !names.insert(name) {
                return Err("two tensors of one name".into());
            }
        }
        let data = self.at.next_multiple_of(alignment);
        for (name, offset, size) in ends {
            let end = data.checked_add(offset).and_then(|v| v.checked_add(size));
            if end.is_none_or(|end| end > self.len) {
                return Err(format!("tensor `{name}` lies beyond the end of the file"));
            }
        }
        Ok(self.at)
    }

    /// Reads a tensor's description; gives its offset and size in bytes.
    fn tensor(&mut self, alignment: u64) -> Outcome<(u64, u64)> {
        let rank = self.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(format!("{rank} dimensions"));
        }
        let (mut first, mut count) = (0, 1u64);
        for i in 0..rank {
            let dim = self.u64()?;
            count = count
                .checked_mul(dim)
                .filter(|&n| n > 0 && n < 1 << 48)
                .ok_or("impossible dimensions")?;
            if i == 0 {
                first = dim;
            }
        }
        let ggml_type = self.u32()?;
        let (elements, bytes) =
            block(ggml_type).ok_or_else(|| format!("ggml type {ggml_type} is not read"))?;
        if !first.is_multiple_of(elements) {
            return Err(format!("rows of {first} do not fill blocks of {elements}"));
        }
        let offset = self.u64()?;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("offset {offset} is not aligned"));
        }
        Ok((offset, count / elements * bytes))
    }

    fn value(&mut self, value_type: u32, depth: u32) -> Outcome<()> {
        if let Some(size) = scalar(value_type) {
            return self.skip(size);
        }
        match value_type {
            STRING => {
                let n = self.length(MAX_STRING)?;
                self.skip(n)
            }
            ARRAY if depth < MAX_DEPTH => {
                let element = self.u32()?;
                let count = self.u64()?;
                self.elements = self.elements.saturating_add(count);
                let least = scalar(element).unwrap_or(8);
                if self.elements > MAX_ELEMENTS || count.saturating_mul(least) > self.left() {
                    return Err(format!("an array of {count}"));
                }
                match scalar(element) {
                    Some(size) => self.skip(count * size),
                    None => (0..count).try_for_each(|_| self.value(element, depth + 1)),
                }
            }
            ARRAY => Err("arrays nested too deeply".into()),
            other => Err(format!("value type {other}")),
        }
    }

    fn left(&self) -> u64 {
        self.len.saturating_sub(self.at)
    }

    fn length(&mut self, most: u64) -> Outcome<u64> {
        let n = self.u64()?;
        match n <= most && n <= self.left() {
            true => Ok(n),
            false => Err(format!("a string of {n} bytes")),
        }
    }

    /// A short string. Trailing zeros are dropped and bad UTF-8 replaced, as the tensor library
    /// does, so that both see the same names.
    fn text(&mut self) -> Outcome<String> {
        let n = self.length(MAX_NAME)?;
        let mut bytes = vec![0; n as usize];
        self.fill(&mut bytes)?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn u32(&mut self) -> Outcome<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Outcome<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Outcome<()> {
        self.at += bytes.len() as u64;
        self.inner.read_exact(bytes).map_err(|_| self.cut())
    }

    fn skip(&mut self, n: u64) -> Outcome<()> {
        if n > self.left() {
            return Err(self.cut());
        }
        self.at += n;
        let mut part = (&mut self.inner).take(n);
        match std::io::copy(&mut part, &mut std::io::sink()) {
            Ok(read) if read == n => Ok(()),
            _ => Err(self.cut()),
        }
    }

    fn cut(&self) -> String {
        format!("it ends at byte {}, inside its header", self.len)
    }
}
