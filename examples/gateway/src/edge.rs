//! What guards the public listener: who may come in, from where, and how much of everything at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arqon::{
    Code, Problem, Stack,
    config::{Config, Finding, InvalidConfig, WebSocketConfig},
    edge::{
        jwt::JwtLayer,
        limit::{Rate, TenantLimitLayer},
        peers::TrustedPeers,
    },
    supervise::Supervisor,
};
use http::{HeaderMap, header::ORIGIN};
use metrics::{Counter, counter};
use tokio_util::sync::CancellationToken;

use crate::{
    buffers::{Buffers, Heads},
    readiness::Readiness,
    tls::Tls,
};

/// The guards of one gateway. Cloning it is a few reference counts.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) auth: Option<JwtLayer>,
    pub(crate) limit: TenantLimitLayer,
    pub(crate) load: Load,
    /// How many sessions each tenant has.
    pub(crate) sessions: TenantLimitLayer,
    pub(crate) buffers: Buffers,
    pub(crate) heads: Heads,
    pub(crate) tls: Option<Tls>,
    pub(crate) peers: Arc<TrustedPeers>,
    pub(crate) websocket: WebSocketConfig,
    /// The largest body of a request, in bytes: what one that does not announce its length is counted with.
    pub(crate) max_body_bytes: usize,
    origins: Arc<[String]>,
}

impl Edge {
    /// Reads keys and certificates, and starts what keeps them fresh.
    ///
    /// # Errors
    /// Findings, a line each.
    pub(crate) fn new(
        config: &Config,
        readiness: &Readiness,
        tasks: &Supervisor,
        stop: &CancellationToken,
    ) -> Result<Self, String> {
        let gateway = &config.gateway;
        // There from the start, whatever a client sends.
        counter!("shield_reserved_headers_total").increment(0);
        for code in ["1001", "1002", "1003", "1007", "1008", "1009", "1013"] {
            counter!("shield_websocket_closed_total", "code" => code).increment(0);
        }
        let auth = config.auth.as_ref().map(JwtLayer::new).transpose();
        let auth = auth.map_err(|findings| findings.to_string())?;
        if let Some(auth) = &auth {
            let ready = auth.clone();
            readiness.add("auth", move || ready.ready());
            let (auth, stop) = (auth.clone(), stop.clone());
            tasks.keep("auth", move || auth.refresh().run(stop.clone()));
        }
        let tls = gateway.tls.as_ref().map(Tls::load).transpose()?;
        if let Some(tls) = &tls {
            let (tls, stop) = (tls.clone(), stop.clone());
            tasks.keep("tls", move || tls.clone().watch(stop.clone()));
        }
        let rate = gateway
            .rate_limit
            .and_then(|rate| Rate::new(rate.per_second, rate.burst));
        let buffered_max = gateway.websocket.max_buffered_bytes;
        // Without tokens there is one tenant only. A message always has room.
        let half = (buffered_max / 2).max(gateway.websocket.max_message_bytes);
        let tenant_max = auth.as_ref().map_or(buffered_max, |_| half);
        let peers = TrustedPeers::parse(&gateway.trusted_peers)
            .map_err(|(at, error)| format!("gateway.trusted_peers[{at}]: {error}"))?;
        Ok(Self {
            auth,
            limit: TenantLimitLayer::new(rate, gateway.tenant_concurrency),
            load: Load::new(gateway.max_requests, gateway.max_requests_bytes),
            sessions: TenantLimitLayer::new(None, gateway.websocket.tenant_sessions),
            buffers: Buffers::new(buffered_max, tenant_max),
            heads: Heads::new(
                gateway.max_requests_bytes,
                Duration::from_millis(gateway.header_timeout_ms),
            ),
            tls,
            peers: Arc::new(peers),
            websocket: gateway.websocket,
            max_body_bytes: gateway.max_body_bytes,
            origins: gateway.cors_origins.clone().into(),
        })
    }

    /// Sets what of it stands in the message stack, so that frames are held to it as requests are.
    pub(crate) fn protect(&self, stack: &mut Stack) {
        stack.auth.clone_from(&self.auth);
        stack.limit = self.limit.clone();
    }

