//! What the method promises, over real sockets, with real processes.
//!
//! A test's name begins with its promise's number. c1 and c32 are the two variants: in the first an offload
//! episode lasts as long as the load does (`hold = "0s"`), in the second at least a predetermined time. c2 to
//! c10 are promised for both, and for the second they are c33 to c40.
//!
//! The load is real: bytes sent, processors kept busy, requests in flight. What the tests fake is what stands
//! outside the primary: an upstream that answers late on demand, offload servers that say they are full.

#[allow(dead_code, reason = "the other tests use the rest")]
mod support;

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{Router, response::Html, routing::get as route};
use support::{
    client::{get, visitor},
    config::Config,
    folder,
    offload_server::OffloadServer,
    program::Program,
    raw::Answer,
    upstream::{HOLD, Held, Upstream},
    wait::{until, until_within},
};
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard};

/// The first variant: an episode ends with its load.
const NO_HOLD: &str = "0s";
/// The second: it lasts at least this long.
const HOLD_TIME: &str = "2s";

/// Shared by all tests but those that need the processors for themselves.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// A page whose embedded objects' links begin with `prefix`. The link to another page never moves.
fn page(prefix: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=en>\n<title>A page</title>\n\
         <link rel=\"stylesheet\" href=\"{prefix}/style.css\"><script src='{prefix}/app.js?v=1'></script>\n\
         <h1>Home</h1>\n<img src={prefix}/a.png srcset=\"{prefix}/a.png 1x, {prefix}/b.png 2x\" alt=\"A\">\n\
         <video poster=\"{prefix}/poster.jpg\" src=\"{prefix}/film.mp4\"></video>\n\
         <p><a href=\"/next.html\">next</a>\n"
    )
}

/// What the page embeds: path, query and content.
const OBJECTS: [(&str, &str, &[u8]); 6] = [
    ("/style.css", "", b"h1{color:red}"),
    ("/app.js", "?v=1", b"1"),
    ("/a.png", "", b"\x89PNG\r\n\x1a\na"),
    ("/b.png", "", b"\x89PNG\r\n\x1a\nb"),
    ("/poster.jpg", "", b"\xff\xd8poster"),
    ("/film.mp4", "", b"\0\0\0\x18ftypmp42"),
];

fn objects() -> TempDir {
    folder(OBJECTS.map(|(path, _, content)| (path, content)))
}

/// A primary in front of a server that answers when it is told to, and two offload servers.
struct Network {
    primary: Program,
    upstream: Upstream,
    held: Held,
    eu: OffloadServer,
    us: OffloadServer,
    _objects: TempDir,
    _shared: RwLockReadGuard<'static, ()>,
}

/// A hundred requests in flight are load 1; thresholds at 20, 40 and 60. Everyone can be offloaded.
const LEVELS: &str = r#"
    load.in_flight.capacity = 100
    load.in_flight.offload = 0.2
    load.in_flight.throttle = 0.4
    load.in_flight.drop = 0.6
    offload.share = 1.0
"#;
/// Requests in flight below the first threshold, and half-way from each threshold to the next.
const BELOW: usize = 10;
const OVER_FIRST: usize = 30;
const OVER_SECOND: usize = 50;
const OVER_THIRD: usize = 70;

impl Network {
    async fn new(hold: &str, lines: &str) -> Self {
        Self::with_entries(hold, lines, "", "").await
    }

    /// With more keys in the offload servers' entries.
    async fn with_entries(hold: &str, lines: &str, eu_keys: &str, us_keys: &str) -> Self {
        let shared = MACHINE.read().await;
        let objects = objects();
        let eu = OffloadServer::start(objects.path(), 0.1).await;
        let us = OffloadServer::start(objects.path(), 0.1).await;
        let upstream = Upstream::start(
            Router::new()
                .route("/", route(async || Html(page(""))))
                .route("/downloads/film.mp4", route(async || "film of the primary")),
        )
        .await;
        let config = Config::new(LEVELS)
            .with(format!(
                r#"
                primary.upstream = "http://{}"
                throttle.bypass.paths = ["{HOLD}"]
                offload.hold = "{hold}"
                offload.servers = [{}, {}]
                "#,
                upstream.address,
                eu.entry("eu", eu_keys),
                us.entry("us", us_keys),
            ))
            .with(lines);
        let primary = Program::serve(&config).await;
        primary.until_usable("eu", true).await;
        primary.until_usable("us", true).await;
        Self {
            primary,
            upstream,
            held: Held::none(),
            eu,
            us,
            _objects: objects,
            _shared: shared,
        }
    }

