//! `offload.spread = "object"`: each object of a page comes from the server that it hashes to, always from the same
//! one, and everything that names the server says the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use overspill::{
    Overspill, Settings,
    level::Level,
    rewrite::coding::{Coding, decode_all, encode_all},
};
use proptest::prelude::*;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

use crate::support::{
    client::{get, visitor},
    config::Config,
    folder,
    offload_server::OffloadServer,
    program::Program,
    wait::until,
};

/// A server that gets work at once.
fn entry(name: &str, more: &str) -> String {
    format!("{{ name = \"{name}\", url = \"http://{name}.example\", health = false, {more} }}")
}

fn with_cors(names: &[&str]) -> String {
    let entries: Vec<_> = names
        .iter()
        .map(|name| entry(name, "cors = true"))
        .collect();
    format!(
        "offload.spread = \"object\"\noffload.servers = [{}]",
        entries.join(", ")
    )
}

async fn offloading(lines: &str) -> Overspill {
    let config = Config::new(lines).to_string();
    let overspill = Overspill::start(Settings::from_toml(&config).unwrap()).unwrap();
    until("the servers get work", async || {
        let status = overspill.status();
        status
            .servers
            .iter()
            .all(|server| server.usable)
            .then_some(())
    })
    .await;
    overspill.override_level(Level::Offload, Duration::from_secs(3600));
    overspill
}

#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

