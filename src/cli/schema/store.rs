//! `arqon schema list|get|diff|rm|rollback`: what is in the bucket.

use std::{collections::HashMap, fs, io::Write, path::PathBuf, time::SystemTime};

use anyhow::Context;
use arqon_schema::{Break, Compatibility, Descriptors, KV_BUCKET, Profile};
use async_nats::jetstream;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use serde_json::{Value, json};

use super::super::{Outcome, Usage, gov};
use crate::nats::schemas::bucket::{Bucket, Record, WriteError};

/// Which bucket.
#[derive(Debug, Args)]
pub(in crate::cli) struct At {
    /// The server.
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub(super) nats: String,
    /// A credentials file.
    #[arg(long, value_name = "FILE")]
    creds: Option<PathBuf>,
    /// The bucket, as `platform.registry.kv_bucket` names it.
    #[arg(long, value_name = "NAME", default_value = KV_BUCKET)]
    pub(super) bucket: String,
}

/// Which schema of the bucket.
#[derive(Debug, Args)]
pub(in crate::cli) struct Named {
    /// The schema id, such as `v1.events.user_created`.
    id: String,
    /// A tenant's own schema, which goes before the common one.
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Get {
    #[command(flatten)]
    named: Named,
    /// That revision instead of the newest.
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Writes the descriptor set, as it is in the bucket, into a file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    #[command(flatten)]
    named: Named,
    /// What the bucket's revision is compared with: a `.proto` source or a descriptor set that is not pushed yet.
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    file: Option<PathBuf>,
    /// The older revision; the one before the newest (with --file: the newest) without it.
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// The newer revision; the newest without it.
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// What compatible means: `wire`, `wire_json`, `strict` or `confluent`.
    #[arg(long, default_value = "wire_json")]
    profile: Profile,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Rollback {
    #[command(flatten)]
    named: Named,
    /// The revision whose content is written again; the newest that differs from what is in place without it.
    #[arg(long, value_name = "N")]
    to: Option<u64>,
}

impl At {
    pub(super) async fn jetstream(&self) -> Result<jetstream::Context, Usage> {
        let client = gov::target::connect(&self.nats, self.creds.as_deref()).await?;
        Ok(jetstream::new(client))
    }

    pub(super) async fn open(&self) -> Result<Bucket, Usage> {
        let jetstream = self.jetstream().await?;
        let bucket = Bucket::open(&jetstream, &self.bucket).await;
        let bucket = bucket.map_err(|error| anyhow::anyhow!("{}: {error}", self.nats))?;
        bucket.with_context(|| {
            format!(
                "{} has no bucket {}: name it with --bucket, or push a schema first",
                self.nats, self.bucket
            )
        })
    }
}

/// The store key of a schema id.
pub(super) fn key(id: &str, tenant: Option<&str>) -> Result<String, Usage> {
    let tenant = tenant.map(arqon_message::TenantId::new).transpose()?;
    arqon_schema::store_key(tenant.as_ref(), id).with_context(|| {
        format!("{id:?} is no schema id: use tokens of A-Z a-z 0-9 _ - joined by dots, not starting with t.")
    })
}

pub(super) fn failed(error: impl std::fmt::Display) -> Usage {
    anyhow::anyhow!("the bucket cannot be used: {error}")
}

pub(super) fn written_at(record: &Record) -> String {
    let since = record
        .at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    gov::utc(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn told(record: &Record) -> Value {
    json!({
        "revision": record.revision,
        "deleted": record.deleted,
        "breaking": record.breaking,
        "written_at": written_at(record),
        "bytes": record.value.len(),
    })
}

fn load(record: &Record) -> Result<Descriptors, Usage> {
    let (key, revision) = (&record.key, record.revision);
    Descriptors::decode(&record.value).with_context(|| format!("{key} revision {revision} cannot be loaded"))
}

pub(in crate::cli) async fn list(at: &At, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let bucket = at.open().await?;
    let subjects = bucket.subjects().await.map_err(failed)?;
    let mut records = bucket.last_of(subjects, &HashMap::new()).await.map_err(failed)?;
    records.retain(|record| !record.deleted);
    records.sort_by(|a, b| a.key.cmp(&b.key));
    let mut schemas = Vec::new();
    if !json && !records.is_empty() {
        writeln!(out, "{:>8}  {:<23}  {:>7}  ID", "REVISION", "WRITTEN", "BYTES")?;
    }
    for record in &records {
        let loaded = Descriptors::decode(&record.value);
        if json {
            let mut schema = told(record);
            schema["id"] = record.key.as_str().into();
            schema["problem"] = loaded.err().map(|error| error.to_string()).into();
            schemas.push(schema);
            continue;
        }
        let problem = match loaded {
            Ok(_) => String::new(),
            Err(error) => format!("  cannot be loaded: {error}"),
        };
        writeln!(
            out,
            "{:>8}  {:<23}  {:>7}  {}{problem}",
            record.revision,
            written_at(record),
            record.value.len(),
            record.key
        )?;
    }
    if json {
        writeln!(out, "{}", json!({ "bucket": at.bucket, "schemas": schemas }))?;
    } else if records.is_empty() {
        writeln!(out, "bucket {} is empty", at.bucket)?;
    }
    Ok(Outcome::Ok)
}

pub(in crate::cli) async fn get(get: &Get, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let Named { id, tenant, at } = &get.named;
    let key = key(id, tenant.as_deref())?;
    let history = at.open().await?.history(&key).await.map_err(failed)?;
    let found = match get.revision {
        Some(revision) => history
            .iter()
            .find(|record| record.revision == revision && !record.deleted),
        None => history.last().filter(|record| !record.deleted),
    };
    let Some(record) = found else {
        return not_there(&key, get.revision, &history, json, out);
    };
    if let Some(file) = &get.output {
        fs::write(file, &record.value).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    let descriptors = load(record)?;
    if json {
        let mut messages: Vec<_> = descriptors.messages().collect();
        messages.sort_unstable();
        let mut schema = told(record);
        schema["id"] = key.as_str().into();
        schema["messages"] = messages.into();
        schema["descriptor_set"] = STANDARD.encode(&record.value).into();
        schema["history"] = history.iter().map(told).collect();
        writeln!(out, "{schema}")?;
        return Ok(Outcome::Ok);
    }
    writeln!(
        out,
        "{key} revision {}, written {}, {} bytes",
        record.revision,
        written_at(record),
        record.value.len()
    )?;
    for line in descriptors.outline() {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "kept: {}", revisions(&history))?;
    Ok(Outcome::Ok)
}

fn revisions(history: &[Record]) -> String {
    let all = history.iter().map(|record| match record.deleted {
        true => format!("{} (deleted)", record.revision),
        false => record.revision.to_string(),
    });
    all.collect::<Vec<_>>().join(", ")
}

fn not_there(
    key: &str,
    revision: Option<u64>,
    history: &[Record],
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    let what = revision.map_or_else(String::new, |revision| format!(" revision {revision}"));
    let reason = match history.last() {
        None => format!("{key}{what} is not in the bucket"),
        Some(_) => format!("{key}{what} is not there; kept are {}", revisions(history)),
    };
    refused(key, &reason, json, out)
}

fn refused(key: &str, reason: &str, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    if json {
        writeln!(
            out,
            "{}",
            json!({ "id": key, "outcome": "refused", "reason": reason })
        )?;
    } else {
        writeln!(out, "refused: {reason}")?;
    }
    Ok(Outcome::Refused)
}

pub(in crate::cli) async fn diff(diff: &Diff, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let Named { id, tenant, at } = &diff.named;
    let key = key(id, tenant.as_deref())?;
    let history = at.open().await?.history(&key).await.map_err(failed)?;
    let puts: Vec<&Record> = history.iter().filter(|record| !record.deleted).collect();
    let at_revision = |wanted: u64| puts.iter().find(|record| record.revision == wanted).copied();
    let before = |at: u64| puts.iter().rev().find(|record| record.revision < at).copied();
    let (to, to_name) = match (&diff.file, diff.to) {
        (Some(file), _) => {
            let loaded = Descriptors::load(file);
            let loaded = loaded.with_context(|| format!("{} cannot be loaded", file.display()))?;
            (loaded, file.display().to_string())
        }
        (None, wanted) => {
            let record = wanted.map_or_else(|| puts.last().copied(), at_revision);
            let Some(record) = record else {
                return not_there(&key, wanted, &history, json, out);
            };
            (load(record)?, record.revision.to_string())
        }
    };
    let from = match (diff.from, to_name.parse()) {
        (Some(wanted), _) => at_revision(wanted),
        (None, Ok(newer)) if diff.file.is_none() => before(newer),
        (None, _) => puts.last().copied(),
    };
    let Some(from) = from else {
        let reason = format!(
            "there is nothing to compare with; kept are {}",
            revisions(&history)
        );
        return refused(&key, &reason, json, out);
    };
    let old = load(from)?;
    let breaks = |mode: Compatibility| mode.check(diff.profile, std::iter::once(&old), &to);
    let (backward, forward) = (breaks(Compatibility::Backward), breaks(Compatibility::Forward));
    let (was, is) = (old.outline(), to.outline());
    let (added, removed): (Vec<_>, Vec<_>) = (is.difference(&was).collect(), was.difference(&is).collect());
    if json {
        let told = json!({
            "id": key, "from": from.revision, "to": to_name, "added": added, "removed": removed,
            "breaks": { "backward": backward, "forward": forward },
        });
        writeln!(out, "{told}")?;
    } else {
        writeln!(out, "{key}: revision {} to {to_name}", from.revision)?;
        for line in &removed {
            writeln!(out, "- {line}")?;
        }
        for line in &added {
            writeln!(out, "+ {line}")?;
        }
        for (direction, breaks) in [("BACKWARD", &backward), ("FORWARD", &forward)] {
            for line in breaks {
                writeln!(out, "breaks {direction}: {line}")?;
            }
        }
        if added.is_empty() && removed.is_empty() {
            writeln!(out, "the same")?;
        }
    }
    Ok(if backward.is_empty() {
        Outcome::Ok
    } else {
        Outcome::Refused
    })
}

pub(in crate::cli) async fn rm(named: &Named, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let key = key(&named.id, named.tenant.as_deref())?;
    let bucket = named.at.open().await?;
    let last = bucket.last(&bucket.subject(&key)).await.map_err(failed)?;
    let Some(last) = last.filter(|record| !record.deleted) else {
        return refused(&key, &format!("{key} is not in the bucket"), json, out);
    };
    match bucket.delete(&key, last.revision).await {
        Ok(revision) if json => writeln!(
            out,
            "{}",
            json!({ "id": key, "outcome": "deleted", "revision": revision, "after": last.revision })
        )?,
        Ok(revision) => writeln!(
            out,
            "{key}: deleted as revision {revision}; gateways refuse its subjects with 503. `arqon schema rollback` brings \
             it back"
        )?,
        Err(error) => return unwritten(&key, error, json, out),
    }
    Ok(Outcome::Ok)
}

fn unwritten(key: &str, error: WriteError, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    match error {
        WriteError::Nats(error) => Err(failed(error)),
        refusal => refused(key, &format!("{key}: {refusal}; nothing is changed"), json, out),
    }
}

pub(in crate::cli) async fn rollback(
    rollback: &Rollback,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    let Named { id, tenant, at } = &rollback.named;
    let key = key(id, tenant.as_deref())?;
    let bucket = at.open().await?;
    let history = bucket.history(&key).await.map_err(failed)?;
    let Some(last) = history.last() else {
        return not_there(&key, rollback.to, &history, json, out);
    };
    let differs = |record: &&Record| !record.deleted && (last.deleted || record.value != last.value);
    let wanted = match rollback.to {
        Some(revision) => history
            .iter()
            .find(|record| record.revision == revision && !record.deleted),
        None => history.iter().rev().find(differs),
    };
    let Some(wanted) = wanted else {
        return not_there(&key, rollback.to, &history, json, out);
    };
    if !last.deleted && wanted.value == last.value {
        let reason = format!("{key}: revision {} is in place already", wanted.revision);
        return refused(&key, &reason, json, out);
    }
    let target = load(wanted)?;
    // For information: whoever rolls back means the break.
    let broken: Vec<Break> = match load(last) {
        Ok(current) if !last.deleted => arqon_schema::compare(Profile::default(), &current, &target),
        _ => Vec::new(),
    };
    let written = bucket.put(&key, wanted.value.clone(), last.revision, Compatibility::None);
    match written.await {
        Ok(revision) if json => writeln!(
            out,
            "{}",
            json!({
                "id": key, "outcome": "rolled_back", "revision": revision, "after": last.revision,
                "content_of": wanted.revision, "breaks": broken,
            })
        )?,
        Ok(revision) => {
            writeln!(
                out,
                "{key}: revision {revision} has the content of revision {}",
                wanted.revision
            )?;
            for line in &broken {
                writeln!(out, "  breaks, as meant: {line}")?;
            }
        }
        Err(error) => return unwritten(&key, error, json, out),
    }
    Ok(Outcome::Ok)
}
