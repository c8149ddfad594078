//! Messages made of options, signed, and sent.

use std::{collections::HashMap, io::Write, path::Path};

use arqon_rollout::{
    Catalog, Clock, Control, Digest, DownstreamMessage, EnforcementAction, Envelope, KeyPair,
    MAX_REASON_BYTES, Message, PinToken, Proposal, RolloutConfig, SystemClock,
};
use serde_json::Value;

use super::{
    Action, Approve, Enforce, Outcome, Propose, Reasoned, Sign, Signing, Usage,
    deliver::{Letter, deliver},
    kept,
    keys::{digest_of, param, read},
    print, runtime,
    target::Target,
};

/// How long a control message may be on its way, unless told otherwise: 5 minutes.
const EXPIRES_US: u64 = 5 * 60 * 1_000_000;

fn now_us() -> u64 {
    SystemClock::new().now_us()
}

/// The payload around a message.
pub(super) fn control(
    signing: &Signing,
    target: &Target,
    message: impl Into<Message>,
    valid_us: u64,
) -> Control {
    let now = signing.issued_at.unwrap_or_else(now_us);
    let control = Control::new(target.tenant(), now, signing.expires.unwrap_or(valid_us), message);
    let counter = signing.counter.unwrap_or(control.counter);
    control.with_epoch(signing.epoch).with_counter(counter)
}

pub(super) fn signed(control: Control, signing: &Signing) -> Result<Letter, Usage> {
    let pairs = signing.pairs()?;
    anyhow::ensure!(
        !pairs.is_empty(),
        "--key is missing: name the file of a secret key (`arqon gov keygen` makes one)"
    );
    Ok(Letter {
        envelope: control.sign(&pairs.iter().collect::<Vec<_>>())?,
        // A counter that somebody chose is theirs to change.
        draft: signing.counter.is_none().then_some((control, pairs)),
        note: None,
    })
}

pub(super) fn sign(sign: &Sign, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let bytes = read(&sign.file)?;
    let pairs = sign.signing.pairs()?;
    anyhow::ensure!(
        !pairs.is_empty(),
        "--key is missing: name the file of a secret key (`arqon gov keygen` makes one)"
    );
    let keys: Vec<&KeyPair> = pairs.iter().collect();
    let named = sign.file.display();
    if let Ok(pin) = serde_json::from_slice::<PinToken>(&bytes) {
        // What a tester sends in `x-arqon-pin`.
        writeln!(out, "{}", pin.sign(keys[0]))?;
        return Ok(Outcome::Ok);
    }
    let is_envelope =
        serde_json::from_slice::<Value>(&bytes).is_ok_and(|value| value.get("payload").is_some());
    let envelope = if is_envelope {
        let others = Envelope::parse(&bytes).map_err(|error| anyhow::anyhow!("{named}: {error}"))?;
        let ours = Envelope::sign(others.payload().to_vec(), &keys);
        others.join(ours)?
    } else {
        let mut message = Message::from_json(&bytes)
            .map_err(|error| anyhow::anyhow!("{named} is no message and no envelope: {error}"))?;
        name_digest(&mut message, sign.catalog.as_deref())?;
        control(&sign.signing, &sign.target, message, EXPIRES_US).sign(&keys)?
    };
    if let Some(url) = &sign.target.nats
        && let Ok(control) = envelope.control()
    {
        // Nothing is in the log before all who read it can have its bytes.
        let message = &control.message;
        let creds = sign.target.creds.as_deref();
        runtime()?.block_on(kept::keep(url, creds, message, sign.catalog.as_deref()))?;
    }
    if sign.target.is_named() {
        // What others have signed, too, cannot be signed anew by one of them.
        let letter = Letter {
            envelope,
            draft: None,
            note: None,
        };
        return deliver(letter, &sign.target, json, out);
    }
    writeln!(out, "{}", envelope.to_json())?;
    Ok(Outcome::Ok)
}

