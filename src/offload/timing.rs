//! How long an answer took, in its `Server-Timing` (W3C Server Timing), where `server_timing` is on.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::counters::Outcome;

static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How long it took until each of them.
#[derive(Debug)]
pub(super) struct Timing {
    begun: Instant,
    decided: Duration,
    served: Option<Duration>,
}

// === impl Timing ===

impl Timing {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            decided: Duration::ZERO,
            served: None,
        }
    }

    /// It is decided what happens with the request.
    pub(super) fn decided(mut self) -> Self {
        self.decided = self.begun.elapsed();
        self
    }

    /// The inner service has answered.
    pub(super) fn served(&mut self) {
        self.served = Some(self.begun.elapsed());
    }

    /// The answer goes out. What the inner service says of its own times stays.
    pub(super) fn tell(&self, outcome: Outcome, headers: &mut HeaderMap) {
        let text = self.text(outcome, self.begun.elapsed());
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.append(&SERVER_TIMING, value);
        }
    }

    fn text(&self, outcome: Outcome, total: Duration) -> String {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let mut text = format!(
            "overspill;desc=\"{}\";dur={:.3}",
            outcome.label(),
            millis(self.decided)
        );
        // Writing into a text does not fail.
        if let Some(served) = self.served {
            let _ = write!(
                text,
                ", app;dur={:.3}",
                millis(served.saturating_sub(self.decided))
            );
        }
        let _ = write!(text, ", total;dur={:.3}", millis(total));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_each_time_in_milliseconds_beside_what_stands_there() {
        let timing = Timing {
            begun: Instant::now(),
            decided: Duration::from_micros(12),
            served: Some(Duration::from_micros(1512)),
        };
        assert_eq!(
            timing.text(Outcome::Offloaded, Duration::from_millis(2)),
            "overspill;desc=\"offloaded\";dur=0.012, app;dur=1.500, total;dur=2.000"
        );
        let mut headers = HeaderMap::new();
        headers.insert(&SERVER_TIMING, HeaderValue::from_static("db;dur=53"));
        timing.tell(Outcome::Served, &mut headers);
        let values: Vec<_> = headers.get_all(&SERVER_TIMING).iter().collect();
        assert_eq!(values[0], "db;dur=53");
        assert_eq!(values.len(), 2);
    }
}
