//! The log: to stderr, since stdout is for what a command prints. And the access log.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};

use super::LogFormat;
use crate::{
    access::{AccessLog, AccessSettings},
    config::ConfigError,
    offload::Shared,
};

/// Writes the log from now on: what RUST_LOG says, else from level `usual` on.
pub(super) fn start(format: LogFormat, usual: LevelFilter) {
    let filter = EnvFilter::builder()
        .with_default_directive(usual.into())
        .from_env_lossy();
    let log = fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Starts the access log of an edge, whose file is opened again at each SIGUSR1.
///
/// # Errors
/// The file can't be opened.
pub(super) fn of_edge(settings: &AccessSettings) -> Result<Option<AccessLog>, ConfigError> {
    let log = AccessLog::start(settings, None).map_err(|problem| ConfigError {
        file: None,
        problems: vec![problem],
    })?;
    reopen_when_told(log.clone());
    Ok(log)
}

/// The same of a primary: there is one, since a reload may begin to write it.
///
/// # Errors
/// The file can't be opened.
pub(super) fn of_primary(
    settings: &AccessSettings,
    shared: Arc<Shared>,
) -> Result<AccessLog, ConfigError> {
    let log = AccessLog::start_in_any_case(settings, Some(shared));
    let log = log.map_err(|problem| ConfigError {
        file: None,
        problems: vec![problem],
    })?;
    reopen_when_told(Some(log.clone()));
    Ok(log)
}

/// Without a log the signal does nothing: else it would end the process.
#[cfg(unix)]
fn reopen_when_told(log: Option<AccessLog>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut told) = signal(SignalKind::user_defined1()) else {
        return;
    };
    tokio::spawn(async move {
        while told.recv().await.is_some() {
            if let Some(log) = &log {
                log.reopen();
            }
        }
    });
}

#[cfg(not(unix))]
fn reopen_when_told(_log: Option<AccessLog>) {}
