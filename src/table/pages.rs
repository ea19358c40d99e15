//! What a Parquet file's page headers claim, before they are believed: the library reserves
//! memory by them, and a file of a few hundred bytes can claim gigabytes.

use std::io::Cursor;

use polars::io::parquet::metadata::FileMetadataRef;
use polars_parquet::parquet::metadata::ColumnChunkMetadata;
use polars_parquet::parquet::schema::types::PhysicalType;
use polars_parquet_format::thrift::protocol::TCompactInputProtocol;
use polars_parquet_format::{PageHeader, PageType};

/// A page of texts may become so many bytes. Writers make pages of 1 MB, DuckDB of up to 100 MB.
const TEXTS: usize = 128 << 20;
/// And no more than so many times what it is compressed, beyond this: texts that repeat one another
/// are written once.
const COMPRESSION: usize = 64;
const SMALL: usize = 4 << 20;
/// What the pages of numbers may have beside 16 bytes a value: levels, dictionaries' widths.
const BESIDE: usize = 1 << 16;

/// Whether the pages of some columns hold as many values as the footer says, each in a place
/// that it can have. Only their headers are read.
pub(super) fn check(
    file: &[u8],
    metadata: &FileMetadataRef,
    columns: &[&str],
) -> Result<(), String> {
    for group in &metadata.row_groups {
        for chunk in group.parquet_columns() {
            let path = &chunk.descriptor().path_in_schema;
            if path
                .first()
                .is_some_and(|name| columns.contains(&name.as_str()))
            {
                of_chunk(file, chunk, group.num_rows())
                    .map_err(|why| format!("column `{}` {why}", path[0]))?;
            }
        }
    }
    Ok(())
}

fn of_chunk(file: &[u8], chunk: &ColumnChunkMetadata, rows: usize) -> Result<(), String> {
    let values = count(chunk.num_values())?;
    if chunk.descriptor().descriptor.max_rep_level == 0 && values != rows {
        return Err(format!("claims {values} values in {rows} rows"));
    }
    let range = chunk.byte_range();
    let range = count(range.start)?..count(range.end)?;
    let bytes = file
        .get(range)
        .ok_or("claims to be where the file is not")?;
    let mut reader = Cursor::new(bytes);
    let mut found = 0;
    while found < values {
        let mut protocol = TCompactInputProtocol::new(&mut reader, bytes.len());
        let header = PageHeader::read_from_in_protocol(&mut protocol).map_err(|e| e.to_string())?;
        let end = reader.position() + count(header.compressed_page_size)? as u64;
        if end > bytes.len() as u64 {
            return Err("has a page that ends behind it".into());
        }
        reader.set_position(end);
        // A page's header is at least a byte, so this ends.
        let (inside, of_data) = match header.type_ {
            PageType::DATA_PAGE => (header.data_page_header.map(|p| p.num_values), true),
            PageType::DATA_PAGE_V2 => (header.data_page_header_v2.map(|p| p.num_values), true),
            PageType::DICTIONARY_PAGE => {
                (header.dictionary_page_header.map(|p| p.num_values), false)
            }
            _ => (Some(0), false),
        };
        let inside = count(inside.ok_or("has a page without a header")?)?;
        if of_data {
            found += inside;
        }
        let takes = count(header.uncompressed_page_size)?;
        let limit = match chunk.physical_type() {
            PhysicalType::ByteArray => {
                let compressed = count(header.compressed_page_size)?;
                compressed.saturating_mul(COMPRESSION).clamp(SMALL, TEXTS)
            }
            _ => inside.saturating_mul(16).saturating_add(BESIDE),
        };
        // Even an empty text has its length in a dictionary.
        if takes > limit || (!of_data && inside > takes) {
            return Err(format!(
                "has a page that claims {inside} values in {takes} bytes: write the file anew"
            ));
        }
    }
    match found == values {
        true => Ok(()),
        false => Err(format!("has pages of {found} values instead of {values}")),
    }
}

fn count(claimed: impl TryInto<usize>) -> Result<usize, String> {
    claimed
        .try_into()
        .map_err(|_| "claims a size that is none".to_string())
}
