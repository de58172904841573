//! The metrics of DESIGN.md's contract, in OpenMetrics text (`text` makes the classic format of it).
//!
//! Nothing is counted here: the figures are read from the state when somebody asks. No label carries a
//! client or a path.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, text,
    },
    metrics::MetricType,
    registry::Registry,
};

use super::process::figures;
use crate::{
    app::{Overspill, Status},
    offload::{Histogram, Outcome},
};

/// Everything, as text.
///
/// # Errors
/// That of the encoder.
pub fn encode(overspill: &Overspill) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let counters = &overspill.shared().counters;
    let durations = Outcome::ALL.map(|outcome| (outcome.label(), counters.durations(outcome)));
    let records = overspill.shared().record_counts();
    registry.register_collector(Box::new(State {
        status: overspill.status(),
        durations: durations.into(),
        lines: records.map_or(Vec::new(), |counts| counts.by_result().into()),
    }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct State {
    status: Status,
    durations: Vec<(&'static str, Histogram)>,
    /// Of the access log, by what became of them.
    lines: Vec<(&'static str, u64)>,
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let State {
            status, durations, ..
        } = self;
        let encoder = &mut encoder;

        let mut loads = gauge(
            encoder,
            "overspill_load_ratio",
            "Load of a signal, smoothed: used / capacity",
        )?;
        for signal in &status.signals {
            if let Some(load) = signal.load {
                value(&mut loads, &[("signal", signal.name.as_str())], load)?;
            }
        }
        let level = crate::level::Level::ALL
            .iter()
            .position(|level| level.as_str() == status.level)
            .unwrap_or_default();
        gauge(
            encoder,
            "overspill_level",
            "Level: 0 normal, 1 offload, 2 throttle, 3 drop",
        )?
        .encode_gauge(&(level as i64))?;
        gauge(
            encoder,
            "overspill_share_ratio",
            "Part of the visitors that is offloaded",
        )?
        .encode_gauge(&status.share)?;

        let mut outcomes = counter(
            encoder,
            "overspill_requests",
            "Requests by what became of them",
        )?;
        for (outcome, count) in status.requests.by_outcome() {
            total(&mut outcomes, &[("outcome", outcome)], count)?;
        }
        let mut took = encoder.encode_descriptor(
            "overspill_request_duration_seconds",
            "Time from a request's head to the end of its answer, by what became of it",
            None,
            MetricType::Histogram,
        )?;
        for (outcome, histogram) in durations {
            let count = histogram.buckets.iter().map(|(_, count)| count).sum();
            took.encode_family(&[("outcome", *outcome)])?
                .encode_histogram::<NoLabelSet>(histogram.sum, count, &histogram.buckets, None)?;
        }
        lines(&self.lines, encoder)?;
        classes(status, encoder)?;
        let mut ahead = counter(
            encoder,
            "overspill_pages_scanned_ahead",
            "Pages scanned in the background, before an episode needs their plans",
        )?;
        ahead.encode_counter::<NoLabelSet, _, u64>(&status.pages_scanned_ahead, None)?;
        let mut reasons = counter(
            encoder,
            "overspill_rewrite_bailouts",
            "Pages whose end went out as it came",
        )?;
        for (reason, count) in &status.bail_outs {
            total(&mut reasons, &[("reason", *reason)], *count)?;
        }
        servers(status, encoder)?;
        build(status, encoder)?;
        process(encoder)
    }
}

fn build(status: &Status, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut build = gauge(encoder, "overspill_build_info", "This program: always 1")?;
    value(&mut build, &[("version", status.version)], 1_i64)
}

/// By the names that Prometheus's own client libraries use.
fn process(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let figures = figures();
    if let Some(seconds) = figures.cpu_seconds {
        counter(
            encoder,
            "process_cpu_seconds",
            "User and system time of this process, in seconds",
        )?
        .encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
    }
    for (name, help, figure) in [
        (
            "process_resident_memory_bytes",
            "Memory of this process that is in use, in bytes",
            figures.resident_memory,
        ),
        (
            "process_virtual_memory_bytes",
            "Address space of this process, in bytes",
            figures.virtual_memory,
        ),
        (
            "process_start_time_seconds",
            "When this process began, in seconds since 1970",
            figures.start_time,
        ),
        (
            "process_open_fds",
            "Files that this process has open",
            figures.open_files,
        ),
        (
            "process_max_fds",
            "Files that it may have open",
            figures.most_open_files,
        ),
    ] {
        if let Some(figure) = figure {
            let figure = i64::try_from(figure).unwrap_or(i64::MAX);
            gauge(encoder, name, help)?.encode_gauge(&figure)?;
        }
    }
    Ok(())
}

/// None where there is no access log.
fn lines(lines: &[(&'static str, u64)], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    let mut counts = counter(
        encoder,
        "overspill_access_log_lines",
        "Lines of the access log by what became of them",
    )?;
    for (result, count) in lines {
        total(&mut counts, &[("result", *result)], *count)?;
    }
    Ok(())
}

/// Their names are the configuration's: there are as many as that has, and none without.
fn classes(status: &Status, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    if status.classes.is_empty() {
        return Ok(());
    }
    let mut turned_away = counter(
        encoder,
        "overspill_turned_away",
        "Requests turned away by the layer, by their class and how",
    )?;
    for class in &status.classes {
        let counts = &class.turned_away;
        for (outcome, count) in [("throttled", counts.throttled), ("dropped", counts.dropped)] {
            let labels = [("class", class.name.as_str()), ("outcome", outcome)];
            total(&mut turned_away, &labels, count)?;
        }
    }
    Ok(())
}

fn servers(status: &Status, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut pages = counter(
        encoder,
        "overspill_pages_rewritten",
        "Pages with links pointed to the server",
    )?;
    for server in &status.servers {
        for (how, count) in [
            ("scanned", server.pages_scanned),
            ("spliced", server.pages_spliced),
        ] {
            let labels = [("server", server.name.as_str()), ("how", how)];
            total(&mut pages, &labels, count)?;
        }
    }
    let mut links = counter(
        encoder,
        "overspill_links_rewritten",
        "Links pointed to the server",
    )?;
    for server in &status.servers {
        total(&mut links, &named(&server.name), server.links)?;
    }
    let mut loads = gauge(
        encoder,
        "overspill_server_load_ratio",
        "Load of the server: used / capacity",
    )?;
    for server in &status.servers {
        if let Some(load) = server.load {
            value(&mut loads, &named(&server.name), load)?;
        }
    }
    let mut usable = gauge(
        encoder,
        "overspill_server_usable",
        "Whether the server gets work: 0 or 1",
    )?;
    for server in &status.servers {
        value(&mut usable, &named(&server.name), i64::from(server.usable))?;
    }
    let mut assigned = counter(
        encoder,
        "overspill_server_assigned_bytes",
        "Bytes promised to the server",
    )?;
    for server in &status.servers {
        total(&mut assigned, &named(&server.name), server.assigned_bytes)?;
    }
    let mut costs = counter(
        encoder,
        "overspill_cost",
        "What the promised bytes cost at the server's price",
    )?;
    for server in &status.servers {
        total(&mut costs, &named(&server.name), server.cost)?;
    }
    Ok(())
}

fn named(server: &str) -> [(&'static str, &str); 1] {
    [("server", server)]
}

fn gauge<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

/// The encoder appends `_total` to `name`.
fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

fn value<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    family.encode_family(labels)?.encode_gauge(&value)
}

fn total<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    value: impl EncodeCounterValue,
) -> fmt::Result {
    family
        .encode_family(labels)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
}