/// Puts the digest of its catalog into an update that names none: without it nodes cannot tell whether they read the same bytes.
fn name_digest(message: &mut Message, catalog: Option<&Path>) -> Result<(), Usage> {
    let Message::Downstream(DownstreamMessage::CatalogUpdate {
        version,
        source_uri,
        digest,
    }) = message
    else {
        anyhow::ensure!(catalog.is_none(), "--catalog is for a catalog_update");
        return Ok(());
    };
    if digest.is_some() {
        return Ok(());
    }
    let read = |path: &Path| {
        let named = path.display();
        let bytes = std::fs::read(path).map_err(|error| anyhow::anyhow!("{named}: {error}"))?;
        let found = Catalog::parse(&bytes).map_err(|error| anyhow::anyhow!("{named}: {error}"))?;
        let is = found.version();
        anyhow::ensure!(
            is == *version,
            "{named} has version {is}, the update is to {version}"
        );
        Ok(bytes)
    };
    let local = || read(Path::new(source_uri.strip_prefix("file://")?)).ok();
    let bytes = match catalog {
        Some(path) => Some(read(path)?),
        // What this machine does not have the gateway may.
        None => local(),
    };
    let Some(bytes) = bytes else {
        // What is signed goes to standard output.
        writeln!(
            std::io::stderr(),
            "the update names no digest, so nodes cannot tell whether they read the same bytes, and a gateway on NATS refuses it: give \
             --catalog FILE"
        )?;
        return Ok(());
    };
    *digest = Some(Digest::of_bytes(&bytes).to_string());
    Ok(())
}

pub(super) fn propose(propose: &Propose, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let mut proposal = match &propose.file {
        Some(file) => {
            let bytes = read(file)?;
            // Read as strictly as the digest is made.
            Digest::of_proposal_json(&bytes)
                .map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
            let mut value: Value = serde_json::from_slice(&bytes)?;
            if let Some(object) = value.as_object_mut() {
                object.remove("type");
            }
            serde_json::from_value(value)?
        }
        None => Proposal {
            id: propose.id.clone().unwrap_or_default(),
            timestamp_us: 0,
            variant_id: propose.variant,
            params: (!propose.param.is_empty()).then(|| propose.param.iter().cloned().collect()),
            reason: propose.reason.clone(),
            confidence: propose.confidence,
            scope: propose.scope.clone(),
        },
    };
    if proposal.timestamp_us == 0 {
        proposal.timestamp_us = now_us();
    }
    let digest = Digest::of_proposal(&proposal)?;
    let control = control(
        &propose.signing,
        &propose.target,
        proposal,
        arqon_rollout::PROPOSAL_LIFE_US,
    );
    let letter = signed(control, &propose.signing)?;
    let outcome = deliver(letter, &propose.target, json, out)?;
    if outcome == Outcome::Ok && !json {
        writeln!(out, "digest {digest}")?;
    }
    Ok(outcome)
}

pub(super) fn approve(approve: &Approve, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let proposal_digest = match (&approve.digest, &approve.proposal) {
        (Some(digest), _) => digest.clone(),
        (None, Some(file)) => digest_of(file)?.to_string(),
        (None, None) => return Err(what_is_pending(approve)),
    };
    let rollout = match (approve.initial, approve.increment, approve.max) {
        (Some(initial_percent), Some(increment_per_minute), Some(max_percent)) => {
            let rollout = RolloutConfig {
                initial_percent,
                increment_per_minute,
                max_percent,
            };
            rollout.validate()?;
            Some(rollout)
        }
        _ => None,
    };
    let message = DownstreamMessage::Approval {
        proposal_id: approve.id.clone(),
        proposal_digest,
        rollout,
    };
    let mut control = control(&approve.signing, &approve.target, message, EXPIRES_US);
    control.supersede = approve.supersede;
    control.effective_until_us = approve.lasting.map(|lasting| now_us().saturating_add(lasting));
    deliver(signed(control, &approve.signing)?, &approve.target, json, out)
}

