//! Sends what was signed, signs it anew where its counter was overtaken, and says what became of it.

use std::io::Write;

use arqon_rollout::{Control, DownstreamMessage, EnforcementAction, Envelope, KeyPair, Message};
use serde_json::{Value, json};

use super::{
    Outcome, Usage, runtime,
    target::{Delivery, Sent, Target},
};

/// How often a message is signed anew when others were faster.
const AGAIN: usize = 3;

/// A signed message.
pub(super) struct Letter {
    pub(super) envelope: Envelope,
    /// What it is signed anew from, when the counter was not chosen by hand and nobody else has to sign.
    pub(super) draft: Option<(Control, Vec<KeyPair>)>,
    /// What else there is to say of it.
    pub(super) note: Option<String>,
}

/// Why a message was signed anew.
#[derive(Clone, Copy)]
enum Anew {
    /// With this counter.
    Counter(u64),
    /// At the log's time; by so many microseconds the clock of this machine is ahead of it.
    Clock(i64),
}

impl Letter {
    /// The same stop or pause with the next counter after `last`. Anything else may loosen what was decided since: whoever
    /// signs it has to look first.
    fn after(&mut self, last: u64) -> Result<bool, Usage> {
        let Some((control, keys)) = &mut self.draft else {
            return Ok(false);
        };
        if !brakes(control) {
            return Ok(false);
        }
        control.counter = last.saturating_add(1);
        self.envelope = control.sign(&keys.iter().collect::<Vec<_>>())?;
        Ok(true)
    }

    /// The same stop or pause as signed at the log's time, and how far it was ahead of that; None for anything else.
    fn at(&mut self, log_time_us: u64) -> Result<Option<i64>, Usage> {
        let Some((control, keys)) = &mut self.draft else {
            return Ok(None);
        };
        if !brakes(control) {
            return Ok(None);
        }
        let valid_us = control.expires_at_us.saturating_sub(control.issued_at_us);
        let ahead = control.issued_at_us as i128 - i128::from(log_time_us);
        control.issued_at_us = log_time_us;
        control.counter = log_time_us;
        control.expires_at_us = log_time_us.saturating_add(valid_us);
        self.envelope = control.sign(&keys.iter().collect::<Vec<_>>())?;
        Ok(Some(i64::try_from(ahead).unwrap_or(i64::MAX)))
    }
}

/// Whether a message can only hold back.
fn brakes(control: &Control) -> bool {
    matches!(
        &control.message,
        Message::Downstream(DownstreamMessage::Enforce {
            action: EnforcementAction::EmergencyStop | EnforcementAction::PauseAdaptation,
            ..
        })
    )
}

/// The counter that a target says its issuer has come to.
fn overtaken(sent: &Sent) -> Option<u64> {
    match &sent.outcome {
        Delivery::Refused { last, .. } => *last,
        Delivery::Taken(_) | Delivery::Folded { .. } | Delivery::Logged { .. } | Delivery::Failed(_) => None,
    }
}

/// The log's time, where a target refused the message for the signer's clock.
fn by_the_clock(sent: &Sent) -> Option<u64> {
    match &sent.outcome {
        Delivery::Refused { log_time_us, .. } => *log_time_us,
        Delivery::Taken(_) | Delivery::Folded { .. } | Delivery::Logged { .. } | Delivery::Failed(_) => None,
    }
}

/// Whether the message holds: at every target that was named, or in the log that they read. None: the log has it, and nobody
/// has judged it.
fn accepted(sent: &[Sent]) -> Option<bool> {
    let any = |is: fn(&Delivery) -> bool| sent.iter().any(|sent| is(&sent.outcome));
    if any(|outcome| matches!(outcome, Delivery::Refused { .. })) {
        return Some(false);
    }
    let failed = any(|outcome| matches!(outcome, Delivery::Failed(_)));
    let taken = any(|outcome| matches!(outcome, Delivery::Taken(_)));
    let logged = any(|outcome| matches!(outcome, Delivery::Logged { .. }));
    if any(|outcome| matches!(outcome, Delivery::Folded { .. })) || (taken && !failed) {
        return Some(true);
    }
    if logged { None } else { Some(false) }
}