async fn ask(
    overspill: &Overspill,
    request: http::request::Builder,
    make: impl Fn(&Request<Body>) -> Response<Body>,
) -> Answer {
    let service = service_fn(async |request: Request<Body>| Ok::<_, Infallible>(make(&request)));
    let request = request.header("host", "site.example");
    let request = request.body(Body::empty()).unwrap();
    let response = overspill.layer().layer(service).oneshot(request).await;
    let (parts, body) = response.unwrap().into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

fn html(body: impl Into<Body>, headers: &[(&'static str, &str)]) -> Response<Body> {
    let mut response = Response::builder().header(header::CONTENT_TYPE, "text/html");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// Which server each path is linked to, wherever the text names it. A path that is linked to two is an error.
fn links(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for link in text.split("http").skip(1) {
        let Some((server, rest)) = link
            .trim_start_matches('s')
            .strip_prefix("://")
            .and_then(|link| link.split_once(".example/"))
        else {
            continue;
        };
        let end = rest
            .find(['"', ' ', '>', '\'', ')', ','])
            .unwrap_or(rest.len());
        let before = found.insert(rest[..end].to_owned(), server.to_owned());
        assert!(
            before.is_none_or(|before| before == server),
            "{} is linked to two servers:\n{text}",
            &rest[..end]
        );
    }
    found
}

fn page(pictures: usize) -> String {
    let pictures: String = (0..pictures)
        .map(|number| format!("<img src=\"/img/{number}.png\">"))
        .collect();
    format!(
        "<!doctype html><link rel=stylesheet href=\"/a.css\">{pictures}<img src=\"/img/0.png\">"
    )
}

#[tokio::test]
async fn each_object_has_a_server_and_all_pages_and_visitors_agree_on_it() {
    let overspill = offloading(&with_cors(&["a", "b", "c"])).await;
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for visit in 0..20 {
        let from = page(10 + visit % 7);
        let request = Request::get(format!("/{}", visit % 4))
            .header("x-forwarded-for", format!("203.0.113.{visit}"));
        let answer = ask(&overspill, request, |_| html(from.clone(), &[])).await;
        for (path, server) in links(answer.text()) {
            seen.entry(path).or_default().insert(server);
        }
    }
    assert!(seen.values().all(|servers| servers.len() == 1), "{seen:?}");
    let servers: BTreeSet<_> = seen.values().flatten().collect();
    assert_eq!(servers.len(), 3, "{seen:?}");
    // Links and promises are counted for the server that they lead to.
    let status = overspill.status();
    for server in &status.servers {
        assert!(server.links > 0 && server.assigned_bytes > 0, "{server:?}");
    }
}

#[tokio::test]
async fn each_server_is_promised_its_share_of_the_page() {
    let overspill = offloading(&with_cors(&["a", "b", "c"])).await;
    let objects: Vec<_> = (0..12_u64)
        .map(|number| (format!("/img/{number}.png"), 1_000 * (number + 1)))
        .collect();
    overspill.learn_objects(objects.clone());
    let body: String = objects
        .iter()
        .map(|(path, _)| format!("<img src=\"{path}\">"))
        .collect();
    // By a scan, by a plan, and as it is kept.
    for _ in 0..4 {
        let before = overspill.status().servers;
        let answer = ask(&overspill, Request::get("/"), |_| html(body.clone(), &[])).await;
        let placed = links(answer.text());
        let after = overspill.status().servers;
        for (before, after) in before.iter().zip(&after) {
            let due: u64 = objects
                .iter()
                .filter(|(path, _)| placed[path.trim_start_matches('/')] == after.name)
                .map(|(_, bytes)| bytes)
                .sum();
            let promised = after.assigned_bytes - before.assigned_bytes;
            assert!(
                promised.abs_diff(due) < 20,
                "{}: {promised} of {due}",
                after.name
            );
            let own = placed.values().filter(|server| **server == after.name);
            assert_eq!(after.links - before.links, own.count() as u64);
        }
    }
}

#[tokio::test]
async fn however_a_page_comes_it_becomes_the_same() {
    let overspill = offloading(&with_cors(&["a", "b", "c"])).await;
    let source = page(30);
    let whole = ask(&overspill, Request::get("/"), |_| html(source.clone(), &[])).await;
    let pieces = |etag: &'static str| {
        let pieces: Vec<_> = source
            .as_bytes()
            .chunks(7)
            .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)))
            .collect();
        let slow = stream::unfold(pieces.into_iter(), async |mut pieces| {
            tokio::task::yield_now().await;
            pieces.next().map(|piece| (piece, pieces))
        });
        html(Body::from_stream(slow), &[("etag", etag)])
    };
    for _ in 0..3 {
        let answer = ask(&overspill, Request::get("/"), |_| pieces("\"1\"")).await;
        assert_eq!(answer.body, whole.body);
    }
    let long = format!("{source}<!--{}-->", "x".repeat(3_000_000));
    let expected = format!("{}<!--{}-->", whole.text(), "x".repeat(3_000_000));
    for _ in 0..2 {
        let answer = ask(&overspill, Request::get("/long"), |_| {
            html(long.clone(), &[("etag", "\"2\"")])
        })
        .await;
        assert!(answer.body == expected.as_bytes());
    }
    let encoded = encode_all(Coding::Gzip, source.as_bytes()).unwrap();
    for _ in 0..2 {
        let answer = ask(&overspill, Request::get("/"), |_| {
            html(encoded.clone(), &[("content-encoding", "gzip")])
        })
        .await;
        let decoded = decode_all(Coding::Gzip, &answer.body, 1 << 20).unwrap();
        assert_eq!(decoded, whole.body);
    }
}

#[tokio::test]
async fn policies_let_in_every_server_and_preloads_go_with_their_objects() {
    let names = ["a", "b", "c", "d"];
    let overspill = offloading(&with_cors(&names)).await;
    let source = "<meta http-equiv=content-security-policy content=\"img-src 'self'\">".to_owned()
        + &page(12);
    let link = (0..12)
        .map(|number| format!("</img/{number}.png>; rel=preload; as=image"))
        .collect::<Vec<_>>()
        .join(", ");
    let answer = ask(&overspill, Request::get("/"), |_| {
        html(
            source.clone(),
            &[
                ("content-security-policy", "default-src 'self'"),
                ("link", &link),
            ],
        )
    })
    .await;
    let in_page = links(answer.text());
    let in_header = links(answer.header("link"));
    assert_eq!(in_header.len(), 12, "{in_header:?}");
    for (path, server) in &in_header {
        assert_eq!(&in_page[path], server);
    }
    let policy = answer.header("content-security-policy");
    for name in names {
        let origin = format!("http://{name}.example");
        assert!(policy.contains(&origin), "{policy}");
        let meta = answer.text().split("content=\"").nth(1).unwrap();
        let meta = meta.split('>').next().unwrap();
        assert!(meta.contains(&origin), "{meta}");
    }
    assert!(policy.contains("default-src 'self';"), "{policy}");
}

