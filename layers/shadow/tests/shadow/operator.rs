//! What an operator changes and reads while the mirror runs.

use std::sync::{Arc, Mutex};

use arqon_message::Fraction;
use arqon_shadow::{RecordingSink, RuleConfig, SessionPin, ShadowConfig, ShadowEvent, ShadowLayer};
use bytes::Bytes;
use http_body_util::Full;

use super::support::*;

async fn sampled(rig: &Rig, keys: u32) -> Vec<u32> {
    let mut chosen = Vec::new();
    for n in 1..=keys {
        let before = rig.handle.stats().sampled;
        send(
            &rig.layer,
            traced(&format!("{n:032x}"), Full::<Bytes>::default()),
            echo,
        )
        .await;
        chosen.extend((rig.handle.stats().sampled > before).then_some(n));
    }
    chosen
}

#[tokio::test]
async fn a_percent_changes_at_run_time_and_keys_stay_where_they_were() {
    let rig = rig(&ShadowConfig::default().rule(RuleConfig::new("in.>", 0.05)));
    let percent = |share| {
        rig.handle
            .set_percent("in.>", Fraction::new(share).expect("share"))
            .expect("rule")
    };
    let five = sampled(&rig, 300).await;
    percent(0.20);
    let twenty = sampled(&rig, 300).await;
    assert!(five.len() < twenty.len() && five.iter().all(|n| twenty.contains(n)));
    percent(0.05);
    assert_eq!(sampled(&rig, 300).await, five);
    percent(0.0);
    assert!(sampled(&rig, 300).await.is_empty());
    percent(1.0);
    assert_eq!(sampled(&rig, 300).await.len(), 300);
    let unknown = rig
        .handle
        .set_percent("in.x", Fraction::ONE)
        .expect_err("unknown");
    assert_eq!(unknown.to_string(), "no mirroring rule has the pattern \"in.x\"");
}

#[tokio::test]
async fn a_pinned_session_stays_on_its_side_until_mirroring_is_taken_away() {
    // The key lies at 0.85 of the range.
    let rig = rig(&ShadowConfig::default().rule(RuleConfig::new("in.>", 0.9)));
    let percent = |share| {
        rig.handle
            .set_percent("in.>", Fraction::new(share).expect("share"))
            .expect("rule")
    };
    let (session, later) = (SessionPin::new(), SessionPin::new());
    let chosen = async |pin: Option<&SessionPin>| {
        let before = rig.handle.stats().sampled;
        let mut frame = request(Full::<Bytes>::default());
        if let Some(pin) = pin {
            frame.extensions_mut().insert(pin.clone());
        }
        send(&rig.layer, frame, echo).await;
        rig.handle.stats().sampled > before
    };
    assert!(chosen(Some(&session)).await);
    percent(0.5);
    assert!(chosen(Some(&session)).await, "begun at 90 %");
    assert!(
        !chosen(Some(&later)).await && !chosen(None).await,
        "begun at 50 %"
    );
    percent(1.0);
    assert!(!chosen(Some(&later)).await && chosen(None).await);
    // Pinned at its upgrade, not at its first frame.
    let unused = rig.handle.session();
    percent(0.5);
    assert!(chosen(Some(&unused)).await, "begun at 100 %");
    percent(0.0);
    assert!(!chosen(Some(&session)).await, "0 holds for everyone");
    percent(0.5);
    rig.handle.set_enabled(false);
    assert!(!chosen(Some(&session)).await);
    rig.handle.set_enabled(true);
    assert!(chosen(Some(&session)).await);
    rig.handle
        .reload(&ShadowConfig::default().rule(RuleConfig::new("out.>", 1.0)))
        .expect("valid");
    assert!(!chosen(Some(&session)).await, "the rule is gone");
}

