//! Accepting that goes on where it fails.

use std::{io, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};

use crate::seldom::Seldom;

/// Who can end connections that nobody needs.
pub(crate) trait Relief: std::fmt::Debug + Send + Sync {
    /// Ends some; whether there were any.
    fn relieve(&self) -> bool;
}

/// Accepts, and knows what went wrong the last time.
#[derive(Debug, Default)]
pub(crate) struct Acceptor {
    relief: Option<Arc<dyn Relief>>,
    pause: Option<Duration>,
    said: Seldom,
}

/// How long nothing is accepted after the first failure, and after many in a row. A file may be closed at any
/// moment, so it is tried again soon, but never in a circle that takes a processor.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

// === impl Acceptor ===

impl Acceptor {
    /// Asks `relief` to free some files where there are no more.
    #[cfg(feature = "server")]
    pub(crate) fn relieved_by(&mut self, relief: Arc<dyn Relief>) {
        self.relief = Some(relief);
    }

    /// The next connection. May be given up at any time.
    pub(crate) async fn accept(
        &mut self,
        listener: &TcpListener,
    ) -> (TcpStream, std::net::SocketAddr) {
        loop {
            match listener.accept().await {
                Ok(accepted) => {
                    self.pause = None;
                    return accepted;
                }
                // It was gone before it was taken; the next one is not concerned.
                Err(error) if concerns_one(&error) => {}
                // Too many open files, too little memory: who connects waits in the kernel's queue for now.
                Err(error) => {
                    if self.said.is_due() {
                        tracing::error!(%error, "can't accept a connection; trying again");
                    }
                    let relieved = self.relief.as_ref().is_some_and(|relief| relief.relieve());
                    let pause = match self.pause {
                        Some(pause) if !relieved => (pause * 2).min(PAUSES.1),
                        _ => PAUSES.0,
                    };
                    self.pause = Some(pause);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

fn concerns_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
