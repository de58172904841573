//! `[access_log]`.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

use crate::{problem::Problem, units::Ratio};

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The Common Log Format, and three quoted fields: outcome, reason, server.
    Common,
    /// The same with referer and user agent before those three, as Apache's and nginx' `combined`.
    #[default]
    Combined,
    /// An object with more in it: host, duration, level, trace.
    Json,
}

/// A line for every request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AccessSettings {
    /// Where lines go: a file, that they are appended to, or `stderr`; with nothing here there is no access log. The file
    /// is opened again at SIGUSR1; a new one may be read by its owner and its group (mode 0640). Default: nothing.
    pub path: String,
    /// How a line is written. Default: combined.
    pub format: Format,
    /// The part of the requests that get a line, drawn by lot: above 0, at most 1. Failures (5xx that are not for overload)
    /// always get one, while the level is normal. Default: 1.
    pub sample: Ratio,
    /// Above level normal, at most so many lines a second, and as many for failures, and a tenth of it for connections
    /// that the gate closes; an edge has no levels, and holds to it always. From 1 to 1,000,000. Default: 1000.
    pub rate: u32,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            path: String::new(),
            format: Format::default(),
            sample: Ratio::ONE,
            rate: 1000,
        }
    }
}

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Nowhere,
    Stderr,
    File(&'a Path),
}

// === impl AccessSettings ===

impl AccessSettings {
    /// Appends what is wrong, with `section` before each key.
    pub fn check(&self, section: &str, problems: &mut Vec<Problem>) {
        let mut problem = |name: &str, message: &dyn fmt::Display| {
            problems.push(Problem::new(format!("{section}.{name}"), message));
        };
        if self.sample <= Ratio::ZERO || self.sample > Ratio::ONE {
            let sample = self.sample;
            problem(
                "sample",
                &format_args!("must be above 0 and at most 1, found {sample}"),
            );
        }
        if !(1..=1_000_000).contains(&self.rate) {
            let rate = self.rate;
            problem(
                "rate",
                &format_args!("must be from 1 to 1000000, found {rate}"),
            );
        }
    }

    pub(super) fn target(&self) -> Target<'_> {
        match self.path.as_str() {
            "" => Target::Nowhere,
            "stderr" => Target::Stderr,
            path => Target::File(Path::new(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_order_and_figures_have_bounds() {
        let mut problems = Vec::new();
        AccessSettings::default().check("access_log", &mut problems);
        assert_eq!(problems, []);
        let wrong = AccessSettings {
            sample: Ratio::ZERO,
            rate: 0,
            ..AccessSettings::default()
        };
        wrong.check("access_log", &mut problems);
        let keys: Vec<_> = problems.iter().map(|problem| &*problem.key).collect();
        assert_eq!(keys, ["access_log.sample", "access_log.rate"]);
    }
}
