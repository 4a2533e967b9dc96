//! `aril profile diff`.

use std::process::ExitCode;

use crate::cli::output;
use crate::error::ArilError;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DiffArguments {
    /// A file, or a shipped profile by its full name.
    from: String,
    /// The other.
    to: String,
    /// How far the medians of all parts may be apart, percent: beyond it the exit code is 1.
    #[arg(long, value_name = "PERCENT")]
    within: Option<f64>,
}

pub(super) fn diff(arguments: &DiffArguments) -> Result<ExitCode, ArilError> {
    let (from, to) = (super::load(&arguments.from)?, super::load(&arguments.to)?);
    let diff = aril_calibrate::diff(&from, &to)?;
    let mut text = diff.to_string();
    let Some(within) = arguments.within else { return output::print(&text) };
    let apart: Vec<&str> =
        diff.parts.iter().filter(|part| part.median_percent > within).map(|part| part.part.as_str()).collect();
    let agree = apart.is_empty() && diff.only_one.is_empty();
    text += &match agree {
        true => format!("they agree within {within} % (medians)\n"),
        false if apart.is_empty() => "they do not have the same parts\n".to_owned(),
        false => format!("they are more than {within} % apart (medians) in: {}\n", apart.join(", ")),
    };
    output::print(&text)?;
    Ok(ExitCode::from(u8::from(!agree)))
}
