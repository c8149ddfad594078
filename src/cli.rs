//! The operator's command line `arqon` (DESIGN 11).
//!
//! Every command prints for people, or with `--json` one JSON document, and ends with 0 (ok), 1 (refused, or there are
//! findings), 2 (usage: an argument or a file that cannot be used) or 3 (a control message is in the log and was judged by
//! nobody).

mod audit;
mod config;
mod gov;
mod policy;
mod replay;
mod sample;
mod schema;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use arqon_message::Fraction;
use clap::{CommandFactory, Parser, Subcommand};

/// Check and run what Arqon's layers do, and steer rollouts.
#[derive(Debug, Parser)]
#[command(name = "arqon", version, about, propagate_version = true)]
struct Arguments {
    /// Print one JSON document.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Wasm policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Protobuf contracts.
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Says for each key on standard input whether it is in a share of the traffic: `key<TAB>in|out<TAB>hash`.
    Sample {
        /// The share: `0.10` or `10%`.
        #[arg(long, value_name = "SHARE", value_parser = share)]
        percent: Fraction,
        /// The seed. Shadow rules share one (default 0); a rollout's is in its proposal digest.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Rollouts: keys, proposals, approvals, stops, and what is live.
    #[command(subcommand)]
    Gov(gov::GovCommand),
    /// Audit trails.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Configuration files.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Prints completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the man page.
    Man,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Loads modules and prints all findings: unknown imports, missing exports, memory, what each needs.
    Check {
        /// Modules: `.wasm`, or WAT text.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Functions that are granted, such as `rewrite`.
        #[arg(long)]
        grant: Vec<String>,
        /// The policy's configuration.
        #[arg(long, value_name = "TEXT", default_value = "")]
        config: String,
    },
    /// Runs one module on one recorded request.
    Run(PolicyRun),
    /// Calls one module many times on one request, a fresh instance each time: nanoseconds and fuel.
    Bench(PolicyBench),
    /// Replays recorded requests (`platform.overseer.record`) against one module: where its verdict differs, and, if it is
    /// the module that was recorded, its fuel. Name, configuration and limits are those of the record. Exit code 2 where
    /// nothing could be compared.
    Replay(PolicyReplay),
}

#[derive(Debug, clap::Args)]
struct PolicyBench {
    /// The module: `.wasm`, or WAT text.
    file: PathBuf,
    /// The request, as JSON (an empty `GET /` without).
    #[arg(long, value_name = "R.json")]
    request: Option<PathBuf>,
    /// The policy's configuration.
    #[arg(long, value_name = "TEXT", default_value = "")]
    config: String,
    /// Functions that are granted, such as `rewrite`.
    #[arg(long)]
    grant: Vec<String>,
    /// How many calls.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
}

#[derive(Debug, clap::Args)]
struct PolicyReplay {
    /// The module: `.wasm`, or WAT text.
    file: PathBuf,
    /// The records, a JSON object a line (`-`: standard input).
    #[arg(long, value_name = "FILE")]
    records: PathBuf,
    /// Only what this policy decided.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// The policy's configuration, instead of the recorded one.
    #[arg(long, value_name = "TEXT")]
    config: Option<String>,
    /// Functions that are granted, such as `rewrite`, instead of the recorded ones.
    #[arg(long)]
    grant: Vec<String>,
    /// A header that it may edit, instead of the recorded ones; may be repeated.
    #[arg(long, value_name = "NAME")]
    header: Vec<String>,
    /// Fuel of one call, instead of the recorded limit.
    #[arg(long, value_name = "UNITS")]
    fuel_limit: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct PolicyRun {
    /// The module: `.wasm`, or WAT text.
    file: PathBuf,
    /// The request, as JSON.
    #[arg(long, value_name = "R.json")]
    request: PathBuf,
    /// Verified claims, as one JSON object.
    #[arg(long, value_name = "C.json")]
    claims: Option<PathBuf>,
    /// The policy's configuration.
    #[arg(long, value_name = "TEXT", default_value = "")]
    config: String,
    /// The body, instead of the request's own.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Functions that are granted, such as `rewrite`.
    #[arg(long)]
    grant: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum SchemaCommand {
    /// Checks payloads against a message.
    Check(SchemaCheck),
    #[cfg(feature = "nats")]
    #[command(flatten)]
    Bucket(schema::BucketCommand),
}

#[derive(Debug, clap::Args)]
struct SchemaCheck {
    /// The contract: a `FileDescriptorSet` (also gzipped), a `.proto` source, or a folder of `.proto` sources.
    #[arg(long, value_name = "FDS")]
    descriptors: PathBuf,
    /// The message's full name.
    #[arg(long, value_name = "NAME")]
    message: String,
    /// `wire`, `strict`, `required` or `rules`.
    #[arg(long, default_value = "strict")]
    level: String,
    /// What the payload is; else what its file's name says: JSON if it ends in `.json`.
    #[arg(long, value_enum)]
    encoding: Option<schema::Encoding>,
    /// Fields that have to be there, such as `user.email` or `items[].sku`.
    #[arg(long, value_name = "PATH")]
    required: Vec<String>,
    /// One payload in hex a line from this file (`-`: standard input); a verdict a line out.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    hex_lines: Option<PathBuf>,
    /// Tells on standard error how far a folder is, also where that is no terminal.
    #[arg(long)]
    progress: bool,
    /// The payload (`-` or nothing: standard input), or a folder of payloads: what is refused is told, and how many are not.
    file: Option<PathBuf>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    Refused,
    /// The control log has it, and nobody has said what becomes of it.
    Unjudged,
}

/// What cannot be used, in one sentence: exit 2.
type Usage = anyhow::Error;

fn share(text: &str) -> Result<Fraction, String> {
    text.parse::<Fraction>().map_err(|error| error.to_string())
}

/// Runs the command that the process was called with.
#[must_use]
pub fn main() -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    ExitCode::from(run_from(std::env::args_os(), &mut out, &mut io::stderr()))
}

/// Runs a command line, its first word the program's name, and yields the exit code. Commands that speak to servers
/// start a runtime of their own: call it off the async threads.
pub fn run_from(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut impl Write,
    errors: &mut impl Write,
) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are asked for; everything else is a mistake, which clap has put into words.
            let text = error.render();
            let told = if error.use_stderr() {
                writeln!(errors, "{text}")
            } else {
                write!(out, "{text}").and_then(|()| out.flush())
            };
            // Nobody is left to tell.
            let _ = told;
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let outcome = run(&arguments, out, errors).and_then(|outcome| {
        out.flush()?;
        Ok(outcome)
    });
    match outcome {
        Ok(Outcome::Ok) => 0,
        Ok(Outcome::Refused) => 1,
        Ok(Outcome::Unjudged) => 3,
        // Whoever reads our output may have read enough.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            let _ = writeln!(errors, "arqon: {error:#}");
            2
        }
    }
}

