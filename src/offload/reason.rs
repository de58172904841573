//! Why something happens with a request, in words.

use std::{fmt, sync::Arc};

use http::HeaderValue;

use super::{
    counters::Outcome,
    decide::{Decided, Decision},
    settings::Mode,
    snapshot::Snapshot,
};
use crate::{level::Level, servers::Server};

/// Why something happens with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The level is `normal`.
    Normal,
    /// Its path or its address is exempt.
    Exempt,
    /// An offload server pulls it, and shows the token.
    Pull,
    /// `drop` is held by hand.
    DropHeld,
    /// It belongs to a page that was let in.
    Object,
    /// Its place is not below the share.
    OutsideShare,
    /// Its place is below the share, and a server has room.
    InShare,
    /// Its place is below the share, but no server has room.
    NoRoom,
    /// It would have been turned away, but a server has room.
    RoomSought,
    /// Its place is below the part that is turned away.
    TurnedAway,
    /// It would have been turned away, but was let in before.
    Stays,
    /// A redirect would lead from https to http.
    LessSecure,
}

impl Reason {
    /// The reason in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "the level is normal",
            Self::Exempt => "its path or its address is exempt",
            Self::Pull => "an offload server pulls it",
            Self::DropHeld => "drop is held by hand",
            Self::Object => "it is no page and begins nothing",
            Self::OutsideShare => "its place is not below the share",
            Self::InShare => "its place is below the share",
            Self::NoRoom => "its place is below the share, but no server has room",
            Self::RoomSought => "it would have been turned away, but a server has room",
            Self::TurnedAway => "its place is below the part that is turned away",
            Self::Stays => "it would have been turned away, but was let in before",
            Self::LessSecure => "a redirect would lead from https to http",
        }
    }
}

impl Reason {
    /// The reason in one word, for logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Exempt => "exempt",
            Self::Pull => "pull",
            Self::DropHeld => "drop_held",
            Self::Object => "object",
            Self::OutsideShare => "outside_share",
            Self::InShare => "in_share",
            Self::NoRoom => "no_room",
            Self::RoomSought => "room_sought",
            Self::TurnedAway => "turned_away",
            Self::Stays => "stays",
            Self::LessSecure => "less_secure",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was decided about a request: in the extensions of its response, where records are kept
/// ([`Shared::keep_records`](super::Shared::keep_records)).
#[derive(Debug, Clone)]
pub struct Record {
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// The level at which it was decided.
    pub level: Level,
    /// The server that its objects are linked to, or that it was sent to.
    pub server: Option<Arc<Server>>,
    /// It only would have become of it: the mode is report.
    pub report: bool,
}

/// What is told of a decision when the answer begins.
#[derive(Debug)]
pub(super) struct Told {
    /// In `x-overspill`, where `explain_header` is on. Parameters as in RFC 9651:
    /// `served; level=offload; share=0.42; place=0.731; why="its place is not below the share"`.
    header: Option<String>,
    /// To whoever keeps records.
    record: Option<Record>,
}

// === impl Told ===

impl Told {
    pub(super) const fn new() -> Self {
        Self {
            header: None,
            record: None,
        }
    }

    /// The answer says it.
    pub(super) fn explaining(
        mut self,
        decided: Decided,
        place: Option<f64>,
        snapshot: &Snapshot,
    ) -> Self {
        use fmt::Write as _;
        let mut text = format!("; level={}", snapshot.level);
        // Writing into a text does not fail.
        if let Some(place) = place {
            let _ = write!(
                text,
                "; share={:.3}; place={place:.3}",
                snapshot.share.get()
            );
        }
        if let Some(server) = server(decided, snapshot) {
            let name = server.name().replace(['\\', '"'], "'");
            let _ = write!(text, "; server=\"{name}\"");
        }
        if snapshot.compiled.mode == Mode::Report {
            text.push_str("; report");
        }
        let _ = write!(text, "; why=\"{}\"", decided.reason);
        self.header = Some(text);
        self
    }

    /// It is kept.
    pub(super) fn recorded(mut self, decided: Decided, snapshot: &Snapshot) -> Self {
        self.record = Some(Record {
            outcome: Outcome::Served,
            reason: decided.reason,
            level: snapshot.level,
            server: server(decided, snapshot).cloned(),
            report: snapshot.compiled.mode == Mode::Report,
        });
        self
    }

    /// Another server of the same pool gets it.
    pub(super) fn sent_to(&mut self, server: Option<&Arc<Server>>) {
        if let Some(record) = &mut self.record {
            record.server = server.cloned();
        }
    }

    /// The header, for an answer that this became of: a page that was to be offloaded may have had nothing to move.
    pub(super) fn header(&self, outcome: Outcome) -> Option<HeaderValue> {
        // A name may have letters that a header can't carry.
        let text: String = self
            .header
            .as_ref()?
            .chars()
            .map(|letter| match letter {
                ' '..='~' => letter,
                _ => '?',
            })
            .collect();
        HeaderValue::try_from(format!("{}{text}", outcome.label())).ok()
    }

    /// The record, likewise.
    pub(super) fn record(self, outcome: Outcome) -> Option<Record> {
        let moved = matches!(outcome, Outcome::Offloaded | Outcome::Redirected);
        self.record.map(|record| Record {
            outcome,
            server: record.server.filter(|_| moved),
            ..record
        })
    }
}

fn server(decided: Decided, snapshot: &Snapshot) -> Option<&Arc<Server>> {
    match decided.decision {
        Decision::Offload(server) | Decision::Redirect(server) => {
            snapshot.compiled.servers.get(server)
        }
        _ => None,
    }
}
