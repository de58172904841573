//! Waiting for a condition.

use std::{fmt, time::Duration};

use tokio::time::{sleep, timeout};

/// Long enough for a machine that does much else, or stands still. Whoever waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Asks again and again until there is something.
///
/// # Panics
/// After [`PATIENCE`].
pub(crate) async fn until<T>(what: impl fmt::Display, ask: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, ask).await
}

/// [`until`] with another patience.
pub(crate) async fn until_within<T>(
    patience: Duration,
    what: impl fmt::Display,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    match timeout(patience, asking).await {
        Ok(found) => found,
        Err(_) => panic!("waited {patience:?} in vain: {what}"),
    }
}

/// Waits for what must happen some time.
///
/// # Panics
/// After [`PATIENCE`].
pub(crate) async fn soon<T>(what: impl fmt::Display, doing: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, doing).await {
        Ok(done) => done,
        Err(_) => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}
