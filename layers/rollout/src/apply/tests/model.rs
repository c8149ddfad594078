//! What one scope does, written a second time from the prose alone.

use std::collections::BTreeSet;

use crate::{Phase, assignment::CoinFlip};

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// Only time passes (and an unknown variant is refused).
    Wait,
    Propose {
        id: u8,
    },
    Approve {
        id: u8,
        ramp: Option<(f64, f64, f64)>,
        honest: bool,
        supersede: bool,
    },
    Pause,
    Resume,
    Force,
    Stop,
    Catalog {
        version: u64,
        full: bool,
    },
}

impl Event {
    pub(super) fn random(coin: &CoinFlip, version: u64) -> Self {
        let below = |limit: u64| coin.flip() % limit;
        let id = u8::try_from(below(24)).unwrap();
        let ramps = [
            Some((10.0, 5.0, 50.0)),
            Some((0.0, 10.0, 100.0)),
            Some((100.0, 0.0, 100.0)),
            Some((25.0, 0.0, 75.0)),
            Some((60.0, 1.0, 50.0)),
            Some((f64::NAN, 1.0, 50.0)),
            None,
        ];
        match below(32) {
            0..=1 => Self::Wait,
            2..=9 => Self::Propose { id },
            10..=19 => {
                // Half of the approvals bring the usual ramp.
                let ramp = ramps.get(below(14) as usize).copied().unwrap_or(ramps[0]);
                Self::Approve {
                    id,
                    ramp,
                    honest: below(10) > 0,
                    supersede: below(4) == 0,
                }
            }
            20..=22 => Self::Pause,
            23..=27 => Self::Resume,
            28 => Self::Force,
            29 => Self::Stop,
            _ => Self::Catalog {
                version: version - 1 + below(3),
                full: below(4) > 0,
            },
        }
    }
}

type Ramp = (f64, f64, f64);

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Idle,
    Run { id: u8, ramp: Ramp },
    Forced,
    Stopped,
}

/// The state, with time as the seconds a rollout was active.
pub(super) struct Model {
    mode: Mode,
    frozen: bool,
    active_us: u64,
    promoted: bool,
    parked: Option<(u8, Ramp)>,
    pending: BTreeSet<u8>,
    dead: BTreeSet<u8>,
    full: bool,
    pub(super) version: u64,
    waiting: Option<(u64, bool)>,
}

impl Model {
    pub(super) fn new() -> Self {
        let (pending, dead) = (BTreeSet::new(), BTreeSet::new());
        let (mode, frozen, full) = (Mode::Idle, false, true);
        Self {
            mode,
            frozen,
            active_us: 0,
            promoted: false,
            parked: None,
            pending,
            dead,
            full,
            version: 2,
            waiting: None,
        }
    }

    pub(super) fn percent(&self) -> f64 {
        let Mode::Run {
            ramp: (initial, increment, max),
            ..
        } = self.mode
        else {
            return 0.0;
        };
        (initial + increment * (self.active_us as f64) / 6e7).min(max)
    }

    pub(super) fn phase(&self) -> Phase {
        match self.mode {
            Mode::Stopped => Phase::Stopped,
            Mode::Forced => Phase::Forced,
            _ if self.frozen => Phase::Paused,
            Mode::Idle => Phase::Idle,
            Mode::Run { .. } if self.percent() >= 100.0 => Phase::Complete,
            Mode::Run {
                ramp: (_, increment, max),
                ..
            } if self.percent() >= max || increment == 0.0 => Phase::Holding,
            Mode::Run { .. } => Phase::Ramping,
        }
    }

    /// Ends what runs and what waits.
    fn end(&mut self, mode: Mode) {
        if let Mode::Run { id, .. } = self.mode {
            self.dead.insert(id);
        }
        self.dead.extend(self.parked.take().map(|(id, _)| id));
        self.mode = mode;
    }

    fn start(&mut self, (id, ramp): (u8, Ramp)) {
        self.promoted |= self.percent() >= 100.0;
        if let Mode::Run { id, .. } = self.mode {
            self.dead.insert(id);
        }
        (self.mode, self.active_us) = (Mode::Run { id, ramp }, 0);
    }

    fn swap(&mut self, (version, full): (u64, bool)) -> bool {
        (self.version, self.full, self.waiting) = (version, full, None);
        let in_use = matches!(self.mode, Mode::Run { .. } | Mode::Forced) || self.promoted;
        in_use && !full
    }

    /// Whether the event is accepted.
    pub(super) fn step(&mut self, event: &Event, wait_us: u64) -> bool {
        if !self.frozen && matches!(self.mode, Mode::Run { .. }) {
            self.active_us += wait_us;
        }
        let (phase, running) = (
            self.phase(),
            matches!(self.mode, Mode::Run { .. }) && self.percent() < 100.0,
        );
        match *event {
            Event::Wait => false,
            Event::Propose { id } => {
                let live = matches!(self.mode, Mode::Run { id: of, .. } if of == id)
                    || self.parked.is_some_and(|(of, _)| of == id);
                let known = live || self.pending.contains(&id) || self.dead.contains(&id);
                let open = !matches!(phase, Phase::Paused | Phase::Forced | Phase::Stopped);
                open && !known && self.full && self.pending.len() < 16 && self.pending.insert(id)
            }
            Event::Approve {
                id,
                ramp: Some(ramp),
                honest: true,
                supersede,
            } => {
                let valid = ramp.0 <= ramp.2 && self.full && self.pending.contains(&id);
                let open = match phase {
                    Phase::Forced | Phase::Stopped => false,
                    Phase::Paused => self.parked.is_none() && (supersede || !running),
                    _ => supersede || !running,
                };
                if valid && open {
                    self.pending.remove(&id);
                    if self.frozen {
                        self.parked = Some((id, ramp))
                    } else {
                        self.start((id, ramp))
                    }
                }
                valid && open
            }
            Event::Approve { .. } => false,
            Event::Pause => {
                self.frozen |= phase != Phase::Stopped;
                true
            }
            Event::Resume => {
                let gone = self.waiting.take().is_some_and(|waiting| self.swap(waiting));
                if let (true, Mode::Run { ramp, .. }) = (gone, self.mode) {
                    let held = (ramp.0 + ramp.1 * (self.active_us as f64) / 6e7).min(ramp.2);
                    self.mode = match self.mode {
                        Mode::Run { id, .. } => Mode::Run {
                            id,
                            ramp: (held, 0.0, held),
                        },
                        other => other,
                    };
                }
                if phase == Phase::Stopped {
                    self.mode = Mode::Idle;
                } else if self.frozen {
                    self.frozen = false;
                    match self.parked.take() {
                        Some(parked) if self.full => self.start(parked),
                        Some((id, _)) => drop(self.dead.insert(id)),
                        None => {}
                    }
                }
                true
            }
            Event::Force => {
                let accepted = phase != Phase::Stopped && self.full;
                if accepted {
                    self.end(Mode::Forced);
                }
                accepted
            }
            Event::Stop => {
                if phase != Phase::Stopped {
                    self.end(Mode::Stopped);
                    (self.frozen, self.promoted) = (false, false);
                }
                true
            }
            Event::Catalog { version, full } => {
                let newer = version > self.waiting.map_or(self.version, |(version, _)| version);
                if newer && self.frozen {
                    self.waiting = Some((version, full));
                } else if newer {
                    self.frozen |= self.swap((version, full));
                }
                newer
            }
        }
    }
}
