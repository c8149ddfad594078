//! `arqon config`

use std::{io::Write, path::Path};

use serde_json::json;

use super::{Outcome, Usage};
use crate::config::{Config, Finding};

pub(super) fn check(file: &Path, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let (findings, warnings) = match Config::load(Some(file), &[]) {
        Ok(config) => (Vec::new(), config.warnings()),
        Err(invalid) => (invalid.0, Vec::new()),
    };
    if json {
        let rows = |findings: &[Finding]| -> Vec<_> {
            let row = |finding: &Finding| json!({ "key": finding.key, "message": finding.message, "source": finding.source });
            findings.iter().map(row).collect()
        };
        let (ok, findings, warnings) = (findings.is_empty(), rows(&findings), rows(&warnings));
        writeln!(
            out,
            "{}",
            json!({ "ok": ok, "findings": findings, "warnings": warnings })
        )?;
    } else if findings.is_empty() {
        for warning in &warnings {
            writeln!(out, "warning: {warning}")?;
        }
        writeln!(out, "{}: ok", file.display())?;
    } else {
        for finding in &findings {
            writeln!(out, "{finding}")?;
        }
    }
    Ok(if findings.is_empty() {
        Outcome::Ok
    } else {
        Outcome::Refused
    })
}
