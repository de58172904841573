//! The last hour, second by second: what the server remembers, and what was seen since.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::model::Status;

/// An hour, with room for seconds that were counted twice.
const MOST: usize = 4000;

/// What was the case so many seconds ago still stands for now.
const RECENT: f64 = 5.0;

/// What was the case in one second.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Point {
    /// Unix seconds.
    pub(super) time: f64,
    /// From 0, `normal`, to 3, `drop`.
    pub(super) level: Option<f64>,
    pub(super) share: Option<f64>,
    pub(super) signals: BTreeMap<String, f64>,
    /// A second, by outcome.
    pub(super) requests: BTreeMap<String, f64>,
}

/// Points, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    points: VecDeque<Point>,
}

// === impl Point ===

impl Point {
    /// What happened between two statuses, the later of which came at `time`.
    pub(super) fn between(before: Option<&Status>, status: &Status, time: f64) -> Self {
        let level = |name: &str| name.parse::<crate::level::Level>().ok();
        let seconds = before.and_then(|before| Some(status.uptime? - before.uptime?));
        // A server that was started again counts from nothing.
        let seconds = seconds.filter(|seconds| *seconds > 0.05);
        let requests = status.requests.iter().filter_map(|(outcome, count)| {
            let before = before?.requests.get(outcome)?;
            Some((outcome.clone(), ((count - before) / seconds?).max(0.0)))
        });
        let signals = status.signals.iter();
        Self {
            time,
            level: status
                .level
                .as_deref()
                .and_then(level)
                .map(|level| f64::from(level as u8)),
            share: status.share,
            signals: signals
                .filter_map(|signal| Some((signal.name.clone(), signal.load?)))
                .collect(),
            requests: requests.collect(),
        }
    }
}

// === impl Past ===

impl Past {
    /// Takes what the server remembers of the time since its start; what was seen before that is kept.
    pub(super) fn recall(&mut self, history: &Value) {
        let times = numbers(&history["time"]);
        let column = |value: &Value| numbers(value);
        let columns = |value: &Value| -> Vec<(String, Vec<Option<f64>>)> {
            let columns = value.as_object().into_iter().flatten();
            columns
                .map(|(name, value)| (name.clone(), column(value)))
                .collect()
        };
        let at = |column: &[Option<f64>], index: usize| column.get(index).copied().flatten();
        let row = |columns: &[(String, Vec<Option<f64>>)], index: usize| {
            let cells = columns.iter();
            cells
                .filter_map(|(name, column)| Some((name.clone(), at(column, index)?)))
                .collect()
        };
        let (level, share) = (column(&history["level"]), column(&history["share"]));
        let (signals, requests) = (columns(&history["signals"]), columns(&history["requests"]));
        let points = times.iter().enumerate().filter_map(|(index, time)| {
            Some(Point {
                time: (*time)?,
                level: at(&level, index),
                share: at(&share, index),
                signals: row(&signals, index),
                requests: row(&requests, index),
            })
        });
        let mut points = points.peekable();
        let Some(first) = points.peek().map(|point| point.time) else {
            return;
        };
        while self.end().is_some_and(|end| end >= first) {
            self.points.pop_back();
        }
        points.for_each(|point| self.push(point));
    }

    /// Takes the next point; a clock that was set back begins anew.
    pub(super) fn push(&mut self, point: Point) {
        if !point.time.is_finite() {
            return;
        }
        while self.end().is_some_and(|end| end >= point.time) {
            self.points.pop_back();
        }
        self.points.push_back(point);
        while self.points.len() > MOST {
            self.points.pop_front();
        }
    }

    /// When the last point was.
    pub(super) fn end(&self) -> Option<f64> {
        self.points.back().map(|point| point.time)
    }

    /// The newest value, where there is one of the last seconds.
    pub(super) fn latest(&self, value: impl Fn(&Point) -> Option<f64>) -> Option<f64> {
        let recent = |point: &&Point| self.end().is_some_and(|end| end - point.time < RECENT);
        self.points.iter().rev().take_while(recent).find_map(value)
    }

