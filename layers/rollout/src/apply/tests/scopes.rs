//! Stops, pauses and resumes of scopes that contain and cross each other, against a model that knows subjects only.

use std::collections::HashMap;

use arqon_message::{Subject, SubjectTrie};

use super::*;
use crate::latch::Brake;

/// Scopes of tenant `t`; the first is the whole tenant.
const SCOPES: [&str; 12] = [
    "", ">", "a.>", "a.b", "a.*", "*.b", "b.>", "*.>", "a.b.>", "*.b.>", "a.*.c", "b.c",
];

/// One of them, by its place.
type At = usize;

/// What a scope covers: a bit for each subject of up to four tokens of `a`, `b`, `c`; the last bit is a request without one.
fn covered() -> (Vec<Subject>, Vec<u128>) {
    let (mut texts, mut longest) = (Vec::new(), vec!["in.t.t".to_owned()]);
    for _ in 0..4 {
        longest = longest
            .iter()
            .flat_map(|text| ["a", "b", "c"].map(|token| format!("{text}.{token}")))
            .collect();
        texts.extend(longest.clone());
    }
    let subjects: Vec<Subject> = texts.iter().map(|text| Subject::parse(text).unwrap()).collect();
    let everything = (1 << (subjects.len() + 1)) - 1;
    let bits = SCOPES.map(|suffix| match suffix {
        // All subjects of a tenant are as good as the tenant.
        "" | ">" => everything,
        suffix => {
            let pattern = arqon_message::SubjectPattern::parse(format!("in.t.t.{suffix}")).unwrap();
            let matching = subjects
                .iter()
                .enumerate()
                .filter(|(_, subject)| pattern.matches(subject));
            matching.fold(0, |bits, (at, _)| bits | 1 << at)
        }
    });
    (subjects, bits.to_vec())
}

fn scope(at: At) -> Scope {
    let text = format!("in.t.t.{}", SCOPES[at]);
    let text = (at > 0).then_some(text.as_str());
    Scope::parse(text, &TenantId::new("t").unwrap()).unwrap()
}

/// What is written down of each scope, used or not.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The orders in force, a bit for each scope they were given for.
    stops: u16,
    pauses: u16,
    used: bool,
    forced: bool,
    active_us: Option<u64>,
    /// When each stop and pause that holds it was signed, the newest of each.
    issued_us: [[u64; SCOPES.len()]; 2],
    /// When the newest resume of it was signed, or what that ended.
    resumed_us: u64,
}

/// The prose: an order holds what it covers or crosses, now and later. A resume ends, in what it covers, every order that
/// holds all of it; elsewhere only its like. An order that others overtook holds what was not resumed since it was signed, unless
/// that is all of it, or it holds already.
struct Model {
    bits: Vec<u128>,
    known: [Known; SCOPES.len()],
    /// The same by subject: which stops and pauses were given for it and not resumed for it.
    subjects: Vec<[u16; 2]>,
    /// When each subject was last stopped.
    stopped_us: Vec<u64>,
}

impl Model {
    fn contains(&self, one: At, other: At) -> bool {
        self.bits[other] & !self.bits[one] == 0
    }

    fn reaches(&self, one: At, other: At) -> bool {
        self.bits[one] & self.bits[other] != 0 && (self.contains(one, other) || !self.contains(other, one))
    }

    /// Whether a scope is forced: by itself, or, unused, with the closest used one around it.
    fn forced(&self, at: At) -> bool {
        if self.known[at].used {
            return self.known[at].forced;
        }
        let rank = |of: &At| -> Vec<u8> {
            if *of == 0 {
                return vec![3];
            }
            let rank = |token| match token {
                ">" => 2,
                "*" => 1,
                _ => 0,
            };
            SCOPES[*of].split('.').map(rank).collect()
        };
        let around =
            (0..SCOPES.len()).filter(|of| *of != at && self.known[*of].used && self.contains(*of, at));
        around.min_by_key(rank).is_some_and(|of| self.known[of].forced)
    }

    fn take_in_use(&mut self, at: At) {
        if !self.known[at].used {
            let forced = self.forced(at) && self.known[at].stops == 0;
            (self.known[at].used, self.known[at].forced) = (true, forced);
        }
    }

    fn percent(&self, at: At) -> f64 {
        let Known { active_us, .. } = self.known[at];
        active_us.map_or(0.0, |active| (10.0 + 5.0 * active as f64 / 6e7).min(50.0))
    }

