//! The command line: what it takes, and what it gives back.

mod calibrate;
mod check;
mod list;
pub(crate) mod output;
mod profile;
mod run;
mod schema;
mod trace;
mod validate;

pub(crate) use run::placed;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use aril_sim::policy::{Batcher, Evictor, LoadPath, Migrator, Preemptor, Router, Scaler};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::error::ArilError;
use crate::registry::{Registry, Tunables};
use crate::{builtin, compare_command, interrupt, regress};

/// The `aril` command with its registered policies.
pub struct Cli {
    registry: Registry,
}

impl Cli {
    /// With the policies that come with aril.
    pub fn new() -> Cli {
        Cli { registry: builtin::registry() }
    }

    /// Registers a preset: TOML with the keys of a `[policy]` overlay.
    ///
    /// # Panics
    /// When the name is taken or the text is not TOML.
    pub fn preset(self, name: &str, text: &str) -> Cli {
        Cli { registry: self.registry.preset(name, text) }
    }

    /// The registered policies.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Does what the program's arguments say.
    pub fn run(&self) -> ExitCode {
        self.run_with(std::env::args_os())
    }

    /// Does what `arguments` say; the first is the program's name.
    pub fn run_with<A: Into<OsString> + Clone>(&self, arguments: impl IntoIterator<Item = A>) -> ExitCode {
        let arguments = match Arguments::try_parse_from(arguments) {
            Ok(arguments) => arguments,
            Err(error) => {
                // Help and version are no errors and go to standard output.
                let _ = error.print();
                return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
            }
        };
        interrupt::survive_large_files();
        match self.perform(&arguments.command) {
            Ok(code) => code,
            Err(error) => {
                let _ = writeln!(io::stderr(), "error: {error}");
                error.exit_code()
            }
        }
    }

    fn perform(&self, command: &Command) -> Result<ExitCode, ArilError> {
        match command {
            Command::Run(arguments) => run::run(&self.registry, arguments),
            Command::Check(arguments) => check::check(&self.registry, arguments),
            Command::Trace { command } => trace::trace(command),
            Command::Calibrate(arguments) => calibrate::calibrate(arguments),
            Command::Profile { command } => profile::profile(command),
            Command::Validate(arguments) => validate::validate(&self.registry, arguments),
            Command::List { what, format } => list::list(&self.registry, *what, *format),
            Command::Compare(arguments) => {
                let (text, code) = compare_command::compare(arguments)?;
                output::print(&text)?;
                Ok(code)
            }
            Command::Regress(arguments) => {
                let (text, code) = regress::regress(&self.registry, arguments)?;
                output::print(&text)?;
                Ok(code)
            }
            Command::Schema { what } => schema::schema(&self.registry, *what),
            Command::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(*shell, &mut Arguments::command(), "aril", &mut text);
                output::print(&String::from_utf8_lossy(&text))
            }
        }
    }
}

impl Default for Cli {
    fn default() -> Cli {
        Cli::new()
    }
}

