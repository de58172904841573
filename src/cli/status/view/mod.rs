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
/// The heights that the plot of a signal may have. Four rows are as many as its name and its thresholds take.
const PLOT_ROWS: [usize; 5] = [8, 6, 5, 4, 1];
/// The least number of decisions for which plots are kept low.
const DECISIONS: usize = 4;
/// The plots' height where there is no end of room.
const USUAL_ROWS: usize = 4;

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
    lines.extend(head::head(seen, status, now, width));
    lines.push(Line::default());
    let visitors = visitors::visitors(seen, status, width);
    let servers = servers::servers(status, width);
    let decisions = decisions::decisions(seen, now, width);
    let foot = usize::from(live);
    let rest = |rows: usize| {
        let load = load::load(seen, status, width, rows);
        let low = decisions.len().min(DECISIONS + 1);
        lines.len() + load.len() + visitors.len() + servers.len() + low + foot
    };
    let rows = match height {
        None => USUAL_ROWS,
        Some(height) => PLOT_ROWS
            .into_iter()
            .find(|rows| rest(*rows) <= height)
            .unwrap_or(1),
    };
    lines.extend(load::load(seen, status, width, rows));
    lines.extend(visitors);
    lines.extend(servers);
    lines.extend(decisions);
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

/// `text` in lines no wider than `width`, broken between words where that can be.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
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