/// One page with every command, in roff.
fn man(out: &mut impl Write) -> io::Result<()> {
    let mut command = Arguments::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(out)?;
    let of = |command: &clap::Command| -> Vec<clap::Command> {
        let all = command.get_subcommands().filter(|one| one.get_name() != "help");
        all.cloned().collect()
    };
    for group in of(&command) {
        let leaves = of(&group);
        for leaf in if leaves.is_empty() { vec![group] } else { leaves } {
            let page = clap_mangen::Man::new(leaf.clone());
            let name = leaf.get_bin_name().unwrap_or_else(|| leaf.get_name());
            writeln!(out, ".SH \"{}\"", name.to_uppercase())?;
            page.render_synopsis_section(out)?;
            page.render_description_section(out)?;
            page.render_options_section(out)?;
        }
    }
    Ok(())
}

fn is_broken_pipe(error: &Usage) -> bool {
    let written = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let as_json = error
        .downcast_ref::<serde_json::Error>()
        .and_then(serde_json::Error::io_error_kind);
    written.or(as_json) == Some(io::ErrorKind::BrokenPipe)
}

fn run(arguments: &Arguments, out: &mut impl Write, errors: &mut impl Write) -> Result<Outcome, Usage> {
    let json = arguments.json;
    match &arguments.command {
        Command::Policy(PolicyCommand::Check { files, grant, config }) => {
            policy::check(files, grant, config, json, out)
        }
        Command::Policy(PolicyCommand::Run(run)) => policy::run(run, json, out),
        Command::Policy(PolicyCommand::Bench(bench)) => policy::bench(bench, json, out),
        Command::Policy(PolicyCommand::Replay(replay)) => replay::replay(replay, json, out),
        Command::Schema(SchemaCommand::Check(check)) => schema::check(check, json, out, errors),
        #[cfg(feature = "nats")]
        Command::Schema(SchemaCommand::Bucket(command)) => schema::run(command, json, out),
        Command::Sample { percent, seed } => sample::sample(*percent, *seed, json, io::stdin().lock(), out),
        Command::Gov(command) => gov::run(command, json, out),
        Command::Audit(audit::AuditCommand::Verify(verify)) => audit::verify(verify, json, out),
        Command::Audit(audit::AuditCommand::Seal { file }) => audit::seal(file, json, out),
        Command::Config(command) => config::run(command, json, out),
        Command::Completions { shell } => {
            // It panics where it cannot write: memory takes everything.
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "arqon", &mut text);
            out.write_all(&text)?;
            Ok(Outcome::Ok)
        }
        Command::Man => {
            man(out)?;
            Ok(Outcome::Ok)
        }
    }
}
