//! The crowd itself: it comes whether or not those who came before have been served.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::sync::Cache;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    arrivals::Dice,
    connection::Tls,
    fetch::Net,
    hosts::Hosts,
    objects::Object,
    reference::{Reference, ReferenceError},
    report::Report,
    settings::Settings,
    tally::{Tallies, Tally},
    trouble::Trouble,
    visit::visit,
};

/// Pages and stylesheets of which is known what they fetch. Of a page with a nonce, each is another.
const PARSED: u64 = 256;

/// What all visitors share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) net: Net,
    pub(super) reference: Option<Reference>,
    /// What texts fetch, by their hash.
    pub(super) parsed: Cache<u128, Arc<[Object]>>,
    tallies: Mutex<Tallies>,
    /// Microseconds that the latest visitor was late by.
    late: AtomicU64,
    /// How long visitors came; not set while they do.
    came_for: OnceLock<Duration>,
}

/// A crowd, and what becomes of it.
#[derive(Clone)]
pub struct Crowd(Arc<Shared>);

/// Why no crowd comes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrowdError {
    /// The site must not be visited.
    #[error(
        "{address} is a public address{}, and a crowd is for a site of your own: if it is, say --i-own-this-site",
        of_host(host, address)
    )]
    Foreign {
        /// The site's host.
        host: String,
        /// What it resolves to.
        address: IpAddr,
    },
    /// The site is nowhere.
    #[error("{0}: no such host")]
    Unknown(String),
    /// There is nothing to trust.
    #[error("no authorities to know servers by: {0}")]
    Authorities(String),
    /// The objects to compare with could not be had.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// Whose address it is, if that has a name.
fn of_host(host: &str, address: &IpAddr) -> String {
    let is_address = host.trim_matches(['[', ']']).parse() == Ok(*address);
    if is_address {
        String::new()
    } else {
        format!(" ({host})")
    }
}

impl fmt::Debug for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Crowd").field(&self.0.settings).finish()
    }
}

// === impl Crowd ===

impl Crowd {
    /// A crowd that holds what it gets to `reference`, if there is one.
    #[must_use]
    pub fn new(settings: Settings, reference: Option<Reference>) -> Self {
        let hosts = Hosts::new(settings.sources.clone(), settings.reach.clone());
        Self(Arc::new(Shared {
            net: Net {
                hosts,
                tls: Tls::default(),
                hash: reference.is_some(),
            },
            settings,
            reference,
            parsed: Cache::new(PARSED),
            tallies: Mutex::default(),
            late: AtomicU64::new(0),
            came_for: OnceLock::new(),
        }))
    }

    /// A crowd whose pages' hosts were looked at; with `verify`, one that knows what the site's objects are.
    ///
    /// # Errors
    /// A host that must not be visited, or cannot; objects that cannot be had.
    pub async fn prepared(settings: Settings, verify: bool) -> Result<Self, CrowdError> {
        let crowd = Self::new(settings, None);
        crowd.look().await?;
        if !verify {
            return Ok(crowd);
        }
        let Shared { settings, .. } = &*crowd.0;
        let hosts = Hosts::new(settings.sources.clone(), settings.reach.clone());
        let net = Net {
            hosts,
            tls: Tls::default(),
            hash: true,
        };
        let reference = Reference::fetch(&net, &settings.pages, settings.patience).await?;
        for path in reference.missing() {
            tracing::warn!(
                path,
                "the site itself does not have this object: it is not missed"
            );
        }
        tracing::info!(objects = reference.count(), "known by their hash");
        Ok(Self::new(settings.clone(), Some(reference)))
    }

    async fn look(&self) -> Result<(), CrowdError> {
        for page in &self.0.settings.pages {
            let host = page.host_str().unwrap_or_default();
            let looked = async {
                self.0
                    .net
                    .hosts
                    .places(&*self.0.net.hosts.of(page)?, page)
                    .await
                    .map(|_| ())
            };
            looked.await.map_err(|trouble| match trouble {
                Trouble::Foreign(address) => CrowdError::Foreign {
                    host: host.to_owned(),
                    address,
                },
                _ => CrowdError::Unknown(host.to_owned()),
            })?;
            if page.scheme() == "https" {
                self.0.net.tls.ready().map_err(CrowdError::Authorities)?;
            }
        }
        Ok(())
    }

    /// Sends visitors for `length` from `began` on, `rate` a second at each time (which ends when that is 0); then
    /// waits until the last has left. Dropping the future sends them home.
    pub async fn come(&self, rate: impl Fn(Duration) -> f64, length: Duration, began: Instant) {
        let dice = Dice::new(self.0.settings.seed);
        let end = began + length;
        let mut visits = JoinSet::new();
        let mut next = began;
        for visitor in 0_u64.. {
            let rate = rate(next.saturating_duration_since(began));
            let pause = dice.pause(rate.max(f64::MIN_POSITIVE), visitor);
            match next.checked_add(pause).filter(|next| *next < end) {
                Some(time) => next = time,
                None => break,
            }
            sleep_until(next).await;
            self.late_by(next.elapsed());
            // Who has left needs no place here any more.
            while visits.try_join_next().is_some() {}
            self.lock().tally.offered += 1;
            if visits.len() >= self.0.settings.most {
                self.lock().tally.not_started += 1;
            } else {
                self.lock().tally.arrived += 1;
                visits.spawn(self.clone().one(visitor, dice));
            }
        }
        sleep_until(end).await;
        let _ = self.0.came_for.set(length);
        while visits.join_next().await.is_some() {}
    }

    async fn one(self, visitor: u64, dice: Dice) {
        let pages = &self.0.settings.pages;
        let Some(page) = pages.get(dice.page(pages.len(), visitor)) else {
            return;
        };
        let visited = visit(&self.0, visitor, page).await;
        let coming = self.0.came_for.get().is_none();
        self.lock().add(visited, coming);
    }

    fn late_by(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.late.fetch_max(micros, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Tallies> {
        self.0
            .tallies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of the visitors so far. Those who are there still are `unfinished`.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let tally = self.lock().tally;
        Tally {
            unfinished: tally.arrived - tally.ended(),
            ..tally
        }
    }

    /// All that is known so far, of a crowd that began `elapsed` ago and whose visitors were to come for `length`.
    #[must_use]
    pub fn report(&self, rate: f64, length: Duration, elapsed: Duration) -> Report {
        let tally = self.tally();
        let shared = &self.0;
        let came_for = shared.came_for.get().copied();
        let complete = came_for.is_some() && tally.unfinished == 0;
        let late = Duration::from_micros(shared.late.load(Relaxed));
        Report::new(
            &shared.settings,
            shared.net.hosts.counts(),
            tally,
            &self.lock(),
            super::report::Run {
                rate,
                length,
                elapsed,
                came_for: came_for.unwrap_or(elapsed),
                late,
                complete,
                verified: shared.reference.is_some(),
                addresses: self.addresses(),
            },
        )
    }

    /// How many addresses visitors come to the first page's host from; none where the system chooses.
    fn addresses(&self) -> Option<u64> {
        let page = self.0.settings.pages.first()?;
        let host = self.0.net.hosts.of(page).ok()?;
        let count = host.place()?.from.count();
        (count > 0).then(|| u64::try_from(count).unwrap_or(u64::MAX))
    }
}
