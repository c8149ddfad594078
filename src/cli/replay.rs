//! `arqon policy replay`

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
};

use anyhow::Context;
use arqon_overseer::{OverseerConfig, PolicyEngine, Recording};
use serde::Serialize;
use serde_json::json;

use super::{Outcome, PolicyReplay, Usage, policy};

/// Most differences that are printed; all are counted.
const DIFFERENCES_MAX: usize = 100;

/// What a policy said, as far as it is compared.
#[derive(Debug, PartialEq, Serialize)]
struct Said {
    verdict: String,
    status: Option<u16>,
    cause: Option<String>,
    fuel: u64,
}

/// A record on which the module differs from what was recorded.
#[derive(Debug, Serialize)]
struct Difference {
    /// Counted from 1.
    line: usize,
    policy: String,
    path: Option<String>,
    recorded: Said,
    replayed: Said,
}

#[derive(Debug, Default)]
struct Sum {
    replayed: usize,
    same: usize,
    skipped: usize,
    differences: Vec<Difference>,
}

pub(super) fn replay(replay: &PolicyReplay, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let engine = PolicyEngine::with_limits(&OverseerConfig {
        fuel_limit: replay.fuel_limit,
        ..OverseerConfig::default()
    })?;
    let module = policy::load(&engine, &replay.file, &replay.grant, &replay.config)?;
    let sha256 = module.report().facts.as_ref().map(|facts| facts.sha256.clone());
    let name = replay.records.display().to_string();
    let records: Box<dyn BufRead> = if name == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(
            File::open(&replay.records).with_context(|| format!("{name} cannot be read"))?,
        ))
    };
    let mut sum = Sum::default();
    for (at, line) in records.lines().enumerate() {
        let line = line.with_context(|| format!("{name} cannot be read"))?;
        if line.trim().is_empty() {
            continue;
        }
        let record: Recording =
            serde_json::from_str(&line).with_context(|| format!("{name}, line {}, is no record", at + 1))?;
        if replay.policy.as_ref().is_some_and(|name| *name != record.policy) {
            continue;
        }
        if !record.is_replayable() {
            sum.skipped += 1;
            continue;
        }
        let outcome = engine
            .validate_with_context(&module, &record.request)
            .with_context(|| format!("{name}, line {}, is no recorded request", at + 1))?;
        let recorded = Said {
            verdict: record.verdict,
            status: record.status,
            cause: record.cause,
            fuel: record.fuel,
        };
        let mut replayed = Said {
            verdict: outcome.verdict,
            status: outcome.status,
            cause: outcome.cause,
            fuel: outcome.fuel,
        };
        let fuel = replayed.fuel;
        if sha256.as_ref() != Some(&record.sha256) {
            // Another module may take another way to the same verdict.
            replayed.fuel = recorded.fuel;
        }
        sum.replayed += 1;
        if recorded == replayed {
            sum.same += 1;
        } else {
            replayed.fuel = fuel;
            sum.differences.push(Difference {
                line: at + 1,
                policy: record.policy,
                path: record.request.path,
                recorded,
                replayed,
            });
        }
    }
    print(&sum, json, out)?;
    Ok(if sum.differences.is_empty() {
        Outcome::Ok
    } else {
        Outcome::Refused
    })
}

fn print(sum: &Sum, json: bool, out: &mut impl Write) -> Result<(), Usage> {
    let shown = &sum.differences[..sum.differences.len().min(DIFFERENCES_MAX)];
    if json {
        let document = json!({
            "replayed": sum.replayed,
            "same": sum.same,
            "differs": sum.differences.len(),
            "skipped": sum.skipped,
            "differences": shown,
        });
        writeln!(out, "{document}")?;
        return Ok(());
    }
    for difference in shown {
        let text = |said: &Said| {
            let code = said.status.map(|status| format!(" {status}")).unwrap_or_default();
            let cause = said
                .cause
                .as_ref()
                .map(|cause| format!(" {cause}"))
                .unwrap_or_default();
            format!("{}{code}{cause} (fuel {})", said.verdict, said.fuel)
        };
        writeln!(
            out,
            "line {}: {} {}: was {}, is {}",
            difference.line,
            difference.policy,
            difference.path.as_deref().unwrap_or("/"),
            text(&difference.recorded),
            text(&difference.replayed),
        )?;
    }
    writeln!(
        out,
        "{} replayed: {} the same, {} different; {} skipped (no body recorded, or time decided)",
        sum.replayed,
        sum.same,
        sum.differences.len(),
        sum.skipped,
    )?;
    Ok(())
}
