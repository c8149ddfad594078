//! The layer on its own: the tower contract, what a request gets, who is sticky.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/served.rs"]
mod served;

use std::{convert::Infallible, time::Duration};

use arqon_message::{Claims, ConnectionId, Fraction, Sampler, Subject, TenantId};
use arqon_rollout::{
    Catalog, Clock, Cohort, Config, DownstreamMessage, EnforcementAction, Executor, Handle, KeyPair, Pin,
    PinToken, RolloutLayer, Sampling, SessionVariant, Split, SystemClock,
};
use http::{HeaderName, HeaderValue, Request, Response};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

use self::served::{assigned, by_user, node, request, roll_out, submit};

#[tokio::test]
async fn a_request_without_the_key_gets_the_baseline_even_at_a_hundred_percent() {
    let handle = node(&["default"]).await;
    roll_out(&handle, "default", "p", None, 100.0).await;
    let layer = by_user(&handle);
    assert_eq!(assigned(&layer, request("")).await.unwrap().id, 1);
    let variant = assigned(&layer, request("ada")).await.unwrap();
    assert_eq!(
        (variant.id, &*variant.name, variant.param("alpha")),
        (42, "fast", Some(0.5))
    );
    // The default key is the trace, else the connection.
    let by_trace = RolloutLayer::new(&handle);
    assert_eq!(assigned(&by_trace, request("ada")).await.unwrap().id, 1);
    let mut connected = request("");
    connected.extensions_mut().insert(ConnectionId::mint());
    assert_eq!(assigned(&by_trace, connected).await.unwrap().id, 42);
    let by_sub = RolloutLayer::new(&handle).with_key("sub".parse().unwrap());
    let mut claimed = request("");
    let claims = serde_json::json!({"sub": "ada"});
    claimed
        .extensions_mut()
        .insert(Claims::new(claims.as_object().unwrap().clone()));
    assert_eq!(assigned(&by_sub, claimed).await.unwrap().id, 42);
}

#[tokio::test]
async fn a_client_s_own_variant_header_never_arrives() {
    let handle = node(&["default"]).await;
    let forged = || {
        let mut request = request("ada");
        request
            .headers_mut()
            .insert("x-arqon-variant", HeaderValue::from_static("fast"));
        request
            .headers_mut()
            .try_append("x-arqon-variant", HeaderValue::from_static("other"))
            .unwrap();
        request
    };
    assert_eq!(
        &*assigned(&by_user(&handle), forged()).await.unwrap().name,
        "stable"
    );
    assert_eq!(assigned(&RolloutLayer::disabled(), forged()).await, None);
    // The layer looks at up to 32 names one by one, and asks a larger head for the name.
    for names in [32, 33] {
        let mut request = forged();
        for n in request.headers().keys_len()..names {
            let name = HeaderName::try_from(format!("x-{n}")).unwrap();
            request.headers_mut().insert(name, HeaderValue::from_static("1"));
        }
        assert_eq!(request.headers().keys_len(), names);
        assert_eq!(
            assigned(&RolloutLayer::disabled(), request).await,
            None,
            "{names} names"
        );
    }
}

#[tokio::test]
async fn the_tenant_and_scope_come_from_the_request() {
    let handle = node(&["a", "b"]).await;
    roll_out(&handle, "a", "whole", None, 100.0).await;
    roll_out(&handle, "b", "users", Some("in.t.b.users.>"), 100.0).await;
    let layer = by_user(&handle);
    let of = |tenant: Option<&str>, subject: Option<&str>| {
        let mut request = request("ada");
        if let Some(tenant) = tenant {
            request.extensions_mut().insert(TenantId::new(tenant).unwrap());
        }
        if let Some(subject) = subject {
            request.extensions_mut().insert(Subject::parse(subject).unwrap());
        }
        request
    };
    for (tenant, subject, expected) in [
        (Some("a"), None, Some(42)),
        (Some("b"), None, Some(1)),
        (None, Some("in.t.a.x"), Some(42)),
        (None, Some("in.t.b.users.created"), Some(42)),
        (None, Some("in.t.b.orders"), Some(1)),
        (Some("b"), Some("in.t.b.users.created"), Some(42)),
        (Some("c"), None, None),
        (None, None, None),
    ] {
        let variant = assigned(&layer, of(tenant, subject))
            .await
            .map(|variant| variant.id);
        assert_eq!(variant, expected, "{tenant:?} {subject:?}");
    }
    let stop = DownstreamMessage::Enforce {
        action: EnforcementAction::EmergencyStop,
        reason: String::new(),
    };
    submit(&handle, "a", stop).await;
    assert_eq!(assigned(&layer, of(Some("a"), None)).await.unwrap().id, 1);
    assert_eq!(
        assigned(&layer, of(None, Some("in.t.b.users.created")))
            .await
            .unwrap()
            .id,
        42
    );
}

