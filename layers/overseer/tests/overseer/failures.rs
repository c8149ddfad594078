//! What happens to a request for which a policy gives no verdict, and to the next one.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use arqon_message::{Claims, Rejection, Subject, TenantId};
use arqon_overseer::{Event, FailureConfig, OverseerConfig, OverseerLayer, PolicyConfig, RecordedRequest};
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};

use crate::guests::{BLOCK_ME, busy, get, layer, module, on_request, run, run_wat, small};

/// Every way to end without a verdict, and the cause it is put down to.
fn failing() -> Vec<(&'static str, String)> {
    vec![
        ("trap", on_request("unreachable")),
        (
            "trap",
            on_request("(i32.div_u (i32.const 1) (i32.load (i32.const 0)))"),
        ),
        ("trap", on_request("(i32.load (i32.const 65536))")),
        ("trap", on_request("(i32.trunc_f32_s (f32.const nan))")),
        (
            "trap",
            module(
                "(table 1 funcref) (type $t (func (result i32))) (func (export \"on_request\") (result i32) (call_indirect (type $t) (i32.const 0)))",
            ),
        ),
        ("fuel", busy()),
        (
            "fuel",
            on_request(
                "(loop $again (call $host_log (i32.const 4) (i32.const 0) (i32.const 0)) (br $again)) (i32.const 0)",
            ),
        ),
        (
            "fuel",
            on_request(
                "(loop $again (drop (call $host_get_header (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 0))) (br $again)) (i32.const 0)",
            ),
        ),
        (
            "fuel",
            on_request(
                "(loop $again (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)) (br $again)) (i32.const 0)",
            ),
        ),
        (
            "memory",
            on_request(
                "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable",
            ),
        ),
        (
            "stack",
            module(
                "(func $deep (result i32) (i32.add (call $deep) (i32.const 1))) (func (export \"on_request\") (result i32) (call $deep))",
            ),
        ),
    ]
}

async fn ask(
    layer: &OverseerLayer,
    request: Request<Body>,
) -> Response<impl http_body::Body<Data = bytes::Bytes, Error = axum::Error> + use<>> {
    let inner = tower::service_fn(|request: Request<arqon_message::MessageBody<Body>>| async move {
        let headers = request.headers().clone();
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let mut response = Response::new(Body::from(bytes));
        *response.headers_mut() = headers;
        Ok::<_, Infallible>(response)
    });
    layer.layer(inner).oneshot(request).await.unwrap()
}

fn code<B>(response: &Response<B>) -> Option<&str> {
    response
        .extensions()
        .get::<Rejection>()
        .map(|rejection| rejection.problem().code.as_str())
}

#[tokio::test]
async fn each_cause_refuses_with_its_code_and_the_next_request_is_unaffected() {
    for (cause, wat) in failing() {
        // Fuel enough to overflow the stack.
        let config = OverseerConfig {
            fuel_limit: Some(3_000_000),
            ..small([
                PolicyConfig {
                    methods: vec!["POST".to_owned()],
                    ..PolicyConfig::from_module("fails", wat.clone())
                },
                PolicyConfig::from_module("block_me", BLOCK_ME),
            ])
        };
        let layer = OverseerLayer::new(config).unwrap();
        for _ in 0..2 {
            let response = ask(&layer, Request::post("/").body(Body::empty()).unwrap()).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{wat}");
            assert_eq!(
                code(&response),
                Some(format!("overseer.{cause}").as_str()),
                "{wat}"
            );
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let text = std::str::from_utf8(&body).unwrap();
            assert!(
                !text.contains("wasm trap") && !text.contains("unreachable"),
                "only the class is told: {text}"
            );
        }
        assert_eq!(ask(&layer, get("/")).await.status(), StatusCode::OK, "{wat}");
    }
}

