//! What the operator sees, on a listener, a runtime and a thread of its own: it answers when nothing else does.
//!
//! | path | answer |
//! |---|---|
//! | `GET /` | the dashboard |
//! | `GET /livez` | 200 while the process runs |
//! | `GET /readyz` | 200 while the site is served, 503 before and while draining |
//! | `GET /metrics` | Prometheus: the classic text, or OpenMetrics where that is asked for |
//! | `GET /api/status` | everything that is known and decided, as JSON |
//! | `GET /api/history` | the last hour, a point a second |
//! | `GET /api/decisions?limit=` | the last 1,000 decisions, in words and figures |
//! | `GET /api/events` | all of that as it happens, as server-sent events |
//! | `GET /api/explain?path=&client=` | what would happen with a client's request now, and why |
//! | `POST /api/override` | `{"level":"offload","for":"60s"}` holds a level by hand; `{"level":null}` lets it go |
//! | `POST /api/reload` | reads the configuration anew |
//! | `POST /api/restart` | starts a successor and hands the listening sockets on to it |
//! | `POST /api/drain` | serves what is under way, then ends |
//!
//! A loopback address needs no token. With one, `/api` and `/metrics` want `Authorization: Bearer …`;
//! `/livez` and `/readyz` are for load balancers, tell nothing else, and want none; nor does the dashboard, which has
//! nothing to tell before it is given one.

#[cfg(feature = "server")]
mod access;
#[cfg(feature = "server")]
mod api;
#[cfg(feature = "server")]
mod dashboard;
#[cfg(feature = "server")]
mod history;
#[cfg(feature = "server")]
mod lifecycle;
#[cfg(feature = "server")]
mod live;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod process;
#[cfg(feature = "server")]
mod server;
mod settings;
#[cfg(feature = "server")]
mod text;
#[cfg(feature = "server")]
mod tries;

pub use self::settings::AdminSettings;
#[cfg(feature = "server")]
pub use self::{
    lifecycle::Lifecycle,
    metrics::encode as encode_metrics,
    server::{Admin, Answering},
    text::exposition,
};
