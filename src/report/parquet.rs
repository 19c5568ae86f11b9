//! A CSV of results as Parquet, column by column and with types.
//!
//! A column's type follows from its name and values alike in every run: flags are booleans, instants
//! (`_ns`), ids and counts 64-bit integers, every other number a double, and the rest text. An empty
//! field is null.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use ::csv::{Reader, StringRecord};
use ::parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::types::Type;

/// Rows that are held at a time.
const GROUP: usize = 1 << 16;

/// Columns of whole numbers, besides instants and tokens.
const WHOLE: [&str; 8] =
    ["seed", "request", "client", "replica", "priority", "preemptions", "step", "point"];

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flag,
    Whole,
    Number,
    Text,
}

impl Kind {
    const fn physical(self) -> Physical {
        match self {
            Self::Flag => Physical::BOOLEAN,
            Self::Whole => Physical::INT64,
            Self::Number => Physical::DOUBLE,
            Self::Text => Physical::BYTE_ARRAY,
        }
    }
}

/// What of a column's values has been seen.
#[derive(Clone, Copy, Debug)]
struct Seen {
    flags: bool,
    whole: bool,
    numbers: bool,
    any: bool,
}

impl Seen {
    const NOTHING: Self = Self { flags: true, whole: true, numbers: true, any: false };

    fn note(&mut self, field: &str) {
        if field.is_empty() {
            return;
        }
        self.any = true;
        self.flags &= field.parse::<bool>().is_ok();
        self.whole &= field.parse::<i64>().is_ok();
        self.numbers &= field.parse::<f64>().is_ok();
    }

    fn kind(self, name: &str) -> Kind {
        let whole = name.ends_with("_ns") || name.ends_with("_tokens") || WHOLE.contains(&name);
        let timed = name.ends_with("_ms") || name.ends_with("_s");
        match self {
            Self { any: true, flags: true, .. } => Kind::Flag,
            Self { whole: true, .. } if whole => Kind::Whole,
            Self { numbers: true, any, .. } if any || timed => Kind::Number,
            _ => Kind::Text,
        }
    }
}

/// Why a table could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error(transparent)]
    Csv(#[from] ::csv::Error),
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Reads a CSV with a header twice and writes it as a Parquet table.
pub fn from_csv<W: Write + Send>(mut csv: impl Read + Seek, into: W) -> Result<W, TableError> {
    let (names, kinds) = columns(&mut csv)?;
    csv.seek(SeekFrom::Start(0))?;
    let fields = names.iter().zip(&kinds).map(|(name, kind)| {
        let text = (*kind == Kind::Text).then_some(LogicalType::String);
        let field = Type::primitive_type_builder(name, kind.physical())
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(text)
            .build()?;
        Ok(Arc::new(field))
    });
    let fields = fields.collect::<Result<_, ParquetError>>()?;
    let schema = Type::group_type_builder("rows").with_fields(fields).build()?;
    // The writer's name without its version: the same rows are the same bytes.
    let properties = WriterProperties::builder()
        .set_created_by("servesim".to_owned())
        .set_compression(Compression::UNCOMPRESSED)
        .build();
    let mut writer = SerializedFileWriter::new(into, Arc::new(schema), Arc::new(properties))?;
    let mut rows = Vec::new();
    for record in Reader::from_reader(csv).into_records() {
        rows.push(record?);
        if rows.len() == GROUP {
            write_group(&mut writer, &kinds, &rows)?;
            rows.clear();
        }
    }
    if !rows.is_empty() {
        write_group(&mut writer, &kinds, &rows)?;
    }
    Ok(writer.into_inner()?)
}

fn columns(csv: impl Read) -> Result<(Vec<String>, Vec<Kind>), TableError> {
    let mut reader = Reader::from_reader(csv);
    let names: Vec<_> = reader.headers()?.iter().map(str::to_owned).collect();
    let mut seen = vec![Seen::NOTHING; names.len()];
    let mut record = StringRecord::new();
    while reader.read_record(&mut record)? {
        seen.iter_mut().zip(&record).for_each(|(seen, field)| seen.note(field));
    }
    let kinds = names.iter().zip(seen).map(|(name, seen)| seen.kind(name)).collect();
    Ok((names, kinds))
}

fn write_group<W: Write + Send>(
    writer: &mut SerializedFileWriter<W>,
    kinds: &[Kind],
    rows: &[StringRecord],
) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    let into = &mut group;
    for (column, kind) in kinds.iter().enumerate() {
        let fields = rows.iter().map(|row| &row[column]);
        match kind {
            Kind::Flag => write::<BoolType, _>(into, fields, |field| field.parse().ok())?,
            Kind::Whole => write::<Int64Type, _>(into, fields, |field| field.parse().ok())?,
            Kind::Number => write::<DoubleType, _>(into, fields, |field| field.parse().ok())?,
            Kind::Text => write::<ByteArrayType, _>(into, fields, |field| {
                (!field.is_empty()).then(|| ByteArray::from(field.as_bytes().to_vec()))
            })?,
        }
    }
    group.close().map(|_| ())
}

/// One column of a group; a field without a value is null.
fn write<'a, T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    fields: impl Iterator<Item = &'a str>,
    value: impl Fn(&str) -> Option<T::T>,
) -> Result<(), ParquetError> {
    let (mut values, mut present) = (Vec::new(), Vec::new());
    for field in fields {
        let value = value(field);
        present.push(i16::from(value.is_some()));
        values.extend(value);
    }
    let mut column = group.next_column()?.expect("as many columns as the schema has");
    column.typed::<T>().write_batch(&values, Some(&present), None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ::parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    const CSV: &str = "seed,arrival_ns,ttft_ms,outcome,fits,tenant\n\
                       1,1000,2,length,true,\n2,2000,,\"a, b\",false,\n";

    #[test]
    fn rows_come_back_with_the_types_of_their_columns() {
        let file = from_csv(Cursor::new(CSV), tempfile::tempfile().unwrap()).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let rows: Vec<_> =
            reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        assert_eq!(
            rows,
            [
                "{seed: 1, arrival_ns: 1000, ttft_ms: 2.0, outcome: \"length\", fits: true, tenant: null}",
                "{seed: 2, arrival_ns: 2000, ttft_ms: null, outcome: \"a, b\", fits: false, tenant: null}",
            ]
        );
    }

    #[test]
    fn the_same_rows_are_the_same_bytes() {
        let table = || from_csv(Cursor::new(CSV), Vec::new()).unwrap();
        assert_eq!(table(), table());
    }
}