#[test]
fn test_fuel_exhaustion() {
    // Deterministic: the same fuel on every run, and all of it is gone.
    let outcomes: Vec<_> = (0..3).map(|_| run_wat(&busy())).collect();
    for outcome in &outcomes {
        assert_eq!(outcome.cause.as_deref(), Some("fuel"));
        assert_eq!(outcome.fuel, 10_000_000);
    }
    let block = PolicyConfig::from_module("block_me", BLOCK_ME);
    let fuel: Vec<_> = (0..3)
        .map(|_| run(&block, &RecordedRequest::default()).fuel)
        .collect();
    assert!(
        fuel[0] > 500 && fuel.iter().all(|other| *other == fuel[0]),
        "{fuel:?}"
    );
}

#[tokio::test]
async fn a_guest_that_outlives_its_deadline_is_stopped() {
    let config = OverseerConfig {
        fuel_limit: Some(u64::MAX / 4),
        deadline: Some("5ms".to_owned()),
        ..small([PolicyConfig::from_module("busy", busy())])
    };
    let layer = OverseerLayer::new(config).unwrap();
    let response = ask(&layer, get("/")).await;
    assert_eq!(code(&response), Some("overseer.deadline"));
}

#[tokio::test]
async fn failure_open_lets_the_request_pass_and_says_so() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let table = BTreeMap::from([("trap".to_owned(), "open".to_owned())]);
    let policy = PolicyConfig {
        failure: FailureConfig::ByCause(table),
        ..PolicyConfig::from_module("fails", on_request("unreachable"))
    };
    let (layer, _handle) = OverseerLayer::channel_with(
        small([policy.clone()]),
        Arc::new(move |event| seen.lock().unwrap().push(event)),
    )
    .unwrap();
    assert_eq!(ask(&layer, get("/")).await.status(), StatusCode::OK);
    assert!(matches!(&events.lock().unwrap()[..], [Event::FailedOpen { name, .. }] if name == "fails"));

    // Another cause stays closed.
    let policy = PolicyConfig {
        module: Some(busy().into()),
        ..policy
    };
    let layer = OverseerLayer::new(small([policy])).unwrap();
    assert_eq!(code(&ask(&layer, get("/")).await), Some("overseer.fuel"));
}

