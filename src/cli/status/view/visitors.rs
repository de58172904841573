//! Requests a second by outcome, and who is turned away.

use ratatui::{
    style::{Color, Stylize},
    text::{Line, Span},
};

use super::{fitted, flow, heading};
use crate::cli::{
    status::{
        model::Status,
        past::{Point, mean},
        plot,
        seen::Seen,
    },
    words,
};

/// As the contract orders them.
const OUTCOMES: [(&str, Color); 6] = [
    ("served", Color::Green),
    ("offloaded", Color::Cyan),
    ("redirected", Color::Blue),
    ("throttled", Color::Yellow),
    ("dropped", Color::Red),
    ("bypassed", Color::Gray),
];
/// From this width on two stand side by side.
const TWO: usize = 76;
const NAME: usize = 11;
const RATE: usize = 7;

/// The section.
pub(super) fn visitors(
    seen: &Seen,
    status: &Status,
    width: usize,
    terse: bool,
) -> Vec<Line<'static>> {
    let side_by_side = if width >= TWO { 2 } else { 1 };
    let each = width / side_by_side;
    let columns = each.saturating_sub(NAME + RATE + 4).max(1);
    let step = (seen.window() / columns as f64).max(1.0);
    let past = |outcome: &str| {
        let rate = |point: &Point| point.requests.get(outcome).copied();
        seen.past.columns(step, columns, rate, mean)
    };
    let all = OUTCOMES
        .into_iter()
        .map(|(outcome, colour)| (outcome, colour, past(outcome)));
    // In a narrow picture what never happened takes no line, in a low one what does not happen now.
    let shown = all.filter(|(outcome, _, past)| match (terse, side_by_side) {
        (true, _) => *outcome == "served" || past.iter().flatten().any(|rate| *rate > 0.0),
        (false, 2) => true,
        _ => status
            .requests
            .get(*outcome)
            .is_none_or(|count| *count > 0.0),
    });
    let plots: Vec<_> = shown.collect();
    // One scale for all: they are parts of one whole.
    let rates = plots
        .iter()
        .flat_map(|(_, _, past)| past.iter().copied().flatten());
    let top = rates.fold(0.0, f64::max);
    let rows = plots.len().div_ceil(side_by_side);
    let mut lines = vec![heading("requests a second", width)];
    for row in 0..rows {
        let mut spans = Vec::new();
        for (outcome, colour, past) in plots.iter().skip(row).step_by(rows) {
            let rate = seen
                .past
                .latest(|point| point.requests.get(*outcome).copied());
            spans.push(Span::raw(format!(" {}", fitted(outcome, NAME))));
            let rate = rate.map_or("–".to_owned(), words::quantity);
            spans.push(Span::raw(format!("{rate:>RATE$} ")).bold());
            let spark = plot::spark(past, top);
            spans.push(format!("{spark}  ").fg(*colour));
        }
        lines.push(Line::from(spans));
    }
    if !terse {
        lines.extend(flow(classes(status), width));
    }
    lines
}

/// Where classes are configured: how many of each are turned away.
fn classes(status: &Status) -> Vec<Span<'static>> {
    let class = |class: &super::super::model::Class| {
        let part = |part: Option<f64>| part.map_or("–".to_owned(), words::percent);
        Span::raw(format!(
            "class {}: {} of the new, {} turned away, {} unanswered",
            words::plain(&class.name),
            part(class.part),
            part(class.throttled),
            part(class.dropped)
        ))
    };
    status.classes.iter().map(class).collect()
}