    fn phase(&self, at: At) -> Phase {
        let known = &self.known[at];
        match known.active_us {
            _ if known.stops > 0 => Phase::Stopped,
            _ if self.forced(at) => Phase::Forced,
            _ if known.pauses > 0 => Phase::Paused,
            Some(_) if self.percent(at) >= 50.0 => Phase::Holding,
            Some(_) => Phase::Ramping,
            None => Phase::Idle,
        }
    }

    fn wait(&mut self, wait_us: u64) {
        for known in self.known.iter_mut().filter(|known| known.pauses == 0) {
            known.active_us = known.active_us.map(|active| active + wait_us);
        }
    }

    fn bits(&self, at: At, brake: Brake) -> u16 {
        match brake {
            Brake::Stop => self.known[at].stops,
            Brake::Pause => self.known[at].pauses,
        }
    }

    /// True if it is taken.
    fn brake(&mut self, order: At, brake: Brake, issued_us: u64, now_us: u64, late: bool) -> bool {
        let since = |part: &At| self.known[*part].resumed_us >= issued_us && self.contains(order, *part);
        let parts: Vec<At> = (0..SCOPES.len()).filter(|part| late && since(part)).collect();
        let freed = |at: At| parts.iter().any(|part| self.contains(*part, at));
        let reached: Vec<At> = (0..SCOPES.len())
            .filter(|at| self.reaches(order, *at) && !freed(*at))
            .collect();
        let holds = reached
            .iter()
            .all(|at| self.bits(*at, brake) & 1 << order != 0 || !self.known[*at].used);
        let known = self.known[order].used && self.known[order].issued_us[brake as usize][order] >= issued_us;
        if late && (freed(order) || (known && holds && self.bits(order, brake) & 1 << order != 0)) {
            return false;
        }
        let subjects: Vec<usize> = (0..self.subjects.len())
            .filter(|at| self.bits[order] & 1 << at != 0)
            .filter(|at| parts.iter().all(|part| self.bits[*part] & 1 << at == 0))
            .collect();
        self.take_in_use(order);
        for at in reached {
            let known = &mut self.known[at];
            let issued = &mut known.issued_us[brake as usize][order];
            *issued = issued_us.max(*issued);
            match brake {
                Brake::Stop => {
                    known.stops |= 1 << order;
                    (known.forced, known.active_us) = (false, None);
                }
                Brake::Pause => known.pauses |= 1 << order,
            }
        }
        for at in subjects {
            self.subjects[at][brake as usize] |= 1 << order;
            if brake == Brake::Stop {
                self.stopped_us[at] = now_us;
            }
        }
        true
    }

    fn resume(&mut self, resumed: At, now_us: u64) {
        self.take_in_use(resumed);
        let mut resumed_us = now_us;
        let around: Vec<At> = (0..SCOPES.len())
            .filter(|of| self.contains(*of, resumed))
            .collect();
        let holds_all = around.iter().fold(0, |bits, of| bits | 1_u16 << of);
        let alike = around.iter().filter(|of| self.contains(resumed, **of));
        let alike = alike.fold(0, |bits, of| bits | 1_u16 << of);
        for at in (0..SCOPES.len())
            .filter(|at| self.reaches(resumed, *at))
            .collect::<Vec<_>>()
        {
            let ends = if self.contains(resumed, at) {
                holds_all
            } else {
                alike
            };
            let known = &mut self.known[at];
            for (held, issued) in [known.stops, known.pauses].into_iter().zip(&mut known.issued_us) {
                for order in (0..SCOPES.len()).filter(|order| held & ends & 1 << order != 0) {
                    resumed_us = resumed_us.max(std::mem::take(&mut issued[order]));
                }
            }
            known.stops &= !ends;
            known.pauses &= !ends;
        }
        self.known[resumed].resumed_us = resumed_us.max(self.known[resumed].resumed_us);
        for at in 0..self.subjects.len() {
            if self.bits[resumed] & 1 << at != 0 {
                self.subjects[at] = self.subjects[at].map(|orders| orders & !holds_all);
            }
        }
    }

    fn force(&mut self, order: At) -> bool {
        let mut reached: Vec<At> = (0..SCOPES.len())
            .filter(|at| self.contains(order, *at) && self.known[*at].used)
            .collect();
        reached.push(order);
        let open = reached.iter().all(|at| self.known[*at].stops == 0);
        if open {
            self.take_in_use(order);
            for at in reached {
                (self.known[at].forced, self.known[at].active_us) = (true, None);
            }
        }
        open
    }

