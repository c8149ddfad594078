//! Every limit at its border, every reserved name, every digest; and the SDK's host for unit tests, which is to answer alike.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use arqon_message::MessageBody;
use arqon_overseer::{LoadedPolicy, Outcome, OverseerConfig, PolicyConfig, PolicyEngine, RecordedRequest};
use arqon_policy::{
    Error, Level, Verdict, add_header, claim, header, log, property, reject, remove_header, set_header,
    set_payload,
    testing::{Host, limits},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceExt};

use crate::guests::{layer, module, on_request, run};

/// What the payload asks for: a function's number, the length of a name in two bytes, the name, a value.
fn calls() -> String {
    module(
        r#"(func (export "on_request") (result i32) (local $name i32) (local $value i32) (local $at i32) (local $left i32)
             (local.set $left (call $host_get_payload (i32.const 0) (i32.const 0) (i32.const 60000)))
             (local.set $name (i32.load16_u (i32.const 1)))
             (local.set $at (i32.add (local.get $name) (i32.const 3)))
             (local.set $value (i32.sub (local.get $left) (local.get $at)))
             (call $host_reject (i32.add (i32.const 500) (call $act (i32.load8_u (i32.const 0)) (local.get $name) (local.get $at) (local.get $value)))
               (i32.const 0) (i32.const 0))
             (i32.const 0))
           (func $act (param $what i32) (param $name i32) (param $at i32) (param $value i32) (result i32)
             (if (i32.eq (local.get $what) (i32.const 0))
               (then (return (call $host_add_header (i32.const 3) (local.get $name) (local.get $at) (local.get $value)))))
             (if (i32.eq (local.get $what) (i32.const 1))
               (then (return (call $host_set_header (i32.const 3) (local.get $name) (local.get $at) (local.get $value)))))
             (if (i32.eq (local.get $what) (i32.const 2))
               (then (return (call $host_remove_header (i32.const 3) (local.get $name)))))
             (if (i32.eq (local.get $what) (i32.const 3))
               (then (return (call $host_get_header (i32.const 3) (local.get $name) (i32.const 0) (i32.const 0)))))
             (if (i32.eq (local.get $what) (i32.const 4))
               (then (return (call $host_get_claim (i32.const 3) (local.get $name) (i32.const 0) (i32.const 0)))))
             (call $host_get_property (i32.const 3) (local.get $name) (i32.const 0) (i32.const 0)))"#,
    )
}

struct Real {
    engine: PolicyEngine,
    policy: LoadedPolicy,
}

impl Real {
    fn new() -> Self {
        let engine = PolicyEngine::new().unwrap();
        let policy = engine.load(&PolicyConfig::from_module("test", calls())).unwrap();
        Self { engine, policy }
    }

    fn answer(&self, what: usize, name: &str, value: &[u8]) -> i32 {
        let function = u8::try_from(what).unwrap();
        let len = u16::try_from(name.len()).unwrap().to_le_bytes();
        let body = [&[function][..], &len, name.as_bytes(), value].concat();
        let request = RecordedRequest {
            body_base64: Some(STANDARD.encode(body)),
            ..RecordedRequest::default()
        };
        let outcome = self.engine.validate_with_context(&self.policy, &request).unwrap();
        assert_eq!(outcome.cause.as_deref(), Some("denied"), "{outcome:?}");
        i32::from(outcome.status.unwrap()) - 500
    }
}

/// What the SDK's host answers to the same.
fn tested(what: usize, name: &str, value: &[u8]) -> i32 {
    let code = |error| match error {
        Error::Unavailable => -3,
        Error::OverLimit => -4,
        _ => -2,
    };
    let mut buffer = [0; 64];
    let mut read =
        |function: fn(&str, &mut [u8]) -> Result<Option<i32>, Error>| match function(name, &mut buffer) {
            Ok(Some(len)) => len,
            Ok(None) => -1,
            Err(error) => code(error),
        };
    let mut answer = 0;
    Host::new().run(|| {
        answer = match what {
            0 => add_header(name, value).map_or_else(code, |()| 0),
            1 => set_header(name, value).map_or_else(code, |()| 0),
            2 => remove_header(name).map_or_else(code, |()| 0),
            3 => read(|name, buffer| Ok(header(name, buffer)?.map(length))),
            4 => read(|name, buffer| Ok(claim(name, buffer)?.map(length))),
            _ => read(|name, buffer| Ok(property(name, buffer)?.map(length))),
        };
        Verdict::Allow
    });
    answer
}