#[tokio::test]
async fn a_module_that_cannot_be_loaded_may_be_let_be_by_the_operator() {
    let table = BTreeMap::from([("load".to_owned(), "open".to_owned())]);
    let policy = PolicyConfig {
        failure: FailureConfig::ByCause(table),
        ..PolicyConfig::from_path("gone", "/nonexistent/gone.wasm")
    };
    let layer = layer(policy);
    assert_eq!(ask(&layer, get("/")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn monitor_counts_and_changes_nothing() {
    let edits_then_denies = module(
        r#"(data (i32.const 0) "x-role")
           (func (export "on_request") (result i32)
             (drop (call $host_set_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 6)))
             (i32.eqz (call $host_payload_len)))"#,
    );
    for wat in [edits_then_denies, on_request("unreachable")] {
        let layer = layer(PolicyConfig {
            mode: "monitor".to_owned(),
            ..PolicyConfig::from_module("watch", wat)
        });
        for body in [Body::empty(), Body::from("x")] {
            let response = ask(&layer, Request::post("/").body(body).unwrap()).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert!(response.headers().get("x-role").is_none());
        }
        // A body over the cap, or of unknown length, is none of its business.
        let large = Request::post("/").body(Body::from(vec![0; 2 << 20])).unwrap();
        assert_eq!(ask(&layer, large).await.status(), StatusCode::OK);
        let frames = [Ok::<_, Infallible>("part"), Ok("part")];
        let unknown = Request::post("/")
            .body(Body::from_stream(futures_util::stream::iter(frames)))
            .unwrap();
        assert_eq!(ask(&layer, unknown).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn nothing_is_applied_unless_the_whole_chain_allowed() {
    let adds = module(
        r#"(data (i32.const 0) "x-role") (data (i32.const 16) "user")
           (func (export "on_request") (result i32)
             (call $host_add_header (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 4)))"#,
    );
    let fails_open = PolicyConfig {
        failure: FailureConfig::Same("open".to_owned()),
        ..PolicyConfig::from_module(
            "late",
            module(
                r#"(data (i32.const 0) "x-late")
               (func (export "on_request") (result i32)
                 (drop (call $host_add_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 1)))
                 unreachable)"#,
            ),
        )
    };
    let layer = OverseerLayer::new(small([
        PolicyConfig::from_module("adds", adds),
        fails_open,
        PolicyConfig::from_module("block_me", BLOCK_ME),
    ]))
    .unwrap();
    let request = |block: bool| {
        let mut request = Request::get("/")
            .header("x-role", "forged")
            .header("x-role", "again");
        if block {
            request = request.header("x-block-me", "1");
        }
        request.body(Body::empty()).unwrap()
    };
    let allowed = ask(&layer, request(false)).await;
    assert_eq!(
        allowed.headers().get_all("x-role").iter().collect::<Vec<_>>(),
        ["user"],
        "no client pre-sets it"
    );
    assert!(
        allowed.headers().get("x-late").is_none(),
        "what a failed policy did is undone"
    );
    let refused = ask(&layer, request(true)).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(refused.headers().get("x-role").is_none());
}

#[tokio::test]
async fn a_later_policy_sees_what_an_earlier_one_made_of_the_payload() {
    let redacts = module(
        r#"(data (i32.const 0) "***")
           (func (export "on_request") (result i32) (call $host_set_payload (i32.const 0) (i32.const 3)))"#,
    );
    let requires_three = on_request("(i32.ne (call $host_payload_len) (i32.const 3))");
    let layer = OverseerLayer::new(small([
        PolicyConfig {
            grants: vec!["rewrite".to_owned()],
            ..PolicyConfig::from_module("redact", redacts)
        },
        PolicyConfig::from_module("three", requires_three),
    ]))
    .unwrap();
    let request = Request::post("/")
        .header("content-length", "11")
        .header("content-digest", "sha-256=:x:")
        .body(Body::from("secret data"))
        .unwrap();
    let response = ask(&layer, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-length"], "3");
    assert!(response.headers().get("content-digest").is_none());
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "***");
}

#[tokio::test]
async fn scopes_decide_who_is_looked_at() {
    let denies = || PolicyConfig::from_module("denies", on_request("(i32.const 1)"));
    let layer = layer(PolicyConfig {
        subject: Some("in.t.*.users.>".to_owned()),
        methods: vec!["POST".to_owned()],
        route: Some("/v1/publish/{suffix}".to_owned()),
        tenant: Some("acme".to_owned()),
        ..denies()
    });
    let ask = |method: &str, path: &str, subject: &str| {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(Subject::parse(subject).unwrap());
        let layer = layer.clone();
        async move { ask(&layer, request).await.status().as_u16() }
    };
    assert_eq!(
        ask("POST", "/v1/publish/users.created", "in.t.acme.users.created").await,
        403
    );
    assert_eq!(
        ask("PUT", "/v1/publish/users.created", "in.t.acme.users.created").await,
        200
    );
    assert_eq!(
        ask("POST", "/v1/other/users.created", "in.t.acme.users.created").await,
        200
    );
    assert_eq!(
        ask("POST", "/v1/publish/users.created", "in.t.acme.orders.created").await,
        200
    );
    assert_eq!(
        ask("POST", "/v1/publish/users.created", "in.t.other.users.created").await,
        200
    );
}

#[tokio::test]
async fn a_rejection_may_end_the_session() {
    for (on_reject, closes) in [("close", true), ("nack", false)] {
        let policy = PolicyConfig {
            on_reject: on_reject.to_owned(),
            ..PolicyConfig::from_module("no", on_request("(i32.const 1)"))
        };
        let response = ask(&layer(policy), get("/")).await;
        assert_eq!(
            response.extensions().get::<Rejection>().unwrap().closes_session(),
            closes
        );
    }
}

#[tokio::test]
async fn responses_are_amended_or_refused() {
    let wat = module(
        r#"(data (i32.const 0) "x-seen") (data (i32.const 16) "status") (data (i32.const 32) "server") (data (i32.const 48) "x-refuse")
           (func (export "on_request") (result i32) (i32.const 0))
           (func (export "on_response") (result i32)
             (drop (call $host_get_property (i32.const 16) (i32.const 6) (i32.const 100) (i32.const 3)))
             (drop (call $host_set_header (i32.const 0) (i32.const 6) (i32.const 100) (i32.const 3)))
             (drop (call $host_remove_header (i32.const 32) (i32.const 6)))
             (i32.ge_s (call $host_get_header (i32.const 48) (i32.const 8) (i32.const 0) (i32.const 0)) (i32.const 0)))"#,
    );
    let layer = layer(PolicyConfig::from_module("responses", wat));
    // The inner service echoes the request's headers.
    let request = |name: &str| {
        Request::get("/")
            .header("server", "secret")
            .header(name, "1")
            .body(Body::empty())
            .unwrap()
    };
    let response = ask(&layer, request("x-fine")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-seen"], "200");
    assert!(response.headers().get("server").is_none());
    let refused = ask(&layer, request("x-refuse")).await;
    assert_eq!(
        (refused.status(), code(&refused)),
        (StatusCode::FORBIDDEN, Some("overseer.denied"))
    );
    assert!(refused.headers().get("server").is_none());
}

#[tokio::test]
async fn what_one_request_was_given_is_not_given_to_the_next() {
    let adds = PolicyConfig {
        methods: vec!["POST".to_owned()],
        ..PolicyConfig::from_module(
            "adds",
            module(
                r#"(data (i32.const 0) "x-role")
                   (func (export "on_request") (result i32)
                     (call $host_add_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 6)))"#,
            ),
        )
    };
    let layer = OverseerLayer::new(small([adds, PolicyConfig::from_module("block_me", BLOCK_ME)])).unwrap();
    // The inner service echoes the request's headers.
    for _ in 0..3 {
        let given = ask(&layer, Request::post("/").body(Body::empty()).unwrap()).await;
        assert_eq!(given.headers().get_all("x-role").iter().count(), 1);
        let next = ask(&layer, get("/")).await;
        assert!(next.headers().get("x-role").is_none());
    }
}

#[tokio::test]
async fn a_look_at_a_response_knows_who_asked() {
    let knows = module(
        r#"(data (i32.const 0) "sub") (data (i32.const 16) "tenant")
           (func (export "on_response") (result i32)
             (i32.or
               (i32.ne (call $host_get_claim (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 0)) (i32.const 2))
               (i32.ne (call $host_get_property (i32.const 16) (i32.const 6) (i32.const 0) (i32.const 0)) (i32.const 4))))"#,
    );
    let layer = layer(PolicyConfig::from_module("knows", knows));
    let mut request = get("/");
    let claims = serde_json::json!({ "sub": "u1" });
    request
        .extensions_mut()
        .insert(Claims::new(claims.as_object().unwrap().clone()));
    request.extensions_mut().insert(TenantId::new("acme").unwrap());
    assert_eq!(ask(&layer, request).await.status(), StatusCode::OK);
    assert_eq!(ask(&layer, get("/")).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_policy_of_one_tenant_does_not_look_at_anothers_requests() {
    let layer = layer(PolicyConfig {
        tenant: Some("acme".to_owned()),
        ..PolicyConfig::from_module("denies", on_request("(i32.const 1)"))
    });
    for (tenant, status) in [("acme", StatusCode::FORBIDDEN), ("other", StatusCode::OK)] {
        let mut request = get("/");
        request.extensions_mut().insert(TenantId::new(tenant).unwrap());
        assert_eq!(ask(&layer, request).await.status(), status, "{tenant}");
    }
}

#[test]
fn fuel_counts_from_the_call_and_every_byte_the_host_touches() {
    let fuel = |start: &str, len: u32| {
        run_wat(&module(&format!(
            r#"{start} (func (export "on_request") (result i32)
                 (call $host_log (i32.const 4) (i32.const 0) (i32.const {len})) (i32.const 0))"#
        )))
        .fuel
    };
    let starts = r#"(func $work (local $i i32)
        (loop $again (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000)))))
        (start $work)"#;
    assert_eq!(fuel(starts, 0), fuel("", 0), "start functions have their own");
    assert_eq!(fuel("", 100), fuel("", 0) + 100);
}
