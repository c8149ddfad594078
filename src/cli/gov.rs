//! `arqon gov`: steers rollouts and shows them.

mod compose;
mod deliver;
mod fold;
mod kept;
mod keys;
mod print;
mod rotate;
mod status;
pub(super) mod target;
mod watch;

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

#[cfg(feature = "nats")]
pub(super) use self::print::utc;
use self::{
    keys::{NamedKey, duration_us},
    target::Target,
};
use super::{Outcome, Usage};

/// What the exit status of a command that sends a message says.
const STATUS: &str = "Exit status: 0 it is in force at every --admin named, or by the log that they read (--nats with \
--config). 1 it was refused somewhere, or did not get everywhere. 2 an argument or a file cannot be used. 3 the log has it \
and nobody has judged it (--nats without --config): look at `gov status`.";

#[derive(Debug, Subcommand)]
pub(super) enum GovCommand {
    /// Makes a key: the secret into a new file, the line for the gateway's `keys` to standard output.
    Keygen(Keygen),
    /// Prints the digest of a proposal: what an approval has to name.
    Digest {
        /// The proposal, as JSON (`-`: standard input).
        file: PathBuf,
    },
    /// Signs a message, or adds signatures to an envelope, and prints the envelope; with --admin or --nats it is sent.
    #[command(after_help = STATUS)]
    Sign(Sign),
    /// Proposes a variant in an operator's name. One operator's key is enough, whatever the threshold: a proposal changes
    /// nothing until enough of them approve it.
    #[command(after_help = STATUS)]
    Propose(Propose),
    /// Approves a pending proposal with a ramp.
    #[command(after_help = STATUS)]
    Approve(Approve),
    /// Overrides what runs.
    #[command(after_help = STATUS)]
    Enforce(Enforce),
    /// Serves everyone the baseline, at once, until resumed. Every --admin and --nats is told, all at a time. With --scope it
    /// holds every scope that the pattern contains or crosses, those that come later too; the answer names them. One that is
    /// refused for the clock of this machine, or for a later counter, is signed once more.
    #[command(after_help = STATUS)]
    Stop(Reasoned),
    /// Holds everything where it is.
    #[command(after_help = STATUS)]
    Pause(Reasoned),
    /// Ends a pause or a stop. Without --scope those of the whole tenant; what was ordered for a scope stays so, is named, and
    /// needs its own. With --scope, all that holds the whole of that scope; an order that only crosses it stays, is named, and
    /// needs a resume of the pattern it was given for.
    #[command(after_help = STATUS)]
    Resume(Reasoned),
    /// Makes the message that replaces the key set, signed by --key, and prints it, or sends it with --admin or --nats. It takes
    /// effect when `threshold` of the operators in force and as many of the new ones as the new `threshold` says have signed:
    /// each adds a signature with `gov sign`.
    #[command(after_help = STATUS)]
    Rotate(Rotate),
    /// Says what is live, since when, and why; of every --admin that is named. Gateways of one log that begin with different
    /// keys are named, which is no success.
    Status(Status),
    /// Prints what changes, as it does.
    Watch(Watch),
}

#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// The new file for the secret; `<keyid>.key` without it.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The key's name; that of the file, or `ops-1`, without it.
    #[arg(long)]
    keyid: Option<String>,
}

