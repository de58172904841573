//! An admin listener that says what a test wants, and notes what it was told.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// Answers are looked up by the path, without its query.
type Answers = Arc<Mutex<Vec<(String, StatusCode, String)>>>;

/// One request: the line as "POST /api/override", its token, its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) token: Option<String>,
    pub(crate) body: String,
}

/// The listener; ends with its handle.
#[derive(Debug)]
pub(crate) struct AdminServer {
    /// Where it is.
    pub(crate) address: SocketAddr,
    answers: Answers,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared(Answers, Arc<Mutex<Vec<Asked>>>);

impl AdminServer {
    /// On a free port of loopback.
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Where another was before.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Shared(Answers::default(), Arc::default());
        let router = Router::new().fallback(answer).with_state(shared.clone());
        Self {
            address: listener.local_addr().unwrap(),
            answers: shared.0,
            asked: shared.1,
            serving: tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }),
        }
    }

    /// As the commands take it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers `path` with `body` from now on.
    pub(crate) fn answers(&self, path: &str, status: u16, body: &Value) -> &Self {
        self.says(path, status, &body.to_string())
    }

    /// The same with any text.
    pub(crate) fn says(&self, path: &str, status: u16, text: &str) -> &Self {
        let status = StatusCode::from_u16(status).unwrap();
        let mut answers = self.answers.lock().unwrap();
        answers.retain(|(known, _, _)| known != path);
        answers.push((path.to_owned(), status, text.to_owned()));
        drop(answers);
        self
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(Shared(answers, asked)): State<Shared>, request: Request) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    let path = request.uri().path().to_owned();
    let token = request.headers().get(header::AUTHORIZATION);
    let token = token.map(|token| token.to_str().unwrap().to_owned());
    let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    asked.lock().unwrap().push(Asked { line, token, body });
    let answers = answers.lock().unwrap();
    match answers.iter().find(|(known, _, _)| *known == path) {
        Some((_, status, text)) => {
            let retry = [(header::RETRY_AFTER, "7")];
            // A connection of its own each: a listener that ends is gone at once.
            (
                *status,
                retry,
                [(header::CONNECTION, "close")],
                text.clone(),
            )
                .into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
