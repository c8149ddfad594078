//! Naming the subject of a request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, request::Parts};
use percent_encoding::percent_decode_str;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Code, MessageBody, Problem, Rejection, Subject, TenantId};

/// Finds the subject of a request. A closure `Fn(&Parts) -> Result<Option<Subject>, Problem>` is one.
pub trait NameSubject {
    /// The subject; `None` when the request has none, which the other layers take as "no rule here".
    ///
    /// # Errors
    /// A problem (`subject.invalid`, `tenant.invalid`) when the request names a subject that cannot be; the request is
    /// then answered with it.
    fn name(&self, request: &Parts) -> Result<Option<Subject>, Problem>;
}

impl<F> NameSubject for F
where
    F: Fn(&Parts) -> Result<Option<Subject>, Problem>,
{
    fn name(&self, request: &Parts) -> Result<Option<Subject>, Problem> {
        self(request)
    }
}

/// A layer that puts a [`Subject`] into each request's extensions, so that a plain axum app needs no gateway.
///
/// ```
/// use arqon_message::{Subject, SubjectLayer, TenantId};
/// use axum::{Extension, Router, routing::post};
///
/// async fn handler(Extension(subject): Extension<Subject>) -> String {
///     subject.to_string()
/// }
///
/// // POST /orders/eu/created  ->  in.t.acme.orders.eu.created
/// let app: Router = Router::new()
///     .route("/{*path}", post(handler))
///     .layer(SubjectLayer::from_path("/").tenant(TenantId::new("acme")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A request whose subject cannot be is answered 400 `subject.invalid` and never reaches the inner service.
#[derive(Clone)]
pub struct SubjectLayer {
    naming: Naming,
}

#[derive(Clone)]
enum Naming {
    Fixed(Subject),
    Path {
        prefix: Arc<str>,
        tenant: Option<TenantId>,
    },
    With(Arc<dyn NameSubject + Send + Sync>),
}

impl SubjectLayer {
    /// Every request has the same subject.
    #[must_use]
    pub const fn fixed(subject: Subject) -> Self {
        Self {
            naming: Naming::Fixed(subject),
        }
    }

    /// The path below `prefix` is the suffix: percent-decoded, `/` read as `.`. The tenant is the request's
    /// [`TenantId`] extension, which an authenticating layer outside this one sets, or that of
    /// [`tenant`](Self::tenant). Paths outside `prefix`, and `prefix` itself, have no subject.
    #[must_use]
    pub fn from_path(prefix: &str) -> Self {
        Self {
            naming: Naming::Path {
                prefix: prefix.trim_end_matches('/').into(),
                tenant: None,
            },
        }
    }

    /// The tenant of a program that has only one. A request's own [`TenantId`] goes before it. Only
    /// [`from_path`](Self::from_path) looks at it.
    #[must_use]
    pub fn tenant(mut self, fixed: TenantId) -> Self {
        if let Naming::Path { tenant, .. } = &mut self.naming {
            *tenant = Some(fixed);
        }
        self
    }

    /// The subject is what `naming` finds.
    #[must_use]
    pub fn with(naming: impl NameSubject + Send + Sync + 'static) -> Self {
        Self {
            naming: Naming::With(Arc::new(naming)),
        }
    }
}

impl NameSubject for SubjectLayer {
    fn name(&self, request: &Parts) -> Result<Option<Subject>, Problem> {
        match &self.naming {
            Naming::Fixed(subject) => Ok(Some(subject.clone())),
            Naming::Path { prefix, tenant } => from_path(prefix, tenant.as_ref(), request),
            Naming::With(naming) => naming.name(request),
        }
    }
}

fn from_path(prefix: &str, fixed: Option<&TenantId>, request: &Parts) -> Result<Option<Subject>, Problem> {
    let Some(path) = request
        .uri
        .path()
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('/'))
    else {
        return Ok(None);
    };
    if path.is_empty() {
        return Ok(None);
    }
    let Some(tenant) = request.extensions.get().or(fixed) else {
        return Err(Problem::new(
            Code::TenantInvalid,
            "the request has no tenant: authenticate it, or fix one",
        ));
    };
    let path = percent_decode_str(path).decode_utf8().map_err(|_| {
        Problem::new(
            Code::SubjectInvalid,
            "the path is not UTF-8 once it is percent-decoded",
        )
    })?;
    Ok(Some(Subject::for_tenant(tenant, path.replace('/', "."))?))
}

impl fmt::Debug for SubjectLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let naming: &dyn fmt::Debug = match &self.naming {
            Naming::Fixed(subject) => subject,
            Naming::Path { prefix, .. } => prefix,
            Naming::With(_) => &"with a closure",
        };
        f.debug_tuple("SubjectLayer").field(naming).finish()
    }
}

