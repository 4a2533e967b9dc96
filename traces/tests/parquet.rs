//! Parquet files of other programs: what is not asked for may be of any type.
//!
//! `data/pandas.parquet` was written by pandas 2 and pyarrow: categories for tenant, adapter and `max_tokens`, 8 and 16 bits for
//! rank and lengths, and beside them columns of type uint8, int8, decimal, float16, bool, date and struct.
//! `data/without-arrow-schema.parquet` is the same table as programs without Arrow write it.

use std::path::{Path, PathBuf};

use aril_traces::{Columns, ReadOptions, Table, TraceError, read};

const FILES: [&str; 2] = ["pandas.parquet", "without-arrow-schema.parquet"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn attempt(name: &str, columns: &Columns) -> Result<Table, TraceError> {
    read(&path(name), None, columns, &ReadOptions::default())
}

#[test]
fn categories_are_read_as_text_and_small_integers_as_numbers() {
    for name in FILES {
        let table = attempt(name, &Columns::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(table.len(), 40, "{name}");
        assert_eq!(table.input_tokens, (10..50).collect::<Vec<u32>>(), "{name}");
        assert_eq!(table.output_tokens, (1000..1040).collect::<Vec<u32>>(), "{name}");
        assert_eq!(table.ranks, [8, 16, 32, 64], "{name}");
        let (tenants, adapters) = (table.tenants.as_ref().unwrap(), table.adapters.as_ref().unwrap());
        assert_eq!((tenants.name(0), tenants.name(1), adapters.name(7)), (None, Some("t1"), Some("lora-3")), "{name}");
        assert_eq!(table.max_tokens.as_ref().unwrap()[..2], [3000, 2000], "{name}");
    }
}

#[test]
fn a_column_of_a_type_that_no_trace_has_is_refused_by_its_name_where_it_is_asked_for() {
    for (column, kinds) in
        [("cost", ["decimal", "decimal"]), ("half", ["float16", "fixedsizebinary"]), ("extra", ["struct", "struct"])]
    {
        for (name, kind) in FILES.into_iter().zip(kinds) {
            let columns = Columns { max_tokens: Some(column.to_owned()), ..Columns::default() };
            let error = attempt(name, &columns).unwrap_err().to_string();
            assert!(error.contains(&format!("column `{column}` has the type {kind}")), "{name}: {error}");
            assert!(error.contains("plain integer"), "{error}");
        }
    }
    for (column, found) in [("cached", "bool"), ("day", "date")] {
        let columns = Columns { max_tokens: Some(column.to_owned()), ..Columns::default() };
        let error = attempt(FILES[0], &columns).unwrap_err().to_string();
        assert!(error.contains(&format!("a value of type {found}")), "{error}");
    }
}

/// A count that is damaged asks for more memory than there is, and that is no panic that could be caught.
#[test]
fn no_byte_that_is_damaged_ends_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("damaged.parquet");
    for name in FILES {
        let good = std::fs::read(path(name)).unwrap();
        let mut refused = 0;
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x80;
            std::fs::write(&damaged, bytes).unwrap();
            refused += usize::from(read(&damaged, None, &Columns::default(), &ReadOptions::default()).is_err());
        }
        assert!(5 * refused > good.len(), "{name}: only {refused} of {} are noticed", good.len());
    }
}

#[test]
fn pages_that_count_otherwise_than_their_column_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("damaged.parquet");
    let good = std::fs::read(path(FILES[1])).unwrap();
    let said: std::collections::BTreeSet<String> = (0..good.len())
        .filter_map(|at| {
            let mut bytes = good.clone();
            // Counts are written as twice their value, so this is one more or one less.
            bytes[at] ^= 2;
            std::fs::write(&damaged, bytes).unwrap();
            read(&damaged, None, &Columns::default(), &ReadOptions::default()).err().map(|error| error.to_string())
        })
        .collect();
    for problem in [
        "its row groups have another number of rows than the file",
        "a column has another number of values than its row group has rows",
        "a page has more values than its column",
    ] {
        assert!(said.iter().any(|text| text.contains(problem)), "{problem}: {said:#?}");
    }
}
