//! The access log: a line for every request, with what was decided about it, why, and which server it was for.
//!
//! ```text
//! request ─► Open (what it asked) ─► answer ─► end of its body ─► draw ─► queue ─► thread ─► file, stderr
//! ```
//!
//! The request path copies what a line needs, draws whether it gets one, and puts it into a queue: it waits for nobody,
//! takes no lock and wakes no thread. Where the queue is full the line is lost, and counted. Lines are made and written by a thread of
//! their own.
//!
//! | file | what |
//! |---|---|
//! | `settings` | `[access_log]` |
//! | `entry`, `line`, `escape` | what a line says, how it reads, and that nobody can make it read otherwise |
//! | `sample` | which requests get one |
//! | `layer` | around the service |
//! | `writer` | the thread, the file, and the file after that |
//! | `otel` | spans of the same, with the feature `otel` |

mod entry;
mod escape;
mod layer;
mod line;
#[cfg_attr(not(feature = "otel"), path = "untraced.rs")]
mod otel;
mod sample;
mod settings;
mod writer;

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode};
use tokio::sync::mpsc::{self, Sender};

use self::{
    entry::Entry,
    line::Lines,
    otel::Exporter,
    sample::{Kind, Sampler},
    settings::Target,
    writer::{Sink, Writer},
};
pub use self::{
    layer::{Logged, LoggedBody, LoggedFuture},
    settings::{AccessSettings, Format},
};
use crate::{
    gate::Witness,
    level::Level,
    offload::{LineCounts, Mode, Outcome, Shared, client_address},
    problem::Problem,
    trace::TraceParent,
};

/// As many lines may wait: those of a tenth of a second, and more.
const LINES: usize = 32 * 1024;
/// And as many bytes of them.
const WAITING: usize = 16 << 20;
/// How long the end waits until all is written: a disk may hang.
const PATIENCE: Duration = Duration::from_secs(5);

fn unwritable(settings: &AccessSettings, error: io::Error) -> Problem {
    Problem::new(
        "access_log.path",
        format_args!(
            "must be a file that can be written to, found {:?}: {error}",
            settings.path
        ),
    )
}

/// An access log. Clones are handles of the same one.
#[derive(Clone)]
pub struct AccessLog(Arc<Inner>);

struct Inner {
    /// Each with the number of changes that came before it.
    queue: Sender<(u64, Box<Entry>)>,
    /// Bytes that wait in the queue.
    waiting: AtomicUsize,
    sampler: Sampler,
    begun: Instant,
    /// Of whose requests it is; an edge has none.
    shared: Option<Arc<Shared>>,
    counts: Arc<LineCounts>,
    writes: AtomicBool,
    /// What the thread is to write otherwise, one after the other.
    changes: Mutex<VecDeque<Change>>,
    /// How many there were of them so far.
    changed: AtomicU64,
    exporter: Option<Exporter>,
    reopens: AtomicBool,
    ends: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Another way to write, prepared by [`AccessLog::prepare`].
#[derive(Debug)]
pub(crate) struct Change {
    sink: Sink,
    format: Format,
    sample: f64,
    rate: u32,
}

/// A line that is not over yet.
#[derive(Debug)]
pub(crate) struct Open {
    log: AccessLog,
    entry: Entry,
    begun: Instant,
    /// Of the answer's body, where it is known.
    length: Option<u64>,
    is_head: bool,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

// === impl AccessLog ===

impl AccessLog {
    /// Opens the file and starts to write; nothing where there is nothing to be written, or exported. `shared`: of the layer
    /// whose requests are logged. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The file can't be opened; no thread; a variable of OpenTelemetry is wrong.
    pub fn start(
        settings: &AccessSettings,
        shared: Option<Arc<Shared>>,
    ) -> Result<Option<Self>, Problem> {
        let exporter = Exporter::start()?;
        if settings.target() == Target::Nowhere && exporter.is_none() {
            return Ok(None);
        }
        Self::with(settings, shared, exporter).map(Some)
    }

    /// The same, but there is one also where there is nothing to be written: a reload may want to.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in_any_case(
        settings: &AccessSettings,
        shared: Option<Arc<Shared>>,
    ) -> Result<Self, Problem> {
        Self::with(settings, shared, Exporter::start()?)
    }

