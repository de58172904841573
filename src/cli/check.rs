//! `overspill check`.

use super::ConfigArguments;
use crate::{
    app,
    config::{self, ConfigError, Settings},
    tls::Certificates,
};

type BoxError = Box<dyn std::error::Error>;

/// Prints the effective configuration, with secrets hidden; or tells every problem, those of the file of servers
/// included.
pub(super) fn run(arguments: &ConfigArguments) -> Result<(), BoxError> {
    let settings = checked(arguments, |_| ())?.0;
    if let Some(file) = &settings.offload.discovery.file {
        match std::fs::read_to_string(file) {
            Ok(text) => {
                config::servers_in(&text).map_err(|problems| ConfigError {
                    file: Some(file.clone()),
                    problems,
                })?;
            }
            // It may be written later.
            Err(error) => eprintln!("overspill: {} can't be read yet: {error}", file.display()),
        }
    }
    print!("{}", toml::to_string(&settings.redacted())?);
    Ok(())
}

/// The settings, whatever they say is to be served.
///
/// # Errors
/// Every problem at once.
pub(super) fn settings(arguments: &ConfigArguments) -> Result<Settings, ConfigError> {
    let file = arguments.config.clone().or_else(Settings::default_file);
    match Settings::read_leniently(file.as_deref()) {
        (settings, problems) if problems.is_empty() => Ok(settings),
        (_, problems) => Err(ConfigError { file, problems }),
    }
}

/// The settings with `change` made to them, and what they serve.
///
/// # Errors
/// Every problem at once: of the file, of the keys together, and of what is to be served.
pub(super) fn checked(
    arguments: &ConfigArguments,
    change: impl FnOnce(&mut Settings),
) -> Result<(Settings, app::Inner), ConfigError> {
    let file = arguments.config.clone().or_else(Settings::default_file);
    let (mut settings, mut problems) = Settings::read_leniently(file.as_deref());
    change(&mut settings);
    let (inner, mut found) = match app::inner(&settings.primary) {
        Ok(inner) => (Some(inner), Vec::new()),
        Err(found) => (None, found),
    };
    if let Some(tls) = &settings.primary.tls {
        found.extend(
            Certificates::read(tls, "primary.tls")
                .err()
                .into_iter()
                .flatten(),
        );
    }
    // What could not be read of `primary` was told.
    found.retain(|found| !found.is_about(&problems));
    problems.extend(found);
    match inner {
        Some(inner) if problems.is_empty() => Ok((settings, inner)),
        _ => Err(ConfigError { file, problems }),
    }
}
