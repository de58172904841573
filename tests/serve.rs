//! `overspill serve` against everything that is strange: pages, requests, headers, reports.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    response::IntoResponse,
    routing::get as route,
};
use futures_util::stream;
use http::header;
use tokio::{io::AsyncWriteExt, sync::Semaphore};

use crate::support::{
    self,
    client::{connect, drain, get, visitor},
    config::Config,
    folder,
    offload_server::{Answers, OffloadServer},
    program::Program,
    raw::parse,
    upstream::Upstream,
    wait::{until, until_within},
};

/// A server that takes whatever it is given, and is not there.
const ELSEWHERE: &str = "http://offload.example:8";

fn elsewhere(lines: &str) -> Config {
    Config::new(format!(
        "offload.servers = [{{ name = \"eu\", url = \"{ELSEWHERE}\", cors = true, health = false }}]\n{lines}"
    ))
}

/// The pages, by path: type and bytes.
fn strange_pages() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let html = "text/html; charset=utf-8";
    let whole = b"<!doctype html><title>x</title><img src=\"/a.png\" alt='x'><p>text".to_vec();
    let cut = |at: &[u8]| {
        let end = whole
            .windows(at.len())
            .position(|window| window == at)
            .unwrap();
        whole[..end + at.len()].to_vec()
    };
    let nested = [
        b"<div>".repeat(100_000),
        b"<img src=\"/a.png\">".to_vec(),
        b"</div>".repeat(100_000),
    ]
    .concat();
    let mut random = 1_u64;
    let binary: Vec<u8> = std::iter::repeat_with(|| {
        // Knuth's MMIX: any sequence that looks like none will do.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    })
    .take(300_000)
    .collect();
    let mut between = binary.clone();
    between.splice(1000..1000, whole.clone());
    let utf16 = |big: bool| -> Vec<u8> {
        let text: Vec<u16> = "\u{feff}<img src=\"/a.png\">".encode_utf16().collect();
        text.iter()
            .flat_map(|unit| {
                if big {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            })
            .collect()
    };
    let nuls = [
        &b"<img\0 src=\"/a.png\"><p>\0\0\0<img src=\"/a\0.png\"><img src=\"/a.png\0\">"[..],
        &[0; 5000],
    ]
    .concat();
    vec![
        ("/empty", html, Vec::new()),
        ("/whole", html, whole.clone()),
        ("/cut-in-a-name", html, cut(b"<im")),
        ("/cut-in-a-tag", html, cut(b"<img ")),
        ("/cut-in-an-attribute", html, cut(b"src=\"/a.p")),
        ("/cut-in-text", html, cut(b"<p>te")),
        (
            "/cut-in-a-comment",
            html,
            b"<p><!-- <img src=\"/a.png\">".to_vec(),
        ),
        (
            "/cut-in-a-script",
            html,
            b"<script>let a = '<img src=\"/a.png\">".to_vec(),
        ),
        ("/nested", html, nested),
        ("/binary", html, binary),
        ("/in-between-binary", html, between),
        ("/nuls", html, nuls),
        ("/utf-16le", "text/html; charset=utf-16le", utf16(false)),
        ("/utf-16be", "text/html; charset=UTF-16BE", utf16(true)),
        ("/utf-16", "text/html; charset=\"utf-16\"", utf16(true)),
        (
            "/one-long-tag",
            html,
            [b"<img ".to_vec(), vec![b'x'; 3_000_000]].concat(),
        ),
        (
            "/one-long-value",
            html,
            [
                b"<img src=\"/".to_vec(),
                vec![b'x'; 3_000_000],
                b".png\">".to_vec(),
            ]
            .concat(),
        ),
        (
            "/many-attributes",
            html,
            [
                b"<img".to_vec(),
                b" a=b".repeat(300_000),
                b" src=\"/a.png\">".to_vec(),
            ]
            .concat(),
        ),
        (
            "/latin-1",
            "text/html; charset=iso-8859-1",
            b"<p>\xe4\xff\x80<img src=\"/a.png\">\xa0".to_vec(),
        ),
        (
            "/not-what-it-says",
            html,
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(),
        ),
    ]
}

#[tokio::test]
async fn strange_pages_go_out_byte_for_byte_but_for_links() {
    let mut app = Router::new();
    for (path, kind, content) in strange_pages() {
        app = app.route(
            path,
            route(async move || ([(header::CONTENT_TYPE, kind)], content)),
        );
    }
    let upstream = Upstream::start(app).await;
    let program = Program::serve(&elsewhere(&format!(
        "primary.upstream = \"http://{}\"",
        upstream.address
    )))
    .await;
    program.until_usable("eu", true).await;
    for level in ["normal", "offload"] {
        program.hold_level(level).await;
        for (path, _, content) in strange_pages() {
            let answer = get(path).ask(program.site).await;
            assert_eq!(answer.status, 200, "{path}");
            assert!(answer.is_whole, "{path}");
            let prefixes = count(&answer.body, ELSEWHERE.as_bytes());
            let restored = without(&answer.body, ELSEWHERE.as_bytes());
            assert!(
                restored == content,
                "{level} {path}: {} bytes of {}",
                restored.len(),
                content.len()
            );
            let moves = level == "offload" && ["/whole", "/latin-1"].contains(&path);
            let stays = level == "normal"
                || [
                    "/empty",
                    "/binary",
                    "/not-what-it-says",
                    "/cut-in-a-comment",
                    "/cut-in-a-script",
                    "/cut-in-an-attribute",
                ]
                .contains(&path)
                || path.starts_with("/utf");
            assert!(!moves || prefixes == 1, "{path}: {prefixes}");
            assert!(!stays || prefixes == 0, "{path}: {prefixes}");
        }
    }
    assert_eq!(
        get("/whole").ask(program.site).await.status,
        200,
        "it serves on"
    );
    assert!(!program.log().contains("panicked"), "{}", program.log());
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len())
        .filter(|window| *window == part)
        .count()
}

fn without(text: &[u8], part: &[u8]) -> Vec<u8> {
    let mut rest = text;
    let mut left = Vec::with_capacity(text.len());
    while let Some(at) = rest.windows(part.len()).position(|window| window == part) {
        left.extend_from_slice(&rest[..at]);
        rest = &rest[at + part.len()..];
    }
    left.extend_from_slice(rest);
    left
}

/// Sends `request` as it is; gives the answer.
async fn answer_to(program: &Program, request: &[u8]) -> support::raw::Answer {
    let mut stream = connect(Ipv4Addr::LOCALHOST, program.site).await.unwrap();
    // Who refuses in the middle of a request may close before it has read the rest.
    let _ = stream.write_all(request).await;
    let (read, _) = drain(&mut stream).await;
    assert!(
        !read.is_empty(),
        "no answer to {}",
        String::from_utf8_lossy(&request[..request.len().min(200)])
    );
    parse(&read, request.starts_with(b"HEAD "))
}

#[tokio::test]
async fn strange_requests_are_refused_and_never_redirected() {
    let site = folder([
        ("index.html", b"<p>home".as_slice()),
        ("a.png", b"png"),
        (".secret", b"s3cret"),
    ]);
    let upstream = Upstream::start(Router::new().fallback(async || "s3cret")).await;
    let lines = "offload.redirect = [\"/**\", \"**\"]";
    let folder = elsewhere(&format!("{lines}\nprimary.site = {:?}", site.path()));
    let proxy = elsewhere(&format!(
        "{lines}\nprimary.upstream = \"http://{}\"",
        upstream.address
    ));
    let long = format!("/{}", "a".repeat(64 * 1024));
    for config in [folder, proxy] {
        let program = Program::serve(&config).await;
        program.until_usable("eu", true).await;
        for level in ["normal", "offload", "throttle"] {
            program.hold_level(level).await;
            for target in [
                "/../../etc/passwd",
                "/..",
                "/a/..",
                "/%2e%2e/%2e%2e/etc/passwd",
                "/.%2E/",
                "/a/%2e./b",
                "/%00",
                "/a%00.png",
                "//evil.example/",
                "//evil.example",
                "/\\evil.example/",
                "/%5cevil.example/..",
                "/%",
                "/%zz",
                "/%2",
                "http://evil.example/",
                "https://evil.example/a.png",
                "evil.example:80",
                "evil.example",
                "*",
                "",
                "?",
                long.as_str(),
            ] {
                for method in ["GET", "HEAD", "POST"] {
                    let request = format!(
                        "{method} {target} HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                    );
                    let answer = answer_to(&program, request.as_bytes()).await;
                    let shown: String = target.chars().take(50).collect();
                    assert!(
                        (400..500).contains(&answer.status),
                        "{level} {method} {shown}: {}",
                        answer.status
                    );
                    assert_eq!(answer.header("location"), None, "{level} {method} {shown}");
                    assert!(
                        !answer.body.windows(6).any(|window| window == b"s3cret"),
                        "{method} {shown}"
                    );
                    assert!(
                        !answer.body.windows(5).any(|window| window == b"root:"),
                        "{method} {shown}"
                    );
                }
            }
            for host in [
                "",
                "Host:\r\n",
                "Host: \r\n",
                "Host: a b\r\n",
                "Host: a/b\r\n",
                "Host: user@a\r\n",
                "Host: a\r\nHost: b\r\n",
                "Host: a\r\nHost: a\r\n",
                "Host: a:99999\r\n",
                "Host: [::1\r\n",
                "Host: <script>\r\n",
                "Host: a\\b\r\n",
                "Host: \"evil.example\"\r\n",
                "Host: a,b\x7f\r\n",
                "Host: \u{e4}.example\r\n",
                "Host: evil.example#\r\n",
                "Host: evil.example?\r\n",
                &format!("Host: {}\r\n", "a".repeat(300)),
            ] {
                let request = format!("GET /a.png HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
                let answer = answer_to(&program, request.as_bytes()).await;
                assert!(
                    (400..500).contains(&answer.status),
                    "{level} {host:?}: {}",
                    answer.status
                );
                assert_eq!(answer.header("location"), None, "{level} {host:?}");
            }
        }
        // What is proper is redirected, and nowhere else but to the server, whatever the Host says.
        program.hold_level("offload").await;
        for (target, host) in [
            ("/a.png", "site.example"),
            ("/a.png?x=//evil.example/", "evil.example"),
            ("/@evil.example", "a"),
            ("/.evil.example", "a"),
            ("/:8@evil.example/", "a"),
        ] {
            let answer = get(target).host(host).ask(program.site).await;
            assert_eq!(answer.status, 307, "{target}");
            assert_eq!(
                answer.header("location"),
                Some(format!("{ELSEWHERE}{target}").as_str())
            );
        }
    }
}

#[tokio::test]
async fn nobody_is_believed_but_trusted_proxies() {
    let site = folder([("index.html", b"<img src=\"/a.png\">".as_slice())]);
    let lines = format!(
        r#"
        primary.site = {:?}
        primary.trusted_proxies = ["127.0.0.2"]
        offload.identity = {{ header = "x-user" }}
        offload.select = ["client", "price", "load"]
        offload.servers = [
            {{ name = "plain", url = "http://plain.example", health = false, price = 0.01 }},
            {{ name = "gold", url = "http://gold.example", health = false, price = 0.09 }},
        ]
        offload.clients = [
            {{ identity = "gold-*", servers = ["gold"] }},
            {{ addresses = ["203.0.113.0/24"], servers = ["gold"] }},
        ]
        throttle.bypass.addresses = ["198.51.100.1"]
        "#,
        site.path(),
    );
    let program = Program::serve(&Config::new(lines)).await;
    program.until_usable("gold", true).await;
    program.until_usable("plain", true).await;
    program.hold_level("offload").await;
    let proxy = Ipv4Addr::new(127, 0, 0, 2);
    for (name, value) in [
        ("X-User", "gold-7"),
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-For", "6.6.6.6, 203.0.113.7, 127.0.0.2"),
        ("Forwarded", "for=203.0.113.7"),
        (
            "Forwarded",
            "for=\"203.0.113.7:4711\";proto=http, for=127.0.0.2",
        ),
    ] {
        let page = async |from: Ipv4Addr| {
            let answer = get("/")
                .from(from)
                .header(name, value)
                .ask(program.site)
                .await;
            answer.text().to_owned()
        };
        assert!(
            page(proxy).await.contains("http://gold.example/a.png"),
            "{name}: {value}"
        );
        assert!(
            page(visitor(1))
                .await
                .contains("http://plain.example/a.png"),
            "{name}: {value}"
        );
    }
    // What stands left of the last address that no trusted proxy added is the visitor's own invention.
    let invented = get("/")
        .from(proxy)
        .header("X-Forwarded-For", "203.0.113.7, 6.6.6.6");
    assert!(
        invented
            .ask(program.site)
            .await
            .text()
            .contains("http://plain.example/a.png")
    );
    program.hold_level("throttle").await;
    let exempt = |from: Ipv4Addr| {
        get("/")
            .from(from)
            .header("X-Forwarded-For", "198.51.100.1")
    };
    assert_eq!(exempt(visitor(1)).ask(program.site).await.status, 503);
    assert_eq!(exempt(proxy).ask(program.site).await.status, 200);
}

/// Reports that count for nothing, and what is said of them.
fn wrong_reports() -> Vec<(&'static str, Answers)> {
    let text = |text: &'static str| -> Answers { Arc::new(move || text.into_response()) };
    let endless = |every: Duration| -> Answers {
        Arc::new(move || {
            let bytes = stream::unfold((), move |()| async move {
                tokio::time::sleep(every).await;
                Some((
                    Ok::<_, std::convert::Infallible>(Bytes::from_static(b" ")),
                    (),
                ))
            });
            Body::from_stream(bytes).into_response()
        })
    };
    vec![
        ("expected an ORCA report as JSON", text("<html>")),
        ("expected an ORCA report as JSON", text("")),
        (
            "expected an ORCA report as JSON",
            text("{\"application_utilization\":NaN}"),
        ),
        (
            "expected an ORCA report as JSON",
            text("{\"application_utilization\":1e999}"),
        ),
        ("found -0.5", text("{\"application_utilization\":-0.5}")),
        ("found none", text("{\"load\":0.1}")),
        (
            "status 200, found 404",
            Arc::new(|| http::StatusCode::NOT_FOUND.into_response()),
        ),
        (
            "at most 65536 bytes",
            Arc::new(|| vec![b' '; 10_000_000].into_response()),
        ),
        ("no report within", endless(Duration::from_millis(50))),
    ]
}

#[tokio::test]
async fn a_report_that_is_none_counts_as_stale_and_says_why() {
    let site = folder([("index.html", b"<img src=\"/a.png\">".as_slice())]);
    for (known, keys) in [(false, ""), (true, "capacity = \"1Gbit/s\",")] {
        let mut servers = Vec::new();
        let mut entries = Vec::new();
        for (number, (reason, answers)) in wrong_reports().into_iter().enumerate() {
            let server = OffloadServer::start(site.path(), 0.1).await;
            server.set_report(answers);
            entries.push(server.entry(&format!("s{number}"), keys));
            servers.push((server, reason));
        }
        let lines = format!(
            "primary.site = {:?}\noffload.servers = [{}]",
            site.path(),
            entries.join(", ")
        );
        let program = Program::serve(&Config::new(lines)).await;
        for (number, (_, reason)) in servers.iter().enumerate() {
            let name = format!("s{number}");
            let server = until(format_args!("{name} is stale: {reason}"), async || {
                let server = program.server(&name).await;
                let told = server["reason"]
                    .as_str()
                    .is_some_and(|told| told.contains("report stale") && told.contains(reason));
                (told && server["health"] == "well").then_some(server)
            })
            .await;
            assert_eq!(server["reported"], serde_json::Value::Null, "{server}");
            assert_eq!(
                server["usable"], known,
                "what was assigned is known with the capacity alone: {server}"
            );
        }
        program.hold_level("offload").await;
        let moved = get("/").ask(program.site).await.text() != "<img src=\"/a.png\">";
        assert_eq!(moved, known, "without one to take it the work stays here");
        // It says something sensible again, and is believed again; then nonsense, and what it said expires.
        let (server, reason) = &servers[0];
        server.set_load(0.2);
        let fresh = until("a report counts", async || {
            let server = program.server("s0").await;
            (server["reported"] == 0.2).then_some(server)
        })
        .await;
        assert_eq!(
            (&fresh["usable"], &fresh["reason"]),
            (&true.into(), &serde_json::Value::Null)
        );
        server.set_report(wrong_reports().remove(0).1);
        until("what it said expires", async || {
            let server = program.server("s0").await;
            let told = server["reason"]
                .as_str()
                .is_some_and(|told| told.contains(reason));
            (server["reported"].is_null() && told && server["usable"] == known).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_gets_no_work_until_it_does() {
    let site = folder([("index.html", b"<img src=\"/a.png\">".as_slice())]);
    let server = OffloadServer::start(site.path(), 0.1).await;
    let lines = format!(
        r#"
        primary.site = {:?}
        offload.servers = [
            {},
            {{ name = "gone", url = "http://127.0.0.1:9", health = {{ path = "/", every = "100ms" }} }},
            {{ name = "ill", url = "{}", health = {{ path = "/.overspill/load", every = "100ms" }} }},
        ]
        "#,
        site.path(),
        server.entry("well", ""),
        server.url(),
    );
    server.set_report(Arc::new(|| {
        http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }));
    let program = Program::serve(&Config::new(lines)).await;
    let reason = async |name: &'static str, part: &'static str| {
        until(format_args!("{name}: {part}"), async || {
            let server = program.server(name).await;
            (server["usable"] == false && server["reason"].as_str()?.contains(part)).then_some(())
        })
        .await;
    };
    reason("gone", "not healthy: ").await;
    reason("ill", "it answered 500").await;
    program.hold_level("offload").await;
    server.set_report(Arc::new(|| {
        http::StatusCode::SERVICE_UNAVAILABLE.into_response()
    }));
    until("alive, but busy", async || {
        (program.server("ill").await["health"] == "busy").then_some(())
    })
    .await;
    assert_eq!(program.server("ill").await["usable"], false);
    server.set_load(0.1);
    program.until_usable("ill", true).await;
    program.until_usable("well", true).await;
    assert!(
        get("/")
            .ask(program.site)
            .await
            .text()
            .contains(&server.url())
    );
}

#[tokio::test]
async fn who_says_nothing_is_shown_out_and_who_asked_may_stay() {
    let site = support::folder([("index.html", b"home".as_slice())]);
    let mut settings = overspill::Settings::from_toml("load.cpu.enabled = false").unwrap();
    settings.primary.listen = "127.0.0.1:0".parse().unwrap();
    settings.primary.site = Some(site.path().to_owned());
    let overspill = overspill::Overspill::start(settings.clone()).unwrap();
    let inner = overspill::app::inner(&settings.primary).unwrap();
    let mut serving = overspill::app::Serving::new(&settings, inner, overspill)
        .await
        .unwrap();
    serving.limits.head_time = std::time::Duration::from_secs(3);
    let address = axum::serve::Listener::local_addr(&serving.listener).unwrap();
    tokio::spawn(overspill::app::serve(serving, std::future::pending()));

    let local = std::net::Ipv4Addr::LOCALHOST;
    let mut asked = support::client::connect(local, address).await.unwrap();
    let line = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut asked, line)
        .await
        .unwrap();
    let mut silent = support::client::connect(local, address).await.unwrap();
    let (read, _) = support::client::drain(&mut silent).await;
    assert_eq!(read, b"", "ended without a word");
    // The other one is still served: its own patience began anew with its answer.
    let mut answer = [0; 15];
    tokio::io::AsyncReadExt::read_exact(&mut asked, &mut answer)
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

/// Looks at the load are a minute apart here, so that no look brings it about.
#[tokio::test]
async fn an_episode_begins_as_soon_as_promises_ask_for_it() {
    // Of 125 KB a second over two seconds: 0.84 of the link.
    let picture = vec![7; 200_000];
    let site = folder([
        ("index.html", b"<!doctype html><img src=/a.png>".as_slice()),
        ("a.png", &picture),
    ]);
    let program = Program::serve(&elsewhere(&format!(
        "primary.site = {:?}\noffload.share = 1.0\nload.interval = \"60s\"\nload.bandwidth.enabled = true\n\
         load.bandwidth.source = \"responses\"\nload.bandwidth.capacity = \"1Mbit/s\"",
        site.path()
    )))
    .await;
    // Of a page that was not read yet nobody knows what it promises.
    assert!(
        get("/")
            .ask(program.site)
            .await
            .text()
            .contains("src=/a.png")
    );
    program
        .until("the page is known", |status| {
            status["pages_scanned_ahead"] == 1
        })
        .await;
    assert_eq!(program.status().await["level"], "normal");
    get("/").ask(program.site).await;
    let half_a_look = Duration::from_secs(30);
    until_within(half_a_look, "an episode", async || {
        (program.status().await["level"] != "normal").then_some(())
    })
    .await;
    let page = get("/").ask(program.site).await;
    assert!(page.text().contains(ELSEWHERE), "{}", page.text());
}

/// Looks at the load are a minute apart here: no average of it has anything to say.
#[tokio::test]
async fn more_requests_than_may_be_in_flight_do_not_get_through_to_the_application() {
    const CAPACITY: usize = 10;
    let begun = Arc::new(AtomicUsize::new(0));
    let release = Arc::new(Semaphore::new(0));
    let upstream = Upstream::start(Router::new().route("/", {
        let (begun, release) = (begun.clone(), release.clone());
        route(async move || {
            begun.fetch_add(1, Ordering::Relaxed);
            let _ = release.acquire().await;
            "<!doctype html><p>a page"
        })
    }))
    .await;
    let program = Program::serve(&Config::new(format!(
        "primary.upstream = \"http://{}\"\nload.interval = \"60s\"\nload.in_flight.capacity = {CAPACITY}",
        upstream.address
    )))
    .await;
    let visit = |number| {
        let visit = get("/").header("Accept", "text/html").from(visitor(number));
        let site = program.site;
        tokio::spawn(async move { visit.ask(site).await.status })
    };
    let first: Vec<_> = (0..CAPACITY).map(visit).collect();
    program.until_level("throttle").await;
    let late = (CAPACITY..10 * CAPACITY).map(visit);
    for visit in late.collect::<Vec<_>>() {
        assert_eq!(visit.await.unwrap(), 503);
    }
    assert_eq!(begun.load(Ordering::Relaxed), CAPACITY);
    release.add_permits(1_000);
    for visit in first {
        assert_eq!(visit.await.unwrap(), 200);
    }
    // The next one finds nobody before him.
    let next = get("/").from(visitor(200)).ask(program.site).await;
    assert_eq!(next.status, 200);
}
