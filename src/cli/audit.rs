//! `arqon audit`

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use super::{Outcome, Usage};
use crate::audit::{self, BrokenAudit};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Checks a trail from its first entry to its last, the files put aside included; names the first bad entry.
    Verify(Verify),
    /// Takes the end of a trail as it is and keeps its head beside it: for a trail of an older version, or once the loss of its
    /// end was looked into. The gateway must not run.
    Seal {
        /// The trail, such as `audit.jsonl`.
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// The trail, such as `audit.jsonl`.
    file: PathBuf,
    /// A head that was kept elsewhere, as `<lines>:<hash>`: the trail has to hold it.
    #[arg(long, value_name = "LINES:HASH", value_parser = head)]
    head: Option<(u64, String)>,
    /// Compares with the head that `--node` exported to this server.
    #[arg(long, value_name = "URL", requires = "node")]
    nats: Option<String>,
    /// Whose trail it is: the gateway's `platform.rollout.node_id`.
    #[arg(long, value_name = "NODE", requires = "nats")]
    node: Option<String>,
    /// Takes a trail whose first entries are in files that are not here; else they are missing.
    #[arg(long)]
    partial: bool,
    /// Takes a trail without the head that is kept beside it (`FILE.head`), and without any other: whether its end was cut off
    /// is not known then.
    #[arg(long)]
    no_head: bool,
}

fn head(text: &str) -> Result<(u64, String), String> {
    let wrong = || format!("`{text}` is no head: write <lines>:<64 hex digits>, as `audit verify` prints it");
    let (lines, hash) = text.split_once(':').ok_or_else(wrong)?;
    let hex = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    match lines.parse() {
        Ok(lines) if hex => Ok((lines, hash.to_ascii_lowercase())),
        _ => Err(wrong()),
    }
}

pub(super) fn verify(verify: &Verify, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let path = &verify.file;
    anyhow::ensure!(
        audit::is_there(path) || audit::has_head(path),
        "{} is not a file: name the trail of platform.rollout.audit.path",
        path.display()
    );
    let mut wanted: Vec<(u64, String)> = verify.head.iter().cloned().collect();
    if let (Some(url), Some(node)) = (&verify.nats, &verify.node) {
        let exported = exported(url, node)?;
        let exported = exported
            .with_context(|| format!("no head of node `{node}` was exported to {url}: is it its node_id?"))?;
        wanted.push(exported);
    }
    let broken = |index: u64, what: &str, out: &mut dyn Write| -> Result<Outcome, Usage> {
        if json {
            let report = json!({ "ok": false, "file": path, "index": index, "what": what });
            writeln!(out, "{report}")?;
        } else {
            writeln!(out, "{}: entry {index} {what}", path.display())?;
        }
        Ok(Outcome::Refused)
    };
    let verified = match audit::verify(path) {
        Ok(verified) => verified,
        Err(BrokenAudit::Entry { index, what, .. }) => return broken(index, what, out),
        Err(error @ (BrokenAudit::Io { .. } | BrokenAudit::Headless { .. })) => return Err(error.into()),
    };
    let (first, lines, hash, torn) = verified.map_or((0, 0, "-".repeat(64), 0), |found| {
        (
            found.first,
            found.head.lines,
            found.head.to_hex(),
            found.torn_bytes,
        )
    });
    if first > 0 && !verify.partial {
        let what = format!(
            "is missing: the trail starts at entry {first}; put the files put aside before it beside it, or pass --partial"
        );
        return broken(0, &what, out);
    }
    if wanted.is_empty() && lines > 0 && !verify.no_head && !audit::has_head(path) {
        let what = format!(
            "may not be the last: {}.head is not here, which tells; put it beside the trail, or pass --head, --nats with --node, \
             or --no-head",
            path.display()
        );
        return broken(lines - 1, &what, out);
    }
    for (at, expected) in wanted {
        if !audit::holds(path, at, &expected)? {
            let what = format!(
                "is not the one that was exported ({expected}): the end was cut off or replaced, {lines} entries are here"
            );
            // The first that is missing, or the one that is another.
            return broken(lines.min(at.saturating_sub(1)), &what, out);
        }
    }
    if json {
        let report = json!({
            "ok": true, "file": path, "first": first, "entries": lines, "head": hash, "torn_bytes": torn,
        });
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "{}: entries {first} to {lines}, unbroken", path.display())?;
        writeln!(out, "head {lines}:{hash}")?;
        if first > 0 {
            writeln!(out, "the entries before {first} are in files that are not here")?;
        }
        if torn > 0 {
            writeln!(
                out,
                "{torn} bytes at the end are of a write that was torn; it was never acknowledged"
            )?;
        }
    }
    Ok(Outcome::Ok)
}

pub(super) fn seal(file: &Path, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let head = match audit::seal(file) {
        Ok(head) => head,
        Err(error @ BrokenAudit::Entry { .. }) => {
            let report = json!({ "ok": false, "file": file, "what": error.to_string() });
            let text = format!("{error}: a broken trail is not sealed");
            writeln!(out, "{}", if json { report.to_string() } else { text })?;
            return Ok(Outcome::Refused);
        }
        Err(error) => return Err(error.into()),
    };
    let (lines, hash) = (head.lines, head.to_hex());
    if json {
        writeln!(
            out,
            "{}",
            json!({ "ok": true, "file": file, "entries": lines, "head": hash })
        )?;
    } else {
        writeln!(
            out,
            "{}: ends with {lines} entries\nhead {lines}:{hash}",
            file.display()
        )?;
    }
    Ok(Outcome::Ok)
}

#[cfg(feature = "nats")]
fn exported(url: &str, node: &str) -> Result<Option<(u64, String)>, Usage> {
    use arqon_rollout::NodeId;

    let node = NodeId::new(node)?;
    let runtime = super::gov::runtime()?;
    runtime.block_on(async {
        let client = super::gov::target::connect(url, None).await?;
        let head = crate::nats::heads::exported(&client, &node).await;
        let head = head
            .map_err(|error| anyhow::anyhow!("{url}: the bucket of audit heads cannot be read: {error}"))?;
        Ok(head.map(|head| (head.lines, head.hash)))
    })
}

#[cfg(not(feature = "nats"))]
fn exported(url: &str, _node: &str) -> Result<Option<(u64, String)>, Usage> {
    anyhow::bail!("--nats {url}: this program was built without the feature `nats`")
}
