//! Where offload servers are found, beside the configuration: in a file that is watched, and by DNS SRV.
//!
//! ```text
//! [[offload.servers]] ─────────────────────────────┐
//! file ──► read again and again ──► Watched ───────┼─► merge ──► the servers
//! name ──► asked again and again ──► Records ──────┘
//! ```
//!
//! What is found is added and removed while the program runs. A server that stays keeps all that is known of
//! it. In doubt what was known last holds: a file that can't be read, or is being written just now, and a name
//! server that fails or knows nothing, change nothing.
//!
//! A server is added as soon as an answer names it: it gets no work before it was probed anyway. It is removed
//! only when the answers have left it out for `keep`, so that answers that change from one to the next, or name
//! a part of the servers each, do not drive visitors to and fro. A file is an operator's word, and holds at once; but one
//! that leaves servers out may be half written, and has to stand for some seconds, one without any for `keep`.

mod file;
mod merge;
mod records;
#[cfg(feature = "srv")]
mod resolver;
mod settings;

use serde::Serialize;

#[cfg(feature = "srv")]
pub use self::resolver::NameServer;
pub use self::{
    file::{LIMIT as FILE_LIMIT, Watched},
    merge::{Found, MOST_SERVERS, Source, merge},
    records::{Answer, MOST_RECORDS, Record, Records},
    settings::DiscoverySettings,
};

/// What a source beside the configuration gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// "file" or "srv".
    pub source: &'static str,
    /// Its path, or the name.
    pub what: String,
    /// How many servers are known from it.
    pub servers: usize,
    /// What is wrong with it; what was known last holds.
    pub error: Option<String>,
}
