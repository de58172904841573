//! What a server says of its own load, in the forms that servers have.
//!
//! | `report.kind` | what it is |
//! |---|---|
//! | `orca` | Open Request Cost Aggregation, as JSON or as text |
//! | `agent` | the line of a HAProxy agent: `75%`, `drain`, `down #disk full` |
//! | `prometheus` | a metric of a text endpoint, as it is or as a rate, against a capacity |
//! | `none` | nothing |
//!
//! Everything here is a pure function of what was read. Anything that is no load (not in its form, negative,
//! no number, absurd, from another time, too long) is refused with a reason: a server that talks nonsense must
//! not attract or repel the crowd.

pub(super) mod agent;
mod orca;
pub(super) mod prometheus;
mod settings;

pub use self::{
    agent::{Agent, agent_line},
    orca::{OrcaReport, parse, read},
    prometheus::{Rate, find},
    settings::{ReportKind, ReportSettings},
};
use crate::units::Ratio;

/// The longest ORCA report that is read, in bytes.
pub(super) const LIMIT: usize = 64 * 1024;
/// The largest load that is believed: ten times overloaded is as bad as it gets.
const HIGHEST: f64 = 10.0;
/// How much of what was found instead is told.
const SHOWN: usize = 40;

/// Why a report counts for nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Not a report at all.
    #[error("expected an ORCA report as JSON: {0}")]
    NotJson(String),
    /// Not a report in text form.
    #[error(
        "expected an ORCA report as text, such as \"application_utilization=0.3\", found {0:?}"
    )]
    NotText(String),
    /// A field stands there twice, and who knows which is meant.
    #[error("expected `{0}` once, found it twice")]
    Twice(&'static str),
    /// A field is no load.
    #[error("expected `{field}` to be a number from 0 to {HIGHEST}, found {found}")]
    NotALoad {
        /// The field.
        field: &'static str,
        /// Its value.
        found: f64,
    },
    /// None of the fields that tell a load is there.
    #[error(
        "expected `application_utilization`, `cpu_utilization` or `named_metrics.bandwidth`, found none"
    )]
    Empty,
    /// Not a line of an agent.
    #[error(
        "expected an agent's words, such as \"up 75%\", \"drain\" or \"down #reason\", found {0:?}"
    )]
    NotAnAgent(String),
    /// The metric is not there.
    #[error("expected a sample of the metric `{0}` with these labels, found none")]
    NoSample(String),
    /// A line of the metric is none.
    #[error("expected a sample of the metric, found {0:?}")]
    NotASample(String),
    /// The sample's own time is too far from ours.
    #[error("expected a sample of now, found one that is {0} s {1}")]
    AnotherTime(u64, &'static str),
    /// The metric can't be what is asked for.
    #[error("expected the metric to be a number that is not negative, found {0}")]
    NotAMeasure(f64),
}

/// A number that a server gave for its load.
fn believable(field: &'static str, found: f64) -> Result<Ratio, ReportError> {
    Ratio::new(found)
        .filter(|ratio| ratio.get() <= HIGHEST)
        .ok_or(ReportError::NotALoad { field, found })
}

/// The load of a measure against its capacity.
///
/// # Errors
/// Where that is no load that can be believed.
pub(super) fn measured(value: f64, capacity: f64) -> Result<Ratio, ReportError> {
    believable("metric / capacity", value / capacity)
}

/// The beginning of what was found, for messages.
fn shown(found: &[u8]) -> String {
    String::from_utf8_lossy(&found[..found.len().min(SHOWN)]).into_owned()
}
