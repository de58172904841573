//! A primary and its edges as a network of processes: the promises that are about offload servers, kept with our own;
//! and one crowd that is served by edges, nginx and Varnish together.
//!
//! The loads are real: the primary's by requests that wait at its upstream, an edge's by visitors who wait for an
//! object that is slow to come, which is one request to the primary however many they are.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::support::{
    self,
    address::own_address,
    caches::Cache,
    client::{get, request, visitor},
    config::Config,
    program::Program,
    raw::{Answer, parse},
    upstream::{HOLD, Held, Upstream, drips},
    wait::{soon, until},
};

const TOKEN: &str = "a long secret";
/// The objects of the page, beside its stylesheet.
const PICTURES: usize = 11;
/// What keeps visitors waiting.
const SLOW: &str = "/slow.png";

/// The page; its objects' links begin with `prefix`.
fn page(prefix: &str) -> String {
    let pictures: String = (0..PICTURES)
        .map(|number| format!("<img src=\"{prefix}/img/{number}.png\" alt=\"\">\n"))
        .collect();
    format!(
        "<!doctype html>\n<title>A page</title>\n<link rel=\"stylesheet\" href=\"{prefix}/style.css\">\n\
         {pictures}<a href=\"/next.html\">next</a>\n"
    )
}

/// What stands at an object's path.
fn object(path: &str) -> Option<(&'static str, Vec<u8>)> {
    if path == "/style.css" {
        return Some(("text/css", b"h1{color:red}\n".repeat(300)));
    }
    let number = path.strip_prefix("/img/")?.strip_suffix(".png")?;
    let number: usize = number.parse().ok().filter(|number| *number < PICTURES)?;
    // From a single byte to more than sockets take at once.
    let content = (0..1 + number * 30_000).map(|place| (place * 7 + number) as u8);
    Some(("image/png", content.collect()))
}

fn objects() -> Vec<String> {
    let pictures = (0..PICTURES).map(|number| format!("/img/{number}.png"));
    pictures.chain(["/style.css".to_owned()]).collect()
}

/// The site behind the primary. It notes what it is asked for, and through which servers (`CDN-Loop`).
#[derive(Clone)]
struct Site {
    asked: Arc<Mutex<BTreeMap<(String, String), usize>>>,
    /// The slow object is answered once this is true.
    released: watch::Sender<bool>,
}

impl Site {
    fn new() -> Self {
        Self {
            asked: Arc::default(),
            released: watch::Sender::new(false),
        }
    }

    async fn start(&self) -> Upstream {
        Upstream::start(Router::new().fallback(answer).with_state(self.clone())).await
    }

