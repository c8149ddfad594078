//! `arqon config`: check, schema and print.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::json;

use super::{Outcome, Usage};
use crate::config::{self, Config, ConfigFlags, Finding, Override};

/// `arqon config ..`
#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Reads a file as the gateway would and prints every finding.
    Check {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        flags: ConfigFlags,
    },
    /// Prints the JSON Schema of the file, with the variable and the flag of each key.
    Schema,
    /// Prints each key with its value in force and where it came from: flag, env, file or default. Secrets are not shown.
    Print {
        /// The file; without one, what there is without a file.
        file: Option<PathBuf>,
        /// Only what is not a default.
        #[arg(long)]
        set: bool,
        #[command(flatten)]
        flags: ConfigFlags,
    },
}

pub(super) fn run(command: &ConfigCommand, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    match command {
        ConfigCommand::Check { file, flags } => check(file, &flags.overrides(), json, out),
        ConfigCommand::Schema => {
            serde_json::to_writer_pretty(&mut *out, &config::schema())?;
            writeln!(out)?;
            Ok(Outcome::Ok)
        }
        ConfigCommand::Print { file, set, flags } => {
            print(file.as_deref(), *set, &flags.overrides(), json, out)
        }
    }
}

/// A file that is not there is a mistake in the command, not in a configuration.
fn there(file: &Path) -> Result<(), Usage> {
    std::fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(())
}

fn print(
    file: Option<&Path>,
    set: bool,
    flags: &[Override],
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    if let Some(file) = file {
        there(file)?;
    }
    let mut origins = match Config::origins(file, flags) {
        Ok(origins) => origins,
        Err(invalid) => return tell(file, &invalid.0, &[], json, out),
    };
    origins.retain(|origin| !set || origin.source != config::Place::Default);
    if json {
        writeln!(out, "{}", json!({ "ok": true, "values": origins }))?;
        return Ok(Outcome::Ok);
    }
    let shown: Vec<_> = origins
        .iter()
        .map(|origin| format!("{} = {}", origin.key, origin.value))
        .collect();
    let width = shown
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0)
        .min(64);
    for (line, origin) in shown.iter().zip(&origins) {
        let from = origin
            .from
            .as_ref()
            .map(|from| format!(" {from}"))
            .unwrap_or_default();
        writeln!(out, "{line:width$}  # {}{from}", origin.source.as_str())?;
    }
    Ok(Outcome::Ok)
}

fn check(file: &Path, flags: &[Override], json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    there(file)?;
    let (findings, warnings) = match Config::load(Some(file), flags) {
        Ok(config) => (Vec::new(), config.warnings()),
        Err(invalid) => (invalid.0, Vec::new()),
    };
    tell(Some(file), &findings, &warnings, json, out)
}

fn tell(
    file: Option<&Path>,
    findings: &[Finding],
    warnings: &[Finding],
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    if json {
        let rows = |findings: &[Finding]| -> Vec<_> {
            let row = |finding: &Finding| json!({ "key": finding.key, "message": finding.message, "source": finding.source });
            findings.iter().map(row).collect()
        };
        let (ok, findings, warnings) = (findings.is_empty(), rows(findings), rows(warnings));
        writeln!(
            out,
            "{}",
            json!({ "ok": ok, "findings": findings, "warnings": warnings })
        )?;
    } else if findings.is_empty() {
        for warning in warnings {
            writeln!(out, "warning: {warning}")?;
        }
        let file = file.map_or_else(|| "no file".into(), Path::to_string_lossy);
        writeln!(out, "{file}: ok")?;
    } else {
        for finding in findings {
            writeln!(out, "{finding}")?;
        }
    }
    Ok(if findings.is_empty() {
        Outcome::Ok
    } else {
        Outcome::Refused
    })
}