macro_rules! registrations {
    ($($(#[$doc:meta])* $method:ident $policy:ident;)*) => {
        impl Cli {
            $($(#[$doc])*
            ///
            /// # Panics
            /// When the name is taken.
            pub fn $method<P: $policy + Tunables>(self, name: &str) -> Cli {
                Cli { registry: self.registry.$method::<P>(name) }
            })*
        }
    };
}

registrations! {
    /// Registers a router: which replica takes a request?
    router Router;
    /// Registers a batcher: what does the next step compute?
    batcher Batcher;
    /// Registers an evictor: which idle adapter makes room?
    evictor Evictor;
    /// Registers a load path: how do adapters come to the GPU?
    load_path LoadPath;
    /// Registers a preemptor: who gives way when KV blocks run out?
    preemptor Preemptor;
    /// Registers a migrator: who moves where?
    migrator Migrator;
    /// Registers a scaler: how many GPUs are held?
    scaler Scaler;
}

const EXIT_CODES: &str = "\
Exit codes:
    0  done; with [expect], every judged cell is within its tolerance
    1  done, but a judged cell of [expect] is out of its tolerance
    2  the command line, a scenario, a trace or a profile is wrong; or the run directory is already there
    3  a simulation came to a standstill: a policy never serves somebody
    4  the system refused to read or write, there is no GPU to measure, or a result could not be made
128+n  ended by signal n, 130 by Ctrl-C; nothing was left behind";

/// Simulates clusters that serve many LoRA adapters over one base model: which policy serves whom how fast, and at what cost?
#[derive(Debug, Parser)]
#[command(name = "aril", version = VERSION, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("ARIL_COMMIT"), ")");

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario, or repeat a run from its manifest.toml.
    #[command(after_help = EXIT_CODES)]
    Run(RunArguments),
    /// Compare two runs: what moved, by how much, and is it real?
    #[command(after_help = compare_command::EXIT_CODES)]
    Compare(compare_command::CompareArguments),
    /// Run a folder of scenarios against their committed baselines, for CI.
    #[command(after_help = regress::EXIT_CODES)]
    Regress(regress::RegressArguments),
    /// Validate a scenario and print it with every default written out.
    Check(CheckArguments),
    /// Look at, convert, or generate traces.
    Trace {
        #[command(subcommand)]
        command: TraceCommand,
    },
    /// Measure the GPU of this machine and fit a profile.
    Calibrate(calibrate::CalibrateArguments),
    /// Look at, check, compare, draw and import cost profiles.
    Profile {
        #[command(subcommand)]
        command: profile::ProfileCommand,
    },
    /// Run a scenario on the GPU of this machine, and its simulation beside it.
    Validate(validate::ValidateArguments),
    /// List what scenarios can name.
    List {
        /// What.
        what: Listed,
        /// As a table, or as JSON.
        #[arg(long, default_value = "table")]
        format: Format,
    },
    /// Print a JSON schema, for editors and programs.
    Schema {
        /// Of what.
        #[arg(default_value = "scenario")]
        what: Schema,
    },
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

/// What changes a scenario before it is read.
#[derive(Debug, clap::Args)]
struct ScenarioArguments {
    /// A scenario file, or the manifest.toml of a run.
    scenario: PathBuf,
    /// Set a value, as TOML or as text: --set engine.vllm.max_loras=16.
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// The first seed that is run [default: the scenario's `seed`, under which a trace is replayed as recorded].
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds, counted up from the first.
    #[arg(long)]
    seeds: Option<u32>,
    /// Only this policy; may be given several times.
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    #[command(flatten)]
    scenario: ScenarioArguments,
    /// What steps cost, instead of what the pools say: a profile's file, or a shipped one by its name.
    #[arg(long)]
    profile: Option<String>,
    /// Who runs the steps: the cost model, or the GPU of this machine.
    #[arg(long, default_value = "modelled")]
    executor: ExecutorArgument,
    /// The run directory [default: runs/NAME].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace a run directory that is already there, once the new one is complete.
    #[arg(long)]
    force: bool,
    /// A table for people, or JSON for programs, on standard output.
    #[arg(long, default_value = "table")]
    format: Format,
    /// How many threads [default: all cores], at most one a run and four a core. Results do not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Write no requests.parquet, steps.parquet and events.parquet, and no timelines.
    #[arg(long)]
    no_tables: bool,
    /// Draw no progress bar.
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExecutorArgument {
    /// The profile of each pool.
    Modelled,
    /// Real steps on the first GPU, idle time skipped.
    Gpu,
}

#[derive(Debug, clap::Args)]
struct CheckArguments {
    #[command(flatten)]
    scenario: ScenarioArguments,
    /// As TOML that can be run, or as JSON.
    #[arg(long, default_value = "toml")]
    format: CheckFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    /// A scenario file.
    Toml,
    /// The same as JSON.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Listed {
    /// Registered policies and presets.
    Policies,
    /// Shipped cost profiles.
    Profiles,
    /// Scenario files of this checkout.
    Scenarios,
    /// Shipped traces.
    Traces,
    /// Known models.
    Models,
    /// Known GPUs.
    Gpus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Schema {
    /// Of scenario files.
    Scenario,
    /// Of summary.json.
    Summary,
    /// Of profiles.
    Profile,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// Say what is in a trace: rows, rates, lengths, tenants, adapters and their locality.
    Inspect {
        #[command(flatten)]
        trace: TraceArguments,
        /// A table for people, or JSON for programs.
        #[arg(long, default_value = "table")]
        format: Format,
    },
    /// Write a trace as the canonical table: .csv or .parquet, by the name of the output.
    Convert {
        #[command(flatten)]
        trace: TraceArguments,
        /// The file to write.
        out: PathBuf,
        /// Replace a file that is already there.
        #[arg(long)]
        force: bool,
    },
    /// Write the traffic of a scenario as a trace.
    Generate {
        #[command(flatten)]
        scenario: ScenarioArguments,
        /// The file to write: .csv or .parquet.
        #[arg(long)]
        out: PathBuf,
        /// Replace a file that is already there.
        #[arg(long)]
        force: bool,
    },
}

/// Which trace, and how it is read where its header does not say. The options are the keys of `[traffic]`.
#[derive(Debug, clap::Args)]
struct TraceArguments {
    /// A shipped trace by its name, or a file.
    trace: String,
    /// How it is written.
    #[arg(long, visible_alias = "from", value_name = "FORMAT")]
    trace_format: Option<String>,
    /// Which column holds what: arrival, tenant, adapter, rank, input_tokens, output_tokens, max_tokens, prefix.
    #[arg(long, value_name = "NAME=COLUMN,...", value_delimiter = ',')]
    columns: Vec<String>,
    /// In what arrivals are written: s, ms, us, ns, ps or rfc3339.
    #[arg(long, value_name = "UNIT")]
    arrival_unit: Option<String>,
    /// Sort by arrival a file whose order has no meaning.
    #[arg(long)]
    sort: bool,
    /// What becomes of requests without a prompt or without output: drop, keep or refuse.
    #[arg(long, value_name = "WHAT")]
    failures: Option<String>,
}
