//! Accepting a binary payload allocates nothing, and neither does a layer with nothing to do.

mod support;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use allocation_counter::measure;
use arqon_message::{MessageBody, Subject};
use arqon_schema::{Level, MappingConfig, MemoryStore, RegistryConfig, SchemaLayer, channel};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use support::Rng;
use tower::{Layer, Service};

#[test]
fn accepting_a_binary_payload_allocates_nothing() {
    for syntax in ["proto2", "proto3"] {
        let set = support::set(syntax);
        let descriptor = support::oracle(&set);
        let wire = support::validator(&set, Level::Wire, &[]);
        for seed in 0..200 {
            let payload = support::payload(&descriptor, &mut Rng(seed), 0);
            let info = measure(|| assert!(wire.validate_wire(&payload).is_ok()));
            assert_eq!(info.count_total, 0, "{syntax} seed {seed}");
        }
        let required = support::validator(&set, Level::Wire, &["f_bool", "r_message[].id"]);
        let info = measure(|| assert!(required.validate_wire(b"\x68\x01\x82\x03\x03\x1a\x01a").is_ok()));
        assert_eq!(info.count_total, 0, "{syntax}");
    }
}

#[test]
fn accepting_by_rules_allocates_nothing_but_for_unique() {
    let source = r#"syntax = "proto3"; import "buf/validate/validate.proto"; message A {
        string id = 1 [(buf.validate.field) = {required: true, string: {min_len: 2, pattern: "^[a-z]+$", max_len: 9}}];
        int32 n = 2 [(buf.validate.field).int32 = {gt: 2, lt: 9}];
        repeated string tags = 3 [(buf.validate.field).repeated = {min_items: 1, max_items: 3, items: {string: {email: true}}}];
        map<string, int64> counts = 4 [(buf.validate.field).map = {min_pairs: 1, keys: {string: {len: 1}}}];
        A next = 5; }"#;
    let schema = arqon_schema::Descriptors::from_source("a.proto", source).unwrap();
    let validator = schema.validator(None, Level::Rules, &[]).unwrap();
    let leaf = b"\x0a\x03abc\x10\x05\x1a\x03a@b\x22\x05\x0a\x01k\x10\x01";
    let payload = [&leaf[..], b"\x2a\x13", leaf].concat();
    // The first match builds the pattern's cache.
    assert_eq!(validator.validate_wire(&payload), Ok(()));
    let info = measure(|| assert!(validator.validate_wire(&payload).is_ok()));
    assert_eq!(info.count_total, 0);
}

#[derive(Clone)]
struct Inner;

impl Service<Request<MessageBody<Full<Bytes>>>> for Inner {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<MessageBody<Full<Bytes>>>) -> Self::Future {
        ready(Ok(Response::new(Full::default())))
    }
}

#[test]
fn a_layer_with_nothing_to_do_allocates_nothing() {
    let mapped = RegistryConfig {
        mappings: vec![MappingConfig::new("in.t.*.users.created", "v1.users")],
        ..RegistryConfig::default()
    };
    for config in [RegistryConfig::default(), mapped] {
        let (registry, _writer) = channel(config).unwrap();
        let mut service = SchemaLayer::new(registry).layer(Inner);
        let mut request = Request::post("/").body(Full::from("x")).unwrap();
        request
            .extensions_mut()
            .insert(Subject::parse("in.t.default.other").unwrap());
        let mut call = None;
        let info = measure(|| call = Some(service.call(request)));
        assert_eq!(info.count_total, 0);
        let mut call = std::pin::pin!(call.unwrap());
        let info = measure(|| {
            let answer = call
                .as_mut()
                .poll(&mut Context::from_waker(std::task::Waker::noop()));
            assert!(matches!(answer, Poll::Ready(Ok(_))));
        });
        assert_eq!(info.count_total, 0);
    }
}

#[test]
fn a_layer_that_accepts_allocates_the_place_of_its_extension_and_nothing_else() {
    let config = RegistryConfig {
        mappings: vec![MappingConfig::new("in.t.*.users.created", "v1.users").require("id")],
        ..RegistryConfig::default()
    };
    let (registry, writer) = channel(config).unwrap();
    let store = MemoryStore::new();
    store.load(&writer).unwrap();
    store
        .put_source("v1.users", "syntax = \"proto3\"; message User { string id = 1; }")
        .unwrap();
    let mut service = SchemaLayer::new(registry).layer(Inner);
    let mut counts = Vec::new();
    for _ in 0..3 {
        let mut request = Request::post("/").body(Full::from(&b"\x0a\x02u1"[..])).unwrap();
        let kind = HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        request
            .extensions_mut()
            .insert(Subject::parse("in.t.default.users.created").unwrap());
        let info = measure(|| {
            let mut call = std::pin::pin!(service.call(request));
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert!(matches!(call.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
        });
        counts.push(info.count_total);
    }
    // The first one starts the clock, and takes the header's bytes into shared hands.
    assert_eq!(counts[1..], [1, 1], "{counts:?}");
}
