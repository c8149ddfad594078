//! `arqon gov status`: what is live, since when, and why.

use std::{collections::BTreeMap, io::Write};

use arqon_rollout::{Clock, SystemClock};
use serde_json::{Value, json};

use super::{
    Outcome, Status, Usage, fold,
    print::{ago, details, pending, scope},
    runtime,
    target::Target,
};

pub(super) fn status(status: &Status, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let target = &status.target;
    if target.nats.is_none() && target.admin.len() > 1 {
        return of_each(target, json, out);
    }
    let mut rollout = match (&target.nats, &target.config) {
        (Some(url), Some(config)) => {
            runtime()?.block_on(fold::status(url, target.creds.as_deref(), config))?
        }
        (Some(url), None) => anyhow::bail!(
            "--nats {url} needs --config FILE: the keys of the gateway's configuration judge what is in the log"
        ),
        (None, _) => runtime()?.block_on(target.state())?["rollout"].take(),
    };
    choose(target, &mut rollout)?;
    if json {
        writeln!(out, "{rollout}")?;
    } else {
        print(&rollout, out)?;
    }
    Ok(Outcome::Ok)
}

/// What each of several gateways says; one that says nothing is named, and is no success.
fn of_each(target: &Target, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let (mut rows, mut outcome) = (Vec::new(), Outcome::Ok);
    let mut first_keys = BTreeMap::<String, Vec<String>>::new();
    for (url, state) in runtime()?.block_on(target.states()) {
        let rollout = state.and_then(|mut state| {
            let mut rollout = state["rollout"].take();
            choose(target, &mut rollout).map(|()| rollout)
        });
        if let Ok(rollout) = &rollout
            && let Some(digest) = rollout["first_keys"].as_str().filter(|digest| !digest.is_empty())
        {
            first_keys.entry(digest.to_owned()).or_default().push(url.clone());
        }
        let row = match rollout {
            Ok(rollout) if !json => {
                writeln!(out, "{url}")?;
                print(&rollout, out)?;
                continue;
            }
            Ok(rollout) => json!({ "target": url, "rollout": rollout }),
            Err(error) => {
                outcome = Outcome::Refused;
                if !json {
                    writeln!(out, "{url}\n{error:#}")?;
                }
                json!({ "target": url, "error": format!("{error:#}") })
            }
        };
        rows.push(row);
    }
    let differ = first_keys.len() > 1;
    if differ {
        outcome = Outcome::Refused;
    }
    if json {
        writeln!(
            out,
            "{}",
            json!({ "gateways": rows, "first_keys_differ": differ })
        )?;
    } else if differ {
        writeln!(out, "{}", told_apart(&first_keys))?;
    }
    Ok(outcome)
}

/// What is said of gateways that do not begin with the same keys.
fn told_apart(first_keys: &BTreeMap<String, Vec<String>>) -> String {
    let mut text = "the `keys`, `stop_keys`, `node_keys` or `threshold` of these configurations differ: if they follow one log, \
                    they make two states of it"
        .to_owned();
    for (digest, urls) in first_keys {
        text.push_str(&format!("\n  {digest}: {}", urls.join(", ")));
    }
    text
}

/// Leaves the tenant that was asked for, if one was.
fn choose(target: &Target, rollout: &mut Value) -> Result<(), Usage> {
    if let Some(chosen) = target.chosen_tenant() {
        let tenants = rollout["tenants"].as_array_mut();
        let all = tenants.map(std::mem::take).unwrap_or_default();
        rollout["tenants"] = vec![of_tenant(&all, chosen)?.clone()].into();
    }
    Ok(())
}

fn print(rollout: &Value, out: &mut impl Write) -> Result<(), Usage> {
    let tenants = rollout["tenants"].as_array().map_or(&[][..], Vec::as_slice);
    if tenants.is_empty() {
        writeln!(out, "no rollouts: [platform.rollout] is off")?;
    }
    for tenant in tenants {
        print_tenant(tenant, rollout, out)?;
    }
    Ok(())
}

/// The tenant that was asked for.
pub(super) fn of_tenant<'a>(tenants: &'a [Value], chosen: &str) -> Result<&'a Value, Usage> {
    let found = tenants.iter().find(|of| of["tenant"] == chosen);
    found.ok_or_else(|| {
        let names: Vec<_> = tenants.iter().filter_map(|of| of["tenant"].as_str()).collect();
        match names.is_empty() {
            true => anyhow::anyhow!("no rollouts: [platform.rollout] is off"),
            false => anyhow::anyhow!(
                "tenant `{chosen}` has no rollouts there, as platform.rollout.tenants has it: {} have",
                names.join(", ")
            ),
        }
    })
}

/// What holds a tenant: what holds the whole gateway, and what holds it alone. Of another tenant nothing is said.
fn holds<'a>(tenant: &'a Value, rollout: &'a Value) -> impl Iterator<Item = &'a str> {
    let node = rollout["hold"].as_str().filter(|_| rollout["hold_of"].is_null());
    node.into_iter().chain(tenant["hold"].as_str())
}

fn print_tenant(tenant: &Value, rollout: &Value, out: &mut impl Write) -> Result<(), Usage> {
    let now_us = SystemClock::new().now_us();
    writeln!(
        out,
        "tenant {}: key set {}, catalog {}, position {} of the log, {}",
        tenant["tenant"].as_str().unwrap_or_default(),
        tenant["epoch"],
        tenant["catalog_version"],
        tenant["seq"],
        rollout["contact_age_us"].as_u64().map_or_else(
            || "not read yet".to_owned(),
            |age| format!("read {} ago", ago(age))
        ),
    )?;
    for hold in holds(tenant, rollout) {
        writeln!(out, "  held: {hold}")?;
    }
    if let Some(alone) = tenant["alone"].as_u64().filter(|alone| *alone > 0) {
        writeln!(
            out,
            "  {alone} stops or pauses hold on this gateway alone: the log has not taken them; send them to every gateway, or resume"
        )?;
    }
    for of in tenant["scopes"].as_array().into_iter().flatten() {
        writeln!(out, "  {}", scope(of, now_us))?;
        for line in details(of, &tenant["orders"]) {
            writeln!(out, "    {line}")?;
        }
    }
    for waiting in tenant["pending"].as_array().into_iter().flatten() {
        writeln!(out, "  {}", pending(waiting, now_us))?;
    }
    for decision in tenant["decisions"].as_array().into_iter().flatten().rev().take(5) {
        writeln!(out, "  {}", super::print::decision(decision))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_shown_under_the_tenant_it_belongs_to_and_of_the_whole_gateway_under_each() {
        let tenants = json!([
            { "tenant": "a", "seq": 7, "hold": null },
            { "tenant": "b", "seq": 3, "hold": "b waits" },
        ]);
        let shown = |hold: &str, of: Value| {
            let rollout = json!({ "seq": 3, "hold": hold, "hold_of": of, "tenants": tenants });
            let mut out = Vec::new();
            print(&rollout, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let alone = shown("b waits", json!("b"));
        let (a, b) = alone.split_once("tenant b").unwrap();
        assert!(a.contains("position 7 of the log") && !a.contains("held"), "{a}");
        assert!(
            b.contains("position 3 of the log") && b.matches("held: b waits").count() == 1,
            "{b}"
        );
        let all = shown("a gap", Value::Null);
        assert_eq!(all.matches("held: a gap").count(), 2, "{all}");
        assert_eq!(all.matches("held: b waits").count(), 1, "{all}");
    }
}
