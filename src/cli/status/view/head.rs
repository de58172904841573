//! Who this is, at which level, and what holds it there.

use ratatui::{
    style::{Color, Style, Stylize},
    text::{Line, Span},
};

use super::{colour, flow, wrapped};
use crate::{
    cli::{
        status::{model::Status, seen::Seen},
        words,
    },
    level::Level,
};

/// That the server does not answer, and since when; nothing while it does.
pub(super) fn away(seen: &Seen, now: f64, width: usize, live: bool) -> Vec<Line<'static>> {
    let Some(away) = &seen.away else {
        return Vec::new();
    };
    let since = words::clock(away.since, now, &seen.zone);
    let mut text = format!(
        "{}, since {since} ({})",
        away.why,
        words::length(now - away.since)
    );
    if live {
        text += "; trying on";
    }
    if seen.status.is_some() {
        text += ". This is what was known last:";
    }
    let style = Style::new().fg(Color::Red).bold();
    let lines = wrapped(&text, width.saturating_sub(2));
    lines
        .into_iter()
        .map(|line| Line::styled(format!(" {line}"), style))
        .collect()
}

/// The first lines.
pub(super) fn head(
    seen: &Seen,
    status: &Status,
    now: f64,
    width: usize,
    terse: bool,
) -> Vec<Line<'static>> {
    let mut about = vec!["overspill".bold()];
    if let Some(version) = &status.version {
        about[0] = format!("overspill {}", words::plain(version)).bold();
    }
    about.push(Span::raw(seen.url.clone()));
    if let Some(uptime) = status.uptime {
        about.push(Span::raw(format!("up {}", words::length(uptime))));
    }
    match status.lifecycle.as_deref() {
        None | Some("serving") => {}
        Some(phase) => about.push(words::plain(phase).to_uppercase().yellow().bold()),
    }
    about.push(Span::raw(words::clock(now, now, &seen.zone)));
    let mut lines = flow(about, width);
    lines.extend(flow(level(status), width));
    if !terse {
        lines.extend(flow(traffic(status), width));
        lines.push(Line::default());
    }
    lines
}

fn level(status: &Status) -> Vec<Span<'static>> {
    let level = status.level.as_deref().unwrap_or("level unknown");
    let known = level.parse::<Level>().ok();
    let badge = format!(" {} ", words::plain(level).to_uppercase());
    let mut facts = vec![badge.fg(colour(known)).bold().reversed()];
    if let Some(known) = known {
        facts.push(Span::raw(meaning(known)));
    }
    match status.mode.as_deref() {
        Some("report") => facts.push("mode report: decides, and changes nothing".yellow()),
        Some("off") => facts.push("mode off: nothing is decided".yellow()),
        Some(mode) => facts.push(Span::raw(format!("mode {}", words::plain(mode)))),
        None => {}
    }
    if let Some(left) = status.overridden {
        facts.push(
            format!("HELD BY HAND for {} more", words::length(left))
                .magenta()
                .bold(),
        );
    }
    // What is held by hand needs no other hold.
    let hold = status
        .hold_left
        .filter(|left| *left > 0.0 && status.overridden.is_none());
    if let Some(left) = hold {
        facts.push(Span::raw(format!(
            "lasts {} more at least",
            words::length(left)
        )));
    }
    let part = |part: Option<f64>| part.filter(|part| *part > 0.0).map(words::percent);
    if let Some(part) = part(status.throttled) {
        facts.push(format!("{part} of the new turned away").yellow());
    }
    if let Some(part) = part(status.dropped) {
        facts.push(format!("{part} of them without an answer").red());
    }
    facts
}

fn meaning(level: Level) -> &'static str {
    match level {
        Level::Normal => "the primary serves everyone",
        Level::Offload => "offload servers help",
        Level::Throttle => "some visitors get a 503",
        Level::Drop => "some connections are closed unanswered",
    }
}

fn traffic(status: &Status) -> Vec<Span<'static>> {
    let count = |name: &str, count: Option<f64>| {
        count.map(|count| Span::raw(format!("{} {name}", words::quantity(count))))
    };
    let sum = |pages: fn(&crate::cli::status::model::Server) -> Option<f64>| -> f64 {
        status.servers.iter().filter_map(pages).sum()
    };
    let pages = [
        sum(|server| server.pages_spliced),
        sum(|server| server.pages_scanned),
    ];
    let rewritten = |pages: f64, how: &str| {
        (pages > 0.0).then(|| Span::raw(format!("{} {how}", words::quantity(pages))))
    };
    let rate = |name: &str, rate: Option<f64>| {
        let rate = rate.filter(|rate| *rate > 0.0);
        rate.map(|rate| Span::raw(format!("{name} {}/s", words::bytes(rate))))
    };
    let facts = [
        count("connections", status.connections),
        count("requests in flight", status.in_flight),
        status
            .bytes_sent
            .map(|sent| Span::raw(format!("{} sent", words::bytes(sent)))),
        rate("promised", status.assigned),
        rewritten(pages[0], "pages spliced"),
        rewritten(pages[1], "scanned"),
    ];
    facts.into_iter().flatten().collect()
}

/// What the keys do.
pub(super) fn foot(seen: &Seen) -> Line<'static> {
    let window = words::length(seen.window());
    let window = window.trim_end_matches(" 0s").trim_end_matches(" 0m");
    Line::from(format!(" q leaves · + - zoom: the last {window}")).dark_gray()
}
