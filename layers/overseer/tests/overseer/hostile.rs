//! Modules and guests made to break the host: mutated bytes, random scripts of host calls, deep stacks, soiled memory.

use std::{
    convert::Infallible,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig, PolicyEngine, RecordedRequest};
use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Request, Response, StatusCode};
use proptest::prelude::*;
use tower::{Layer, ServiceExt};

use crate::{
    guests::{BLOCK_ME, get, module, small},
    targets::SCRIPTED,
};

/// Numbers a script may hold: edges, small ones, pointers into the payload.
fn argument() -> impl Strategy<Value = u32> {
    prop_oneof![
        prop::sample::select(vec![
            0,
            1,
            20,
            32_768,
            65_535,
            65_536,
            131_071,
            131_072,
            131_073,
            4 << 20,
            i32::MAX as u32,
            1 << 31,
            u32::MAX
        ]),
        0_u32..300,
        32_768_u32..33_500,
        any::<u32>(),
    ]
}

fn scripts() -> impl Strategy<Value = Vec<u8>> {
    let record = (0_u32..13, prop::array::uniform4(argument()));
    prop::collection::vec(record, 0..40).prop_map(|records| {
        records
            .into_iter()
            .flat_map(|(call, arguments)| {
                call.to_le_bytes()
                    .into_iter()
                    .chain(arguments.into_iter().flat_map(u32::to_le_bytes))
                    .collect::<Vec<_>>()
            })
            .chain(b"x-name".iter().copied())
            .collect()
    })
}

#[test]
fn no_script_of_host_calls_breaks_the_host_and_each_replays_alike() {
    let engine = PolicyEngine::new().unwrap();
    let policy = PolicyConfig {
        grants: vec!["rewrite".to_owned()],
        config: Some("text".to_owned()),
        ..PolicyConfig::from_module("scripted", SCRIPTED)
    };
    let policy = engine.load(&policy).unwrap_or_else(|report| panic!("{report}"));
    let allowed = AtomicUsize::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1_500,
        ..ProptestConfig::default()
    });
    runner
        .run(&scripts(), |script| {
            let request: RecordedRequest = serde_json::from_value(serde_json::json!({
                "headers": {"x-name": "value"}, "subject": "in.t.acme.users", "claims": {"sub": "u1"},
                "body_base64": STANDARD.encode(&script),
            }))
            .unwrap();
            let outcome = engine.validate_with_context(&policy, &request).unwrap();
            let known = [None, Some("denied"), Some("trap"), Some("fuel"), Some("memory")];
            prop_assert!(known.contains(&outcome.cause.as_deref()), "{outcome:?}");
            prop_assert!(outcome.headers.len() <= 32 && outcome.logs.len() <= 32);
            prop_assert!(
                outcome
                    .reason
                    .as_ref()
                    .is_none_or(|reason| reason.len() <= 256 || outcome.cause.as_deref() != Some("denied"))
            );
            allowed.fetch_add(usize::from(outcome.allows()), Ordering::Relaxed);
            prop_assert_eq!(engine.validate_with_context(&policy, &request).unwrap(), outcome);
            Ok(())
        })
        .unwrap();
    assert!(allowed.into_inner() > 10, "some scripts get through to their end");
}

#[test]
fn mutated_modules_load_or_are_refused() {
    // A small generator with a fixed seed, so that a failure comes again (splitmix64).
    let mut state = 0x5eed_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).unwrap()
    };
    let engine = PolicyEngine::new().unwrap();
    let originals = [
        wat::parse_str(BLOCK_ME).unwrap(),
        wat::parse_str(SCRIPTED).unwrap(),
        include_bytes!("../fixtures/log.wasm").to_vec(),
    ];
    let (mut loaded, mut refused) = (0, 0);
    for at in 0..10_000 {
        let mut bytes = originals[at % originals.len()].clone();
        for _ in 0..=random(3) {
            let place = random(bytes.len());
            match random(4) {
                0 => bytes[place] ^= 1 << random(8),
                1 => bytes[place] = u8::try_from(random(256)).unwrap(),
                2 => bytes.truncate(place.max(9)),
                _ => bytes.insert(place, u8::try_from(random(256)).unwrap()),
            }
        }
        let report = engine.check(&PolicyConfig::from_module("mutant", bytes));
        if report.ok {
            loaded += 1
        } else {
            refused += 1
        }
        assert_eq!(report.ok, report.errors().next().is_none());
    }
    assert!(
        loaded > 0 && refused > 5_000,
        "{loaded} loaded, {refused} refused"
    );
}

