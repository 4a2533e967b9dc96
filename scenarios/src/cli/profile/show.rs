//! `aril profile show`.

use std::process::ExitCode;

use aril_sim::profile::Profile;

use crate::cli::{Format, output};
use crate::error::ArilError;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ShowArguments {
    /// A file, or a shipped profile by its full name, such as derived-h200-llama-2-7b.
    profile: String,
    /// A page for people, or the whole profile as JSON.
    #[arg(long, default_value = "table")]
    format: Format,
}

pub(super) fn show(arguments: &ShowArguments) -> Result<ExitCode, ArilError> {
    let profile = super::load(&arguments.profile)?;
    match arguments.format {
        Format::Json => output::print(&output::json(&profile)?),
        Format::Table => {
            let page = aril_calibrate::show(&profile)?.to_string();
            output::print(&format!("{page}{}", measured(&profile)))
        }
    }
}

/// What a measured profile says of itself beyond its figures.
fn measured(profile: &Profile) -> String {
    let p = &profile.provenance;
    let mut text = String::new();
    for (key, value) in [
        ("GPU", &p.gpu),
        ("driver", &p.driver),
        ("CUDA", &p.cuda),
        ("clocks", &p.clocks),
        ("kernels", &p.kernel_source_hash),
        ("commit", &p.commit),
        ("date", &p.date),
    ] {
        if let Some(value) = value {
            text += &format!("{key:<8} {value}\n");
        }
    }
    if !profile.held_out.is_empty() {
        let headings = ["held out", "how", "shapes", "median %", "95th %", "mean %"].map(str::to_owned);
        let rows: Vec<Vec<String>> = profile
            .held_out
            .iter()
            .map(|e| {
                vec![
                    e.of.clone(),
                    e.split.clone(),
                    e.shapes.to_string(),
                    format!("{:.2}", e.median_percent),
                    format!("{:.2}", e.p95_percent),
                    format!("{:+.2}", e.mean_signed_percent),
                ]
            })
            .collect();
        text += &format!("\n{}", output::table(&headings, &rows));
    }
    text
}
