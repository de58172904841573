//! Its load for HAProxy, as `agent-check` asks for it: one line to whoever connects.
//!
//! The line tells the weight that the load leaves, none where the edge is over its threshold, and `drain` from the
//! moment at which it is asked to stop. There is no token in that protocol, so the listener is one of its own, and
//! there is none unless it is configured.

use std::{sync::Arc, time::Duration};

use axum::serve::Listener;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use super::Edge;
use crate::{admin::Lifecycle, servers::report::agent_line, units::Ratio};

/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many are attended at once; the next waits.
const TOGETHER: usize = 64;
/// What is read of what an asker says (`agent-send`); it is not heeded.
const LONGEST: u64 = 1024;

/// Answers for ever: it ends with its task.
pub async fn answer_agents(edge: Edge, lifecycle: Lifecycle, mut listener: TcpListener) {
    let places = Arc::new(Semaphore::new(TOGETHER));
    loop {
        // Nobody closes it.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (stream, _) = Listener::accept(&mut listener).await;
        let line = line(&edge, &lifecycle);
        tokio::spawn(async move {
            // Who does not take the line asks again.
            let _ = timeout(PATIENCE, tell(stream, line)).await;
            drop(place);
        });
    }
}

fn line(edge: &Edge, lifecycle: &Lifecycle) -> String {
    if lifecycle.get() == Lifecycle::DRAINING {
        return "drain\n".to_owned();
    }
    let report = edge.0.load.report();
    agent_line(if report.is_over || report.is_full {
        Ratio::ONE
    } else {
        report.load
    })
}

async fn tell(mut stream: TcpStream, line: String) -> std::io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    // A close with something unread would be a reset, which may overtake the line.
    let mut said = Vec::new();
    stream.take(LONGEST).read_to_end(&mut said).await?;
    Ok(())
}
