//! Anyone's servers: the ready files for nginx and Varnish, and loads told by agents and by metrics.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use overspill::{servers::report::agent_line, units::Ratio};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::support::{
    self,
    address::own_address,
    caches::Cache,
    client::get,
    config::Config,
    folder,
    offload_server::OffloadServer,
    process::program,
    program::Program,
    upstream::Upstream,
    wait::{soon, until},
};

const TOKEN: &str = "open sesame";
const PAGE: &str = "<!doctype html><link rel=stylesheet href=/a.css><img src=\"/a.png\"><p>text";

/// A site that counts what it is asked for, and by whom.
#[derive(Clone)]
struct Site {
    asked: Arc<Mutex<BTreeMap<String, Vec<http::HeaderMap>>>>,
    /// `/slow.png` is answered once this is true.
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
        let app = Router::new().fallback(answer).with_state(self.clone());
        Upstream::start(app).await
    }

    fn count(&self, path: &str) -> usize {
        self.headers(path).len()
    }

    fn headers(&self, path: &str) -> Vec<http::HeaderMap> {
        let asked = self.asked.lock().unwrap();
        asked.get(path).cloned().unwrap_or_default()
    }
}

async fn answer(State(site): State<Site>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers().clone();
    site.asked
        .lock()
        .unwrap()
        .entry(path.clone())
        .or_default()
        .push(headers);
    let typed = |content_type: &'static str, body: Vec<u8>| {
        ([(header::CONTENT_TYPE, content_type)], body).into_response()
    };
    let png = |seed: u8| (0..20_000_u32).map(|n| n as u8 ^ seed).collect::<Vec<u8>>();
    match path.as_str() {
        "/" => typed("text/html", PAGE.into()),
        "/a.css" => typed("text/css", b"p{color:red}".repeat(200)),
        "/a.png" => typed("image/png", png(1)),
        "/slow.png" => {
            let mut released = site.released.subscribe();
            released.wait_for(|released| *released).await.unwrap();
            typed("image/png", png(2))
        }
        "/short.png" => (
            [(header::CACHE_CONTROL, "max-age=1")],
            typed("image/png", png(3)),
        )
            .into_response(),
        "/own.png" => ([(header::SET_COOKIE, "a=b")], typed("image/png", png(4))).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What both ready files promise.
async fn keeps_its_promises(start: impl FnOnce(SocketAddr, &str) -> Cache) {
    let site = Site::new();
    let upstream = site.start().await;
    let config = Config::new(format!(
        "primary.upstream = \"http://{}\"\noffload.share = 1.0\noffload.token = {TOKEN:?}",
        upstream.address
    ));
    // The cache has to know where the primary is, and the primary where the cache is.
    let port = own_address();
    let cache = start(port, TOKEN);
    let program = Program::serve(&config.with(format!(
        "primary.listen = \"{port}\"\n\
         offload.servers = [{{ name = \"cache\", url = {:?}, cors = true, \
         health = {{ path = \"/.overspill/health\", every = \"50ms\" }} }}]",
        cache.url()
    )))
    .await;
    program.until_usable("cache", true).await;
    program.hold_level("offload").await;

    // A page that is rewritten to it gets the right bytes, and what browsers need.
    let page = get("/").ask(program.site).await;
    for path in ["/a.css", "/a.png"] {
        assert!(
            page.text().contains(&format!("{}{path}", cache.url())),
            "{}",
            page.text()
        );
        let from_primary = get(path).ask(program.site).await;
        for _ in 0..2 {
            let from_cache = get(path)
                .header("Cookie", "who=me")
                .ask(cache.address)
                .await;
            assert_eq!(from_cache.status, 200);
            assert_eq!(from_cache.body, from_primary.body);
            assert_eq!(
                from_cache.header("content-type"),
                from_primary.header("content-type")
            );
            for (name, value) in [
                ("access-control-allow-origin", "*"),
                ("cross-origin-resource-policy", "cross-origin"),
                ("timing-allow-origin", "*"),
            ] {
                assert_eq!(from_cache.header(name), Some(value), "{path} {name}");
            }
        }
        assert_eq!(
            site.count(path),
            2,
            "once for the visitor and once for the cache"
        );
        let pull = &site.headers(path)[1];
        assert!(!pull.contains_key("cookie"), "{pull:?}");
        assert!(
            !pull.contains_key("x-overspill-token"),
            "the primary takes it off"
        );
        assert!(pull.contains_key("cdn-loop"), "{pull:?}");
    }
    // The token was shown: the primary lets the pulls pass.
    assert_eq!(program.status().await["requests"]["bypassed"], 2);
    let range = get("/a.png")
        .header("Range", "bytes=10-19")
        .ask(cache.address)
        .await;
    assert_eq!((range.status, range.body.len()), (206, 10));

    // Nothing else gets through, nothing that is one visitor's own is handed on or kept.
    let posted = support::client::request("POST", "/a.png").header("Content-Length", "0");
    assert!([403, 405].contains(&posted.ask(cache.address).await.status));
    let once = get("/a.png").header("CDN-Loop", "overspill-nginx, overspill-varnish");
    assert_eq!(once.ask(cache.address).await.status, 508);
    for pulls in 1..3 {
        let own = get("/own.png").ask(cache.address).await;
        assert_eq!((own.status, own.header("set-cookie")), (200, None));
        assert_eq!(site.count("/own.png"), pulls);
    }

    // However many miss the same object, one pull gets it.
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        asking.spawn(async move { get("/slow.png").ask(cache.address).await });
    }
    until("the pull", async || {
        (site.count("/slow.png") > 0).then_some(())
    })
    .await;
    site.released.send(true).unwrap();
    let answers = soon("all have it", asking.join_all()).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 && answer.body == answers[0].body)
    );
    assert_eq!(site.count("/slow.png"), 1);

    // Health was asked for all the while, and never of the primary.
    assert_eq!(
        get("/.overspill/health").ask(cache.address).await.status,
        200
    );
    assert_eq!(site.count("/.overspill/health"), 0);

    // The primary goes down: what was out of date is served, and what was never there is a clear error.
    let short = get("/short.png").ask(cache.address).await;
    assert_eq!(short.status, 200);
    assert_eq!(program.terminate().await, Some(0));
    until("it is out of date", async || {
        let stale = get("/short.png").ask(cache.address).await;
        assert_eq!((stale.status, &stale.body), (200, &short.body));
        (stale.header("x-cache") == Some("STALE")).then_some(())
    })
    .await;
    let never = get("/never.png").ask(cache.address).await;
    assert!((502..=504).contains(&never.status), "{}", never.status);
    assert_eq!(
        get("/.overspill/health").ask(cache.address).await.status,
        200
    );
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn the_ready_file_for_nginx_keeps_its_promises() {
    keeps_its_promises(Cache::nginx).await;
}

