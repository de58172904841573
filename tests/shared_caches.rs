//! Other people's shared caches in front of a primary, while its level goes up and down: nginx and Varnish keep
//! pages, confirm them by their validators, and never give anybody a page that is out of its episode or leads to
//! another's server.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::support::{
    caches::Cache, client::get, config::Config, process::program, program::Program, raw::Answer,
    upstream::Upstream, wait::until,
};

const PAGE: &str = "<!doctype html><link rel=stylesheet href=/a.css><img src=/a.png><p>text";
const ETAG: &str = "\"v1\"";
const DATE: &str = "Mon, 23 Nov 2026 10:00:00 GMT";
const ROUNDS: [&str; 5] = ["normal", "offload", "normal", "offload", "normal"];

/// The visitors, by name, each with the server that takes it.
const VISITORS: [(&str, &str); 2] = [
    ("eu-visitor", "http://eu.example"),
    ("us-visitor", "http://us.example"),
];

/// A path for each way in which pages can be kept and confirmed.
const PAGES: [&str; 6] = ["/etag", "/date", "/both", "/shared", "/cdn", "/expires"];

/// How often the site was asked for a page, and how often it said that nothing has changed.
#[derive(Clone, Default)]
struct Site {
    asked: Arc<AtomicUsize>,
    confirmed: Arc<AtomicUsize>,
}

/// The page: each path tells caches in another way that it is fresh for a second.
async fn answer(State(site): State<Site>, request: Request) -> Response {
    site.asked.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path().trim_end_matches('/');
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    put("content-type", "text/html");
    if path != "/date" {
        put("etag", ETAG);
    }
    if ["/date", "/both"].contains(&path) {
        put("last-modified", DATE);
    }
    match path {
        "/shared" => put("cache-control", "public, max-age=0, s-maxage=1"),
        // What some caches believe rather than Cache-Control.
        "/cdn" => {
            put("cache-control", "max-age=1");
            put("x-accel-expires", "1");
            put("surrogate-control", "max-age=1");
        }
        // No Cache-Control, a date in the past: nginx is told below to keep it all the same.
        "/expires" => {}
        _ => put("cache-control", "public, max-age=1"),
    }
    let sent = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let unchanged = match sent(header::IF_NONE_MATCH) {
        Some(held) => {
            path != "/date"
                && held
                    .split(", ")
                    .any(|held| held.trim_start_matches("W/") == ETAG)
        }
        None => {
            headers.contains_key("last-modified") && sent(header::IF_MODIFIED_SINCE) == Some(DATE)
        }
    };
    if unchanged {
        site.confirmed.fetch_add(1, Ordering::SeqCst);
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, PAGE).into_response()
}

/// The page with its links leading to `server`.
fn moved(server: &str) -> String {
    PAGE.replace("=/a", &format!("={server}/a"))
}

/// Something that was once got: a page and how to ask whether it is still the same.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    body: String,
    etag: Option<String>,
    date: Option<String>,
}

impl Held {
    fn of(answer: &Answer) -> Self {
        Self {
            body: answer.text().to_owned(),
            etag: answer.header("etag").map(str::to_owned),
            date: answer.header("last-modified").map(str::to_owned),
        }
    }
}

/// What was seen behind a cache in one round, by one visitor.
#[derive(Debug, Default)]
struct Seen {
    original: bool,
    moved: bool,
    /// A page whose links lead to the visitor's server was confirmed.
    moved_confirmed: bool,
}

/// Asks for `path` with each of the validators that were ever seen; whatever comes must be right at `level`.
async fn look(
    cache: SocketAddr,
    path: &str,
    level: &str,
    visitor: (&str, &str),
    held: &mut Vec<Held>,
) -> Seen {
    let (name, server) = visitor;
    let mut seen = Seen::default();
    // The original may have been in the cache before the episode; what is moved is for this visitor alone, and for now.
    let mut judge = |body: &str, confirmed: bool, about: &str| {
        let moved = body == moved(server) && level == "offload";
        assert!(body == PAGE || moved, "{about}: {body}");
        seen.original |= !moved;
        seen.moved |= moved;
        seen.moved_confirmed |= moved && confirmed;
    };
    let ask = |held: Option<&Held>| {
        let mut request = get(path)
            .header("X-User", name)
            .header("Accept", "text/html");
        for (header, value) in [
            ("If-None-Match", held.and_then(|held| held.etag.as_ref())),
            (
                "If-Modified-Since",
                held.and_then(|held| held.date.as_ref()),
            ),
        ] {
            if let Some(value) = value {
                request = request.header(header, value);
            }
        }
        request
    };
    for known in std::iter::once(None).chain(held.clone().iter().map(Some)) {
        let about = format!("{path} for {name} at {level}, who holds {known:?}");
        let answer = ask(known).ask(cache).await;
        match (answer.status, known) {
            (200, _) => {
                judge(answer.text(), false, &about);
                let got = Held::of(&answer);
                if !held.contains(&got) {
                    held.push(got);
                }
            }
            // The visitor goes on with what it holds.
            (304, Some(known)) => judge(&known.body, true, &about),
            _ => panic!("{about}: {answer:?}"),
        }
    }
    seen
}

