//! What has been seen of the server so far: all that the picture is made from.

use jiff::tz::TimeZone;
use serde_json::Value;

use super::{
    model::{Decision, Status, decisions},
    past::{Past, Point},
};
use crate::cli::words;

/// How much of the past a picture shows, in seconds; the live view steps through these.
const WINDOWS: [f64; 5] = [60.0, 120.0, 300.0, 900.0, 3600.0];
const USUAL_WINDOW: usize = 2;

/// All that is known.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Where the server is asked.
    pub(super) url: String,
    /// Nothing before the first answer.
    pub(super) status: Option<Status>,
    pub(super) past: Past,
    /// Oldest first.
    pub(super) decisions: Vec<Decision>,
    /// Set while the server does not answer.
    pub(super) away: Option<Away>,
    pub(super) zone: TimeZone,
    window: usize,
}

/// The server does not answer.
#[derive(Debug, Clone)]
pub(super) struct Away {
    /// By this machine's clock, in unix seconds.
    pub(super) since: f64,
    pub(super) why: String,
}

/// One answer of the server: its status, and what else was asked for with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    pub(super) status: Value,
    pub(super) history: Option<Value>,
    pub(super) decisions: Option<Value>,
}

// === impl Seen ===

impl Seen {
    /// Nothing is known yet.
    pub(super) fn new(url: String, zone: TimeZone) -> Self {
        Self {
            url,
            status: None,
            past: Past::default(),
            decisions: Vec::new(),
            away: None,
            zone,
            window: USUAL_WINDOW,
        }
    }

    /// Takes an answer that came at `now` by this machine's clock.
    pub(super) fn heard(&mut self, look: &Look, now: f64) {
        self.away = None;
        let status: Status = serde_json::from_value(look.status.clone()).unwrap_or_default();
        if let Some(history) = &look.history {
            self.past.recall(history);
        }
        let time = status.time.unwrap_or(now);
        self.past
            .push(Point::between(self.status.as_ref(), &status, time));
        if let Some(answer) = &look.decisions {
            self.decisions = decisions(answer);
        }
        self.status = Some(status);
    }

    /// Takes that no answer came.
    pub(super) fn missed(&mut self, why: &str, now: f64) {
        let since = self.away.as_ref().map_or(now, |away| away.since);
        self.away = Some(Away {
            since,
            why: words::plain(why),
        });
    }

    /// How much of the past is shown, in seconds.
    pub(super) fn window(&self) -> f64 {
        WINDOWS[self.window]
    }

    /// Shows less of the past, closer.
    pub(super) fn closer(&mut self) {
        self.window = self.window.saturating_sub(1);
    }

    /// Shows more of the past.
    pub(super) fn farther(&mut self) {
        self.window = (self.window + 1).min(WINDOWS.len() - 1);
    }
}
