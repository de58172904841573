//! Level, share and the load of every signal over the last minutes, one below the other, so that one moment is one
//! column.

use ratatui::{
    style::{Color, Style, Stylize},
    text::{Line, Span},
};

use super::{Story, colour, fitted, heading};
use crate::{
    cli::{
        status::{
            model::{Signal, Status},
            past::{highest, mean},
            plot,
            seen::Seen,
        },
        words,
    },
    level::Level,
};

/// Names and figures.
const LEFT: usize = 20;
/// The thresholds at the right end of a plot.
const RIGHT: usize = 10;
/// Below that the right end is for the plot alone.
const WIDE: usize = 60;

/// Where the plots lie, and what time a column is.
pub(super) struct Grid {
    pub(super) columns: usize,
    /// Seconds a column.
    pub(super) step: f64,
    right: usize,
}

impl Grid {
    pub(super) fn new(seen: &Seen, width: usize) -> Self {
        let right = if width >= WIDE { RIGHT } else { 1 };
        let columns = width.saturating_sub(LEFT + right).max(1);
        Self {
            columns,
            step: (seen.window() / columns as f64).max(1.0),
            right,
        }
    }
}

/// The section.
pub(super) fn load(seen: &Seen, status: &Status, width: usize, story: Story) -> Vec<Line<'static>> {
    let grid = Grid::new(seen, width);
    let span = words::length(grid.step * grid.columns as f64);
    let mut lines = vec![heading(
        &format!("load, the last {}", span.trim_end_matches(" 0s")),
        width,
    )];
    lines.push(levels(seen, status, &grid));
    lines.push(share(seen, status, &grid));
    for signal in &status.signals {
        match &signal.off {
            Some(_) if story.terse => {}
            Some(why) => lines.extend(off(signal, why, width)),
            None if story.rows == 1 => lines.push(line(seen, signal, &grid)),
            None => lines.extend(plotted(seen, signal, &grid, story.rows)),
        }
    }
    lines
}

/// `name`, and `value` at the right of the left column.
fn left(name: &str, value: &str) -> Vec<Span<'static>> {
    let value_width = Span::raw(value.to_owned()).width();
    let name = fitted(name, (LEFT - 3).saturating_sub(value_width));
    vec![
        Span::raw(format!(" {name} ")),
        Span::raw(format!("{value} ")).bold(),
    ]
}

fn levels(seen: &Seen, status: &Status, grid: &Grid) -> Line<'static> {
    let levels = seen
        .past
        .columns(grid.step, grid.columns, |point| point.level, highest);
    let mut spans = left(
        "level",
        &words::plain(status.level.as_deref().unwrap_or("?")),
    );
    spans.extend(levels.into_iter().map(|level| {
        let level = level.and_then(|level| Level::ALL.get(level as usize).copied());
        let letter = match level {
            None => " ",
            Some(Level::Normal) => "·",
            Some(Level::Offload) => "o",
            Some(Level::Throttle) => "T",
            Some(Level::Drop) => "D",
        };
        letter.fg(colour(level))
    }));
    Line::from(spans)
}

fn share(seen: &Seen, status: &Status, grid: &Grid) -> Line<'static> {
    let share = seen
        .past
        .columns(grid.step, grid.columns, |point| point.share, mean);
    let now = status.share.map_or("–".to_owned(), words::percent);
    let mut spans = left("share", &now);
    spans.push(plot::spark(&share, 1.0).cyan());
    Line::from(spans)
}

fn off(signal: &Signal, why: &str, width: usize) -> Vec<Line<'static>> {
    let text = format!("{} is off: {why}", signal.name);
    let lines = super::wrapped(&text, width.saturating_sub(2));
    lines
        .into_iter()
        .map(|line| Line::from(format!(" {line}")).dark_gray())
        .collect()
}

fn history(seen: &Seen, signal: &Signal, grid: &Grid) -> Vec<Option<f64>> {
    let load = |point: &crate::cli::status::past::Point| point.signals.get(&signal.name).copied();
    seen.past.columns(grid.step, grid.columns, load, highest)
}

