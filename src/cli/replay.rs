//! `arqon policy replay`

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader, Write},
};

use anyhow::Context;
use arqon_overseer::{
    Conditions, LoadedPolicy, OverseerConfig, POLICIES_MAX, PolicyConfig, PolicyEngine, Recording,
};
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
    /// Those of `skipped` in which the module read what is masked, and what that was.
    masked: usize,
    masked_names: BTreeSet<String>,
    /// Whose records were left out by `--policy`.
    others: BTreeSet<String>,
    differences: Vec<Difference>,
}

pub(super) fn replay(replay: &PolicyReplay, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let mut modules = Modules::new(replay)?;
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
            sum.others.insert(policy::shown(&record.policy));
            continue;
        }
        if !record.is_replayable() {
            sum.skipped += 1;
            continue;
        }
        let (engine, module) = modules.of(&record)?;
        let replayed = engine
            .replay(module, &record.request)
            .with_context(|| format!("{name}, line {}, is no recorded request", at + 1))?;
        if !replayed.masked_read.is_empty() {
            sum.skipped += 1;
            sum.masked += 1;
            sum.masked_names
                .extend(replayed.masked_read.iter().map(|name| policy::shown(name)));
            continue;
        }
        let outcome = replayed.outcome;
        let sha256 = module.report().facts.as_ref().map(|facts| &facts.sha256);
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
        if sha256 != Some(&record.sha256) {
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
    if sum.replayed == 0 {
        anyhow::bail!(
            "nothing was compared: {}",
            why(&sum, replay.policy.as_deref(), &name)
        );
    }
    Ok(if sum.differences.is_empty() {
        Outcome::Ok
    } else {
        Outcome::Refused
    })
}

/// Why no record was replayed.
fn why(sum: &Sum, policy: Option<&str>, file: &str) -> String {
    match policy {
        _ if sum.skipped > 0 => format!("all {} records were skipped", sum.skipped),
        Some(policy) if !sum.others.is_empty() => {
            let known: Vec<_> = sum.others.iter().map(String::as_str).collect();
            let policy = policy::shown(policy);
            format!(
                "no record is of a policy called `{policy}`; there are: {}",
                known.join(", ")
            )
        }
        _ => format!("{file} holds no record"),
    }
}

/// The module as each policy would have it that was recorded.
struct Modules<'a> {
    replay: &'a PolicyReplay,
    loaded: Vec<(String, Option<Conditions>, PolicyEngine, LoadedPolicy)>,
}

impl<'a> Modules<'a> {
    /// Also finds a file that is not there, whatever the records are.
    fn new(replay: &'a PolicyReplay) -> Result<Self, Usage> {
        policy::exists(&replay.file)?;
        Ok(Self {
            replay,
            loaded: Vec::new(),
        })
    }

    /// With the name and the conditions of the record, but for what the command says.
    fn of(&mut self, record: &Recording) -> Result<(&PolicyEngine, &LoadedPolicy), Usage> {
        let known = self
            .loaded
            .iter()
            .position(|(name, conditions, ..)| *name == record.policy && *conditions == record.conditions);
        let at = match known {
            Some(at) => at,
            None => {
                if self.loaded.len() == POLICIES_MAX {
                    self.loaded.remove(0);
                }
                let (engine, policy) = self.load(record)?;
                self.loaded
                    .push((record.policy.clone(), record.conditions.clone(), engine, policy));
                self.loaded.len() - 1
            }
        };
        let (_, _, engine, policy) = &self.loaded[at];
        Ok((engine, policy))
    }

    fn load(&self, record: &Recording) -> Result<(PolicyEngine, LoadedPolicy), Usage> {
        let replay = self.replay;
        let mut limits = match &record.conditions {
            Some(conditions) => conditions.limits(),
            None => OverseerConfig {
                concurrency: 1,
                ..OverseerConfig::default()
            },
        };
        limits.fuel_limit = replay.fuel_limit.or(limits.fuel_limit);
        let mut config = PolicyConfig::from_path(&record.policy, &replay.file);
        if let Some(conditions) = &record.conditions {
            config = conditions.applied_to(config);
        }
        if let Some(text) = &replay.config {
            config.config = (!text.is_empty()).then(|| text.clone());
        }
        if !replay.grant.is_empty() {
            config.grants.clone_from(&replay.grant);
        }
        if !replay.header.is_empty() {
            config.headers = Some(replay.header.clone());
        }
        let engine = PolicyEngine::with_limits(&limits)?;
        let policy = policy::load_as(&engine, &replay.file, &config)?;
        Ok((engine, policy))
    }
}

fn print(sum: &Sum, json: bool, out: &mut impl Write) -> Result<(), Usage> {
    let shown = &sum.differences[..sum.differences.len().min(DIFFERENCES_MAX)];
    if json {
        let document = json!({
            "replayed": sum.replayed,
            "same": sum.same,
            "differs": sum.differences.len(),
            "skipped": sum.skipped,
            "skipped_masked": sum.masked,
            "masked_read": sum.masked_names,
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
            policy::shown(&format!("{}{code}{cause} (fuel {})", said.verdict, said.fuel))
        };
        writeln!(
            out,
            "line {}: {} {}: was {}, is {}",
            difference.line,
            policy::shown(&difference.policy),
            policy::shown(difference.path.as_deref().unwrap_or("/")),
            text(&difference.recorded),
            text(&difference.replayed),
        )?;
    }
    writeln!(
        out,
        "{} replayed: {} the same, {} different; {} skipped (no body recorded, or time or room decided: {}; a masked value \
         was read: {})",
        sum.replayed,
        sum.same,
        sum.differences.len(),
        sum.skipped,
        sum.skipped - sum.masked,
        sum.masked,
    )?;
    if !sum.masked_names.is_empty() {
        let names: Vec<_> = sum.masked_names.iter().map(String::as_str).collect();
        writeln!(
            out,
            "the module reads what the records mask: {}",
            names.join(", ")
        )?;
    }
    Ok(())
}