    /// Puts so many requests in flight, and waits until the load shows it.
    async fn load(&mut self, count: usize) {
        let more = count - self.held.count();
        self.upstream
            .hold(&self.primary, &mut self.held, more)
            .await;
        let expected = count as f64 / 100.0;
        until(format_args!("load {expected}"), async || {
            let load = self.primary.signal("in_flight").await["load"].as_f64()?;
            ((load - expected).abs() < 0.005).then_some(())
        })
        .await;
    }

    /// The load goes, and with it, when the hold is over, everything that was done about it.
    async fn unload(&mut self) {
        self.upstream.release(&mut self.held).await;
        self.primary.until_level("normal").await;
        assert_eq!(self.page(1).await, page(""));
    }

    async fn ask(&self, number: usize) -> Option<Answer> {
        get("/")
            .header("Accept", "text/html")
            .from(visitor(number))
            .try_ask(self.primary.site)
            .await
    }

    /// The page as the visitor of this number sees it.
    async fn page(&self, number: usize) -> String {
        let answer = self.ask(number).await.expect("the page is served");
        assert_eq!(answer.status, 200);
        answer.text().to_owned()
    }

    /// Who serves the objects of the page that this visitor sees. Panics where anything else of it changed.
    async fn server(&self, number: usize) -> &'static str {
        let seen = self.page(number).await;
        [
            ("primary", String::new()),
            ("eu", self.eu.url()),
            ("us", self.us.url()),
        ]
        .into_iter()
        .find_map(|(name, prefix)| (seen == page(&prefix)).then_some(name))
        .unwrap_or_else(|| panic!("this is no page of ours:\n{seen}"))
    }

    /// Of so many visitors those whose objects each server serves: the primary, eu, us.
    async fn servers(&self, visitors: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        for number in 0..visitors {
            let name = self.server(number).await;
            counts[["primary", "eu", "us"]
                .iter()
                .position(|known| *known == name)
                .unwrap()] += 1;
        }
        counts
    }

    /// What becomes of so many visitors: served, told that the server is overloaded, without an answer.
    async fn fates(&self, visitors: usize) -> Fates {
        let mut fates = Fates::default();
        for number in 0..visitors {
            match self.ask(number).await {
                Some(answer) if answer.status == 200 => fates.served += 1,
                Some(answer) => {
                    assert_says_overloaded(&answer);
                    fates.told += 1;
                }
                None => fates.dropped += 1,
            }
        }
        fates
    }
}

#[derive(Debug, Default)]
struct Fates {
    served: usize,
    told: usize,
    dropped: usize,
}

