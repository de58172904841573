//! What the layer costs: a request at level `normal`, a decision at level `offload`, a choice of a server.
//!
//! `cargo bench --bench layer`. The cost of the layer is the difference of `wrapped` and `bare`; requests are
//! made beforehand, answers are read to the end.

mod support;

use std::{
    hint::black_box,
    time::{Duration, SystemTime},
};

use divan::{AllocProfiler, Bencher};
use overspill::{
    Settings,
    level::Level,
    offload::{ByHash, Kind, Snapshot, Turning, decide},
    servers::{Candidate, Client, Policy, Select, ServerSettings, hash},
    units::{Price, Ratio},
};
use support::{Asked, Site, exchange, overspill};
use tokio::time::Instant;
use tower_layer::Layer;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// A request at level `normal`.
#[divan::bench_group(sample_count = 1000, sample_size = 100)]
mod normal {
    use super::*;

    #[divan::bench(args = Asked::ALL)]
    fn bare(bencher: Bencher<'_, '_>, asked: Asked) {
        let mut service = Site::default();
        bencher
            .with_inputs(|| asked.request())
            .bench_local_values(|request| exchange(&mut service, request));
    }

    #[divan::bench(args = Asked::ALL)]
    fn wrapped(bencher: Bencher<'_, '_>, asked: Asked) {
        let overspill = overspill(Settings::default());
        let mut service = overspill.layer().layer(Site::default());
        bencher
            .with_inputs(|| asked.request())
            .bench_local_values(|request| exchange(&mut service, request));
        assert_eq!(overspill.shared().snapshot().level, Level::Normal);
    }
}

const SERVERS: [usize; 3] = [10, 100, 1000];

fn settings(servers: usize) -> Settings {
    let mut settings = Settings::default();
    settings.offload.servers = (0..servers)
        .map(|number| ServerSettings {
            name: format!("server-{number}"),
            url: format!("http://192.0.2.1:{}", 10_000 + number),
            capacity: "1Gbit/s".parse().ok(),
            ..ServerSettings::default()
        })
        .collect();
    settings
}

fn policy() -> Policy {
    Policy::new(&Settings::default().offload.select, &[], &[]).expect("no rule, no problem")
}

fn candidates(servers: usize) -> Vec<Candidate> {
    (0..servers)
        .map(|number| Candidate {
            name: format!("server-{number}"),
            usable: true,
            rank: 0,
            price: Price::default(),
            room: 1.0 + (number % 7) as f64,
            most: 8.0,
        })
        .collect()
}

fn clients() -> impl FnMut() -> Client<'static> {
    let mut number = 0;
    move || {
        number += 1;
        Client {
            hash: hash::mix(number),
            address: Some([203, 0, 113, 9].into()),
            identity: None,
        }
    }
}

/// What happens with a navigation at level `offload`, all visitors being offloaded.
#[divan::bench(args = SERVERS, sample_count = 1000)]
fn decide_at_offload(bencher: Bencher<'_, '_>, servers: usize) {
    let compiled = settings(servers).compile().expect("valid settings");
    let choose = policy().prepare(&candidates(servers)).into();
    let now = Instant::now();
    let mut snapshot = Snapshot::initial(compiled.into(), choose, now, SystemTime::now());
    snapshot.level = Level::Offload;
    snapshot.share = Ratio::ONE;
    snapshot.hold_left = Duration::from_secs(30);
    let kind = Kind {
        begins: true,
        may_be_page: true,
        wants_page: true,
        redirect: false,
    };
    let servers = snapshot.compiled.servers().clone();
    let states = snapshot.servers.clone();
    bencher.with_inputs(clients()).bench_local_refs(|client| {
        let has_room = |server: usize| servers[server].has_room(&states[server], 500_000, now);
        decide(
            kind,
            client,
            black_box(&snapshot),
            Turning::now(&snapshot, None, 0, 0),
            &ByHash,
            || false,
            &has_room,
        )
    });
}

/// Which server takes a visitor: as on the request path.
#[divan::bench(args = SERVERS, sample_count = 1000)]
fn choose(bencher: Bencher<'_, '_>, servers: usize) {
    let choose = policy().prepare(&candidates(servers));
    bencher
        .with_inputs(clients())
        .bench_local_refs(|client| choose.choose(client, &|_| true));
}

/// The same when everybody is full.
#[divan::bench(args = SERVERS, sample_count = 1000)]
fn choose_in_vain(bencher: Bencher<'_, '_>, servers: usize) {
    let choose = policy().prepare(&candidates(servers));
    bencher
        .with_inputs(clients())
        .bench_local_refs(|client| choose.choose(client, &|server| black_box(server) > 1000));
}

/// The table that choices are made from: by the control loop, whenever a server's state changes.
#[divan::bench(args = SERVERS, max_time = 1)]
fn prepare(bencher: Bencher<'_, '_>, servers: usize) {
    let policy = policy();
    let mut candidates = candidates(servers);
    bencher.bench_local(|| {
        // One has filled up a little.
        candidates[0].room = 9.0 - candidates[0].room;
        policy.prepare(black_box(&candidates))
    });
}

/// The same when only one server in a hundred is usable, and nearly full.
#[divan::bench(args = SERVERS, max_time = 1)]
fn prepare_when_few_are_left(bencher: Bencher<'_, '_>, servers: usize) {
    let policy = policy();
    let mut candidates = candidates(servers);
    for (number, candidate) in candidates.iter_mut().enumerate() {
        candidate.usable = number % 100 < 1;
        candidate.room = 0.25;
    }
    bencher.bench_local(|| policy.prepare(black_box(&candidates)));
}

/// The same when all are nearly full.
#[divan::bench(args = SERVERS, max_time = 1)]
fn prepare_when_all_are_full(bencher: Bencher<'_, '_>, servers: usize) {
    let policy = policy();
    let mut candidates = candidates(servers);
    for candidate in &mut candidates {
        candidate.room = 0.25;
    }
    bencher.bench_local(|| policy.prepare(black_box(&candidates)));
}

/// The first table of a list of servers.
#[divan::bench(args = SERVERS, max_time = 1)]
fn prepare_first(bencher: Bencher<'_, '_>, servers: usize) {
    let candidates = candidates(servers);
    bencher
        .with_inputs(policy)
        .bench_local_refs(|policy| policy.prepare(black_box(&candidates)));
}
