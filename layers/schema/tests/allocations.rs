//! Accepting a binary payload allocates nothing, and neither does a layer with nothing to do.

mod support;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use allocation_counter::measure;
use arqon_message::{MessageBody, Subject};
use arqon_schema::{Level, MappingConfig, RegistryConfig, SchemaLayer, channel};
use bytes::Bytes;
use http::{Request, Response};
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