    /// How often each server asked for each path; visitors are the server "".
    fn asked(&self) -> BTreeMap<(String, String), usize> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(State(site): State<Site>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let through = request.headers().get("cdn-loop");
    let through = through.map_or("", |through| through.to_str().unwrap());
    assert!(
        !request.headers().contains_key("x-overspill-token"),
        "the token is the primary's affair"
    );
    *site
        .asked
        .lock()
        .unwrap()
        .entry((through.to_owned(), path.clone()))
        .or_default() += 1;
    let typed = |kind: &'static str, body: Vec<u8>| {
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "public, max-age=600"),
        ];
        (headers, body).into_response()
    };
    match &*path {
        "/" => ([(header::CONTENT_TYPE, "text/html")], page("")).into_response(),
        SLOW => {
            let mut released = site.released.subscribe();
            let released = async move {
                released.wait_for(|released| *released).await.unwrap();
            };
            let headers = [
                (header::CONTENT_TYPE, "image/png"),
                (header::CACHE_CONTROL, "public, max-age=600"),
            ];
            (headers, drips(&[1], released, vec![1; 1000])).into_response()
        }
        path => match object(path) {
            Some((kind, body)) => typed(kind, body),
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

/// An edge that counts fifty requests at once as all that it can do.
async fn edge(name: &str, primary: SocketAddr) -> Program {
    Program::edge(&Config::new(format!(
        "edge.primary = \"http://{primary}\"\nedge.token = \"{TOKEN}\"\nedge.name = \"{name}\"\n\
         load.in_flight.capacity = 50"
    )))
    .await
}

fn url(edge: &Program) -> String {
    format!("http://{}", edge.site)
}

/// An edge's entry in `offload.servers`, with `more` keys, each followed by a comma.
fn entry(name: &str, url: &str, more: &str) -> String {
    format!(
        "{{ name = \"{name}\", url = \"{url}\", cors = true, {more} \
         report = {{ kind = \"orca\", url = \"{url}/.overspill/load\", every = \"500ms\" }}, \
         health = {{ path = \"/.overspill/health\", every = \"100ms\" }} }}"
    )
}

/// A primary whose load is over its first threshold, and two edges.
struct Network {
    primary: Program,
    eu: Program,
    us: Program,
    site: Site,
    _upstream: Upstream,
    _held: Held,
}

impl Network {
    async fn new(lines: &str, eu_keys: &str, us_keys: &str) -> Self {
        let site = Site::new();
        let upstream = site.start().await;
        let port = own_address();
        let (eu, us) = (edge("eu", port).await, edge("us", port).await);
        let config = Config::new(format!(
            r#"
            primary.listen = "{port}"
            primary.upstream = "http://{}"
            load.in_flight.capacity = 100
            load.in_flight.offload = 0.2
            throttle.bypass.paths = ["{HOLD}"]
            offload.share = 1.0
            offload.hold = "0s"
            offload.token = "{TOKEN}"
            offload.servers = [{}, {}]
            "#,
            upstream.address,
            entry("eu", &url(&eu), eu_keys),
            entry("us", &url(&us), us_keys),
        ));
        let primary = Program::serve(&config.with(lines)).await;
        primary.until_usable("eu", true).await;
        primary.until_usable("us", true).await;
        let mut held = Held::none();
        upstream.hold(&primary, &mut held, 30).await;
        primary.until_level("offload").await;
        Self {
            primary,
            eu,
            us,
            site,
            _upstream: upstream,
            _held: held,
        }
    }

    /// Of a page: who serves its objects. Panics where anything else of it changed.
    fn server_of(&self, answer: &Answer) -> &'static str {
        assert_eq!(answer.status, 200);
        [
            ("primary", String::new()),
            ("eu", url(&self.eu)),
            ("us", url(&self.us)),
        ]
        .into_iter()
        .find_map(|(name, prefix)| (answer.text() == page(&prefix)).then_some(name))
        .unwrap_or_else(|| panic!("this is no page of ours:\n{}", answer.text()))
    }

    async fn server(&self, number: usize) -> &'static str {
        self.server_of(&get("/").from(visitor(number)).ask(self.primary.site).await)
    }

    /// Of so many visitors those whose objects each server serves: the primary, eu, us.
    async fn servers(&self, visitors: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        for number in 0..visitors {
            let name = self.server(number).await;
            let names = ["primary", "eu", "us"];
            counts[names.iter().position(|known| *known == name).unwrap()] += 1;
        }
        counts
    }

    /// Waits until the primary knows such loads of both.
    async fn until_known(&self, loads: [f64; 2]) {
        until(format_args!("loads {loads:?}"), async || {
            let servers = [
                self.primary.server("eu").await,
                self.primary.server("us").await,
            ];
            let is = |server: &Value, load: f64| {
                // What was counts as well: until both are what they are to be.
                ["load", "previous"].iter().all(|key| {
                    server[key]
                        .as_f64()
                        .is_some_and(|known| (known - load).abs() < 0.01)
                })
            };
            (is(&servers[0], loads[0]) && is(&servers[1], loads[1])).then_some(())
        })
        .await;
    }
}

/// Visitors who wait at an edge for the slow object: its load.
#[derive(Default)]
struct Waiting(Vec<TcpStream>);

impl Waiting {
    /// So many, from now on.
    async fn set(&mut self, edge: &Program, count: usize) {
        // Who goes does not wait any more.
        self.0.truncate(count);
        while self.0.len() < count {
            let mut stream = TcpStream::connect(edge.site).await.unwrap();
            let request = get(SLOW).host("localhost").text();
            stream.write_all(request.as_bytes()).await.unwrap();
            self.0.push(stream);
        }
        edge.until("they wait", |status| status["in_flight"] == count)
            .await;
    }
}

/// What an edge has counted.
async fn counts(edge: &Program) -> BTreeMap<String, u64> {
    serde_json::from_value(edge.status().await["requests"].take()).unwrap()
}