fn length(value: &[u8]) -> i32 {
    i32::try_from(value.len()).unwrap()
}

const EDITS: [usize; 3] = [0, 1, 2];
const READS: [usize; 3] = [3, 4, 5];

#[test]
fn no_reserved_name_can_be_edited_and_the_sdks_host_answers_alike() {
    let real = Real::new();
    let own = format!("{}variant", limits::RESERVED_PREFIX);
    let names = limits::RESERVED.into_iter().chain([own.as_str()]);
    for name in names.flat_map(|name| [name.to_owned(), name.to_uppercase()]) {
        for what in EDITS {
            assert_eq!(real.answer(what, &name, b"a"), -3, "{what} {name}");
            assert_eq!(tested(what, &name, b"a"), -3, "{what} {name}");
        }
    }
    for name in ["x-role", "x-arqo", "te-x", "hosts", "cookie", "server"] {
        for what in EDITS {
            assert_eq!(real.answer(what, name, b"a"), 0, "{what} {name}");
            assert_eq!(tested(what, name, b"a"), 0, "{what} {name}");
        }
    }
}

#[test]
fn keys_and_values_end_at_their_limits_and_the_sdks_host_answers_alike() {
    let real = Real::new();
    let name = |len: usize| "k".repeat(len);
    let (longest, longer) = (name(limits::KEY_BYTES_MAX), name(limits::KEY_BYTES_MAX + 1));
    assert_eq!(longest.len(), 1_024);
    for (what, expected) in EDITS
        .map(|what| (what, 0))
        .into_iter()
        .chain([(3, -1), (4, -1), (5, -2)])
    {
        for (name, expected) in [(&longest, expected), (&longer, -4)] {
            assert_eq!(
                real.answer(what, name, b""),
                expected,
                "{what}, {} bytes",
                name.len()
            );
            assert_eq!(tested(what, name, b""), expected, "{what}, {} bytes", name.len());
        }
    }
    let value = |len: usize| vec![b'v'; len];
    let fits = limits::HEADER_BYTES_MAX - "x-a".len();
    assert_eq!(fits, 8_189);
    for what in [0, 1] {
        for (name, value, expected) in [
            ("x-a", value(fits), 0),
            ("x-a", value(fits + 1), -4),
            ("x-a", value(8_192), -4),
            ("x-a", value(8_193), -4),
            ("x a", value(8_193), -4),
            ("x a", b"v".to_vec(), -2),
            ("", b"v".to_vec(), -2),
            ("x-a", b"v\r\n".to_vec(), -2),
            ("x-a", b"\x7f".to_vec(), -2),
            ("x-a", b"\t".to_vec(), 0),
            ("x-a", b"\xff".to_vec(), 0),
        ] {
            assert_eq!(
                real.answer(what, name, &value),
                expected,
                "{what} {name} {}",
                value.len()
            );
            assert_eq!(
                tested(what, name, &value),
                expected,
                "{what} {name} {}",
                value.len()
            );
        }
    }
    for name in limits::PROPERTIES.into_iter().chain(["nonsense", "", "Method"]) {
        assert_eq!(real.answer(5, name, b""), tested(5, name, b""), "{name:?}");
    }
    for what in READS {
        for name in ["x-name", "x name", ""] {
            assert_eq!(
                real.answer(what, name, b""),
                tested(what, name, b""),
                "{what} {name:?}"
            );
        }
    }
}

/// Adds `x-a` with values of so many bytes, one after the other, and tells what came of the last.
fn sums(lens: [usize; 2]) -> (i32, i32) {
    let add = |len: usize| {
        format!("(call $host_add_header (i32.const 0) (i32.const 3) (i32.const 100) (i32.const {len}))")
    };
    let wat = module(&format!(
        r#"(data (i32.const 0) "x-a")
           (func (export "on_request") (result i32)
             (memory.fill (i32.const 100) (i32.const 97) (i32.const 10000))
             (if {first} (then (return (i32.const 1))))
             (call $host_reject (i32.add (i32.const 500) {last}) (i32.const 0) (i32.const 0)) (i32.const 0))"#,
        first = add(lens[0]),
        last = add(lens[1]),
    ));
    let real = run(
        &PolicyConfig::from_module("sums", wat),
        &RecordedRequest::default(),
    );
    let mut tested = 0;
    Host::new().run(|| {
        let value = vec![b'a'; 10_000];
        add_header("x-a", &value[..lens[0]]).unwrap();
        tested = match add_header("x-a", &value[..lens[1]]) {
            Ok(()) => 0,
            Err(Error::OverLimit) => -4,
            Err(error) => panic!("{error}"),
        };
        Verdict::Allow
    });
    (i32::from(real.status.unwrap()) - 500, tested)
}

