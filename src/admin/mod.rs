//! What the operator sees, on a listener, a runtime and a thread of its own: it answers when nothing else does.
//!
//! | path | answer |
//! |---|---|
//! | `GET /livez` | 200 while the process runs |
//! | `GET /readyz` | 200 while the site is served, 503 before and while draining |
//! | `GET /metrics` | Prometheus (OpenMetrics text) |
//! | `GET /api/status` | everything that is known and decided, as JSON |
//! | `POST /api/override` | `{"level":"offload","for":"60s"}` holds a level by hand; `{"level":null}` lets it go |
//! | `POST /api/drain` | serves what is under way, then ends |
//!
//! A loopback address needs no token. With one, `/api` and `/metrics` want `Authorization: Bearer …`;
//! `/livez` and `/readyz` are for load balancers, tell nothing else, and want none.

#[cfg(feature = "server")]
mod access;
#[cfg(feature = "server")]
mod api;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod server;
mod settings;

pub use self::settings::AdminSettings;
#[cfg(feature = "server")]
pub use self::{
    metrics::encode as encode_metrics,
    server::{Admin, Answering, Lifecycle},
};
