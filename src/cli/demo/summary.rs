//! What became of the crowd.

use std::fmt;

use serde::Serialize;

use super::{crowd::Tally, show::Moment};
use crate::app::Status;

/// The whole show in a few numbers.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    /// How long it was.
    pub(super) seconds: f64,
    /// Whether it was played to its end.
    pub(super) complete: bool,
    #[serde(flatten)]
    pub(super) visitors: Tally,
    /// Pages whose links were pointed to an offload server.
    pub(super) pages_rewritten: u64,
    /// Who sent how many bytes.
    pub(super) bytes: Bytes,
    /// The level at the end.
    pub(super) level: &'static str,
    /// Every level that was seen, in the order of their first appearance.
    pub(super) levels: Vec<&'static str>,
}

/// Bytes by server.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Bytes {
    primary: u64,
    a: u64,
    b: u64,
}

// === impl Summary ===

impl Summary {
    pub(super) fn new(
        end: &Moment,
        status: &Status,
        levels: Vec<&'static str>,
        complete: bool,
    ) -> Self {
        let [primary, a, b] = end.sent;
        Self {
            seconds: end.time.as_secs_f64(),
            complete,
            visitors: end.tally,
            pages_rewritten: status.servers.iter().map(|server| server.pages).sum(),
            bytes: Bytes { primary, a, b },
            level: status.level,
            levels,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            came,
            whole,
            turned_away,
            dropped,
            too_slow,
            broken,
        } = self.visitors;
        let part = |count: u64| 100.0 * count as f64 / came.max(1) as f64;
        let Bytes { primary, a, b } = self.bytes;
        let all = (primary + a + b).max(1) as f64;
        let ended = if self.complete { "" } else { ", broken off" };
        writeln!(f, "{came} visitors in {:.0} s{ended}:", self.seconds)?;
        for (count, what) in [
            (whole, "got a whole page"),
            (turned_away, "were turned away with a 503"),
            (dropped, "were dropped without an answer"),
            (too_slow, "were let in and lost patience"),
            (broken, "were let in and something was missing"),
        ] {
            writeln!(f, "  {count:>6}  {:>5.1} %  {what}", part(count))?;
        }
        writeln!(f, "{} pages were rewritten.", self.pages_rewritten)?;
        for (bytes, who) in [
            (primary, "the primary"),
            (a, "offload server a"),
            (b, "offload server b"),
        ] {
            let megabytes = bytes as f64 / 1e6;
            writeln!(
                f,
                "  {megabytes:>6.1} MB {:>4.0} %  from {who}",
                100.0 * bytes as f64 / all
            )?;
        }
        write!(f, "Level at the end: {}.", self.level)
    }
}