#[test]
fn the_bytes_of_all_edits_of_a_call_are_summed() {
    assert_eq!(sums([4_093, 4_093]), (0, 0), "8,192 with their names");
    assert_eq!(sums([4_093, 4_094]), (-4, -4));
    assert_eq!(sums([8_186, 0]), (0, 0));
    assert_eq!(sums([8_187, 0]), (-4, -4), "a name counts too");
}

#[test]
fn a_payload_ends_at_max_body_bytes() {
    let engine = PolicyEngine::with_limits(&OverseerConfig {
        max_body_bytes: 100,
        ..OverseerConfig::default()
    })
    .unwrap();
    for (len, code) in [(100, 500), (101, 496)] {
        let policy = PolicyConfig {
            grants: vec!["rewrite".to_owned()],
            ..PolicyConfig::from_module(
                "sets",
                on_request(&format!(
                    "(call $host_reject (i32.add (i32.const 500) (call $host_set_payload (i32.const 0) (i32.const {len})))
                       (i32.const 0) (i32.const 0)) (i32.const 0)"
                )),
            )
        };
        let policy = engine.load(&policy).unwrap();
        let outcome = engine
            .validate_with_context(&policy, &RecordedRequest::default())
            .unwrap();
        assert_eq!(outcome.status, Some(code), "{len}");
    }
    let set = |len: usize| {
        let mut result = Ok(());
        Host::new().rewriting().run(|| {
            result = set_payload(&vec![0; len]);
            Verdict::Allow
        });
        result
    };
    assert_eq!(set(limits::PAYLOAD_BYTES_MAX), Ok(()));
    assert_eq!(set(limits::PAYLOAD_BYTES_MAX + 1), Err(Error::OverLimit));
}

/// Logs the payload twenty times twice, and refuses with it.
fn says(text: &str) -> Outcome {
    let wat = on_request(
        "(local $len i32) (local $i i32)
         (local.set $len (call $host_get_payload (i32.const 0) (i32.const 0) (i32.const 60000)))
         (loop $again
           (call $host_log (i32.const 2) (i32.const 0) (local.get $len))
           (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 40))))
         (call $host_reject (i32.const 451) (i32.const 0) (local.get $len)) (i32.const 0)",
    );
    let request = RecordedRequest {
        body: Some(text.to_owned()),
        ..RecordedRequest::default()
    };
    run(&PolicyConfig::from_module("says", wat), &request)
}

#[test]
fn what_is_logged_and_what_a_client_is_told_end_at_their_limits_and_the_sdks_host_shows_the_same() {
    let long = "\u{20ac}".repeat(1_000);
    for text in [
        "plain",
        "a\r\n\tb\u{1b}[31m\u{202e}c",
        &"x".repeat(256),
        &"x".repeat(257),
        &"x".repeat(1_025),
        &long,
    ] {
        let real = says(text);
        let tested = Host::new().run(|| {
            for _ in 0..40 {
                log(Level::Info, text);
            }
            reject(451, text)
        });
        assert_eq!(
            (real.status, real.reason.as_deref()),
            (tested.status, Some(tested.reason.as_str()))
        );
        assert!(tested.reason.len() <= limits::REASON_BYTES_MAX);
        let shown = |line: &arqon_overseer::LogLine| (2, line.message.clone());
        assert_eq!(real.logs.iter().map(shown).collect::<Vec<_>>(), tested.logs);
        assert_eq!(tested.logs.len(), limits::LOG_LINES_MAX);
    }
    assert_eq!(says(&"x".repeat(257)).reason.unwrap().len(), 256);
    assert_eq!(says(&"x".repeat(1_025)).logs[0].message.len(), 1_024);
}

#[test]
fn the_sdks_limits_are_the_hosts_defaults() {
    let config = OverseerConfig::default();
    assert_eq!(
        [
            limits::HEADER_EDITS_MAX,
            limits::HEADER_BYTES_MAX,
            limits::PAYLOAD_BYTES_MAX,
            limits::LOG_LINES_MAX,
            limits::LOG_BYTES_MAX,
            limits::REASON_BYTES_MAX,
        ],
        [
            config.header_edits_max,
            config.header_bytes_max,
            config.max_body_bytes,
            usize::try_from(config.log_lines_max).unwrap(),
            config.log_bytes_max,
            config.reason_bytes_max,
        ]
    );
}

