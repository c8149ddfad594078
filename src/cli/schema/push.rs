//! `arqon schema push`: into the bucket, if it may follow what is there.

use std::{io::Write, path::PathBuf};

use arqon_schema::{Break, Compatibility, Descriptors, LoadError, Profile};
use bytes::Bytes;
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use super::{
    super::{Outcome, Usage},
    store::{At, failed, key},
};
use crate::nats::schemas::bucket::{Bucket, Record, WriteError};

#[derive(Debug, Args)]
pub(in crate::cli) struct Push {
    /// A `.proto` source or a descriptor set (also gzipped), or a folder of them: each file a schema named by its id, or with
    /// --id all `.proto` files in it one schema.
    path: PathBuf,
    /// The schema id; the file's name without its ending if it is not given.
    #[arg(long)]
    id: Option<String>,
    /// A tenant's own schema, which goes before the common one.
    #[arg(long)]
    tenant: Option<String>,
    /// How it must relate to what is there: NONE, BACKWARD, FORWARD or FULL, the last three also with _TRANSITIVE. NONE says
    /// that a break is meant: gateways take it.
    #[arg(long, value_name = "MODE", default_value = "BACKWARD")]
    compat: Compatibility,
    /// What compatible means: `wire`, `wire_json`, `strict` or `confluent`.
    #[arg(long, default_value = "wire_json")]
    profile: Profile,
    /// Says what would happen and writes nothing.
    #[arg(long)]
    dry_run: bool,
    /// How many servers keep the bucket, if it is made.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: usize,
    /// The first revision of the bucket, if it is made: above what gateways have in force, when a lost one is replaced.
    #[arg(long, value_name = "N", default_value_t = 1)]
    first_revision: u64,
    #[command(flatten)]
    at: At,
}

/// One schema on its way.
struct Item {
    key: String,
    read: Result<Vec<u8>, LoadError>,
}

/// What became of it.
enum Fate {
    Written { revision: u64, after: u64 },
    Would { after: u64 },
    Unchanged { revision: u64 },
    Breaks { after: u64, breaks: Vec<Break> },
    Refused(String),
}

pub(in crate::cli) async fn push(push: &Push, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let items = items(push)?;
    let jetstream = push.at.jetstream().await?;
    let mut bucket = Bucket::open(&jetstream, &push.at.bucket).await.map_err(failed)?;
    if bucket.is_none() && !push.dry_run {
        let made = Bucket::create(&jetstream, &push.at.bucket, push.replicas, push.first_revision);
        bucket = Some(made.await.map_err(failed)?);
    }
    let (count, mut outcome, mut told) = (items.len(), Outcome::Ok, Vec::new());
    for (at, item) in items.into_iter().enumerate() {
        let key = item.key.clone();
        let fate = one(push, bucket.as_ref(), item).await?;
        if matches!(fate, Fate::Breaks { .. } | Fate::Refused(_)) {
            outcome = Outcome::Refused;
        }
        if json {
            told.push(as_json(&key, &fate));
            continue;
        }
        if count > 1 {
            write!(out, "[{}/{count}] ", at + 1)?;
        }
        print(push, &key, &fate, out)?;
        // A folder takes a while: each line is seen when it happens.
        out.flush()?;
    }
    if json {
        let compat = json!({ "mode": push.compat, "profile": push.profile });
        writeln!(
            out,
            "{}",
            json!({ "bucket": push.at.bucket, "compatibility": compat, "schemas": told })
        )?;
    }
    Ok(outcome)
}

fn items(push: &Push) -> Result<Vec<Item>, Usage> {
    let (path, tenant) = (&push.path, push.tenant.as_deref());
    let shown = path.display();
    anyhow::ensure!(path.exists(), "{shown} is not there: name a file or a folder");
    if !path.is_dir() {
        let named = push.id.clone().or_else(|| arqon_schema::schema_id(path));
        let Some(id) = named else {
            anyhow::bail!("{shown} does not say which schema it is: give --id, or call it <schema id>.proto");
        };
        let read = arqon_schema::read_schema(path);
        return Ok(vec![Item {
            key: key(&id, tenant)?,
            read,
        }]);
    }
    if let Some(id) = &push.id {
        let read = arqon_schema::compile_folder(path);
        return Ok(vec![Item {
            key: key(id, tenant)?,
            read,
        }]);
    }
    let files = arqon_schema::schema_files(path)?;
    anyhow::ensure!(
        !files.is_empty(),
        "{shown} has no schemas: files are called <schema id>.proto or <schema id>.binpb"
    );
    let items = files.into_iter().map(|(id, paths)| {
        let read = match paths.as_slice() {
            [path] => arqon_schema::read_schema(path),
            several => {
                let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
                let problem = format!("several files for one schema id: {}", names.join(", "));
                Err(LoadError::Compile(problem))
            }
        };
        // A file's own name may say whose schema it is: t.<tenant>.<schema id>.
        let key = match (
            tenant,
            id.strip_prefix("t.").and_then(|rest| rest.split_once('.')),
        ) {
            (None, Some((owner, own))) => key(own, Some(owner))?,
            _ => key(&id, tenant)?,
        };
        Ok(Item { key, read })
    });
    items.collect()
}

