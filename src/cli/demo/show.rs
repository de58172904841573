//! What the audience sees: plain lines, in colour on a terminal.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use super::{crowd::Tally, stage::Stage, summary::Summary};
use crate::{app::Status, load::Thresholds, units::Ratio};

/// Cells of a bar.
const BAR: usize = 8;

/// Where the show is written.
pub(super) struct Show {
    out: Box<dyn Write + Send>,
    colour: bool,
}

/// What a line is made from: a moment, or all that happened between two.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moment {
    pub(super) time: Duration,
    pub(super) tally: Tally,
    /// Bytes sent by each server.
    pub(super) sent: [u64; 3],
}

/// Ways to set text off.
#[derive(Debug, Clone, Copy)]
enum Style {
    Faint,
    Bold,
    Green,
    Yellow,
    Red,
    Magenta,
}

// === impl Style ===

impl Style {
    /// ECMA-48, "Select Graphic Rendition".
    const fn code(self) -> &'static str {
        match self {
            Self::Faint => "2",
            Self::Bold => "1",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
            Self::Magenta => "35",
        }
    }

    fn of_level(level: &str) -> Self {
        match level {
            "normal" => Self::Green,
            "offload" => Self::Yellow,
            "throttle" => Self::Red,
            _ => Self::Magenta,
        }
    }
}

// === impl Show ===

impl Show {
    /// On stdout; on stderr where stdout is for the summary as JSON.
    pub(super) fn new(json: bool) -> Self {
        let (out, terminal): (Box<dyn Write + Send>, _) = if json {
            (Box::new(io::stderr()), io::stderr().is_terminal())
        } else {
            (Box::new(io::stdout()), io::stdout().is_terminal())
        };
        // https://no-color.org
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            out,
            colour: terminal && wanted,
        }
    }

    fn paint(&self, style: Style, text: impl fmt::Display) -> String {
        if self.colour {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text.to_string()
        }
    }

    /// Who plays, and what the levels mean.
    pub(super) fn opening(&mut self, stage: &Stage, patience: Duration) -> io::Result<()> {
        let mut text =
            String::from("A site on a small link, two offload servers, and a crowd.\n\n");
        for (server, role) in stage.servers.iter().zip([
            "the site: look at it while it lasts",
            "offload server",
            "offload server",
        ]) {
            text += &format!(
                "  {:<8} {:<23} {:>9}  {role}\n",
                server.name,
                server.url(),
                server.link.capacity().to_string()
            );
        }
        text += &format!("  {:<8} http://{}/api/status\n\n", "status", stage.admin);
        let Thresholds {
            offload,
            throttle,
            drop,
        } = stage.thresholds;
        for (level, threshold, meaning) in [
            (
                "normal",
                None,
                "the primary serves the pages and all their objects",
            ),
            (
                "offload",
                offload,
                "some visitors' pages link their objects to an offload server",
            ),
            (
                "throttle",
                throttle,
                "some new visitors get a 503 page, so that the others get whole pages",
            ),
            ("drop", drop, "some connections are closed without a byte"),
        ] {
            let name = self.paint(Style::of_level(level), format_args!("{level:<8}"));
            let above = threshold.map_or("        ".to_owned(), |threshold: Ratio| {
                format!("load {threshold:.2}+")
            });
            text += &format!("  {name} {above:<11} {meaning}\n");
        }
        text += &format!(
            "\nA visitor fetches a page and its objects, over at most six connections to a host, within {} s.\n\n",
            patience.as_secs()
        );
        let heading = " time  visitors  load  level     share   whole   503  dropped  not whole   Mbit/s  primary     a           b";
        text += &self.paint(Style::Bold, heading);
        writeln!(self.out, "{text}")
    }

    /// The narrator speaks.
    pub(super) fn narrate(&mut self, sentence: &str) -> io::Result<()> {
        let sentence = self.paint(Style::Bold, sentence);
        writeln!(self.out, "\n  {sentence}")
    }

    /// The level has changed.
    pub(super) fn level(&mut self, from: &str, to: &str, load: f64) -> io::Result<()> {
        let order = ["normal", "offload", "throttle", "drop"];
        let place = |level| order.iter().position(|name| *name == level);
        let meaning = match (to, place(to) > place(from)) {
            ("offload", true) => "pages begin to link their objects to the offload servers",
            ("throttle", true) => "who finds room nowhere may get a 503",
            ("drop", true) => {
                "with all new visitors turned away it is still too much: some get no answer"
            }
            ("throttle", false) => "everyone gets an answer again, if only a 503",
            ("offload", false) => "nobody is turned away any more",
            _ => "nothing was left to offload for a whole hold: all is as it was",
        };
        let to = self.paint(Style::of_level(to), to);
        writeln!(self.out, "  {from} -> {to} at load {load:.2}: {meaning}")
    }

    /// What happened between two moments.
    pub(super) fn line(
        &mut self,
        last: &Moment,
        now: &Moment,
        stage: &Stage,
        status: &Status,
    ) -> io::Result<()> {
        let seconds = (now.time - last.time).as_secs_f64().max(1e-3);
        let rate =
            |count: fn(&Tally) -> u64| (count(&now.tally) - count(&last.tally)) as f64 / seconds;
        let level = self.paint(
            Style::of_level(status.level),
            format_args!("{:<8}", status.level),
        );
        let turned_away = rate(|tally| tally.turned_away);
        let dropped = rate(|tally| tally.dropped);
        let mut text = format!(
            "{:>4.0}s {:>7.0}/s  {:>4.2}  {level} {:>5.0}% {:>6.0}/s {:>5.0} {:>8.0} {:>10.0}           ",
            now.time.as_secs_f64(),
            rate(|tally| tally.came),
            load(status),
            status.share * 100.0,
            rate(|tally| tally.whole),
            turned_away,
            dropped,
            rate(|tally| tally.too_slow + tally.broken),
        );
        for (server, (now, last)) in stage.servers.iter().zip(now.sent.iter().zip(last.sent)) {
            let bits = (now - last) as f64 * 8.0 / seconds;
            let full = bits / server.link.capacity().bits_per_second();
            let cells = ((full * BAR as f64).round() as usize).min(BAR);
            let bar = self.paint(Style::Green, "█".repeat(cells));
            let rest = self.paint(Style::Faint, "·".repeat(BAR - cells));
            text += &format!("{bar}{rest}{:>3.0} ", bits / 1e6);
        }
        writeln!(self.out, "{}", text.trim_end())
    }

    /// The end.
    pub(super) fn ending(&mut self, summary: &Summary) -> io::Result<()> {
        writeln!(self.out, "\n{summary}")
    }
}

/// The load of the primary's link.
pub(super) fn load(status: &Status) -> f64 {
    let bandwidth = status
        .signals
        .iter()
        .find(|signal| signal.name == "bandwidth");
    bandwidth.and_then(|signal| signal.load).unwrap_or(0.0)
}
