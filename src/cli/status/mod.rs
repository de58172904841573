//! `overspill status`: a running server in the terminal.
//!
//! ```text
//! Asker: /api/status each second, /api/history at first and after a gap ──► Seen ──► view::draw ──► Buffer
//!                                                                            a terminal, or text on stdout ◄──┘
//! ```

mod ask;
mod live;
mod model;
mod paint;
mod past;
mod plot;
mod seen;
#[cfg(test)]
mod tests;
mod view;

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use jiff::tz::TimeZone;
use ratatui::crossterm;
use serde_json::json;
use tokio::sync::mpsc;

use self::{
    ask::{Asker, ask_on},
    seen::Seen,
};
use super::{StatusArguments, admin::Admin, words};

type BoxError = Box<dyn std::error::Error>;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// How long a look may take while others follow: a server that hangs should not look as if all were well.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where nothing tells how wide the reader's window is.
const WIDTH: u16 = 100;

/// Shows the server once, or until the operator leaves.
pub(super) fn run(arguments: &StatusArguments) -> Result<(), BoxError> {
    let admin = Admin::new(&arguments.admin, &arguments.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let terminal = io::stdout().is_terminal();
    runtime.block_on(async {
        match (arguments.json, arguments.once) {
            (true, true) => {
                let look = Asker::for_status(admin).look().await?;
                Ok(words::print(&format!("{}\n", words::json(&look.status)))?)
            }
            (true, false) => lines(admin.with_patience(PATIENCE), EVERY, io::stdout()).await,
            (false, false) if terminal => {
                let seen = Seen::new(admin.shown().to_owned(), TimeZone::system());
                live::in_terminal(admin.with_patience(PATIENCE), seen, EVERY).await
            }
            (false, _) => once(admin, terminal).await,
        }
    })
}

async fn once(admin: Admin, terminal: bool) -> Result<(), BoxError> {
    let mut seen = Seen::new(admin.shown().to_owned(), TimeZone::system());
    let look = Asker::new(admin).look().await?;
    let now = words::now();
    seen.heard(&look, now);
    let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
    let width = match crossterm::terminal::size() {
        Ok((width, _)) if terminal => width,
        _ => columns().unwrap_or(WIDTH).clamp(20, 500),
    };
    let colour = terminal && std::env::var_os("NO_COLOR").is_none();
    let picture = view::draw(&seen, now, width, None);
    Ok(words::print(&paint::text(&picture, colour))?)
}

/// A line of JSON with every look, until nobody reads any more.
async fn lines(admin: Admin, every: Duration, mut out: impl Write) -> Result<(), BoxError> {
    let (tell, mut news) = mpsc::channel(1);
    tokio::spawn(ask_on(Asker::for_status(admin), every, tell));
    let mut away = None;
    while let Some(look) = news.recv().await {
        let line = match look {
            Ok(look) => {
                away = None;
                look.status
            }
            Err(error) if error.lasts => return Err(error.into()),
            Err(error) => {
                let since = *away.get_or_insert_with(words::now);
                json!({ "error": error.to_string(), "since": since })
            }
        };
        match writeln!(out, "{}", words::json(&line)).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}
