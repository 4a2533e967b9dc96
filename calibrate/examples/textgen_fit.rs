//! What the two-figure fit makes of every cell of the paper's text generation table.
//!
//! `cargo run -p aril-calibrate --example textgen_fit`

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use aril_calibrate::published::fit::run;
use aril_calibrate::published::textgen::{self, Batching};
use aril_calibrate::published::{Popularity, System, facts, fit_textgen, profile};
use aril_sim::cost::CompiledCost;
use aril_sim::model::Model;

fn main() -> Result<(), Box<dyn Error>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/data/punica_textgen_1024.csv.gz");
    let mut csv = String::new();
    flate2::read::GzDecoder::new(File::open(&data)?).read_to_string(&mut csv)?;
    let requests = textgen::read_requests("punica_textgen_1024.csv.gz", &csv)?;
    let (facts, total) = (facts()?, textgen::total_tokens(&requests) as f64);
    println!("| model | system | step us | further sequence us | Distinct | Uniform | Skewed | Identical |");
    println!("|---|---|---|---|---|---|---|---|");
    for model in ["llama-2-7b", "llama-2-13b"] {
        let model = Model::named(model).ok_or("a known model")?;
        for system in System::ALL {
            let family = match system {
                System::Punica => "punica-a100-80gb".to_owned(),
                other => format!("punica-a100-80gb-{}", other.as_str()),
            };
            let fitted = fit_textgen(&facts, &requests, system, &model)?;
            let profile = profile(&facts, &requests, &family, &model)?;
            let published = facts.tokens_per_second(system, &model)?;
            print!("| {} | {} | {:.0} | {:.0} |", model.name, system.as_str(), fitted.us, fitted.us_per_sequence);
            for popularity in Popularity::ALL {
                let ours = total / run(&profile, &requests, system, popularity)?.span.as_secs_f64();
                let cell = published[popularity as usize];
                print!(" {ours:.1} / {cell:.0} ({:+.1} %) |", (ours / cell - 1.0) * 100.0);
            }
            println!();
            if system == System::Punica {
                print!("| {} | without the one-segment fault | | |", model.name);
                for popularity in Popularity::ALL {
                    let mut cost = CompiledCost::compile(&profile, system.kernel())?;
                    let run = textgen::run(&requests, popularity, Batching::Any { one_segment: false }, &mut cost);
                    print!(" {:.1} |", total / run.span.as_secs_f64());
                }
                println!();
            }
        }
    }
    Ok(())
}
