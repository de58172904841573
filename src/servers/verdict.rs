//! Why a server gets no work.

use std::fmt;

use super::budget::BudgetSettings;
use crate::units::Ratio;

/// A reason to give a server no work.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Refusal {
    /// Nothing was heard of it yet.
    NotProbed,
    /// Its health probes fail.
    Ill(String),
    /// It answers 503.
    Busy,
    /// Its agent's keeper has taken it out.
    Withdrawn(&'static str),
    /// Its agent says that it is not up.
    Down(String),
    /// Only its reports could say when to stop, and there never was one.
    Unheard(String),
    /// The same, and there is none any more.
    Stale(Option<String>),
    /// Its budget is spent.
    Spent(f64, BudgetSettings),
    /// It is at its threshold.
    Full(f64, Ratio),
    /// It was at its threshold, and is not yet far enough below.
    NotYetBelow(f64, Ratio),
    /// Its report says that it is over a threshold of its own.
    Over,
}

// === impl Refusal ===

impl Refusal {
    /// Whether it was away: who comes back from there begins slowly. A server that was at work all the time and
    /// only got nothing new is none of those.
    pub(super) const fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Ill(_) | Self::Withdrawn(_) | Self::Down(_) | Self::Stale(_)
        )
    }

    /// Whether it was heard of, is not away, and will take work as soon as it is less busy.
    pub(super) const fn is_there(&self) -> bool {
        matches!(self, Self::Full(..) | Self::NotYetBelow(..) | Self::Over)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotProbed => f.write_str("not yet probed"),
            Self::Ill(why) => write!(f, "not healthy: {why}"),
            Self::Busy => f.write_str("busy: it answers 503"),
            Self::Withdrawn(word) => write!(f, "its agent says \"{word}\""),
            Self::Down(why) => write!(f, "its agent says that it is {why}"),
            Self::Unheard(error) | Self::Stale(Some(error)) => write!(f, "report stale: {error}"),
            Self::Stale(None) => f.write_str("report stale"),
            Self::Spent(spent, budget) => write!(
                f,
                "budget spent: {spent:.2} of {} for the {}",
                budget.amount,
                budget.per.as_str()
            ),
            Self::Full(load, threshold) => {
                write!(f, "load {load:.2} is not below its threshold {threshold}")
            }
            Self::Over => f.write_str("its report says that it is over a threshold of its own"),
            Self::NotYetBelow(load, resume) => write!(
                f,
                "load {load:.2} is not yet below {resume}, where it takes work again"
            ),
        }
    }
}