fn assert_says_overloaded(answer: &Answer) {
    assert_eq!(answer.status, 503);
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((10..=15).contains(&seconds), "{seconds}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(answer.text().contains("overloaded"), "{}", answer.text());
}

#[tokio::test]
async fn c1a_the_load_on_the_primary_is_determined() {
    let mut network = Network::new(NO_HOLD, "").await;
    for count in [5, 25, 45] {
        // Waits until the load is that.
        network.load(count).await;
        let signal = network.primary.signal("in_flight").await;
        assert_eq!(signal["raw"].as_f64(), Some(count as f64 / 100.0));
    }
    network.unload().await;
}

#[tokio::test]
async fn c1b_below_the_first_threshold_requests_are_served_at_the_primary() {
    let mut network = Network::new(NO_HOLD, "").await;
    network.load(BELOW).await;
    assert_eq!(network.primary.status().await["level"], "normal");
    assert_eq!(network.servers(40).await, [40, 0, 0]);
    assert_eq!(network.primary.status().await["requests"]["offloaded"], 0);
    assert_eq!(network.eu.visits().len() + network.us.visits().len(), 0);
}

#[tokio::test]
async fn c1c_only_above_it_a_portion_goes_to_any_one_server_and_the_remainder_to_the_primary() {
    let mut network = Network::new(NO_HOLD, "offload.share = 0.5").await;
    assert_eq!(network.servers(20).await, [20, 0, 0]);
    network.load(OVER_FIRST).await;
    network.primary.until_level("offload").await;
    let counts = network.servers(60).await;
    assert!(
        counts.iter().all(|count| *count > 0),
        "primary, eu, us: {counts:?}"
    );
    let offloaded = counts[1] + counts[2];
    assert!((15..=45).contains(&offloaded), "about half: {counts:?}");
    for number in 0..20 {
        assert_eq!(
            network.server(number).await,
            network.server(number).await,
            "a visitor stays where it was"
        );
    }
    network.unload().await;
}

#[tokio::test]
async fn c1d_an_offload_server_is_able_to_process_what_it_gets_and_does_nothing_else() {
    let _shared = MACHINE.read().await;
    let objects = objects();
    let root = objects.path();
    // One is a process of this very program, the other notes who came.
    let edge = Program::serve(&Config::new(format!("primary.site = {root:?}"))).await;
    let noting = OffloadServer::start(root, 0.1).await;
    let site = folder([("index.html", page("").as_bytes())]);
    for (path, _, content) in OBJECTS {
        support::write(site.path(), path, content);
    }
    let edge_url = format!("http://{}", edge.site);
    let config = Config::new(LEVELS).with(format!(
        r#"
        primary.site = {:?}
        offload.hold = "0s"
        offload.servers = [{{ name = "edge", url = "{edge_url}", cors = true, health = false }}, {}]
        "#,
        site.path(),
        noting.entry("noting", ""),
    ));
    let primary = Program::serve(&config).await;
    primary.until_usable("edge", true).await;
    primary.until_usable("noting", true).await;
    primary.hold_level("offload").await;

    let mut seen = [0, 0];
    for number in 0..20 {
        let answer = get("/").from(visitor(number)).ask(primary.site).await;
        let links = links(answer.text());
        assert_eq!(links.len(), OBJECTS.len() + 1, "a.png stands there twice");
        let to_edge = links.iter().all(|link| link.starts_with(&edge_url));
        let to_noting = links.iter().all(|link| link.starts_with(&noting.url()));
        assert!(to_edge || to_noting, "all to one server: {links:?}");
        seen[usize::from(to_noting)] += 1;
        for link in links {
            let (server, prefix) = if to_edge {
                (edge.site, edge_url.clone())
            } else {
                (noting.address, noting.url())
            };
            let target = link.strip_prefix(&prefix).unwrap();
            let got = get(target).from(visitor(number)).ask(server).await;
            let (_, _, content) = OBJECTS
                .iter()
                .find(|(path, query, _)| target == format!("{path}{query}"))
                .unwrap();
            assert_eq!((got.status, got.body.as_slice()), (200, *content), "{link}");
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");

    let all = OBJECTS.len() + 1;
    let known: Vec<String> = OBJECTS
        .iter()
        .map(|(path, query, _)| format!("GET {path}{query}"))
        .collect();
    let visits = noting.visits();
    assert_eq!(visits.len(), seen[1] * all);
    assert!(
        visits.iter().all(|visit| known.contains(visit)),
        "nothing but objects: {visits:?}"
    );
    let counted = edge.status().await["requests"].clone();
    assert_eq!(
        counted["served"],
        seen[0] * all,
        "nothing but objects: {counted}"
    );
}

/// The links that a page was rewritten to.
fn links(page: &str) -> Vec<&str> {
    page.match_indices("http://")
        .map(|(start, _)| {
            page[start..]
                .split(['"', '\'', ' ', '>', ','])
                .next()
                .unwrap()
        })
        .collect()
}

#[tokio::test]
async fn c1e_stops_when_every_server_is_over_its_threshold_until_one_falls_below() {
    let mut network = Network::with_entries(
        NO_HOLD,
        "",
        "threshold = 0.8, resume = 0.6,",
        "threshold = 0.5,",
    )
    .await;
    network.load(OVER_FIRST).await;
    let counts = network.servers(40).await;
    assert!(
        counts[0] == 0 && counts[1] > 0 && counts[2] > 0,
        "{counts:?}"
    );

    network.us.set_load(0.6);
    let us = network.primary.until_usable("us", false).await;
    assert!(us["reason"].as_str().unwrap().contains("threshold"), "{us}");
    assert_eq!(
        network.servers(40).await,
        [0, 40, 0],
        "its own threshold, which is lower than the other's"
    );

    network.eu.set_load(0.9);
    network.primary.until_usable("eu", false).await;
    assert_eq!(
        network.servers(40).await,
        [40, 0, 0],
        "all are full: pages link to the primary again"
    );
    assert_eq!(
        network.primary.status().await["level"],
        "offload",
        "whose load is as high as it was"
    );

    network.eu.set_load(0.7);
    let reported = |name: &'static str, load: f64| {
        let network = &network;
        async move {
            until(format_args!("{name} reports {load}"), async || {
                (network.primary.server(name).await["reported"].as_f64()? == load).then_some(())
            })
            .await;
        }
    };
    reported("eu", 0.7).await;
    assert_eq!(
        network.servers(40).await,
        [40, 0, 0],
        "below its threshold, but not by the margin"
    );

    network.eu.set_load(0.5);
    network.primary.until_usable("eu", true).await;
    assert_eq!(
        network.servers(40).await,
        [0, 40, 0],
        "and offloading goes on"
    );
    network.unload().await;
}

#[tokio::test]
async fn c1f_above_the_second_threshold_at_least_some_requests_are_throttled() {
    some_are_told(NO_HOLD).await;
}

/// Load past the second threshold: some get the page, the others are served.
async fn some_are_told(hold: &str) {
    let mut network = Network::new(hold, "").await;
    network.load(OVER_FIRST).await;
    let fates = network.fates(40).await;
    assert_eq!(
        (fates.served, fates.told, fates.dropped),
        (40, 0, 0),
        "not below the second threshold"
    );
    network.load(OVER_SECOND).await;
    // At first room is sought on the offload servers; they take everyone, and the load stays.
    until("some are told", async || {
        let fates = network.fates(40).await;
        assert_eq!(fates.dropped, 0);
        (fates.told > 0 && fates.served > 0).then_some(())
    })
    .await;
    assert_eq!(network.primary.status().await["level"], "throttle");
    network.unload().await;
}

/// Keeps a link busy until dropped.
struct Downloads(Vec<tokio::task::JoinHandle<()>>);

impl Downloads {
    fn of(path: &'static str, from: std::net::SocketAddr, at_once: usize) -> Self {
        let download = || async move {
            loop {
                get(path).from(Ipv4Addr::LOCALHOST).ask(from).await;
            }
        };
        Self((0..at_once).map(|_| tokio::spawn(download())).collect())
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// A primary that serves a folder with the page and something large, and one signal.
async fn measured(hold: &str, lines: &str) -> (TempDir, OffloadServer, Program) {
    let site = folder([
        ("index.html", page("").as_bytes()),
        ("large.bin", &vec![7; 4_000_000]),
    ]);
    let server = OffloadServer::start(site.path(), 0.1).await;
    let config = Config::new(format!(
        r#"
        primary.site = {:?}
        offload.hold = "{hold}"
        offload.share = 1.0
        offload.servers = [{}]
        "#,
        site.path(),
        server.entry("eu", ""),
    ));
    let primary = Program::serve(&config.with(lines)).await;
    primary.until_usable("eu", true).await;
    (site, server, primary)
}

async fn sees(primary: &Program, expected: &str) -> bool {
    get("/").ask(primary.site).await.text() == expected
}

async fn bandwidth_is_the_load(hold: &str) {
    let shared = MACHINE.read().await;
    let lines = r#"
        load.bandwidth.enabled = true
        load.bandwidth.source = "responses"
        load.bandwidth.capacity = "100Mbit/s"
        load.bandwidth.offload = 0.3
    "#;
    let (_site, server, primary) = measured(hold, lines).await;
    let moved = page(&server.url());
    primary.until_level("normal").await;
    assert!(sees(&primary, &page("")).await);
    let downloads = Downloads::of("/large.bin", primary.site, 2);
    until("pages link to the offload server", async || {
        sees(&primary, &moved).await.then_some(())
    })
    .await;
    drop(downloads);
    primary.until_level("normal").await;
    assert!(sees(&primary, &page("")).await);
    drop(shared);
}

async fn an_interfaces_bandwidth_is_the_load(hold: &str) {
    // What others send over the loopback counts too, so nobody else may send much meanwhile.
    let _alone = MACHINE.write().await;
    let lines = r#"
        load.bandwidth.enabled = true
        load.bandwidth.source = "interface"
        load.bandwidth.interface = "lo"
        load.bandwidth.capacity = "100Mbit/s"
        load.bandwidth.offload = 0.5
    "#;
    let (_site, server, primary) = measured(hold, lines).await;
    let moved = page(&server.url());
    primary.until_level("normal").await;
    until("pages link to the primary", async || {
        sees(&primary, &page("")).await.then_some(())
    })
    .await;
    let downloads = Downloads::of("/large.bin", primary.site, 2);
    until("pages link to the offload server", async || {
        sees(&primary, &moved).await.then_some(())
    })
    .await;
    drop(downloads);
    primary.until_level("normal").await;
    until("pages link to the primary", async || {
        sees(&primary, &page("")).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn c2_the_load_can_be_the_bandwidth_of_our_responses() {
    bandwidth_is_the_load(NO_HOLD).await;
}

#[tokio::test]
async fn c2_the_load_can_be_the_bandwidth_of_an_interface() {
    an_interfaces_bandwidth_is_the_load(NO_HOLD).await;
}

/// Threads that keep the processors busy until dropped.
struct Burning {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Burning {
    fn everywhere() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        // One more: a container's share may be some processors and a half.
        let count = thread::available_parallelism().map_or(2, usize::from);
        let threads = (0..=count)
            .map(|_| {
                let stop = stop.clone();
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Burning {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Others may be at work on this machine: until they leave some of it.
const UNTIL_QUIET: Duration = Duration::from_secs(600);

async fn processors_are_the_load(hold: &str) {
    let _alone = MACHINE.write().await;
    // The less is left, the sooner a machine with other work, too, is below that.
    let lines = "load.cpu.enabled = true\nload.cpu.offload = 0.95\nload.smoothing = \"500ms\"";
    let (_site, server, primary) = measured(hold, lines).await;
    let moved = page(&server.url());
    let quiet = async || sees(&primary, &page("")).await.then_some(());
    until_within(UNTIL_QUIET, "a machine with time to spare", quiet).await;
    let burning = Burning::everywhere();
    until("pages link to the offload server", async || {
        sees(&primary, &moved).await.then_some(())
    })
    .await;
    let load = primary.signal("cpu").await["load"].as_f64().unwrap();
    assert!(load > 0.5, "{load}");
    drop(burning);
    until_within(UNTIL_QUIET, "pages link to the primary", quiet).await;
}

#[tokio::test]
async fn c3_the_load_can_be_processor_time() {
    processors_are_the_load(NO_HOLD).await;
}

async fn links_point_to_the_primary_or_to_one_server(hold: &str) {
    let mut network = Network::new(hold, "").await;
    assert_eq!(network.page(1).await, page(""), "served at the primary");
    network.load(OVER_FIRST).await;
    let mut seen = Vec::new();
    for number in 0..40 {
        // Compares the whole page: the base page is the primary's, byte for byte, but for the links' beginnings.
        seen.push(network.server(number).await);
    }
    assert!(
        !seen.contains(&"primary") && seen.contains(&"eu") && seen.contains(&"us"),
        "{seen:?}"
    );
    assert_eq!(
        network.eu.visits().len() + network.us.visits().len(),
        0,
        "the pages did not come from there"
    );
    network.unload().await;
}

#[tokio::test]
async fn c4_offloading_is_links_of_the_primarys_page_that_point_to_one_offload_server() {
    links_point_to_the_primary_or_to_one_server(NO_HOLD).await;
}

async fn requests_are_routed(hold: &str) {
    let mut network = Network::new(hold, "offload.redirect = [\"/downloads/**\"]").await;
    let film = |number: usize| get("/downloads/film.mp4?part=1&x=%20").from(visitor(number));
    assert_eq!(
        film(1).ask(network.primary.site).await.text(),
        "film of the primary"
    );
    network.load(OVER_FIRST).await;
    let mut seen = Vec::new();
    for number in 0..40 {
        let answer = film(number).ask(network.primary.site).await;
        assert_eq!(answer.status, 307);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let location = answer.header("location").unwrap();
        let server = location
            .strip_suffix("/downloads/film.mp4?part=1&x=%20")
            .unwrap();
        seen.push(server.to_owned());
    }
    assert!(
        seen.contains(&network.eu.url()) && seen.contains(&network.us.url()),
        "{seen:?}"
    );
    assert!(
        seen.iter()
            .all(|server| [network.eu.url(), network.us.url()].contains(server)),
        "{seen:?}"
    );
    network.eu.set_load(0.9);
    network.us.set_load(0.9);
    network.primary.until_usable("eu", false).await;
    network.primary.until_usable("us", false).await;
    assert_eq!(
        film(1).ask(network.primary.site).await.text(),
        "film of the primary",
        "nobody has room"
    );
    network.unload().await;
}

#[tokio::test]
async fn c5_offloading_can_be_routing_a_request_to_a_server() {
    requests_are_routed(NO_HOLD).await;
}

#[tokio::test]
async fn c7_throttling_can_be_a_page_that_says_that_the_server_is_overloaded() {
    some_are_told(NO_HOLD).await;
}

async fn some_are_dropped(hold: &str) {
    let mut network = Network::new(hold, "throttle.action = \"drop\"").await;
    network.load(OVER_FIRST).await;
    assert_eq!(
        network.fates(40).await.served,
        40,
        "not below the second threshold"
    );
    network.load(OVER_SECOND).await;
    until("some are dropped", async || {
        let fates = network.fates(40).await;
        assert_eq!(fates.told, 0);
        (fates.dropped > 0 && fates.served > 0).then_some(())
    })
    .await;
    assert_eq!(
        network.primary.status().await["level"],
        "throttle",
        "the third threshold has no part in it"
    );
    network.unload().await;
}

#[tokio::test]
async fn c8_throttling_can_be_dropping_the_request_without_returning_any_information() {
    some_are_dropped(NO_HOLD).await;
}

async fn told_above_the_second_dropped_above_the_third(hold: &str) {
    let mut network = Network::new(hold, "").await;
    network.load(OVER_SECOND).await;
    until("some are told", async || {
        let fates = network.fates(40).await;
        assert_eq!(fates.dropped, 0, "not below the third threshold");
        (fates.told > 0 && fates.served > 0).then_some(())
    })
    .await;
    network.load(OVER_THIRD).await;
    network.primary.until_level("drop").await;
    until("some are dropped, the others told", async || {
        let fates = network.fates(40).await;
        (fates.dropped > 0 && fates.told > 0 && fates.served == 0).then_some(())
    })
    .await;
    network.unload().await;
}

#[tokio::test]
async fn c9_the_page_above_the_second_threshold_and_dropping_above_the_third() {
    told_above_the_second_dropped_above_the_third(NO_HOLD).await;
}

/// The page's server for a visitor who comes through the trusted proxy.
async fn server_for(network: &Network, address: &str, cookie: &str) -> &'static str {
    let answer = get("/")
        .from(Ipv4Addr::new(127, 0, 0, 2))
        .header("X-Forwarded-For", address)
        .header("Cookie", cookie)
        .ask(network.primary.site)
        .await;
    let servers = [
        ("primary", String::new()),
        ("eu", network.eu.url()),
        ("us", network.us.url()),
    ];
    let found = servers
        .into_iter()
        .find(|(_, prefix)| answer.text() == page(prefix));
    found.expect("a page of ours").0
}

async fn the_server_depends_on_who_asks(hold: &str) {
    let lines = r#"
        primary.trusted_proxies = ["127.0.0.2"]
        offload.identity = { cookie = "session" }
        offload.clients = [
            { identity = "gold-*", servers = ["eu"] },
            { addresses = ["203.0.113.0/24", "2001:db8::/32"], servers = ["us"] },
        ]
    "#;
    let mut network = Network::new(hold, lines).await;
    network.load(OVER_FIRST).await;
    for n in 0..20 {
        let elsewhere = format!("198.51.100.{n}");
        assert_eq!(
            server_for(&network, &elsewhere, &format!("a=b; session=gold-{n}")).await,
            "eu",
            "the identity"
        );
        let gateway = format!("203.0.113.{n}");
        assert_eq!(
            server_for(&network, &gateway, "a=b").await,
            "us",
            "the gateway's address"
        );
        assert_eq!(
            server_for(&network, &format!("2001:db8::{n}"), "a=b").await,
            "us"
        );
        assert_eq!(
            server_for(&network, &gateway, &format!("session=gold-{n}")).await,
            "eu",
            "the first rule counts"
        );
    }
    let counts = network.servers(40).await;
    assert!(
        counts[1] > 0 && counts[2] > 0,
        "whom no rule names may go to any: {counts:?}"
    );
    // Who is not the trusted proxy can say what it likes.
    let mut seen = Vec::new();
    for number in 0..40 {
        let asked = get("/")
            .from(visitor(number))
            .header("X-Forwarded-For", "203.0.113.7");
        seen.push(asked.ask(network.primary.site).await.text() == page(&network.eu.url()));
    }
    assert!(seen.contains(&true) && seen.contains(&false));
    network.unload().await;
}

async fn the_server_depends_on_the_price(hold: &str) {
    let mut network = Network::with_entries(hold, "", "price = 0.02,", "price = 0.01,").await;
    network.load(OVER_FIRST).await;
    assert_eq!(network.servers(40).await, [0, 0, 40], "the cheaper one");
    network.us.set_load(0.9);
    network.primary.until_usable("us", false).await;
    assert_eq!(
        network.servers(40).await,
        [0, 40, 0],
        "the dearer one, when the cheaper is full"
    );
    network.unload().await;
}

async fn the_server_depends_on_the_load(hold: &str) {
    let mut network = Network::new(hold, "").await;
    network.load(OVER_FIRST).await;
    let reports = async |load_of_eu: f64, load_of_us: f64| {
        network.eu.set_load(load_of_eu);
        network.us.set_load(load_of_us);
        until(
            format_args!("reports of {load_of_eu} and {load_of_us}"),
            async || {
                let (eu, us) = (
                    network.primary.server("eu").await,
                    network.primary.server("us").await,
                );
                // What was counts as well: until both are what they are to be.
                let is = |server: &serde_json::Value, load: f64| {
                    let previous = server["previous"].as_f64().unwrap_or(f64::NAN);
                    server["load"] == load && (previous - load).abs() < 0.05
                };
                (is(&eu, load_of_eu) && is(&us, load_of_us)).then_some(())
            },
        )
        .await;
    };
    // Now: the freer one gets more, the full one nothing.
    reports(0.7, 0.0).await;
    let counts = network.servers(120).await;
    assert!(
        counts[0] == 0 && counts[1] > 0 && counts[2] > 3 * counts[1],
        "{counts:?}"
    );
    reports(0.0, 0.7).await;
    let counts = network.servers(120).await;
    assert!(
        counts[0] == 0 && counts[2] > 0 && counts[1] > 3 * counts[2],
        "{counts:?}"
    );
    // Before: the loads are the same again, but one of them has been over its threshold.
    reports(0.9, 0.0).await;
    network.primary.until_usable("eu", false).await;
    reports(0.77, 0.77).await;
    assert_eq!(network.servers(40).await, [0, 0, 40]);
    network.unload().await;
}

#[tokio::test]
async fn c10_the_server_depends_on_the_clients_identity_and_its_gateways_address() {
    the_server_depends_on_who_asks(NO_HOLD).await;
}

#[tokio::test]
async fn c10_the_server_depends_on_the_price_of_its_service() {
    the_server_depends_on_the_price(NO_HOLD).await;
}

#[tokio::test]
async fn c10_the_server_depends_on_the_current_and_the_previous_load_of_the_servers() {
    the_server_depends_on_the_load(NO_HOLD).await;
}

#[tokio::test]
async fn c32_offloading_goes_on_for_the_predetermined_period_and_only_then_stops() {
    let mut network = Network::new("10s", "").await;
    assert_eq!(
        network.servers(10).await,
        [10, 0, 0],
        "not above the first threshold: the primary alone"
    );
    // The load is evaluated by itself, not by requests: nobody asks while it rises.
    network.load(OVER_FIRST).await;
    network.primary.until_level("offload").await;
    // The load is there still: the period is not counted from before.
    let before = network.primary.status().await["uptime"].as_f64().unwrap();
    network.upstream.release(&mut network.held).await;
    let is_low = |status: &serde_json::Value| {
        let load = support::program::named(&status["signals"], "in_flight")["load"].as_f64();
        load.is_some_and(|load| load < 0.05)
    };
    let status = network.primary.until("the load has gone", is_low).await;
    assert_eq!(status["level"], "offload", "the period is not over");
    assert!(status["hold_left"].as_f64().unwrap() > 0.0);
    assert_eq!(network.servers(1).await[0], 0, "and offloading goes on");
    let status = network
        .primary
        .until("the period is over", |status| status["level"] == "normal")
        .await;
    // A tick of the sampler may have passed between the last look at the load and its going.
    let lasted = status["uptime"].as_f64().unwrap() - before;
    assert!(lasted > 9.0, "{lasted} s of 10 s");
    assert_eq!(
        network.servers(20).await,
        [20, 0, 0],
        "then to the primary alone"
    );
}

#[tokio::test]
async fn c33_with_a_hold_the_load_can_be_bandwidth() {
    bandwidth_is_the_load(HOLD_TIME).await;
}

#[tokio::test]
async fn c33_with_a_hold_the_load_can_be_the_bandwidth_of_an_interface() {
    an_interfaces_bandwidth_is_the_load(HOLD_TIME).await;
}

#[tokio::test]
async fn c34_with_a_hold_the_load_can_be_processor_time() {
    processors_are_the_load(HOLD_TIME).await;
}

#[tokio::test]
async fn c35_with_a_hold_links_point_to_one_offload_server() {
    links_point_to_the_primary_or_to_one_server(HOLD_TIME).await;
}

#[tokio::test]
async fn c36_with_a_hold_requests_can_be_routed_to_a_server() {
    requests_are_routed(HOLD_TIME).await;
}

#[tokio::test]
async fn c37_with_a_hold_throttling_can_be_a_page() {
    some_are_told(HOLD_TIME).await;
}

#[tokio::test]
async fn c38_with_a_hold_throttling_can_be_dropping() {
    some_are_dropped(HOLD_TIME).await;
}

#[tokio::test]
async fn c39_with_a_hold_the_page_comes_above_the_second_threshold_and_dropping_above_the_third() {
    told_above_the_second_dropped_above_the_third(HOLD_TIME).await;
}

#[tokio::test]
async fn c40_with_a_hold_the_server_depends_on_who_asks() {
    the_server_depends_on_who_asks(HOLD_TIME).await;
}

#[tokio::test]
async fn c40_with_a_hold_the_server_depends_on_the_price() {
    the_server_depends_on_the_price(HOLD_TIME).await;
}

#[tokio::test]
async fn c40_with_a_hold_the_server_depends_on_the_servers_loads() {
    the_server_depends_on_the_load(HOLD_TIME).await;
}