/// The level that a load asks for.
fn asks_for(signal: &Signal, load: f64) -> Level {
    let above = |threshold: Option<f64>| threshold.is_some_and(|threshold| load >= threshold);
    match (
        above(signal.drop),
        above(signal.throttle),
        above(signal.offload),
    ) {
        (true, _, _) => Level::Drop,
        (_, true, _) => Level::Throttle,
        (_, _, true) => Level::Offload,
        _ => Level::Normal,
    }
}

fn thresholds(signal: &Signal) -> Vec<(&'static str, f64)> {
    let all = [
        ("drop", signal.drop),
        ("throttle", signal.throttle),
        ("offload", signal.offload),
    ];
    all.into_iter()
        .filter_map(|(name, threshold)| Some((name, threshold?)))
        .collect()
}

fn figure(load: Option<f64>) -> String {
    load.map_or("–".to_owned(), |load| format!("{load:.2}"))
}

/// A signal in one line: the load as a bar with its thresholds, and what it was.
fn line(seen: &Seen, signal: &Signal, grid: &Grid) -> Line<'static> {
    let mut spans = left(&signal.name, &figure(signal.load));
    let across = (grid.columns / 3).min(24);
    let marks: Vec<f64> = thresholds(signal)
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    let top = signal.load.unwrap_or(0.0).max(1.0);
    let now = signal.load.map(|load| asks_for(signal, load));
    spans.push(plot::gauge(signal.load, &marks, top, across).fg(colour(now)));
    spans.push(" ".into());
    let rest = Grid {
        columns: grid.columns.saturating_sub(across + 1),
        ..*grid
    };
    let past = history(seen, signal, &rest);
    spans.extend(coloured(&plot::spark(&past, top), &past, signal));
    Line::from(spans)
}

/// A row of a plot, each column in the colour of what its load asks for.
fn coloured<'a>(
    row: &'a str,
    past: &'a [Option<f64>],
    signal: &'a Signal,
) -> impl Iterator<Item = Span<'static>> + 'a {
    row.chars().zip(past).map(|(cell, load)| {
        let level = load.map(|load| asks_for(signal, load));
        Span::styled(cell.to_string(), Style::new().fg(colour(level)))
    })
}

/// A signal with a plot, its thresholds drawn through it.
fn plotted(seen: &Seen, signal: &Signal, grid: &Grid, rows: usize) -> Vec<Line<'static>> {
    let past = history(seen, signal, grid);
    let highest = past.iter().copied().flatten().fold(0.0, f64::max);
    let top = highest.max(signal.load.unwrap_or(0.0)).max(1.0);
    let thresholds = thresholds(signal);
    let bars = plot::bars(&past, top, rows);
    let mut lines = Vec::new();
    for (row, bars) in bars.iter().enumerate() {
        let here: Vec<f64> = thresholds
            .iter()
            .map(|(_, value)| *value)
            .filter(|value| plot::row_of(*value, top, rows) == Some(row))
            .collect();
        let mut spans = match row.checked_sub(1) {
            None => left(&signal.name, &figure(signal.load)),
            Some(index) => threshold(signal, thresholds.get(index)),
        };
        for (cell, span) in bars.chars().zip(coloured(bars, &past, signal)) {
            match cell {
                ' ' if !here.is_empty() => spans.push("╌".fg(Color::DarkGray)),
                _ => spans.push(span),
            }
        }
        if grid.right > 1 && !here.is_empty() {
            let mut names: Vec<String> = here.iter().map(|value| short(*value)).collect();
            names.reverse();
            spans.push(format!(" {}", names.join(" ")).dark_gray());
        }
        lines.push(Line::from(spans));
    }
    lines
}

/// A threshold below the name of its signal, with "≥" where the load has come to it.
fn threshold(signal: &Signal, threshold: Option<&(&'static str, f64)>) -> Vec<Span<'static>> {
    let Some((name, value)) = threshold else {
        return vec![Span::raw(" ".repeat(LEFT))];
    };
    let reached = signal.load.is_some_and(|load| load >= *value);
    let sign = if reached { "≥" } else { " " };
    let text = format!("  {sign} {name:9}{value:>6.2} ");
    let text = fitted(&text, LEFT);
    let level = name.parse::<Level>().ok();
    vec![if reached {
        text.fg(colour(level)).bold()
    } else {
        text.dark_gray()
    }]
}

/// ".70", "1.2".
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.strip_prefix('0').map_or(text.clone(), str::to_owned)
}
