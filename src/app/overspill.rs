//! A running Overspill: the sampler, the probes, and what the layer and the gate share with them.

use std::{
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::JoinSet, time::Instant};

use super::{
    discovery::Discovery,
    reload::{Prepare, Reloaded, applicable, differences},
    status::Status,
    warm_up::warm_up,
};
use crate::{
    config::{ConfigError, Settings},
    gate::{self, GateListener},
    journal::Event,
    level::Level,
    load::{self, BytesSent, InFlight, Sampler, Signal, Thresholds, Watched},
    offload::{
        Admit, ByHash, Capacity, Control, Explanation, OffloadLayer, OffloadSettings, Override,
        Shared, Snapshot,
    },
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
    /// Lives as long as the state.
    running: Weak<Running>,
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

    /// What would happen at this moment with a GET for `path` by a client at `address`, and why: the same decision as
    /// for a real request, with nothing done. `identity`: as the configured cookie or header would tell it.
    ///
    /// # Errors
    /// `path` is none.
    pub fn explain(
        &self,
        path: &str,
        address: IpAddr,
        identity: Option<&str>,
    ) -> Result<Explanation, http::Error> {
        self.shared.explain(path, address, identity)
    }

    /// Goes on with these settings: all of them that a running process can take, at once. Level, promises, averages and
    /// what is known of servers go on.
    ///
    /// # Errors
    /// Every problem of the settings: then all stays as it was.
    pub fn reload(&self, new: Settings) -> Result<Reloaded, ConfigError> {
        self.reload_with(new, None)
    }

    /// The same, with what `serves`, where somebody does.
    pub(super) fn reload_with(
        &self,
        new: Settings,
        serves: Option<&Prepare>,
    ) -> Result<Reloaded, ConfigError> {
        let problems = |problems| ConfigError {
            file: None,
            problems,
        };
        new.check()?;
        let Some(running) = self.running.upgrade() else {
            // Only while the last handle is dropped.
            return Ok(Reloaded::default());
        };
        let mut current = lock(&running.settings);
        let settings = applicable(&current, &new, serves.is_some());
        settings.check()?;
        let compiled = settings.compile().map_err(problems)?;
        let prepare = |prepare: &Prepare| prepare(&current, &settings);
        let commit = serves.map(prepare).transpose().map_err(problems)?;
        let reloaded = Reloaded {
            changed: differences(&current, &settings),
            restart_needed: differences(&settings, &new),
        };
        // Probes and the queue delay begin on the runtime that the others are on.
        let _inside = running.runtime.enter();
        let mut measured = settings.load.clone();
        measured.release = current.load.release;
        if measured != current.load {
            let (in_flight, sent) = (&self.shared.in_flight, &self.shared.bytes_sent);
            let mut signals = load::signals(&settings.load, in_flight, sent, &running.runtime);
            let meter = &self.shared.upstream;
            signals.push(load::upstream_signal(&settings.load.upstream, meter));
            lock(&running.sampler).replace(signals);
        }
        // First: whoever finds servers must not put those of the old configuration back.
        if let Some(discovery) = &running.discovery {
            discovery.send_replace(settings.offload.clone());
        }
        let thresholds = load::thresholds(&settings.load);
        let servers = self.shared.reload(
            &settings.offload,
            compiled,
            settings.load.release,
            capacity(&settings),
            &thresholds,
            Instant::now(),
        );
        // Once more: only now are its servers in place, to be asked how they are.
        if let Some(discovery) = &running.discovery {
            discovery.send_replace(settings.offload.clone());
        }
        if let Some(probes) = &mut *lock(&running.probes) {
            probes.follow(&servers);
        }
        if let Some(commit) = commit {
            commit();
        }
        *current = settings;
        let event = Event::Reload {
            changed: reloaded.changed.clone(),
            restart_needed: reloaded.restart_needed.clone(),
            error: None,
        };
        self.shared.journal.record(event, SystemTime::now());
        Ok(reloaded)
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
        let control = Control::new(
            compiled.clone(),
            settings.load.release,
            capacity(&settings),
            select,
            now,
        );
        let snapshot =
            Snapshot::initial(compiled.clone(), control.choose(), now, SystemTime::now());
        let (in_flight, bytes_sent) = (InFlight::new(), BytesSent::new());
        let mut watched = load::signals(&settings.load, &in_flight, &bytes_sent, &runtime);
        let shared = Arc::new(Shared::new(control, snapshot, in_flight, bytes_sent, admit));
        let upstream = load::upstream_signal(&settings.load.upstream, &shared.upstream);
        watched.push(upstream);
        watched.extend(signals);

        shared.scan_ahead()?;

        let probes = Probes::start(compiled.servers(), &settings.offload.token);
        let event = Event::Start {
            version: env!("CARGO_PKG_VERSION"),
            mode: settings.mode.as_str(),
            servers: settings.offload.servers.len(),
        };
        shared.journal.record(event, SystemTime::now());
        let mut tasks = JoinSet::new();
        let (probes, discovery) = if settings.offload.discovery.is_on() {
            let (offload, news) = watch::channel(settings.offload.clone());
            let discovery = Discovery::new(&shared, settings.offload.clone(), probes);
            tasks.spawn(discovery.run(news));
            (None, Some(offload))
        } else {
            (Some(probes), None)
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
        let running = Arc::new(Running {
            settings: Mutex::new(settings),
            runtime,
            probes: Mutex::new(probes),
            discovery,
            sampler: Mutex::new(sampler),
            _tasks: tasks,
        });
        let weak = Arc::downgrade(&running);
        shared.own(running);
        Ok(Overspill {
            shared,
            running: weak,
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

/// What ends with the last handle. Its locks are taken by a reload and nothing else.
struct Running {
    /// As they are in effect.
    settings: Mutex<Settings>,
    runtime: Handle,
    /// Where servers are found, whoever finds them has them.
    probes: Mutex<Option<Probes>>,
    discovery: Option<watch::Sender<OffloadSettings>>,
    sampler: Mutex<Sampler>,
    _tasks: JoinSet<()>,
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every write leaves the value whole.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn capacity(settings: &Settings) -> Capacity {
    Capacity {
        link: load::bandwidth_capacity(&settings.load.bandwidth),
        in_flight: settings.load.in_flight.capacity,
    }
}
