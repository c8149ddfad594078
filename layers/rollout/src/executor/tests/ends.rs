//! What has an end ends by the later of the node's clock and the log's: a clock that is behind never serves more than a right one.

use super::*;
use crate::{Clock as _, Phase, live::Live, state::Mode};

const SHIFT_US: u64 = 7_200 * SECOND_US;

fn approved(state: &mut State, seq: u64, at_us: u64, ramp: (f64, f64, f64), until_us: Option<u64>) {
    let (ops, _) = keys();
    let proposal = Proposal {
        id: format!("p{seq}"),
        variant_id: Some(42),
        confidence: 0.5,
        ..Default::default()
    };
    let digest = Digest::of_proposal(&proposal).unwrap().to_string();
    let mut proposed = record(seq, at_us, &Control::new("t", at_us, SECOND_US, proposal), &ops);
    proposed.channel = Channel::Up(tenant(), "node".parse_node());
    state.fold(&proposed).unwrap();
    let (initial_percent, increment_per_minute, max_percent) = ramp;
    let approval = DownstreamMessage::Approval {
        proposal_id: format!("p{seq}"),
        proposal_digest: digest,
        rollout: Some(RolloutConfig {
            initial_percent,
            increment_per_minute,
            max_percent,
        }),
    };
    let mut control = Control::new("t", at_us, SECOND_US, approval);
    control.effective_until_us = until_us;
    state.fold(&record(seq + 1, at_us, &control, &ops)).unwrap();
}

fn forced(state: &mut State, seq: u64, at_us: u64, until_us: Option<u64>) {
    let enforce = DownstreamMessage::Enforce {
        action: EnforcementAction::SetVariant(42),
        reason: String::new(),
    };
    let mut control = Control::new("t", at_us, SECOND_US, enforce);
    control.effective_until_us = until_us;
    state.fold(&record(seq, at_us, &control, &keys().0)).unwrap();
}

/// A state with a ramp, or an enforced variant, most of them with an end within two minutes.
fn state(coin: &CoinFlip) -> State {
    let below = |limit: u64| coin.flip() % limit;
    let mut state = executor().state(&tenant()).unwrap();
    let until = |at_us: u64| (below(8) > 0).then(|| at_us + (1 + below(120)) * SECOND_US);
    let ramps = [
        (10.0, 60.0, 100.0),
        (0.0, 100.0, 100.0),
        (40.0, 0.0, 40.0),
        (100.0, 0.0, 100.0),
    ];
    let ramp = ramps[below(4) as usize];
    if below(3) == 0 {
        forced(&mut state, 1, START_US, until(START_US));
    } else {
        approved(&mut state, 1, START_US, ramp, until(START_US));
        if below(4) == 0 {
            let enforce = DownstreamMessage::Enforce {
                action: EnforcementAction::PauseAdaptation,
                reason: String::new(),
            };
            let at_us = START_US + below(20) * SECOND_US;
            let pause = Control::new("t", at_us, SECOND_US, enforce);
            let _may_be_over = state.fold(&record(3, at_us, &pause, &keys().0));
        }
    }
    state
}

/// What one node serves: the state, the share, and the variant of who is not in.
fn served(live: &Live, now_us: u64) -> (Phase, f64, u32) {
    let state = &live.states[&tenant()];
    let lane = state.lane(&Scope::TENANT);
    (
        live.phase(&tenant(), &Scope::TENANT, &lane, now_us),
        live.percent(&tenant(), &Scope::TENANT, &lane, now_us),
        lane.base(state.catalog(), live.moment(now_us), live.contact_seq)
            .id,
    )
}

#[test]
fn a_clock_that_is_behind_by_any_time_serves_no_more_and_no_longer_than_a_right_one() {
    let (mut ended, mut lower) = (0, 0);
    for seed in 0..400 {
        let coin = CoinFlip::seeded(seed);
        let below = |limit: u64| coin.flip() % limit;
        let state = state(&coin);
        let behind_us = match below(3) {
            0 => below(1_000_000),
            1 => below(60 * SECOND_US),
            _ => below(SHIFT_US),
        };
        let mut nodes = [(0, Live::new([state.clone()])), (behind_us, Live::new([state]))];
        let mut now_us = START_US;
        for step in 0..12 {
            now_us += below(20 * SECOND_US);
            let hears = step == 0 || below(3) > 0;
            for (behind_us, live) in &mut nodes {
                let here_us = now_us - *behind_us;
                if hears {
                    live.log_tells(now_us, here_us, true);
                    live.seq = 9;
                    live.contact(here_us);
                }
            }
            let [right, late] = nodes
                .each_ref()
                .map(|(behind_us, live)| served(live, now_us - behind_us));
            let shown =
                format!("seed {seed}, {behind_us} us behind: {late:?} where a right one has {right:?}");
            if right.0 == Phase::Idle {
                assert_eq!(late, right, "{shown}");
                ended += 1;
            }
            assert!(late.1 <= right.1 + 1e-9, "{shown}");
            lower += u32::from(late.1 < right.1);
            assert_eq!(late.2, right.2, "{shown}");
        }
    }
    assert!(ended > 200 && lower > 20, "{ended} ended, {lower} were lower");
}

