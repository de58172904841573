//! The picture, as a pure function of what has been seen.
//!
//! Each section is a list of lines for a width. Where the height is given the plots take what is left over, and where
//! even that is too little, what stands lowest is cut off.

mod decisions;
mod head;
mod load;
mod servers;
#[cfg(test)]
mod tests;
mod visitors;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
};

use super::seen::Seen;
use crate::{cli::words, level::Level};

/// Narrower than that nothing can be told.
const NARROWEST: u16 = 20;
/// How much is told where the height is given, from the most to the least.
const STORIES: [Story; 6] = [
    Story {
        rows: 8,
        terse: false,
    },
    Story {
        rows: 6,
        terse: false,
    },
    Story {
        rows: 5,
        terse: false,
    },
    Story {
        rows: 4,
        terse: false,
    },
    Story {
        rows: 1,
        terse: false,
    },
    Story {
        rows: 1,
        terse: true,
    },
];
/// Where there is no end of room.
const USUAL: Story = Story {
    rows: 4,
    terse: false,
};
/// The least number of lines of decisions for which the rest is kept short.
const DECISIONS: usize = 4;
/// However many servers there are, so many of their lines stay.
const SERVERS: usize = 4;

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Story {
    /// The height of a signal's plot: one, or at least as many as its name and its thresholds take.
    rows: usize,
    /// What is not needed at a glance is left out.
    terse: bool,
}

/// The picture at `now` (unix seconds, this machine's clock), `width` columns wide; `height` rows high, or as high as it
/// takes.
pub(super) fn draw(seen: &Seen, now: f64, width: u16, height: Option<u16>) -> Buffer {
    let width = width.max(NARROWEST);
    let lines = lines(seen, now, usize::from(width), height.map(usize::from));
    let height = height.unwrap_or_else(|| lines.len().try_into().unwrap_or(u16::MAX));
    let mut picture = Buffer::empty(Rect::new(0, 0, width, height));
    for (row, line) in (0..height).zip(&lines) {
        picture.set_line(0, row, line, width);
    }
    picture
}

fn lines(seen: &Seen, now: f64, width: usize, height: Option<usize>) -> Vec<Line<'static>> {
    let live = height.is_some();
    let mut lines = head::away(seen, now, width, live);
    let gone = lines.len();
    let Some(status) = &seen.status else {
        if gone == 0 {
            lines.push(Line::from(format!(" asking {} …", seen.url)));
        }
        return lines;
    };
    let foot = usize::from(live);
    let sections = |story: Story| {
        [
            head::head(seen, status, now, width, story.terse),
            load::load(seen, status, width, story),
            visitors::visitors(seen, status, width, story.terse),
            servers::servers(status, width),
            decisions::decisions(seen, now, width),
        ]
    };
    // How many lines there are too many, when decisions are left out as far as that goes.
    let excess = |[head, load, visitors, servers, decisions]: &[Vec<Line<'_>>; 5],
                  height: usize| {
        let few = decisions.len().min(DECISIONS + 1);
        let all = gone + head.len() + load.len() + visitors.len() + servers.len() + few + foot;
        all.saturating_sub(height)
    };
    let mut told = sections(USUAL);
    if let Some(height) = height {
        for story in STORIES {
            told = sections(story);
            if excess(&told, height) == 0 {
                break;
            }
        }
        let excess = excess(&told, height);
        let servers = &mut told[3];
        let room = servers.len().saturating_sub(excess).max(SERVERS);
        if room < servers.len() {
            servers.truncate(room - 1);
            servers.push(Line::from(" … a higher window shows the others").dark_gray());
        }
    }
    lines.extend(told.into_iter().flatten());
    if let Some(height) = height {
        lines.resize(height.saturating_sub(foot), Line::default());
        lines.push(head::foot(seen));
    }
    if gone > 0 {
        // Last known, and no more than that.
        for line in &mut lines[gone..] {
            let grey = Style::new()
                .fg(Color::DarkGray)
                .remove_modifier(Modifier::BOLD | Modifier::REVERSED);
            *line = Line::from(line.to_string()).style(grey);
        }
    }
    lines
}

/// A heading that fills its line.
fn heading(text: &str, width: usize) -> Line<'static> {
    let line = "─".repeat(width.saturating_sub(text.chars().count() + 4));
    Line::from(vec![
        " ".into(),
        Span::from(text.to_owned()).bold(),
        format!(" {line}").dark_gray(),
    ])
}

/// The colour of a level. It is never the only sign of it.
fn colour(level: Option<Level>) -> Color {
    match level {
        None => Color::Gray,
        Some(Level::Normal) => Color::Green,
        Some(Level::Offload) => Color::Cyan,
        Some(Level::Throttle) => Color::Yellow,
        Some(Level::Drop) => Color::Red,
    }
}

/// `text` in lines no wider than `width`, broken where it is broken already, and between words where that can be.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    text.lines()
        .flat_map(|line| wrapped_line(line, width.max(1)))
        .collect()
}

fn wrapped_line(text: &str, width: usize) -> Vec<String> {
    let columns = |text: &str| Span::raw(text.to_owned()).width();
    let (mut lines, mut line) = (Vec::new(), String::new());
    for mut word in words::plain(text).split_whitespace() {
        if !line.is_empty() {
            if columns(&line) + 1 + columns(word) <= width {
                line.push(' ');
            } else {
                lines.push(std::mem::take(&mut line));
            }
        }
        // A word that is wider than the picture has a line for itself before it comes here.
        while columns(word) > width {
            let (head, rest) = word.split_at(fitting(word, width));
            if rest.is_empty() {
                break;
            }
            lines.push(head.to_owned());
            word = rest;
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// How many bytes of `text` fit into `width` columns; one character at least.
fn fitting(text: &str, width: usize) -> usize {
    let mut used = 0;
    let mut end = 0;
    for (at, c) in text.char_indices() {
        used += Span::raw(c.to_string()).width();
        if used > width && at > 0 {
            break;
        }
        end = at + c.len_utf8();
    }
    end
}

/// `text` in exactly `width` columns, cut with "…" where it is longer.
fn fitted(text: &str, width: usize) -> String {
    let text = words::plain(text);
    let columns = Span::raw(text.as_str()).width();
    if columns <= width {
        return text + &" ".repeat(width - columns);
    }
    let mut cut = text[..fitting(&text, width.saturating_sub(1))].to_owned();
    cut.push('…');
    let columns = Span::raw(cut.as_str()).width();
    cut + &" ".repeat(width.saturating_sub(columns))
}

/// Facts one after another, as many in a line as it takes.
fn flow(facts: Vec<Span<'static>>, width: usize) -> Vec<Line<'static>> {
    let mut lines: Vec<Vec<Span<'static>>> = Vec::new();
    let mut used = 0;
    for fact in facts {
        let columns = fact.width();
        if columns + 1 > width {
            let rows = wrapped(&fact.content, width.saturating_sub(1));
            let style = fact.style;
            lines.extend(
                rows.into_iter()
                    .map(|row| vec![" ".into(), Span::styled(row, style)]),
            );
            used = width;
            continue;
        }
        match lines.last_mut() {
            Some(line) if used + 3 + columns <= width => {
                line.push(" · ".dark_gray());
                line.push(fact);
                used += 3 + columns;
            }
            _ => {
                lines.push(vec![" ".into(), fact]);
                used = 1 + columns;
            }
        }
    }
    lines.into_iter().map(Line::from).collect()
}