    fn with(
        settings: &AccessSettings,
        shared: Option<Arc<Shared>>,
        exporter: Option<Exporter>,
    ) -> Result<Self, Problem> {
        let sink = Sink::open(settings).map_err(|error| unwritable(settings, error))?;
        let (queue, waiting) = mpsc::channel(LINES);
        let counts = Arc::new(LineCounts::default());
        let inner = Arc::new(Inner {
            queue,
            waiting: AtomicUsize::new(0),
            sampler: Sampler::new(settings.sample.get(), settings.rate),
            begun: Instant::now(),
            shared,
            counts,
            writes: AtomicBool::new(settings.target() != Target::Nowhere),
            changes: Mutex::default(),
            changed: AtomicU64::new(0),
            exporter,
            reopens: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let writer = Writer::new(waiting, inner.clone(), sink, Lines::new(settings.format));
        let thread = std::thread::Builder::new()
            .name("access log".to_owned())
            .spawn(|| writer.run())
            .map_err(|error| unwritable(settings, error))?;
        *inner.thread() = Some(thread);
        inner.keep_records();
        Ok(Self(inner))
    }

    /// Opens the file that other settings name, for [`take`](Self::take). Waits for the disk.
    ///
    /// # Errors
    /// The file can't be opened.
    pub(crate) fn prepare(&self, settings: &AccessSettings) -> Result<Change, Problem> {
        let sink = Sink::open(settings).map_err(|error| unwritable(settings, error))?;
        Ok(Change {
            sink,
            format: settings.format,
            sample: settings.sample.get(),
            rate: settings.rate,
        })
    }

    /// Goes by what was prepared: each line goes where it was to go when its answer was over.
    pub(crate) fn take(&self, change: Change) {
        let inner = &self.0;
        inner.sampler.set(change.sample, change.rate);
        let writes = !matches!(change.sink, Sink::Nowhere);
        {
            let mut changes = inner.changes();
            changes.push_back(change);
            // Whoever reads the number finds the change.
            inner.changed.fetch_add(1, Release);
        }
        inner.writes.store(writes, Relaxed);
        inner.keep_records();
        self.wake();
    }

    /// Itself, for a connection that begins; where it is off it costs none of its requests anything.
    pub(crate) fn for_connection(&self) -> Option<Self> {
        self.0.is_on().then(|| self.clone())
    }

    fn wake(&self) {
        if let Some(thread) = &*self.0.thread() {
            thread.thread().unpark();
        }
    }

    /// Opens the file again, as soon as what came before is written to the old one.
    pub fn reopen(&self) {
        self.0.reopens.store(true, Relaxed);
        self.wake();
    }

    /// Writes what waits, and ends. Blocks for a moment; for seconds where the disk does.
    pub fn end(&self) {
        self.0.ends.store(true, Relaxed);
        let Some(thread) = self.0.thread().take() else {
            return;
        };
        thread.thread().unpark();
        let begun = Instant::now();
        while !thread.is_finished() {
            if begun.elapsed() > PATIENCE {
                tracing::warn!("the access log could not be written to its end");
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(exporter) = &self.0.exporter {
            exporter.end();
        }
    }

    /// How many lines were written, and how many were not.
    #[must_use]
    pub fn counts(&self) -> &LineCounts {
        &self.0.counts
    }

    /// A connection from `peer` is closed unheard.
    pub fn closed(&self, peer: SocketAddr) {
        self.0.closed(peer);
    }

    /// The head of a request from `peer` could not be read, and was answered with `status`.
    pub(crate) fn unreadable(&self, peer: SocketAddr, status: StatusCode) {
        let entry = Entry {
            status: status.as_u16(),
            outcome: self.unrecorded(),
            ..Entry::closed(peer.ip().to_canonical())
        };
        self.0.over(Kind::Usual, entry);
    }

    /// A request came from `peer`; [`None`]: nobody wants to know.
    pub(crate) fn begin<B>(&self, request: &mut Request<B>, peer: SocketAddr) -> Option<Box<Open>> {
        self.is_on().then(|| Box::new(self.open(request, peer)))
    }

    fn open<B>(&self, request: &mut Request<B>, peer: SocketAddr) -> Open {
        let client = match &self.0.shared {
            Some(shared) => {
                client_address(peer.ip(), request.headers(), &shared.snapshot().compiled)
            }
            None => peer.ip().to_canonical(),
        };
        let mut entry = Entry::of(request, Some(client));
        match &self.0.exporter {
            Some(exporter) => {
                let span = exporter.begin(request.headers_mut());
                (entry.trace, entry.span) = (Some(span.trace), Some(span));
            }
            None => {
                let parent = TraceParent::of(request.headers());
                entry.trace = parent.map(|parent| parent.trace);
            }
        }
        Open {
            log: self.clone(),
            entry,
            begun: Instant::now(),
            length: None,
            is_head: request.method() == Method::HEAD,
        }
    }

    /// Whether it wants to know of a request.
    fn is_on(&self) -> bool {
        self.0.is_on()
    }

    fn is_of_edge(&self) -> bool {
        self.0.shared.is_none()
    }

    /// The outcome of what the layer has no record of: it is off, or the request was refused before.
    fn unrecorded(&self) -> Option<&'static str> {
        let shared = self.0.shared.as_ref()?;
        (shared.snapshot().compiled.mode() != Mode::Off).then_some("refused")
    }
}

// === impl Inner ===

impl Inner {
    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changes(&self) -> MutexGuard<'_, VecDeque<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything is written, or exported.
    fn is_on(&self) -> bool {
        self.writes.load(Relaxed) || self.exporter.is_some()
    }

    /// Whoever decides says what was decided, from the first time on that somebody wants to know.
    fn keep_records(&self) {
        if let Some(shared) = self.shared.as_ref().filter(|_| self.is_on()) {
            shared.keep_records(self.counts.clone());
        }
    }

    fn level(&self) -> Option<Level> {
        self.shared.as_ref().map(|shared| shared.snapshot().level)
    }

    /// The entry is complete.
    fn over(&self, kind: Kind, mut entry: Entry) {
        let level = self.level();
        entry.level = entry.level.or(level);
        let is_crowd = level != Some(Level::Normal);
        let writes = self.writes.load(Relaxed);
        let drawn = match writes {
            true => self.sampler.draw(kind, is_crowd, self.begun.elapsed()),
            false => None,
        };
        entry.stands_for = drawn.unwrap_or(0);
        if writes && drawn.is_none() {
            self.counts.sampled_out.fetch_add(1, Relaxed);
        }
        if drawn.is_some() || entry.span.is_some_and(|span| span.is_sampled) {
            self.put(kind, entry);
        }
    }

    fn put(&self, kind: Kind, entry: Entry) {
        let (size, stands_for) = (entry.size(), entry.stands_for);
        let fits = self.waiting.fetch_add(size, Relaxed) + size <= WAITING;
        let changed = self.changed.load(Acquire);
        if fits && self.queue.try_send((changed, Box::new(entry))).is_ok() {
            return;
        }
        self.waiting.fetch_sub(size, Relaxed);
        if stands_for > 0 {
            self.sampler.lost(kind, stands_for);
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Tells of the entry elsewhere.
    fn export(&self, entry: &Entry) {
        if let Some(exporter) = &self.exporter {
            exporter.export(entry);
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl Witness for Inner {
    fn closed(&self, peer: SocketAddr) {
        let entry = Entry {
            outcome: Some(Outcome::Dropped.label()),
            reason: Some("gate"),
            aborted: true,
            ..Entry::closed(peer.ip().to_canonical())
        };
        self.over(Kind::Closed, entry);
    }
}

impl AccessLog {
    /// Sees what the gate closes.
    pub(crate) fn witness(&self) -> Arc<dyn Witness> {
        self.0.clone()
    }
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        let mut entry = std::mem::replace(&mut self.entry, Entry::closed([0, 0, 0, 0].into()));
        entry.took = self.begun.elapsed();
        // A 503 for overload is no failure: it is what the layer is for.
        let is_failure = entry.status >= 500 && entry.outcome != Some(Outcome::Throttled.label());
        let kind = match is_failure {
            true => Kind::Failure,
            false => Kind::Usual,
        };
        self.log.0.over(kind, entry);
    }
}
