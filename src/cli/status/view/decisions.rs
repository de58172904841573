//! The last decisions in words, the newest first.

use ratatui::{
    style::Stylize,
    text::{Line, Span},
};

use super::{heading, wrapped};
use crate::cli::{status::seen::Seen, words};

/// More than a screen has rows for.
const MOST: usize = 20;

/// The section; nothing where none is known.
pub(super) fn decisions(seen: &Seen, now: f64, width: usize) -> Vec<Line<'static>> {
    if seen.decisions.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![heading("decisions, the newest first", width)];
    for decision in seen.decisions.iter().rev().take(MOST) {
        let clock = decision
            .time
            .map(|time| words::clock(time, now, &seen.zone));
        let clock = clock.unwrap_or_default();
        let indent = clock.chars().count() + 2;
        let text = wrapped(&decision.text, width.saturating_sub(indent + 1));
        for (row, text) in text.into_iter().enumerate() {
            let before = if row == 0 {
                clock.clone()
            } else {
                String::new()
            };
            let before = Span::raw(format!(" {before:width$}", width = indent - 1)).dark_gray();
            lines.push(Line::from(vec![before, Span::raw(text)]));
        }
    }
    lines
}
