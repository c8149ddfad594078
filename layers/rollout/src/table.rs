//! The event table: what each message does in each state. The code follows it and the documentation is
//! printed from it, so they cannot disagree.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::refusal::Reason;

/// The state of one rollout scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Everyone gets the baseline.
    Idle,
    /// The share grows.
    Ramping,
    /// The share has reached a maximum below 100 %.
    Holding,
    /// Everyone with a key gets the variant.
    Complete,
    /// The clock stands still; nothing but an enforcement acts.
    Paused,
    /// Everyone gets what an operator enforced.
    Forced,
    /// Everyone gets the safe baseline until resumed.
    Stopped,
}

impl Phase {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Idle,
        Self::Ramping,
        Self::Holding,
        Self::Complete,
        Self::Paused,
        Self::Forced,
        Self::Stopped,
    ];

    /// The name in metrics, replies and the audit trail.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Ramping => "ramping",
            Self::Holding => "holding",
            Self::Complete => "complete",
            Self::Paused => "paused",
            Self::Forced => "forced",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What can happen to a scope, once its signatures, counter and expiry were found good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// A node proposes.
    Proposal,
    /// An approval of a pending proposal.
    Approval,
    /// The same, signed with `supersede`.
    Supersede,
    /// `PauseAdaptation`.
    Pause,
    /// `ResumeAdaptation`.
    Resume,
    /// `SetVariant` or `SetParams`.
    Force,
    /// `EmergencyStop`.
    Stop,
    /// A newer catalog.
    Catalog,
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Self; 8] = [
        Self::Proposal,
        Self::Approval,
        Self::Supersede,
        Self::Pause,
        Self::Resume,
        Self::Force,
        Self::Stop,
        Self::Catalog,
    ];

    /// The name in the documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proposal => "Proposal",
            Self::Approval => "Approval",
            Self::Supersede => "Approval, supersede",
            Self::Pause => "PauseAdaptation",
            Self::Resume => "ResumeAdaptation",
            Self::Force => "SetVariant / SetParams",
            Self::Stop => "EmergencyStop",
            Self::Catalog => "CatalogUpdate",
        }
    }
}

/// What a trigger does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing.
    Keep,
    /// The proposal waits for an approval.
    Store,
    /// The rollout starts at its initial percent; one that ran is tombstoned.
    Start,
    /// The finished variant becomes the baseline of the rollout that starts.
    Promote,
    /// The approval waits in the one slot for the resume.
    Park,
    /// The clock stops, the share is held.
    Freeze,
    /// The clock goes on; a parked catalog and a parked approval take effect.
    Thaw,
    /// The enforced variant is served; a rollout is tombstoned.
    Force,
    /// The safe baseline is served; a rollout is tombstoned.
    Stop,
    /// Back to nothing: never back to what was stopped.
    Release,
    /// The catalog is replaced; a scope whose variant is gone is paused.
    Swap,
    /// The catalog waits for the resume.
    Defer,
    /// Nothing but a refusal.
    Refuse(Reason),
}

/// The event table.
pub fn effect(phase: Phase, trigger: Trigger) -> Effect {
    use Effect::{
        Defer, Force, Freeze, Keep, Park, Promote, Refuse, Release, Start, Stop, Store, Swap, Thaw,
    };
    match (trigger, phase) {
        (Trigger::Proposal, Phase::Idle | Phase::Ramping | Phase::Holding | Phase::Complete) => Store,
        (Trigger::Proposal | Trigger::Approval | Trigger::Supersede, Phase::Forced) => Refuse(Reason::Forced),
        (Trigger::Proposal | Trigger::Approval | Trigger::Supersede | Trigger::Force, Phase::Stopped) => {
            Refuse(Reason::Stopped)
        }
        (Trigger::Proposal, Phase::Paused) => Refuse(Reason::Frozen),
        (Trigger::Approval | Trigger::Supersede, Phase::Idle) => Start,
        (Trigger::Approval, Phase::Ramping | Phase::Holding) => Refuse(Reason::Busy),
        (Trigger::Supersede, Phase::Ramping | Phase::Holding) => Start,
        (Trigger::Approval | Trigger::Supersede, Phase::Complete) => Promote,
        (Trigger::Approval | Trigger::Supersede, Phase::Paused) => Park,
        (Trigger::Pause, Phase::Paused | Phase::Stopped) => Keep,
        (Trigger::Pause, _) => Freeze,
        (Trigger::Resume, Phase::Paused | Phase::Forced) => Thaw,
        (Trigger::Resume, Phase::Stopped) => Release,
        (Trigger::Resume, _) => Keep,
        (Trigger::Force, _) => Force,
        (Trigger::Stop, Phase::Stopped) => Keep,
        (Trigger::Stop, _) => Stop,
        (Trigger::Catalog, Phase::Paused) => Defer,
        (Trigger::Catalog, _) => Swap,
    }
}

