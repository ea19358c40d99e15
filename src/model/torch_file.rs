//! PyTorch checkpoints (`pytorch_model.bin` and its shards): a zip archive with a pickled table
//! of tensors, `data.pkl`, and an uncompressed entry for each storage.
//!
//! The file is mapped, so a storage's bytes are the page cache's until a tensor is copied out.
//! Everything the file says of itself is held against its size before it is believed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;

use crate::error::{Error, Result};

use super::pickle::{self, Elements, Flaw, View};
use super::source::one_line;
use super::weights::Stored;

/// `data.pkl` of a shard has about 200 bytes a tensor.
const MAX_PICKLE: u64 = 16 << 20;
/// Archive entries, one a storage.
const MAX_ENTRIES: u64 = 1 << 18;

type Outcome<T> = std::result::Result<T, Flaw>;

/// A tensor in a mapped file.
#[derive(Debug)]
struct Place {
    elements: Elements,
    shape: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
    /// From the first to the last element, in bytes of the file.
    bytes: Range<usize>,
}

/// An open checkpoint file.
#[derive(Debug)]
struct TorchFile {
    map: Mmap,
    tensors: HashMap<String, Place>,
}

/// All files of a checkpoint.
#[derive(Debug)]
pub(super) struct TorchShards {
    files: Vec<TorchFile>,
}

impl TorchShards {
    /// Opens the files and checks what they say of their tensors; no weights are read yet.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no table of tensors as `torch.save` writes it.
    pub fn open(paths: &[PathBuf]) -> Result<TorchShards> {
        let open = |path: &PathBuf| {
            let file = crate::regular_file::open(path)?.into_inner();
            let map = map(path, &file)?;
            TorchFile::open(&file, map).map_err(|flaw| refused(path, flaw))
        };
        let files = paths.iter().map(open).collect::<Result<_>>()?;
        Ok(TorchShards { files })
    }

    fn find(&self, name: &str) -> Option<(&TorchFile, &Place)> {
        self.files
            .iter()
            .find_map(|file| Some((file, file.tensors.get(name)?)))
    }
}

impl Stored for TorchShards {
    fn names(&self) -> Vec<String> {
        let names = self.files.iter().flat_map(|file| file.tensors.keys());
        names.cloned().collect()
    }

    fn describe(&self, name: &str) -> Option<(Vec<usize>, String)> {
        let (_, place) = self.find(name)?;
        let dtype = match place.elements {
            Elements::F32 => "F32",
            Elements::F16 => "F16",
            Elements::Bf16 => "BF16",
            Elements::Other(name) => name,
        };
        Some((place.shape.clone(), dtype.to_string()))
    }

    fn load(&self, name: &str) -> candle_core::Result<Tensor> {
        match self.find(name) {
            Some((file, place)) => place.load(&file.map),
            None => candle_core::bail!("no tensor `{name}`"),
        }
    }
}

fn map(path: &Path, file: &File) -> Result<Mmap> {
    // SAFETY: the mapping is read only and dropped when the weights are loaded; as with every
    // mapped file, other programs must not cut it meanwhile.
    unsafe { Mmap::map(file) }.map_err(|e| Error::io(path, e))
}

fn refused(path: &Path, flaw: Flaw) -> Error {
    let message = match flaw {
        Flaw::Damaged(why) => {
            format!("damaged or not a PyTorch checkpoint ({why}): download it again")
        }
        Flaw::Unfit(message) => message,
    };
    Error::malformed(path, message)
}

