//! Open WebSocket sessions and a share that grows.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::site::Site;
use crate::process::{Gateway, PATIENCE};

struct Session(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Session {
    /// Opens a session as a user; the frames have no header of their own.
    async fn open(gateway: &Gateway, user: &str) -> Self {
        let mut request = format!("ws://{}/v1/ws", gateway.public)
            .into_client_request()
            .expect("URI");
        let headers = request.headers_mut();
        headers.insert(
            "sec-websocket-protocol",
            http::HeaderValue::from_static("arqon.v1.json"),
        );
        headers.insert("x-user", user.parse().expect("text"));
        let (socket, _) = tokio_tungstenite::connect_async(request).await.expect("upgraded");
        let mut session = Self(socket);
        session
            .send(json!({ "id": "s", "subscribe": format!("seen.{user}") }))
            .await;
        session.next().await;
        session
    }

    async fn send(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("sent");
    }

    async fn next(&mut self) -> Value {
        let text = timeout(PATIENCE, self.0.next())
            .await
            .expect("in time")
            .expect("open")
            .expect("frame");
        serde_json::from_str(text.to_text().expect("text")).expect("JSON")
    }

    /// The variant a frame is handed on with: what is published carries it.
    async fn variant(&mut self, user: &str) -> String {
        self.send(json!({ "id": "p", "subject": format!("seen.{user}"), "json": {} }))
            .await;
        let replies = [self.next().await, self.next().await];
        let delivered = replies
            .iter()
            .find(|reply| reply["headers"].is_object())
            .expect("delivered");
        delivered["headers"]["x-arqon-variant"]
            .as_str()
            .expect("a variant")
            .to_owned()
    }
}

async fn growing(cohort: &str) -> (String, String) {
    let site = Site::new().await;
    let more = format!("{}\ncohort = \"{cohort}\"", site.catalog());
    let gateway = Gateway::ready(&site.config(None, "gw-1", &more), &[]).await;
    let mut early = Session::open(&gateway, "ada").await;
    site.roll_out(&gateway, "p1", ["100", "0", "100"]).await;
    let mut later = Session::open(&gateway, "ben").await;
    let seen = (early.variant("ada").await, later.variant("ben").await);
    // A stop reaches everyone, whatever they were opened with.
    site.gov(&gateway, "sre-1", &["stop"]).await;
    assert_eq!(
        (early.variant("ada").await, later.variant("ben").await),
        ("stable".to_owned(), "stable".to_owned())
    );
    seen
}

#[tokio::test]
async fn with_new_sessions_an_open_one_keeps_its_variant() {
    assert_eq!(
        growing("new_sessions").await,
        ("stable".to_owned(), "fast".to_owned())
    );
}

#[tokio::test]
async fn with_all_a_frame_goes_by_its_sessions_key() {
    assert_eq!(growing("all").await, ("fast".to_owned(), "fast".to_owned()));
}
