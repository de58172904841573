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

mod assigned;
pub mod hash;
mod health;
mod probe;
mod report;
mod select;
mod server;
mod settings;

pub use self::{
    assigned::AssignedRate,
    health::{Answer, Health, HealthTracker},
    probe::Probes,
    report::{ReportError, parse as parse_report},
    select::{Candidate, Choose, Client, ClientRuleSettings, Criterion, Policy, Select, networks},
    server::{Server, ServerState, Servers},
    settings::{
        HealthProbe, HealthSettings, ReportKind, ReportSettings, ServerSettings, absolute_url,
        server_url,
    },
};
