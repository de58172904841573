//! Where the operator of an edge looks: `/livez`, `/readyz`, `/metrics`, `/api/status`.

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, StatusCode, header};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use serde_json::{Value, json};
use std::sync::atomic::AtomicU64;

use super::Edge;
use crate::admin::{Lifecycle, exposition};

#[derive(Clone)]
struct Shown {
    edge: Edge,
    lifecycle: Lifecycle,
}

/// The admin listener's answers: those for anyone, and those that need the token.
pub fn admin(edge: Edge, lifecycle: Lifecycle) -> (Router, Router) {
    let shown = Shown { edge, lifecycle };
    let open = Router::new()
        .route("/livez", get("ok\n"))
        .route("/readyz", get(readyz))
        .with_state(shown.clone());
    let guarded = Router::new()
        .route("/api/status", get(status))
        .route("/api/drain", post(drain))
        .route("/metrics", get(metrics))
        .with_state(shown);
    (open, guarded)
}

async fn readyz(State(shown): State<Shown>) -> Response {
    match shown.lifecycle.get() {
        Lifecycle::SERVING => "ok\n".into_response(),
        Lifecycle::DRAINING => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
    }
}

async fn drain(State(shown): State<Shown>) -> Response {
    shown.lifecycle.drain();
    (StatusCode::ACCEPTED, Json(json!({ "draining": true }))).into_response()
}

async fn status(State(shown): State<Shown>) -> Response {
    let status = shown.edge.status();
    ([(header::CACHE_CONTROL, "no-store")], Json(status)).into_response()
}

async fn metrics(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    exposition(shown.edge.metrics(), &headers)
}

// === impl Edge ===

impl Edge {
    /// What is known as of now.
    #[must_use]
    pub fn status(&self) -> Value {
        let inner = &self.0;
        let (objects, bytes) = inner.store.size();
        let report = inner.load.report();
        let told: Value = serde_json::from_str(&report.json).unwrap_or_default();
        let signals: Vec<Value> = report
            .readings
            .iter()
            .map(|reading| {
                json!({
                    "name": &*reading.name,
                    "load": reading.load.map(|load| load.get()),
                    "off": reading.off.as_deref(),
                })
            })
            .collect();
        json!({
            "role": "edge",
            "primary": inner.settings.primary,
            "requests": inner.counters.get(),
            "in_flight": inner.load.in_flight.count(),
            "pulling": inner.fills.count(),
            "objects": objects,
            "stored_bytes": bytes,
            "memory_bytes": inner.settings.memory.bytes(),
            "over_threshold": report.is_over,
            "full": report.is_full,
            "report": told,
            "signals": signals,
        })
    }

    /// The same for Prometheus.
    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let inner = &self.0;
        let counts = inner.counters.get();
        let mut registry = Registry::with_prefix("overspill_edge");
        let requests = Family::<[(&str, &str); 1], Counter>::default();
        for (outcome, count) in [
            ("hit", counts.hits),
            ("miss", counts.misses),
            ("joined", counts.joined),
            ("passed", counts.passed),
            ("refused", counts.refused),
            ("failed", counts.failed),
            ("turned_away", counts.turned_away),
        ] {
            requests
                .get_or_create(&[("outcome", outcome)])
                .inc_by(count);
        }
        registry.register("requests", "Requests by what became of them", requests);
        if let Some(log) = inner.access_log.get() {
            let lines = Family::<[(&str, &str); 1], Counter>::default();
            for (result, count) in log.counts().by_result() {
                lines.get_or_create(&[("result", result)]).inc_by(count);
            }
            let help = "Lines of the access log by what became of them";
            registry.register("access_log_lines", help, lines);
        }
        for (name, help, count) in [
            (
                "stale_hits",
                "Hits with an object that was not fresh any more",
                counts.stale,
            ),
            ("pulls", "Requests to primaries", counts.pulls),
            (
                "pulls_renewed",
                "Pulls that were answered with 304",
                counts.renewed,
            ),
            (
                "pulls_failed",
                "Pulls of which nothing could be given out",
                counts.failed_pulls,
            ),
            (
                "pulled_bytes",
                "Bytes of the bodies of pulls",
                counts.pulled_bytes,
            ),
            (
                "sent_bytes",
                "Bytes of the bodies of answers",
                inner.load.bytes.total(),
            ),
        ] {
            let counter: Counter = Counter::default();
            counter.inc_by(count);
            registry.register(name, help, counter);
        }
        let (objects, bytes) = inner.store.size();
        for (name, help, value) in [
            ("objects", "Entries in the store", objects),
            ("stored_bytes", "What they take", bytes),
            (
                "in_flight",
                "Requests under way",
                inner.load.in_flight.count(),
            ),
        ] {
            let gauge = Gauge::<u64, AtomicU64>::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        }
        let loads = Family::<[(&str, String); 1], Gauge<f64, AtomicU64>>::default();
        for reading in &inner.load.report().readings {
            if let Some(load) = reading.load {
                loads
                    .get_or_create(&[("signal", reading.name.to_string())])
                    .set(load.get());
            }
        }
        registry.register(
            "load_ratio",
            "Load of a signal, smoothed: used / capacity",
            loads,
        );
        let mut encoded = String::new();
        text::encode(&mut encoded, &registry)?;
        Ok(encoded)
    }
}
