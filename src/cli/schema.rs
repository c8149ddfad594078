//! `arqon schema`

mod folder;
#[cfg(feature = "nats")]
mod push;
#[cfg(feature = "nats")]
mod store;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    path::Path,
};

use anyhow::Context;
use arqon_schema::{Descriptors, Level, Validator, Violations};
use serde_json::{Value, json};

use super::{Outcome, SchemaCheck, Usage};

/// The longest payload that is read, in bytes.
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Encoding {
    /// Binary Protobuf.
    Proto,
    /// The Protobuf JSON mapping.
    Json,
}

/// What the bucket is asked.
#[cfg(feature = "nats")]
#[derive(Debug, clap::Subcommand)]
pub(super) enum BucketCommand {
    /// Writes schemas into the bucket, each only if it may follow what is there and nobody else wrote meanwhile.
    Push(push::Push),
    /// Lists the schemas of the bucket.
    List(store::At),
    /// Shows one schema: what it declares, and the revisions that are kept.
    Get(store::Get),
    /// Shows what differs between two revisions, or a revision and a file, and what that breaks; 1 if it breaks BACKWARD.
    Diff(store::Diff),
    /// Deletes a schema: gateways refuse its subjects from then on.
    Rm(store::Named),
    /// Writes an older revision again, as the newest: gateways take it although it breaks.
    Rollback(store::Rollback),
}

#[cfg(feature = "nats")]
pub(super) fn run(command: &BucketCommand, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    super::gov::runtime()?.block_on(async {
        match command {
            BucketCommand::Push(push) => push::push(push, json, out).await,
            BucketCommand::List(at) => store::list(at, json, out).await,
            BucketCommand::Get(get) => store::get(get, json, out).await,
            BucketCommand::Diff(diff) => store::diff(diff, json, out).await,
            BucketCommand::Rm(named) => store::rm(named, json, out).await,
            BucketCommand::Rollback(rollback) => store::rollback(rollback, json, out).await,
        }
    })
}

pub(super) fn check(
    check: &SchemaCheck,
    json: bool,
    out: &mut impl Write,
    errors: &mut impl Write,
) -> Result<Outcome, Usage> {
    let level: Level = serde_json::from_value(Value::from(check.level.as_str())).map_err(|_| {
        anyhow::anyhow!(
            "--level {:?} is none of wire, strict, required, rules",
            check.level
        )
    })?;
    let descriptors = if check.descriptors.is_dir() {
        arqon_schema::compile_folder(&check.descriptors).and_then(|set| Descriptors::decode(&set))
    } else {
        Descriptors::load(&check.descriptors)
    };
    let descriptors =
        descriptors.with_context(|| format!("{} cannot be loaded", check.descriptors.display()))?;
    let validator = descriptors.validator(Some(&check.message), level, &check.required)?;
    if let Some(payloads) = check.file.as_deref().filter(|file| file.is_dir()) {
        let progress = check.progress || io::stderr().is_terminal();
        let verdict = |file: &Path, payload: &[u8]| validate(&validator, check.encoding_of(file), payload);
        return folder::check(payloads, verdict, json, out, progress.then_some(errors));
    }
    let encoding = check.encoding_of(check.file.as_deref().unwrap_or(Path::new("-")));
    let verdict = |payload: &[u8]| validate(&validator, encoding, payload);
    match &check.hex_lines {
        Some(lines) => hex_lines(open(Some(lines))?, verdict, json, out),
        None => {
            let payload = read(open(check.file.as_deref())?)?;
            one(verdict(&payload), json, out)
        }
    }
}

impl SchemaCheck {
    fn encoding_of(&self, file: &Path) -> Encoding {
        let named = match file.extension() {
            Some(ending) if ending.eq_ignore_ascii_case("json") => Encoding::Json,
            _ => Encoding::Proto,
        };
        self.encoding.unwrap_or(named)
    }
}

