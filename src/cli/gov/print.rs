//! Rollouts for people.

use std::{fmt::Write as _, time::Duration};

use serde_json::Value;

use super::deliver::named;

/// What one line of a scope says: its state, share and why.
pub(super) fn scope(scope: &Value, now_us: u64) -> String {
    let text = |key: &str| scope[key].as_str().unwrap_or_default();
    let name = match text("scope") {
        "" => "whole tenant",
        pattern => pattern,
    };
    let mut line = format!("{name}: {}", text("phase"));
    let rollout = &scope["rollout"];
    if rollout.is_object() {
        let _ = write!(
            line,
            " {:.2} % {} ({})",
            scope["percent"].as_f64().unwrap_or_default(),
            rollout["variant_name"].as_str().unwrap_or_default(),
            rollout["variant"]
        );
    } else if let Some(joins) = scope["joins"].as_str() {
        let _ = write!(line, ", part of the rollout of {}", named(joins));
        if let Some(percent) = scope["percent"].as_f64().filter(|_| text("phase") == "paused") {
            let _ = write!(line, ", held at {percent:.2} %");
        }
    } else {
        let _ = write!(line, ", everyone gets {}", scope["baseline"]);
    }
    if let Some(since) = scope["since_us"].as_u64().filter(|since| *since > 0) {
        let _ = write!(
            line,
            ", since {} ({} ago)",
            utc(since),
            ago(now_us.saturating_sub(since))
        );
    }
    let by = names(&scope["by"]);
    if !by.is_empty() {
        let _ = write!(line, ", by {by}");
    }
    if !text("reason").is_empty() {
        let _ = write!(line, ": {}", text("reason"));
    }
    if scope["latched"] == true {
        let _ = write!(line, " [{} on this node, ahead of the log]", text("phase"));
    }
    if scope["durable"] == false {
        line.push_str(" [not on disk: it would not survive a restart of this gateway]");
    }
    if scope["guarded"] == true {
        line.push_str(" [lowered by the guard]");
    }
    line
}

/// The lines below it: the orders that hold it, of its tenant's `orders`, the ramp, who approved, the figures.
pub(super) fn details(scope: &Value, orders: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for held in scope["held_by"].as_array().into_iter().flatten() {
        let named = |of: &&Value| {
            ["brake", "scope", "latched"]
                .iter()
                .all(|key| of[*key] == held[*key])
        };
        let order = orders.as_array().into_iter().flatten().find(named);
        lines.push(held_by(order.unwrap_or(held)));
    }
    for (label, rollout) in [("runs", &scope["rollout"]), ("parked", &scope["parked"])] {
        if !rollout.is_object() {
            continue;
        }
        let config = &rollout["config"];
        let mut line = format!(
            "{label} {}: {} % + {} a minute to {} %, approved by {} {}",
            rollout["proposal_id"].as_str().unwrap_or_default(),
            config["initial_percent"],
            config["increment_per_minute"],
            config["max_percent"],
            names(&rollout["approved_by"]),
            utc(rollout["approved_at_us"].as_u64().unwrap_or_default()),
        );
        if let Some(until) = rollout["until_us"].as_u64() {
            let _ = write!(line, ", until {}", utc(until));
        }
        lines.push(line);
        lines.push(rollout["digest"].as_str().unwrap_or_default().to_owned());
    }
    let cohorts = &scope["cohorts"];
    if cohorts.is_object() {
        lines.push(format!(
            "served since it began: {} the variant, {} the baseline",
            cohorts["canary"], cohorts["baseline"]
        ));
    }
    let guard = &scope["guard"];
    if guard.is_object() {
        let side = |of: &Value| {
            let figure = |name: &str| of[name].as_f64().unwrap_or_default();
            format!(
                "{} answers, {:.3} % errors, p99 {:.2} ms",
                of["requests"],
                figure("error_rate") * 100.0,
                figure("latency_p99") * 1e3
            )
        };
        lines.push(format!(
            "guard, last window: {}; variant {}; baseline {}",
            guard["verdict"].as_str().unwrap_or_default(),
            side(&guard["canary"]),
            side(&guard["baseline"])
        ));
    }
    lines
}

