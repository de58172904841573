//! `overspill check`.

use super::ConfigArguments;
use crate::{
    app,
    config::{ConfigError, Settings},
    problem::Problem,
};

type BoxError = Box<dyn std::error::Error>;

/// Prints the effective configuration, with secrets hidden; or tells every problem.
pub(super) fn run(arguments: &ConfigArguments) -> Result<(), BoxError> {
    let settings = checked(arguments, |_| ())?.0;
    print!("{}", toml::to_string(&settings.redacted())?);
    Ok(())
}

/// The settings with `change` made to them, and what they serve.
///
/// # Errors
/// Every problem at once: of the file, of the keys together, and of what is to be served.
pub(super) fn checked(
    arguments: &ConfigArguments,
    change: impl FnOnce(&mut Settings),
) -> Result<(Settings, app::Inner), ConfigError> {
    let mut problems = Vec::new();
    let mut file = arguments.file();
    let mut settings = arguments.settings().unwrap_or_else(|error| {
        problems = error.problems;
        file = error.file;
        Settings::default()
    });
    change(&mut settings);
    let failed = |problems: Vec<Problem>| ConfigError { file, problems };
    match app::inner(&settings.primary) {
        Ok(inner) if problems.is_empty() => {
            settings.check()?;
            Ok((settings, inner))
        }
        Ok(_) => Err(failed(problems)),
        // With a file that can't be read, what it says of the site is not known.
        Err(_) if !problems.is_empty() => Err(failed(problems)),
        Err(found) => Err(failed(found)),
    }
}
