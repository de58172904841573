//! How connections learn that they are to end: those of before a reload, and at the end all of them.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// How long connections that are cut off may take to let go of what they hold.
const LOOSE_ENDS: Duration = Duration::from_secs(1);

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Others are served in another way now: it is to end soon, and to finish what is under way.
    Retiring,
    /// The server stops; what is under way is finished.
    Draining,
    /// Nothing is, any more.
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Word {
    stage: Option<Stage>,
    /// Connections of earlier generations are to end.
    first: u64,
}

/// Tells every connection of a server that it is to end.
#[derive(Debug)]
pub(crate) struct Stopping(watch::Sender<Word>);

/// A connection's word of it. Each lives as long as a connection is served.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    told: watch::Receiver<Word>,
    generation: u64,
}

// === impl Stopping ===

impl Stopping {
    /// Tells nothing yet.
    pub(crate) fn new() -> Self {
        let word = Word {
            stage: None,
            first: 0,
        };
        Self(watch::Sender::new(word))
    }

    /// For one more connection.
    pub(crate) fn stop(&self) -> Stop {
        let mut told = self.0.subscribe();
        let word = *told.borrow_and_update();
        if word.stage.is_some() {
            // One that came at the last moment is told of the end as well.
            told.mark_changed();
        }
        let generation = word.first;
        Stop { told, generation }
    }

    /// Tells all connections that are there by now to end soon.
    pub(crate) fn retire(&self) {
        self.0.send_modify(|word| word.first += 1);
    }

    fn tell(&self, stage: Stage) {
        self.0.send_modify(|word| word.stage = Some(stage));
    }

    /// Tells all connections to end, and waits until they have.
    pub(crate) async fn all_have_ended(&self) {
        self.tell(Stage::Draining);
        self.0.closed().await;
    }

    /// The same, for `drain` at most; those that are left then are cut off.
    pub(crate) async fn drain(&self, drain: Duration) {
        if timeout(drain, self.all_have_ended()).await.is_ok() {
            return;
        }
        tracing::warn!(
            seconds = drain.as_secs(),
            "requests were still under way when the time for draining was over"
        );
        self.tell(Stage::Over);
        // The access log is told of each: it must not end before.
        let _ = timeout(LOOSE_ENDS, self.0.closed()).await;
    }
}

// === impl Stop ===

impl Stop {
    /// What it is told next. Where nobody is left to tell, it is over as well.
    pub(crate) async fn next(&mut self) -> Stage {
        loop {
            if self.told.changed().await.is_err() {
                return Stage::Over;
            }
            let word = *self.told.borrow_and_update();
            match word.stage {
                Some(stage) => return stage,
                None if self.generation < word.first => return Stage::Retiring,
                // Of one that began in between.
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_told_of_what_comes_after_it() {
        let stopping = Stopping::new();
        let mut first = stopping.stop();
        assert_eq!(first.next().now_or_never(), None);
        stopping.retire();
        let mut second = stopping.stop();
        assert_eq!(first.next().now_or_never(), Some(Stage::Retiring));
        assert_eq!(first.next().now_or_never(), None);
        assert_eq!(second.next().now_or_never(), None);
        let draining = tokio::spawn(async move { stopping.drain(Duration::from_secs(5)).await });
        assert_eq!(first.next().await, Stage::Draining);
        assert_eq!(second.next().await, Stage::Draining);
        drop(first);
        assert_eq!(second.next().await, Stage::Over);
        drop(second);
        draining.await.unwrap();
    }

    #[tokio::test]
    async fn who_comes_at_the_last_moment_is_told_as_well() {
        let stopping = Stopping::new();
        let _first = stopping.stop();
        assert_eq!(stopping.all_have_ended().now_or_never(), None);
        let mut last = stopping.stop();
        assert_eq!(last.next().now_or_never(), Some(Stage::Draining));
        assert_eq!(last.next().now_or_never(), None);
    }
}