/// An order that stops or pauses a scope, and what ends it.
fn held_by(order: &Value) -> String {
    let text = |key: &str| order[key].as_str().unwrap_or_default();
    let mut line = format!("{} for {}", text("brake"), named(text("scope")));
    let by = names(&order["by"]);
    if !by.is_empty() {
        let _ = write!(line, ", by {by}");
    }
    if let Some(since) = order["since_us"].as_u64().filter(|since| *since > 0) {
        let _ = write!(line, " {}", utc(since));
    }
    if !text("reason").is_empty() {
        let _ = write!(line, ": {}", text("reason"));
    }
    if let Some(refused) = order["refused"].as_str() {
        let _ = write!(
            line,
            " [on this gateway alone: the log has not taken it, {refused}]"
        );
    }
    let _ = match text("scope") {
        "" => write!(line, "; `gov resume` ends it"),
        pattern => write!(line, "; `gov resume --scope '{pattern}'` ends it"),
    };
    line
}

/// A proposal that waits.
pub(super) fn pending(pending: &Value, now_us: u64) -> String {
    let text = |key: &str| pending[key].as_str().unwrap_or_default();
    let left = pending["expires_at_us"]
        .as_u64()
        .unwrap_or_default()
        .saturating_sub(now_us);
    let variant = pending["variant"].as_u64().map_or_else(
        || "parameters of the baseline".to_owned(),
        |id| format!("variant {id}"),
    );
    format!(
        "pending {}: {variant}, proposed by {}, {} left, {}: {}",
        text("id"),
        text("issuer"),
        ago(left),
        text("digest"),
        text("reason")
    )
}

/// Something that was decided.
pub(super) fn decision(decision: &Value) -> String {
    let text = |key: &str| decision[key].as_str().unwrap_or_default();
    let mut line = format!(
        "decided at {}: {} by {}",
        utc(decision["at_us"].as_u64().unwrap_or_default()),
        text("kind"),
        names(&decision["by"])
    );
    for (label, key) in [("", "proposal_id"), ("in ", "scope"), ("", "reason")] {
        if !text(key).is_empty() {
            let _ = write!(line, ", {label}{}", text(key));
        }
    }
    if decision["widened"] == true {
        line.push_str(" [for the whole tenant, for want of room]");
    }
    line
}

fn names(list: &Value) -> String {
    let names = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    names.collect::<Vec<_>>().join(" and ")
}

/// A time as people say it.
pub(super) fn ago(micros: u64) -> String {
    let seconds = Duration::from_micros(micros).as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Microseconds since the Unix epoch as `2026-11-21 07:15:02 UTC` (civil from days, Howard Hinnant's algorithm).
pub(in crate::cli) fn utc(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC",
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_civil() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_700_000_000, "2023-11-14 22:13:20 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds * 1_000_000), text);
        }
        assert_eq!(
            (ago(61_000_000), ago(7_100_000_000)),
            ("61 s".to_owned(), "118 min".to_owned())
        );
    }

    #[test]
    fn each_order_that_holds_a_scope_is_told_with_what_ends_it() {
        let named =
            |scope: &str, latched: bool| json!({ "brake": "stop", "scope": scope, "latched": latched });
        let of = |scope: &str, latched: bool, reason: &str, refused: Option<&str>| {
            let mut order = named(scope, latched);
            let more = json!({ "by": ["sre-1"], "since_us": 0, "reason": reason, "refused": refused });
            order
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            order
        };
        let orders = json!([
            of("", false, "fire", None),
            of("in.t.t.a.>", false, "", None),
            of("in.t.t.a.>", true, "", Some("stale: late"))
        ]);
        let held =
            json!({ "held_by": [named("", false), named("in.t.t.a.>", true), named("in.t.t.a.>", false)] });
        assert_eq!(
            details(&held, &orders),
            [
                "stop for the whole tenant, by sre-1: fire; `gov resume` ends it",
                "stop for in.t.t.a.>, by sre-1 [on this gateway alone: the log has not taken it, stale: late]; \
                 `gov resume --scope 'in.t.t.a.>'` ends it",
                "stop for in.t.t.a.>, by sre-1; `gov resume --scope 'in.t.t.a.>'` ends it",
            ]
        );
    }

    #[test]
    fn a_scope_says_what_is_live_since_when_and_why() {
        let stopped = json!({
            "scope": "", "phase": "stopped", "percent": 0.0, "baseline": 1, "rollout": null, "parked": null,
            "latched": true, "durable": false, "guarded": false, "since_us": 1_700_000_000_000_000_u64, "reason": "fire", "by": ["sre-1"],
        });
        assert_eq!(
            scope(&stopped, 1_700_000_030_000_000),
            "whole tenant: stopped, everyone gets 1, since 2023-11-14 22:13:20 UTC (30 s ago), by sre-1: fire \
             [stopped on this node, ahead of the log] [not on disk: it would not survive a restart of this gateway]"
        );
    }
}
