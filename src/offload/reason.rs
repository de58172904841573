//! Why something happens with a request, in words.

use std::fmt;

use http::HeaderValue;

use super::{
    counters::Outcome,
    decide::{Decided, Decision},
    settings::Mode,
    snapshot::Snapshot,
};

/// Why something happens with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The level is `normal`.
    Normal,
    /// Its path or its address is exempt.
    Exempt,
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

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an answer says of itself in `x-overspill`, where `explain_header` is on. Parameters as in RFC 9651:
/// `served; level=offload; share=0.42; place=0.731; why="its place is not below the share"`.
#[derive(Debug)]
pub(super) struct Told(String);

// === impl Told ===

impl Told {
    pub(super) fn new(decided: Decided, place: Option<f64>, snapshot: &Snapshot) -> Self {
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
        if let Decision::Offload(server) | Decision::Redirect(server) = decided.decision
            && let Some(server) = snapshot.compiled.servers.get(server)
        {
            let name = server.name().replace(['\\', '"'], "'");
            let _ = write!(text, "; server=\"{name}\"");
        }
        if snapshot.compiled.mode == Mode::Report {
            text.push_str("; report");
        }
        let _ = write!(text, "; why=\"{}\"", decided.reason);
        Self(text)
    }

    /// The value, for an answer that this became of: a page that was to be offloaded may have had nothing to move.
    pub(super) fn value(&self, outcome: Outcome) -> Option<HeaderValue> {
        // A name may have letters that a header can't carry.
        let text: String = self
            .0
            .chars()
            .map(|letter| match letter {
                ' '..='~' => letter,
                _ => '?',
            })
            .collect();
        HeaderValue::try_from(format!("{}{text}", outcome.label())).ok()
    }
}