#[tokio::test]
#[ignore = "needs varnish"]
async fn the_ready_file_for_varnish_keeps_its_promises() {
    keeps_its_promises(Cache::varnish).await;
}

/// What a visitor may make up: nothing of it gets to the primary through a ready file.
async fn hands_on_nothing_made_up(start: impl FnOnce(SocketAddr, &str) -> Cache) {
    let site = Site::new();
    let upstream = site.start().await;
    let cache = start(upstream.address, TOKEN);
    let made_up = [
        "X-Overspill-Load",
        "X-Overspill-Server",
        "X-Overspill-Signature",
        "Cookie",
        "Authorization",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Proto",
        "X-Forwarded-Scheme",
        "X-Host",
        "X-Original-URL",
        "X-Real-IP",
        "X-Rewrite-URL",
    ];
    let asked = get("/a.css")
        .header("X-Overspill-Token", "a guess")
        .header("Accept", "text/css");
    let asked = made_up
        .iter()
        .fold(asked, |asked, name| asked.header(name, "made up"));
    assert_eq!(asked.ask(cache.address).await.status, 200);
    let [pull] = &site.headers("/a.css")[..] else {
        panic!("it is pulled once");
    };
    for name in made_up {
        let told = pull.get_all(name).iter();
        assert!(
            !told.into_iter().any(|value| value == "made up"),
            "{name}: {pull:?}"
        );
    }
    assert_eq!(pull["x-overspill-token"], TOKEN);
    assert_eq!(pull["accept"], "text/css");
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn the_ready_file_for_nginx_hands_on_nothing_that_a_visitor_made_up() {
    hands_on_nothing_made_up(Cache::nginx).await;
}

#[tokio::test]
#[ignore = "needs varnish"]
async fn the_ready_file_for_varnish_hands_on_nothing_that_a_visitor_made_up() {
    hands_on_nothing_made_up(Cache::varnish).await;
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn through_a_cache_that_hands_everything_on_no_visitor_tells_a_servers_load() {
    let site = Site::new();
    let upstream = site.start().await;
    let server = OffloadServer::start(Path::new("."), 0.25).await;
    let program = Program::serve(&Config::new(format!(
        "primary.upstream = \"http://{}\"\noffload.token = {TOKEN:?}\noffload.servers = [{}]",
        upstream.address,
        // It is asked for its load once: what changes came with a pull.
        server.entry("eu", "").replacen("500ms", "1h", 1)
    )))
    .await;
    program.until_usable("eu", true).await;
    let forwards = [("headers off;", "headers on;")];
    let cache = Cache::nginx_with(program.site, TOKEN, &forwards);
    for query in 0..10 {
        let answer = get(&format!("/a.png?{query}"))
            .header("X-Overspill-Load", "{\"application_utilization\":9}")
            .header("X-Overspill-Server", "eu")
            .header("X-Overspill-Signature", "1.00")
            .ask(cache.address)
            .await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(program.status().await["requests"]["bypassed"], 10);
    // The control loop makes a step.
    program.hold_level("offload").await;
    let server = program.server("eu").await;
    assert_eq!(server["reported"], 0.25);
    assert_eq!(server["usable"], true, "{server}");
    let told = || program.log().matches("counts for nothing").count();
    until("it is told", async || (told() > 0).then_some(())).await;
    assert!(told() < 10, "now and then: {}", told());
}

/// An agent that answers every connection with what it was told to.
struct AgentServer {
    address: SocketAddr,
    says: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Drop for AgentServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AgentServer {
    async fn start(says: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new(says.as_bytes().to_vec()));
        let shared = says.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let line = shared.lock().unwrap().clone();
                // Nothing to say: it leaves the asker waiting.
                tokio::spawn(async move {
                    if line.is_empty() {
                        let _ = stream.read(&mut [0; 16]).await;
                    }
                    let _ = stream.write_all(&line).await;
                });
            }
        });
        Self {
            address,
            says,
            task,
        }
    }

    fn says(&self, line: impl AsRef<[u8]>) {
        *self.says.lock().unwrap() = line.as_ref().to_vec();
    }
}

