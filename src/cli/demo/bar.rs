//! The bar at the bottom of a terminal.

use std::{
    io::{self, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle, TermLike};

/// Columns of the bar and what is beside it.
const WIDTH: u16 = 70;
/// Drawn so often in a second at most.
const HERTZ: u8 = 10;

/// A terminal of just the bar's width. What draws fills its line up to the end; then the "^C" that a terminal writes
/// would begin another line, and the bar would be looked for there, and stay.
#[derive(Debug)]
pub(super) struct Narrow {
    /// Stderr, where stdout is for something else.
    pub(super) stderr: bool,
}

// === impl Narrow ===

impl Narrow {
    fn out(&self) -> Box<dyn Write> {
        if self.stderr {
            Box::new(io::stderr())
        } else {
            Box::new(io::stdout())
        }
    }

    /// ECMA-48: CUU, CUD, CUF, CUB.
    fn go(&self, columns: usize, direction: char) -> io::Result<()> {
        match columns {
            0 => Ok(()),
            _ => write!(self.out(), "\x1b[{columns}{direction}"),
        }
    }
}

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        WIDTH
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        writeln!(self.out(), "{text}")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        write!(self.out(), "{text}")
    }

    fn clear_line(&self) -> io::Result<()> {
        write!(self.out(), "\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        self.out().flush()
    }
}

/// A bar for something of this length, which goes with its handle.
pub(super) fn bar(terminal: Narrow, length: Duration, colour: bool) -> ProgressBar {
    let template = if colour {
        "{prefix:19.bold} {bar:36.cyan/black.bright} {msg:>13}"
    } else {
        "{prefix:19} {bar:36} {msg:>13}"
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─");
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal), HERTZ);
    ProgressBar::with_draw_target(Some(millis(length)), target)
        .with_style(style)
        .with_finish(ProgressFinish::AndClear)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