#[tokio::test]
async fn a_session_keeps_its_share_and_nothing_else_of_its_rule() {
    let rig = rig(&all());
    let elsewhere = self::rig(&ShadowConfig::default().rule(RuleConfig::new("in.>", 0.0)));
    let session = rig.handle.session();
    let frame = |body: &'static str, pin: &SessionPin| {
        let mut frame = request(Full::from(body));
        frame
            .headers_mut()
            .insert("x-api-key", http::HeaderValue::from_static("secret"));
        frame.extensions_mut().insert(pin.clone());
        frame
    };
    let send = async |frame| send(&rig.layer, frame, echo).await;
    send(frame("before", &session)).await;
    let now = RuleConfig::new("in.>", 0.001)
        .with_strip_headers(["x-api-key"])
        .with_max_body_bytes(10);
    rig.handle
        .reload(&ShadowConfig::default().rule(now.clone()))
        .expect("valid");
    send(frame("small", &session)).await;
    send(frame("more than ten bytes", &session)).await;
    // Another mirror's pin is none of this one's: by its rules nothing would be chosen, and by ours this key is not.
    let foreign = elsewhere.handle.session();
    send(frame("foreign", &foreign)).await;
    rig.handle
        .reload(&ShadowConfig::default().rule(now.with_methods(["GET"])))
        .expect("valid");
    send(frame("no GET", &session)).await;
    rig.handle.reload(&all()).expect("valid");
    send(frame("foreign, all", &foreign)).await;
    let (stats, copies) = rig.settled().await;
    let seen: Vec<_> = copies
        .iter()
        .map(|copy| {
            let body = std::str::from_utf8(&copy.body).expect("text").to_owned();
            (body, copy.headers().contains_key("x-api-key"))
        })
        .collect();
    let wanted = [("before", true), ("small", false), ("foreign, all", true)];
    assert_eq!(seen, wanted.map(|(body, key)| (body.to_owned(), key)));
    assert_eq!(stats.dropped_by(arqon_shadow::Reason::BodyTooLarge), 1);
}

#[tokio::test]
async fn a_reload_takes_over_all_or_nothing_and_goes_on_counting() {
    let rig = rig(&all());
    sampled(&rig, 3).await;
    let bad = ShadowConfig::default().rule(RuleConfig::new("in.", 10.0));
    let refused = rig.handle.reload(&bad).expect_err("refused");
    assert_eq!(refused.findings().len(), 2);
    assert!(
        refused
            .to_string()
            .contains("\n  rules[0].percent = 10: is not a share")
    );
    assert_eq!(sampled(&rig, 2).await.len(), 2);

    let good = ShadowConfig::default()
        .rule(RuleConfig::new("out.>", 1.0))
        .rule(rule().with_methods(["GET"]));
    rig.handle.reload(&good).expect("valid");
    assert!(sampled(&rig, 2).await.is_empty());
    let state = rig.handle.state();
    assert_eq!(
        (
            state.rules.len(),
            state.rules[1].prefix.as_str(),
            state.rules[1].sampled
        ),
        (2, "in.>", 5)
    );

    rig.handle.reload(&all()).expect("valid");
    rig.handle.set_enabled(false);
    assert!(sampled(&rig, 2).await.is_empty());
    rig.handle.set_enabled(true);
    assert_eq!(sampled(&rig, 2).await.len(), 2);
}

#[tokio::test]
async fn a_disabled_mirror_mirrors_nothing() {
    let mut config = all();
    config.enabled = false;
    assert!(sampled(&rig(&config), 5).await.is_empty());
    assert!(sampled(&rig(&ShadowConfig::default()), 5).await.is_empty());
}

#[tokio::test]
async fn a_change_of_rules_is_told() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&events);
    let on_event = Arc::new(move |event| told.lock().expect("lock").push(event));
    let (_layer, handle, _drain) =
        ShadowLayer::channel_with_events(&all(), RecordingSink::new(1), on_event).expect("config");
    handle.set_enabled(false);
    assert_eq!(
        *events.lock().expect("lock"),
        [ShadowEvent::RulesChanged { rules: 1 }]
    );
}

#[tokio::test]
async fn the_state_is_json_with_every_reason_in_it() {
    let rig = rig(&all());
    sampled(&rig, 2).await;
    rig.sink.recorded(2).await;
    let state = serde_json::to_value(rig.handle.state()).expect("json");
    assert_eq!(state["rules"][0]["prefix"], "in.>");
    assert_eq!(state["rules"][0]["effective"], 1.0);
    assert!(state.get("seed").is_none(), "who knows it can choose to be in");
    assert_eq!(
        (&state["sampled"], &state["dropped"]["queue_full"]),
        (&2.into(), &0.into())
    );
    assert_eq!(state["dropped"].as_object().expect("object").len(), 12);
}

#[tokio::test]
async fn a_recording_keeps_the_latest() {
    let sink = RecordingSink::new(2);
    let (layer, handle, _drain) = with_sink(&all(), sink.clone());
    for n in 1..=4_u32 {
        send(
            &layer,
            traced(&format!("{n:032x}"), Full::<Bytes>::default()),
            echo,
        )
        .await;
    }
    sink.recorded(4).await;
    let keys: Vec<_> = sink
        .copies()
        .iter()
        .map(|copy| copy.key.as_str().trim_start_matches('0').to_owned())
        .collect();
    assert_eq!((keys, sink.total()), (vec!["3".to_owned(), "4".to_owned()], 4));
    handle.shutdown(std::time::Duration::from_secs(1)).await;
}