/// How a message is signed.
#[derive(Debug, Args)]
pub(super) struct Signing {
    /// A secret key that signs; several for a threshold. The name is the file's unless given.
    #[arg(long = "key", value_name = "[KEYID=]FILE", value_parser = keys::named)]
    keys: Vec<NamedKey>,
    /// How long the message may be on its way: `30s`, `5m`, `2h`, `1d`.
    #[arg(long, value_name = "TIME", value_parser = duration_us)]
    expires: Option<u64>,
    /// The number of the key set in force, as `gov status` shows it.
    #[arg(long, default_value_t = 1)]
    epoch: u64,
    /// The counter; the time in microseconds without it.
    #[arg(long)]
    counter: Option<u64>,
    /// When it is signed, for a machine whose clock is wrong; its clock's time without it.
    #[arg(long, value_name = "MICROSECONDS")]
    issued_at: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// A message, an envelope that others signed, or a tester's pin, `{"tenant","variant","expires_at_us"}` (`-`: standard
    /// input).
    file: PathBuf,
    /// With a `catalog_update`: the catalog it is for. Its digest is put in if there is none, and with --nats its bytes are kept in bucket
    /// ARQON_CATALOGS before anything is sent. What is at its place, as this machine can read it, is taken without it.
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct Propose {
    /// The proposal as JSON; without it, it is made of the options.
    #[arg(conflicts_with_all = ["id", "variant", "param", "reason", "confidence", "scope"])]
    file: Option<PathBuf>,
    /// Its name.
    #[arg(long, required_unless_present = "file")]
    id: Option<String>,
    /// The variant of the catalog; without one, `--param` tunes the baseline.
    #[arg(long)]
    variant: Option<u32>,
    /// A parameter, `name=value`.
    #[arg(long, value_name = "NAME=VALUE", value_parser = keys::param)]
    param: Vec<(String, f64)>,
    /// Why, for people.
    #[arg(long, default_value = "")]
    reason: String,
    /// 0.0 to 1.0.
    #[arg(long, default_value_t = 1.0)]
    confidence: f64,
    /// Limits the rollout to the subjects of a pattern, such as `in.t.default.users.>`.
    #[arg(long)]
    scope: Option<String>,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct Approve {
    /// The proposal's name.
    id: String,
    /// What is approved: the digest that `gov digest` printed for the text you read.
    #[arg(long, conflicts_with = "proposal")]
    digest: Option<String>,
    /// What is approved: the proposal's file; the digest is made of it.
    #[arg(long, value_name = "FILE")]
    proposal: Option<PathBuf>,
    /// Percent at the start.
    #[arg(long, value_name = "PERCENT", required_unless_present = "at_once")]
    initial: Option<f64>,
    /// Percent that every minute adds.
    #[arg(long, value_name = "PERCENT", required_unless_present = "at_once")]
    increment: Option<f64>,
    /// Percent at the end.
    #[arg(long, value_name = "PERCENT", required_unless_present = "at_once")]
    max: Option<f64>,
    /// Everyone at once, without a ramp; the gateway needs `allow_unramped`.
    #[arg(long, conflicts_with_all = ["initial", "increment", "max"])]
    at_once: bool,
    /// Replaces the rollout that runs.
    #[arg(long)]
    supersede: bool,
    /// Ends by itself after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = duration_us)]
    lasting: Option<u64>,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Action {
    /// Everyone gets the variant that follows.
    #[value(alias = "set_variant")]
    SetVariant,
    /// Everyone gets the variant in use with the `name=value`s that follow.
    #[value(alias = "set_params")]
    SetParams,
    /// Everyone gets the baseline, until resumed.
    #[value(alias = "emergency_stop")]
    EmergencyStop,
    /// Everything is held.
    #[value(alias = "pause_adaptation")]
    PauseAdaptation,
    /// Ends a pause or a stop.
    #[value(alias = "resume_adaptation")]
    ResumeAdaptation,
}

#[derive(Debug, Args)]
pub(super) struct Enforce {
    /// What to do.
    action: Action,
    /// A variant's number for set-variant, `name=value`s for set-params.
    values: Vec<String>,
    /// Ends by itself after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = duration_us)]
    lasting: Option<u64>,
    #[command(flatten)]
    reasoned: Reasoned,
}

#[derive(Debug, Args)]
pub(super) struct Reasoned {
    /// Why, for people.
    #[arg(long, default_value = "")]
    reason: String,
    /// Only the subjects of a pattern, such as `in.t.default.users.>`; without it, the whole tenant.
    #[arg(long)]
    scope: Option<String>,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// The next set as TOML, as `[platform.rollout]` has it: `threshold`, `keys`, `stop_keys`, and `node_keys` if they change
    /// (`-`: standard input).
    next: PathBuf,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    target: Target,
    /// Ends after this many lines.
    #[arg(long, value_name = "N")]
    lines: Option<usize>,
}

pub(super) fn run(command: &GovCommand, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    match command {
        GovCommand::Keygen(keygen) => keys::keygen(keygen, json, out),
        GovCommand::Digest { file } => keys::digest(file, json, out),
        GovCommand::Sign(sign) => compose::sign(sign, json, out),
        GovCommand::Propose(propose) => compose::propose(propose, json, out),
        GovCommand::Approve(approve) => compose::approve(approve, json, out),
        GovCommand::Enforce(enforce) => compose::enforce(enforce, json, out),
        GovCommand::Stop(reasoned) => compose::act(Action::EmergencyStop, reasoned, json, out),
        GovCommand::Pause(reasoned) => compose::act(Action::PauseAdaptation, reasoned, json, out),
        GovCommand::Resume(reasoned) => compose::act(Action::ResumeAdaptation, reasoned, json, out),
        GovCommand::Rotate(rotate) => rotate::rotate(rotate, json, out),
        GovCommand::Status(status) => status::status(status, json, out),
        GovCommand::Watch(watch) => watch::watch(watch, json, out),
    }
}

/// What commands that speak to servers run on.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Usage> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