/// Sends a letter to every target, and says what became of it.
pub(super) fn deliver(
    mut letter: Letter,
    target: &Target,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    let mut sent = runtime()?.block_on(target.send(&letter.envelope, |_| true))?;
    let mut anew = None;
    for _ in 0..AGAIN {
        let clock = sent.iter().filter_map(by_the_clock).max();
        let counter = sent.iter().filter_map(overtaken).max();
        let next = match (clock, counter) {
            // Once: a log whose time runs away is nothing that signing helps.
            (Some(log_time_us), _) if !matches!(anew, Some(Anew::Clock(_))) => {
                letter.at(log_time_us)?.map(Anew::Clock)
            }
            (_, Some(last)) => letter
                .after(last)?
                .then_some(Anew::Counter(last.saturating_add(1))),
            _ => None,
        };
        if next.is_none() {
            break;
        }
        anew = next;
        // Who has taken the first one keeps it.
        let refused = |sent: &Sent| overtaken(sent).or(by_the_clock(sent)).is_some();
        let late: Vec<bool> = sent.iter().map(refused).collect();
        let again = runtime()?.block_on(target.send(&letter.envelope, |at| late[at]))?;
        let late = sent.iter_mut().zip(late).filter(|(_, late)| *late);
        for ((before, _), next) in late.zip(again) {
            *before = next;
        }
    }
    let taken = accepted(&sent);
    if json {
        let rows: Vec<Value> = sent.iter().map(row).collect();
        writeln!(
            out,
            "{}",
            json!({ "accepted": taken, "signed_anew": anew.is_some(), "note": letter.note, "targets": rows })
        )?;
    } else {
        for sent in &sent {
            writeln!(out, "{}", line(sent))?;
        }
        if let Some(note) = &letter.note {
            writeln!(out, "{note}")?;
        }
        if let Some(anew) = anew {
            writeln!(out, "{}", said(anew))?;
        } else if let Some(last) = sent.iter().filter_map(overtaken).max() {
            writeln!(
                out,
                "something was decided after this was signed, or by a clock that is ahead: look at `gov status`, and if it is \
                 still wanted sign it with --counter {}",
                last.saturating_add(1)
            )?;
        }
        if sent.len() > 1 {
            let held = sent
                .iter()
                .filter(|sent| matches!(sent.outcome, Delivery::Taken(_) | Delivery::Folded { .. }));
            writeln!(
                out,
                "accepted by {} of {} that were named",
                held.count(),
                sent.len()
            )?;
        }
    }
    Ok(match taken {
        Some(true) => Outcome::Ok,
        Some(false) => Outcome::Refused,
        None => Outcome::Unjudged,
    })
}

fn said(anew: Anew) -> String {
    match anew {
        Anew::Counter(counter) => format!(
            "signed anew with counter {counter}: the one before was used by somebody whose clock is ahead of this one"
        ),
        Anew::Clock(ahead_us) => format!(
            "signed anew at the log's time: the clock it was signed by is {} s {} it; set it right",
            ahead_us.unsigned_abs() / 1_000_000,
            if ahead_us < 0 { "behind" } else { "ahead of" }
        ),
    }
}

fn row(sent: &Sent) -> Value {
    let target = &sent.target;
    match &sent.outcome {
        Delivery::Taken(taken) => {
            let mut row = taken.clone();
            row["target"] = json!(target);
            row["accepted"] = json!(true);
            row
        }
        Delivery::Folded { seq, state, holds } => json!({
            "target": target, "accepted": true, "seq": seq, "state": state, "durable": true, "holds": holds,
        }),
        Delivery::Logged { seq, why } => json!({
            "target": target, "accepted": null, "seq": seq, "state": null, "durable": true, "detail": why,
        }),
        Delivery::Refused {
            reason,
            detail,
            last,
            log_time_us,
        } => json!({
            "target": target, "accepted": false, "reason": reason, "detail": detail, "last_counter": last,
            "log_time_us": log_time_us,
        }),
        Delivery::Failed(error) => json!({ "target": target, "accepted": false, "error": error }),
    }
}