async fn one(push: &Push, bucket: Option<&Bucket>, item: Item) -> Result<Fate, Usage> {
    let bytes = match item.read {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Fate::Refused(error.to_string())),
    };
    let new = match Descriptors::decode(&bytes) {
        Ok(new) => new,
        Err(error) => return Ok(Fate::Refused(error.to_string())),
    };
    let history = match bucket {
        Some(bucket) => bucket.history(&item.key).await.map_err(failed)?,
        None => Vec::new(),
    };
    let after = history.last().map_or(0, |record| record.revision);
    // What was written before a deletion binds nobody any more.
    let since = history
        .iter()
        .rposition(|record| record.deleted)
        .map_or(0, |at| at + 1);
    let older = &history[since..];
    // Somebody may say of what is there already that its break is meant.
    let says_more = |last: &Record| push.compat == Compatibility::None && !last.breaking;
    if let Some(last) = older.last().filter(|last| !says_more(last))
        && Descriptors::decode(&last.value).is_ok_and(|current| current.declares_the_same(&new))
    {
        return Ok(Fate::Unchanged {
            revision: last.revision,
        });
    }
    match breaks(push, older, &new) {
        Err(reason) => return Ok(Fate::Refused(reason)),
        Ok(breaks) if !breaks.is_empty() => return Ok(Fate::Breaks { after, breaks }),
        Ok(_) => {}
    }
    let Some(bucket) = bucket.filter(|_| !push.dry_run) else {
        return Ok(Fate::Would { after });
    };
    match bucket.put(&item.key, gzipped(bytes)?, after, push.compat).await {
        Ok(revision) => Ok(Fate::Written { revision, after }),
        Err(WriteError::Nats(error)) => Err(failed(error)),
        Err(WriteError::Conflict) => Ok(Fate::Refused(format!(
            "somebody else has pushed after revision {after}: look at `arqon schema diff`, and push again"
        ))),
        Err(error) => Ok(Fate::Refused(error.to_string())),
    }
}

/// What it breaks of the revisions that the mode compares with.
fn breaks(push: &Push, older: &[Record], new: &Descriptors) -> Result<Vec<Break>, String> {
    use Compatibility::{Backward, Forward, Full};

    if push.compat == Compatibility::None {
        return Ok(Vec::new());
    }
    let last_only = matches!(push.compat, Backward | Forward | Full);
    let skip = if last_only {
        older.len().saturating_sub(1)
    } else {
        0
    };
    let mut loaded = Vec::new();
    for record in &older[skip..] {
        let descriptors = Descriptors::decode(&record.value).map_err(|error| {
            format!(
                "revision {} cannot be loaded, so nothing can be compared with it ({error}): push with --compat NONE",
                record.revision
            )
        })?;
        loaded.push(descriptors);
    }
    Ok(push.compat.check(push.profile, loaded.iter(), new))
}

/// One gzip member, the same bytes for the same set.
fn gzipped(bytes: Vec<u8>) -> Result<Bytes, Usage> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.into());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&bytes)?;
    Ok(encoder.finish()?.into())
}

fn print(push: &Push, key: &str, fate: &Fate, out: &mut impl Write) -> Result<(), Usage> {
    let mode = format!("{}, {}", push.compat, profile(push));
    match fate {
        Fate::Written { revision, after: 0 } => writeln!(out, "{key}: revision {revision}, the first")?,
        Fate::Written { revision, after } => {
            writeln!(out, "{key}: revision {revision} after {after} ({mode})")?
        }
        Fate::Would { after: 0 } => writeln!(out, "{key}: would be the first")?,
        Fate::Would { after } => writeln!(out, "{key}: would follow revision {after} ({mode})")?,
        Fate::Unchanged { revision } => writeln!(out, "{key}: unchanged, revision {revision} says the same")?,
        Fate::Breaks { after, breaks } => {
            writeln!(
                out,
                "{key}: refused, not compatible with what revision {after} promises ({mode})"
            )?;
            for line in breaks {
                writeln!(out, "  {line}")?;
            }
        }
        Fate::Refused(reason) => writeln!(out, "{key}: refused: {reason}")?,
    }
    Ok(())
}

fn profile(push: &Push) -> String {
    let name = serde_json::to_value(push.profile).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

fn as_json(key: &str, fate: &Fate) -> Value {
    let mut told =
        json!({ "id": key, "outcome": "", "revision": null, "after": null, "breaks": [], "reason": null });
    let mut set = |outcome: &str, revision: Option<u64>, after: Option<u64>| {
        told["outcome"] = outcome.into();
        told["revision"] = revision.into();
        told["after"] = after.into();
    };
    match fate {
        Fate::Written { revision, after } => set("pushed", Some(*revision), Some(*after)),
        Fate::Would { after } => set("would_push", None, Some(*after)),
        Fate::Unchanged { revision } => set("unchanged", Some(*revision), None),
        Fate::Breaks { after, .. } => set("refused", None, Some(*after)),
        Fate::Refused(_) => set("refused", None, None),
    }
    match fate {
        Fate::Breaks { breaks, .. } => {
            told["breaks"] = json!(breaks);
            told["reason"] = "not compatible".into();
        }
        Fate::Refused(reason) => told["reason"] = reason.as_str().into(),
        Fate::Written { .. } | Fate::Would { .. } | Fate::Unchanged { .. } => {}
    }
    told
}