    /// `count` columns of `step` seconds each, the last of which holds the last point. Columns begin at whole steps, so
    /// that they move on as a whole and do not flicker.
    pub(super) fn columns(
        &self,
        step: f64,
        count: usize,
        value: impl Fn(&Point) -> Option<f64>,
        joined: impl Fn(&[f64]) -> f64,
    ) -> Vec<Option<f64>> {
        let mut cells = vec![Vec::new(); count];
        let Some(end) = self.end() else {
            return vec![None; count];
        };
        let last = (end / step).floor();
        for point in self.points.iter().rev() {
            let back = last - (point.time / step).floor();
            if back >= count as f64 {
                break;
            }
            if let Some(value) = value(point).filter(|value| value.is_finite()) {
                cells[count - 1 - back as usize].push(value);
            }
        }
        let join = |cell: Vec<f64>| (!cell.is_empty()).then(|| joined(&cell));
        cells.into_iter().map(join).collect()
    }
}

/// The highest: a peak must not vanish because time is pressed together.
pub(super) fn highest(cell: &[f64]) -> f64 {
    cell.iter().copied().fold(f64::MIN, f64::max)
}

/// The mean.
pub(super) fn mean(cell: &[f64]) -> f64 {
    cell.iter().sum::<f64>() / cell.len() as f64
}

fn numbers(value: &Value) -> Vec<Option<f64>> {
    let list = value.as_array().into_iter().flatten();
    list.map(Value::as_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(time: f64, share: f64) -> Point {
        Point {
            time,
            share: Some(share),
            ..Point::default()
        }
    }

    fn shares(past: &Past, step: f64, count: usize) -> Vec<Option<f64>> {
        past.columns(step, count, |point| point.share, highest)
    }

    #[test]
    fn the_servers_memory_is_joined_with_what_was_seen_before_it_began() {
        let mut past = Past::default();
        past.push(at(10.0, 0.1));
        past.push(at(20.0, 0.2));
        past.recall(&json!({
            "time": [20.0, 21.0, 22.0], "share": [0.5, null, 0.7], "level": [1],
            "signals": { "cpu": [0.1, 0.2, 0.3] }, "requests": { "served": [1, 2] },
        }));
        assert_eq!(
            past.points
                .iter()
                .map(|point| (point.time, point.share))
                .collect::<Vec<_>>(),
            [
                (10.0, Some(0.1)),
                (20.0, Some(0.5)),
                (21.0, None),
                (22.0, Some(0.7))
            ]
        );
        assert_eq!(past.points[1].level, Some(1.0));
        assert_eq!(past.points[3].signals["cpu"], 0.3);
        assert!(past.points[3].requests.is_empty());
        past.recall(&json!({ "error": "?" }));
        assert_eq!(past.points.len(), 4);
    }

    #[test]
    fn columns_keep_peaks_and_gaps() {
        let mut past = Past::default();
        for (time, share) in [(100.0, 0.1), (101.0, 0.9), (106.0, 0.3)] {
            past.push(at(time, share));
        }
        assert_eq!(
            shares(&past, 2.0, 5),
            [None, Some(0.9), None, None, Some(0.3)]
        );
        assert_eq!(shares(&Past::default(), 1.0, 2), [None, None]);
    }

    #[test]
    fn it_is_bounded_and_a_clock_set_back_begins_anew() {
        let mut past = Past::default();
        (0..MOST + 10).for_each(|time| past.push(at(time as f64, 0.0)));
        assert_eq!(past.points.len(), MOST);
        past.push(at(20.0, 0.5));
        assert_eq!(past.end(), Some(20.0));
    }

    #[test]
    fn two_statuses_give_rates_unless_the_server_was_started_again() {
        let status = |uptime: f64, served: u64| -> Status {
            serde_json::from_value(json!({
                "level": "throttle", "uptime": uptime, "requests": { "served": served },
                "signals": [{ "name": "cpu", "load": 0.4 }],
            }))
            .unwrap()
        };
        let point = Point::between(Some(&status(10.0, 100)), &status(12.0, 130), 5.0);
        assert_eq!((point.level, point.requests["served"]), (Some(2.0), 15.0));
        assert_eq!(point.signals["cpu"], 0.4);
        let again = Point::between(Some(&status(10.0, 100)), &status(1.0, 3), 5.0);
        assert!(again.requests.is_empty());
    }
}
