//! A Parquet file's footer is walked through before the library reads it: the library reserves
//! memory for as many elements as a list claims, and of a few bytes that may be billions.
//!
//! The footer is a structure in Thrift's compact protocol; what its fields mean does not matter
//! here, only that every list, text and structure ends within it.

/// Structures within structures; Parquet's own go six deep.
const DEPTH: usize = 32;

/// Whether everything in the footer of a file ends where the footer does, at the latest.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    let short = || "it is too short to have a footer".to_string();
    // ... footer, its length in 4 bytes, "PAR1"
    let (rest, _) = file.split_last_chunk::<4>().ok_or_else(short)?;
    let (rest, length) = rest.split_last_chunk::<4>().ok_or_else(short)?;
    let length = u32::from_le_bytes(*length) as usize;
    let begin = rest.len().checked_sub(length).ok_or_else(short)?;
    let mut walk = Walk(&rest[begin..]);
    walk.structure(DEPTH)
        .ok_or_else(|| "its footer is damaged".to_string())
}

/// What is left of the footer. Each step gives nothing where that is not enough.
struct Walk<'b>(&'b [u8]);

impl Walk<'_> {
    fn pass(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for place in 0..10 {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(7 * place)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// As many elements as there may be: each takes a byte at least.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    fn structure(&mut self, depth: usize) -> Option<()> {
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            if head >> 4 == 0 {
                self.number()?;
            }
            // A truth value is in its field's type.
            if !matches!(head & 15, 1 | 2) {
                self.value(head & 15, depth)?;
            }
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1..=3 => self.pass(1),
            4..=6 => self.number().map(|_| ()),
            7 => self.pass(8),
            8 => {
                let bytes = self.count()?;
                self.pass(bytes)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.count()?,
                    few => usize::from(few),
                };
                (0..count).try_for_each(|_| self.value(head & 15, depth))
            }
            11 => match self.count()? {
                0 => Some(()),
                count => {
                    let kinds = self.byte()?;
                    (0..count).try_for_each(|_| {
                        self.value(kinds >> 4, depth)?;
                        self.value(kinds & 15, depth)
                    })
                }
            },
            12 => self.structure(depth),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(footer: &[u8]) -> Vec<u8> {
        let length = (footer.len() as u32).to_le_bytes();
        [b"PAR1", footer, &length, b"PAR1"].concat()
    }

    #[test]
    fn what_ends_within_the_footer_passes() {
        // A number; a list of two texts; a map of one; a structure with a truth value and a
        // double; the end.
        let footer =
            b"\x15\x08\x19\x28\x01a\x02bc\x1b\x01\x88\x01k\x01v\x1c\x11\x17abcdefgh\x00\x00";
        assert_eq!(check(&file(footer)), Ok(()));
        let (_, embedded) = crate::dataset::embedded::bytes();
        assert_eq!(check(embedded), Ok(()));
    }

    #[test]
    fn what_claims_more_is_refused() {
        for footer in [
            &b"\x19\xfc\xff\xff\xff\xff\x0f"[..], // a list of 4 billion structures
            b"\x18\x7fshort\x00",
            b"\x15\xff",
            b"\x15\x08",
            b"\x1e\x00",
            &[0x1c; 4000],
        ] {
            assert_eq!(check(&file(footer)), Err("its footer is damaged".into()));
        }
        for file in [&b"PAR1"[..], b"", b"PAR1\xff\xff\xff\xffPAR1"] {
            assert!(check(file).unwrap_err().contains("too short"));
        }
    }
}