impl TorchFile {
    fn open(file: &File, map: Mmap) -> Outcome<TorchFile> {
        if map.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46") {
            return Err(Flaw::Unfit(
                "is in the format of PyTorch before 1.6: load it with torch.load and save it \
                 again with torch.save"
                    .into(),
            ));
        }
        if !map.starts_with(b"PK") {
            return Err("it is no zip archive".into());
        }
        let entries = entries(file, map.len() as u64)?;
        let pickles: Vec<&String> = entries.keys().filter(|n| n.ends_with("data.pkl")).collect();
        let [name] = pickles[..] else {
            return Err(format!("it has {} entries data.pkl", pickles.len()).into());
        };
        let root = name.trim_end_matches("data.pkl");
        if let Some(order) = entries.get(&format!("{root}byteorder"))
            && &map[order.clone()] != b"little"
        {
            return Err(Flaw::Unfit(
                "is of a big-endian machine: save it again on a little-endian one".into(),
            ));
        }
        let bytes = &map[entries[name].clone()];
        if bytes.len() as u64 > MAX_PICKLE {
            return Err("its pickle is too large".into());
        }
        let mut total = 0u128;
        let mut tensors = HashMap::new();
        for (name, view) in pickle::tensors(bytes)? {
            let shown: String = name.escape_debug().take(100).collect();
            let entry = entries
                .get(&format!("{root}data/{}", view.storage.key))
                .ok_or_else(|| format!("the storage of `{shown}` is missing"))?;
            let place = place(&view, entry).map_err(|why| format!("the tensor `{shown}` {why}"))?;
            total += place.shape.iter().map(|d| *d as u128).product::<u128>()
                * size(place.elements).unwrap_or(0) as u128;
            tensors.insert(name, place);
        }
        // Tied weights are one storage under two names; more would be a bomb.
        if total > 2 * map.len() as u128 {
            return Err("its tensors claim many times its size".into());
        }
        Ok(TorchFile { map, tensors })
    }
}

/// Where the entries of the archive lie. Only stored ones: `torch.save` compresses nothing, and
/// so nothing can grow here.
fn entries(file: &File, len: u64) -> Outcome<HashMap<String, Range<usize>>> {
    refuse_crowds(file, len)?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file))
        .map_err(|e| format!("its zip directory cannot be read, {}", one_line(e)))?;
    let mut entries = HashMap::new();
    for i in 0..archive.len() {
        let entry = archive.by_index_raw(i).map_err(one_line)?;
        let name = entry.name().map_err(one_line)?.into_owned();
        let shown: String = name.escape_debug().take(100).collect();
        if entry.compression() != zip::CompressionMethod::Stored || entry.encrypted() {
            return Err(Flaw::Unfit(format!(
                "its entry `{shown}` is compressed or encrypted: save the model again with \
                 torch.save"
            )));
        }
        let begin = entry.data_start().ok_or("an entry has no data")?;
        let end = begin.checked_add(entry.size()).filter(|end| *end <= len);
        let (Ok(begin), Some(Ok(end))) = (usize::try_from(begin), end.map(usize::try_from)) else {
            return Err(format!("its entry `{shown}` lies beyond the end of the file").into());
        };
        if entries.insert(name, begin..end).is_some() {
            return Err(format!("it has two entries `{shown}`").into());
        }
    }
    Ok(entries)
}

/// The zip library allocates for as many entries as the end of the archive claims.
fn refuse_crowds(mut file: &File, len: u64) -> Outcome<()> {
    const TAIL: u64 = 1 << 17;
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))
        .and_then(|_| file.take(TAIL).read_to_end(&mut tail))
        .map_err(one_line)?;
    let crowd = tail.windows(40).any(|record| {
        // "End of central directory" of zip64: the number of entries is at byte 32.
        record.starts_with(b"PK\x06\x06")
            && record[32..40]
                .first_chunk()
                .is_some_and(|n| u64::from_le_bytes(*n) > MAX_ENTRIES)
    });
    file.seek(SeekFrom::Start(0)).map_err(one_line)?;
    match crowd {
        true => Err("its zip directory claims too many entries".into()),
        false => Ok(()),
    }
}