    fn roll(&mut self, at: At) -> bool {
        let open = !matches!(self.phase(at), Phase::Stopped | Phase::Forced | Phase::Paused);
        if open {
            self.take_in_use(at);
            self.known[at].active_us = Some(0);
        }
        open
    }
}

fn enforce(action: EnforcementAction, at: At, counter: u64, now_us: u64) -> Order {
    let mut order = order(&Event::Stop, counter, now_us);
    let reason = String::new();
    order.control.message = DownstreamMessage::Enforce { action, reason }.into();
    order.control.scope = scope(at).pattern().map(ToString::to_string);
    order
}

/// Proposes and approves.
fn roll(state: &mut State, at: At, step: u64, now_us: u64) -> bool {
    let proposal = Proposal {
        id: format!("p{step}"),
        variant_id: Some(42),
        confidence: 0.5,
        scope: scope(at).pattern().map(ToString::to_string),
        ..Default::default()
    };
    let digest = Digest::of_proposal(&proposal).unwrap().to_string();
    let mut proposed = order(&Event::Propose { id: 0 }, step, now_us);
    proposed.control.message = proposal.into();
    let mut approved = order(&Event::Stop, 2 * step + 1, now_us);
    approved.control.supersede = true;
    approved.control.message = DownstreamMessage::Approval {
        proposal_id: format!("p{step}"),
        proposal_digest: digest,
        rollout: Some(RolloutConfig {
            initial_percent: 10.0,
            increment_per_minute: 5.0,
            max_percent: 50.0,
        }),
    }
    .into();
    state.obey(proposed).is_ok() && state.obey(approved).is_ok()
}

/// What requests fall to, as the snapshot has it.
fn check_subjects(state: &State, model: &Model, subjects: &[Subject], shown: &str) {
    let (now, mut scoped) = (state.clock_us, SubjectTrie::new());
    for (scope, lane) in state.lanes() {
        if let Some(pattern) = scope.pattern()
            && state.joins(scope).is_none()
        {
            scoped.insert(pattern, lane).unwrap();
        }
    }
    for (at, (subject, [stops, pauses])) in subjects.iter().zip(&model.subjects).enumerate() {
        let whole = &state.lanes()[&Scope::TENANT];
        let lane = scoped.find(subject).copied().unwrap_or(whole);
        // I4: what was stopped gets nothing but by an approval that came after.
        let approved = lane.rollout().map(|rollout| rollout.approved_at_us);
        assert!(
            approved.is_none_or(|approved| approved >= model.stopped_us[at]),
            "{subject}: {approved:?}\n{shown}"
        );
        if *stops > 0 {
            let served = (lane.phase(now), lane.percent(now + 3_600_000_000));
            assert_eq!(served, (Phase::Stopped, 0.0), "{subject} was stopped\n{shown}");
            assert!(
                lane.base(&state.catalog, now.into(), u64::MAX).baseline,
                "{subject}\n{shown}"
            );
        } else if *pauses > 0 {
            let (is, later) = (lane.percent(now), lane.percent(now + 3_600_000_000));
            assert!(later <= is, "{subject} was paused: {is} to {later}\n{shown}");
        }
    }
}

