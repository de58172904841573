//! The layer: decides about every request, and rewrites the pages of the visitors that are offloaded.
//!
//! | file | what |
//! |---|---|
//! | `settings`, `compiled` | the configuration, as written and as the request path reads it |
//! | `control`, `snapshot`, `shared` | readings become decisions, published as one immutable value |
//! | `promises`, `work` | what the primary has promised to send, exact between two looks at the load |
//! | `client`, `request`, `decide`, `stay`, `admitted` | who asks for what, and what happens with it |
//! | `classes`, `arrivals` | who is turned away last, and how many come of each class |
//! | `layer`, `service`, `future`, `body` | tower: doing it |
//! | `spread` | where the objects of one page go, where they do not all go to one server |
//! | `page`, `pages`, `streaming` | the pages that are rewritten: as a whole, seen before, while they stream |
//! | `ahead` | plans are made in the background before they are needed |
//! | `fallback` | the script that refetches what an offload server fails to give |
//! | `overloaded`, `connections` | the 503, and the end of a connection without a byte |
//! | `weights`, `fetched`, `counters` | what is learnt and counted on the way |

mod admitted;
mod ahead;
mod alarm;
mod arrivals;
mod body;
mod classes;
mod client;
mod compiled;
mod connections;
mod control;
mod counters;
mod decide;
mod explain;
mod fallback;
mod fetched;
mod future;
mod hot;
mod in_flight;
mod layer;
mod noted;
mod overloaded;
mod page;
mod pages;
mod promises;
mod reason;
mod request;
mod riding;
mod service;
mod settings;
mod shared;
mod snapshot;
mod spread;
mod stay;
mod streaming;
mod timing;
mod weights;
mod work;

pub(crate) use self::arrivals::ClassCounts;
#[cfg(feature = "server")]
pub(crate) use self::client::client_address;
pub(crate) use self::hot::HotObject;
#[cfg(feature = "server")]
pub(crate) use self::request::Peer;
#[cfg(feature = "server")]
pub(crate) use self::riding::sign as sign_report;
pub use self::{
    body::{BoxError, Dropped, OffloadBody},
    compiled::{Compiled, Parts},
    connections::{Connection, Connections, Switch},
    control::{Capacity, Control, Input, Override},
    counters::{Counters, Histogram, LineCounts, Outcome},
    decide::{Admit, Applicant, ByHash, Decided, Decision, Turning, Verdict, decide},
    explain::{Admission, Considered, Explanation, RuleMatched},
    future::ResponseFuture,
    in_flight::InFlightLimit,
    layer::OffloadLayer,
    promises::Link,
    reason::{Reason, Record},
    request::{Kind, OverTls},
    service::{LOAD_HEADER, NAME_HEADER, Offload, REASON_HEADER, SIGNATURE_HEADER, TOKEN_HEADER},
    settings::{
        BypassSettings, ClassSettings, DropMethod, DropSettings, IdentitySettings, Mode,
        OffloadSettings, ThrottleAction, ThrottleSettings,
    },
    shared::Shared,
    snapshot::Snapshot,
    weights::Weights,
};