#[tokio::test]
async fn what_a_server_cannot_give_stays() {
    let lines = format!(
        "offload.spread = \"object\"\noffload.servers = [{}, {}, {}]",
        entry("plain", ""),
        entry("cors", "cors = true"),
        entry("safe", "cors = true").replace("http:", "https:")
    );
    let overspill = offloading(&lines).await;
    let body: String = (0..40)
        .map(|number| {
            format!("<img src=\"/{number}.png\"><script crossorigin src=\"/{number}.js\"></script>")
        })
        .collect();
    let placed = |answer: &Answer| links(answer.text());
    let all = placed(&ask(&overspill, Request::get("/"), |_| html(body.clone(), &[])).await);
    let of = |found: &BTreeMap<String, String>, server: &str, ending: &str| {
        let own = found
            .iter()
            .filter(|(path, own)| *own == server && path.ends_with(ending));
        own.count()
    };
    assert!(
        of(&all, "plain", "png") > 0 && of(&all, "plain", "js") == 0,
        "{all:?}"
    );
    assert!(of(&all, "cors", "js") > 0, "{all:?}");
    // Over https nothing goes to http.
    let https = Request::get("https://site.example/");
    let https = placed(&ask(&overspill, https, |_| html(body.clone(), &[])).await);
    assert!(
        https.len() == 80 && https.values().all(|server| server == "safe"),
        "{https:?}"
    );
    // A page that embeds what says so takes nothing from who does not.
    let strict = ask(&overspill, Request::get("/"), |_| {
        html(
            body.clone(),
            &[("cross-origin-embedder-policy", "require-corp")],
        )
    });
    let strict = placed(&strict.await);
    assert!(
        strict.len() == 80 && of(&strict, "plain", "") == 0,
        "{strict:?}"
    );
}

#[tokio::test]
async fn rules_and_prices_hold_for_objects_as_they_do_for_pages() {
    let lines = format!(
        "offload.spread = \"object\"\n\
         offload.identity = {{ cookie = \"who\" }}\n\
         offload.servers = [{}, {}, {}, {}]\n\
         offload.clients = [{{ identity = \"gold-*\", servers = [\"c\", \"d\"] }}]",
        entry("a", "cors = true, price = 0.01"),
        entry("b", "cors = true, price = 0.01"),
        entry("c", "cors = true, price = 0.02"),
        entry("d", "cors = true, price = 0.02"),
    );
    let overspill = offloading(&lines).await;
    let servers = |who: &'static str| {
        let overspill = overspill.clone();
        async move {
            let request = Request::get("/").header("cookie", format!("who={who}"));
            let answer = ask(&overspill, request, |_| html(page(30), &[])).await;
            links(answer.text()).into_values().collect::<BTreeSet<_>>()
        }
    };
    assert_eq!(servers("me").await, ["a", "b"].map(String::from).into());
    assert_eq!(servers("gold-1").await, ["c", "d"].map(String::from).into());
    assert_eq!(servers("you").await, ["a", "b"].map(String::from).into());
}

