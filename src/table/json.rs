//! JSON of which a part is kept: whatever a stranger put beside it is passed over, not built,
//! since a value in memory is up to a hundred times what it is in a file.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Number;

use crate::error::{Error, Result};
use crate::regular_file;

/// A longer entry of a list is no row of a table, and is not read into memory.
const LONGEST_ENTRY: u64 = 64 << 20;

/// Takes from a JSON value, of whatever kind it is, what is of use.
pub(crate) trait Pick<'de>: Sized {
    /// What is taken.
    type Picked;

    /// Of what is not of use.
    fn nothing(self) -> Self::Picked;

    /// Of a null.
    fn null(self) -> Self::Picked {
        self.nothing()
    }

    /// Of a text.
    fn text(self, _: String) -> Self::Picked {
        self.nothing()
    }

    /// Of a number.
    fn number(self, _: Number) -> Self::Picked {
        self.nothing()
    }

    /// Of a list.
    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Picked, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.nothing())
    }

    /// Of an object.
    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Picked, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self.nothing())
    }
}

/// A [`Pick`] as serde knows it.
#[derive(Clone, Copy)]
pub(crate) struct Of<P>(pub P);

impl<'de, P: Pick<'de>> DeserializeSeed<'de> for Of<P> {
    type Value = P::Picked;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<P::Picked, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, P: Pick<'de>> Visitor<'de> for Of<P> {
    type Value = P::Picked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<P::Picked, E> {
        Ok(self.0.nothing())
    }

    fn visit_unit<E>(self) -> Result<P::Picked, E> {
        Ok(self.0.null())
    }

    fn visit_i64<E>(self, number: i64) -> Result<P::Picked, E> {
        Ok(self.0.number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<P::Picked, E> {
        Ok(self.0.number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<P::Picked, E> {
        Ok(match Number::from_f64(number) {
            Some(number) => self.0.number(number),
            None => self.0.nothing(),
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<P::Picked, E> {
        Ok(self.0.text(text.to_string()))
    }

    fn visit_string<E>(self, text: String) -> Result<P::Picked, E> {
        Ok(self.0.text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<P::Picked, A::Error> {
        self.0.list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<P::Picked, A::Error> {
        self.0.object(object)
    }
}

/// A value as far as it is a text or a number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Null,
    Text(String),
    Number(Number),
    /// A truth value, a list or an object.
    Other,
}

/// Picks a [`Said`].
#[derive(Clone, Copy)]
pub(crate) struct Saying;

impl<'de> Pick<'de> for Saying {
    type Picked = Said;

    fn nothing(self) -> Said {
        Said::Other
    }

    fn null(self) -> Said {
        Said::Null
    }

    fn text(self, text: String) -> Said {
        Said::Text(text)
    }

    fn number(self, number: Number) -> Said {
        Said::Number(number)
    }
}

/// What `pick` takes from the JSON text of one value.
pub(crate) fn from_text<P, T>(text: &str, pick: P) -> serde_json::Result<T>
where
    P: for<'de> Pick<'de, Picked = T>,
{
    let mut parser = serde_json::Deserializer::from_str(text);
    let picked = Of(pick).deserialize(&mut parser)?;
    parser.end()?;
    Ok(picked)
}

/// Whether a file begins as a JSON list does.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn is_list(path: &Path) -> Result<bool> {
    let mut reader = BufReader::new(regular_file::open(path)?);
    let failed = |e| Error::io(path, e);
    pass_mark(&mut reader).map_err(failed)?;
    for byte in reader.bytes() {
        let byte = byte.map_err(failed)?;
        if !byte.is_ascii_whitespace() {
            return Ok(byte == b'[');
        }
    }
    Ok(false)
}

fn pass_mark(reader: &mut impl BufRead) -> io::Result<()> {
    if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    Ok(())
}

/// Hands what `pick` takes from every entry of the JSON list in a file to `each`, with the
/// entry's number from 1; one entry is in memory at a time.
///
/// # Errors
/// A file that cannot be read or is no JSON list, or what `each` returns.
pub(crate) fn read_list<P, T>(
    path: &Path,
    pick: P,
    each: &mut dyn FnMut(u64, T) -> Result<()>,
) -> Result<()>
where
    P: Copy + for<'de> Pick<'de, Picked = T>,
{
    let mut reader = BufReader::with_capacity(1 << 20, regular_file::open(path)?);
    pass_mark(&mut reader).map_err(|e| Error::io(path, e))?;
    let left = Cell::new(LONGEST_ENTRY);
    let number = Cell::new(1);
    let mut refused = None;
    let mut parser = serde_json::Deserializer::from_reader(Bounded {
        reader,
        left: &left,
    });
    let entries = Entries {
        pick,
        each,
        left: &left,
        number: &number,
        refused: &mut refused,
        picked: PhantomData,
    };
    let outcome = parser.deserialize_seq(entries).and_then(|()| parser.end());
    match (outcome, refused) {
        (_, Some(error)) => Err(error),
        (Ok(()), None) => Ok(()),
        (Err(_), None) if left.get() == 0 => Err(Error::malformed(
            path,
            format!(
                "entry {} is longer than 64 MiB: give shorter ones",
                number.get()
            ),
        )),
        (Err(e), None) => Err(Error::malformed(path, format!("is not a JSON list: {e}"))),
    }
}

/// Ends where an entry becomes too long.
struct Bounded<'l, R> {
    reader: R,
    left: &'l Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let read = self.reader.read(&mut into[..most])?;
        self.left.set(left - read as u64);
        Ok(read)
    }
}

struct Entries<'e, P, T> {
    pick: P,
    each: &'e mut dyn FnMut(u64, T) -> Result<()>,
    left: &'e Cell<u64>,
    number: &'e Cell<u64>,
    refused: &'e mut Option<Error>,
    picked: PhantomData<T>,
}

impl<'de, P: Copy + Pick<'de, Picked = T>, T> Visitor<'de> for Entries<'_, P, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(picked) = list.next_element_seed(Of(self.pick))? {
            if let Err(error) = (self.each)(self.number.get(), picked) {
                *self.refused = Some(error);
                return Err(A::Error::custom("refused"));
            }
            self.number.set(self.number.get() + 1);
            self.left.set(LONGEST_ENTRY);
        }
        Ok(())
    }
}
