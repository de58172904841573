//! The metrics of DESIGN.md's contract, in OpenMetrics text.
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

use crate::app::{Overspill, Status};

/// Everything, as text.
///
/// # Errors
/// That of the encoder.
pub fn encode(overspill: &Overspill) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(State(overspill.status())));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct State(Status);

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let State(status) = self;
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

        let requests = &status.requests;
        let mut outcomes = counter(
            encoder,
            "overspill_requests",
            "Requests by what became of them",
        )?;
        for (outcome, count) in [
            ("served", requests.served),
            ("offloaded", requests.offloaded),
            ("redirected", requests.redirected),
            ("throttled", requests.throttled),
            ("dropped", requests.dropped),
            ("bypassed", requests.bypassed),
        ] {
            total(&mut outcomes, &[("outcome", outcome)], count)?;
        }
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
        servers(status, encoder)
    }
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