/// Set in the child that runs a guest near the end of the host's stack.
const CHILD: &str = "ARQON_TEST_STACK_CHILD";

#[test]
fn a_guest_that_recurses_for_ever_is_a_trap_even_on_a_small_stack() {
    if let Ok(bytes) = std::env::var(CHILD) {
        std::thread::Builder::new()
            .stack_size(bytes.parse().unwrap())
            .spawn(recurse)
            .unwrap()
            .join()
            .unwrap();
        return;
    }
    let name = "hostile::a_guest_that_recurses_for_ever_is_a_trap_even_on_a_small_stack";
    for bytes in ["2097152", "1048576"] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads", "1"])
            .env(CHILD, bytes)
            .output()
            .unwrap();
        assert!(child.status.success(), "{bytes} bytes: {child:?}");
    }
}

fn recurse() {
    let wat = module(
        "(func $deep (param i64 i64 i64 i64) (result i32)
           (i32.add (call $deep (local.get 1) (local.get 2) (local.get 3) (local.get 0)) (i32.const 1)))
         (func (export \"on_request\") (result i32) (call $deep (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))",
    );
    let engine = PolicyEngine::new().unwrap();
    let policy = engine.load(&PolicyConfig::from_module("deep", wat)).unwrap();
    let outcome = engine
        .validate_with_context(&policy, &RecordedRequest::default())
        .unwrap();
    assert_eq!(outcome.cause.as_deref(), Some("stack"));
}

#[tokio::test]
async fn nothing_a_guest_does_reaches_another_request() {
    // Denies unless memory and globals are as they were made, then soils both: a page in all, 4 MiB on every 64th request.
    let soils = |pages: u32, page_bytes: u32, end: u32| {
        let wat = r#"(memory (export "memory") PAGES (pagesize SIZE))
           (global $g (mut i32) (i32.const 7))
           (data (i32.const 0) "x-grow")
           (func (export "on_request") (result i32) (local $i i32)
             (if (i32.or (i32.ne (global.get $g) (i32.const 7)) (i32.ne (memory.size) (i32.const PAGES)))
               (then (return (i32.const 1))))
             (global.set $g (i32.const 9))
             (if (i32.lt_s (call $host_get_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 0)) (i32.const 0))
               (then
                 (if (i64.ne (i64.load (i32.const 4096)) (i64.const 0)) (then (return (i32.const 2))))
                 (i64.store (i32.const 4096) (i64.const -1))
                 (return (i32.const 0))))
             (drop (memory.grow (i32.const LEFT)))
             (local.set $i (i32.const 4096))
             (loop $again
               (if (i32.load (local.get $i)) (then (return (i32.const 3))))
               (i32.store (local.get $i) (i32.const -1))
               (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4096))) (i32.const END))))
             (i32.const 0))"#;
        module(
            &wat.replace("PAGES", &pages.to_string())
                .replace("SIZE", &page_bytes.to_string())
                .replace("LEFT", &(end / page_bytes - pages).to_string())
                .replace("END", &end.to_string()),
        )
    };
    let inner = tower::service_fn(|_: Request<arqon_message::MessageBody<Body>>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    // A small memory is written over. A larger one is reset by page-map scan where that is possible, else by writing over its
    // beginning and giving back the rest. Made ready before, and made inline.
    for (pages, page_bytes, end, pagemap_scan, standby) in [
        (1, 65_536, 4_194_304, true, 4),
        (1, 65_536, 4_194_304, true, 0),
        (3, 65_536, 4_194_304, true, 4),
        (3, 65_536, 4_194_304, true, 0),
        (3, 65_536, 4_194_304, false, 4),
        (3, 65_536, 4_194_304, false, 0),
        // Neither end is that of a page of the system.
        (5_000, 1, 12_300, true, 4),
        (5_000, 1, 12_300, true, 0),
    ] {
        let config = OverseerConfig {
            pagemap_scan,
            standby,
            ..small([PolicyConfig::from_module("soils", soils(pages, page_bytes, end))])
        };
        let service = OverseerLayer::new(config).unwrap().layer(inner);
        for at in 0..17_000 {
            let mut request = get("/");
            if at % 64 == 0 {
                request
                    .headers_mut()
                    .insert("x-grow", http::HeaderValue::from_static("1"));
            }
            let response = service.clone().oneshot(request).await.unwrap();
            assert_eq!(
                response.status(),
                StatusCode::OK,
                "request {at}, {pages} pages of {page_bytes}, scan {pagemap_scan}, standby {standby}"
            );
            // The next instances are made ready now.
            tokio::task::yield_now().await;
        }
    }
}
