//! What a node did before it was started again, by its audit trail.

use super::*;
use crate::record::Recovered;

/// How the trail and today's configuration disagree.
#[derive(Default)]
struct Differs {
    /// Stops and pauses that were accepted and are refused now.
    brakes: Vec<(u64, Refusal)>,
    /// Anything else that was.
    lost: Vec<(u64, Refusal)>,
    /// The first of them that is no proposal and was refused for who signed it: what it changed, nobody knows here.
    unsure: Option<(u64, Refusal)>,
    /// What was refused and would be taken now.
    taken: Vec<(u64, String)>,
}

/// Whether a record is one of a stop or a pause.
fn is_brake(record: &Record) -> bool {
    let read = Envelope::parse(&record.envelope).and_then(|envelope| envelope.control());
    read.is_ok_and(|control| Brake::of(&control).is_some())
}

/// Whether a refusal is for who signed, and not for what the catalog of the configuration has or a limit of it.
fn is_of_keys(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unsigned
            | Reason::BadSignature
            | Reason::UnknownKey
            | Reason::Threshold
            | Reason::Role
            | Reason::Epoch
            | Reason::InvalidKeys
            | Reason::UnknownProposal
    )
}

impl Executor {
    /// Folds records that are known already, such as those of the audit trail, before the log is read. They
    /// are not audited again and do not count as contact: no share rises by them. What began behind the last contact of the
    /// runs before is not served before the next one; without an audit trail's file beside it all of them count as known.
    ///
    /// What became of a record then counts, where it is told. A stop or a pause that was accepted is in force whatever keys
    /// the configuration has now. Anything else that was accepted and is refused for its keys now leaves this node without the
    /// state of the others: it serves baselines alone, with an alert that names the position. What was refused is not taken now, but for
    /// stops and pauses.
    pub fn recover<R: Into<Recovered>>(&self, records: impl IntoIterator<Item = R>) {
        let mut live = self.shared.lock();
        let mut differs = Differs::default();
        for record in records {
            let Recovered {
                record,
                verdict: before,
            } = record.into();
            let Some(state) = live.states.get_mut(record.channel.tenant()) else {
                live.verdict(record.seq, Err(no_rollout(record.channel.tenant())));
                continue;
            };
            let verdict = differs.fold(state, &record, before);
            let _told_before = latch::settle(&mut live.latches, &record, verdict.as_ref());
            if let Ok(accepted) = &verdict {
                live.decided(&record, accepted);
            }
            live.note_catalog(&record, verdict.as_ref().map(drop));
            live.verdict(record.seq, verdict.map(drop));
        }
        let seq = live.seq;
        if let Some((seq, refusal)) = &differs.unsure {
            // Whatever it ended or lowered goes on in this state.
            live.hold = Some(format!(
                "the audit trail has position {seq} as accepted, and the keys of this configuration refuse it ({refusal}): only baselines are served"
            ));
        } else {
            // A node that was killed while it read a backlog had not seen its end.
            let known = self.shared.latch_file.is_some().then_some(live.kept_seq);
            live.contact_seq = known.map_or(seq, |known| known.min(seq));
        }
        self.shared.publish(live);
        self.shared.save_latches();
        self.shared.position.send_replace(seq);
        differs.tell(&self.shared);
    }
}

impl Differs {
    fn fold(
        &mut self,
        state: &mut State,
        record: &Record,
        before: Option<Result<(), String>>,
    ) -> Result<Accepted, Refusal> {
        let unfolded = matches!(before, Some(Err(_))).then(|| state.clone());
        let verdict = state.fold(record);
        match (verdict, before) {
            (Err(refusal), Some(Ok(()))) if refusal.reason != Reason::Duplicate => {
                if is_brake(record)
                    && let Ok(kept) = state.fold_kept(record)
                {
                    self.brakes.push((record.seq, refusal));
                    return Ok(kept);
                }
                self.lost.push((record.seq, refusal.clone()));
                if matches!(record.channel, Channel::Down(_)) && is_of_keys(refusal.reason) {
                    self.unsure.get_or_insert((record.seq, refusal.clone()));
                }
                Err(refusal)
            }
            // A tenant that was not served here then is folded anew.
            (Ok(accepted), Some(Err(reason)))
                if reason != Reason::WrongTenant.as_str() && Brake::of(&accepted.control).is_none() =>
            {
                if let Some(unfolded) = unfolded {
                    *state = unfolded;
                    state.pass(record);
                }
                let detail = format!("it was refused ({reason}) when it came: sign it anew");
                self.taken.push((record.seq, reason));
                Err(Refusal::new(Reason::Spent, detail))
            }
            (verdict, _) => verdict,
        }
    }

    fn tell(self, shared: &Shared) {
        let Self {
            brakes,
            lost,
            unsure,
            taken,
        } = self;
        if let Some((seq, refusal)) = brakes.first() {
            let message = format!(
                "{} stops and pauses of the audit trail, the first at position {seq}, count although this configuration would refuse them: {refusal}",
                brakes.len()
            );
            shared.alert(AlertSeverity::Critical, message);
        }
        if let Some((seq, refusal)) = lost.first() {
            let message = format!(
                "{} records of the audit trail that were accepted, the first at position {seq}, are refused by this configuration{}: {refusal}",
                lost.len(),
                if unsure.is_some() {
                    ", so only baselines are served until what signed them is put back"
                } else {
                    ""
                }
            );
            shared.alert(AlertSeverity::Critical, message);
        }
        if let Some((seq, reason)) = taken.first() {
            let message = format!(
                "{} records of the audit trail that were refused, the first at position {seq} ({reason}), would be taken by this configuration: they stay refused",
                taken.len()
            );
            shared.alert(AlertSeverity::Warning, message);
        }
    }
}
