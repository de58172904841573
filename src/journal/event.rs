//! What is worth a line, and its words.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::level::Level;

/// Something that was decided, with the figures that made it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", content = "details", rename_all = "lowercase")]
pub enum Event {
    /// The process began.
    Start {
        /// This program's version.
        version: &'static str,
        /// "off", "report" or "enforce".
        mode: &'static str,
        /// How many offload servers are configured.
        servers: usize,
    },
    /// The load asks for another level.
    Level {
        /// The level until now.
        from: Level,
        /// The level from now on.
        to: Level,
        /// The signal that asks for it; where the level falls, the one that was the last to hold it.
        signal: Option<String>,
        /// That signal's load.
        load: Option<f64>,
        /// Its threshold of the higher of the two levels.
        threshold: Option<f64>,
        /// How far below that a level is left.
        release: f64,
        /// The level that is held by hand whatever the load asks for.
        held: Option<Level>,
    },
    /// The share has moved by a tenth or more since it was last told.
    Share {
        /// The share that was told last, from 0 to 1.
        from: f64,
        /// The share now.
        to: f64,
        /// How many times its first threshold the worst signal's load is.
        load: f64,
    },
    /// An offload server gets work from now on, or none any more.
    Server {
        /// Its name.
        server: String,
        /// Whether it gets work.
        usable: bool,
        /// Why not.
        reason: Option<String>,
        /// Its load.
        load: Option<f64>,
        /// Its threshold.
        threshold: f64,
    },
    /// Others have been found, or some are gone.
    Servers {
        /// How many there are now.
        count: usize,
        /// The first names.
        names: String,
    },
    /// A level is held by hand.
    Override {
        /// The level; [`None`]: it is let go.
        level: Option<Level>,
        /// For how long.
        seconds: Option<f64>,
        /// The level that the load asks for.
        instead_of: Level,
    },
    /// The configuration was read anew.
    Reload {
        /// Keys that have other values now.
        changed: Vec<String>,
        /// Keys whose new values wait for the next start.
        restart_needed: Vec<String>,
        /// Why nothing was changed, if it was not.
        error: Option<String>,
    },
    /// There are new certificates.
    Certificates {
        /// The names that they carry.
        names: Vec<String>,
        /// When the first of them ends.
        until: String,
        /// Why the old ones stay in use, if they do.
        error: Option<String>,
    },
    /// The end begins: what is under way is served.
    Drain,
}

// === impl Event ===

