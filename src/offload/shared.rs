//! What the layer, the gate, the control loop and the status share.

use std::{
    any::Any,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, time::Instant};

use super::{
    admitted::Admitted,
    ahead::{self, Ahead},
    alarm::Alarm,
    arrivals::{Arrivals, ClassCounts},
    client,
    compiled::Compiled,
    connections::Connections,
    control::{Capacity, Control, Input, Override},
    counters::{Counters, LineCounts},
    decide::{Admit, Decision, Turning, decide},
    hot::{Hot, HotObject},
    pages::Pages,
    promises::{Link, Promises},
    request::Kind,
    settings::{Mode, OffloadSettings},
    snapshot::Snapshot,
    weights::Weights,
};
use crate::{
    journal::{Event, Journal},
    level::Level,
    load::{BytesSent, InFlight, Reading, Thresholds, UpstreamMeter},
    rewrite::{Plan, Private},
    seldom::Seldom,
    servers::{
        Client, Servers,
        discovery::{Found, SourceStatus},
        on_the_wire,
    },
    units::Ratio,
};

/// The first names, for the log.
fn names(servers: &Servers) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = servers
        .iter()
        .take(SHOWN)
        .map(|server| server.name())
        .collect();
    let more = if servers.len() > SHOWN { ", …" } else { "" };
    shown.join(", ") + more
}

/// One Overspill's state.
pub struct Shared {
    /// Written by the control loop, read by everyone.
    snapshot: ArcSwap<Snapshot>,
    /// The addresses that nothing is refused beside the configured ones: the offload servers'. Written by
    /// the control loop, read by the gate.
    server_addresses: ArcSwap<Vec<IpAddr>>,
    /// Requests in flight. Written by the request path.
    pub in_flight: InFlight,
    /// Rings when so many are that a crowd must have come.
    in_flight_alarm: Alarm,
    /// Bytes of our responses. Written by the request path.
    pub bytes_sent: BytesSent,
    /// The server behind, where there is one. Written by the requests that are passed on.
    pub upstream: UpstreamMeter,
    /// What the primary is promised to send. Written by the request path.
    promises: Promises,
    /// What it sends while nothing that is decided happens. Written by the request path.
    unchanged: AtomicU64,
    /// New visitors that the primary serves although it is overloaded. Written by the request path.
    let_in: AtomicU64,
    /// Rung by what asks for an episode: a promise, or a request.
    alarm: Arc<Notify>,
    /// Addresses that a page went to just now. Written by the request path, read by the gate.
    pub(super) admitted: Admitted,
    /// What happened. Written by the request path.
    pub counters: Counters,
    /// How many come of each class. Written by the request path.
    pub(super) arrivals: Arrivals,
    /// Sizes of pages and objects. Written by the request path.
    pub weights: Weights,
    /// Pages that were seen before. Written by the request path and the background scan.
    pub(super) pages: Pages,
    /// Pages that are scanned before they are needed. Written by the request path.
    pub(super) ahead: Ahead,
    /// Objects that are not for everyone. Written by the request path.
    pub(super) private: Arc<Private>,
    /// Which objects are asked for most. Written by the request path.
    pub(super) hot: Hot,
    /// What the sources of servers gave. Written by who follows them.
    discovery: ArcSwap<Vec<SourceStatus>>,
    /// Rung by the control loop when an episode begins.
    episodes: Arc<Notify>,
    /// Open connections. Written by the gate.
    pub connections: Arc<Connections>,
    pub(super) admit: Arc<dyn Admit>,
    /// What is said seldom of pulls whose token is wrong, and of reports that are not believed or name nobody.
    pub(super) wrong_token: Seldom,
    pub(super) wrong_report: Seldom,
    pub(super) unknown_server: Seldom,
    /// The tasks that work on this state: they end with it.
    tasks: Mutex<Option<Box<dyn Any + Send + Sync>>>,
    /// What was decided. Written by the control loop and an operator's hand.
    pub journal: Journal,
    /// Where records of requests are kept: their counts. Written once, by whoever keeps them.
    records: OnceLock<Arc<LineCounts>>,
    /// Taken by the control loop, and by an operator's hand; never on the request path.
    control: Mutex<(Control, Vec<Reading>)>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Before the first step.
    #[must_use]
    pub fn new(
        control: Control,
        snapshot: Snapshot,
        in_flight: InFlight,
        bytes_sent: BytesSent,
        admit: Arc<dyn Admit>,
    ) -> Self {
        Self {
            promises: Promises::default(),
            unchanged: AtomicU64::new(0),
            let_in: AtomicU64::new(0),
            alarm: Arc::default(),
            admitted: Admitted::default(),
            arrivals: Arrivals::new(snapshot.compiled.classes.clone(), snapshot.at),
            snapshot: ArcSwap::from_pointee(snapshot),
            server_addresses: ArcSwap::default(),
            in_flight,
            in_flight_alarm: Alarm::default(),
            bytes_sent,
            upstream: UpstreamMeter::new(),
            counters: Counters::default(),
            weights: Weights::default(),
            pages: Pages::default(),
            ahead: Ahead::default(),
            private: Arc::default(),
            hot: Hot::default(),
            discovery: ArcSwap::default(),
            episodes: Arc::default(),
            connections: Arc::default(),
            admit,
            wrong_token: Seldom::default(),
            wrong_report: Seldom::default(),
            unknown_server: Seldom::default(),
            tasks: Mutex::new(None),
            journal: Journal::default(),
            records: OnceLock::new(),
            control: Mutex::new((control, Vec::new())),
        }
    }

