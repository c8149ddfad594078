//! `arqon policy`

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use arqon_overseer::{LoadReport, LoadedPolicy, PolicyConfig, PolicyEngine, RecordedRequest, Severity};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Outcome, PolicyBench, PolicyRun, Usage};

pub(super) fn check(
    files: &[PathBuf],
    grants: &[String],
    config: &str,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    let engine = PolicyEngine::new()?;
    // A file that cannot be read has a report too, so that the others are told.
    let reports: Vec<_> = files
        .iter()
        .map(|file| engine.check(&policy(file, grants, config)))
        .collect();
    let ok = reports.iter().all(|report| report.ok);
    if json {
        writeln!(out, "{}", json!({ "ok": ok, "reports": reports }))?;
    } else {
        for report in &reports {
            print(report, out)?;
        }
    }
    for file in files {
        exists(file)?;
    }
    Ok(if ok { Outcome::Ok } else { Outcome::Refused })
}

fn print(report: &LoadReport, out: &mut impl Write) -> Result<(), Usage> {
    writeln!(
        out,
        "{}: {}",
        shown(&report.source),
        if report.ok { "ok" } else { "refused" }
    )?;
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(
            out,
            "  {severity} {} {}: {}; {}",
            finding.code,
            shown(&finding.item),
            shown(&finding.message),
            shown(&finding.fix)
        )?;
    }
    let Some(facts) = &report.facts else { return Ok(()) };
    writeln!(out, "  sha256 {}", facts.sha256)?;
    writeln!(
        out,
        "  {} bytes, {} pages, ABI {}, exports {}, imports {}",
        facts.wasm_bytes,
        facts.pages,
        facts.abi,
        listed(&facts.entries),
        listed(&facts.imports),
    )?;
    let yes = |fact| if fact { "yes" } else { "no" };
    writeln!(
        out,
        "  needs body: {}, needs claims: {}, rewrites: {}, sees responses: {}",
        yes(facts.needs_body),
        yes(facts.needs_claims),
        yes(facts.rewrites),
        yes(facts.sees_responses),
    )?;
    if let Some(dry_run) = &facts.dry_run {
        writeln!(
            out,
            "  dry run on GET /: {}, fuel {}",
            dry_run.verdict, dry_run.fuel
        )?;
    }
    Ok(())
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        shown(&names.join(" "))
    }
}

pub(super) fn run(run: &PolicyRun, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let engine = PolicyEngine::new()?;
    let mut request: RecordedRequest = read_json(&run.request)?;
    if let Some(claims) = &run.claims {
        request.claims = Some(read_json(claims)?);
    }
    if let Some(body) = &run.body {
        request.body = None;
        request.body_base64 = Some(STANDARD.encode(read(body)?));
    }
    let policy = match load(&engine, &run.file, &run.grant, &run.config) {
        Ok(policy) => policy,
        // Whoever reads JSON gets JSON, with all keys; the exit code is the same without.
        Err(error) if json && error.is::<Unloadable>() => {
            let told = json!({
                "verdict": "reject", "status": 503, "reason": error.to_string(), "cause": "load", "headers": [],
                "body_base64": null, "logs": [], "fuel": 0,
            });
            writeln!(out, "{told}")?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let outcome = engine
        .validate_with_context(&policy, &request)
        .with_context(|| format!("{} is not a recorded request", run.request.display()))?;
    if json {
        writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
    } else {
        write!(out, "{}", outcome.verdict)?;
        if let (Some(status), Some(cause)) = (outcome.status, &outcome.cause) {
            write!(
                out,
                " {status} {cause}: {}",
                shown(outcome.reason.as_deref().unwrap_or_default())
            )?;
        }
        writeln!(out, " (fuel {})", outcome.fuel)?;
        for (what, name, value) in &outcome.headers {
            writeln!(
                out,
                "  {what} {name}{}",
                value
                    .as_ref()
                    .map(|value| format!(": {}", shown(value)))
                    .unwrap_or_default()
            )?;
        }
        for line in &outcome.logs {
            writeln!(out, "  log {}: {}", line.level, shown(&line.message))?;
        }
    }
    Ok(if outcome.allows() {
        Outcome::Ok
    } else {
        Outcome::Refused
    })
}

pub(super) fn bench(bench: &PolicyBench, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let engine = PolicyEngine::new()?;
    let policy = load(&engine, &bench.file, &bench.grant, &bench.config)?;
    let request = match &bench.request {
        Some(file) => read_json(file)?,
        None => RecordedRequest::default(),
    };
    let count = usize::try_from(bench.count).unwrap_or(usize::MAX);
    let timing = engine
        .time(&policy, &request, count)
        .context("this is not a recorded request")?;
    let compile_ms = policy.report().facts.as_ref().and_then(|facts| facts.compile_ms);
    if json {
        let mut document = serde_json::to_value(&timing)?;
        document["compile_ms"] = json!(compile_ms);
        writeln!(out, "{document}")?;
    } else {
        writeln!(
            out,
            "{}: best {} ns, median {} ns, 99th percentile {} ns of {} calls, a fresh instance each; fuel {}; compiled in \
             {:.1} ms",
            timing.outcome.verdict,
            timing.nanos_best,
            timing.nanos_p50,
            timing.nanos_p99,
            timing.count,
            timing.outcome.fuel,
            compile_ms.unwrap_or_default(),
        )?;
    }
    Ok(Outcome::Ok)
}

/// Loads the module, or says everything that is wrong with it.
pub(super) fn load(
    engine: &PolicyEngine,
    file: &Path,
    grants: &[String],
    config: &str,
) -> Result<LoadedPolicy, Usage> {
    exists(file)?;
    load_as(engine, file, &policy(file, grants, config))
}

/// Loads the module as the policy that `config` says.
pub(super) fn load_as(
    engine: &PolicyEngine,
    file: &Path,
    config: &PolicyConfig,
) -> Result<LoadedPolicy, Usage> {
    engine.load(config).map_err(|report| {
        let lines: Vec<_> = report
            .errors()
            .map(|e| format!("{} {}: {}; {}", e.code, e.item, e.message, e.fix))
            .collect();
        let is_config = report.errors().any(|e| e.code == "config.invalid");
        let text = shown(&format!(
            "{} cannot be loaded: {}",
            file.display(),
            lines.join("; ")
        ));
        if is_config {
            // A mistake in the command, not in the module.
            anyhow::Error::msg(text)
        } else {
            Unloadable(text).into()
        }
    })
}

/// A module that has findings.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unloadable(String);

/// Says that a file is not there: a mistake in the command, not in a policy.
pub(super) fn exists(file: &Path) -> Result<(), Usage> {
    fs::metadata(file).with_context(|| shown(&file.display().to_string()))?;
    Ok(())
}

/// `text` on one line, what a terminal would obey escaped: names and messages may be a stranger's.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let reorders =
            matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || reorders {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

fn policy(file: &Path, grants: &[String], config: &str) -> PolicyConfig {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name: String = stem
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    let mut policy = PolicyConfig::from_path(if name.is_empty() { "policy" } else { &name }, file);
    policy.grants = grants.to_vec();
    policy.config = (!config.is_empty()).then(|| config.to_owned());
    policy
}

fn read(file: &Path) -> Result<Vec<u8>, Usage> {
    fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, Usage> {
    serde_json::from_slice(&read(file)?)
        .with_context(|| format!("{} is not the JSON that is expected", file.display()))
}
