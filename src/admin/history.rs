//! The last hour, one point a second: what a page that is opened late shows first.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{app::Status, level::Level, offload::Outcome};

/// From one point to the next, in seconds.
pub(super) const STEP: f64 = 1.0;
/// An hour of them.
const KEPT: usize = 3_600;
/// Rates are of what was counted since the last point: of a shorter time there is nothing to tell.
const SHORTEST: f64 = 0.1;

/// The points, oldest first. About 130 bytes each, so half a megabyte in all.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The names of the signals, in the order of the points' loads.
    signals: Vec<String>,
    points: VecDeque<Point>,
    last: Option<Counted>,
}

/// One moment.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    time: f64,
    level: u8,
    share: f32,
    throttled: f32,
    dropped: f32,
    /// In the order of the signals' names.
    loads: Box<[Option<f32>]>,
    /// A second, in the order of [`OUTCOMES`].
    requests: [f32; 6],
    /// A second, scanned and spliced.
    pages: [f32; 2],
}

/// What had been counted at a moment.
#[derive(Debug, Clone, Copy)]
struct Counted {
    time: f64,
    requests: [u64; 6],
    pages: [u64; 2],
}

const OUTCOMES: [Outcome; 6] = Outcome::ALL;
const HOW: [&str; 2] = ["scanned", "spliced"];

// === impl History ===

impl History {
    /// Takes in the state as of now; gives the new point.
    pub(super) fn observe(&mut self, status: &Status) -> Value {
        for signal in &status.signals {
            if !self.signals.contains(&signal.name) {
                self.signals.push(signal.name.clone());
            }
        }
        let now = Counted::of(status);
        let before = self.last.replace(now).unwrap_or(now);
        let passed = now.time - before.time;
        let rate = |now: u64, before: u64| match passed >= SHORTEST {
            true => (now.saturating_sub(before) as f64 / passed) as f32,
            false => 0.0,
        };
        let load = |name: &String| {
            let signal = status.signals.iter().find(|signal| signal.name == *name)?;
            signal.load.map(|load| load as f32)
        };
        let level = Level::ALL
            .iter()
            .position(|level| level.as_str() == status.level);
        let point = Point {
            time: now.time,
            level: level.unwrap_or_default() as u8,
            share: status.share as f32,
            throttled: status.throttled as f32,
            dropped: status.dropped as f32,
            loads: self.signals.iter().map(load).collect(),
            requests: std::array::from_fn(|it| rate(now.requests[it], before.requests[it])),
            pages: std::array::from_fn(|it| rate(now.pages[it], before.pages[it])),
        };
        let told = self.told(&point);
        if self.points.len() == KEPT {
            self.points.pop_front();
        }
        self.points.push_back(point);
        told
    }

    /// One point.
    fn told(&self, point: &Point) -> Value {
        let loads = std::iter::zip(&self.signals, &point.loads);
        json!({
            "time": tenths(point.time),
            "level": point.level,
            "share": round(point.share),
            "throttled": round(point.throttled),
            "dropped": round(point.dropped),
            "signals": object(loads.map(|(name, load)| (name.as_str(), load.map(round)))),
            "requests": object(OUTCOMES.map(Outcome::label).into_iter().zip(point.requests.map(round))),
            "pages": object(HOW.into_iter().zip(point.pages.map(round))),
        })
    }

    /// All of them, in columns.
    pub(super) fn columns(&self) -> Value {
        let load =
            |index| self.column(|point| point.loads.get(index).copied().flatten().map(round));
        let signals = self.signals.iter().enumerate();
        let signals = signals.map(|(index, name)| (name.as_str(), load(index)));
        let outcome = |(index, name)| (name, self.column(|point| round(point.requests[index])));
        let how = |(index, name)| (name, self.column(|point| round(point.pages[index])));
        json!({
            "step": STEP,
            "time": self.column(|point| tenths(point.time)),
            "level": self.column(|point| point.level),
            "share": self.column(|point| round(point.share)),
            "throttled": self.column(|point| round(point.throttled)),
            "dropped": self.column(|point| round(point.dropped)),
            "signals": object(signals),
            "requests": object(OUTCOMES.map(Outcome::label).into_iter().enumerate().map(outcome)),
            "pages": object(HOW.into_iter().enumerate().map(how)),
        })
    }

    fn column<T: Serialize>(&self, of: impl Fn(&Point) -> T) -> Value {
        self.points.iter().map(|point| json!(of(point))).collect()
    }
}

fn object<'a, T: Serialize>(pairs: impl Iterator<Item = (&'a str, T)>) -> Map<String, Value> {
    pairs
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect()
}

/// Three digits are more than a plot shows.
fn round(value: f32) -> f64 {
    (f64::from(value) * 1e3).round() / 1e3
}

fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

// === impl Counted ===

impl Counted {
    fn of(status: &Status) -> Self {
        let servers = || status.servers.iter();
        Self {
            time: status.time,
            requests: status.requests.by_outcome().map(|(_, count)| count),
            pages: [
                servers().map(|server| server.pages_scanned).sum(),
                servers().map(|server| server.pages_spliced).sum(),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Overspill, Settings, app::SignalStatus};

    /// At so many seconds, with so many served.
    fn status(time: f64, served: u64) -> Status {
        let mut status = Overspill::start(Settings::default()).unwrap().status();
        status.time = time;
        status.requests.served = served;
        status.signals = vec![SignalStatus {
            name: "cpu".to_owned(),
            load: Some(0.123_456),
            raw: None,
            offload: None,
            throttle: None,
            drop: None,
            off: None,
        }];
        status
    }

    #[tokio::test]
    async fn points_are_rates_since_the_last_one() {
        let mut history = History::default();
        let first = history.observe(&status(1_000.0, 50));
        assert_eq!(first["requests"]["served"], 0.0, "of nothing before");
        assert_eq!(first["signals"], json!({ "cpu": 0.123 }));
        let second = history.observe(&status(1_002.0, 74));
        assert_eq!(second["requests"]["served"], 12.0);
        assert_eq!(second["level"], 0);
        let columns = history.columns();
        assert_eq!(columns["time"], json!([1_000.0, 1_002.0]));
        assert_eq!(columns["requests"]["served"], json!([0.0, 12.0]));
        assert_eq!(columns["signals"]["cpu"], json!([0.123, 0.123]));
    }

    #[tokio::test]
    async fn an_hour_is_kept_and_no_more() {
        let mut history = History::default();
        let mut status = status(0.0, 0);
        for second in 0..4_000_u64 {
            status.time = second as f64;
            // Servers that are gone took their counts with them.
            status.requests.served = second % 7;
            history.observe(&status);
        }
        let columns = history.columns();
        let times = columns["time"].as_array().unwrap();
        assert_eq!(times.len(), 3_600);
        assert_eq!(times.last().unwrap(), 3_999.0);
        let text = serde_json::to_string(&columns).unwrap();
        assert!(text.len() < 400_000, "{}", text.len());
    }

    #[tokio::test]
    async fn a_signal_that_comes_later_has_no_load_before() {
        let mut history = History::default();
        let mut one = status(1.0, 0);
        history.observe(&one);
        one.time = 2.0;
        one.signals[0].name = "bandwidth".to_owned();
        history.observe(&one);
        let columns = history.columns();
        assert_eq!(columns["signals"]["cpu"], json!([0.123, null]));
        assert_eq!(columns["signals"]["bandwidth"], json!([null, 0.123]));
    }
}