/// A whole payload.
fn read(from: impl Read) -> Result<Vec<u8>, Usage> {
    let mut payload = Vec::new();
    from.take(PAYLOAD_BYTES_MAX + 1).read_to_end(&mut payload)?;
    anyhow::ensure!(
        payload.len() as u64 <= PAYLOAD_BYTES_MAX,
        "the payload is over {PAYLOAD_BYTES_MAX} bytes"
    );
    Ok(payload)
}

fn validate(validator: &Validator, encoding: Encoding, payload: &[u8]) -> Result<(), Violations> {
    match encoding {
        Encoding::Proto => validator.validate_wire(payload),
        Encoding::Json => validator.validate_json(payload),
    }
}

fn open(file: Option<&Path>) -> Result<Box<dyn BufRead>, Usage> {
    match file {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
            Ok(Box::new(BufReader::new(file)))
        }
        _ => Ok(Box::new(io::stdin().lock())),
    }
}

fn one(verdict: Result<(), Violations>, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let violations = verdict.err().map(Violations::into_vec).unwrap_or_default();
    let accepted = violations.is_empty();
    if json {
        let verdict = if accepted { "accept" } else { "reject" };
        writeln!(out, "{}", json!({ "verdict": verdict, "violations": violations }))?;
    } else if accepted {
        writeln!(out, "accept")?;
    } else {
        for violation in &violations {
            writeln!(
                out,
                "reject {} {}: {}",
                violation.path, violation.rule, violation.message
            )?;
        }
    }
    Ok(if accepted { Outcome::Ok } else { Outcome::Refused })
}

/// `accept`, or `reject <path> <rule>` with the first violation, a line for each line.
fn hex_lines(
    lines: impl BufRead,
    verdict: impl Fn(&[u8]) -> Result<(), Violations>,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    let mut rejected = false;
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        let payload = unhex(line.trim()).with_context(|| format!("line {} is not hex", number + 1))?;
        let violations = verdict(&payload)
            .err()
            .map(Violations::into_vec)
            .unwrap_or_default();
        rejected |= !violations.is_empty();
        match violations.first() {
            _ if json => {
                let verdict = if violations.is_empty() { "accept" } else { "reject" };
                writeln!(out, "{}", json!({ "verdict": verdict, "violations": violations }))?;
            }
            None => writeln!(out, "accept")?,
            Some(first) => writeln!(out, "reject {} {}", first.path, first.rule)?,
        }
    }
    Ok(if rejected { Outcome::Refused } else { Outcome::Ok })
}

fn unhex(text: &str) -> Result<Vec<u8>, Usage> {
    anyhow::ensure!(text.len().is_multiple_of(2), "it has an odd number of digits");
    let digit = |byte: u8| {
        (byte as char)
            .to_digit(16)
            .with_context(|| format!("{:?} is no hex digit", byte as char))
    };
    text.as_bytes()
        .chunks(2)
        .map(|pair| Ok((digit(pair[0])? * 16 + digit(pair[1])?) as u8))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &str) -> (String, Outcome) {
        let descriptors = Descriptors::from_source(
            "users.proto",
            r#"syntax = "proto3"; message User { string user_id = 1; int32 age = 2; }"#,
        )
        .expect("compiles");
        let validator = descriptors
            .validator(Some("User"), Level::Strict, &["user_id".to_owned()])
            .expect("there");
        let mut out = Vec::new();
        let outcome = hex_lines(
            lines.as_bytes(),
            |payload| validator.validate_wire(payload),
            false,
            &mut out,
        );
        (String::from_utf8(out).expect("text"), outcome.expect("hex"))
    }

    #[test]
    fn a_verdict_stands_on_each_line() {
        assert_eq!(run("0a027531\n"), ("accept\n".to_owned(), Outcome::Ok));
        let (text, outcome) = run("0a027531\n\n0A097531\n1005\n");
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "accept",
                "reject user_id required",
                "reject user_id wire.truncated",
                "reject user_id required"
            ]
        );
        assert_eq!(outcome, Outcome::Refused);
    }

    #[test]
    fn what_is_not_hex_is_refused_by_line() {
        assert!(unhex("0").is_err() && unhex("0g").is_err());
        assert_eq!(unhex("0aFf").expect("hex"), [10, 255]);
    }
}
