//! One line of the show, in 80 columns.

use super::{
    crowd::Tally,
    show::{Moment, Paint, Style},
    stage::{Server, Stage},
};
use crate::app::Status;

/// What stands in which column.
pub(super) const HEADING: &str =
    "time come whole alone 503 drop lost load level    share primary a       b";

/// Cells of a bar.
const CELLS: usize = 4;

/// What happened between two moments.
pub(super) struct Line<'a> {
    pub(super) last: &'a Moment,
    pub(super) now: &'a Moment,
    pub(super) stage: &'a Stage,
    pub(super) status: &'a Status,
}

// === impl Line ===

impl Line<'_> {
    pub(super) fn painted(&self, paint: Paint) -> String {
        let Self {
            last, now, status, ..
        } = self;
        let seconds = (now.time - last.time).as_secs_f64().max(1e-3);
        let rate = |since: u64, until: u64| (until - since) as f64 / seconds;
        let of = |count: fn(&Tally) -> u64| rate(count(&last.tally), count(&now.tally));
        let level = paint.with(
            Style::of_level(status.level),
            format_args!("{:<8}", status.level),
        );
        let whole = paint.with(
            Style::Green,
            format_args!("{:>6.0}", of(|tally| tally.whole)),
        );
        let mut text = format!(
            "{:>3.0}s{:>5.0}{whole}{:>6.0}{:>4.0}{:>5.0}{:>5.0} {:>4.2} {level}{:>5.0}%",
            now.time.as_secs_f64(),
            of(|tally| tally.came),
            rate(last.alone.whole, now.alone.whole),
            of(|tally| tally.turned_away),
            of(|tally| tally.dropped),
            of(|tally| tally.too_slow + tally.broken),
            load(status),
            status.share * 100.0,
        );
        let sent = last.sent.iter().zip(now.sent);
        for (server, (last, now)) in self.stage.servers.iter().zip(sent) {
            text.push(' ');
            text += &self.link(paint, server, rate(*last, now) * 8.0);
        }
        text
    }

    fn link(&self, paint: Paint, server: &Server, bits: f64) -> String {
        let mut servers = self.status.servers.iter();
        let is_ill = servers.any(|known| known.name == server.name && known.health == "ill");
        if is_ill {
            return paint.with(Style::Red, format_args!("{:<7}", "dead"));
        }
        let (full, rest) = bar(bits / server.link.capacity().bits_per_second());
        let full = paint.with(Style::Green, full);
        let rest = paint.with(Style::Faint, rest);
        format!("{full}{rest}{:>3.0}", bits / 1e6)
    }
}

/// The part of a bar that is full, to an eighth of a cell, and the rest of it.
fn bar(part: f64) -> (String, String) {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = ((part * CELLS as f64 * 8.0).round() as usize).min(CELLS * 8);
    let last = EIGHTHS[eighths % 8];
    let cells = eighths.div_ceil(8);
    (
        format!("{}{last}", "█".repeat(eighths / 8)),
        "·".repeat(CELLS - cells),
    )
}

/// The load of the primary's link.
pub(super) fn load(status: &Status) -> f64 {
    let bandwidth = status
        .signals
        .iter()
        .find(|signal| signal.name == "bandwidth");
    bandwidth.and_then(|signal| signal.load).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_always_has_as_many_cells() {
        for part in [0.0, 0.01, 0.1, 0.26, 0.5, 0.99, 1.0, 7.0] {
            let (full, rest) = bar(part);
            let cells = full.chars().count() + rest.chars().count();
            assert_eq!(cells, CELLS, "{part}: {full}{rest}");
        }
        assert_eq!(bar(0.5), ("██".to_owned(), "··".to_owned()));
        assert_eq!(bar(0.53), ("██▏".to_owned(), "·".to_owned()));
    }
}
