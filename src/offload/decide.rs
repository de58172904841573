//! What happens with a request: a pure function of the snapshot and of what the request is.

use super::{request::Kind, snapshot::Snapshot};
use crate::{
    level::{Level, Turned},
    servers::{Client, hash},
};

/// The salt of the share's hash: constant, so that a visitor's fate is the same in every episode, and
/// unlike any admission epoch, so that the two are drawn independently.
const SHARE_SALT: u64 = u64::MAX;

/// What happens with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The primary serves it alone.
    Serve,
    /// The primary serves the page, the server (by its position) the objects.
    Offload(usize),
    /// The server gets the request.
    Redirect(usize),
    /// The 503.
    Throttle,
    /// No answer.
    Drop,
}

/// What an admission policy is told.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// Who asks.
    pub client: &'a Client<'a>,
    /// What is turned away just now.
    pub turned: Turned,
    /// Changes every half minute.
    pub epoch: u64,
}

/// What admission says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let in.
    Admit,
    /// A 503.
    Throttle,
    /// No answer.
    Drop,
}

/// Decides who is turned away: replace it to decide in your own way. Called on the request path.
pub trait Admit: std::fmt::Debug + Send + Sync + 'static {
    /// Whether the applicant is let in.
    fn admit(&self, applicant: &Applicant<'_>) -> Verdict;
}

/// By a hash of client and epoch: all of a visitor's requests meet the same fate, and a retry in the next
/// epoch has a new chance.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByHash;

impl Admit for ByHash {
    fn admit(&self, applicant: &Applicant<'_>) -> Verdict {
        let place = hash::fraction(applicant.client.hash, applicant.epoch);
        if place < applicant.turned.dropped.get() {
            Verdict::Drop
        } else if place < applicant.turned.throttled.get() {
            Verdict::Throttle
        } else {
            Verdict::Admit
        }
    }
}

/// Decides about a request that is not exempt.
///
/// `stays` tells whether the client was let in before; it is asked only where it matters. `has_room` tells
/// whether a server can take one more visitor.
pub fn decide(
    kind: Kind,
    client: &Client<'_>,
    snapshot: &Snapshot,
    admit: &dyn Admit,
    stays: impl FnOnce() -> bool,
    has_room: &dyn Fn(usize) -> bool,
) -> Decision {
    if snapshot.level == Level::Normal {
        return Decision::Serve;
    }
    if snapshot.drop_everything {
        return Decision::Drop;
    }
    let wants_server = kind.may_be_page || kind.redirect;
    let in_share = || hash::fraction(client.hash, SHARE_SALT) < snapshot.share.get();
    // Before anyone is turned away, room is sought for everyone: an offloaded visitor costs the primary a
    // page, one that it serves itself the page and all its objects.
    let server = (wants_server && (snapshot.level >= Level::Throttle || in_share()))
        .then(|| snapshot.choose.choose(client, has_room))
        .flatten();
    let draws = snapshot.level >= Level::Throttle
        && kind.begins
        && (server.is_none() || snapshot.turn_away_offloaded);
    if draws {
        let applicant = Applicant {
            client,
            turned: snapshot.turned,
            epoch: snapshot.epoch,
        };
        match admit.admit(&applicant) {
            Verdict::Admit => {}
            _ if stays() => {}
            Verdict::Throttle => return Decision::Throttle,
            Verdict::Drop => return Decision::Drop,
        }
    }
    match server {
        Some(server) if kind.redirect => Decision::Redirect(server),
        Some(server) => Decision::Offload(server),
        None => Decision::Serve,
    }
}