/// Which of the users are in.
async fn cohort(layer: &RolloutLayer, users: std::ops::Range<u32>) -> Vec<bool> {
    let mut cohort = Vec::new();
    for user in users {
        cohort.push(
            assigned(layer, request(&format!("user-{user}")))
                .await
                .unwrap()
                .id
                == 42,
        );
    }
    cohort
}

#[tokio::test]
async fn every_node_gives_the_same_answer_and_a_new_proposal_another_cohort() {
    let (first, second, other) = (node(&["t"]).await, node(&["t"]).await, node(&["t"]).await);
    roll_out(&first, "t", "p", None, 30.0).await;
    roll_out(&second, "t", "p", None, 30.0).await;
    roll_out(&other, "t", "q", None, 30.0).await;
    let users = 0..2_000;
    let of_first = cohort(&by_user(&first), users.clone()).await;
    assert_eq!(of_first, cohort(&by_user(&second), users.clone()).await);
    let of_other = cohort(&by_user(&other), users).await;
    let both = of_first.iter().zip(&of_other).filter(|(a, b)| **a && **b).count();
    // 9 % of 2,000 and five sigma, not 30 %.
    assert!((117..=243).contains(&both), "{both} are in both");
}

#[tokio::test]
async fn the_rollout_and_the_shadow_sample_are_independent() {
    let handle = node(&["t"]).await;
    roll_out(&handle, "t", "p", None, 50.0).await;
    let users = 0..20_000;
    let rolled_out = cohort(&by_user(&handle), users.clone()).await;
    let (shadow, half) = (Sampler::new(0), Fraction::new(0.5).unwrap().threshold());
    let mut cells = [[0.0_f64; 2]; 2];
    for (user, rolled_out) in users.zip(rolled_out) {
        let mirrored = shadow.sample(format!("user-{user}").as_bytes(), half);
        cells[usize::from(mirrored)][usize::from(rolled_out)] += 1.0;
    }
    let total: f64 = cells.iter().flatten().sum();
    let mut chi_square = 0.0;
    for row in 0..2 {
        for column in 0..2 {
            let expected = (cells[row][0] + cells[row][1]) * (cells[0][column] + cells[1][column]) / total;
            chi_square += (cells[row][column] - expected).powi(2) / expected;
        }
    }
    println!(
        "mirrored x rolled out of {total} users: {cells:?}, chi-square {chi_square:.3} (one degree of freedom)"
    );
    // p = 1e-6.
    assert!(chi_square < 23.9, "{chi_square}");
}

/// A node whose sessions keep their variant and whose testers may pin.
async fn testers() -> (Handle, KeyPair) {
    let key = KeyPair::generate("testers").unwrap();
    let catalog =
        br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"},{"id":42,"name":"fast"}]}"#;
    let config = Config {
        enabled: true,
        allow_unsigned: true,
        tenants: vec!["t".to_owned()],
        pin_keys: vec![key.public().to_config()],
        cohort: Cohort::NewSessions,
        ..Config::default()
    };
    let executor = Executor::builder(&config)
        .catalog(Catalog::parse(catalog).unwrap())
        .build()
        .unwrap();
    let handle = executor.handle();
    tokio::spawn(executor.run());
    (handle, key)
}

