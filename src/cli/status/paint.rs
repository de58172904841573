//! A picture as text for stdout.

use std::fmt::Write as _;

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
    text::Span,
};

/// The rows without blanks at their ends; with `colour` as a terminal shows them.
pub(super) fn text(picture: &Buffer, colour: bool) -> String {
    let mut out = String::new();
    let width = usize::from(picture.area.width).max(1);
    for row in picture.content.chunks(width) {
        let end = row.iter().rposition(|cell| cell.symbol() != " ");
        let row = &row[..end.map_or(0, |end| end + 1)];
        let mut painted = String::new();
        let mut covered = 0;
        for cell in row {
            // A wide character covers the cell behind it.
            if covered > 0 {
                covered -= 1;
                continue;
            }
            covered = Span::raw(cell.symbol()).width().saturating_sub(1);
            let paint = if colour { paint(cell) } else { String::new() };
            if paint != painted {
                out.push_str("\x1b[0m");
                out.push_str(&paint);
                painted = paint;
            }
            out.push_str(cell.symbol());
        }
        if !painted.is_empty() {
            out.push_str("\x1b[0m");
        }
        out.push('\n');
    }
    out
}

fn paint(cell: &Cell) -> String {
    let mut codes = String::new();
    let mut add = |code: u8| {
        let _ = write!(codes, "\x1b[{code}m");
    };
    if cell.modifier.contains(Modifier::BOLD) {
        add(1);
    }
    if cell.modifier.contains(Modifier::REVERSED) {
        add(7);
    }
    match cell.fg {
        Color::Red => add(31),
        Color::Green => add(32),
        Color::Yellow => add(33),
        Color::Blue => add(34),
        Color::Magenta => add(35),
        Color::Cyan => add(36),
        Color::Gray => add(37),
        Color::DarkGray => add(90),
        // The view uses no others.
        _ => {}
    }
    codes
}
