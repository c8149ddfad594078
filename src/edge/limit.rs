//! How much one tenant may ask for: a rate, and how many requests at once.
//!
//! [`TenantLimitLayer`] stands right behind authentication: a request over its tenant's share is answered 429
//! `rate.limited` with `Retry-After` before a policy runs or a bus is used for it. One tenant's flood leaves the others' share
//! alone. The rate is a leaky bucket (GCRA): `per_second` in the long run, `burst` at once. Requests without a
//! [`TenantId`] share one bucket.
//!
//! ```
//! use arqon::edge::limit::{Rate, TenantLimitLayer};
//! use axum::{Router, routing::get};
//!
//! let limit = TenantLimitLayer::new(Rate::new(1_000, 2_000), Some(64));
//! let app: Router = Router::new().route("/", get(|| async {})).layer(limit);
//! ```
//!
//! # Under load
//!
//! Up to [`TENANTS_MAX`] tenants are counted apart; further ones, while none of those is idle, share a bucket. The pass path
//! takes one short lock and allocates nothing for a tenant that is known.
//!
//! # Cancellation
//!
//! A request that is dropped gives its place back.

use std::{
    collections::HashMap,
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use arqon_message::{Code, MessageBody, Problem, Rejection, TenantId};
use http::{HeaderValue, Request, Response, header::RETRY_AFTER, request::Parts};
use metrics::{Counter, counter};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

/// How many tenants are counted apart.
pub const TENANTS_MAX: usize = 16_384;
const SHARDS: usize = 16;
const SECOND: u64 = 1_000_000_000;

/// A rate with a burst. Pure: time goes in as nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds per request.
    interval: u64,
    /// How far ahead of time the bucket may be, in nanoseconds.
    tolerance: u64,
}

impl Rate {
    /// `per_second` in the long run, `burst` at once. `None` where either is 0.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let interval = SECOND.checked_div(per_second.into())?.max(1);
        let tolerance = interval.saturating_mul(u64::from(burst.checked_sub(1)?));
        Some(Self { interval, tolerance })
    }

    /// Whether a request may pass at `now`, where the bucket's theoretical arrival time is `arrival`: the next one, or how
    /// long to wait.
    fn admit(self, arrival: u64, now: u64) -> Result<u64, u64> {
        let arrival = arrival.max(now);
        match (arrival - now).checked_sub(self.tolerance) {
            None | Some(0) => Ok(arrival + self.interval),
            Some(early) => Err(early),
        }
    }
}

/// Limits what each tenant asks for; see the [module docs](self). Cloning it shares the counts.
#[derive(Clone, Debug, Default)]
pub struct TenantLimitLayer {
    limits: Option<Arc<Limits>>,
}

#[derive(Debug)]
struct Limits {
    rate: Option<Rate>,
    concurrency: Option<u32>,
    hasher: RandomState,
    shards: [Mutex<HashMap<TenantId, Arc<Bucket>>>; SHARDS],
    /// For requests without a tenant, and for tenants that there is no room for.
    shared: Arc<Bucket>,
    started: Instant,
    over_rate: Counter,
    over_concurrency: Counter,
}

#[derive(Debug, Default)]
struct Bucket {
    arrival: AtomicU64,
    in_flight: AtomicU32,
}