async fn stop(handle: &Handle, tenant: &str) {
    let action = EnforcementAction::EmergencyStop;
    submit(
        handle,
        tenant,
        DownstreamMessage::Enforce {
            action,
            reason: String::new(),
        },
    )
    .await;
}

#[tokio::test]
async fn a_tester_s_pin_serves_any_variant_until_a_stop() {
    let (handle, key) = testers().await;
    let layer = by_user(&handle);
    let hour = SystemClock::new().now_us() + 3_600_000_000;
    let pinned = |tenant: &str, variant, expires_at_us, key: &KeyPair| {
        let token = PinToken {
            tenant: tenant.to_owned(),
            variant,
            expires_at_us,
        };
        HeaderValue::from_str(&token.sign(key)).unwrap()
    };
    let eve = KeyPair::generate("testers").unwrap();
    for (header, expected) in [
        (pinned("t", 42, hour, &key), 42),
        (pinned("t", 1, hour, &key), 1),
        (pinned("t", 7, hour, &key), 1),
        (pinned("other", 42, hour, &key), 1),
        (pinned("t", 42, 1, &key), 1),
        (pinned("t", 42, hour, &eve), 1),
        (HeaderValue::from_static("nonsense"), 1),
    ] {
        let mut by_header = request("ada");
        by_header.headers_mut().insert("x-arqon-pin", header.clone());
        assert_eq!(assigned(&layer, by_header).await.unwrap().id, expected);
        let mut by_extension = request("ada");
        by_extension.extensions_mut().insert(Pin(header));
        assert_eq!(assigned(&layer, by_extension).await.unwrap().id, expected);
    }
    stop(&handle, "t").await;
    let mut stopped = request("ada");
    stopped
        .headers_mut()
        .insert("x-arqon-pin", pinned("t", 42, hour, &key));
    assert_eq!(assigned(&layer, stopped).await.unwrap().id, 1);
}

#[tokio::test]
async fn an_open_session_keeps_its_variant_until_it_is_no_longer_served() {
    let (handle, _) = testers().await;
    let layer = by_user(&handle);
    let open = |layer: &RolloutLayer| {
        let (upgrade, ()) = request("ada").into_parts();
        layer.session(&upgrade.headers, &upgrade.extensions)
    };
    let early = open(&layer);
    let old = assigned(&layer, request("ada")).await.unwrap();
    roll_out(&handle, "t", "p", None, 100.0).await;
    let new = assigned(&layer, request("ada")).await.unwrap();
    let later = open(&layer);
    let frame = |session: &SessionVariant| {
        let mut frame = request("ada");
        frame.extensions_mut().insert(session.clone());
        frame
    };
    assert_eq!((old.id, new.id), (1, 42));
    assert_eq!(assigned(&layer, frame(&early)).await.unwrap().id, 1);
    assert_eq!(assigned(&layer, frame(&later)).await.unwrap().id, 42);
    stop(&handle, "t").await;
    assert_eq!(assigned(&layer, frame(&later)).await.unwrap().id, 1);
}

#[tokio::test]
async fn a_frame_without_the_key_goes_by_the_upgrades() {
    let handle = node(&["t"]).await;
    roll_out(&handle, "t", "p", None, 50.0).await;
    let layer = by_user(&handle);
    let mut seen = [0, 0];
    for user in 0..100 {
        let (upgrade, ()) = request(&format!("user-{user}")).into_parts();
        let session = layer.session(&upgrade.headers, &upgrade.extensions);
        let asked = assigned(&layer, Request::from_parts(upgrade, ()))
            .await
            .unwrap()
            .id;
        let mut frame = Request::new(());
        frame.extensions_mut().insert(TenantId::new("t").unwrap());
        frame.extensions_mut().insert(session);
        assert_eq!(assigned(&layer, frame).await.unwrap().id, asked, "user {user}");
        seen[usize::from(asked == 42)] += 1;
    }
    assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
}

