//! A Parquet file's footer is walked through before the library reads it: the library reserves
//! memory for as many elements as a list claims, and of a few bytes that may be billions.
//!
//! The footer is a structure in Thrift's compact protocol. The library goes by the numbers of
//! fields and believes that each is of the type it is by the specification; so both are looked
//! at here: every field that the specification knows has its type, and every list, text and
//! structure ends within the footer.

/// Structures within structures; Parquet's own go six deep.
const DEPTH: usize = 32;

/// What a field or an element is.
#[derive(Clone, Copy)]
enum Type {
    Truth,
    Byte,
    /// Of 16, 32 or 64 bits: all are written alike.
    Number,
    Text,
    List(&'static Type),
    Structure(&'static [(i16, Type)]),
}

use Type::{Byte, List, Number, Structure, Text, Truth};

/// `FileMetaData` of parquet.thrift, and the structures in it.
const FILE: &[(i16, Type)] = &[
    (1, Number),
    (2, List(&Structure(SCHEMA_ELEMENT))),
    (3, Number),
    (4, List(&Structure(ROW_GROUP))),
    (5, List(&KEY_VALUE)),
    (6, Text),
    (7, List(&Structure(&[(1, EMPTY), (2, EMPTY)]))),
    (8, Structure(&[])),
    (9, Text),
];
const EMPTY: Type = Structure(&[]);
const KEY_VALUE: Type = Structure(&[(1, Text), (2, Text)]);
const SCHEMA_ELEMENT: &[(i16, Type)] = &[
    (1, Number),
    (2, Number),
    (3, Number),
    (4, Text),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, Number),
    (9, Number),
    (10, Structure(LOGICAL_TYPE)),
];
const LOGICAL_TYPE: &[(i16, Type)] = &[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Structure(&[(1, Number), (2, Number)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Structure(&[(1, Byte), (2, Truth)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
];
const TIME: Type = Structure(&[
    (1, Truth),
    (2, Structure(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)])),
]);
const ROW_GROUP: &[(i16, Type)] = &[
    (1, List(&Structure(COLUMN_CHUNK))),
    (2, Number),
    (3, Number),
    (4, List(&Structure(&[(1, Number), (2, Truth), (3, Truth)]))),
    (5, Number),
    (6, Number),
    (7, Number),
];
const COLUMN_CHUNK: &[(i16, Type)] = &[
    (1, Text),
    (2, Number),
    (3, Structure(COLUMN)),
    (4, Number),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, Structure(&[])),
    (9, Text),
];
/// `ColumnMetaData`.
const COLUMN: &[(i16, Type)] = &[
    (1, Number),
    (2, List(&Number)),
    (3, List(&Text)),
    (4, Number),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, List(&KEY_VALUE)),
    (9, Number),
    (10, Number),
    (11, Number),
    (12, Structure(STATISTICS)),
    (
        13,
        List(&Structure(&[(1, Number), (2, Number), (3, Number)])),
    ),
    (14, Number),
    (15, Number),
];
const STATISTICS: &[(i16, Type)] = &[
    (1, Text),
    (2, Text),
    (3, Number),
    (4, Number),
    (5, Text),
    (6, Text),
    (7, Truth),
    (8, Truth),
];

/// Whether everything in the footer of a file ends where the footer does, at the latest.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    let short = || "it is too short to have a footer".to_string();
    // ... footer, its length in 4 bytes, "PAR1"
    let (rest, _) = file.split_last_chunk::<4>().ok_or_else(short)?;
    let (rest, length) = rest.split_last_chunk::<4>().ok_or_else(short)?;
    let length = u32::from_le_bytes(*length) as usize;
    let begin = rest.len().checked_sub(length).ok_or_else(short)?;
    let mut walk = Walk(&rest[begin..]);
    walk.structure(FILE, DEPTH)
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

    fn structure(&mut self, known: &[(i16, Type)], depth: usize) -> Option<()> {
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            if head & 15 == 0 {
                return Some(());
            }
            id = match head >> 4 {
                // Written as such, with its sign last.
                0 => {
                    let written = u16::try_from(self.number()?).ok()?;
                    (written >> 1) as i16 ^ -((written & 1) as i16)
                }
                more => id.checked_add(i16::from(more))?,
            };
            let expected = known.iter().find(|(field, _)| *field == id);
            let expected = expected.map(|(_, kind)| *kind);
            // A truth value is in its field's type.
            match head & 15 {
                1 | 2 => matches!(expected, None | Some(Truth)).then_some(())?,
                kind => self.value(kind, expected, depth)?,
            }
        }
    }

    /// A value of this kind, which must be the expected one.
    fn value(&mut self, kind: u8, expected: Option<Type>, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match (kind, expected) {
            // Elements of a list of truth values have a byte each.
            (1..=2, None) | (3, None | Some(Byte)) => self.pass(1),
            (4..=6, None | Some(Number)) => self.number().map(|_| ()),
            (7, None) => self.pass(8),
            (8, None | Some(Text)) => {
                let bytes = self.count()?;
                self.pass(bytes)
            }
            (9, None | Some(List(_))) | (10, None) => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.count()?,
                    few => usize::from(few),
                };
                let element = match expected {
                    Some(List(element)) => Some(*element),
                    _ => None,
                };
                (0..count).try_for_each(|_| self.value(head & 15, element, depth))
            }
            (11, None) => match self.count()? {
                0 => Some(()),
                count => {
                    let kinds = self.byte()?;
                    (0..count).try_for_each(|_| {
                        self.value(kinds >> 4, None, depth)?;
                        self.value(kinds & 15, None, depth)
                    })
                }
            },
            (12, None) => self.structure(&[], depth),
            (12, Some(Structure(known))) => self.structure(known, depth),
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
        // Fields that nobody knows, from the hundredth on: a number; a list of two texts; a map
        // of one; a structure with a truth value and a double; the end.
        let footer = b"\x05\xc8\x01\x08\x19\x28\x01a\x02bc\x1b\x01\x88\x01k\x01v\x1c\x11\x17abcdefgh\x00\x00";
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
            // The fourth field, row groups, as a number: the library takes it for a list.
            b"\x46\xff\xff\xff\xff\x0f\x00",
            b"\x06\x08\xff\xff\xff\xff\x0f\x00",
            // A list of numbers instead of structures.
            b"\x29\x15\x02\x00",
        ] {
            assert_eq!(check(&file(footer)), Err("its footer is damaged".into()));
        }
        for file in [&b"PAR1"[..], b"", b"PAR1\xff\xff\xff\xffPAR1"] {
            assert!(check(file).unwrap_err().contains("too short"));
        }
    }
}
