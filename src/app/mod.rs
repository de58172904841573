//! Joins the parts and owns every task.

mod discovery;
mod overspill;
mod reload;
#[cfg(feature = "server")]
mod renew;
#[cfg(feature = "server")]
mod serve;
mod status;
mod warm_up;

#[cfg(feature = "server")]
pub(crate) use self::serve::{folder, weigh};
pub use self::{
    overspill::{Builder, Overspill, StartError},
    reload::{Reloaded, Reloader},
    status::{ClassStatus, RequestCounts, ServerStatus, SignalStatus, Status, TurnedAway},
};
#[cfg(feature = "server")]
pub use self::{
    renew::Renewals,
    serve::{DEFAULT_SITE, Inner, ServeError, Serving, inner, serve},
};