#[tokio::test]
async fn random_sampling_flips_a_coin_for_each_request() {
    let handle = node(&["t"]).await;
    roll_out(&handle, "t", "p", None, 50.0).await;
    let layer = by_user(&handle).with_sampling(Sampling::Random);
    let mut fast = 0;
    for _ in 0..2_000 {
        fast += usize::from(assigned(&layer, request("ada")).await.unwrap().id == 42);
    }
    assert!((888..=1_112).contains(&fast), "{fast}");
}

#[tokio::test]
async fn split_sends_variants_to_their_services() {
    let handle = node(&["t"]).await;
    roll_out(&handle, "t", "p", None, 50.0).await;
    let answer = |text: &'static str| {
        service_fn(move |_: Request<()>| std::future::ready(Ok::<_, Infallible>(Response::new(text))))
            .boxed_clone()
    };
    let split = Split::new(answer("old"))
        .variant(42, answer("none"))
        .variant(42, answer("new"));
    let mut service = by_user(&handle).layer(split);
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..64 {
        let response = service
            .ready()
            .await
            .unwrap()
            .call(request(&user.to_string()))
            .await
            .unwrap();
        let expected = if response.headers()["x-arqon-variant"] == "fast" {
            "new"
        } else {
            "old"
        };
        assert_eq!(*response.body(), expected);
        seen.insert(expected);
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn the_readied_inner_is_called_and_its_error_passes_untouched() {
    let handle = node(&["t"]).await;
    let layer = by_user(&handle);
    let (mut service, mut inner) =
        mock::spawn_with(|inner: mock::Mock<Request<()>, Response<()>>| layer.layer(inner));
    inner.allow(0);
    assert!(service.poll_ready().is_pending());
    inner.allow(1);
    assert!(service.poll_ready().is_ready());
    // tower-test panics when a clone that was not ready is called.
    let response = service.call(request("ada"));
    let (handed_on, respond) = inner.next_request().await.unwrap();
    assert_eq!(handed_on.headers()["x-arqon-variant"], "stable");
    respond.send_response(Response::new(()));
    assert_eq!(response.await.unwrap().headers()["x-arqon-variant"], "stable");

    inner.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service.call(request("ada"));
    let (_, respond) = inner.next_request().await.unwrap();
    respond.send_error("inner broke");
    assert_eq!(response.await.unwrap_err().to_string(), "inner broke");

    inner.send_error("gone");
    assert!(matches!(service.poll_ready(), std::task::Poll::Ready(Err(_))));
}

#[tokio::test]
async fn dropping_the_response_future_cancels_the_inner_one() {
    let handle = node(&["t"]).await;
    let layer = by_user(&handle);
    let (mut service, mut inner) =
        mock::spawn_with(|inner: mock::Mock<Request<()>, Response<()>>| layer.layer(inner));
    inner.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service.call(request("ada"));
    let (_, respond) = inner.next_request().await.unwrap();
    drop(response);
    // Nobody waits any more; answering is not an error.
    respond.send_response(Response::new(()));
    tokio::time::timeout(Duration::from_secs(5), async {
        inner.allow(1);
        while service.poll_ready().is_pending() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_disabled_layer_hands_the_request_on_without_a_variant() {
    assert_eq!(assigned(&RolloutLayer::disabled(), request("ada")).await, None);
}

#[tokio::test]
async fn a_request_body_is_never_touched() {
    struct Untouchable;
    let handle = node(&["t"]).await;
    let inner = service_fn(|request: Request<Untouchable>| async move {
        let Untouchable = request.into_body();
        Ok::<_, Infallible>(Response::new(()))
    });
    let request = Request::new(Untouchable);
    assert!(by_user(&handle).layer(inner).oneshot(request).await.is_ok());
}

#[tokio::test]
async fn a_submission_can_be_awaited_on_any_thread() {
    let handle = node(&["t"]).await;
    let submitted = tokio::spawn(async move { handle.submit(b"{}").await })
        .await
        .unwrap();
    assert!(submitted.is_err());
}

#[test]
fn a_layer_and_its_service_go_everywhere() {
    fn goes<T: Clone + Send + Sync + 'static>() {}
    goes::<RolloutLayer>();
    goes::<arqon_rollout::Rollout<()>>();
    goes::<Handle>();
    goes::<KeyPair>();
}