impl Event {
    /// One structured line.
    pub(crate) fn log(&self) {
        match self {
            Self::Start {
                version,
                mode,
                servers,
            } => tracing::info!(version, mode, servers, "started"),
            Self::Level {
                from,
                to,
                signal,
                load,
                threshold,
                held,
                ..
            } => {
                let held = held.map(tracing::field::display);
                tracing::info!(%from, %to, signal, load, threshold, held, "level changed");
            }
            Self::Share { from, to, load } => tracing::info!(from, to, load, "share moved"),
            Self::Server {
                server,
                usable,
                reason,
                load,
                threshold,
            } => tracing::info!(
                server,
                usable,
                reason,
                load,
                threshold,
                "offload server changed"
            ),
            Self::Servers { count, names } => {
                tracing::info!(servers = count, names, "the offload servers are others now");
            }
            Self::Override {
                level: Some(level),
                seconds,
                instead_of,
            } => tracing::info!(%level, seconds, %instead_of, "level overridden"),
            Self::Override { instead_of, .. } => {
                tracing::info!(level = %instead_of, "override ended")
            }
            Self::Reload {
                error: Some(error), ..
            } => {
                tracing::error!(error, "configuration not reloaded: all stays as it was");
            }
            Self::Reload {
                changed,
                restart_needed,
                ..
            } => tracing::info!(?changed, ?restart_needed, "configuration reloaded"),
            Self::Certificates {
                error: Some(error), ..
            } => {
                tracing::error!(error, "new certificates not used: the old ones stay in use");
            }
            Self::Certificates { names, until, .. } => {
                tracing::info!(
                    names = names.join(", "),
                    until,
                    "new certificates are in use"
                );
            }
            Self::Drain => tracing::info!("draining"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start {
                version,
                mode,
                servers,
            } => {
                let plural = if *servers == 1 { "" } else { "s" };
                write!(
                    f,
                    "overspill {version} started: mode {mode}, {servers} offload server{plural}"
                )
            }
            Self::Level {
                from,
                to,
                signal,
                load,
                threshold,
                release,
                held,
            } => {
                write!(f, "{from} → {to}")?;
                match (signal, load, threshold) {
                    (Some(signal), Some(load), Some(threshold))
                        if to > from && load >= threshold =>
                    {
                        write!(f, ": {signal} {load:.2} ≥ {threshold:.2}")?;
                    }
                    (Some(signal), Some(load), Some(threshold))
                        if to < from && *load < threshold - release =>
                    {
                        write!(f, ": {signal} {load:.2} < {:.2}", threshold - release)?;
                    }
                    // The share holds the load at its threshold: then it has found nothing to do.
                    (Some(signal), Some(load), _) if *to == Level::Normal => {
                        write!(f, ": nothing is left to offload, {signal} {load:.2}")?;
                    }
                    (Some(signal), Some(load), _) => write!(f, ": {signal} {load:.2}")?,
                    (Some(signal), None, _) => write!(f, ": {signal} has no reading")?,
                    (None, ..) => {}
                }
                held.map_or(Ok(()), |held| write!(f, " ({held} is held by hand)"))
            }
            Self::Share { from, to, load } => write!(
                f,
                "share {:.0} % → {:.0} %: load {load:.2} of the first threshold",
                from * 100.0,
                to * 100.0
            ),
            Self::Server {
                server,
                usable: true,
                load,
                threshold,
                ..
            } => match load {
                Some(load) => write!(
                    f,
                    "{server} takes work: load {load:.2}, threshold {threshold:.2}"
                ),
                None => write!(f, "{server} takes work"),
            },
            Self::Server { server, reason, .. } => {
                write!(f, "{server} gets no work")?;
                reason.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
            }
            Self::Servers { count, names } => {
                write!(f, "the offload servers are others now: {count}")?;
                if names.is_empty() {
                    return Ok(());
                }
                write!(f, " ({names})")
            }
            Self::Override {
                level: Some(level),
                seconds,
                instead_of,
            } => {
                let length = Duration::from_secs_f64(seconds.unwrap_or(0.0).round());
                let length = humantime::format_duration(length);
                write!(
                    f,
                    "{level} held by hand for {length}, whatever the load: it asks for {instead_of}"
                )
            }
            Self::Override { instead_of, .. } => {
                write!(
                    f,
                    "no level is held by hand any more: {instead_of} by the load"
                )
            }
            Self::Reload {
                error: Some(error), ..
            } => write!(f, "configuration not reloaded: {error}"),
            Self::Reload {
                changed,
                restart_needed,
                ..
            } => {
                match &changed[..] {
                    [] => f.write_str("configuration reloaded: nothing is different")?,
                    changed => write!(f, "configuration reloaded: {}", changed.join(", "))?,
                }
                match &restart_needed[..] {
                    [] => Ok(()),
                    waiting => write!(f, "; waits for a restart: {}", waiting.join(", ")),
                }
            }
            Self::Certificates {
                error: Some(error), ..
            } => write!(f, "the old certificates stay in use: {error}"),
            Self::Certificates { names, until, .. } => write!(
                f,
                "new certificates are in use until {until}: {}",
                names.join(", ")
            ),
            Self::Drain => f.write_str("draining: what is under way is served, nobody new"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(from: Level, to: Level, load: f64, threshold: f64) -> String {
        Event::Level {
            from,
            to,
            signal: Some("bandwidth".to_owned()),
            load: Some(load),
            threshold: Some(threshold),
            release: 0.05,
            held: None,
        }
        .to_string()
    }

    #[test]
    fn a_change_of_level_names_the_figures() {
        assert_eq!(
            level(Level::Offload, Level::Throttle, 0.934, 0.9),
            "offload → throttle: bandwidth 0.93 ≥ 0.90"
        );
        assert_eq!(
            level(Level::Throttle, Level::Offload, 0.8, 0.9),
            "throttle → offload: bandwidth 0.80 < 0.85"
        );
        assert_eq!(
            level(Level::Offload, Level::Normal, 0.69, 0.7),
            "offload → normal: nothing is left to offload, bandwidth 0.69"
        );
    }

    #[test]
    fn an_override_says_for_how_long_and_instead_of_what() {
        let held = Event::Override {
            level: Some(Level::Drop),
            seconds: Some(90.0),
            instead_of: Level::Normal,
        };
        assert_eq!(
            held.to_string(),
            "drop held by hand for 1m 30s, whatever the load: it asks for normal"
        );
    }

    #[test]
    fn a_reload_says_what_is_different_and_what_waits() {
        let reload = Event::Reload {
            changed: vec!["mode".to_owned(), "offload.hold".to_owned()],
            restart_needed: vec!["primary.listen".to_owned()],
            error: None,
        };
        assert_eq!(
            reload.to_string(),
            "configuration reloaded: mode, offload.hold; waits for a restart: primary.listen"
        );
    }
}
