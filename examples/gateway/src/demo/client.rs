//! Real clients for the demo: HTTP over hyper-util, WebSocket over tokio-tungstenite.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What went wrong, in words.
pub(super) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// One answer over HTTP.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` when it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// `202`, or `403 overseer.denied`.
    pub(super) fn verdict(&self) -> String {
        match self.json()["code"].as_str() {
            Some(code) => format!("{} {code}", self.status.as_u16()),
            None => self.status.as_u16().to_string(),
        }
    }
}

/// An HTTP client of one server.
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    server: SocketAddr,
}

impl Http {
    pub(super) fn new(server: SocketAddr) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            server,
        }
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Fault> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.server));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        let (parts, body) = timeout(PATIENCE, self.client.request(request))
            .await??
            .into_parts();
        let body = timeout(PATIENCE, body.collect()).await??.to_bytes();
        Ok(Answer {
            status: parts.status,
            body,
        })
    }
}

/// A WebSocket session.
pub(super) struct Session {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Session {
    pub(super) async fn open(server: SocketAddr, subprotocol: &'static str) -> Result<Self, Fault> {
        let mut request = format!("ws://{server}/v1/ws").into_client_request()?;
        request.headers_mut().insert(
            "sec-websocket-protocol",
            http::HeaderValue::from_static(subprotocol),
        );
        let (socket, _) = timeout(PATIENCE, connect_async(request)).await??;
        Ok(Self { socket })
    }

    /// Sends one frame and waits for one.
    pub(super) async fn ask(&mut self, frame: &Value) -> Result<Value, Fault> {
        self.socket.send(Message::text(frame.to_string())).await?;
        loop {
            match timeout(PATIENCE, self.socket.next())
                .await?
                .ok_or("the session ended")??
            {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Ping(_) | Message::Pong(_) => {}
                other => return Err(format!("an unexpected frame: {other:?}").into()),
            }
        }
    }

    pub(super) async fn close(mut self) -> Result<(), Fault> {
        Ok(self.socket.close(None).await?)
    }
}