/// A primary with a server whose load is told by `report`.
async fn with_report(report: &str) -> (Program, TempDir) {
    let site = folder([("index.html", b"home".as_slice())]);
    let program = Program::serve(&Config::new(format!(
        "primary.site = {:?}\n\
         offload.servers = [{{ name = \"eu\", url = \"http://127.0.0.1:9\", health = false, \
         slow_start = \"0s\", report = {report} }}]",
        site.path()
    )))
    .await;
    (program, site)
}

async fn until_reason(program: &Program, reason: &str) {
    program
        .until(reason, |status| {
            let told = status["servers"][0]["reason"].as_str();
            told.is_some_and(|told| told.contains(reason))
        })
        .await;
}

#[tokio::test]
async fn an_agents_words_are_taken_and_nonsense_has_its_reason_in_the_status() {
    let agent = AgentServer::start("up ready 75%\n").await;
    let (program, _site) = with_report(&format!(
        "{{ kind = \"agent\", url = \"{}\", every = \"50ms\" }}",
        agent.address
    ))
    .await;
    let server = program.until_usable("eu", true).await;
    assert_eq!(server["reported"], 0.25);
    for (line, reason) in [
        (b"drain\n".to_vec(), "its agent says \"drain\""),
        (b"ready maint".to_vec(), "its agent says \"maint\""),
        (
            b"ready down #disk full\r\n".to_vec(),
            "its agent says that it is down: disk full",
        ),
        (b"up 5%\n".to_vec(), "load 0.95"),
        (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), "an agent's words"),
        (b"up ".repeat(10_000), "a line of at most 1024 bytes"),
        (Vec::new(), "no report within 500ms"),
    ] {
        agent.says(line);
        until_reason(&program, reason).await;
        agent.says("up ready 90%\n");
        program.until_usable("eu", true).await;
    }
}