#[tokio::test]
async fn c1d_edges_are_able_to_process_what_they_get_and_do_nothing_else() {
    let network = Network::new("", "", "").await;
    let mut visits = BTreeMap::from([("eu", 0), ("us", 0)]);
    for number in 0..20 {
        let name = network.server(number).await;
        *visits.get_mut(name).expect("everyone is offloaded") += 1;
        let edge = if name == "eu" {
            &network.eu
        } else {
            &network.us
        };
        for path in objects() {
            let asked = get(&path).host(&edge.site.to_string());
            let answer = asked.from(visitor(number)).ask(edge.site).await;
            assert_eq!(answer.status, 200, "{path}");
            assert!(answer.body == object(&path).unwrap().1, "{path}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        }
    }
    for (name, edge) in [("eu", &network.eu), ("us", &network.us)] {
        assert!(visits[name] > 0, "{visits:?}");
        let all = (visits[name] * objects().len()) as u64;
        let counted = counts(edge).await;
        assert_eq!(counted["hits"] + counted["misses"], all, "{counted:?}");
        assert_eq!(
            counted["pulls"],
            objects().len() as u64,
            "nothing but the page's objects, each once"
        );
        // No other work is taken.
        let posted = request("POST", "/style.css").header("Content-Length", "0");
        assert_eq!(posted.host("localhost").ask(edge.site).await.status, 405);
        assert_eq!(
            get("/style.css")
                .host("other.example")
                .ask(edge.site)
                .await
                .status,
            421
        );
        assert_eq!(counts(edge).await["pulls"], objects().len() as u64);
    }
    let asked = network.site.asked();
    let pulled: Vec<_> = asked
        .iter()
        .filter(|((through, _), _)| !through.is_empty())
        .collect();
    assert_eq!(pulled.len(), 2 * objects().len(), "{asked:?}");
    assert!(pulled.iter().all(|(_, count)| **count == 1), "{asked:?}");
}

#[tokio::test]
async fn c1e_offloading_stops_when_every_edge_is_over_its_threshold_until_one_falls_below() {
    let network = Network::new("", "threshold = 0.8, resume = 0.6,", "threshold = 0.5,").await;
    let (mut at_eu, mut at_us) = (Waiting::default(), Waiting::default());
    let counts = network.servers(40).await;
    assert!(
        counts[0] == 0 && counts[1] > 0 && counts[2] > 0,
        "{counts:?}"
    );

    at_us.set(&network.us, 30).await;
    let us = network.primary.until_usable("us", false).await;
    assert!(us["reason"].as_str().unwrap().contains("threshold"), "{us}");
    assert_eq!(
        network.servers(40).await,
        [0, 40, 0],
        "its own threshold, which is lower than the other's"
    );

    at_eu.set(&network.eu, 45).await;
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

    at_eu.set(&network.eu, 35).await;
    network.until_known([0.7, 0.6]).await;
    assert_eq!(
        network.servers(40).await,
        [40, 0, 0],
        "below its threshold, but not by the margin"
    );

    at_eu.set(&network.eu, 20).await;
    network.primary.until_usable("eu", true).await;
    assert_eq!(
        network.servers(40).await,
        [0, 40, 0],
        "and offloading goes on"
    );
    // Those who waited all the while get what they waited for.
    network.site.released.send_replace(true);
    for mut stream in at_eu.0.into_iter().chain(at_us.0) {
        let (answer, _) = support::client::drain(&mut stream).await;
        assert!(parse(&answer, false).body.ends_with(&[1; 1000]));
    }
    let slow = |((_, path), count): (&(String, String), &usize)| (path == SLOW).then_some(*count);
    let asked: Vec<usize> = network.site.asked().iter().filter_map(slow).collect();
    assert_eq!(asked, [1, 1], "they were one pull of each edge");
}

#[tokio::test]
async fn c10_the_edge_depends_on_the_clients_identity_and_its_gateways_address() {
    let lines = r#"
        primary.trusted_proxies = ["127.0.0.2"]
        offload.identity = { cookie = "session" }
        offload.clients = [
            { identity = "gold-*", servers = ["eu"] },
            { addresses = ["203.0.113.0/24"], servers = ["us"] },
        ]
    "#;
    let network = Network::new(lines, "", "").await;
    let ask = async |address: String, cookie: String| {
        let asked = get("/")
            .from(Ipv4Addr::new(127, 0, 0, 2))
            .header("X-Forwarded-For", &address)
            .header("Cookie", &cookie);
        network.server_of(&asked.ask(network.primary.site).await)
    };
    for n in 0..20 {
        let (elsewhere, gateway) = (format!("198.51.100.{n}"), format!("203.0.113.{n}"));
        assert_eq!(ask(elsewhere, format!("a=b; session=gold-{n}")).await, "eu");
        assert_eq!(ask(gateway.clone(), "a=b".to_owned()).await, "us");
        assert_eq!(ask(gateway, format!("session=gold-{n}")).await, "eu");
    }
    let counts = network.servers(40).await;
    assert!(
        counts[1] > 0 && counts[2] > 0,
        "whom no rule names may go to any: {counts:?}"
    );
}

#[tokio::test]
async fn c10_the_edge_depends_on_the_price_of_its_service() {
    let network = Network::new("", "price = 0.02,", "price = 0.01,").await;
    assert_eq!(network.servers(40).await, [0, 0, 40], "the cheaper one");
    let mut at_us = Waiting::default();
    at_us.set(&network.us, 45).await;
    network.primary.until_usable("us", false).await;
    assert_eq!(
        network.servers(40).await,
        [0, 40, 0],
        "the dearer one, when the cheaper is full"
    );
}

#[tokio::test]
async fn c10_the_edge_depends_on_the_current_and_the_previous_load_of_the_edges() {
    let network = Network::new("", "", "").await;
    let (mut at_eu, mut at_us) = (Waiting::default(), Waiting::default());
    // Now: the freer one gets more.
    at_eu.set(&network.eu, 35).await;
    network.until_known([0.7, 0.0]).await;
    let counts = network.servers(120).await;
    assert!(
        counts[0] == 0 && counts[1] > 0 && counts[2] > 3 * counts[1],
        "{counts:?}"
    );
    at_eu.set(&network.eu, 0).await;
    at_us.set(&network.us, 35).await;
    network.until_known([0.0, 0.7]).await;
    let counts = network.servers(120).await;
    assert!(
        counts[0] == 0 && counts[2] > 0 && counts[1] > 3 * counts[2],
        "{counts:?}"
    );
    // Before: the loads are the same again, but one of them has been over its threshold.
    at_eu.set(&network.eu, 45).await;
    network.primary.until_usable("eu", false).await;
    at_us.set(&network.us, 39).await;
    at_eu.set(&network.eu, 39).await;
    network.until_known([0.78, 0.78]).await;
    assert_eq!(network.servers(40).await, [0, 0, 40]);
}

#[tokio::test]
async fn an_edge_that_is_killed_in_the_middle_of_an_episode_gets_no_more_pages() {
    const VISITORS: usize = 60;
    let site = Site::new();
    let upstream = site.start().await;
    let port = own_address();
    let (eu, us) = (edge("eu", port).await, edge("us", port).await);
    // Asked for their health as often as anybody's server is by default.
    let entry = |name: &str, edge: &Program| {
        format!(
            "{{ name = \"{name}\", url = \"{}\", cors = true, health = {{ path = \"/.overspill/health\" }} }}",
            url(edge)
        )
    };
    let primary = Program::serve(&Config::new(format!(
        "primary.listen = \"{port}\"\nprimary.upstream = \"http://{}\"\noffload.share = 1.0\n\
         offload.token = \"{TOKEN}\"\noffload.servers = [{}, {}]",
        upstream.address,
        entry("eu", &eu),
        entry("us", &us),
    )))
    .await;
    primary.until_usable("eu", true).await;
    primary.until_usable("us", true).await;
    primary.hold_level("offload").await;
    let (from_eu, from_us) = (page(&url(&eu)), page(&url(&us)));
    let pages = async || {
        let mut pages = Vec::new();
        for number in 0..VISITORS {
            let answer = get("/").from(visitor(number)).ask(primary.site).await;
            pages.push(answer.text().to_owned());
        }
        pages
    };
    let before = pages().await;
    assert!(before.contains(&from_eu) && before.contains(&from_us));
    assert!(
        before
            .iter()
            .all(|page| [&from_eu, &from_us].contains(&page))
    );

    let mut eu = eu;
    eu.kill().await;
    let after = until("no page names it", async || {
        let pages = pages().await;
        // Until then a page is one of these two, and never anything else.
        assert!(
            pages
                .iter()
                .all(|page| [&from_eu, &from_us].contains(&page))
        );
        (!pages.contains(&from_eu)).then_some(pages)
    })
    .await;
    // Everyone has the other one now.
    assert!(after.iter().all(|page| *page == from_us));
    let known = primary.server("eu").await;
    assert_eq!(
        (&known["usable"], &known["health"]),
        (&false.into(), &"ill".into()),
        "{known}"
    );
}

/// One of a crowd: the page, and each of its objects from where its link leads; gives the server.
async fn visit(number: usize, primary: SocketAddr, servers: &BTreeMap<String, String>) -> String {
    let answer = get("/").from(visitor(number)).ask(primary).await;
    assert_eq!(answer.status, 200);
    let (prefix, name) = servers
        .iter()
        .find(|(prefix, _)| answer.text() == page(prefix))
        .unwrap_or_else(|| {
            panic!(
                "this page is not linked to one of our servers:\n{}",
                answer.text()
            )
        });
    let address: SocketAddr = prefix.strip_prefix("http://").unwrap().parse().unwrap();
    let mut asking = JoinSet::new();
    for path in objects() {
        asking.spawn(async move {
            let asked = get(&path)
                .host(&address.to_string())
                .from(visitor(number))
                .header("Origin", "http://site.example");
            let answer = asked.ask(address).await;
            assert_eq!(answer.status, 200, "{path}");
            let (kind, body) = object(&path).unwrap();
            assert!(
                answer.is_whole && answer.body == body,
                "{path}: {} bytes",
                answer.body.len()
            );
            assert_eq!(answer.header("content-type"), Some(kind), "{path}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        });
    }
    asking.join_all().await;
    name.clone()
}

#[tokio::test]
#[ignore = "needs nginx and varnish"]
async fn two_edges_an_nginx_and_a_varnish_serve_one_crowd() {
    const CROWD: usize = 200;
    let site = Site::new();
    let upstream = site.start().await;
    let port = own_address();
    let (eu, us) = (edge("eu", port).await, edge("us", port).await);
    let (nginx, varnish) = (Cache::nginx(port, TOKEN), Cache::varnish(port, TOKEN));
    let servers = BTreeMap::from([
        (url(&eu), "eu".to_owned()),
        (url(&us), "us".to_owned()),
        (nginx.url(), "nginx".to_owned()),
        (varnish.url(), "varnish".to_owned()),
    ]);
    let other = |name: &str, url: &str| {
        format!(
            "{{ name = \"{name}\", url = \"{url}\", cors = true, \
             health = {{ path = \"/.overspill/health\", every = \"100ms\" }} }}"
        )
    };
    let primary = Program::serve(&Config::new(format!(
        "primary.listen = \"{port}\"\nprimary.upstream = \"http://{}\"\noffload.share = 1.0\n\
         offload.token = \"{TOKEN}\"\noffload.servers = [{}, {}, {}, {}]",
        upstream.address,
        entry("eu", &url(&eu), ""),
        entry("us", &url(&us), ""),
        other("nginx", &nginx.url()),
        other("varnish", &varnish.url()),
    )))
    .await;
    for name in servers.values() {
        primary.until_usable(name, true).await;
    }
    primary.hold_level("offload").await;

    let (places, servers) = (Arc::new(Semaphore::new(20)), Arc::new(servers));
    let mut crowd = JoinSet::new();
    for number in 0..CROWD {
        let (places, servers) = (places.clone(), servers.clone());
        let primary = primary.site;
        crowd.spawn(async move {
            let _place = places.acquire().await.unwrap();
            visit(number, primary, &servers).await
        });
    }
    let mut took = BTreeMap::<String, usize>::new();
    for name in soon("everyone has a whole page", crowd.join_all()).await {
        *took.entry(name).or_default() += 1;
    }
    // Nobody went away empty, and no server had nothing to do.
    assert_eq!(took.values().sum::<usize>(), CROWD);
    assert_eq!(took.len(), 4, "{took:?}");

    // The primary's own work were the pages, and each object about once for each server.
    let asked = site.asked();
    let count = |through: &str, path: &str| {
        let key = (through.to_owned(), path.to_owned());
        asked.get(&key).copied().unwrap_or(0)
    };
    assert_eq!(count("", "/"), CROWD);
    let mut pulling: Vec<&str> = asked.keys().map(|(through, _)| &**through).collect();
    pulling.dedup();
    assert_eq!(pulling.len(), 1 + 4, "visitors and four servers: {asked:?}");
    for path in objects() {
        assert_eq!(count("", &path), 0, "no visitor asked the primary: {path}");
        for through in &pulling[1..] {
            let pulls = count(through, &path);
            // Our own never ask twice; another's lock may be late once.
            let most = if through.starts_with("overspill-nginx")
                || through.starts_with("overspill-varnish")
            {
                2
            } else {
                1
            };
            assert!(
                (1..=most).contains(&pulls),
                "{through} {path}: {pulls} pulls"
            );
        }
    }
    for (name, edge) in [("eu", &eu), ("us", &us)] {
        let counted = counts(edge).await;
        let all = (took[name] * objects().len()) as u64;
        assert_eq!(
            counted["hits"] + counted["misses"] + counted["joined"],
            all,
            "{counted:?}"
        );
        assert_eq!(
            counted["refused"] + counted["failed"] + counted["passed"],
            0
        );
    }
    let counted = primary.status().await["requests"].take();
    assert_eq!(counted["offloaded"], CROWD, "{counted}");
    assert_eq!(
        counted["throttled"].as_u64().unwrap() + counted["dropped"].as_u64().unwrap(),
        0
    );
}
