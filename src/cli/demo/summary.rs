//! What became of the crowd, and of the same crowd where there is no Overspill.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{crowd::Tally, show::Moment};
use crate::{
    app::Status,
    crowd::{Crowd, Report, TimesToWhole},
};

/// The whole show in a few numbers. As JSON it is one object; fields may be added to it, none goes away.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    /// How long it was.
    pub(super) seconds: f64,
    /// Whether it was played to its end.
    pub(super) complete: bool,
    #[serde(flatten)]
    pub(super) visitors: Visitors,
    /// Pages whose links were pointed to an offload server.
    pub(super) pages_rewritten: u64,
    /// Who sent how many bytes.
    pub(super) bytes: Bytes,
    /// The level at the end.
    pub(super) level: &'static str,
    /// The acts that were played.
    pub(super) acts: Vec<&'static str>,
    /// Every level that was seen, in the order of their first appearance.
    pub(super) levels: Vec<&'static str>,
    /// The server that died; null before it does.
    pub(super) died: Option<Death>,
    /// The same crowd where there is no Overspill.
    pub(super) without: Without,
    /// How long a visitor waits, in seconds.
    pub(super) patience: f64,
}

/// A crowd, when it has gone.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Visitors {
    #[serde(flatten)]
    tally: Tally,
    /// Of those let in; null where there was none.
    time_to_whole: Option<TimesToWhole>,
    /// Seconds that the latest visitor came later than drawn: of a machine that is too slow for the show.
    late: f64,
}

/// The crowd of the primary that has nobody.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Without {
    #[serde(flatten)]
    visitors: Visitors,
    /// What it sent.
    bytes: u64,
}

/// Bytes by server.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Bytes {
    primary: u64,
    a: u64,
    b: u64,
}

/// A server that died, in seconds of the show; null is what has not happened.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Death {
    /// Its name.
    pub(super) server: &'static str,
    /// When it was killed.
    pub(super) killed: f64,
    /// When Overspill knew.
    pub(super) noticed: Option<f64>,
    /// When it was started again.
    pub(super) started: Option<f64>,
    /// When Overspill knew that.
    pub(super) back: Option<f64>,
}

// === impl Visitors ===

impl Visitors {
    pub(super) fn of(crowd: &Crowd, elapsed: Duration) -> Self {
        let Report {
            time_to_whole,
            late,
            ..
        } = crowd.report(0.0, elapsed, elapsed);
        Self {
            tally: Tally::of(crowd),
            time_to_whole,
            late,
        }
    }
}

// === impl Summary ===

/// What only the director knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) acts: Vec<&'static str>,
    pub(super) levels: Vec<&'static str>,
    pub(super) died: Option<Death>,
    pub(super) complete: bool,
}

impl Summary {
    /// Of the crowd, and of the same one `alone`.
    pub(super) fn new(
        end: &Moment,
        [crowd, alone]: [&Crowd; 2],
        status: &Status,
        seen: Seen,
        patience: Duration,
    ) -> Self {
        let [primary, a, b] = end.sent;
        Self {
            seconds: end.time.as_secs_f64(),
            complete: seen.complete,
            visitors: Visitors::of(crowd, end.time),
            pages_rewritten: status.servers.iter().map(|server| server.pages).sum(),
            bytes: Bytes { primary, a, b },
            level: status.level,
            acts: seen.acts,
            levels: seen.levels,
            died: seen.died,
            without: Without {
                visitors: Visitors::of(alone, end.time),
                bytes: end.sent_alone,
            },
            patience: patience.as_secs_f64(),
        }
    }

