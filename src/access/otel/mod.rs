//! A span for every request, to an OpenTelemetry collector (OTLP over HTTP), with the feature `otel`.
//!
//! Configured by OpenTelemetry's own variables: on where `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) says where
//! to. Spans are made by the log's thread of what its lines are made of, and batched and sent by the SDK's; on the
//! request path a span costs its number.

mod client;
mod sampling;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId as OtelSpan, TraceFlags, TraceId as OtelTrace,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor},
};
use tokio::runtime::Handle;

use self::{client::Client, sampling::Sampling};
use super::entry::{Entry, Span};
use crate::{
    problem::Problem,
    servers::hash::mix,
    trace::{SpanId, TRACEPARENT, TRACESTATE, TraceId, TraceParent},
};

const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
/// What is not sent by then is lost at the end.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends spans.
#[derive(Debug)]
pub(super) struct Exporter {
    processor: BatchSpanProcessor,
    sampling: Sampling,
    scope: InstrumentationScope,
    numbers: Numbers,
}

/// Numbers that nobody else has: by a random seed, and without asking the system each time.
#[derive(Debug)]
struct Numbers {
    seed: [u64; 2],
    next: AtomicU64,
}

// === impl Exporter ===

impl Exporter {
    /// Nothing where no collector is named. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The collector's URL is none, or another variable is wrong.
    pub(super) fn start() -> Result<Option<Self>, Problem> {
        let given = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let Some(name) = ENDPOINTS.into_iter().find(|name| given(name)) else {
            return Ok(None);
        };
        if std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
        {
            return Ok(None);
        }
        let problem = |error: &dyn std::fmt::Display| Problem::new(name, error);
        let client = Client::new(Handle::current()).map_err(|error| problem(&error))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .build()
            .map_err(|error| problem(&error))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource());
        let scope = InstrumentationScope::builder("overspill")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let numbers = Numbers::new().map_err(|error| problem(&error))?;
        Ok(Some(Self {
            processor,
            sampling: Sampling::of_environment()?,
            scope,
            numbers,
        }))
    }

    /// Begins a span: of the trace that the request is part of, else of a new one. From now on the request is a part of
    /// the span.
    pub(super) fn begin(&self, headers: &mut HeaderMap) -> Span {
        let parent = TraceParent::of(headers);
        let trace = parent.map_or_else(|| self.numbers.trace(), |parent| parent.trace);
        let is_sampled = self.sampling.samples(parent, trace);
        let span = self.numbers.span();
        let told = TraceParent {
            trace,
            span,
            flags: u8::from(is_sampled),
        };
        if parent.is_none() {
            headers.remove(&TRACESTATE);
        }
        if let Ok(value) = HeaderValue::try_from(told.to_string()) {
            headers.insert(&TRACEPARENT, value);
        }
        Span {
            trace,
            span,
            parent: parent.map(|parent| parent.span),
            is_sampled,
        }
    }

    /// The span is over. Called by the thread of the log.
    pub(super) fn export(&self, entry: &Entry) {
        if let Some(span) = entry.span.filter(|span| span.is_sampled) {
            self.processor.on_end(self.data(entry, span));
        }
    }

    fn data(&self, entry: &Entry, span: Span) -> SpanData {
        let invalid = OtelSpan::INVALID;
        let id = |id: SpanId| OtelSpan::from_bytes(id.0);
        SpanData {
            span_context: SpanContext::new(
                OtelTrace::from_bytes(span.trace.0),
                id(span.span),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: span.parent.map_or(invalid, id),
            parent_span_is_remote: span.parent.is_some(),
            span_kind: SpanKind::Server,
            name: text(entry.method()).into(),
            start_time: entry.at,
            end_time: entry.at + entry.took,
            attributes: attributes(entry),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match entry.status {
                500.. => Status::error(""),
                _ => Status::Unset,
            },
            instrumentation_scope: self.scope.clone(),
        }
    }

    /// Sends what waits, and ends.
    pub(super) fn end(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(PATIENCE) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

/// By the semantic conventions of HTTP servers; what is our own begins with our name.
fn attributes(entry: &Entry) -> Vec<KeyValue> {
    let target = text(entry.target());
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (target, None),
    };
    let protocol = entry.protocol().and_then(|name| name.split_once('/'));
    let said = |field: &[u8]| (!field.is_empty()).then(|| text(field));
    let server = entry.server.as_ref();
    let word = |word: Option<&'static str>| word.map(str::to_owned);
    let texts = [
        ("http.request.method", Some(text(entry.method()))),
        ("url.path", Some(path)),
        ("url.query", query),
        ("network.protocol.version", word(protocol.map(|of| of.1))),
        ("server.address", said(entry.host())),
        (
            "client.address",
            entry.client.map(|client| client.to_string()),
        ),
        ("user_agent.original", said(entry.agent())),
        (
            "overspill.level",
            word(entry.level.map(|level| level.as_str())),
        ),
        ("overspill.outcome", word(entry.outcome)),
        ("overspill.reason", word(entry.reason)),
        (
            "overspill.server",
            server.map(|server| server.name().to_owned()),
        ),
    ];
    let bytes = i64::try_from(entry.bytes).unwrap_or(i64::MAX);
    let figures = [
        ("http.response.status_code", i64::from(entry.status)),
        ("http.response.body.size", bytes),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, text)| Some(KeyValue::new(name, text?)));
    let figures = figures.map(|(name, figure)| KeyValue::new(name, figure));
    texts.chain(figures).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Who it is that sends, by `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.
fn resource() -> Resource {
    let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some()
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
    let builder = Resource::builder();
    match is_named {
        true => builder.build(),
        false => builder.with_service_name("overspill").build(),
    }
}

// === impl Numbers ===

impl Numbers {
    fn new() -> Result<Self, getrandom::Error> {
        Ok(Self {
            seed: [getrandom::u64()?, getrandom::u64()?],
            next: AtomicU64::new(0),
        })
    }

    fn draw(&self, of: usize) -> u64 {
        let number = self.next.fetch_add(1, Relaxed);
        // 0 is no number; it comes once in more requests than there will ever be.
        mix(self.seed[of].wrapping_add(mix(number))).max(1)
    }

    fn trace(&self) -> TraceId {
        let (high, low) = (self.draw(0), self.draw(1));
        TraceId((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
    }

    fn span(&self) -> SpanId {
        SpanId(self.draw(0).to_be_bytes())
    }
}
