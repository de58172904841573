//! What the access log costs a request, on its thread: `cargo bench --bench access`. The cost is the difference of `off` and
//! `on`; lines go to /dev/null, by a thread of their own.

mod support;

use divan::{AllocProfiler, Bencher};
use overspill::{
    Settings,
    access::{AccessLog, AccessSettings, Logged},
};
use std::net::SocketAddr;
use support::{Asked, Site, exchange, overspill};
use tower_layer::Layer;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn run(bencher: Bencher<'_, '_>, asked: Asked, path: &str, sample: f64) {
    let overspill = overspill(Settings::default());
    let settings = AccessSettings {
        path: path.to_owned(),
        sample: overspill::units::Ratio::new(sample).expect("a ratio"),
        ..AccessSettings::default()
    };
    let shared = Some(overspill.shared().clone());
    let log = AccessLog::start(&settings, shared).expect("it can be written to");
    let peer = SocketAddr::from(([203, 0, 113, 9], 52_000));
    let mut service = Logged::new(overspill.layer().layer(Site::default()), log.clone(), peer);
    bencher
        .with_inputs(|| asked.request())
        .bench_local_values(|request| exchange(&mut service, request));
    if let Some(log) = log {
        log.end();
    }
}

/// A request at level `normal`.
#[divan::bench_group(sample_count = 1000, sample_size = 10)]
mod normal {
    use super::*;

    #[divan::bench(args = Asked::ALL)]
    fn off(bencher: Bencher<'_, '_>, asked: Asked) {
        run(bencher, asked, "", 1.0);
    }

    #[divan::bench(args = Asked::ALL)]
    fn on(bencher: Bencher<'_, '_>, asked: Asked) {
        run(bencher, asked, "/dev/null", 1.0);
    }

    /// One line in a hundred.
    #[divan::bench(args = Asked::ALL)]
    fn sampled(bencher: Bencher<'_, '_>, asked: Asked) {
        run(bencher, asked, "/dev/null", 0.01);
    }
}