/// A request's place among its tenant's; dropping it gives the place back.
#[derive(Debug)]
pub struct Permit(Option<Arc<Bucket>>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(bucket) = &self.0 {
            bucket.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Over the tenant's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLimit {
    /// When to come again, in seconds, at least 1.
    pub retry_after: u64,
    detail: &'static str,
}

impl OverLimit {
    /// As a refusal.
    #[must_use]
    pub fn problem(self) -> Problem {
        Problem::new(Code::RateLimited, self.detail)
    }
}

impl TenantLimitLayer {
    /// Limits to `rate` and to `concurrency` requests at once, each where it is given. Metrics' handles are taken here.
    #[must_use]
    pub fn new(rate: Option<Rate>, concurrency: Option<u32>) -> Self {
        let refused = |limit: &'static str| counter!("shield_tenant_limited_total", "limit" => limit);
        let (over_rate, over_concurrency) = (refused("rate"), refused("concurrency"));
        let limited = rate.is_some() || concurrency.is_some();
        let limits = limited.then(|| {
            Arc::new(Limits {
                rate,
                concurrency,
                hasher: RandomState::new(),
                shards: Default::default(),
                shared: Arc::default(),
                started: Instant::now(),
                over_rate,
                over_concurrency,
            })
        });
        Self { limits }
    }

    /// Asks for a place for one request or frame of `tenant`.
    ///
    /// # Errors
    /// When the tenant is over its rate, or has as many requests under way as it may.
    pub fn admit(&self, tenant: Option<&TenantId>) -> Result<Permit, OverLimit> {
        match &self.limits {
            Some(limits) => {
                let now = u64::try_from(limits.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
                limits.admit(tenant, now)
            }
            None => Ok(Permit(None)),
        }
    }
}

impl Limits {
    fn admit(&self, tenant: Option<&TenantId>, now: u64) -> Result<Permit, OverLimit> {
        let bucket = tenant.map_or_else(|| Arc::clone(&self.shared), |tenant| self.bucket(tenant, now));
        let before = bucket.in_flight.fetch_add(1, Ordering::Relaxed);
        // From here on it is given back, whatever comes.
        let permit = Permit(Some(Arc::clone(&bucket)));
        if self.concurrency.is_some_and(|most| before >= most) {
            self.over_concurrency.increment(1);
            let detail =
                "the tenant has as many requests under way as it may; see gateway.tenant_concurrency";
            return Err(OverLimit {
                retry_after: 1,
                detail,
            });
        }
        if let Some(rate) = self.rate {
            let next = |arrival| rate.admit(arrival, now).ok();
            if let Err(arrival) = bucket
                .arrival
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            {
                self.over_rate.increment(1);
                let wait = rate.admit(arrival, now).err().unwrap_or(0);
                return Err(OverLimit {
                    retry_after: wait.div_ceil(SECOND).max(1),
                    detail: "the tenant's rate is used up; see gateway.rate_limit",
                });
            }
        }
        Ok(permit)
    }

    fn bucket(&self, tenant: &TenantId, now: u64) -> Arc<Bucket> {
        let shard = self.hasher.hash_one(tenant) as usize % SHARDS;
        let mut buckets = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(tenant) {
            return Arc::clone(bucket);
        }
        if buckets.len() >= TENANTS_MAX / SHARDS {
            // A bucket that is full again says what a new one says.
            buckets.retain(|_, bucket| {
                Arc::strong_count(bucket) > 1 || bucket.arrival.load(Ordering::Relaxed) > now
            });
        }
        if buckets.len() >= TENANTS_MAX / SHARDS {
            return Arc::clone(&self.shared);
        }
        Arc::clone(buckets.entry(tenant.clone()).or_default())
    }
}

impl<S> Layer<S> for TenantLimitLayer {
    type Service = TenantLimit<S>;

    fn layer(&self, inner: S) -> TenantLimit<S> {
        TenantLimit {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`TenantLimitLayer`].
#[derive(Clone, Debug)]
pub struct TenantLimit<S> {
    inner: S,
    layer: TenantLimitLayer,
}

impl<S, B, R> Service<Request<B>> for TenantLimit<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
{
    type Response = Response<MessageBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = match self.layer.admit(request.extensions().get::<TenantId>()) {
            Ok(permit) => State::Inner {
                inner: self.inner.call(request),
                _permit: permit,
            },
            Err(over) => {
                // The readied inner goes, and what it reserved with it.
                let clone = self.inner.clone();
                self.inner = clone;
                let (parts, _) = request.into_parts();
                State::Refused {
                    refused: Some(Box::new((over, parts))),
                }
            }
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The response of a service behind [`TenantLimitLayer`]; until it is there the request keeps its place.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Inner { #[pin] inner: F, _permit: Permit },
        Refused { refused: Option<Box<(OverLimit, Parts)>> },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<MessageBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            StateProj::Inner { inner, .. } => Ok(ready!(inner.poll(cx))?.map(MessageBody::streaming)),
            StateProj::Refused { refused } => {
                let (over, parts) = *refused.take().expect("a future is not polled after it was ready");
                let mut response = Rejection::new(over.problem()).into_response(&parts);
                response
                    .headers_mut()
                    .insert(RETRY_AFTER, HeaderValue::from(over.retry_after));
                Ok(response)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("a tenant")
    }

    fn limits(rate: Option<Rate>, concurrency: Option<u32>) -> Arc<Limits> {
        TenantLimitLayer::new(rate, concurrency).limits.expect("limited")
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limits = limits(Rate::new(10, 3), None);
        let acme = tenant("acme");
        let passes = |now| limits.admit(Some(&acme), now).is_ok();
        assert_eq!([0; 5].map(passes), [true, true, true, false, false]);
        assert!(!passes(SECOND / 10 - 1));
        assert!(passes(SECOND / 10));
        assert!(!passes(SECOND / 10));
        // Rest fills it up to the burst, and no further.
        assert_eq!([100 * SECOND; 4].map(passes), [true, true, true, false]);
    }

    #[test]
    fn over_a_long_time_it_is_the_rate_exactly() {
        let limits = limits(Rate::new(100, 7), None);
        let passed = (0..100_000_u64)
            .filter(|ms| limits.admit(None, ms * 1_000_000).is_ok())
            .count();
        assert_eq!(passed, 100 * 100 + 6);
    }

    #[test]
    fn one_tenants_flood_is_not_the_others() {
        let limits = limits(Rate::new(1, 1), None);
        assert!(limits.admit(Some(&tenant("a")), 0).is_ok());
        let over = limits.admit(Some(&tenant("a")), 0).expect_err("over");
        assert_eq!((over.retry_after, over.problem().code), (1, Code::RateLimited));
        assert!(limits.admit(Some(&tenant("b")), 0).is_ok());
    }

    #[test]
    fn a_place_comes_back_when_its_permit_goes() {
        let limits = limits(None, Some(2));
        let acme = tenant("acme");
        let first = limits.admit(Some(&acme), 0).expect("a place");
        let _second = limits.admit(Some(&acme), 0).expect("a place");
        assert!(limits.admit(Some(&acme), 0).is_err());
        assert!(limits.admit(Some(&acme), 0).is_err(), "a refusal holds no place");
        drop(first);
        assert!(limits.admit(Some(&acme), 0).is_ok());
    }

    #[test]
    fn a_million_tenants_take_no_more_room_than_the_bound() {
        let limits = limits(Rate::new(1, 1), None);
        for n in 0..1_000_000_u32 {
            let _ = limits.admit(Some(&tenant(&format!("t{n}"))), 0);
        }
        let counted: usize = limits
            .shards
            .iter()
            .map(|shard| shard.lock().expect("whole").len())
            .sum();
        assert!(counted <= TENANTS_MAX, "{counted}");
        // Those that had no room are limited too, and room comes back with time.
        assert!(limits.admit(Some(&tenant("late")), 0).is_err());
        assert!(limits.admit(Some(&tenant("late")), 5 * SECOND).is_ok());
    }

    #[tokio::test]
    async fn over_the_limit_is_429_with_a_time_and_the_inner_service_is_not_called() {
        let layer = TenantLimitLayer::new(Rate::new(1, 1), None);
        let service = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(String::new()))
        }));
        assert_eq!(
            service
                .clone()
                .oneshot(Request::new(()))
                .await
                .expect("answered")
                .status(),
            200
        );
        let over = service.oneshot(Request::new(())).await.expect("answered");
        assert_eq!(
            (over.status().as_u16(), &over.headers()[RETRY_AFTER]),
            (429, &HeaderValue::from(1))
        );
        assert_eq!(
            over.extensions()
                .get::<Rejection>()
                .expect("typed")
                .problem()
                .code,
            Code::RateLimited
        );
    }

    #[test]
    fn without_limits_there_is_nothing_to_count() {
        let layer = TenantLimitLayer::default();
        assert!((0..10_000).all(|_| layer.admit(None).is_ok()));
        assert_eq!((Rate::new(0, 1), Rate::new(1, 0)), (None, None));
    }
}
