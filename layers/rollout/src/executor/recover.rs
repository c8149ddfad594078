//! What a node did before it was started again, by its audit trail.

use std::collections::BTreeMap;

use super::*;
use crate::apart::{is_of_configured_keys, is_of_keys, key_gone, unsure_of};

/// How the trail and today's configuration disagree about one record.
pub(super) enum Said {
    /// They do not.
    Alike,
    /// A stop or a pause was accepted and is refused now: it counts.
    Kept(Refusal),
    /// Anything else was: what it changed, nobody knows here.
    Lost(Refusal),
    /// It was refused, for this reason, and counts now.
    Taken(String),
    /// It was refused, for this reason, and stays so.
    Refused(String),
}

impl Said {
    /// What was accepted and is lost.
    pub(super) fn lost(self) -> Option<Refusal> {
        match self {
            Self::Lost(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// All of it.
#[derive(Default)]
struct Differs {
    kept: Vec<(u64, Refusal)>,
    lost: Vec<(u64, Refusal)>,
    taken: Vec<(u64, String)>,
    refused: Vec<(u64, String)>,
}

/// Whether a record is one of a stop or a pause.
fn is_brake(record: &Record) -> bool {
    let read = Envelope::parse(&record.envelope).and_then(|envelope| envelope.control());
    read.is_ok_and(|control| Brake::of(&control).is_some())
}

/// Folds a record of which the trail may have told before what became of it. `shared`: the log is kept elsewhere, and other nodes
/// may read it.
pub(super) fn judge(
    state: &mut State,
    record: &Record,
    before: Option<Result<(), String>>,
    shared: bool,
) -> (Result<Accepted, Refusal>, Said) {
    let unfolded = matches!(before, Some(Err(_))).then(|| state.clone());
    let verdict = state.fold(record);
    match (verdict, before) {
        (Err(refusal), Some(Ok(()))) if refusal.reason != Reason::Duplicate => {
            if is_brake(record)
                && let Ok(kept) = state.fold_kept(record)
            {
                return (Ok(kept), Said::Kept(refusal));
            }
            let said = match record.channel {
                Channel::Down(_) => Said::Lost(refusal.clone()),
                // A proposal alone changes nothing of what is served; its approval does.
                Channel::Up(..) => Said::Alike,
            };
            (Err(refusal), said)
        }
        // The key is still away.
        (Err(refusal), Some(Err(reason)))
            if reason == Reason::KeyGone.as_str() && is_of_keys(refusal.reason) =>
        {
            let gone = key_gone(record).unwrap_or(refusal);
            (Err(gone.clone()), Said::Lost(gone))
        }
        // Nobody has judged it here: its tenant was not served. To this node it comes from before its first contact.
        (Err(refusal), Some(Err(reason)))
            if reason == Reason::WrongTenant.as_str() && shared && is_of_configured_keys(state, &refusal) =>
        {
            match key_gone(record) {
                Some(gone) => (Err(gone.clone()), Said::Lost(gone)),
                None => (Err(refusal), Said::Alike),
            }
        }
        // A tenant that was not served here then is folded anew.
        (Ok(accepted), Some(Err(reason))) if reason != Reason::WrongTenant.as_str() => {
            // Other nodes may have it, and a brake only tightens.
            if shared || Brake::of(&accepted.control).is_some() {
                return (Ok(accepted), Said::Taken(reason));
            }
            if let Some(unfolded) = unfolded {
                *state = unfolded;
                state.pass_by(record);
            }
            let detail = format!("it was refused ({reason}) when it came: sign it anew");
            (Err(Refusal::new(Reason::Spent, detail)), Said::Refused(reason))
        }
        (verdict, _) => (verdict, Said::Alike),
    }
}

impl Executor {
    /// Folds records that are known already, such as those of the audit trail, before the log is read. They
    /// are not audited again and do not count as contact: no share rises by them. What began behind the last contact of the
    /// runs before is not served before the next one; without an audit trail's file beside it all of them count as known.
    ///
    /// They may come in any order; of several with one position the last counts. The log is read again from the first position
    /// that is missing among them: its tenant was waiting.
    ///
    /// What became of a record then counts, where it is told. A stop or a pause that was accepted is in force whatever keys
    /// the configuration has now. Anything else that was accepted for a tenant and is refused now, for whatever reason, leaves this
    /// node without the state of the others: it serves baselines alone of that tenant, with an alert that names the position.
    ///
    /// What was refused then and would be taken now counts from now on where the log [outlives](crate::ControlLog::is_durable) this
    /// process, since other nodes may have taken it; in a log of this process it stays refused, but for stops and pauses.
    ///
    /// A catalog update that was refused because its catalog was not here is waited for again where the log outlives this process:
    /// once the catalog is there, all that came behind it is folded anew.
    pub fn recover<R: Into<Recovered>>(&self, records: impl IntoIterator<Item = R>) {
        let shared = self.shared.log.is_durable();
        let records = in_order(records.into_iter().map(Into::into));
        let mut live = self.shared.lock();
        let mut differs = Differs::default();
        let mut waiting = Vec::new();
        for known in records.values() {
            let (record, seq) = (&known.record, known.record.seq);
            let tenant = record.channel.tenant();
            if shared && live.waits_again(known) {
                if known.verdict == Some(Ok(())) {
                    waiting.push(record.clone());
                }
                live.seq = live.seq.max(seq);
                continue;
            }
            let Some(state) = live.states.get_mut(tenant) else {
                live.verdict(seq, Err(no_rollout(tenant)));
                continue;
            };
            let (verdict, said) = judge(state, record, known.verdict.clone(), shared);
            let _told_before = latch::settle(&mut live.latches, record, verdict.as_ref());
            if let Ok(accepted) = &verdict {
                live.decided(record, accepted);
            }
            if let Said::Lost(refusal) = &said {
                live.be_unsure(tenant, unsure_of(record, refusal));
            }
            differs.note(seq, said);
            live.verdict(seq, verdict.map(drop));
        }
        // A node that was killed while it read a backlog had not seen its end.
        let known = self.shared.latch_file.is_some().then_some(live.kept_seq);
        (live.recovered_seq, live.contact_seq) =
            (live.seq, known.map_or(live.seq, |known| known.min(live.seq)));
        live.seq = last_in_row(records.values()).map_or(live.seq, |last| last.seq);
        live.at = live.seq;
        let position = live.position();
        let apart: Vec<String> = live
            .unsure
            .keys()
            .filter_map(|tenant| live.apart(tenant))
            .collect();
        self.shared.publish(live);
        // What is behind a catalog that is waited for brakes all the same.
        self.latch_brakes(&waiting, false);
        self.shared.save_latches();
        self.shared.position.send_replace(position);
        differs.tell(&self.shared);
        for apart in apart {
            self.shared.alert(AlertSeverity::Critical, apart);
        }
    }
}

/// By position; of several with one the last, with the catalog that any of them brought.
fn in_order(records: impl Iterator<Item = Recovered>) -> BTreeMap<u64, Recovered> {
    let mut known: BTreeMap<u64, Recovered> = BTreeMap::new();
    for mut recovered in records {
        let seq = recovered.record.seq;
        if let Some(before) = known.remove(&seq) {
            let catalog = &mut recovered.record.catalog;
            *catalog = catalog.take().or(before.record.catalog);
        }
        known.insert(seq, recovered);
    }
    known
}

/// Of records in the order of their positions the last one in front of which none is missing.
fn last_in_row<'a>(records: impl Iterator<Item = &'a Recovered>) -> Option<&'a Record> {
    let mut last: Option<&Record> = None;
    for Recovered { record, .. } in records {
        if last.is_some_and(|last| record.seq > last.seq + 1) {
            break;
        }
        last = Some(record);
    }
    last
}

impl Recovered {
    /// Where the log is to be read on after these records of an audit trail: the one in front of the first position that is missing
    /// among them, or the last.
    pub fn last_in_row(records: &[Self]) -> Option<Record> {
        let known = in_order(records.iter().cloned());
        last_in_row(known.values()).cloned()
    }

    /// Whether it says of a record what became of it now.
    pub(super) fn says(&self, record: &Record, refusal: Option<&Refusal>) -> bool {
        let verdict = match refusal {
            None => Ok(()),
            Some(refusal) => Err(refusal.reason.as_str().to_owned()),
        };
        self.verdict == Some(verdict) && self.record.catalog == record.catalog
    }
}

impl Differs {
    fn note(&mut self, seq: u64, said: Said) {
        match said {
            Said::Alike => {}
            Said::Kept(refusal) => self.kept.push((seq, refusal)),
            Said::Lost(refusal) => self.lost.push((seq, refusal)),
            Said::Taken(reason) => self.taken.push((seq, reason)),
            Said::Refused(reason) => self.refused.push((seq, reason)),
        }
    }

    fn tell(self, shared: &Shared) {
        let Self {
            kept,
            lost,
            taken,
            refused,
        } = self;
        if let Some((seq, refusal)) = kept.first() {
            let message = format!(
                "{} stops and pauses of the audit trail, the first at position {seq}, count although this configuration would refuse them: {refusal}",
                kept.len()
            );
            shared.alert(AlertSeverity::Critical, message);
        }
        if let Some((seq, refusal)) = lost.first() {
            let message = format!(
                "{} records of the audit trail, the first at position {seq}, may be in force on other nodes and are refused by this configuration: {refusal}",
                lost.len()
            );
            shared.alert(AlertSeverity::Critical, message);
        }
        if let Some((seq, reason)) = taken.first() {
            let message = format!(
                "{} records of the audit trail that were refused, the first at position {seq} ({reason}), are taken by this configuration: they count from now on, since other nodes may have taken them",
                taken.len()
            );
            shared.alert(AlertSeverity::Warning, message);
        }
        if let Some((seq, reason)) = refused.first() {
            let message = format!(
                "{} records of the audit trail that were refused, the first at position {seq} ({reason}), would be taken by this configuration: they stay refused",
                refused.len()
            );
            shared.alert(AlertSeverity::Warning, message);
        }
    }
}
