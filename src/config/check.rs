//! What only shows when several keys are looked at together.

use std::time::Duration;

use crate::{
    load::{self, Thresholds},
    problem::Problem,
};

/// `[load]`: thresholds in order, times that make sense.
pub(super) fn load(load: &load::Settings, problems: &mut Vec<Problem>) {
    if load.interval < Duration::from_millis(10) || load.interval > Duration::from_secs(60) {
        problems.push(Problem::new("load.interval", "must be from 10ms to 1m"));
    }
    for (signal, thresholds) in [
        ("cpu", load.cpu.thresholds()),
        ("bandwidth", load.bandwidth.thresholds()),
        ("in_flight", load.in_flight.thresholds()),
        ("queue_delay", load.queue_delay.thresholds()),
        ("upstream", load.upstream.thresholds()),
    ] {
        in_order(signal, thresholds, problems);
    }
}

fn in_order(signal: &str, thresholds: Thresholds, problems: &mut Vec<Problem>) {
    let named = [
        ("offload", thresholds.offload),
        ("throttle", thresholds.throttle),
        ("drop", thresholds.drop),
    ];
    let mut lower = None;
    for (name, threshold) in named {
        let Some(threshold) = threshold else { continue };
        if let Some((below, limit)) = lower.filter(|(_, limit)| threshold <= *limit) {
            problems.push(Problem::new(
                format!("load.{signal}.{name}"),
                format_args!("must be above `load.{signal}.{below}` ({limit}), found {threshold}"),
            ));
        }
        lower = Some((name, threshold));
    }
}