#[test]
fn what_has_ended_by_the_log_s_time_does_not_begin_again_when_that_goes_back() {
    let mut state = executor().state(&tenant()).unwrap();
    forced(&mut state, 1, START_US, Some(START_US + 60 * SECOND_US));
    assert!(matches!(state.lane(&Scope::TENANT).mode, Mode::Forced { .. }));
    let mut live = Live::new([state]);
    let now_us = START_US + SECOND_US;
    live.seq = 9;
    live.log_tells(now_us, now_us, true);
    live.contact(now_us);
    assert_eq!(served(&live, now_us).0, Phase::Forced);
    // A leader whose clock is ahead, and then another one.
    live.log_tells(now_us + 60 * SECOND_US, now_us, true);
    assert_eq!(served(&live, now_us).0, Phase::Idle);
    live.log_tells(now_us, now_us, true);
    assert_eq!(served(&live, now_us + SECOND_US).0, Phase::Idle);
    // What ends later has not ended by that.
    let state = live.states.get_mut(&tenant()).unwrap();
    forced(state, 2, now_us, Some(now_us + 100 * SECOND_US));
    live.log_tells(now_us, now_us, true);
    assert_eq!(served(&live, now_us + 90 * SECOND_US).0, Phase::Forced);
}

/// A node on a clock, and what it tells people.
fn told_by(clock: &ManualClock) -> (Executor, Arc<std::sync::Mutex<Vec<String>>>) {
    let alerts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = alerts.clone();
    let executor = Executor::builder(&config())
        .catalog(executor().state(&tenant()).unwrap().catalog().clone())
        .clock(clock.clone())
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .on_event(move |event| {
            if let Event::Alert { message, .. } = event {
                kept.lock().unwrap().push(message);
            }
        })
        .build()
        .unwrap();
    (executor, alerts)
}

/// The log has nothing new, and says what time it is.
fn told(log_time_us: u64) -> Batch {
    Batch {
        log_time_us: Some(log_time_us),
        ..Batch::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_found_to_be_ahead_takes_back_what_it_has_raised_until_the_log_says_that_it_is_right()
{
    let clock = ManualClock::new(START_US + 300 * SECOND_US);
    let (executor, _) = told_by(&clock);
    let percent = || executor.handle().status().scope("t", "").unwrap().percent;
    let mut state = executor.state(&tenant()).unwrap();
    approved(&mut state, 1, START_US, (10.0, 10.0, 100.0), None);
    let asked = |at_us: u64| executor.shared.lock().asking_us = at_us;
    {
        let mut live = executor.shared.lock();
        live.states.insert(tenant(), state);
        live.seq = 2;
    }
    // Nobody has said what time it is.
    asked(clock.now_us());
    executor.take(Batch::default()).await;
    assert!((percent() - 60.0).abs() < 0.1, "{}", percent());
    // It is five minutes earlier, as the log says.
    asked(clock.now_us());
    executor.take(told(START_US)).await;
    assert!((percent() - 10.0).abs() < 0.1, "{}", percent());
    // A record that was stored long after the question does not show that anything is right.
    clock.advance(Duration::from_secs(1));
    let junk = Record {
        seq: 3,
        received_at_us: clock.now_us(),
        channel: Channel::Down(tenant()),
        envelope: "x".into(),
        catalog: None,
    };
    asked(clock.now_us());
    executor.take(batch(&[junk])).await;
    assert!((percent() - 10.0).abs() < 0.1, "{}", percent());
    assert!(executor.handle().status().hold.is_some());
    // The log's own word does.
    asked(clock.now_us());
    executor.take(told(clock.now_us())).await;
    assert_eq!(executor.handle().status().hold, None);
}

#[tokio::test(start_paused = true)]
async fn a_node_goes_by_the_log_s_time_also_while_it_is_cut_off_and_records_of_before_do_not_turn_it_back() {
    let behind = [SECOND_US, 29 * SECOND_US, 31 * SECOND_US, SHIFT_US];
    // It says what time it is, or has no more than the times of its records.
    for (behind_us, tells) in behind
        .iter()
        .flat_map(|behind| [(*behind, true), (*behind, false)])
    {
        let clock = ManualClock::new(START_US - behind_us);
        let (executor, alerts) = told_by(&clock);
        let enforce = DownstreamMessage::Enforce {
            action: EnforcementAction::SetVariant(42),
            reason: String::new(),
        };
        let mut control = Control::new("t", START_US, SECOND_US, enforce);
        control.effective_until_us = Some(START_US + 60 * SECOND_US);
        let force = record(1, START_US, &control, &keys().0);
        executor.take(batch(std::slice::from_ref(&force))).await;
        if tells {
            executor.take(told(START_US)).await;
        }
        let phase = || executor.handle().status().scope("t", "").unwrap().phase;
        assert_eq!(phase(), Phase::Forced);
        if tells {
            executor.take(told(START_US)).await;
        }
        let of_clock = alerts
            .lock()
            .unwrap()
            .iter()
            .filter(|of| of.contains("behind"))
            .count();
        assert_eq!(
            of_clock,
            usize::from(tells && behind_us > STEP_ALERT.as_micros() as u64),
            "once"
        );
        // What was stored long ago says nothing of now.
        let junk = Record {
            seq: 2,
            envelope: "x".into(),
            ..force
        };
        clock.advance(Duration::from_secs(30));
        executor.take(batch(&[junk])).await;
        clock.advance(Duration::from_secs(29));
        executor.tick().await;
        assert_eq!(phase(), Phase::Forced, "{behind_us}");
        clock.advance(Duration::from_secs(1));
        executor.tick().await;
        assert_eq!(phase(), Phase::Idle, "{behind_us}, by {}", clock.now_us());
    }
}