#[test]
fn a_module_at_its_limits_loads_and_one_over_does_not() {
    let wat = module(
        r#"(func (export "on_request") (result i32) (i32.const 0))
           (func (result i32) (i32.add (i32.const 1) (i32.const 2)))
           (func (result i32) (i32.const 3))"#,
    );
    let wasm = wat::parse_str(&wat).unwrap();
    let largest = wasmparser::Parser::new(0)
        .parse_all(&wasm)
        .filter_map(|payload| match payload.unwrap() {
            wasmparser::Payload::CodeSectionEntry(body) => Some(body.range().len()),
            _ => None,
        })
        .max()
        .unwrap();
    let findings = |config: OverseerConfig| {
        let engine = PolicyEngine::with_limits(&config).unwrap();
        let report = engine.check(&PolicyConfig::from_module("p", wasm.clone()));
        report
            .errors()
            .map(|finding| finding.code.clone())
            .collect::<Vec<_>>()
    };
    let default = OverseerConfig::default;
    for (at, over, code) in [
        (
            OverseerConfig {
                module_bytes_max: wasm.len(),
                ..default()
            },
            OverseerConfig {
                module_bytes_max: wasm.len() - 1,
                ..default()
            },
            "module.too_large",
        ),
        (
            OverseerConfig {
                functions_max: 3,
                ..default()
            },
            OverseerConfig {
                functions_max: 2,
                ..default()
            },
            "module.functions",
        ),
        (
            OverseerConfig {
                function_bytes_max: largest,
                ..default()
            },
            OverseerConfig {
                function_bytes_max: largest - 1,
                ..default()
            },
            "module.function_bytes",
        ),
    ] {
        assert_eq!(findings(at), [""; 0], "{code}");
        assert_eq!(findings(over), [code]);
    }
}

#[test]
fn a_memory_soiled_in_hundreds_of_places_is_zero_for_the_next() {
    // Every second page of the kernel's, which are more regions than one page-map scan reports.
    let wat = module(
        r#"(memory (export "memory") 64)
           (func (export "on_request") (result i32) (local $at i32)
             (loop $again
               (if (i32.load (local.get $at)) (then (return (i32.const 1))))
               (i32.store (local.get $at) (i32.const -1))
               (br_if $again (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8192))) (i32.const 4194304))))
             (i32.const 0))"#,
    );
    for pagemap_scan in [true, false] {
        let engine = PolicyEngine::with_limits(&OverseerConfig {
            pagemap_scan,
            ..OverseerConfig::default()
        })
        .unwrap();
        let policy = engine
            .load(&PolicyConfig::from_module("soils", wat.clone()))
            .unwrap();
        for at in 0..50 {
            let outcome = engine
                .validate_with_context(&policy, &RecordedRequest::default())
                .unwrap();
            assert!(outcome.allows(), "{at}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_rewritten_payload_has_no_digest_in_its_trailers() {
    let rewrites = PolicyConfig {
        grants: vec!["rewrite".to_owned()],
        ..PolicyConfig::from_module(
            "rewrites",
            on_request("(call $host_set_payload (i32.const 0) (i32.const 2))"),
        )
    };
    let looks = PolicyConfig::from_module(
        "looks",
        on_request("(drop (call $host_payload_len)) (i32.const 0)"),
    );
    let digests = ["content-digest", "content-md5", "digest", "repr-digest"];
    for (policy, digested) in [(rewrites, false), (looks, true)] {
        let seen: Arc<Mutex<Option<HeaderMap>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let inner = tower::service_fn(move |request: Request<MessageBody<_>>| {
            let kept = Arc::clone(&kept);
            async move {
                let collected = request
                    .into_body()
                    .collect()
                    .await
                    .unwrap_or_else(|_| panic!("a whole body"));
                *kept.lock().unwrap() = collected.trailers().cloned();
                Ok::<_, Infallible>(Response::new(axum::body::Body::empty()))
            }
        });
        let mut trailers = HeaderMap::new();
        for name in digests.into_iter().chain(["x-kept"]) {
            trailers.insert(name, HeaderValue::from_static("v"));
        }
        let frames = [
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let request = Request::post("/").body(body).unwrap();
        let response = layer(policy).layer(inner).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let trailers = seen.lock().unwrap().take().expect("trailers");
        assert!(trailers.contains_key("x-kept"));
        for name in digests {
            assert_eq!(trailers.contains_key(name), digested, "{name}");
        }
    }
}
