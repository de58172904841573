//! At level `normal` the layer allocates nothing, and at none it keeps anything of a visitor.

#[path = "../benches/support/mod.rs"]
mod support;

use std::{net::SocketAddr, time::Duration};

use axum::{body::Body, extract::ConnectInfo};
use http::{Request, header};
use overspill::{Settings, level::Level};
use support::{Asked, Site, exchange, overspill};
use tower_layer::Layer;

#[test]
fn the_layer_allocates_nothing_at_normal() {
    let overspill = overspill(Settings::default());
    let mut bare = Site::default();
    let mut wrapped = overspill.layer().layer(bare.clone());
    for asked in Asked::ALL {
        // What a thread sets up for itself the first time is no cost of a request.
        exchange(&mut wrapped, asked.request());
        let without = asked.request();
        let without = allocation_counter::measure(|| {
            assert!(exchange(&mut bare, without) > 0);
        });
        let with = asked.request();
        let with = allocation_counter::measure(|| {
            assert!(exchange(&mut wrapped, with) > 0);
        });
        assert!(without.count_total > 0, "the counter counts");
        assert_eq!(with.count_total, without.count_total, "{asked:?}");
        assert_eq!(with.bytes_total, without.bytes_total, "{asked:?}");
    }
}

/// From an address of its own, with a cookie of its own.
fn of_visitor(number: u32, asked: Asked) -> Request<Body> {
    let mut request = asked.request();
    // Public addresses, unlike each other.
    let address = SocketAddr::from(((0x0b00_0000 + number).to_be_bytes(), 50_000));
    request.extensions_mut().insert(ConnectInfo(address));
    let cookie = format!("session={number:x}; theme=dark");
    let headers = request.headers_mut();
    headers.insert(header::COOKIE, cookie.try_into().expect("a cookie"));
    request
}

#[test]
fn a_million_visitors_leave_nothing_behind() {
    const VISITORS: u32 = 1_000_000;
    // What a kind of request needs once: plans, pages, what a thread sets up for itself.
    const WARM: u32 = 2_000;
    let settings = r#"
        offload.identity = { cookie = "session" }
        offload.token = "open sesame"
        offload.servers = [{ name = "eu", url = "http://127.0.0.1:9", health = false, capacity = "100Gbit/s", cors = true }]
    "#;
    let overspill = overspill(Settings::from_toml(settings).expect("settings"));
    let levels = [None, Some(Level::Offload), Some(Level::Throttle)];
    let each = VISITORS / levels.len() as u32;
    let mut visitors = 0..;
    for level in levels {
        if let Some(level) = level {
            overspill.override_level(level, Duration::from_secs(3600));
        }
        let mut wrapped = overspill.layer().layer(Site::with_links());
        let mut come = |count: u32| {
            for number in visitors.by_ref().take(count as usize) {
                let asked = Asked::ALL[number as usize % Asked::ALL.len()];
                assert!(exchange(&mut wrapped, of_visitor(number, asked)) > 0);
            }
        };
        come(WARM);
        let left = allocation_counter::measure(|| come(each));
        assert!(left.count_total > u64::from(each), "the counter counts");
        // A byte for each would be 333,000.
        assert!(
            left.bytes_current < 64 << 10,
            "{level:?}: {} bytes",
            left.bytes_current
        );
        assert!(
            left.bytes_max < 4 << 20,
            "{level:?}: {} bytes",
            left.bytes_max
        );
    }
}
