//! What the audience sees: lines, and on a terminal colours and a bar below them that tells how long it still is.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::ProgressBar;

use super::{
    bar::{Narrow, bar, millis},
    crowd::Tally,
    line::{HEADING, Line},
    stage::Stage,
    story::{ACTS, Act, Story},
};
use crate::{app::Status, load::Thresholds, units::Ratio};

/// Where the show is written.
pub(super) struct Show {
    out: Box<dyn Write + Send>,
    paint: Paint,
    /// Below the lines, on a terminal.
    bar: Option<ProgressBar>,
}

/// What a line is made from: a moment, or all that happened between two.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moment {
    pub(super) time: Duration,
    pub(super) tally: Tally,
    /// The same crowd's where there is no Overspill.
    pub(super) alone: Tally,
    /// Bytes sent by each server.
    pub(super) sent: [u64; 3],
    /// And by the one that has nobody.
    pub(super) sent_alone: u64,
}

/// Whether text is set off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

/// Ways to set text off.
#[derive(Debug, Clone, Copy)]
pub(super) enum Style {
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

    pub(super) fn of_level(level: &str) -> Self {
        match level {
            "normal" => Self::Green,
            "offload" => Self::Yellow,
            "throttle" => Self::Red,
            _ => Self::Magenta,
        }
    }
}

// === impl Paint ===

impl Paint {
    pub(super) fn with(self, style: Style, text: impl fmt::Display) -> String {
        if self.0 {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text.to_string()
        }
    }
}

// === impl Show ===

impl Show {
    /// On stdout; on stderr where stdout is for the summary as JSON.
    pub(super) fn new(json: bool, story: &Story) -> Self {
        let (out, terminal): (Box<dyn Write + Send>, _) = if json {
            (Box::new(io::stderr()), io::stderr().is_terminal())
        } else {
            (Box::new(io::stdout()), io::stdout().is_terminal())
        };
        let moves = terminal && std::env::var_os("TERM").is_none_or(|name| name != "dumb");
        // https://no-color.org
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let paint = Paint(moves && wanted);
        Self {
            out,
            paint,
            bar: moves.then(|| bar(Narrow { stderr: json }, story.length(), paint.0)),
        }
    }

    /// Whatever is written goes above the bar.
    fn say(&mut self, text: &str) -> io::Result<()> {
        let out = &mut self.out;
        match &self.bar {
            Some(bar) => bar.suspend(|| writeln!(out, "{text}")),
            None => writeln!(out, "{text}"),
        }
    }

    /// Who plays, and what the levels mean.
    pub(super) fn opening(&mut self, stage: &Stage, story: &Story) -> io::Result<()> {
        let mut text =
            String::from("A site on a small link, two offload servers, and a crowd.\n\n");
        let dashboard = self
            .paint
            .with(Style::Bold, format_args!("http://{}/", stage.admin));
        text += &format!("  Dashboard: {dashboard}\n\n");
        let roles = [
            "the site: have a look",
            "offload server",
            "offload server",
            "the same site without Overspill",
        ];
        let servers = stage.servers.iter().chain([&stage.alone]);
        for (server, role) in servers.zip(roles) {
            text += &format!(
                "  {:<8} {:<23} {:>9}  {role}\n",
                server.name,
                server.url(),
                server.link.capacity().to_string()
            );
        }
        text.push('\n');
        let Thresholds {
            offload, throttle, ..
        } = stage.thresholds;
        let load = |threshold: Option<Ratio>| {
            threshold.map_or(String::new(), |threshold| format!("load {threshold:.2}+"))
        };
        for (level, above, meaning) in [
            (
                "normal",
                String::new(),
                "the primary serves the pages and all their objects",
            ),
            (
                "offload",
                load(offload),
                "some pages link their objects to an offload server",
            ),
            (
                "throttle",
                load(throttle),
                "some new visitors get a 503 page, the others whole pages",
            ),
            (
                "drop",
                "queue 3 s+".to_owned(),
                "some connections are closed without a byte",
            ),
        ] {
            let name = self
                .paint
                .with(Style::of_level(level), format_args!("{level:<8}"));
            text += &format!("  {name} {above:<11} {meaning}\n");
        }
        text += &format!(
            "\nA visitor fetches a page and its objects, over at most six connections to a\n\
             host, and goes away after {} s. The same visitors come to the primary alone.\n\n\
             Of the visitors in each second: come; whole: got the page with all its objects;\n\
             alone: as many as got that from the primary alone; 503: a page that says no;\n\
             drop: no answer; lost: let in, and the page was not whole. The bars: Mbit/s.",
            story.patience.as_secs()
        );
        self.say(&text)
    }