#[tokio::test]
async fn who_was_taken_out_comes_back_slowly() {
    let agent = AgentServer::start("maint\n").await;
    let site = folder([("index.html", b"home".as_slice())]);
    let program = Program::serve(&Config::new(format!(
        "primary.site = {:?}\n\
         offload.servers = [{{ name = \"eu\", url = \"http://127.0.0.1:9\", health = false, slow_start = \"10s\", \
         report = {{ kind = \"agent\", url = \"{}\", every = \"50ms\" }} }}]",
        site.path(),
        agent.address
    )))
    .await;
    until_reason(&program, "its agent says \"maint\"").await;
    agent.says("ready\n");
    until_reason(&program, "it came back: gets").await;
    program
        .until("it has all its room", |status| {
            let server = &status["servers"][0];
            server["usable"] == true && server["ramp"] == 1.0 && server["reason"].is_null()
        })
        .await;
}

#[tokio::test]
async fn what_costs_too_much_gets_no_work() {
    let page = "<img src=\"/a.png\">";
    let image = vec![7; 20_000];
    let site = folder([("index.html", page.as_bytes()), ("a.png", &image)]);
    // Two cents a page.
    let program = Program::serve(&Config::new(format!(
        "primary.site = {:?}\noffload.share = 1.0\n\
         offload.servers = [{{ name = \"eu\", url = \"http://127.0.0.1:9\", health = false, \
         price = 1000, budget = {{ amount = 0.05, per = \"month\" }} }}]",
        site.path()
    )))
    .await;
    get("/a.png").ask(program.site).await;
    program.hold_level("offload").await;
    assert_ne!(get("/").ask(program.site).await.text(), page);
    let spent = until("the budget is spent", async || {
        get("/").ask(program.site).await;
        let server = program.server("eu").await;
        (server["usable"] == false).then_some(server)
    })
    .await;
    let reason = spent["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("budget spent: 0.") && reason.ends_with("of 0.05 for the month"),
        "{reason}"
    );
    assert_eq!(
        get("/").ask(program.site).await.text(),
        page,
        "it stays here"
    );
}

#[tokio::test]
async fn a_metric_is_a_load_and_nonsense_has_its_reason_in_the_status() {
    let page = Arc::new(Mutex::new(
        "busy{core=\"0\"} 3\nbusy{core=\"1\"} 1\n".to_owned(),
    ));
    let shown = page.clone();
    let metrics =
        Upstream::start(Router::new().fallback(async move || shown.lock().unwrap().clone())).await;
    let (program, _site) = with_report(&format!(
        "{{ kind = \"prometheus\", url = \"http://{}/metrics\", every = \"50ms\", metric = \"busy\", \
         capacity = 10 }}",
        metrics.address
    ))
    .await;
    let server = program.until_usable("eu", true).await;
    assert_eq!(server["reported"], 0.4);
    for (text, reason) in [
        (
            "idle 1\n".to_owned(),
            "expected a sample of the metric `busy`",
        ),
        ("busy NaN\n".to_owned(), "found NaN"),
        ("busy -1\n".to_owned(), "found -1"),
        ("busy 1e9\n".to_owned(), "to be a number from 0 to 10"),
        ("busy 1 4102444800000\n".to_owned(), "ahead of us"),
        ("busy 1 1000\n".to_owned(), "s old"),
        ("# busy\n".repeat(1_000_000), "at most 4194304 bytes"),
    ] {
        *page.lock().unwrap() = text;
        until_reason(&program, reason).await;
        *page.lock().unwrap() = "busy 1\n".to_owned();
        program.until_usable("eu", true).await;
    }
}

