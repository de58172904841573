//! Who can help: the offload servers, what is known of each, and which of them takes a visitor.
//!
//! ```text
//! probes ──► health, reports ─┐
//! assignments (every page) ───┴─► Server::state ──► usable or not, and why ──► Select ──► Choose
//! ```
//!
//! A server is usable while it is healthy and below its threshold; once over, it comes back below `resume`.
//! Its load is what was *assigned* to it plus a slow correction from its reports (or its report alone where
//! its capacity is not known): a report is a second old, an assignment counts at once.
//!
//! Servers are configured, or found while the program runs ([`discovery`]).

mod assigned;
mod budget;
pub mod discovery;
pub mod hash;
mod health;
mod probe;
pub mod report;
mod select;
mod server;
mod settings;
mod verdict;
mod warm;

pub use self::{
    assigned::{AssignedRate, WINDOW as PROMISE_WINDOW, on_the_wire},
    budget::{BudgetSettings, Period},
    health::{Answer, Health, HealthTracker},
    probe::Probes,
    report::{
        OrcaReport, ReportError, ReportKind, ReportSettings, parse as parse_report,
        read as read_report,
    },
    select::{
        Candidate, Choose, Client, ClientRuleSettings, Criterion, Policy, Select, SpreadBy,
        networks,
    },
    server::{Server, ServerState, Servers},
    settings::{HealthProbe, HealthSettings, ServerSettings, absolute_url, server_url},
    warm::Warmer,
};
