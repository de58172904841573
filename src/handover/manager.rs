//! What the service manager is told: `sd_notify(3)`, where there is a `NOTIFY_SOCKET`.
//!
//! A message that does not get there changes nothing about the site, so nobody waits for one or fails with it.

use std::time::Duration;

#[cfg(unix)]
use sd_notify::NotifyState::{MainPid, Ready, Reloading, Status, Stopping, Watchdog};

/// Whether anyone listens.
#[cfg(unix)]
fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

#[cfg(unix)]
fn tell(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states)
        && is_heard()
    {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// The site is served.
pub(crate) fn serving() {
    #[cfg(unix)]
    tell(&[Ready, Status("serving")]);
}

/// The configuration is read anew, until what this gives is dropped.
pub(crate) fn reloading() -> Reload {
    #[cfg(unix)]
    if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
        tell(&[Reloading, now]);
    }
    Reload
}

/// A reload that is under way.
pub(crate) struct Reload;

impl Drop for Reload {
    fn drop(&mut self) {
        serving();
    }
}

/// The end begins.
pub(crate) fn stopping() {
    #[cfg(unix)]
    tell(&[Stopping, Status("finishing what is under way")]);
}

/// From now on the process `successor` is the service.
pub(crate) fn taken_over(successor: u32) {
    #[cfg(unix)]
    tell(&[MainPid(successor), Ready, Status("serving")]);
    #[cfg(not(unix))]
    let _ = successor;
}

/// Says again and again that this process lives, twice in the time that the manager gives (`WatchdogSec=`), while
/// `is_alive`; ends at once where nobody wants to know.
pub(crate) async fn watch(is_alive: impl Fn() -> bool) {
    #[cfg(unix)]
    if let Some(time) = sd_notify::watchdog_enabled() {
        let mut ticks = tokio::time::interval((time / 2).max(Duration::from_millis(10)));
        loop {
            ticks.tick().await;
            if is_alive() {
                tell(&[Watchdog]);
            } else {
                tracing::error!(
                    "the load has not been looked at for too long: the watchdog is not fed"
                );
            }
        }
    }
    #[cfg(not(unix))]
    let _ = (is_alive, Duration::ZERO);
}
