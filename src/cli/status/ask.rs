//! Asking the server again and again.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::seen::Look;
use crate::cli::admin::{Admin, AdminError};

/// As many as a screen may show.
const DECISIONS: &str = "/api/decisions?limit=50";
/// After a longer pause (a laptop that slept) the server is asked what happened meanwhile.
const GAP: Duration = Duration::from_secs(5);
/// However long the server says that it wants to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Asks for the status, and for the rest as far as it is needed and known.
pub(super) struct Asker {
    admin: Admin,
    /// The status alone is wanted.
    alone: bool,
    /// When the last answer came, since which nothing was missed.
    heard: Option<Instant>,
}

// === impl Asker ===

impl Asker {
    /// For all that a picture shows.
    pub(super) fn new(admin: Admin) -> Self {
        Self {
            admin,
            alone: false,
            heard: None,
        }
    }

    /// For the status alone.
    pub(super) fn for_status(admin: Admin) -> Self {
        Self {
            alone: true,
            ..Self::new(admin)
        }
    }

    /// Asks once.
    pub(super) async fn look(&mut self) -> Result<Look, AdminError> {
        let asked = self.ask().await;
        self.heard = asked.is_ok().then(Instant::now);
        asked
    }

    async fn ask(&self) -> Result<Look, AdminError> {
        let status = self.admin.get("/api/status").await?;
        let mut look = Look {
            status,
            ..Look::default()
        };
        if self.alone {
            return Ok(look);
        }
        if look.status["level"].is_null() {
            return Err(self.admin.stranger());
        }
        // An older version knows no more than its status.
        look.decisions = self.admin.get(DECISIONS).await.ok();
        if self.heard.is_none_or(|heard| heard.elapsed() > GAP) {
            look.history = self.admin.get("/api/history").await.ok();
        }
        Ok(look)
    }
}

/// Asks every so often until nobody listens any more, or asking on can't help.
pub(super) async fn ask_on(
    mut asker: Asker,
    every: Duration,
    news: mpsc::Sender<Result<Look, AdminError>>,
) {
    loop {
        let began = Instant::now();
        let look = asker.look().await;
        let (lasts, retry) = match &look {
            Ok(_) => (false, None),
            Err(error) => (error.lasts, error.retry),
        };
        if news.send(look).await.is_err() || lasts {
            return;
        }
        let pause = retry.map_or(every, |retry| retry.min(LONGEST_PAUSE).max(every));
        sleep_until(began + pause).await;
    }
}