    /// Whether a page may open a WebSocket, or publish without a token: a browser says where the page is from, anybody else says nothing.
    pub(crate) fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => true,
            (Some(origin), None) => self
                .origins
                .iter()
                .any(|ours| ours == "*" || ours.as_bytes() == origin.as_bytes()),
            (Some(_), Some(_)) => false,
        }
    }
}

/// Reads keys and certificates, as a start would.
///
/// # Errors
/// What does not hold in them.
pub(crate) fn check(config: &Config) -> Result<(), InvalidConfig> {
    config.auth.as_ref().map(JwtLayer::new).transpose()?;
    config
        .gateway
        .tls
        .as_ref()
        .map(Tls::load)
        .transpose()
        .map_err(|error| {
            let (key, message) = error.split_once(": ").unwrap_or(("gateway.tls", &error));
            InvalidConfig(vec![Finding::new(key, message)])
        })?;
    Ok(())
}

/// How much is under way, so that what is too much is shed before memory runs out.
#[derive(Clone)]
pub(crate) struct Load(Arc<Counts>);

struct Counts {
    requests_max: usize,
    bytes_max: usize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
    over_requests: Counter,
    over_bytes: Counter,
    sessions: Counter,
}

/// The place of one request or frame; dropping it gives the place back.
pub(crate) struct Place {
    counts: Arc<Counts>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.requests.fetch_sub(1, Ordering::Relaxed);
        self.counts.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Load {
    fn new(requests_max: usize, bytes_max: usize) -> Self {
        let shed = |what: &'static str| counter!("shield_edge_shed_total", "what" => what);
        Self(Arc::new(Counts {
            requests_max,
            bytes_max,
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            over_requests: shed("requests"),
            over_bytes: shed("bytes"),
            sessions: shed("sessions"),
        }))
    }

    /// A place for a request whose body has `bytes`, as far as is known.
    pub(crate) fn enter(&self, bytes: usize) -> Result<Place, Problem> {
        let counts = &self.0;
        let requests = counts.requests.fetch_add(1, Ordering::Relaxed);
        let held = counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        // From here on both are given back, whatever comes.
        let place = Place {
            counts: Arc::clone(counts),
            bytes,
        };
        let (counter, key) = if requests >= counts.requests_max {
            (&counts.over_requests, "gateway.max_requests")
        } else if held.saturating_add(bytes) > counts.bytes_max {
            (&counts.over_bytes, "gateway.max_requests_bytes")
        } else {
            return Ok(place);
        };
        counter.increment(1);
        let detail = format!("as much is under way as may be; see {key}");
        Err(Problem::new(Code::Overloaded, detail))
    }

    /// Whether four fifths of either are taken: the time to take on nothing that lasts.
    pub(crate) fn is_high(&self) -> bool {
        let high =
            |taken: &AtomicUsize, max: usize| taken.load(Ordering::Relaxed) > max / 5 * 4 + max % 5 * 4 / 5;
        high(&self.0.requests, self.0.requests_max) || high(&self.0.bytes, self.0.bytes_max)
    }

    /// Whether a session may be opened.
    pub(crate) fn allows_session(&self) -> Result<(), Problem> {
        if self.is_high() {
            self.0.sessions.increment(1);
            let detail = "no session is opened while four fifths of what may be under way are; see gateway.max_requests";
            return Err(Problem::new(Code::Overloaded, detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_bytes_are_shed_at_their_borders_and_places_come_back() {
        let load = Load::new(2, 100);
        let first = load.enter(60).expect("a place");
        let refused = load.enter(41).err().expect("too many bytes");
        assert_eq!(
            (refused.code, refused.detail.contains("max_requests_bytes")),
            (Code::Overloaded, true)
        );
        let second = load.enter(40).expect("a place");
        assert!(
            load.enter(0)
                .err()
                .expect("too many")
                .detail
                .contains("gateway.max_requests")
        );
        drop((first, second));
        let _whole = load.enter(100).expect("everything came back");
    }

    #[test]
    fn sessions_are_shed_first() {
        let load = Load::new(10, 1_000);
        let mut places: Vec<_> = (0..8).filter_map(|_| load.enter(0).ok()).collect();
        assert!(load.allows_session().is_ok());
        places.extend(load.enter(0).ok());
        assert!(load.allows_session().is_err() && load.enter(0).is_ok());
        places.clear();
        assert!(load.allows_session().is_ok());
        let _bytes = load.enter(801).expect("a place");
        assert!(load.allows_session().is_err());
    }
}
