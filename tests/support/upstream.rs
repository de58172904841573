//! A server to stand in front of, whose `/hold` answers when it is told to.
//!
//! Requests that wait there are in flight at the program in front of it: so a test sets the load of
//! `in_flight`, exactly, and for as long as it likes.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::get,
};
use futures_util::stream;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::{
    client::{self, drain},
    program::Program,
    raw::parse,
    wait::until,
};

/// The path that waits. It belongs into `throttle.bypass.paths`, so that any number can be made to wait.
pub(crate) const HOLD: &str = "/hold";

/// The server; it goes with its handle.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    waiting: Arc<AtomicUsize>,
    released: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Requests that wait.
#[derive(Debug)]
pub(crate) struct Held(Vec<TcpStream>);

impl Upstream {
    /// Serves `app`, and [`HOLD`].
    pub(crate) async fn start(app: Router) -> Self {
        let (waiting, released) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(()));
        let hold = {
            let (waiting, released) = (waiting.clone(), released.clone());
            async move || {
                let mut released = released.subscribe();
                waiting.fetch_add(1, Ordering::SeqCst);
                let until_released = async move {
                    released.changed().await.unwrap();
                    waiting.fetch_sub(1, Ordering::SeqCst);
                };
                drips(b" ", until_released, "held")
            }
        };
        let app = app.route(HOLD, get(hold));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            waiting,
            released,
            task,
        }
    }

    /// Makes `count` more requests to `program` wait.
    pub(crate) async fn hold(&self, program: &Program, held: &mut Held, count: usize) {
        for _ in 0..count {
            let mut stream = client::connect(Ipv4Addr::LOCALHOST, program.site)
                .await
                .unwrap();
            stream
                .write_all(client::get(HOLD).text().as_bytes())
                .await
                .unwrap();
            held.0.push(stream);
        }
        let all = held.0.len();
        until(format_args!("{all} requests wait"), async || {
            (self.waiting.load(Ordering::SeqCst) == all).then_some(())
        })
        .await;
    }

    /// Answers all that wait.
    pub(crate) async fn release(&self, held: &mut Held) {
        self.released.send_replace(());
        for mut stream in held.0.drain(..) {
            let (answer, _) = drain(&mut stream).await;
            assert!(
                parse(&answer, false).body.ends_with(b"held"),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
}

/// A body that is `drip` now and then, and `end` once `released` is ready: who stands in front gives up what stands still
/// for a minute.
pub(crate) fn drips(
    drip: &'static [u8],
    released: impl Future<Output = ()> + Send + 'static,
    end: impl Into<Bytes>,
) -> Body {
    let end = end.into();
    let state = Some((Box::pin(released), end));
    Body::from_stream(stream::unfold(state, move |state| async move {
        let (mut released, end) = state?;
        let next = match timeout(Duration::from_secs(5), released.as_mut()).await {
            Ok(()) => (end, None),
            Err(_) => (Bytes::from_static(drip), Some((released, end))),
        };
        Some((Ok::<_, Infallible>(next.0), next.1))
    }))
}

impl Held {
    /// None yet.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}
