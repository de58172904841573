//! The thread that asks the signals, at an interval.
//!
//! It is an OS thread of its own: an overloaded runtime must not starve what measures it. A signal
//! that can't be read is off, with a reason that everybody can see; it is logged once, tried again
//! at each tick, and logged when it comes back. It never fails the start.

use std::{
    any::Any,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    Signal, SignalError,
    reading::{Change, Reading, Track},
    settings::Thresholds,
};
use crate::units::Ratio;

/// The shortest interval; a shorter one counts as this. Sampling costs some system calls.
pub const MINIMUM_INTERVAL: Duration = Duration::from_millis(10);

/// A signal, with the loads at which it asks for each level; or why there is none.
pub struct Watched {
    name: Arc<str>,
    thresholds: Thresholds,
    source: Result<Box<dyn Signal>, Arc<str>>,
}

impl Watched {
    /// Watches `signal`. Its name should differ from the other signals'.
    #[must_use]
    pub fn new(signal: impl Signal + 'static, thresholds: Thresholds) -> Self {
        Self {
            name: signal.name().into(),
            thresholds,
            source: Ok(Box::new(signal)),
        }
    }

    /// A signal that is not there, but stays visible with the `reason`.
    #[must_use]
    pub fn off(name: impl Into<Arc<str>>, reason: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            thresholds: Thresholds::NONE,
            source: Err(reason.into()),
        }
    }

    /// The signal's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why the signal is off, if it was never there.
    #[must_use]
    pub fn off_reason(&self) -> Option<&str> {
        self.source.as_ref().err().map(|reason| &**reason)
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("name", &self.name)
            .field("thresholds", &self.thresholds)
            .field("off", &self.off_reason())
            .finish()
    }
}

/// All readings, just taken.
#[derive(Debug, Clone, Copy)]
pub struct Tick<'a> {
    /// When they were taken.
    pub now: Instant,
    /// One for each signal, in the order in which they were given.
    pub readings: &'a [Reading],
}

/// The sampling thread. Dropping this ends it, and waits until it has ended.
#[derive(Debug)]
pub struct Sampler {
    /// Other signals; closed, the thread ends.
    news: Option<mpsc::Sender<Vec<Watched>>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Asks all `signals` at once and then every `interval`, and gives their readings, smoothed with
    /// the time constant `smoothing`, to `on_tick`, which runs on the sampling thread.
    ///
    /// A tick that comes late is not made up for.
    ///
    /// # Errors
    /// That the operating system gives no thread.
    pub fn start(
        signals: Vec<Watched>,
        interval: Duration,
        smoothing: Duration,
        on_tick: impl FnMut(Tick<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        let (news, told) = mpsc::channel();
        let signals = signals
            .into_iter()
            .map(|watched| Asked::new(watched, smoothing))
            .collect();
        let sampling = Sampling {
            signals,
            interval: interval.max(MINIMUM_INTERVAL),
            told,
        };
        let thread = thread::Builder::new()
            .name("overspill-load".to_owned())
            .spawn(move || sampling.run(on_tick))?;
        Ok(Self {
            news: Some(news),
            thread: Some(thread),
        })
    }

    /// Goes on with these signals in place of those of the same names; others stay. The averages go on, under the new
    /// thresholds.
    pub fn replace(&self, signals: Vec<Watched>) {
        if let Some(news) = &self.news {
            // The thread lives as long as this.
            let _ = news.send(signals);
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // The thread waits for this channel, and sees it close.
        self.news = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        // `on_tick` may own the last handle: a thread can't wait for itself.
        if thread.thread().id() != thread::current().id() {
            // Its panics are caught and logged where they happen.
            let _ = thread.join();
        }
    }
}

/// A signal that is asked at each tick, and what is known of it.
struct Asked {
    signal: Option<Box<dyn Signal>>,
    track: Track,
}

impl Asked {
    fn new(watched: Watched, smoothing: Duration) -> Self {
        let mut track = Track::new(watched.name, watched.thresholds, smoothing);
        let signal = match watched.source {
            Ok(signal) => Some(signal),
            Err(reason) => {
                // Whoever gave the reason knows it, so it is no news for the log.
                track.off(reason);
                None
            }
        };
        Self { signal, track }
    }

    /// The same average of another source.
    fn replace(&mut self, watched: Watched) {
        self.track.set_thresholds(watched.thresholds);
        self.signal = match watched.source {
            Ok(signal) => Some(signal),
            Err(reason) => {
                self.track.off(reason);
                None
            }
        };
    }

    fn ask(&mut self) {
        let Some(signal) = &mut self.signal else {
            return;
        };
        // A time of its own: with a slow signal before this one, that of the tick would be wrong.
        let now = Instant::now();
        let change = self.track.observe(ask_safely(signal.as_mut(), now), now);
        let Reading { name, off, .. } = self.track.reading();
        match change {
            Change::None => {}
            Change::WentOff => {
                let error = off.as_deref().unwrap_or_default();
                warn!(signal = %name, error, "a load signal can't be read and is off");
            }
            Change::CameBack => info!(signal = %name, "a load signal can be read again"),
        }
    }
}

/// A panic of a user's signal must not end the sampling: the level would stay what it is for ever.
fn ask_safely(signal: &mut dyn Signal, now: Instant) -> Result<Option<Ratio>, SignalError> {
    catch_unwind(AssertUnwindSafe(|| signal.sample(now)))
        .unwrap_or_else(|panic| Err(SignalError::new(format!("panicked: {}", message(&*panic)))))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("for an unknown reason")
}

struct Sampling {
    signals: Vec<Asked>,
    interval: Duration,
    told: mpsc::Receiver<Vec<Watched>>,
}

impl Sampling {
    fn run(mut self, mut on_tick: impl FnMut(Tick<'_>)) {
        let mut readings = Vec::with_capacity(self.signals.len());
        let mut next = Instant::now();
        loop {
            self.signals.iter_mut().for_each(Asked::ask);
            readings.clear();
            readings.extend(
                self.signals
                    .iter()
                    .map(|asked| asked.track.reading().clone()),
            );
            let now = Instant::now();
            let tick = Tick {
                now,
                readings: &readings,
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| on_tick(tick))) {
                error!(
                    error = message(&*panic),
                    "what takes the load readings panicked"
                );
            }
            next = next_tick(next, Instant::now(), self.interval);
            let wait = next.saturating_duration_since(Instant::now());
            match self.told.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                // They are asked at once.
                Ok(signals) => self.replace(signals),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn replace(&mut self, signals: Vec<Watched>) {
        for watched in signals {
            let mut asked = self.signals.iter_mut();
            if let Some(asked) = asked.find(|asked| asked.track.reading().name == watched.name) {
                asked.replace(watched);
            }
        }
    }
}

/// An interval after the last tick was due; or after `now`, if that is past.
fn next_tick(due: Instant, now: Instant, interval: Duration) -> Instant {
    let next = due + interval;
    if next > now { next } else { now + interval }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