#[tokio::test]
#[ignore = "needs prometheus-node-exporter"]
async fn a_node_exporters_metrics_are_loads() {
    let exporter = Cache::start(|address, _| {
        let mut command = Command::new("prometheus-node-exporter");
        command.arg(format!("--web.listen-address={address}"));
        command
    });
    let metrics = get("/metrics").ask(exporter.address).await;
    let memory = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("node_memory_MemTotal_bytes "))
        .expect("every node has memory")
        .to_owned();
    let url = format!("{}/metrics", exporter.url());
    let (program, _site) = with_report(&format!(
        "{{ kind = \"prometheus\", url = {url:?}, every = \"100ms\", metric = \"node_memory_MemTotal_bytes\", \
         capacity = {} }}",
        memory.parse::<f64>().unwrap() * 2.0
    ))
    .await;
    let server = program.until_usable("eu", true).await;
    assert_eq!(server["reported"], 0.5);

    // Seconds that the processors worked for programs, all processors added up.
    let (program, _site) = with_report(&format!(
        "{{ kind = \"prometheus\", url = {url:?}, every = \"100ms\", rate = true, capacity = 1000, \
         metric = \"node_cpu_seconds_total\", labels = {{ mode = \"user\" }} }}"
    ))
    .await;
    program.until_usable("eu", true).await;
    program
        .until("the counter grows", |status| {
            let reported = status["servers"][0]["reported"].as_f64();
            reported.is_some_and(|load| load > 0.0 && load < 1.0)
        })
        .await;
}

/// A real HAProxy before one server, `b/s`, whose weight its agent tells.
struct HaProxy {
    cache: Cache,
    socket: PathBuf,
    _folder: TempDir,
}

impl HaProxy {
    fn start(server: SocketAddr, agent: SocketAddr) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        let socket = sockets.path().join("stats");
        let text = format!(
            "global\n stats socket {} level admin\n\
             defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             frontend f\n bind ADDRESS\n default_backend b\n\
             backend b\n server s {server} weight 100 agent-check agent-addr {} agent-port {} agent-inter 100ms \
             agent-send hello\\n\n",
            socket.display(),
            agent.ip(),
            agent.port(),
        );
        let cache = Cache::start(|address, folder| {
            let file = folder.join("haproxy.cfg");
            std::fs::write(&file, text.replace("ADDRESS", &address.to_string())).unwrap();
            let mut command = Command::new(program("haproxy"));
            command.arg("-db").arg("-f").arg(file).stdin(Stdio::null());
            command
        });
        Self {
            cache,
            socket,
            _folder: sockets,
        }
    }

    /// Waits until it answers `command` with `words`.
    async fn until(&self, command: &str, words: &str) {
        until(words, async || {
            let mut stream = UnixStream::connect(&self.socket).await.unwrap();
            let line = format!("{command}\n");
            stream.write_all(line.as_bytes()).await.unwrap();
            let mut told = String::new();
            stream.read_to_string(&mut told).await.unwrap();
            told.contains(words).then_some(())
        })
        .await;
    }
}

/// An edge that counts four requests at once as all that it can do, and whose load is told to agent checks.
async fn edge_with_agent(primary: SocketAddr, lines: &str) -> (Program, SocketAddr) {
    let edge = Program::edge(&Config::new(format!(
        "edge.primary = \"http://{primary}\"\nedge.agent = \"127.0.0.1:0\"\nload.in_flight.capacity = 4\n{lines}"
    )))
    .await;
    let address = until("the log tells where the agent is", async || {
        let log = edge.log();
        let address = log.split("\"agent\":\"").nth(1)?;
        Some(address.split('"').next()?.parse().unwrap())
    })
    .await;
    (edge, address)
}

#[tokio::test]
#[ignore = "needs haproxy"]
async fn haproxy_takes_what_we_answer_as_an_agent() {
    let agent = AgentServer::start("").await;
    let quarter = Ratio::new(0.25).unwrap();
    agent.says(agent_line(quarter));
    let site = Site::new();
    let upstream = site.start().await;
    let haproxy = HaProxy::start(upstream.address, agent.address);
    haproxy.until("get weight b/s", "75 (initial 100)").await;
    agent.says(agent_line(Ratio::saturating(0.9)));
    haproxy.until("get weight b/s", "10 (initial 100)").await;
    // What HAProxy understands of a server that was taken out, we take back by the same line.
    agent.says("maint\n");
    until("it is taken out", async || {
        (get("/a.png").ask(haproxy.cache.address).await.status == 503).then_some(())
    })
    .await;
    agent.says(agent_line(quarter));
    until("it is back", async || {
        (get("/a.png").ask(haproxy.cache.address).await.status == 200).then_some(())
    })
    .await;
    haproxy.until("get weight b/s", "75 (initial 100)").await;
}

