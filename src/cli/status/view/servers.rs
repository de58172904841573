//! The offload servers: how busy each is, whether it gets work and why not, and what it costs.

use ratatui::{
    style::{Color, Stylize},
    text::{Line, Span},
};

use super::{fitted, heading, wrapped};
use crate::cli::{
    status::{
        model::{Server, Status},
        plot,
    },
    words,
};

/// A column: its heading, its width, and what stands in it.
type Column = (&'static str, usize, fn(&Server) -> String);

/// In the order in which they are given up where the picture is narrow, the last first.
const COLUMNS: [Column; 5] = [
    ("health", 11, |server| {
        server.health.clone().unwrap_or_default()
    }),
    ("assigned", 10, |server| {
        figure(server.assigned, |rate| format!("{}/s", words::bytes(rate)))
    }),
    ("cost", 9, |server| figure(server.cost, words::money)),
    ("per GB", 7, |server| figure(server.price, words::money)),
    ("budget", 17, budget),
];
const LOAD: usize = 11;
const USABLE: usize = 7;

/// The section; nothing where there are none.
pub(super) fn servers(status: &Status, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![heading("offload servers", width)];
    if status.servers.is_empty() {
        lines.push(Line::from(" none: `offload.servers` names them").dark_gray());
    } else {
        let longest = status
            .servers
            .iter()
            .map(|server| server.name.chars().count())
            .max();
        let layout = Layout::new(longest.unwrap_or(0), width);
        lines.push(layout.head());
        for server in &status.servers {
            lines.extend(layout.row(server));
        }
    }
    for source in &status.discovery {
        if let Some(error) = &source.error {
            let text = format!("{}: {error}", source.what);
            lines.extend(indented(&text, 1, width).map(Stylize::yellow));
        }
    }
    lines
}

struct Layout {
    name: usize,
    gauge: usize,
    columns: &'static [Column],
    width: usize,
}

impl Layout {
    fn new(longest: usize, width: usize) -> Self {
        let name = longest.clamp(6, (width / 4).clamp(6, 24));
        let gauge = (width / 10).clamp(6, 16);
        let mut left = width.saturating_sub(1 + name + 1 + LOAD + gauge + 1 + USABLE);
        let fits = COLUMNS.iter().take_while(|(_, width, _)| {
            let fits = left >= *width;
            left = left.saturating_sub(*width);
            fits
        });
        Self {
            name,
            gauge,
            columns: &COLUMNS[..fits.count()],
            width,
        }
    }

    fn head(&self) -> Line<'static> {
        let mut text = format!(" {} ", fitted("name", self.name));
        text += &fitted("load/limit", LOAD + self.gauge + 1);
        text += &fitted("usable", USABLE);
        for (name, width, _) in self.columns {
            text += &fitted(name, *width);
        }
        Line::from(text.trim_end().to_owned()).dark_gray()
    }

    fn row(&self, server: &Server) -> Vec<Line<'static>> {
        let usable = server.usable.unwrap_or(false);
        let colour = if usable { Color::Green } else { Color::Red };
        let load = server
            .load
            .map_or("–".to_owned(), |load| format!("{load:.2}"));
        let limit = server
            .threshold
            .map_or("–".to_owned(), |limit| format!("{limit:.2}"));
        let marks: Vec<f64> = server.threshold.into_iter().collect();
        let top = server.load.unwrap_or(0.0).max(1.0);
        let word = match server.usable {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "?",
        };
        let mut spans = vec![
            Span::raw(format!(" {} ", fitted(&server.name, self.name))).bold(),
            Span::raw(fitted(&format!("{load}/{limit}"), LOAD)),
            plot::gauge(server.load, &marks, top, self.gauge).fg(colour),
            " ".into(),
            fitted(word, USABLE).fg(colour).bold(),
        ];
        for (_, width, cell) in self.columns {
            // The last column of a gap is kept free.
            spans.push(Span::raw(fitted(&cell(server), width - 1) + " "));
        }
        let mut lines = vec![Line::from(spans)];
        if let Some(reason) = &server.reason {
            let colour = if usable { Color::Yellow } else { Color::Red };
            lines.extend(indented(reason, 3, self.width).map(|line| line.fg(colour)));
        }
        lines
    }
}

fn indented(text: &str, by: usize, width: usize) -> impl Iterator<Item = Line<'static>> {
    let lines = wrapped(text, width.saturating_sub(by + 1));
    lines
        .into_iter()
        .map(move |line| Line::from(format!("{:by$}{line}", "")))
}

fn figure(value: Option<f64>, shown: impl Fn(f64) -> String) -> String {
    value.map_or("–".to_owned(), shown)
}

fn budget(server: &Server) -> String {
    match (&server.budget, server.spent) {
        (Some(budget), Some(spent)) => {
            format!(
                "{} of {}/{}",
                words::money(spent),
                words::money(budget.amount),
                budget.per
            )
        }
        (None, Some(spent)) => format!("{} spent", words::money(spent)),
        (Some(budget), None) => format!("{}/{}", words::money(budget.amount), budget.per),
        (None, None) => "–".to_owned(),
    }
}
