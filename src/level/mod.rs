//! What the load means: one of four levels, how many visitors are offloaded, and how many turned away.
//!
//! ```text
//! load of every signal ──► Machine ──► Level ─┬─► ShareController: the part of the visitors offloaded
//!                                             └─► Turned::away: the part that gets a 503, or nothing
//!                                                     └─► lowest_first: which part of each class that is
//! ```
//!
//! Everything here is pure: readings and the time go in, decisions come out. The same code decides in the
//! server, in tests under a paused clock, and in simulations.

mod lowest_first;
mod machine;
mod share;
mod turned;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::{
    lowest_first::{Place, places},
    machine::{Machine, MachineSettings, SignalLoad, Transition},
    share::{Share, ShareController},
    turned::Turned,
};
pub use crate::load::Thresholds;

/// How the site answers. Ordered: each level does what the ones below it do, and more.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Pages go out with their embedded objects linked to the primary.
    #[default]
    Normal,
    /// Some visitors' embedded objects are linked to an offload server.
    Offload,
    /// Some visitors get a page that says the server is overloaded.
    Throttle,
    /// Some connections are closed without a byte.
    Drop,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Offload, Self::Throttle, Self::Drop];

    /// The name in configuration, status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Offload => "offload",
            Self::Throttle => "throttle",
            Self::Drop => "drop",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is no level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected \"normal\", \"offload\", \"throttle\" or \"drop\", found {0:?}")]
pub struct LevelError(String);

impl FromStr for Level {
    type Err = LevelError;
    fn from_str(text: &str) -> Result<Self, LevelError> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| LevelError(text.chars().take(60).collect()))
    }
}

/// The load above which `level` is entered.
pub(crate) const fn threshold(
    thresholds: &Thresholds,
    level: Level,
) -> Option<crate::units::Ratio> {
    match level {
        Level::Normal => None,
        Level::Offload => thresholds.offload,
        Level::Throttle => thresholds.throttle,
        Level::Drop => thresholds.drop,
    }
}
