//! What goes to standard output.

use std::io::{self, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};

use crate::error::{ArilError, STANDARD_OUTPUT};

/// Prints a text. A reader that closed its end, such as `head`, is no error.
pub(super) fn print(text: &str) -> Result<ExitCode, ArilError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(ArilError::io("write to", STANDARD_OUTPUT)(error))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Draws a table.
pub(crate) fn table(headings: &[String], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|text| crate::source::printable(text)));
    for row in rows {
        table.add_row(row.iter().map(|text| crate::source::printable(text)));
    }
    format!("{table}\n")
}

/// As JSON, over several lines.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<String, ArilError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| ArilError::io("write to", STANDARD_OUTPUT)(io::Error::other(error)))?;
    Ok(text + "\n")
}
