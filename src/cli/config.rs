//! `arqon config`

use std::{io::Write, path::Path};

use serde_json::json;

use super::{Outcome, Usage};
use crate::config::Config;

pub(super) fn check(file: &Path, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let findings = match Config::load(Some(file), &[]) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.0,
    };
    if json {
        let rows: Vec<_> = findings
            .iter()
            .map(
                |finding| json!({ "key": finding.key, "message": finding.message, "source": finding.source }),
            )
            .collect();
        writeln!(out, "{}", json!({ "ok": findings.is_empty(), "findings": rows }))?;
    } else if findings.is_empty() {
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