/// Nothing is approved by its name alone: says what it is, so that it can be read.
fn what_is_pending(approve: &Approve) -> Usage {
    let pending = runtime().and_then(|runtime| runtime.block_on(approve.target.state()));
    let pending = pending.ok().and_then(|state| {
        let tenants = state["rollout"]["tenants"].as_array()?.clone();
        let of = tenants
            .into_iter()
            .find(|of| of["tenant"] == approve.target.tenant())?;
        let waiting = of["pending"].as_array()?.clone();
        waiting.into_iter().find(|waiting| waiting["id"] == *approve.id)
    });
    let what = pending.map_or_else(
        || "`gov status` shows what is pending".to_owned(),
        |waiting| print::pending(&waiting, now_us()),
    );
    anyhow::anyhow!(
        "name what you approve, with --digest sha256:.. or --proposal FILE, as you have read it.\n{what}"
    )
}

pub(super) fn enforce(enforce: &Enforce, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let action = match enforce.action {
        Action::SetVariant => {
            let [number] = &enforce.values[..] else {
                anyhow::bail!("set-variant takes one variant's number, such as `set-variant 42`");
            };
            let number = number
                .parse()
                .map_err(|_| anyhow::anyhow!("`{number}` is no variant: give its number in the catalog"))?;
            EnforcementAction::SetVariant(number)
        }
        Action::SetParams => {
            let params = enforce
                .values
                .iter()
                .map(|text| param(text))
                .collect::<Result<HashMap<_, _>, _>>();
            let params = params.map_err(|error| anyhow::anyhow!(error))?;
            anyhow::ensure!(
                !params.is_empty(),
                "set-params takes `name=value`s, such as `set-params alpha=0.5`"
            );
            EnforcementAction::SetParams(params)
        }
        plain => {
            anyhow::ensure!(
                enforce.values.is_empty(),
                "{:?} is followed by nothing, not by `{}`",
                plain,
                enforce.values.join(" ")
            );
            plain_action(plain)
        }
    };
    send_action(action, enforce.lasting, &enforce.reasoned, json, out)
}

pub(super) fn act(
    action: Action,
    reasoned: &Reasoned,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    send_action(plain_action(action), None, reasoned, json, out)
}

fn plain_action(action: Action) -> EnforcementAction {
    match action {
        Action::PauseAdaptation => EnforcementAction::PauseAdaptation,
        Action::ResumeAdaptation => EnforcementAction::ResumeAdaptation,
        Action::SetVariant | Action::SetParams | Action::EmergencyStop => EnforcementAction::EmergencyStop,
    }
}

fn send_action(
    action: EnforcementAction,
    lasting: Option<u64>,
    reasoned: &Reasoned,
    json: bool,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    // A stop is not to fail for its reason.
    let reason = cut(&reasoned.reason);
    let note = (reason.len() < reasoned.reason.len()).then(|| {
        format!(
            "the reason has {} bytes: the first {} were sent",
            reasoned.reason.len(),
            reason.len()
        )
    });
    let message = DownstreamMessage::Enforce {
        action,
        reason: reason.to_owned(),
    };
    let mut control = control(&reasoned.signing, &reasoned.target, message, EXPIRES_US);
    control.scope.clone_from(&reasoned.scope);
    control.effective_until_us = lasting.map(|lasting| now_us().saturating_add(lasting));
    let letter = signed(control, &reasoned.signing)?;
    deliver(Letter { note, ..letter }, &reasoned.target, json, out)
}

/// As much of a reason as is taken.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters_where_it_is_too_long() {
        for (length, kept) in [
            (0, 0),
            (MAX_REASON_BYTES, MAX_REASON_BYTES),
            (MAX_REASON_BYTES + 1, MAX_REASON_BYTES),
        ] {
            assert_eq!(cut(&"r".repeat(length)).len(), kept);
        }
        let wide = format!("r{}", "é".repeat(MAX_REASON_BYTES));
        assert_eq!(cut(&wide).len(), MAX_REASON_BYTES - 1);
    }
}