/// Where an effect leads, for the diagram. None: it stays.
fn target(phase: Phase, effect: Effect) -> Option<&'static str> {
    match effect {
        Effect::Start | Effect::Promote => Some("Ramping"),
        Effect::Freeze if phase != Phase::Forced => Some("Paused"),
        Effect::Thaw if phase == Phase::Paused => Some("Resumed"),
        Effect::Force => Some("Forced"),
        Effect::Stop => Some("Stopped"),
        Effect::Release => Some("Idle"),
        _ => None,
    }
}

/// `docs/state-machines/rollout.md`, printed from the table; a test keeps the file equal to this.
pub fn document() -> String {
    let mut text = String::from(HEAD);
    text.push_str("```mermaid\nstateDiagram-v2\n    [*] --> Idle\n");
    for phase in Phase::ALL {
        for trigger in Trigger::ALL {
            let effect = effect(phase, trigger);
            match target(phase, effect) {
                Some("Resumed") => {
                    for back in [Phase::Idle, Phase::Ramping, Phase::Holding, Phase::Complete] {
                        let _ = writeln!(
                            text,
                            "    Paused --> {back:?}: {}, as before the pause",
                            trigger.as_str()
                        );
                    }
                    let _ = writeln!(
                        text,
                        "    Paused --> Ramping: {}, a parked approval",
                        trigger.as_str()
                    );
                }
                Some(next) if next != format!("{phase:?}") => {
                    let _ = writeln!(text, "    {phase:?} --> {next}: {}", trigger.as_str());
                }
                _ => {}
            }
        }
    }
    text.push_str(TIME);
    text.push_str("```\n\n## Event table\n\n| message |");
    for phase in Phase::ALL {
        let _ = write!(text, " {phase:?} |");
    }
    text.push_str("\n| --- |");
    text.push_str(&" --- |".repeat(Phase::ALL.len()));
    for trigger in Trigger::ALL {
        let _ = write!(text, "\n| {} |", trigger.as_str());
        for phase in Phase::ALL {
            let _ = match effect(phase, trigger) {
                Effect::Refuse(reason) => write!(text, " refused `{reason}` |"),
                Effect::Keep => write!(text, " - |"),
                effect => write!(text, " {} |", format!("{effect:?}").to_lowercase()),
            };
        }
    }
    text.push_str(TAIL);
    text
}

const TIME: &str = "    Ramping --> Holding: time, max below 100 %
    Ramping --> Complete: time, max = 100 %
    Ramping --> Idle: time, effective_until
    Holding --> Idle: time, effective_until
    Complete --> Idle: time, effective_until
    Forced --> Idle: time, effective_until
    Ramping --> Paused: CatalogUpdate without the variant
    Holding --> Paused: CatalogUpdate without the variant
    Complete --> Paused: CatalogUpdate without the variant
";

const HEAD: &str = "# Rollout: states of one scope

Printed from the event table in `layers/rollout/src/table.rs`; the test `the_document_is_the_table` compares.
State is a pure fold over the signed control log: `apply(state, record) -> Result<State, Refusal>`.