#[tokio::test]
async fn a_validator_holds_as_long_as_every_object_comes_from_where_it_came() {
    let site = folder([]);
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(OffloadServer::start(site.path(), 0.1).await);
    }
    let entries: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(number, server)| server.entry(&format!("s{number}"), "threshold = 0.8,"))
        .collect();
    let overspill = offloading(&format!(
        "offload.spread = \"object\"\noffload.servers = [{}]",
        entries.join(", ")
    ))
    .await;
    let source = page(20);
    let make = |request: &Request<Body>| {
        let known = request.headers().get(header::IF_NONE_MATCH);
        if known.is_some_and(|known| known.to_str().unwrap().contains("\"v1\"")) {
            return Response::builder()
                .status(StatusCode::NOT_MODIFIED)
                .header("etag", "\"v1\"")
                .body(Body::empty())
                .unwrap();
        }
        html(source.clone(), &[("etag", "\"v1\"")])
    };
    let first = ask(&overspill, Request::get("/"), make).await;
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with("W/\"v1-ov"), "{etag}");
    let again = || Request::get("/").header("if-none-match", &etag);
    let kept = ask(&overspill, again(), make).await;
    assert_eq!(kept.status, StatusCode::NOT_MODIFIED);
    assert_eq!(kept.header("etag"), etag);
    // One is full: its objects move, and the page that links to it is not confirmed.
    servers[1].set_load(0.95);
    until("a server is full", async || {
        (!overspill.status().servers[1].usable).then_some(())
    })
    .await;
    let other = ask(&overspill, again(), make).await;
    assert_eq!(other.status, StatusCode::OK);
    assert_ne!(other.header("etag"), etag);
    let full = servers[1].url();
    assert!(first.text().contains(&full) && !other.text().contains(&full));
}

#[tokio::test]
async fn who_is_full_gets_nothing_more_from_the_next_page_on() {
    // 1 MB/s each, and two seconds of it are 2 MB.
    let lines = format!(
        "offload.spread = \"object\"\nload.interval = \"1m\"\noffload.servers = [{}, {}]",
        entry("a", "cors = true, capacity = \"8Mbit/s\""),
        entry("b", "cors = true, capacity = \"8Mbit/s\""),
    );
    let overspill = offloading(&lines).await;
    let body: String = (0..20)
        .map(|number| format!("<img src=\"/{number}.png\">"))
        .collect();
    let page = ask(&overspill, Request::get("/"), |_| html(body.clone(), &[])).await;
    let placed = links(page.text());
    // All of the weight is that of one of a's objects.
    let (heavy, _) = placed.iter().find(|(_, server)| *server == "a").unwrap();
    overspill.learn_objects((0..20).map(|number| {
        let path = format!("/{number}.png");
        let bytes = if path[1..] == **heavy { 1_700_000 } else { 1 };
        (path, bytes)
    }));
    let weighed = format!("{body}<p>");
    ask(&overspill, Request::get("/w"), |_| {
        html(weighed.clone(), &[])
    })
    .await;
    let next = ask(&overspill, Request::get("/w"), |_| {
        html(weighed.clone(), &[])
    })
    .await;
    assert!(
        links(next.text()).values().all(|server| server == "b"),
        "{}",
        next.text()
    );
}