/// A scope for people.
pub(super) fn named(scope: &str) -> &str {
    if scope.is_empty() {
        "the whole tenant"
    } else {
        scope
    }
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn names(scopes: &[&str]) -> String {
    scopes
        .iter()
        .map(|scope| named(scope))
        .collect::<Vec<_>>()
        .join(", ")
}

fn line(sent: &Sent) -> String {
    let target = &sent.target;
    match &sent.outcome {
        Delivery::Taken(taken) => taken_line(target, taken),
        Delivery::Folded { seq, state, holds } => {
            let mut line = format!("{target}: in force by the log, {state}, position {seq}");
            if !holds.is_empty() {
                let holds: Vec<&str> = holds.iter().map(String::as_str).collect();
                line.push_str(&format!("\n  with it: {}", names(&holds)));
            }
            line
        }
        Delivery::Logged { seq, why } => format!(
            "{target}: in the log at {seq}, not judged here{}: with --config FILE, the gateway's, it is; `gov status --admin` \
             shows what a gateway made of it",
            why.as_ref().map_or_else(String::new, |why| format!(" ({why})"))
        ),
        Delivery::Refused { reason, detail, .. } => format!("{target}: refused, {reason}: {detail}"),
        Delivery::Failed(error) => format!("{target}: {error}"),
    }
}

/// What a gateway's answer says.
fn taken_line(target: &str, taken: &Value) -> String {
    let state = taken["state"].as_str().unwrap_or_default();
    let what = match taken["seq"].as_u64() {
        _ if taken["duplicate"] == true => format!("had it already, the state is {state}"),
        Some(seq) if taken["judged"] == false => format!(
            "in force here, {state}; the log has it at position {seq}, and this gateway has not judged it: the log may refuse it, see \
             `gov status`"
        ),
        Some(seq) => format!("in force, {state}, position {seq} of the log"),
        None => format!("in force here, {state}; the log does not have it yet, the gateway goes on with it"),
    };
    let kept = if taken["durable"] == true {
        ""
    } else {
        "; NOT on disk: it would not survive a restart of this gateway"
    };
    let mut line = format!("{target}: {what}{kept}");
    let reach = &taken["reach"];
    if reach.is_object() {
        let scopes = texts(&reach["scopes"]);
        let found = match (scopes.is_empty(), reach["within"].as_str()) {
            (false, _) => format!("it holds {}", names(&scopes)),
            (true, Some(within)) if state == "paused" => format!(
                "no rollout has this scope; its subjects are part of {}, and are held where they are",
                named(within)
            ),
            (true, Some(within)) => format!(
                "no rollout has this scope; its subjects were part of {}, and get the baseline now",
                named(within)
            ),
            (true, None) => {
                "nothing is rolled out in this scope; what comes later is held, too. Is it the one you mean? \
                             `gov status` names those in use"
                    .to_owned()
            }
        };
        line.push_str(&format!("\n  {found}"));
    }
    if taken["widened"] == true {
        line.push_str(
            "\n  there was no room for one more scope with an order of its own: it holds the whole tenant, until `gov resume`",
        );
    }
    for scope in texts(&taken["held"]) {
        line.push_str(&match scope {
            "" => "\n  an order for the whole tenant goes on holding some of it: `gov resume` ends it"
                .to_owned(),
            scope => format!(
                "\n  what was ordered for {scope} stays as it is: `gov resume --scope '{scope}'` ends it"
            ),
        });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(outcomes: Vec<Delivery>) -> Vec<Sent> {
        let of = |outcome| Sent {
            target: "t".to_owned(),
            outcome,
        };
        outcomes.into_iter().map(of).collect()
    }

    #[test]
    fn accepted_is_what_everybody_named_has_taken_or_the_log_they_read() {
        let taken = || Delivery::Taken(json!({}));
        let failed = || Delivery::Failed("away".to_owned());
        let logged = || Delivery::Logged { seq: 1, why: None };
        let folded = || Delivery::Folded {
            seq: 1,
            state: "stopped".to_owned(),
            holds: vec![],
        };
        let refused = || Delivery::Refused {
            reason: "role".to_owned(),
            detail: String::new(),
            last: None,
            log_time_us: None,
        };
        for (outcomes, expected) in [
            (vec![taken()], Some(true)),
            (vec![taken(), taken()], Some(true)),
            (vec![taken(), failed()], Some(false)),
            (vec![taken(), refused()], Some(false)),
            (vec![failed()], Some(false)),
            (vec![logged()], None),
            (vec![logged(), failed()], None),
            (vec![logged(), refused()], Some(false)),
            (vec![logged(), taken()], Some(true)),
            (vec![folded(), failed()], Some(true)),
            (vec![folded(), refused()], Some(false)),
            (vec![taken(), logged(), failed()], None),
        ] {
            assert_eq!(accepted(&sent(outcomes)), expected);
        }
    }

    #[test]
    fn an_answer_says_what_is_held_and_when_nothing_is() {
        let taken = |reach: Value| json!({ "state": "stopped", "seq": 7, "durable": true, "reach": reach });
        for (reach, said) in [
            (
                json!({ "scopes": ["", "in.t.t.a.>"], "within": null }),
                "it holds the whole tenant, in.t.t.a.>",
            ),
            (
                json!({ "scopes": [], "within": "" }),
                "part of the whole tenant, and get the baseline",
            ),
            (
                json!({ "scopes": [], "within": null }),
                "nothing is rolled out in this scope",
            ),
        ] {
            let line = taken_line("t", &taken(reach));
            assert!(
                line.contains("in force, stopped, position 7") && line.contains(said),
                "{line}"
            );
        }
        let line = taken_line(
            "t",
            &json!({ "state": "stopped", "seq": 7, "durable": true, "widened": true }),
        );
        assert!(line.contains("it holds the whole tenant"), "{line}");
        let unjudged = json!({ "state": "stopped", "seq": 7, "durable": true, "judged": false });
        let line = taken_line("t", &unjudged);
        assert!(
            line.contains("in force here") && line.contains("may refuse it"),
            "{line}"
        );
        let held = json!({ "state": "idle", "seq": 8, "durable": true, "held": ["", "in.t.t.a.>"] });
        let line = taken_line("t", &held);
        assert!(
            line.contains("`gov resume` ends it") && line.contains("--scope 'in.t.t.a.>'"),
            "{line}"
        );
    }
}