    /// The two crowds side by side.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let both = [&self.visitors, &self.without.visitors];
        writeln!(f, "{:46}{:>16}{:>16}", "", "with Overspill", "without")?;
        let mut count = |what: &str, always: bool, count: fn(&Tally) -> u64| {
            let counts = both.map(|visitors| (count(&visitors.tally), visitors.tally.came));
            if !always && counts.iter().all(|(count, _)| *count == 0) {
                return Ok(());
            }
            write!(f, "  {what:<44}")?;
            for (count, came) in counts {
                write!(f, "{:>8}{:>6.1} %", grouped(count), percent(count, came))?;
            }
            writeln!(f)
        };
        count("visitors who came", true, |tally| tally.came)?;
        count("got a whole page", true, |tally| tally.whole)?;
        count("were turned away with a 503 page", true, |tally| {
            tally.turned_away
        })?;
        count("were dropped without an answer", true, |tally| {
            tally.dropped
        })?;
        count("were let in, and lost patience", true, |tally| {
            tally.too_slow
        })?;
        count("were let in, and found something missing", true, |tally| {
            tally.broken
        })?;
        count("were still there", false, |tally| tally.still_there)?;
        count("could not be sent by this machine", false, |tally| {
            tally.not_sent
        })?;
        let mut row = |what: &str, value: fn(&Visitors) -> Option<String>| {
            let [with, without] = both.map(|visitors| value(visitors).unwrap_or("-".to_owned()));
            writeln!(f, "  {what:<44}{with:>16}{without:>16}")
        };
        row("of those let in, got a whole page", |visitors| {
            let Tally { whole, .. } = visitors.tally;
            let let_in = visitors.tally.let_in();
            (let_in > 0).then(|| format!("{:.1} %", percent(whole, let_in)))
        })?;
        row("time to the whole page, half of them within", |visitors| {
            visitors
                .time_to_whole
                .map(|times| format!("{:.2} s", times.p50))
        })?;
        row("95 of 100 within", |visitors| {
            visitors
                .time_to_whole
                .map(|times| format!("{:.2} s", times.p95))
        })
    }

    /// Who sent the bytes.
    fn bytes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bytes { primary, a, b } = self.bytes;
        let all = primary + a + b;
        write!(f, "Sent:")?;
        for (bytes, who, then) in [(primary, "the primary", ','), (a, "a", ','), (b, "b", ';')] {
            let megabytes = bytes as f64 / 1e6;
            let part = percent(bytes, all);
            write!(f, " {who} {megabytes:.0} MB ({part:.0} %){then}")?;
        }
        let alone = self.without.bytes as f64 / 1e6;
        writeln!(f, "\nthe primary alone: {alone:.0} MB.")
    }
}

/// Of all the `part`.
fn percent(part: u64, all: u64) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// 12,345.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was killed after {:.0} s", self.server, self.killed)?;
        if let Some(noticed) = self.noticed {
            write!(
                f,
                ", and known to be dead {:.1} s later",
                noticed - self.killed
            )?;
        }
        if let (Some(started), Some(back)) = (self.started, self.back) {
            let later = back - started;
            write!(
                f,
                ";\nstarted again after {started:.0} s, and at work {later:.1} s later"
            )?;
        }
        f.write_str(".")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = if self.complete { "" } else { ", broken off" };
        writeln!(
            f,
            "{:.0} s{ended}. The same visitors came at the same times to the same site on\n\
             the same link without Overspill and without offload servers. What they got:\n",
            self.seconds
        )?;
        self.table(f)?;
        writeln!(f)?;
        self.bytes(f)?;
        writeln!(
            f,
            "{} pages were rewritten. Levels:\n{}; at the end: {}.",
            grouped(self.pages_rewritten),
            self.levels.join(", "),
            self.level
        )?;
        if let Some(died) = &self.died {
            writeln!(f, "{died}")?;
        }
        let late = self.visitors.late.max(self.without.visitors.late);
        if late > 0.5 {
            writeln!(
                f,
                "This machine was busy: visitors came up to {late:.1} s late, which both crowds felt."
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let numbers = [0, 7, 999, 1_000, 12_345, 1_234_567];
        assert_eq!(
            numbers.map(grouped),
            ["0", "7", "999", "1,000", "12,345", "1,234,567"]
        );
    }

    #[test]
    fn a_death_is_told_as_far_as_it_has_come() {
        let mut death = Death {
            server: "b",
            killed: 32.0,
            ..Death::default()
        };
        assert_eq!(death.to_string(), "b was killed after 32 s.");
        death.noticed = Some(33.5);
        let known = "b was killed after 32 s, and known to be dead 1.5 s later";
        assert_eq!(death.to_string(), format!("{known}."));
        (death.started, death.back) = (Some(41.0), Some(43.0));
        let back = "started again after 41 s, and at work 2.0 s later";
        assert_eq!(death.to_string(), format!("{known};\n{back}."));
    }
}