/// Bytes of an element, for the types that are loaded.
fn size(elements: Elements) -> Option<usize> {
    match elements {
        Elements::F32 => Some(4),
        Elements::F16 | Elements::Bf16 => Some(2),
        Elements::Other(_) => None,
    }
}

/// Finds a tensor in its storage's entry, and holds every number against the entry's size.
fn place(view: &View, entry: &Range<usize>) -> std::result::Result<Place, String> {
    let narrow = |sizes: &[u64]| -> Option<Vec<usize>> {
        sizes.iter().map(|n| usize::try_from(*n).ok()).collect()
    };
    let product = view
        .shape
        .iter()
        .try_fold(1u64, |n, d| n.checked_mul(*d))
        .ok_or("has impossible dimensions")?;
    let (Some(shape), Some(strides)) = (narrow(&view.shape), narrow(&view.strides)) else {
        return Err("has impossible dimensions".into());
    };
    let Some(size) = size(view.storage.elements) else {
        // Never loaded; its name and shape are all that is asked for.
        return Ok(Place {
            elements: view.storage.elements,
            shape,
            strides,
            bytes: 0..0,
        });
    };
    let stored = view.storage.len;
    if stored.checked_mul(size as u64) != Some(entry.len() as u64) {
        return Err(format!(
            "lies in a storage of {stored} elements that has {} bytes",
            entry.len()
        ));
    }
    if product > stored {
        return Err("has more elements than its storage".into());
    }
    let mut bytes = entry.start..entry.start;
    if product > 0 {
        let mut last = Some(view.offset);
        for (dim, stride) in view.shape.iter().zip(&view.strides) {
            let steps = (dim - 1).checked_mul(*stride);
            last = last.zip(steps).and_then(|(a, b)| a.checked_add(b));
        }
        let last = last
            .filter(|last| *last < stored)
            .ok_or("reaches beyond its storage")?;
        // Within the entry, and so within usize.
        bytes = entry.start + view.offset as usize * size..entry.start + (last as usize + 1) * size;
    }
    Ok(Place {
        elements: view.storage.elements,
        shape,
        strides,
        bytes,
    })
}

impl Place {
    /// A contiguous copy in the stored type.
    fn load(&self, map: &[u8]) -> candle_core::Result<Tensor> {
        let dtype = match self.elements {
            Elements::F32 => DType::F32,
            Elements::F16 => DType::F16,
            Elements::Bf16 => DType::BF16,
            Elements::Other(name) => candle_core::bail!("{name} tensors are not read"),
        };
        let bytes = &map[self.bytes.clone()];
        let tensor =
            |bytes: &[u8]| Tensor::from_raw_buffer(bytes, dtype, &self.shape, &Device::Cpu);
        match self.is_contiguous() {
            true => tensor(bytes),
            false => tensor(&self.gathered(bytes, dtype.size_in_bytes())),
        }
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        let mut dims = self.shape.iter().zip(&self.strides).rev();
        self.shape.contains(&0)
            || dims.all(|(dim, stride)| {
                let follows = *dim == 1 || *stride == expected;
                expected *= dim;
                follows
            })
    }

    /// The elements in the order of their rows; `bytes` begins at the first.
    fn gathered(&self, bytes: &[u8], size: usize) -> Vec<u8> {
        let count: usize = self.shape.iter().product();
        let mut out = Vec::with_capacity(count * size);
        let mut index = vec![0; self.shape.len()];
        let mut at = 0usize;
        for _ in 0..count {
            out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
            for axis in (0..index.len()).rev() {
                // Wrapping: the stride of a dimension of 1 may be any number.
                index[axis] += 1;
                at = at.wrapping_add(self.strides[axis]);
                if index[axis] < self.shape[axis] {
                    break;
                }
                at = at.wrapping_sub(self.shape[axis].wrapping_mul(self.strides[axis]));
                index[axis] = 0;
            }
        }
        out
    }
}

#[cfg(test)]
#[path = "torch_file_tests.rs"]
mod tests;