fn sequence(seed: u64, subjects: &[Subject], bits: &[u128], seen: &mut HashMap<(Phase, bool), u64>) {
    let coin = CoinFlip::seeded(seed);
    let scopes: Vec<Scope> = (0..SCOPES.len()).map(scope).collect();
    let mut state = genesis();
    // Something can have been signed before the first of it.
    state.clock_us = 10_000_000_000;
    let mut model = Model {
        bits: bits.to_vec(),
        known: Default::default(),
        subjects: vec![[0; 2]; subjects.len()],
        stopped_us: vec![0; subjects.len()],
    };
    model.known[0].used = true;
    let mut trace = Vec::new();
    for step in 1..=EVENTS as u64 {
        let wait_us = (coin.flip() % 120) * 1_000_000;
        (state.clock_us, state.seq) = (state.clock_us + wait_us, state.seq + 1);
        state.settle();
        model.wait(wait_us);
        let (now_us, counter) = (state.clock_us, 2 * step);
        let at = usize::try_from(coin.flip() % SCOPES.len() as u64).unwrap();
        // Widened, the whole tenant would be stopped most of the time.
        let at = if at < 2 && !coin.flip().is_multiple_of(4) {
            at + 2
        } else {
            at
        };
        // An order for all subjects is for the tenant.
        let meant = if at == 1 { 0 } else { at };
        // What was on its way while others were faster; a pause would also set the share back to when it was signed.
        let late = coin.flip().is_multiple_of(3);
        let behind_us = if late { (coin.flip() % 600) * 1_000_000 } else { 0 };
        let brake = |action, issued_us| {
            let mut brake = enforce(action, at, counter, now_us);
            if late {
                brake.control.counter = 1;
                brake.payload = Digest::of_bytes(format!("late {step}").as_bytes());
            }
            brake.control.issued_at_us = issued_us;
            brake
        };
        let overtaken = late && state.counter() > 0;
        let (what, done, expected) = match coin.flip() % 16 {
            0..=5 => ("roll", roll(&mut state, at, step, now_us), model.roll(at)),
            6..=8 => {
                let issued_us = now_us.saturating_sub(behind_us);
                let stop = brake(EnforcementAction::EmergencyStop, issued_us);
                let expected = model.brake(meant, Brake::Stop, issued_us, now_us, overtaken);
                ("stop", state.obey(stop).is_ok(), expected)
            }
            9 | 10 => {
                let pause = brake(EnforcementAction::PauseAdaptation, now_us);
                let expected = model.brake(meant, Brake::Pause, now_us, now_us, overtaken);
                ("pause", state.obey(pause).is_ok(), expected)
            }
            11..=14 => {
                let resume = enforce(EnforcementAction::ResumeAdaptation, at, counter, now_us);
                model.resume(meant, now_us);
                ("resume", state.obey(resume).is_ok(), true)
            }
            _ => {
                let force = enforce(EnforcementAction::SetVariant(43), at, counter, now_us);
                ("force", state.obey(force).is_ok(), model.force(meant))
            }
        };
        trace.push((wait_us / 1_000_000, what, SCOPES[at]));
        let shown = || format!("seed {seed}, step {step}: {trace:?}");
        assert_eq!(done, expected, "{}", shown());
        for (at, scope) in scopes.iter().enumerate() {
            let lane = state.lane(scope);
            assert_eq!(lane.phase(now_us), model.phase(at), "`{scope}`\n{}", shown());
            let (is, wanted) = (lane.percent(now_us), model.percent(at));
            assert!(
                (is - wanted).abs() < 1e-9,
                "`{scope}`: {is}, not {wanted}\n{}",
                shown()
            );
            let orders = |brake| {
                lane.held_by()
                    .filter(|(kind, ..)| *kind == brake)
                    .fold(0_u16, |bits, (_, order, _)| {
                        bits | 1 << scopes.iter().position(|of| of == order).unwrap()
                    })
            };
            let held = (orders(Brake::Stop), orders(Brake::Pause));
            let known = &model.known[at];
            assert_eq!(held, (known.stops, known.pauses), "`{scope}`\n{}", shown());
            *seen.entry((model.phase(at), known.used)).or_default() += 1;
        }
        if step % 16 == 0 {
            check_subjects(&state, &model, subjects, &shown());
        }
    }
}

/// How many sequences: each looks at every scope after each of its 200 steps.
fn count() -> u64 {
    let long = std::env::var("TEST_SCOPE_SEQUENCES").ok();
    long.map_or(sequences() / 20, |count| count.parse().expect("a number"))
}

#[test]
fn an_order_holds_what_it_covers_or_crosses_and_a_resume_ends_what_it_is_for() {
    let (subjects, bits) = covered();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let seen = std::thread::scope(|scope| {
        let run = |first| {
            let (subjects, bits) = (&subjects, &bits);
            scope.spawn(move || {
                let mut seen = HashMap::new();
                for seed in (first..count()).step_by(threads as usize) {
                    sequence(seed, subjects, bits, &mut seen);
                }
                seen
            })
        };
        let runs: Vec<_> = (0..threads).map(run).collect();
        runs.into_iter()
            .map(|run| run.join().unwrap())
            .fold(Seen::new(), merge)
    });
    // Every state was seen of a scope in use, and all that an unused one may inherit.
    for phase in Phase::ALL {
        let used = seen.get(&(phase, true)).copied().unwrap_or_default();
        let unused = seen.get(&(phase, false)).copied().unwrap_or_default();
        assert_eq!(used > 0, phase != Phase::Complete, "{phase}: {seen:?}");
        let inherits = !matches!(phase, Phase::Complete | Phase::Ramping | Phase::Holding);
        assert_eq!(unused > 0, inherits, "{phase}: {seen:?}");
    }
}
