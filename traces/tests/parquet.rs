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