#[tokio::test]
#[ignore = "needs haproxy"]
async fn haproxy_weighs_an_edge_by_its_load_and_lets_it_end_in_peace() {
    let site = Site::new();
    let upstream = site.start().await;
    let (edge, agent) = edge_with_agent(upstream.address, "").await;
    let haproxy = HaProxy::start(edge.site, agent);
    haproxy.until("get weight b/s", "100 (initial 100)").await;
    let address = haproxy.cache.address;
    let slow = tokio::spawn(async move { get("/slow.png").host("localhost").ask(address).await });
    haproxy.until("get weight b/s", "75 (initial 100)").await;
    // Asked to stop it says so, while it finishes what is under way.
    let ending = tokio::spawn(edge.terminate());
    haproxy.until("show stat", ",DRAIN (agent),").await;
    site.released.send(true).unwrap();
    assert_eq!(soon("the answer", slow).await.unwrap().status, 200);
    assert_eq!(ending.await.unwrap(), Some(0));
}

#[tokio::test]
async fn an_edges_agent_tells_its_load_to_whoever_connects() {
    let site = Site::new();
    let upstream = site.start().await;
    let (edge, agent) = edge_with_agent(upstream.address, "").await;
    let (primary, _folder) = with_report(&format!(
        "{{ kind = \"agent\", url = \"{agent}\", every = \"50ms\" }}"
    ))
    .await;
    let reported = async |load: f64| {
        primary
            .until("the load is known", |status| {
                status["servers"][0]["reported"].as_f64() == Some(load)
            })
            .await
    };
    reported(0.0).await;
    let address = edge.site;
    let ask = || tokio::spawn(async move { get("/slow.png").host("localhost").ask(address).await });
    let mut asking = vec![ask(), ask()];
    reported(0.5).await;
    // Those who connect and leave the line unread keep nobody from it.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tokio::net::TcpStream::connect(agent).await.unwrap());
    }
    asking.extend([ask(), ask()]);
    let status = reported(1.0).await;
    assert_eq!(status["servers"][0]["usable"], false);
    site.released.send(true).unwrap();
    for asking in asking {
        assert_eq!(soon("the answer", asking).await.unwrap().status, 200);
    }
    reported(0.0).await;
}

#[tokio::test]
async fn an_edge_over_its_own_threshold_tells_its_agents_askers_and_its_report_so() {
    let site = Site::new();
    let upstream = site.start().await;
    let lines = "load.in_flight.offload = 0.1\nload.in_flight.throttle = 0.2";
    let (edge, agent) = edge_with_agent(upstream.address, lines).await;
    let (by_agent, _folder) = with_report(&format!(
        "{{ kind = \"agent\", url = \"{agent}\", every = \"50ms\" }}"
    ))
    .await;
    let (by_orca, _folder) = with_report(&format!(
        "{{ kind = \"orca\", url = \"http://{}/.overspill/load\", every = \"50ms\" }}",
        edge.site
    ))
    .await;
    by_agent.until_usable("eu", true).await;
    by_orca.until_usable("eu", true).await;
    // One of the four that it can take.
    let address = edge.site;
    let asking = tokio::spawn(async move { get("/slow.png").host("localhost").ask(address).await });
    until_reason(&by_orca, "over a threshold of its own").await;
    assert_eq!(by_orca.server("eu").await["usable"], false);
    until_reason(&by_agent, "load 1.00").await;
    site.released.send(true).unwrap();
    assert_eq!(soon("the answer", asking).await.unwrap().status, 200);
    by_orca.until_usable("eu", true).await;
    by_agent.until_usable("eu", true).await;
}
