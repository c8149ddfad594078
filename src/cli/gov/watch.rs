//! `arqon gov watch`: what changes, as it does.

use std::{collections::BTreeMap, io::Write, time::Duration};

use arqon_rollout::{Clock, SystemClock};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Outcome, Usage, Watch,
    print::{scope, utc},
    runtime,
    status::of_tenant,
};

/// How often the gateway is asked.
const EVERY: Duration = Duration::from_millis(500);
/// A share that moved by less is not told, in percent.
const STEP: f64 = 0.1;

pub(super) fn watch(watch: &Watch, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    match &watch.target.nats {
        Some(url) => log(url, watch, json, out),
        None => runtime()?.block_on(gateway(watch, json, out)),
    }
}

/// What is told of a scope: everything but its share, and the share.
type Seen = (String, f64);

async fn gateway(watch: &Watch, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut lines = 0;
    loop {
        let state = watch.target.state().await?;
        let now_us = SystemClock::new().now_us();
        let tenants = state["rollout"]["tenants"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let name = watch.target.tenant();
        let tenant = of_tenant(tenants, name)?;
        for of in tenant["scopes"].as_array().into_iter().flatten() {
            if !moved(&mut seen, of) {
                continue;
            }
            if json {
                writeln!(out, "{}", json!({ "at_us": now_us, "tenant": name, "scope": of }))?;
            } else {
                writeln!(out, "{} {name} {}", utc(now_us), scope(of, now_us))?;
            }
            out.flush()?;
            lines += 1;
            if watch.lines.is_some_and(|most| lines >= most) {
                return Ok(Outcome::Ok);
            }
        }
        sleep(EVERY).await;
    }
}

/// Whether a scope is another than when it was told last.
fn moved(seen: &mut BTreeMap<String, Seen>, scope: &Value) -> bool {
    let keys = [
        "phase", "rollout", "parked", "latched", "guarded", "since_us", "baseline", "held_by",
    ];
    let told: Vec<&Value> = keys.iter().map(|key| &scope[*key]).collect();
    let told = json!(told).to_string();
    let percent = scope["percent"].as_f64().unwrap_or_default();
    let name = scope["scope"].as_str().unwrap_or_default().to_owned();
    let same = seen
        .get(&name)
        .is_some_and(|(before, at)| *before == told && (percent - at).abs() < STEP);
    if !same {
        seen.insert(name, (told, percent));
    }
    !same
}

/// The messages of the log and the reports of the nodes, as they are published; nothing is verified.
#[cfg(feature = "nats")]
fn log(url: &str, watch: &Watch, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    use arqon_message::TenantId;
    use arqon_rollout::Envelope;
    use futures_util::StreamExt;

    let tenant = TenantId::new(watch.target.tenant())?;
    runtime()?.block_on(async {
        let client = super::target::connect(url, watch.target.creds.as_deref()).await?;
        let mut messages = client.subscribe(format!("gov.t.{tenant}.>")).await?;
        let mut lines = 0;
        while watch.lines.is_none_or(|most| lines < most) {
            let Some(message) = messages.next().await else {
                break;
            };
            let subject = message.subject.as_str();
            let said = match Envelope::parse(&message.payload)
                .and_then(|envelope| Ok((envelope.control()?, envelope)))
            {
                Ok((control, envelope)) => {
                    let keyids: Vec<_> = envelope
                        .signatures()
                        .iter()
                        .filter_map(|sig| sig.keyid.clone())
                        .collect();
                    json!({ "signed_as": keyids, "counter": control.counter, "message": control.message })
                }
                Err(_) => serde_json::from_slice(&message.payload)
                    .unwrap_or_else(|_| json!({ "unreadable_bytes": message.payload.len() })),
            };
            if json {
                writeln!(out, "{}", json!({ "subject": subject, "said": said }))?;
            } else {
                writeln!(out, "{} {subject} {said}", utc(SystemClock::new().now_us()))?;
            }
            out.flush()?;
            lines += 1;
        }
        Ok(Outcome::Ok)
    })
}

#[cfg(not(feature = "nats"))]
fn log(url: &str, _watch: &Watch, _json: bool, _out: &mut impl Write) -> Result<Outcome, Usage> {
    anyhow::bail!("--nats {url}: this program was built without the feature `nats`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_moved_is_told() {
        let mut seen = BTreeMap::new();
        let at = |phase: &str, percent: f64| json!({ "scope": "", "phase": phase, "percent": percent });
        assert!(moved(&mut seen, &at("ramping", 5.0)));
        assert!(!moved(&mut seen, &at("ramping", 5.05)));
        assert!(moved(&mut seen, &at("ramping", 5.2)));
        assert!(moved(&mut seen, &at("stopped", 0.0)));
        assert!(!moved(&mut seen, &at("stopped", 0.0)));
    }
}