";

const TAIL: &str = "

- *store*: the proposal waits, at most 16 of one node. *park*: one approval waits for the resume; while a rollout is
  paused it must be signed with `supersede`. *defer*: the newest catalog waits for the resume. *promote*: the finished
  variant is the baseline of the rollout that starts.
- *freeze* in `Forced` stops proposals and catalogs; the enforced variant stays. `Forced` ends by `EmergencyStop` and
  `ResumeAdaptation`, by `effective_until_us`, or is replaced.
- An order for a scope reaches every scope that its pattern contains, those that come later too; without a scope, or with
  `in.t.<tenant>.>`, it is for the whole tenant. A stop and a pause also hold, whole, a scope that their pattern crosses
  (`in.t.t.*.b` and `in.t.t.a.>`), and are cut out of one that contains them. Whose order holds a scope is kept: a resume ends,
  inside its pattern, every order that holds all of that, so one of the tenant leaves what was ordered for a scope, and one of a
  narrower scope frees its part; what it only crosses it frees of its like alone (ADR 32, 35).
- The subjects of a scope that is idle are part of a rollout around it that was approved since it went idle; before, they get
  the baseline.
- The subjects of a paused scope without a rollout of its own are held at what they have of the one around it.
- A pause of what is stopped holds once the stop has ended.
- *freeze* counts from when the pause was signed. A message that is refused is spent: the same bytes are refused later (ADR 26).
- A stop and a pause need no order among others: one whose counter was overtaken is taken as well, unless a resume of the same
  scope was signed no earlier (`stale`), or one that was signed no earlier is in force (`duplicate`); what a later resume freed
  inside of it stays free. A resume that was signed before a pause does not end it. With 64 scopes stopped or paused by themselves,
  or 1,024 in use, the next order is for the whole tenant: no brake is refused for room (ADR 45).

## Invariants

| | holds always |
| --- | --- |
| I1 | the share is in 0..=max |
| I2 | only a valid approval makes the share rise from 0 |
| I3 | the share never rises while paused or stopped, nor on a node without contact to the log |
| I4 | after a stop every decision is the safe baseline until a *new* approval |
| I5 | who is in at a lower percent is in at every higher one of the same rollout |
| I6 | a refused message changes nothing but its issuer's counter and the audit trail |
| I7 | an issuer's accepted counters strictly increase, but for a brake that comes late and sets none back |
| I8 | a tombstoned proposal never runs again |
| I9 | each state change has exactly one audit record |
| I10 | the state after a restart is the state before |
| I11 | a decision never blocks, allocates or fails |
| I12 | at most one rollout per scope |
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_acts_in_every_state_and_only_resume_leaves_it() {
        for phase in Phase::ALL {
            let expected = if phase == Phase::Stopped {
                Effect::Keep
            } else {
                Effect::Stop
            };
            assert_eq!(effect(phase, Trigger::Stop), expected);
        }
        for trigger in Trigger::ALL {
            let leaves = target(Phase::Stopped, effect(Phase::Stopped, trigger)).is_some();
            assert_eq!(leaves, trigger == Trigger::Resume, "{trigger:?}");
        }
    }

    #[test]
    fn while_paused_only_an_enforcement_changes_anything() {
        for trigger in [
            Trigger::Proposal,
            Trigger::Approval,
            Trigger::Supersede,
            Trigger::Catalog,
        ] {
            let effect = effect(Phase::Paused, trigger);
            assert!(
                matches!(
                    effect,
                    Effect::Refuse(Reason::Frozen) | Effect::Park | Effect::Defer
                ),
                "{effect:?}"
            );
        }
    }

    #[test]
    fn the_document_is_the_table() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/state-machines/rollout.md"
        );
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        let Ok(written) = std::fs::read_to_string(path) else {
            // A packaged crate has no workspace around it.
            assert!(!std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs")).exists());
            return;
        };
        assert_eq!(written, document(), "run once with UPDATE_DOCS=1");
    }
}