#[tokio::test]
async fn what_is_redirected_goes_to_its_own_server() {
    let lines = with_cors(&["a", "b", "c"]) + "\noffload.redirect = [\"/downloads/**\"]";
    let overspill = offloading(&lines).await;
    let mut all = BTreeSet::new();
    for number in 0..12 {
        let path = format!("/downloads/{number}.png");
        let answer = ask(&overspill, Request::get(&path), |_| html("", &[])).await;
        assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
        let redirected = links(answer.header("location"));
        let linking = format!("<img src=\"{path}\">");
        let page = ask(&overspill, Request::get("/"), |_| {
            html(linking.clone(), &[])
        })
        .await;
        assert_eq!(links(page.text()), redirected);
        all.extend(redirected.into_values());
    }
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn the_fallback_script_minds_every_server() {
    let lines = with_cors(&["a", "b"]) + "\nrewrite.fallback = true";
    let overspill = offloading(&lines).await;
    let answer = ask(&overspill, Request::get("/"), |_| html(page(12), &[])).await;
    for name in ["a", "b"] {
        let from = format!("data-from=\"http://{name}.example\"></script>");
        assert_eq!(answer.text().matches(&from).count(), 1, "{}", answer.text());
    }
}

fn any_page() -> impl Strategy<Value = String> {
    let path = "/[a-c]{1,2}\\.(png|js|css|woff2)";
    let link = (path, 0..7_usize).prop_map(|(path, form)| match form {
        0 => format!("<img src=\"{path}\">"),
        1 => format!("<script src='{path}'></script>"),
        2 => format!("<link rel=stylesheet href=\"{path}\">"),
        3 => format!("<img srcset=\"{path} 1x, {path} 2x\">"),
        4 => format!("<div style=\"background: url({path})\"></div>"),
        5 => format!("<script integrity=x src=\"{path}\"></script>"),
        _ => format!("<link rel=preload as=image href=\"{path}\">"),
    });
    proptest::collection::vec(link, 0..40).prop_map(|links| links.concat())
}

#[test]
fn an_object_that_stands_in_a_page_twice_comes_from_one_server() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let overspill = runtime.block_on(offloading(&format!(
        "offload.spread = \"object\"\noffload.servers = [{}, {}, {}]",
        entry("a", "cors = true"),
        entry("b", ""),
        entry("c", "cors = true")
    )));
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&any_page(), |source| {
            let answers = runtime.block_on(async {
                let ask = || ask(&overspill, Request::get("/"), |_| html(source.clone(), &[]));
                [ask().await, ask().await, ask().await]
            });
            // `links` checks that no path has two servers.
            links(answers[0].text());
            let back = ["a", "b", "c"]
                .iter()
                .fold(answers[0].text().to_owned(), |text, name| {
                    text.replace(&format!("http://{name}.example"), "")
                });
            prop_assert_eq!(back.replace("crossorigin=\"anonymous\" ", ""), source);
            prop_assert_eq!(&answers[0].body, &answers[1].body);
            prop_assert_eq!(&answers[0].body, &answers[2].body);
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn three_caches_hold_a_third_each_of_what_a_crowd_fetches() {
    let pictures: Vec<_> = (0..60)
        .map(|number| (format!("img/{number}.png"), vec![number as u8; 500]))
        .collect();
    let index = page(60);
    let mut files: Vec<(&str, &[u8])> = pictures
        .iter()
        .map(|(path, content)| (path.as_str(), &content[..]))
        .collect();
    files.push(("index.html", index.as_bytes()));
    files.push(("a.css", b"p{}"));
    let site = folder(files);
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(OffloadServer::start(site.path(), 0.1).await);
    }
    let entries: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(number, server)| server.entry(&format!("s{number}"), ""))
        .collect();
    let program = Program::serve(&Config::new(format!(
        "primary.site = {:?}\noffload.share = 1.0\noffload.spread = \"object\"\noffload.servers = [{}]",
        site.path(),
        entries.join(", ")
    )))
    .await;
    for number in 0..3 {
        program.until_usable(&format!("s{number}"), true).await;
    }
    program.hold_level("offload").await;
    for number in 0..12 {
        let page = get("/").from(visitor(number)).ask(program.site).await;
        let text = page.text();
        for link in text
            .split('"')
            .filter(|link| link.starts_with("http://127.0.0.1:"))
        {
            let (host, path) = link["http://".len()..].split_once('/').unwrap();
            let answer = get(&format!("/{path}")).ask(host.parse().unwrap()).await;
            assert_eq!(answer.status, 200, "{link}");
        }
    }
    let mut held = 0;
    for server in &servers {
        let objects: BTreeSet<_> = server.visits().into_iter().collect();
        assert!((8..=35).contains(&objects.len()), "{objects:?}");
        held += objects.len();
    }
    assert_eq!(held, 61, "every object is in one cache only");
}
