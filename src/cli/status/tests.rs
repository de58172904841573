//! The loop, against a server that goes away and comes back.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Json, Router, routing::get};
use http::{StatusCode, header::CONNECTION};
use jiff::tz::TimeZone;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use super::{
    live::{Key, live},
    paint,
    seen::Seen,
    view,
};
use crate::cli::{admin::Admin, words};

const OFTEN: Duration = Duration::from_millis(5);

/// Shows `level` until it is aborted.
async fn server(address: SocketAddr, level: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = json!({ "level": level, "uptime": 5.0, "version": "9.9.9" });
    // A connection that is kept would outlive the listener.
    let close = [(CONNECTION, "close")];
    let router = Router::new()
        .route("/api/status", get(async move || (close, Json(status))))
        .fallback(async || StatusCode::NOT_FOUND);
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, serving)
}

/// The loop at work, and what it showed last.
struct View {
    keys: mpsc::Sender<Key>,
    shown: Arc<Mutex<String>>,
    ended: JoinHandle<Result<(), String>>,
}

impl View {
    fn of(address: SocketAddr) -> Self {
        let url = format!("http://{address}");
        let admin = Admin::without_token(&url);
        let seen = Seen::new(url, TimeZone::UTC);
        let (keys, pressed) = mpsc::channel(1);
        let shown = Arc::new(Mutex::new(String::new()));
        let sink = shown.clone();
        let show = move |seen: &Seen| {
            let picture = view::draw(seen, words::now(), 80, Some(24));
            *sink.lock().unwrap() = paint::text(&picture, true);
            Ok(())
        };
        let ended = tokio::spawn(async move {
            let ended = live(admin, seen, pressed, OFTEN, show).await;
            ended.map_err(|error| error.to_string())
        });
        Self { keys, shown, ended }
    }

    async fn until(&self, what: &str, is: impl Fn(&str) -> bool) {
        let wait = async {
            while !is(&self.shown.lock().unwrap()) {
                tokio::time::sleep(OFTEN).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(180), wait).await;
        assert!(
            waited.is_ok(),
            "{what}; shown:\n{}",
            self.shown.lock().unwrap()
        );
    }
}

const ANYWHERE: &str = "127.0.0.1:0";
const GREY: &str = "\x1b[90m";

#[tokio::test]
async fn a_server_that_goes_away_is_shown_greyed_until_it_is_back() {
    let (address, first) = server(ANYWHERE.parse().unwrap(), "offload").await;
    let view = View::of(address);
    view.until("offload", |shown| {
        shown.contains("OFFLOAD") && !shown.contains("since")
    })
    .await;
    first.abort();
    view.until("away", |shown| {
        let grey = shown.lines().find(|line| line.contains("OFFLOAD"));
        shown.contains("connection refused, since")
            && shown.contains("known last")
            && grey.is_some_and(|line| line.contains(GREY) && !line.contains("\x1b[7m"))
    })
    .await;
    let (_, second) = server(address, "throttle").await;
    view.until("back", |shown| {
        shown.contains("THROTTLE") && !shown.contains("since")
    })
    .await;
    view.keys.send(Key::Leave).await.unwrap();
    view.ended.await.unwrap().unwrap();
    second.abort();
}

#[tokio::test]
async fn waits_for_a_server_that_is_not_there_yet() {
    let (address, gone) = server(ANYWHERE.parse().unwrap(), "normal").await;
    gone.abort();
    let _ = gone.await;
    let view = View::of(address);
    view.until("nobody there", |shown| {
        shown.contains("no Overspill answers at http://127.0.0.1:") && !shown.contains("known last")
    })
    .await;
    let (_, serving) = server(address, "drop").await;
    view.until("there", |shown| shown.contains("DROP")).await;
    serving.abort();
}

#[tokio::test]
async fn ends_when_asking_on_cannot_help() {
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(async || StatusCode::UNAUTHORIZED);
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let view = View::of(address);
    let error = view.ended.await.unwrap().unwrap_err();
    assert!(
        error.contains("`admin.token`") && error.contains("--token-file"),
        "{error}"
    );
    serving.abort();
}

#[tokio::test]
async fn shows_more_and_less_of_the_past() {
    let (address, serving) = server(ANYWHERE.parse().unwrap(), "normal").await;
    let view = View::of(address);
    view.until("usual", |shown| shown.contains("the last 5m"))
        .await;
    view.keys.send(Key::Closer).await.unwrap();
    view.until("closer", |shown| shown.contains("the last 2m"))
        .await;
    for _ in 0..9 {
        view.keys.send(Key::Farther).await.unwrap();
    }
    view.until("the hour", |shown| shown.contains("the last 1h"))
        .await;
    // No key can come any more.
    drop(view.keys);
    view.ended.await.unwrap().unwrap();
    serving.abort();
}