/// Through all levels, behind a cache: nobody ever gets what is not meant for them, or is not meant for now.
/// Gives how often a visitor was told that a page whose links are moved has not changed.
async fn keeps_nothing_too_long(start: impl FnOnce(SocketAddr) -> Cache) -> usize {
    let site = Site::default();
    let upstream = Upstream::start(Router::new().fallback(answer).with_state(site.clone())).await;
    let servers = VISITORS.map(|(name, url)| {
        let name = &name[..2];
        format!("{{ name = \"{name}\", url = \"{url}\", cors = true, health = false }}")
    });
    let program = Program::serve(&Config::new(format!(
        "primary.upstream = \"http://{}\"\n\
         primary.trusted_proxies = [\"127.0.0.0/8\"]\n\
         offload.share = 1.0\n\
         offload.identity = {{ header = \"x-user\" }}\n\
         offload.servers = [{}]\n\
         offload.clients = [{{ identity = \"eu-*\", servers = [\"eu\"] }}, {{ identity = \"us-*\", servers = [\"us\"] }}]",
        upstream.address,
        servers.join(", ")
    )))
    .await;
    for server in ["eu", "us"] {
        program.until_usable(server, true).await;
    }
    let cache = start(program.site);

    // Everything that anybody ever got, for each page: visitors may hold one another's.
    let mut held = PAGES.map(|_| Vec::new());
    let mut confirmed_moved = 0;
    for (round, level) in ROUNDS.into_iter().enumerate() {
        program.hold_level(level).await;
        for (path, held) in PAGES.into_iter().zip(&mut held) {
            let before = site.confirmed.load(Ordering::SeqCst);
            let mut done = [false; VISITORS.len()];
            // Until the cache has asked again what it kept, and both have what the level is about.
            until(
                format_args!("{path} in round {round} ({level})"),
                async || {
                    for (visitor, done) in VISITORS.into_iter().zip(&mut done) {
                        let seen = look(cache.address, path, level, visitor, held).await;
                        confirmed_moved += usize::from(seen.moved_confirmed);
                        *done |= if level == "offload" {
                            seen.moved
                        } else {
                            seen.original
                        };
                    }
                    let asked_again =
                        level == "offload" || site.confirmed.load(Ordering::SeqCst) > before;
                    (asked_again && done.iter().all(|done| *done)).then_some(())
                },
            )
            .await;
        }
    }
    // Everybody saw everything, and holds it while the level is another.
    for (path, held) in PAGES.into_iter().zip(&held) {
        let bodies: Vec<_> = held.iter().map(|held| held.body.as_str()).collect();
        for body in [PAGE, &moved(VISITORS[0].1), &moved(VISITORS[1].1)] {
            assert!(bodies.contains(&body), "{path}: {bodies:?}");
        }
    }
    confirmed_moved
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn nginx_keeps_no_page_beyond_its_episode_and_mixes_no_servers() {
    keeps_nothing_too_long(|primary| {
        Cache::start(|address, folder| {
            let file = folder.join("nginx.conf");
            let folder = folder.display();
            let lines = format!(
                "daemon off; master_process off; pid {folder}/pid; error_log stderr;\n\
                 events {{ worker_connections 512; }}\n\
                 http {{\n\
                 access_log off; proxy_temp_path {folder}/proxy; client_body_temp_path {folder}/body;\n\
                 fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
                 proxy_cache_path {folder}/cache keys_zone=pages:1m;\n\
                 server {{ listen {address}; location / {{\n\
                 proxy_pass http://{primary}; proxy_set_header Host $host; proxy_http_version 1.1;\n\
                 proxy_cache pages; proxy_cache_revalidate on; proxy_cache_lock on;\n\
                 proxy_cache_valid 200 1s; proxy_cache_use_stale updating error;\n\
                 }} }} }}\n"
            );
            fs::write(&file, lines).unwrap();
            let mut command = Command::new(program("nginx"));
            command.arg("-p").arg(format!("{folder}")).arg("-c").arg(file);
            command
        })
    })
    .await;
}

#[tokio::test]
#[ignore = "needs varnish"]
async fn varnish_keeps_no_page_beyond_its_episode_and_mixes_no_servers() {
    let confirmed = keeps_nothing_too_long(|primary| {
        Cache::start(|address, folder| {
            let file = folder.join("cache.vcl");
            // As it comes, but for how long it keeps what does not say so, and goes on with what is too old.
            let lines = format!(
                "vcl 4.1;\nbackend default {{ .host = \"{}\"; .port = \"{}\"; }}\n",
                primary.ip(),
                primary.port()
            );
            fs::write(&file, lines).unwrap();
            let mut command = Command::new(program("varnishd"));
            command.args([
                "-j",
                "none",
                "-F",
                "-s",
                "malloc,16m",
                "-p",
                "default_ttl=1",
                "-p",
                "default_grace=1",
                "-a",
            ]);
            command.arg(address.to_string()).arg("-f").arg(file);
            command.arg("-n").arg(folder.join("work"));
            command
        })
    })
    .await;
    // (nginx confirms nothing that it does not keep.)
    assert!(confirmed > 0);
}
