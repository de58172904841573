//! An offload server that says of its load what the test wants, and notes who came.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

/// What it says when it is asked for its load.
pub(crate) type Answers = Arc<dyn Fn() -> Response + Send + Sync>;

struct Shared {
    root: PathBuf,
    report: Mutex<Answers>,
    visits: Mutex<Vec<String>>,
}

/// The server; it goes with its handle.
pub(crate) struct OffloadServer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for OffloadServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OffloadServer {
    /// Serves the files below `root`, and says that its load is `load`.
    pub(crate) async fn start(root: &Path, load: f64) -> Self {
        let shared = Arc::new(Shared {
            root: root.to_path_buf(),
            report: Mutex::new(report(load)),
            visits: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            shared,
            task,
        }
    }

    /// From now on it says that its load is `load`.
    pub(crate) fn set_load(&self, load: f64) {
        self.set_report(report(load));
    }

    /// From now on it says this when it is asked for its load.
    pub(crate) fn set_report(&self, answers: Answers) {
        *self.shared.report.lock().unwrap() = answers;
    }

    /// What visitors asked it for, in order: neither probes nor questions for its load.
    pub(crate) fn visits(&self) -> Vec<String> {
        self.shared.visits.lock().unwrap().clone()
    }

    /// What its links begin with.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its entry in `offload.servers`, with `more` keys, each followed by a comma. What it reports holds for two and a half
    /// seconds: a machine that stands still for a while must not make it stale.
    pub(crate) fn entry(&self, name: &str, more: &str) -> String {
        let url = self.url();
        format!(
            "{{ name = \"{name}\", url = \"{url}\", cors = true, {more} \
             report = {{ kind = \"orca\", url = \"{url}/.overspill/load\", every = \"500ms\" }}, \
             health = {{ path = \"/.overspill/health\", every = \"100ms\" }} }}"
        )
    }
}

/// An ORCA report.
fn report(load: f64) -> Answers {
    Arc::new(move || {
        json!({ "application_utilization": load })
            .to_string()
            .into_response()
    })
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path();
    match path {
        "/.overspill/load" => {
            let answers = shared.report.lock().unwrap().clone();
            answers()
        }
        "/.overspill/health" => "well".into_response(),
        _ => {
            shared
                .visits
                .lock()
                .unwrap()
                .push(format!("{} {}", request.method(), request.uri()));
            match std::fs::read(shared.root.join(path.trim_start_matches('/'))) {
                Ok(content) => {
                    let mut response = Body::from(content).into_response();
                    let headers = response.headers_mut();
                    headers.insert(
                        header::ACCESS_CONTROL_ALLOW_ORIGIN,
                        HeaderValue::from_static("*"),
                    );
                    // Browsers find out what other files are.
                    if path.ends_with(".svg") {
                        headers.insert(
                            header::CONTENT_TYPE,
                            HeaderValue::from_static("image/svg+xml"),
                        );
                    }
                    response
                }
                Err(_) => StatusCode::NOT_FOUND.into_response(),
            }
        }
    }
}
