//! A running Overspill: the sampler, the probes, and what the layer and the gate share with them.

use std::{
    fmt, io,
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, runtime::Handle, task::JoinSet, time::Instant};

use super::{discovery::Discovery, status::Status, warm_up::warm_up};
use crate::{
    config::{ConfigError, Settings},
    gate::{self, GateListener},
    level::Level,
    load::{self, BytesSent, InFlight, Sampler, Signal, Thresholds, Watched},
    offload::{Admit, ByHash, Capacity, Control, OffloadLayer, Override, Shared, Snapshot},
    servers::{Probes, Select, hash},
};

/// Why Overspill could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Probes and the queue delay need a runtime.
    #[error("must be started within a Tokio runtime")]
    NoRuntime,
    /// The operating system gives no thread.
    #[error("can't start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running Overspill. Clones are handles of the same one; with the last of them, and of the layers and
/// gates made from it, its tasks end.
#[derive(Clone)]
pub struct Overspill {
    shared: Arc<Shared>,
    started: Instant,
}

impl fmt::Debug for Overspill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overspill").finish_non_exhaustive()
    }
}

/// Starts an [`Overspill`] with parts of your own.
#[must_use]
pub struct Builder {
    settings: Settings,
    signals: Vec<Watched>,
    select: Option<Arc<dyn Select>>,
    admit: Arc<dyn Admit>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("settings", &self.settings)
            .field("signals", &self.signals)
            .finish_non_exhaustive()
    }
}

// === impl Overspill ===

impl Overspill {
    /// Starts the sampler and the probes. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// Every problem of the settings; no runtime; no thread.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        Self::builder(settings).start()
    }

    /// Starts with parts of your own: signals, selection, admission.
    ///
    /// ```
    /// use overspill::{Overspill, Settings, level::Thresholds, load::{Signal, SignalError}, units::Ratio};
    /// use tokio::time::Instant;
    ///
    /// struct Queue;
    ///
    /// impl Signal for Queue {
    ///     fn name(&self) -> &str { "queue" }
    ///     fn sample(&mut self, _now: Instant) -> Result<Option<Ratio>, SignalError> {
    ///         Ok(Ratio::new(0.2))
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let overspill = Overspill::builder(Settings::default())
    ///     .signal(Queue, Thresholds::standard())
    ///     .start()?;
    /// # drop(overspill);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(settings: Settings) -> Builder {
        Builder {
            settings,
            signals: Vec::new(),
            select: None,
            admit: Arc::new(ByHash),
        }
    }

    /// The layer for your service. All layers of one Overspill share its state.
    #[must_use]
    pub fn layer(&self) -> OffloadLayer {
        OffloadLayer::new(self.shared.clone())
    }

    /// Puts the gate before a listener: at `drop`, connections are closed before they cost anything.
    #[must_use]
    pub fn gate(&self, listener: TcpListener) -> GateListener {
        gate::gate(listener, self.shared.clone())
    }

    /// What is known and decided as of now.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::of(&self.shared, self.started.elapsed())
    }

    /// Holds a level by hand for a time, whatever the load; in effect when this returns.
    pub fn override_level(&self, level: Level, length: Duration) {
        let now = Instant::now();
        // A year is for ever here, and keeps the sum in range.
        let until = now + length.min(Duration::from_secs(365 * 24 * 3600));
        self.shared.hold(Some(Override { level, until }), now);
    }

    /// Ends an override before its time.
    pub fn end_override(&self) {
        self.shared.hold(None, Instant::now());
    }

    /// Tells the sizes of objects, so that pages can be weighed before anything has passed: the request path
    /// (percent-encoded) and the bytes of each.
    pub fn learn_objects(&self, objects: impl IntoIterator<Item = (String, u64)>) {
        for (path, bytes) in objects {
            self.shared
                .weights
                .learn_object(hash::bytes(path.as_bytes()), bytes);
        }
    }

    /// The state, for whoever joins further parts.
    #[must_use]
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

// === impl Builder ===

impl Builder {
    /// One more signal, with the loads at which it asks for each level.
    pub fn signal(mut self, signal: impl Signal + 'static, thresholds: Thresholds) -> Self {
        self.signals.push(Watched::new(signal, thresholds));
        self
    }

    /// Chooses the offload server in your own way.
    pub fn select(mut self, select: impl Select) -> Self {
        self.select = Some(Arc::new(select));
        self
    }

    /// Decides in your own way who is turned away.
    pub fn admit(mut self, admit: impl Admit) -> Self {
        self.admit = Arc::new(admit);
        self
    }

    /// Starts.
    ///
    /// # Errors
    /// As [`Overspill::start`].
    pub fn start(self) -> Result<Overspill, StartError> {
        let Self {
            settings,
            signals,
            select,
            admit,
        } = self;
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        settings.check()?;
        let compiled = settings.compile().map_err(|problems| ConfigError {
            file: None,
            problems,
        })?;
        let compiled = Arc::new(compiled);
        let now = Instant::now();
        let capacity = Capacity {
            link: load::bandwidth_capacity(&settings.load.bandwidth),
            in_flight: settings.load.in_flight.capacity,
        };
        let control = Control::new(
            compiled.clone(),
            settings.load.release,
            capacity,
            select,
            now,
        );
        let snapshot =
            Snapshot::initial(compiled.clone(), control.choose(), now, SystemTime::now());
        let (in_flight, bytes_sent) = (InFlight::new(), BytesSent::new());
        let mut watched = load::signals(&settings.load, &in_flight, &bytes_sent, &runtime);
        watched.extend(signals);
        let shared = Arc::new(Shared::new(control, snapshot, in_flight, bytes_sent, admit));

        shared.scan_ahead()?;

        let probes = Probes::start(compiled.servers(), &settings.offload.token);
        let mut tasks = JoinSet::new();
        let probes = if settings.offload.discovery.is_on() {
            let discovery = Discovery::new(&shared, settings.offload.clone(), probes);
            tasks.spawn(discovery.run());
            None
        } else {
            Some(probes)
        };
        tasks.spawn(warm_up(
            Arc::downgrade(&shared),
            settings.offload.token.clone(),
        ));
        tasks.spawn(look_when_alarmed(Arc::downgrade(&shared)));
        // The thread must not keep alive what it is kept alive by.
        let weak = Arc::downgrade(&shared);
        let step = move |tick: load::Tick<'_>| {
            if let Some(shared) = weak.upgrade() {
                shared.step(tick.readings, tick.now);
            }
        };
        let sampler = Sampler::start(
            watched,
            settings.load.interval,
            settings.load.smoothing,
            step,
        )?;
        shared.own(Tasks {
            _probes: probes,
            _tasks: tasks,
            _sampler: Mutex::new(sampler),
        });
        Ok(Overspill {
            shared,
            started: now,
        })
    }
}

/// Begins an episode as soon as promises ask for one, and not at the next look at the load.
async fn look_when_alarmed(shared: Weak<Shared>) {
    // The task waits on what it must not keep alive; so it is ended with what it waits on.
    let alarms = match shared.upgrade() {
        Some(shared) => shared.alarms(),
        None => return,
    };
    loop {
        alarms.notified().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.look(Instant::now());
    }
}

/// What ends with the last handle.
struct Tasks {
    /// Where servers are found, whoever finds them has them.
    _probes: Option<Probes>,
    _tasks: JoinSet<()>,
    /// A lock only because a sender may not be shared between threads.
    _sampler: Mutex<Sampler>,
}
