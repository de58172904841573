//! What happens with a request: a pure function of the snapshot and of what the request is.

use super::{promises::Link, reason::Reason, request::Kind, snapshot::Snapshot};
use crate::{
    level::{Level, Turned},
    servers::{Client, hash},
    units::Ratio,
};

/// The salt of the share's hash: constant, so that a visitor's fate is the same in every episode, and
/// unlike any admission epoch, so that the two are drawn independently.
const SHARE_SALT: u64 = u64::MAX;

/// Where a client stands, from 0 to 1: those below the share are offloaded.
pub(super) fn place_in_share(client: &Client<'_>) -> f64 {
    hash::fraction(client.hash, SHARE_SALT)
}

/// Where it stands in the draw of `epoch`: those below the part that is turned away are.
pub(super) fn place_in_draw(client: &Client<'_>, epoch: u64) -> f64 {
    hash::fraction(client.hash, epoch)
}

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

/// A decision, and why it is that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// What happens.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
}

/// What an admission policy is told.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// Who asks.
    pub client: &'a Client<'a>,
    /// The position of its class (`throttle.classes`, and among them those who belong to none), lowest first; 0 where
    /// no classes are configured.
    pub class: usize,
    /// What is turned away of its class just now, of those that cost what this one does.
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
        let place = place_in_draw(applicant.client, applicant.epoch);
        if place < applicant.turned.dropped.get() {
            Verdict::Drop
        } else if place < applicant.turned.throttled.get() {
            Verdict::Throttle
        } else {
            Verdict::Admit
        }
    }
}

/// Who is turned away just now: it depends on what a visitor would cost the primary.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Turning {
    /// The position of the class that this is about, lowest first; 0 where no classes are configured.
    pub class: usize,
    /// Those whose objects the primary would serve itself.
    pub alone: Turned,
    /// Those for whom a server has room.
    pub offloaded: Turned,
}

// === impl Turning ===

impl Turning {
    /// As `snapshot` says for `class`, with the primary's `link` as it is at this moment, and so many other requests
    /// `in_flight`.
    #[must_use]
    pub fn now(snapshot: &Snapshot, link: Option<Link>, in_flight: u64, class: usize) -> Self {
        let in_flight = snapshot
            .in_flight
            .map_or(Turned::default(), |limit| limit.turned(in_flight));
        let throttled = |throttled| Turned {
            throttled,
            dropped: Ratio::ZERO,
        };
        // An offloaded visitor's page is soon over: it is turned away where the others would be dropped.
        let offloaded = link
            .map_or(Turned::default(), |link| throttled(link.turned_offloaded()))
            .most(throttled(in_flight.dropped))
            .most(snapshot.turned_offloaded);
        let exact = link.map_or(in_flight, |link| link.turned().most(in_flight));
        let exact = match snapshot.level {
            Level::Drop => exact,
            _ => throttled(exact.throttled),
        };
        Self {
            class,
            alone: snapshot.of_class(snapshot.turned_beside.most(exact), class),
            offloaded: snapshot.of_class(offloaded, class),
        }
    }

    /// Whether anyone is turned away.
    fn anyone(&self) -> bool {
        [self.alone, self.offloaded]
            .iter()
            .any(|turned| *turned != Turned::default())
    }
}

/// Decides about a request that is not exempt.
///
/// `turning` is about the request's class. `stays` tells whether the client was let in
/// before; it is asked only where it matters. `has_room` tells whether a server can take one more visitor.
pub fn decide(
    kind: Kind,
    client: &Client<'_>,
    snapshot: &Snapshot,
    turning: Turning,
    admit: &dyn Admit,
    stays: impl FnOnce() -> bool,
    has_room: &dyn Fn(usize) -> bool,
) -> Decided {
    let decided = |decision, reason| Decided { decision, reason };
    if snapshot.level == Level::Normal {
        return decided(Decision::Serve, Reason::Normal);
    }
    if snapshot.drop_everything {
        return decided(Decision::Drop, Reason::DropHeld);
    }
    let wants_server = kind.may_be_page || kind.redirect;
    let choose = || {
        let chosen = wants_server.then(|| snapshot.choose.choose(client, has_room));
        // A chooser may be anybody's.
        chosen
            .flatten()
            .filter(|server| *server < snapshot.compiled.targets.len())
    };
    let in_share = place_in_share(client) < snapshot.share.get();
    let mut server = in_share.then(choose).flatten();
    let mut reason = match (in_share, server) {
        _ if !wants_server => Reason::Object,
        (false, _) => Reason::OutsideShare,
        (true, Some(_)) => Reason::InShare,
        (true, None) => Reason::NoRoom,
    };
    if kind.begins && turning.anyone() {
        let verdict = |turned| {
            let applicant = Applicant {
                client,
                class: turning.class,
                turned,
                epoch: snapshot.epoch,
            };
            admit.admit(&applicant)
        };
        let alone = verdict(turning.alone);
        if alone != Verdict::Admit && stays() {
            if server.is_none() {
                reason = Reason::Stays;
            }
        } else if alone != Verdict::Admit {
            // Before anyone is turned away, room is sought, share or not: an offloaded visitor costs the
            // primary a page, one that it serves itself the page and all its objects.
            if server.is_none() {
                server = choose();
                reason = Reason::RoomSought;
            }
            let verdict = match server {
                Some(_) => verdict(turning.offloaded),
                None => alone,
            };
            match verdict {
                Verdict::Admit => {}
                Verdict::Throttle => return decided(Decision::Throttle, Reason::TurnedAway),
                Verdict::Drop => return decided(Decision::Drop, Reason::TurnedAway),
            }
        }
    }
    let decision = match server {
        Some(server) if kind.redirect => Decision::Redirect(server),
        Some(server) => Decision::Offload(server),
        None => Decision::Serve,
    };
    decided(decision, reason)
}
