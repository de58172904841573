//! What this edge says of its load: the same signals as the primary's, as an ORCA report.
//!
//! It is told at `/.overspill/load`, and rides on every pull, so that a busy edge is known without being asked.
//! Over the threshold `throttle` of any signal the edge says so; over `drop` it pulls nothing more and gives out
//! what it has.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use serde_json::{Map, Value, json};
use tokio::{runtime::Handle, time::Instant};

use super::settings::EdgeSettings;
use crate::{
    load::{self, BytesSent, InFlight, Reading, Sampler},
    units::Ratio,
};

/// The highest load that is told: a report that tells more is not believed.
const HIGHEST: f64 = 10.0;
/// The time over which requests are counted.
const COUNTED: Duration = Duration::from_secs(1);

/// The load as of the last look.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) json: String,
    pub(super) header: Option<HeaderValue>,
    /// The highest of its signals.
    pub(super) load: Ratio,
    /// A signal is at its threshold `throttle`.
    pub(super) is_over: bool,
    /// A signal is at its threshold `drop`: nothing more is pulled.
    pub(super) is_full: bool,
    pub(super) readings: Vec<Reading>,
}

/// Keeps the report up.
pub(super) struct Load {
    pub(super) in_flight: InFlight,
    pub(super) bytes: BytesSent,
    /// Requests so far.
    pub(super) requests: Arc<AtomicU64>,
    report: Arc<ArcSwap<Report>>,
    /// A lock only because a sender may not be shared between threads.
    _sampler: Mutex<Sampler>,
}

// === impl Load ===

impl Load {
    /// Starts to look at the signals. Must be called within a Tokio runtime.
    pub(super) fn start(settings: &load::Settings, edge: &EdgeSettings) -> std::io::Result<Self> {
        let mut settings = settings.clone();
        if edge.capacity.is_some() {
            settings.bandwidth.capacity = edge.capacity;
        }
        let (in_flight, bytes) = (InFlight::new(), BytesSent::new());
        let signals = load::signals(&settings, &in_flight, &bytes, &Handle::current());
        let requests = Arc::new(AtomicU64::new(0));
        let report = Arc::new(ArcSwap::from_pointee(Report::new(&[], None, None)));
        let (published, counted) = (Arc::clone(&report), Arc::clone(&requests));
        let mut counter = Counter::default();
        let release = settings.release.get();
        let sampler = Sampler::start(
            signals,
            settings.interval,
            settings.smoothing,
            move |tick| {
                let rate = counter.rate(counted.load(Ordering::Relaxed), tick.now);
                let before = published.load_full();
                let report = Report::new(tick.readings, rate, Some((&before, release)));
                if report.is_over != before.is_over || report.is_full != before.is_full {
                    tracing::info!(
                        over = report.is_over,
                        full = report.is_full,
                        report = report.json,
                        "this edge's load"
                    );
                }
                published.store(Arc::new(report));
            },
        )?;
        Ok(Self {
            in_flight,
            bytes,
            requests,
            report,
            _sampler: Mutex::new(sampler),
        })
    }

    pub(super) fn report(&self) -> Arc<Report> {
        self.report.load_full()
    }

    pub(super) fn is_full(&self) -> bool {
        self.report.load().is_full
    }
}

/// Requests a second.
#[derive(Default)]
struct Counter {
    since: Option<(u64, Instant)>,
    rate: Option<f64>,
}

impl Counter {
    fn rate(&mut self, count: u64, now: Instant) -> Option<f64> {
        let (before, since) = *self.since.get_or_insert((count, now));
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= COUNTED {
            self.rate = Some(count.saturating_sub(before) as f64 / elapsed.as_secs_f64());
            self.since = Some((count, now));
        }
        self.rate
    }
}

// === impl Report ===

impl Report {
    /// `before`: what was told before, and how far below its threshold a load must be for that to be taken back.
    fn new(readings: &[Reading], rate: Option<f64>, before: Option<(&Self, f64)>) -> Self {
        let told = |load: f64| (load.clamp(0.0, HIGHEST) * 1e4).round() / 1e4;
        let mut named = Map::new();
        let (mut highest, mut cpu) = (0.0f64, None);
        let (mut is_over, mut is_full) = (false, false);
        for reading in readings {
            let Some(load) = reading.load else { continue };
            let load = load.get();
            highest = highest.max(load);
            if &*reading.name == "cpu" {
                cpu = Some(told(load));
            } else {
                named.insert(reading.name.to_string(), json!(told(load)));
            }
            let passed = |threshold: Option<Ratio>, was: fn(&Self) -> bool| {
                let margin = match before {
                    Some((before, release)) if was(before) => release,
                    _ => 0.0,
                };
                threshold.is_some_and(|threshold| load >= threshold.get() - margin)
            };
            is_over |= passed(reading.thresholds.throttle, |before| before.is_over);
            is_full |= passed(reading.thresholds.drop, |before| before.is_full);
        }
        named.insert(
            "over_threshold".to_owned(),
            json!(f64::from(u8::from(is_over))),
        );
        let mut report = Map::new();
        report.insert("application_utilization".to_owned(), json!(told(highest)));
        if let Some(cpu) = cpu {
            report.insert("cpu_utilization".to_owned(), json!(cpu));
        }
        if let Some(rate) = rate {
            report.insert("rps_fractional".to_owned(), json!(rate));
        }
        report.insert("named_metrics".to_owned(), Value::Object(named));
        let json = Value::Object(report).to_string();
        Self {
            header: HeaderValue::try_from(json.as_str()).ok(),
            json,
            load: Ratio::saturating(highest),
            is_over,
            is_full,
            readings: readings.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Thresholds;

    fn reading(name: &str, load: f64) -> Reading {
        Reading {
            name: name.into(),
            thresholds: Thresholds::standard(),
            raw: Ratio::new(load),
            load: Ratio::new(load),
            off: None,
        }
    }

    #[test]
    fn tells_the_highest_load_as_the_primary_reads_it() {
        let report = Report::new(
            &[reading("cpu", 0.3), reading("bandwidth", 0.72)],
            Some(9.5),
            None,
        );
        let load = crate::servers::parse_report(report.json.as_bytes()).unwrap();
        assert_eq!(load.get(), 0.72);
        let value: Value = serde_json::from_str(&report.json).unwrap();
        assert_eq!(value["cpu_utilization"], 0.3);
        assert_eq!(value["named_metrics"]["bandwidth"], 0.72);
        assert_eq!(value["rps_fractional"], 9.5);
        let wild = Report::new(&[reading("cpu", 1e6)], None, None);
        assert!(crate::servers::parse_report(wild.json.as_bytes()).is_ok());
    }

    #[test]
    fn says_that_it_is_over_until_its_load_is_well_below() {
        let after = |load, before: &Report| {
            Report::new(&[reading("cpu", load)], None, Some((before, 0.05)))
        };
        let calm = Report::new(&[], None, None);
        let over = after(0.91, &calm);
        assert!(over.is_over && !over.is_full);
        assert!(after(0.88, &over).is_over);
        assert!(!after(0.84, &over).is_over);
        assert!(!after(0.88, &calm).is_over);
        // The primary hears of it.
        for (report, is_over) in [(&over, true), (&calm, false)] {
            let mut json: Value = serde_json::from_str(&report.json).unwrap();
            json["cpu_utilization"] = json!(0.1);
            let heard = crate::servers::read_report(json.to_string().as_bytes());
            assert_eq!(heard.unwrap().is_over, is_over);
        }
        assert!(after(0.99, &over).is_full);
    }
}
