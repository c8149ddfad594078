use std::{convert::Infallible, sync::Mutex};

use arqon_message::{Fraction, MessageBody, Problem, RemoteAddr, Subject, TenantId, TraceContext, TraceKey};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::*;

type Body = MessageBody<Empty<bytes::Bytes>>;

#[derive(Default)]
struct Told(Mutex<Vec<Line>>);

/// Trace, status, what each layer said, tenant.
type Line = (String, u16, Vec<(&'static str, &'static str)>, Option<String>);

impl StorySink for Told {
    fn told(&self, story: &Story, ending: &Ending) {
        let decisions = story.decisions();
        assert!(decisions.iter().all(|one| one.to.is_none_or(|to| to >= one.from)));
        let decisions = decisions
            .iter()
            .map(|one| (one.layer, one.verdict.as_str()))
            .collect();
        let tenant = story.tenant().map(str::to_owned);
        let line = (
            story.context().trace_id().to_owned(),
            ending.status.as_u16(),
            decisions,
            tenant,
        );
        self.0.lock().expect("no panic").push(line);
    }
}

/// A layer that answers 403 where the header says its name.
fn gate(
    name: &'static str,
) -> impl Layer<Passed<Inner>, Service = tower::util::BoxCloneSyncService<Request<()>, Response<Body>, Infallible>>
+ Clone {
    tower::layer::layer_fn(move |inner: Passed<Inner>| {
        tower::util::BoxCloneSyncService::new(service_fn(move |request: Request<()>| {
            let inner = inner.clone();
            async move {
                if request.headers().get("stop").is_some_and(|at| at == name) {
                    let (parts, ()) = request.into_parts();
                    return Ok(Rejection::new(Problem::new(Code::OverseerDenied, "no")).into_response(&parts));
                }
                inner.oneshot(request).await
            }
        }))
    })
}

type Inner = tower::util::BoxCloneSyncService<Request<()>, Response<Body>, Infallible>;

fn handler() -> Inner {
    Inner::new(service_fn(|request: Request<()>| async move {
        if request.headers().contains_key("wait") {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(MessageBody::whole(bytes::Bytes::new(), None)))
    }))
}

fn observed(told: &Arc<Told>, sample: Option<Threshold>) -> Inner {
    let config = ObserveConfig {
        access_log: false,
        sink: Some(Arc::clone(told) as Arc<dyn StorySink>),
        sample,
    };
    let second = Inner::new(DecisionLayer::new("second", gate("second")).layer(handler()));
    let first = Inner::new(DecisionLayer::new("first", gate("first")).layer(second));
    Inner::new(
        ServiceBuilder::new()
            .layer(ObserveLayer::new(config))
            .service(first),
    )
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(()).expect("valid");
    request
        .extensions_mut()
        .insert(TenantId::new("acme").expect("a tenant"));
    request
        .extensions_mut()
        .insert(Subject::parse("in.t.acme.x").expect("a subject"));
    request
        .extensions_mut()
        .insert(RemoteAddr(([127, 0, 0, 1], 1).into()));
    request
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test]
async fn each_layers_decision_is_told_with_the_callers_trace() {
    let told = Arc::new(Told::default());
    let service = observed(&told, None);
    let traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
    for (stop, expected) in [
        ("", (200, vec![("first", "pass"), ("second", "pass")])),
        ("second", (403, vec![("first", "pass"), ("second", "reject")])),
        ("first", (403, vec![("first", "reject")])),
    ] {
        let headers = [("traceparent", traceparent.as_str()), ("stop", stop)];
        let response = service
            .clone()
            .oneshot(request(&headers))
            .await
            .expect("infallible");
        assert_eq!(response.status(), expected.0);
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            let problem = rejection.problem();
            assert_eq!(problem.trace_id.as_deref(), Some(TRACE));
            assert_eq!(problem.request.tenant.as_deref(), Some("acme"));
            assert!(
                problem.request.span_id.is_some() && problem.request.request_id.is_some(),
                "{problem:?}"
            );
        }
        let last = told.0.lock().expect("no panic").pop().expect("told");
        assert_eq!(
            last,
            (TRACE.to_owned(), expected.0, expected.1, Some("acme".to_owned()))
        );
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_is_told_as_499() {
    let told = Arc::new(Told::default());
    let mut calling = tokio_test::task::spawn(observed(&told, None).oneshot(request(&[("wait", "1")])));
    assert!(calling.poll().is_pending());
    drop(calling);
    let line = told.0.lock().expect("no panic").pop().expect("told");
    assert_eq!(
        (line.1, line.2),
        (499, vec![("first", "pass"), ("second", "pass")])
    );
}

#[tokio::test]
async fn a_callers_flag_and_else_the_sample_decide_what_is_recorded() {
    let told = Arc::new(Told::default());
    let none = Fraction::new(0.0).expect("a share").threshold();
    for (sample, headers, recorded) in [
        (None, vec![], true),
        (Some(none), vec![], false),
        (
            Some(none),
            vec![("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))],
            true,
        ),
        (
            None,
            vec![("traceparent", format!("00-{TRACE}-b7ad6b7169203331-00"))],
            false,
        ),
    ] {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let service = observed(&told, sample);
        service.oneshot(request(&headers)).await.expect("infallible");
        assert_eq!(
            told.0.lock().expect("no panic").pop().is_some(),
            recorded,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn decisions_go_by_the_key_they_went_by_before() {
    let seen = Arc::new(Mutex::new(None));
    let inner = {
        let seen = Arc::clone(&seen);
        service_fn(move |request: Request<()>| {
            let key = TraceKey::from_request(request.headers(), request.extensions());
            let context = request.extensions().get::<TraceContext>().copied();
            *seen.lock().expect("no panic") = Some((key, context));
            async { Ok::<_, Infallible>(Response::new(())) }
        })
    };
    for access_log in [false, true] {
        let layer = ObserveLayer::new(ObserveConfig {
            access_log,
            ..ObserveConfig::default()
        });
        layer
            .layer(inner.clone())
            .oneshot(request(&[]))
            .await
            .expect("infallible");
        let (key, context) = seen.lock().expect("no panic").take().expect("called");
        assert_eq!(key, None, "no trace is invented into a key");
        assert_eq!(context.is_some(), access_log, "what nobody asks for is not made");
        // Of messages only: an HTTP request passes untouched, a frame does not.
        let messages = layer.messages().layer(inner.clone());
        messages.clone().oneshot(request(&[])).await.expect("infallible");
        assert_eq!(seen.lock().expect("no panic").take().expect("called").1, None);
        let mut frame = request(&[]);
        frame.extensions_mut().insert(Protocol::Ws);
        messages.oneshot(frame).await.expect("infallible");
        assert_eq!(
            seen.lock().expect("no panic").take().expect("called").1.is_some(),
            access_log
        );
    }
}