    /// Keeps `tasks` until this state is dropped.
    pub fn own(&self, tasks: impl Any + Send + Sync) {
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tasks));
    }

    /// From now on the response to each request has a [`Record`](super::Record) in its extensions. `counts` says what
    /// becomes of them.
    pub fn keep_records(&self, counts: Arc<LineCounts>) {
        // Whoever was first stays.
        let _ = self.records.set(counts);
    }

    /// Whether responses have records.
    pub(super) fn keeps_records(&self) -> bool {
        self.records.get().is_some()
    }

    /// What has become of the records, where they are kept.
    #[must_use]
    pub fn record_counts(&self) -> Option<&LineCounts> {
        self.records.get().map(|counts| &**counts)
    }

    /// Starts to scan pages before they are needed.
    ///
    /// # Errors
    /// Where the operating system gives no thread.
    pub fn scan_ahead(self: &Arc<Self>) -> io::Result<()> {
        ahead::start(self)
    }

    /// How many pages were scanned before they were needed.
    #[must_use]
    pub fn scanned_ahead(&self) -> u64 {
        self.ahead.scanned()
    }

    /// A page was scanned.
    pub(super) fn learn(&self, path: u64, plan: &Plan) {
        self.weights
            .learn_page(path, plan.objects().iter().copied());
        if let Some(reason) = plan.bail_out() {
            self.counters.bail_out(reason);
        }
    }

    /// A request begins.
    pub(super) fn enter(&self) {
        if self.in_flight_alarm.rings_at(self.in_flight.begin()) {
            self.alarm.notify_one();
        }
    }

    /// A new visitor is let in, to be served by the primary alone.
    pub(super) fn serves_alone(&self) {
        self.let_in.fetch_add(1, Ordering::Relaxed);
    }

    /// So many are in flight beside the one that is decided about.
    pub(super) fn others_in_flight(&self) -> u64 {
        self.in_flight.count().saturating_sub(1)
    }

    /// Promises that the primary sends `bytes` of bodies.
    pub(super) fn promise(&self, bytes: u64) {
        if self.promises.add(on_the_wire(bytes)) {
            self.alarm.notify_one();
        }
    }

    /// The primary sends `bytes` of bodies although it would not, were what is decided to happen.
    pub(super) fn sends_unchanged(&self, bytes: u64) {
        self.unchanged
            .fetch_add(on_the_wire(bytes), Ordering::Relaxed);
    }

    /// What the primary's link is promised at `now`, where that is known.
    pub(super) fn link(&self, snapshot: &Snapshot, now: Instant) -> Option<Link> {
        let link = snapshot.link?;
        Some(link.after(self.promises.pending(), now))
    }

    /// Rings when promises or requests ask for an episode; then it is time for a [`look`](Self::look).
    pub(crate) fn alarms(&self) -> Arc<Notify> {
        Arc::clone(&self.alarm)
    }

    /// Takes a step with the last readings: what was promised since counts.
    pub(crate) fn look(&self, now: Instant) {
        self.take_step(now, |_| ());
    }

    /// The snapshot as of now.
    #[must_use]
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Rings when an episode begins.
    #[must_use]
    pub fn episodes(&self) -> Arc<Notify> {
        Arc::clone(&self.episodes)
    }

    /// At most so many of the objects that were asked for most, and at `least` so many times, with their queries: those
    /// that are for everyone.
    #[must_use]
    pub(crate) fn hottest(&self, most: usize, least: u64) -> Vec<HotObject> {
        let is_for_all = |path| !self.private.contains(path);
        let paths = self.hot.top(most, least, is_for_all).into_iter();
        paths
            .map(|(hash, path)| HotObject {
                bytes: self.weights.object(hash).unwrap_or(0),
                path,
            })
            .collect()
    }

    /// What was asked for until now counts half.
    pub(crate) fn forget_heat(&self) {
        self.hot.forget();
    }

    /// Goes on with these servers, in effect when this returns; gives them, where they are others than before.
    pub(crate) fn replace_servers(
        &self,
        offload: &OffloadSettings,
        found: &[Found],
        now: Instant,
    ) -> Option<Servers> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = control.0.compiled().with_servers(offload, found, now)?;
        let servers = compiled.servers.clone();
        control.0.replace(Arc::new(compiled));
        let mut events = vec![Event::Servers {
            count: servers.len(),
            names: names(&servers),
        }];
        events.extend(self.publish(&mut control, now));
        drop(control);
        self.record(events);
        Some(servers)
    }

    /// Goes on with another configuration, in effect when this returns; gives its servers.
    pub(crate) fn reload(
        &self,
        offload: &OffloadSettings,
        compiled: Compiled,
        release: Ratio,
        capacity: Capacity,
        thresholds: &[(&str, Thresholds)],
        now: Instant,
    ) -> Servers {
        self.take_step(now, |(control, readings)| {
            for reading in readings.iter_mut().filter(|reading| reading.off.is_none()) {
                let of = thresholds.iter().find(|(name, _)| *name == &*reading.name);
                reading.thresholds = of.map_or(reading.thresholds, |(_, thresholds)| *thresholds);
            }
            let compiled = compiled.after(control.compiled(), offload, now);
            let servers = compiled.servers.clone();
            control.reload(Arc::new(compiled), release, capacity);
            servers
        })
    }

    /// What has become of each class, lowest first; nothing where no classes are configured.
    pub(crate) fn classes(&self) -> Vec<ClassCounts> {
        self.arrivals.classes()
    }

    /// Takes note of what the sources of servers gave.
    pub(crate) fn discovered(&self, status: Vec<SourceStatus>) {
        self.discovery.store(Arc::new(status));
    }

    /// What they gave.
    pub(crate) fn discovery(&self) -> Vec<SourceStatus> {
        self.discovery.load().to_vec()
    }

    /// Takes a step with fresh `readings`.
    pub fn step(&self, readings: &[Reading], now: Instant) {
        self.take_step(now, |(_, last)| *last = readings.to_vec());
    }

    /// Holds a level by hand, or lets it go; in effect when this returns.
    pub fn hold(&self, overridden: Option<Override>, now: Instant) {
        self.take_step(now, |(control, _)| control.hold(overridden, now));
    }

    /// Takes a step after `change`; what was decided is written down.
    fn take_step<T>(
        &self,
        now: Instant,
        change: impl FnOnce(&mut (Control, Vec<Reading>)) -> T,
    ) -> T {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut control);
        let events = self.publish(&mut control, now);
        drop(control);
        self.record(events);
        changed
    }

    /// Not with the lock held: who reads the log may let one wait.
    fn record(&self, events: Vec<Event>) {
        for event in events {
            self.journal.record(event, SystemTime::now());
        }
    }

    /// Takes a step, in effect when this returns; gives what is worth a line.
    fn publish(
        &self,
        (control, readings): &mut (Control, Vec<Reading>),
        now: Instant,
    ) -> Vec<Event> {
        let mut snapshot = control.step(Input {
            readings,
            promised: self.promises.take(),
            unchanged: self.unchanged.swap(0, Ordering::Relaxed),
            passed: self.weights.passed(),
            in_flight: self.in_flight.count(),
            let_in: self.let_in.swap(0, Ordering::Relaxed),
            now,
            wall: SystemTime::now(),
        });
        let alarm = snapshot.link.filter(|_| snapshot.level == Level::Normal);
        self.promises
            .set_alarm(alarm.and_then(|link| link.until_offload()));
        let limit = snapshot
            .in_flight
            .filter(|_| snapshot.level < Level::Throttle);
        self.in_flight_alarm
            .set(limit.and_then(|limit| limit.alarm()));
        if let Some(fetched) = control.fetched() {
            self.weights.set_fetched(fetched);
        }
        snapshot.classes = self.arrivals.step(now);
        let addresses = snapshot
            .compiled
            .servers
            .iter()
            .flat_map(|server| server.addresses())
            .map(|address| address.to_canonical())
            .collect();
        self.server_addresses.store(Arc::new(addresses));
        let acts = |snapshot: &Snapshot| {
            snapshot.level > Level::Normal && snapshot.compiled.mode == Mode::Enforce
        };
        if acts(&snapshot) && !acts(&self.snapshot.load()) {
            self.episodes.notify_one();
        }
        self.snapshot.store(Arc::new(snapshot));
        control.events()
    }

    /// Whether the gate closes connections from `address`, unless that is exempt.
    pub(crate) fn closes(&self, snapshot: &Snapshot, address: IpAddr) -> bool {
        // What a connection is taken to come for: a page, of which more are let in than of anything else.
        const PAGE: Kind = Kind {
            begins: true,
            may_be_page: true,
            wants_page: true,
            redirect: false,
        };
        snapshot.dropped_at_gate() > Ratio::ZERO
            && snapshot.compiled.mode == Mode::Enforce
            && self.decide_by_address(PAGE, address, snapshot) == Decision::Drop
    }

    /// What would happen with a request of `kind` from who is known by his address alone. Where a page went there just
    /// now, its objects are to be let in.
    pub(crate) fn decide_by_address(
        &self,
        kind: Kind,
        address: IpAddr,
        snapshot: &Snapshot,
    ) -> Decision {
        let address = Some(address.to_canonical());
        let client = Client {
            hash: client::key(address, None),
            address,
            identity: None,
        };
        let now = Instant::now();
        let has_room = |server: usize| {
            let servers = &snapshot.compiled.servers;
            let server = servers.get(server).zip(snapshot.servers.get(server));
            server.is_some_and(|(server, state)| server.has_room(state, 0, now))
        };
        let class = snapshot.compiled.classes.highest_without_proxy();
        // A connection is no request yet.
        let in_flight = self.in_flight.count();
        let turning = Turning::now(snapshot, self.link(snapshot, now), in_flight, class);
        decide(
            kind,
            &client,
            snapshot,
            turning,
            &*self.admit,
            || self.admitted.holds(client.hash, snapshot.unix_seconds()),
            &has_room,
        )
        .decision
    }

    /// Whether the gate lets connections from `address` pass whatever the level: a trusted proxy's, an
    /// exempt one's, an offload server's.
    pub(crate) fn gate_exempts(&self, snapshot: &Snapshot, address: IpAddr) -> bool {
        snapshot.compiled.exempts(address)
            || self
                .server_addresses
                .load()
                .contains(&address.to_canonical())
    }
}