impl<S> Layer<S> for SubjectLayer {
    type Service = WithSubject<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithSubject {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`SubjectLayer`].
#[derive(Clone, Debug)]
pub struct WithSubject<S> {
    inner: S,
    layer: SubjectLayer,
}

impl<S, B, R> Service<Request<B>> for WithSubject<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
{
    type Response = Response<MessageBody<R>>;
    type Error = S::Error;
    type Future = SubjectFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        match self.layer.name(&parts) {
            Ok(subject) => {
                if let Some(subject) = subject {
                    parts.extensions.insert(subject);
                }
                SubjectFuture {
                    state: State::Inner {
                        inner: self.inner.call(Request::from_parts(parts, body)),
                    },
                }
            }
            Err(problem) => {
                // The readied inner goes, and what it reserved with it.
                let clone = self.inner.clone();
                self.inner = clone;
                SubjectFuture {
                    state: State::Refused {
                        refused: Some(Box::new((problem, parts))),
                    },
                }
            }
        }
    }
}

pin_project! {
    /// The response of a service behind [`SubjectLayer`].
    #[derive(Debug)]
    pub struct SubjectFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Inner { #[pin] inner: F },
        Refused { refused: Option<Box<(Problem, Parts)>> },
    }
}

impl<F, R, E> Future for SubjectFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<MessageBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            StateProj::Inner { inner } => Ok(ready!(inner.poll(cx))?.map(MessageBody::streaming)),
            StateProj::Refused { refused } => {
                let (problem, parts) = *refused.take().expect("a future is not polled after it was ready");
                Ok(Rejection::new(problem).into_response(&parts))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn subject_of(layer: SubjectLayer, path: &str) -> Result<Option<String>, Code> {
        let service = layer.layer(service_fn(|request: Request<()>| async move {
            let subject = request.extensions().get::<Subject>().map(ToString::to_string);
            Ok::<_, std::convert::Infallible>(Response::new(subject.unwrap_or_default()))
        }));
        let request = Request::builder().uri(path).body(()).expect("valid");
        let response = service.oneshot(request).await.expect("infallible");
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            return Err(rejection.problem().code);
        }
        let bytes = crate::collect(response.into_body(), 1_000)
            .await
            .expect("whole")
            .bytes;
        Ok(Some(String::from_utf8(bytes.to_vec()).expect("UTF-8")).filter(|subject| !subject.is_empty()))
    }

    #[tokio::test]
    async fn the_path_below_the_prefix_is_the_suffix() {
        let layer = SubjectLayer::from_path("/v1/").tenant(TenantId::new("acme").expect("tenant"));
        assert_eq!(
            subject_of(layer.clone(), "/v1/orders/eu").await,
            Ok(Some("in.t.acme.orders.eu".into()))
        );
        assert_eq!(
            subject_of(layer.clone(), "/v1/orders%2eeu").await,
            Ok(Some("in.t.acme.orders.eu".into()))
        );
        assert_eq!(subject_of(layer.clone(), "/v1").await, Ok(None));
        assert_eq!(subject_of(layer.clone(), "/v1/").await, Ok(None));
        assert_eq!(subject_of(layer.clone(), "/other").await, Ok(None));
        assert_eq!(subject_of(layer.clone(), "/v12/x").await, Ok(None));
        assert_eq!(
            subject_of(layer.clone(), "/v1/a%20b").await,
            Err(Code::SubjectInvalid)
        );
        assert_eq!(
            subject_of(layer.clone(), "/v1/a//b").await,
            Err(Code::SubjectInvalid)
        );
        assert_eq!(subject_of(layer, "/v1/%ff").await, Err(Code::SubjectInvalid));
    }

    #[tokio::test]
    async fn without_a_tenant_a_path_is_refused() {
        assert_eq!(
            subject_of(SubjectLayer::from_path("/"), "/a").await,
            Err(Code::TenantInvalid)
        );
    }

    #[tokio::test]
    async fn a_fixed_subject_and_a_closure_name_it_too() {
        let fixed = Subject::parse("in.t.a.b").expect("subject");
        assert_eq!(
            subject_of(SubjectLayer::fixed(fixed), "/any").await,
            Ok(Some("in.t.a.b".into()))
        );
        let with =
            SubjectLayer::with(|parts: &Parts| Ok(parts.uri.query().map(Subject::parse).transpose()?));
        assert_eq!(subject_of(with.clone(), "/?x.y").await, Ok(Some("x.y".into())));
        assert_eq!(subject_of(with.clone(), "/").await, Ok(None));
        assert_eq!(subject_of(with, "/?x.*").await, Err(Code::SubjectInvalid));
    }
}
