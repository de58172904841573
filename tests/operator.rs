//! What an operator learns beside the status: history, decisions, events, explanations; and what nobody else gets.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::support::{
    self,
    client::{connect, get, post, visitor},
    config::Config,
    offload_server::OffloadServer,
    program::Program,
    small_site,
    wait::{soon, until},
};

async fn json_of(path: &str, admin: SocketAddr) -> Value {
    let answer = get(path).ask(admin).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// A stream of `/api/events`, read as the HTML standard says.
struct Events(BufReader<TcpStream>);

impl Events {
    async fn watch(admin: SocketAddr) -> Self {
        let mut stream = connect(visitor(1), admin).await.unwrap();
        let request = "GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self(BufReader::new(stream));
        let head = events.line().await;
        assert_eq!(head, "HTTP/1.1 200 OK");
        while !events.line().await.is_empty() {}
        events
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = soon("a line", self.0.read_line(&mut line)).await.unwrap();
        assert_ne!(read, 0, "the stream ended");
        line.trim_end().to_owned()
    }

    /// The next event of a kind, and all that came before it.
    async fn next(&mut self, wanted: &str) -> Value {
        let mut kind = String::new();
        loop {
            // The chunks' lengths stand between.
            let line = self.line().await;
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut kind);
            } else if let Some(data) = line.strip_prefix("data: ")
                && kind == wanted
            {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn who_watches_gets_the_past_and_then_what_happens() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    let mut events = Events::watch(program.admin).await;
    let history = events.next("history").await;
    assert_eq!(history["step"], 1.0);
    assert!(history["time"].is_array() && history["requests"]["served"].is_array());
    let start = events.next("decision").await;
    assert_eq!(start["kind"], "start");
    let status = events.next("status").await;
    assert_eq!(
        (&status["level"], &status["lifecycle"]),
        (&json!("normal"), &json!("serving"))
    );
    assert!(status["time"].as_f64().unwrap() > 1.6e9);
    let point = events.next("point").await;
    assert_eq!(point["level"], 0);
    assert!(point["signals"]["cpu"].is_null(), "off: no load");

    program.hold_level("throttle").await;
    let held = events.next("decision").await;
    assert_eq!(held["kind"], "override");
    assert!(
        held["text"]
            .as_str()
            .unwrap()
            .starts_with("throttle held by hand for 1h")
    );
    assert_eq!(events.next("status").await["level"], "throttle", "at once");
    assert_eq!(get("/").ask(program.site).await.status, 503);
    until("the point of a page turned away", async || {
        let point = events.next("point").await;
        (point["requests"]["throttled"].as_f64().unwrap() > 0.0).then(|| {
            assert_eq!(
                (&point["level"], &point["throttled"]),
                (&json!(2), &json!(1.0))
            );
        })
    })
    .await;
    let history = json_of("/api/history", program.admin).await;
    let length = history["time"].as_array().unwrap().len();
    assert!(length >= 2);
    for column in ["level", "share", "throttled", "dropped"] {
        assert_eq!(
            history[column].as_array().unwrap().len(),
            length,
            "{column}"
        );
    }

    assert_eq!(
        program.terminate().await,
        Some(0),
        "watchers do not keep it from ending"
    );
    let mut rest = Vec::new();
    let _ = soon("the stream ends", events.0.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn every_decision_is_a_line_in_words_and_figures() {
    let site = small_site();
    let server = OffloadServer::start(site.path(), 0.1).await;
    let lines = format!(
        "offload.servers = [{}]\nload.in_flight.capacity = 100",
        server.entry("eu", "")
    );
    let mut program = Program::serve(&Config::of_site(&site, &lines)).await;
    program.until_usable("eu", true).await;
    program.hold_level("offload").await;
    let answer = post("/api/override", r#"{"level":null}"#)
        .ask(program.admin)
        .await;
    assert_eq!(answer.status, 200);
    drop(server);
    program.until_usable("eu", false).await;
    let decisions = until("the server's end is told", async || {
        let told = json_of("/api/decisions", program.admin).await;
        let told = told["decisions"].as_array().unwrap().clone();
        (told.iter().filter(|told| told["kind"] == "server").count() >= 2).then_some(told)
    })
    .await;
    let kinds: Vec<&str> = decisions
        .iter()
        .map(|it| it["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds[0], "start");
    let texts: Vec<&str> = decisions
        .iter()
        .map(|it| it["text"].as_str().unwrap())
        .collect();
    for part in [
        "eu takes work",
        "offload held by hand for 1h, whatever the load: it asks for normal",
        "no level is held by hand any more",
        "eu gets no work: not healthy: ",
    ] {
        assert!(
            texts.iter().any(|text| text.starts_with(part)),
            "{part} in {texts:#?}"
        );
    }
    let ids: Vec<u64> = decisions
        .iter()
        .map(|it| it["id"].as_u64().unwrap())
        .collect();
    assert!(ids.is_sorted_by(|a, b| a + 1 == *b), "{ids:?}");
    let dead = decisions.last().unwrap();
    assert_eq!(dead["details"]["server"], "eu");
    assert_eq!(dead["details"]["usable"], false);
    let log = program.log();
    for message in [
        "level overridden",
        "override ended",
        "offload server changed",
        "started",
    ] {
        assert!(log.contains(message), "{message} in {log}");
    }
    let last = json_of("/api/decisions?limit=1", program.admin).await;
    assert_eq!(last["decisions"].as_array().unwrap().len(), 1);
    assert_eq!(
        get("/api/decisions?limit=many")
            .ask(program.admin)
            .await
            .status,
        400
    );
    program.kill().await;
}

#[tokio::test]
async fn a_change_of_level_tells_the_signal_its_load_and_its_threshold() {
    let site = small_site();
    let lines = "load.in_flight.capacity = 4\nload.in_flight.offload = 0.2\noffload.hold = \"0s\"\n\
                 load.in_flight.throttle = 50";
    let upstream = support::upstream::Upstream::start(axum::Router::new()).await;
    let config = Config::of_site(&site, lines).with(format!(
        "primary.upstream = \"http://{}\"",
        upstream.address
    ));
    let config: String = config
        .to_string()
        .lines()
        .filter(|line| !line.starts_with("primary.site"))
        .map(|line| format!("{line}\n"))
        .collect();
    let program = Program::serve(&Config::default().with(config)).await;
    let mut held = support::upstream::Held::none();
    upstream.hold(&program, &mut held, 3).await;
    program.until_level("offload").await;
    upstream.release(&mut held).await;
    program.until_level("normal").await;
    let told = json_of("/api/decisions", program.admin).await;
    let levels: Vec<&Value> = told["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["kind"] == "level")
        .collect();
    let up = levels[0];
    assert_eq!(
        (
            &up["details"]["from"],
            &up["details"]["to"],
            &up["details"]["signal"]
        ),
        (&json!("normal"), &json!("offload"), &json!("in_flight"))
    );
    let load = up["details"]["load"].as_f64().unwrap();
    assert!(load > 0.2);
    assert_eq!(
        up["text"],
        format!("normal → offload: in_flight {load:.2} ≥ 0.20")
    );
    let down = levels[1]["text"].as_str().unwrap();
    assert!(down.starts_with("offload → normal: "), "{down}");
}

#[tokio::test]
async fn explains_what_would_happen_with_a_client_and_why() {
    let site = small_site();
    let (eu, us) = (
        OffloadServer::start(site.path(), 0.1).await,
        OffloadServer::start(site.path(), 0.95).await,
    );
    let lines = format!(
        "offload.servers = [{}, {}, {}]\n\
         offload.clients = [{{ addresses = [\"203.0.113.0/24\"], servers = [\"us\"] }}]\n\
         throttle.bypass.paths = [\"/healthz\"]\noffload.identity = {{ cookie = \"id\" }}",
        eu.entry("eu", ""),
        us.entry("us", ""),
        "{ name = \"dead\", url = \"http://127.0.0.1:9\", health = { every = \"100ms\" } }",
    );
    let program = Program::serve(&Config::of_site(&site, &lines)).await;
    program.until_usable("eu", true).await;
    program
        .until("dead is known to be", |status| {
            status["servers"][2]["health"] == "ill" && status["servers"][1]["load"].is_number()
        })
        .await;
    let explain =
        async |query: &str| json_of(&format!("/api/explain?{query}"), program.admin).await;

    let calm = explain("path=/&client=192.0.2.7").await;
    assert_eq!(
        (&calm["outcome"], &calm["level"]),
        (&json!("serve"), &json!("normal"))
    );
    assert_eq!(
        calm["text"],
        "the primary serves it alone, since the level is normal"
    );

    program.hold_level("offload").await;
    let offloaded = explain("path=/&client=192.0.2.7").await;
    assert_eq!(
        (&offloaded["outcome"], &offloaded["server"]),
        (&json!("offload"), &json!("eu"))
    );
    assert_eq!(offloaded["in_share"], true);
    assert_eq!(offloaded["gate"], "passes");
    assert_eq!(
        explain("path=/&client=127.0.0.1").await["gate"],
        "exempt",
        "the servers are there"
    );
    let place = offloaded["place"].as_f64().unwrap();
    assert_eq!(
        offloaded["text"],
        format!(
            "the page comes from the primary, its objects from eu, since its place is below the share (place {place:.3}, share 1.000)"
        )
    );
    let why: Vec<&str> = offloaded["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["why"].as_str().unwrap())
        .collect();
    assert_eq!(why[0], "chosen");
    assert!(
        why[1].starts_with("load 0.95 is not below its threshold"),
        "{why:?}"
    );
    assert!(why[2].starts_with("not healthy: "), "{why:?}");

    let ruled = explain("path=/&client=203.0.113.9").await;
    assert_eq!(
        (&ruled["outcome"], &ruled["rule"]),
        (&json!("serve"), &json!({ "index": 0, "servers": ["us"] }))
    );
    assert_eq!(
        ruled["servers"][0]["why"],
        "the client's rule does not name it"
    );
    let one = explain("path=/&client=192.0.2.7&identity=anna").await;
    let other = explain("path=/&client=192.0.2.8&identity=anna").await;
    assert_eq!(
        one["place"], other["place"],
        "who says who he is is the same anywhere"
    );
    assert_ne!(one["place"], offloaded["place"]);
    let object = explain("path=/a.png&client=192.0.2.7").await;
    assert_eq!(
        object["text"],
        "the primary serves it alone, since it is no page and begins nothing"
    );
    let exempt = explain("path=/healthz&client=192.0.2.7").await;
    assert_eq!(exempt["outcome"], "bypass");

    program.hold_level("throttle").await;
    let away = explain("path=/&client=192.0.2.7").await;
    assert_eq!(
        (&away["outcome"], &away["server"]),
        (&json!("throttle"), &Value::Null)
    );
    assert!(
        away["text"]
            .as_str()
            .unwrap()
            .starts_with("it gets a 503, since its place is below"),
        "{away}"
    );
    // It is what happens.
    assert_eq!(
        get("/").from(visitor(7)).ask(program.site).await.status,
        503
    );

    program.hold_level("drop").await;
    assert_eq!(explain("path=/&client=192.0.2.7").await["gate"], "closed");

    for (query, part) in [
        ("path=/", "`client`: expected an IP address"),
        (
            "path=/&client=example.org",
            "`client`: expected an IP address, found \\\"example.org\\\"",
        ),
        ("path=x&client=192.0.2.7", "`path`: expected a path"),
        (
            "path=/%20%00%0a&client=192.0.2.7",
            "`path`: expected a path",
        ),
        ("path=/&client=192.0.2.7&more=1", "unknown field `more`"),
    ] {
        let answer = get(&format!("/api/explain?{query}"))
            .ask(program.admin)
            .await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        assert!(answer.text().contains(part), "{query}: {}", answer.text());
    }
}

#[tokio::test]
async fn answers_say_why_where_that_is_asked_for() {
    let site = small_site();
    let server = OffloadServer::start(site.path(), 0.1).await;
    let lines = format!(
        "offload.servers = [{}]\nthrottle.bypass.paths = [\"/healthz\"]",
        server.entry("eu", "")
    );
    let program = Program::serve(&Config::of_site(
        &site,
        &format!("{lines}\nexplain_header = true"),
    ))
    .await;
    program.until_usable("eu", true).await;
    let told = async |path: &str| {
        let answer = get(path)
            .header("Accept", "text/html")
            .ask(program.site)
            .await;
        answer.header("x-overspill").unwrap_or_default().to_owned()
    };
    assert_eq!(
        told("/").await,
        "served; level=normal; why=\"the level is normal\""
    );
    assert_eq!(
        told("/healthz").await,
        "bypassed; level=normal; why=\"its path or its address is exempt\""
    );
    program.hold_level("offload").await;
    let page = told("/").await;
    assert!(
        page.starts_with("offloaded; level=offload; share=1.000; place=0."),
        "{page}"
    );
    assert!(
        page.ends_with("; server=\"eu\"; why=\"its place is below the share\""),
        "{page}"
    );
    let object = told("/a.png").await;
    assert!(object.starts_with("served; level=offload;"), "{object}");
    program.hold_level("throttle").await;
    let away = told("/").await;
    assert!(
        away.starts_with("throttled; level=throttle;") && away.contains("turned away"),
        "{away}"
    );

    let silent = Program::serve(&Config::of_site(&site, &lines)).await;
    assert_eq!(get("/").ask(silent.site).await.header("x-overspill"), None);
}

#[tokio::test]
async fn wrong_tokens_are_heard_ten_times_a_minute() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "admin.token = \"open sesame\"")).await;
    let with = |token: &str, number| {
        get("/api/status")
            .header("Authorization", &format!("Bearer {token}"))
            .from(visitor(number))
    };
    for _ in 0..10 {
        assert_eq!(with("guess", 1).ask(program.admin).await.status, 401);
    }
    let refused = with("open sesame", 1).ask(program.admin).await;
    assert_eq!(refused.status, 429, "whatever it shows");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait));
    assert!(refused.text().contains("too many wrong tokens"));
    assert_eq!(
        with("open sesame", 2).ask(program.admin).await.status,
        200,
        "others are heard"
    );
    for _ in 0..20 {
        // Who shows none guesses nothing.
        assert_eq!(
            get("/api/status")
                .from(visitor(3))
                .ask(program.admin)
                .await
                .status,
            401
        );
    }
}

#[tokio::test]
async fn a_thousand_watchers_are_bounded_and_others_are_answered() {
    let site = small_site();
    let program = Program::serve_after("ulimit -n 4096", &Config::of_site(&site, "")).await;
    let mut watching = Vec::new();
    let (mut taken, mut refused) = (0, 0);
    for number in 0..1_000 {
        let Ok(mut stream) = connect(visitor(number), program.admin).await else {
            continue;
        };
        let request = "GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        if stream.write_all(request.as_bytes()).await.is_err() {
            continue;
        }
        let mut head = [0; 12];
        match soon("an answer, or none", stream.read_exact(&mut head)).await {
            Ok(_) if head.ends_with(b"200") => taken += 1,
            Ok(_) => {
                assert!(head.ends_with(b"503"), "{}", String::from_utf8_lossy(&head));
                refused += 1;
            }
            Err(_) => {}
        }
        // Nobody reads on.
        watching.push(stream);
    }
    assert_eq!(taken, 64);
    assert!(refused > 0);
    assert_eq!(get("/").ask(program.site).await.status, 200);
    assert_eq!(program.status().await["level"], "normal");
    drop(watching);
    until("there is room again", async || {
        let mut stream = connect(visitor(1), program.admin).await.ok()?;
        let request = "GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.ok()?;
        head.ends_with(b"200").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_dashboard_is_there_for_anyone_and_asks_nobody_else() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "admin.token = \"open sesame\"")).await;
    let page = get("/").ask(program.admin).await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    let html = page.text();
    for part in [
        "src=\"http",
        "href=\"http",
        "src=\"//",
        "href=\"//",
        "@import",
        "style=\"",
    ] {
        assert!(!html.contains(part), "{part}");
    }
    let files: Vec<&str> = html
        .split(['"', '\''])
        .filter(|part| part.starts_with("/dashboard/") || part.starts_with("dashboard/"))
        .collect();
    assert!(files.len() >= 2, "{html}");
    for file in files {
        let file = format!("/{}", file.trim_start_matches('/'));
        let answer = get(&file).ask(program.admin).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(!answer.body.is_empty());
        let tag = answer.header("etag").unwrap().to_owned();
        let again = get(&file)
            .header("If-None-Match", &tag)
            .ask(program.admin)
            .await;
        assert_eq!(again.status, 304, "{file}");
    }
    for path in [
        "/dashboard/",
        "/dashboard/../Cargo.toml",
        "/dashboard/%2e%2e/index.html",
        "/dashboard/none.js",
    ] {
        assert_eq!(get(path).ask(program.admin).await.status, 404, "{path}");
    }
}
