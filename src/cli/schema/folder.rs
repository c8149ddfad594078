//! `arqon schema check` on a folder of payloads.

use std::{
    fs::{self, File},
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use arqon_schema::Violations;
use serde_json::json;

use super::super::{Outcome, Usage};

/// How deep folders may be nested.
const DEPTH_MAX: usize = 32;
/// Lines of progress where there is no terminal.
const LINES: usize = 20;

/// Checks every file in a folder and below it, in the order of their names; hidden ones are left out. Prints what is
/// refused and, as the last line, how many were not. Where progress is wanted, it goes to the last argument.
pub(super) fn check(
    folder: &Path,
    verdict: impl Fn(&Path, &[u8]) -> Result<(), Violations>,
    as_json: bool,
    out: &mut impl Write,
    mut progress: Option<&mut impl Write>,
) -> Result<Outcome, Usage> {
    let mut files = Vec::new();
    collect(folder, 0, &mut files)?;
    anyhow::ensure!(!files.is_empty(), "{} has no payloads", folder.display());
    files.sort();
    let terminal = std::io::stderr().is_terminal();
    let (mut refused, mut told) = (0, Vec::new());
    for (at, file) in files.iter().enumerate() {
        let shown = file.strip_prefix(folder).unwrap_or(file).display().to_string();
        let payload = File::open(file).map_err(Usage::from).and_then(super::read);
        let payload = payload.with_context(|| format!("{} cannot be read", file.display()))?;
        let violations = verdict(file, &payload)
            .err()
            .map(Violations::into_vec)
            .unwrap_or_default();
        refused += usize::from(!violations.is_empty());
        if as_json {
            let verdict = if violations.is_empty() { "accept" } else { "reject" };
            told.push(json!({ "file": shown, "verdict": verdict, "violations": violations }));
        } else {
            for one in &violations {
                writeln!(out, "{shown}: reject {} {}: {}", one.path, one.rule, one.message)?;
            }
        }
        if let Some(progress) = &mut progress {
            let (done, count) = (at + 1, files.len());
            if terminal {
                write!(progress, "\r\x1b[K[{done}/{count}] {shown}")?;
                progress.flush()?;
            } else if done == count || done * LINES / count > at * LINES / count {
                writeln!(progress, "[{done}/{count}] {refused} refused so far")?;
            }
        }
    }
    if let Some(progress) = progress.filter(|_| terminal) {
        write!(progress, "\r\x1b[K")?;
    }
    let accepted = files.len() - refused;
    if as_json {
        let counts = json!({ "payloads": told, "accepted": accepted, "refused": refused });
        writeln!(out, "{counts}")?;
    } else {
        writeln!(
            out,
            "{} payloads: {accepted} accepted, {refused} refused",
            files.len()
        )?;
    }
    Ok(if refused == 0 {
        Outcome::Ok
    } else {
        Outcome::Refused
    })
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Usage> {
    anyhow::ensure!(
        depth < DEPTH_MAX,
        "{} is more than {DEPTH_MAX} folders deep",
        folder.display()
    );
    let cannot = || format!("{} cannot be read", folder.display());
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            collect(&path, depth + 1, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
