//! What a row can have in a column, and what a column is while its row group is under construction.

use std::io;

use aril_sim::workload::Catalog;
use polars::prelude::DataType;
use polars_parquet::write::CompressedPage;

use super::page::PageWriter;

/// What a row can have in a column.
pub(crate) trait Cell: Copy {
    /// What gathers such cells.
    type Column: Column + Default;
    /// What a reader gets.
    const TYPE: DataType;

    /// Takes in the cells of up to 128 rows; of fewer only at the end of a row group.
    fn append(column: &mut Self::Column, cells: impl Iterator<Item = Self>);
}

/// A column of a row group under construction.
pub(crate) trait Column {
    /// Learns of whom there are names.
    fn prepare(&mut self, _catalog: &Catalog) {}

    /// Its pages, of so many rows; it is empty afterwards.
    fn pages(&mut self, rows: usize, writer: &mut PageWriter<'_>) -> io::Result<Vec<CompressedPage>>;
}

/// A row of a table: its cells, in order.
pub(crate) trait Row: Sized {
    /// Its columns under construction.
    type Columns: Default;

    /// Names and types.
    fn schema() -> Vec<(&'static str, DataType)>;
    /// Takes in up to 128 rows; fewer only at the end of a row group.
    fn append(columns: &mut Self::Columns, rows: &[Self]);
    /// The columns, in order.
    fn each(columns: &mut Self::Columns) -> Vec<&mut dyn Column>;
}

/// Declares the row of a table: its cells in order, and the columns that they go to.
macro_rules! row {
    ($(#[$doc:meta])* $row:ident, $columns:ident { $($column:ident : $kind:ty),+ $(,)? }) => {
        $(#[$doc])*
        pub(in crate::recorder) struct $row { $(pub(in crate::recorder) $column: $kind),+ }

        #[derive(Default)]
        pub(in crate::recorder) struct $columns { $($column: <$kind as Cell>::Column),+ }

        impl Row for $row {
            type Columns = $columns;

            fn schema() -> Vec<(&'static str, DataType)> {
                vec![$((stringify!($column), <$kind as Cell>::TYPE)),+]
            }

            fn append(columns: &mut $columns, rows: &[$row]) {
                $(<$kind as Cell>::append(&mut columns.$column, rows.iter().map(|row| row.$column));)+
            }

            fn each(columns: &mut $columns) -> Vec<&mut dyn Column> {
                vec![$(&mut columns.$column as &mut dyn Column),+]
            }
        }
    };
}

pub(crate) use row;
