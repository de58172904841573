//! What a reload changes of a site that is served: what serves it, within which limits, with which certificates, and where
//! its requests are written down.
//!
//! All that can fail is done first ([`Renewals::prepare`]): files are read and opened, what serves is built. Then it takes
//! the place of what was there, piece by piece, and no piece of it can fail. Connections that come afterwards get it.
//! Those that are there finish what is under way; where something else is served they are told to end, as at a drain, and
//! come again.

use ipnet::IpNet;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    Overspill,
    inner::{Inner, folder, inner},
    serve::weigh,
};
use crate::{
    access::AccessLog, config::Settings, guard::LimitSettings, problem::Problem, servers::networks,
    tls::Certificates,
};

/// What connections get from now on.
#[derive(Debug)]
pub(super) struct Renewal {
    /// [`None`]: as before.
    pub(super) inner: Option<Inner>,
    pub(super) limits: LimitSettings,
    pub(super) trusted_proxies: Vec<IpNet>,
    /// Those that are there are to end soon.
    pub(super) retires: bool,
}

/// Changes what is served.
#[derive(Debug)]
pub struct Renewals {
    overspill: Overspill,
    certificates: Option<Certificates>,
    access_log: Option<AccessLog>,
    tell: UnboundedSender<Renewal>,
}

/// Puts what was prepared in its place.
pub(super) type Commit = Box<dyn FnOnce() + Send>;

// === impl Renewals ===

impl Renewals {
    pub(super) fn new(
        overspill: Overspill,
        certificates: Option<Certificates>,
        access_log: Option<AccessLog>,
    ) -> (Self, UnboundedReceiver<Renewal>) {
        let (tell, told) = unbounded_channel();
        let renewals = Self {
            overspill,
            certificates,
            access_log,
            tell,
        };
        (renewals, told)
    }

    /// Builds all that `new` has otherwise than `old`. Waits for the disk.
    ///
    /// # Errors
    /// Every problem; then nothing has changed.
    pub(super) fn prepare(&self, old: &Settings, new: &Settings) -> Result<Commit, Vec<Problem>> {
        let (before, primary) = (&old.primary, &new.primary);
        let mut problems = Vec::new();
        let serves_otherwise = before.site != primary.site
            || before.upstream != primary.upstream
            || before.proxy != primary.proxy
            || before.files != primary.files;
        let inner = serves_otherwise
            .then(|| inner(primary).map_err(|found| problems.extend(found)))
            .and_then(Result::ok);
        let tls = primary.tls.as_ref().zip(self.certificates.as_ref());
        let certificates =
            tls.filter(|_| before.tls != primary.tls)
                .and_then(|(tls, certificates)| {
                    let prepared = certificates.prepare(tls);
                    let prepared = prepared.map_err(|found| problems.extend(found)).ok()?;
                    Some((certificates.clone(), prepared))
                });
        let access_log = self
            .access_log
            .as_ref()
            .filter(|_| old.access_log != new.access_log)
            .and_then(|log| {
                let change = log.prepare(&new.access_log);
                let change = change.map_err(|found| problems.push(found)).ok()?;
                Some((log.clone(), change))
            });
        if !problems.is_empty() {
            return Err(problems);
        }
        let begins_to_log = access_log
            .as_ref()
            .is_some_and(|(log, _)| log.for_connection().is_none());
        let trusts_otherwise = before.trusted_proxies != primary.trusted_proxies;
        let renewal = Renewal {
            retires: inner.is_some() || trusts_otherwise || begins_to_log,
            inner,
            limits: primary.limits,
            // They were checked: there is nothing left to tell.
            trusted_proxies: networks(&primary.trusted_proxies, "", &mut Vec::new()),
        };
        let changes_connections =
            renewal.retires || before.limits != primary.limits || certificates.is_some();
        let (overspill, tell) = (self.overspill.clone(), self.tell.clone());
        let site = folder(primary).to_path_buf();
        Ok(Box::new(move || {
            if let Some((certificates, prepared)) = certificates {
                certificates.take(prepared);
            }
            if let Some((log, change)) = access_log {
                log.take(change);
            }
            if let Some(Inner::Site(_)) = renewal.inner {
                weigh(&site, overspill);
            }
            if changes_connections {
                // Nobody serves any more: then there is nothing to change.
                let _ = tell.send(renewal);
            }
        }))
    }
}
