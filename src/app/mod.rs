//! Joins the parts and owns every task.

mod discovery;
#[cfg(feature = "server")]
mod door;
#[cfg(feature = "server")]
mod inner;
mod overspill;
mod reload;
#[cfg(feature = "server")]
mod renew;
#[cfg(feature = "server")]
mod serve;
mod status;
mod warm_up;

#[cfg(feature = "server")]
pub(crate) use self::{inner::folder, serve::weigh};
#[cfg(feature = "server")]
pub use self::{
    inner::{DEFAULT_SITE, Inner, InnerBody, InnerFuture, inner},
    renew::Renewals,
    serve::{ServeError, Serving, serve},
};
pub use self::{
    overspill::{Builder, Overspill, StartError},
    reload::{Reloaded, Reloader},
    status::{ClassStatus, RequestCounts, ServerStatus, SignalStatus, Status, TurnedAway},
};
