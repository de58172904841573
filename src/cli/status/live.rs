//! The live view: the picture again each second and with every answer, until a key ends it.

use std::{io, thread, time::Duration};

use ratatui::{
    buffer::Buffer,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    ask::{Asker, ask_on},
    seen::Seen,
    view::draw,
};
use crate::cli::{admin::Admin, words};

type BoxError = Box<dyn std::error::Error>;

/// What the operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Leave,
    /// Show less of the past.
    Closer,
    /// Show more of it.
    Farther,
    /// The terminal has another size.
    Resized,
}

/// The view on the terminal of this process, which is as it was before whatever happens.
pub(super) async fn in_terminal(admin: Admin, seen: Seen, every: Duration) -> Result<(), BoxError> {
    // This has panics restore the terminal before they tell what they are.
    let mut terminal = ratatui::try_init()?;
    let _restored = Restored;
    let show = |seen: &Seen| {
        terminal.draw(|frame| {
            let area = frame.area();
            let picture = draw(seen, words::now(), area.width, Some(area.height));
            copy(&picture, frame.buffer_mut());
        })?;
        Ok(())
    };
    tokio::select! {
        ended = live(admin, seen, keys(), every, show) => ended,
        ended = terminated() => Ok(ended?),
    }
}

struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Has what is known shown again and again. Ends with [`Key::Leave`], when no key can come any more, or when asking on
/// can't help.
pub(super) async fn live(
    admin: Admin,
    mut seen: Seen,
    mut keys: mpsc::Receiver<Key>,
    every: Duration,
    mut show: impl FnMut(&Seen) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let (tell, mut news) = mpsc::channel(1);
    // Ends with this.
    let mut asking = JoinSet::new();
    asking.spawn(ask_on(Asker::new(admin), every, tell));
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        show(&seen)?;
        tokio::select! {
            key = keys.recv() => match key {
                None | Some(Key::Leave) => return Ok(()),
                Some(Key::Closer) => seen.closer(),
                Some(Key::Farther) => seen.farther(),
                Some(Key::Resized) => {}
            },
            look = news.recv() => match look {
                Some(Ok(look)) => seen.heard(&look, words::now()),
                Some(Err(error)) if error.lasts => return Err(error.into()),
                Some(Err(error)) => seen.missed(&error.to_string(), words::now()),
                None => return Ok(()),
            },
            _ = clock.tick() => {}
        }
    }
}

/// As much of `picture` as there is room for.
fn copy(picture: &Buffer, to: &mut Buffer) {
    let area = picture.area.intersection(to.area);
    for position in area.positions() {
        to[position] = picture[position].clone();
    }
}

/// The keys, read on a thread of their own, which ends with the process.
fn keys() -> mpsc::Receiver<Key> {
    let (tell, keys) = mpsc::channel(16);
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if let Some(key) = key(&event)
                && tell.blocking_send(key).is_err()
            {
                return;
            }
        }
    });
    keys
}

fn key(event: &Event) -> Option<Key> {
    match event {
        Event::Resize(..) => Some(Key::Resized),
        Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                Some(Key::Leave)
            }
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Key::Leave),
            KeyCode::Char('+' | '=') => Some(Key::Closer),
            KeyCode::Char('-' | '_') => Some(Key::Farther),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(unix)]
async fn terminated() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn terminated() -> io::Result<()> {
    std::future::pending().await
}