    /// An act begins.
    pub(super) fn act(&mut self, number: usize, act: &Act) -> io::Result<()> {
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("{}/{ACTS} {}", number + 1, act.name));
        }
        let sentence = format!("{}. {}", number + 1, act.sentence);
        let sentence = self.paint.with(Style::Bold, sentence);
        let heading = self.paint.with(Style::Faint, HEADING);
        self.say(&format!("\n{sentence}\n{heading}"))
    }

    /// The narrator tells what has happened.
    pub(super) fn event(&mut self, text: impl fmt::Display) -> io::Result<()> {
        let text = self.paint.with(Style::Bold, text);
        self.say(&format!("  {text}"))
    }

    /// The level has changed.
    pub(super) fn level(&mut self, from: &str, to: &str, load: f64) -> io::Result<()> {
        let order = ["normal", "offload", "throttle", "drop"];
        let place = |level| order.iter().position(|name| *name == level);
        let meaning = match (to, place(to) > place(from)) {
            ("offload", true) => "objects begin to come from a and b",
            ("throttle", true) => "who finds room nowhere would get a 503",
            ("drop", true) => "503s wait for seconds: some get no answer",
            ("throttle", false) => "everyone gets an answer, if only a 503",
            ("offload", false) => "nobody is turned away any more",
            _ => "all is as it was",
        };
        let to = self.paint.with(Style::of_level(to), to);
        self.say(&format!("  {from} -> {to} at load {load:.2}: {meaning}"))
    }

    /// What happened between two moments.
    pub(super) fn line(
        &mut self,
        last: &Moment,
        now: &Moment,
        stage: &Stage,
        status: &Status,
    ) -> io::Result<()> {
        let line = Line {
            last,
            now,
            stage,
            status,
        };
        let line = line.painted(self.paint);
        self.say(&line)
    }

    /// How much of the story is behind.
    pub(super) fn progress(&self, story: &Story, behind: Duration) {
        let Some(bar) = &self.bar else {
            return;
        };
        let length = story.length();
        bar.set_position(millis(behind));
        bar.set_message(match length.saturating_sub(behind).as_secs() {
            0 => "a moment more".to_owned(),
            left => format!("{left} s left"),
        });
    }

    /// The last visitors leave.
    pub(super) fn leaving(&self) {
        if let Some(bar) = &self.bar {
            bar.set_prefix("the last ones leave");
        }
    }

    /// The end, be it early.
    pub(super) fn ending(&mut self, summary: &impl fmt::Display) -> io::Result<()> {
        self.curtain();
        self.say(&format!("\n{summary}"))
    }

    /// Nothing but lines from now on.
    fn curtain(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// All of it stays as it is.
    pub(super) fn keeping(&mut self, stage: &Stage, visitors: f64) -> io::Result<()> {
        let [primary, ..] = &stage.servers;
        let dashboard = format!("http://{}/", stage.admin);
        let dashboard = self.paint.with(Style::Bold, dashboard);
        self.say(&format!(
            "It goes on with {visitors} visitors a second until Ctrl-C.\n  The dashboard: {dashboard}\n  The site:      {}/",
            primary.url()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_plain_where_it_is_not_painted() {
        assert_eq!(Paint(false).with(Style::Red, 1), "1");
        assert_eq!(Paint(true).with(Style::Red, 1), "\x1b[31m1\x1b[0m");
    }
}
