//! Pages that come again, that stream, that come encoded: what goes out is always the page that came.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures_util::stream;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full};
use overspill::{
    Overspill, Settings,
    app::ServerStatus,
    level::Level,
    rewrite::coding::{Coding, decode_all, encode_all},
};
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

use crate::support::{config::Config, wait::until};

const SERVERS: &str = r#"offload.servers = [{ name = "eu", url = "http://eu.example", cors = true, health = false }]"#;
const PAGE: &str =
    "<!doctype html><link rel=stylesheet href=/a.css><img src=\"/a.png\"><img src=/b.png>";

fn moved(page: &str) -> String {
    page.replace("=/", "=http://eu.example/")
        .replace("\"/", "\"http://eu.example/")
}

/// More than is waited for, of which little can be compressed away.
const LONG: usize = 100_000;

fn text(length: usize) -> String {
    let mut state = 7u64;
    let letters = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + (state >> 60) as u8)
    });
    letters.take(length).collect()
}

async fn offloading(lines: &str) -> Overspill {
    let overspill = normal(lines).await;
    offload(&overspill);
    overspill
}

async fn normal(lines: &str) -> Overspill {
    let config = Config::new(SERVERS).with(lines).to_string();
    let overspill = Overspill::start(Settings::from_toml(&config).unwrap()).unwrap();
    until("the server gets work", async || {
        overspill.status().servers[0].usable.then_some(())
    })
    .await;
    overspill
}

fn offload(overspill: &Overspill) {
    overspill.override_level(Level::Offload, Duration::from_secs(3600));
}

/// Waits until so many pages were scanned in the background.
async fn scanned_ahead(overspill: &Overspill, pages: u64) {
    until("pages are scanned in the background", async || {
        (overspill.status().pages_scanned_ahead >= pages).then_some(())
    })
    .await;
}

fn html(body: impl Into<Body>, headers: &[(&'static str, &str)]) -> Response<Body> {
    let mut response = Response::builder().header(header::CONTENT_TYPE, "text/html");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

struct Answer {
    headers: HeaderMap,
    exact: Option<u64>,
    body: Bytes,
}

/// One request for `path`, which the application answers with what `make` gives.
async fn ask(overspill: &Overspill, path: &str, make: impl Fn() -> Response<Body>) -> Answer {
    let service = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(make()));
    let request = Request::get(path).header("host", "site.example");
    let request = request.body(Body::empty()).unwrap();
    let response = overspill.layer().layer(service).oneshot(request).await;
    let (parts, body) = response.unwrap().into_parts();
    Answer {
        headers: parts.headers,
        exact: http_body::Body::size_hint(&body).exact(),
        body: body.collect().await.unwrap().to_bytes(),
    }
}

fn status(overspill: &Overspill) -> ServerStatus {
    overspill.status().servers.remove(0)
}

fn streamed(page: &str, piece: usize) -> Body {
    pieces(page.as_bytes(), piece)
}

fn pieces(page: &[u8], piece: usize) -> Body {
    let pieces: Vec<_> = page
        .chunks(piece)
        .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)))
        .collect();
    // Between the pieces nothing is there for a moment, as from a network.
    let slow = stream::unfold(pieces.into_iter(), async |mut pieces| {
        tokio::task::yield_now().await;
        pieces.next().map(|piece| (piece, pieces))
    });
    Body::from_stream(slow)
}

#[tokio::test]
async fn a_page_that_comes_again_is_spliced_with_its_exact_length() {
    let overspill = offloading("").await;
    let shared = Bytes::from(PAGE.to_owned());
    for round in 0..5 {
        // The same bytes in the same place, and the same bytes anew.
        for body in [Body::from(shared.clone()), Body::from(PAGE.to_owned())] {
            let body = std::sync::Mutex::new(Some(body));
            let make = || html(body.lock().unwrap().take().unwrap(), &[]);
            let answer = ask(&overspill, "/", make).await;
            assert_eq!(answer.body, moved(PAGE), "round {round}");
            assert_eq!(answer.exact, Some(answer.body.len() as u64));
        }
    }
    let server = status(&overspill);
    assert_eq!((server.pages_scanned, server.pages_spliced), (1, 9));
    assert_eq!(server.links, 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_first_sights_at_once_take_one_scan() {
    let overspill = Arc::new(offloading("").await);
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let overspill = overspill.clone();
            tokio::spawn(async move {
                let answer = ask(&overspill, "/", || html(PAGE.to_owned(), &[])).await;
                assert_eq!(answer.body, moved(PAGE));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let server = status(&overspill);
    assert_eq!((server.pages_scanned, server.pages_spliced), (1, 999));
}

#[tokio::test]
async fn a_page_that_changes_is_never_taken_for_another() {
    let overspill = offloading("").await;
    let number = AtomicUsize::new(0);
    for n in 0..20 {
        // The same path, the same length, the same ETag; what stands around the links differs.
        let end = format!("<!-- {n:02} -->{}", text(LONG));
        let page = format!("<base href=/{}/><img src=a.png>{end}", n % 3);
        let expected = format!(
            "<base href=/{}/><img src=http://eu.example/{}/a.png>{end}",
            n % 3,
            n % 3
        );
        let make = || {
            number.fetch_add(1, Ordering::Relaxed);
            html(page.clone(), &[("etag", "\"same\"")])
        };
        assert_eq!(ask(&overspill, "/", make).await.body, expected);
        let make = || html(streamed(&page, 700), &[("etag", "\"same\"")]);
        let answer = ask(&overspill, "/", make).await.body;
        // Streaming, the plan is another page's: what is not sure stays.
        assert!(answer == expected || answer == page, "{:?}", &answer[..100]);
    }
    assert_eq!(number.load(Ordering::Relaxed), 20);
}

#[tokio::test]
async fn a_page_that_streams_under_an_etag_is_spliced_the_second_time() {
    let overspill = offloading("").await;
    let page = PAGE.to_owned() + &text(LONG);
    for piece in [10, 500, 1600, 100_000] {
        let make = || html(streamed(&page, piece), &[("etag", "\"abc\"")]);
        let answer = ask(&overspill, "/", make).await;
        assert_eq!((answer.exact, answer.body), (None, moved(&page).into()));
    }
    let server = status(&overspill);
    assert_eq!((server.pages_scanned, server.pages_spliced), (1, 3));
    let make = || html(streamed(&page, 900), &[("etag", "W/\"abc\"")]);
    assert_eq!(ask(&overspill, "/", make).await.body, moved(&page));
    assert_eq!(status(&overspill).pages_scanned, 2, "weak tags are none");
}

#[tokio::test]
async fn encoded_pages_are_decoded_rewritten_and_encoded_again() {
    let overspill = offloading("").await;
    let long = PAGE.repeat(1_000) + &text(6 * LONG);
    for (coding, name) in [
        (Coding::Gzip, "gzip"),
        (Coding::Deflate, "deflate"),
        (Coding::Brotli, "br"),
        (Coding::Zstd, "zstd"),
    ] {
        for (page, whole) in [(PAGE, true), (&long, true), (&long, false)] {
            let encoded = encode_all(coding, page.as_bytes()).unwrap();
            for _ in 0..2 {
                let make = || {
                    let body = if whole {
                        Body::from(encoded.clone())
                    } else {
                        pieces(&encoded, 1000)
                    };
                    html(body, &[("content-encoding", name)])
                };
                let answer = ask(&overspill, "/", make).await;
                assert_eq!(answer.headers[header::CONTENT_ENCODING], name);
                let decoded = decode_all(coding, &answer.body, 10_000_000).unwrap();
                assert_eq!(decoded, moved(page), "{name}, whole: {whole}");
                assert_eq!(answer.exact.is_some(), whole);
            }
        }
    }
}

#[tokio::test]
async fn a_page_that_is_compressed_as_it_goes_is_compressed_once_for_a_server() {
    let overspill = offloading("").await;
    let encoded = encode_all(Coding::Gzip, PAGE.as_bytes()).unwrap();
    // However busy the machine is, the page comes before patience ends.
    tokio::time::pause();
    let mut answers = Vec::new();
    for piece in [5, 9, 1000] {
        let make = || html(pieces(&encoded, piece), &[("content-encoding", "gzip")]);
        answers.push(ask(&overspill, "/", make).await.body);
    }
    assert_eq!(
        decode_all(Coding::Gzip, &answers[0], 1_000).unwrap(),
        moved(PAGE)
    );
    // The very same bytes in the same place.
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ptr() == answers[0].as_ptr())
    );
    let server = status(&overspill);
    assert_eq!((server.pages_scanned, server.pages_spliced), (1, 2));
}

#[tokio::test]
async fn what_cannot_be_decoded_is_an_error_or_goes_out_as_it_came() {
    let overspill = offloading("").await;
    let service = service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(html("not gzip at all", &[("content-encoding", "gzip")]))
    });
    let request = Request::get("/").header("host", "site.example");
    let request = request.body(Body::empty()).unwrap();
    let response = overspill.layer().layer(service).oneshot(request).await;
    assert!(response.unwrap().into_body().collect().await.is_err());
    let make = || html(PAGE, &[("content-encoding", "compress")]);
    assert_eq!(ask(&overspill, "/", make).await.body, PAGE);
}

#[tokio::test]
async fn preloads_in_headers_move_with_their_objects() {
    let overspill = offloading("").await;
    let link = "</a.css>; rel=preload; as=style, </x.json>; rel=preload; as=fetch";
    let answer = ask(&overspill, "/", || html(PAGE, &[("link", link)])).await;
    assert_eq!(
        answer.headers[header::LINK],
        "<http://eu.example/a.css>; rel=preload; as=style, </x.json>; rel=preload; as=fetch"
    );
}

#[tokio::test]
async fn an_object_that_is_not_for_everyone_stays_from_then_on() {
    let overspill = offloading("").await;
    for _ in 0..3 {
        assert_eq!(
            ask(&overspill, "/", || html(PAGE, &[])).await.body,
            moved(PAGE)
        );
    }
    overspill.override_level(Level::Normal, Duration::from_secs(3600));
    let private = || {
        Response::builder()
            .header("cache-control", "private")
            .header("content-type", "image/png")
            .body(Body::from("png"))
            .unwrap()
    };
    ask(&overspill, "/b.png", private).await;
    overspill.override_level(Level::Offload, Duration::from_secs(3600));
    let expected = moved(PAGE).replace("http://eu.example/b.png", "/b.png");
    for _ in 0..3 {
        assert_eq!(
            ask(&overspill, "/", || html(PAGE, &[])).await.body,
            expected
        );
    }
}

#[tokio::test]
async fn css_that_a_policy_knows_by_its_hash_does_not_change() {
    let overspill = offloading("").await;
    let page = "<style>p{background:url(/a.png)}</style><img src=/b.png>";
    let policy = "style-src 'sha256-abc'; img-src 'self'";
    let make = || html(page, &[("content-security-policy", policy)]);
    let expected = page.replace("=/b", "=http://eu.example/b");
    assert_eq!(ask(&overspill, "/", make).await.body, expected);
    let without = ask(&overspill, "/", || html(page, &[])).await.body;
    let expected = expected.replace("(/a", "(http://eu.example/a");
    assert_eq!(without, expected);
}

#[tokio::test]
async fn pages_get_the_fallback_script_where_their_policy_lets_it_in() {
    let overspill = offloading("rewrite.fallback = true").await;
    let answer = ask(&overspill, "/", || html(PAGE, &[])).await.body;
    let text = String::from_utf8(answer.to_vec()).unwrap();
    let (before, rest) = text.split_once("<script src=\"").unwrap();
    assert_eq!(before, "<!doctype html>");
    let (src, rest) = rest.split_once('"').unwrap();
    let rest = rest.strip_prefix(" data-from=\"http://eu.example\"></script>");
    assert_eq!(before.to_owned() + rest.unwrap(), moved(PAGE));

    let script = ask(&overspill, src, || html("never asked", &[])).await;
    assert!(
        script.headers[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .starts_with("text/javascript")
    );
    assert!(script.body.len() < 2048 && !script.body.is_empty());

    let policy = "script-src 'nonce-x'";
    let make = || html(PAGE, &[("content-security-policy", policy)]);
    assert_eq!(ask(&overspill, "/", make).await.body, moved(PAGE));
}

#[tokio::test]
async fn modules_move_only_where_that_is_asked_for() {
    let page = "<script type=module src=/m.js></script><link rel=modulepreload href=/m.js>";
    let overspill = offloading("rewrite.modules = true").await;
    assert_eq!(
        ask(&overspill, "/", || html(page, &[])).await.body,
        moved(page)
    );
    let mapped = format!("<script type=importmap>{{}}</script>{page}");
    assert_eq!(
        ask(&overspill, "/", || html(mapped.clone(), &[]))
            .await
            .body,
        mapped
    );
    let overspill = offloading("").await;
    assert_eq!(ask(&overspill, "/", || html(page, &[])).await.body, page);
}

#[tokio::test]
async fn other_bodies_than_axums_do_as_well() {
    let overspill = offloading("").await;
    let service = service_fn(async |_: Request<()>| {
        let mut response = Response::new(Full::new(Bytes::from_static(PAGE.as_bytes())));
        let html = "text/html".parse().unwrap();
        response.headers_mut().insert(header::CONTENT_TYPE, html);
        Ok::<_, Infallible>(response)
    });
    let request = Request::get("/").header("host", "site.example");
    let response = overspill.layer().layer(service);
    let response = response.oneshot(request.body(()).unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, moved(PAGE));
}

#[tokio::test]
async fn pages_seen_at_normal_are_spliced_from_the_first_offloaded_visitor_on() {
    let overspill = normal("").await;
    let encoded = encode_all(Coding::Gzip, PAGE.as_bytes()).unwrap();
    let long = PAGE.repeat(2_000);
    type Make<'a> = Box<dyn Fn() -> Response<Body> + 'a>;
    let pages: [(&str, Make<'_>); 4] = [
        ("/whole", Box::new(|| html(PAGE, &[]))),
        (
            "/pieces",
            Box::new(|| html(streamed(PAGE, 7), &[("etag", "\"a\"")])),
        ),
        (
            "/long",
            Box::new(|| html(streamed(&long, 10_000), &[("etag", "\"b\"")])),
        ),
        (
            "/gzip",
            Box::new(|| html(encoded.clone(), &[("content-encoding", "gzip")])),
        ),
    ];
    for (path, make) in &pages {
        let untouched = ask(&overspill, path, make).await;
        let plain = make().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(untouched.body, plain, "{path}");
    }
    scanned_ahead(&overspill, 4).await;
    offload(&overspill);
    for (path, make) in &pages {
        let answer = ask(&overspill, path, make).await;
        let page = match *path {
            "/gzip" => decode_all(Coding::Gzip, &answer.body, 1_000_000).unwrap(),
            _ => answer.body,
        };
        let expected = if *path == "/long" {
            moved(&long)
        } else {
            moved(PAGE)
        };
        assert_eq!(page, expected, "{path}");
    }
    let server = status(&overspill);
    assert_eq!((server.pages_scanned, server.pages_spliced), (0, 4));
}

#[tokio::test]
async fn what_is_no_whole_page_is_not_scanned_in_the_background() {
    let overspill = normal("").await;
    let cut = || {
        let pieces = [Ok(Bytes::from_static(b"<img src=/a.png>")), Err("cut")];
        html(Body::from_stream(stream::iter(pieces)), &[])
    };
    let service = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(cut()));
    let request = Request::get("/cut")
        .header("host", "site.example")
        .body(Body::empty());
    let response = overspill
        .layer()
        .layer(service)
        .oneshot(request.unwrap())
        .await
        .unwrap();
    assert!(response.into_body().collect().await.is_err());
    let huge = PAGE.repeat(30_000);
    ask(&overspill, "/huge", || html(huge.clone(), &[])).await;
    ask(&overspill, "/attached", || {
        html(PAGE, &[("content-disposition", "attachment")])
    })
    .await;
    // Pages are scanned in the order in which they came.
    ask(&overspill, "/", || html(PAGE, &[])).await;
    ask(&overspill, "/", || html(PAGE, &[])).await;
    ask(&overspill, "/last", || html(PAGE, &[])).await;
    scanned_ahead(&overspill, 2).await;
    assert_eq!(overspill.status().pages_scanned_ahead, 2);
}

#[tokio::test]
async fn a_page_weighs_what_its_objects_weigh_before_an_episode_begins() {
    let overspill = normal("").await;
    let objects = ["/a.css", "/a.png", "/b.png"].map(|path| (path.to_owned(), 100_000));
    overspill.learn_objects(objects);
    ask(&overspill, "/", || html(PAGE, &[])).await;
    scanned_ahead(&overspill, 1).await;
    offload(&overspill);
    ask(&overspill, "/", || html(PAGE, &[])).await;
    assert_eq!(status(&overspill).assigned_bytes, 300_000);
}

/// A page, so many of whose bytes are rewritten, and why no more are.
struct Bad {
    page: Vec<u8>,
    rewritten: usize,
    reason: Option<&'static str>,
}

impl Bad {
    /// All of it is rewritten: it is only odd.
    fn odd(page: impl Into<Vec<u8>>) -> Self {
        let page = page.into();
        Self {
            rewritten: page.len(),
            page,
            reason: None,
        }
    }

    /// What follows `until` goes out as it came.
    fn cut(until: &str, rest: &[u8], reason: &'static str) -> Self {
        Self {
            page: [until.as_bytes(), rest].concat(),
            rewritten: until.len(),
            reason: Some(reason),
        }
    }

    fn expected(&self) -> Vec<u8> {
        let (mut rest, end) = self.page.split_at(self.rewritten);
        let mut page = Vec::new();
        while let Some(at) = rest.windows(3).position(|bytes| bytes == b"=\"/") {
            page.extend_from_slice(&rest[..at]);
            page.extend_from_slice(b"=\"http://eu.example/");
            rest = &rest[at + 3..];
        }
        [&page, rest, end].concat()
    }
}

#[tokio::test]
async fn bad_pages_go_out_right_under_one_lying_etag_and_are_counted_by_reason() {
    const OPEN: &str = "<img src=\"/a.png\">";
    let long = "x".repeat(10_000_000);
    let set: String = (0..80_000).map(|n| format!("/{n}.png {n}w, ")).collect();
    let bad = [
        Bad::odd("<img src=\"/a.png\"><p class=\"x"),
        Bad::odd("<img src=\"/a.png\" src=/b.png srcset='x' SRC=/c.png><img src='/d.png'"),
        Bad::odd(b"<img src=\"/a.png\" alt='\xFF\xFE'><p>\x83\x5C\xE2\x82<img src=\"/b.png\">".to_vec()),
        Bad::odd("<img src=\"/a.png\">".repeat(30_000)),
        Bad::odd([OPEN, "<style>", &"p { color: red }\n".repeat(100_000), "</style>", OPEN].concat()),
        Bad::cut(OPEN, format!("<img alt=\"{long}\" src=\"/b.png\">{OPEN}").as_bytes(), "tag_size"),
        Bad::cut(OPEN, format!("<img srcset=\"{set}\">{OPEN}").as_bytes(), "tag_size"),
        Bad::cut(OPEN, format!("{}{OPEN}", "<div>".repeat(100_000)).as_bytes(), "memory"),
        Bad::cut(OPEN, b"<svg><title/><img src=\"/b.png\">", "markup"),
        Bad::cut(
            OPEN,
            b"<meta http-equiv=content-security-policy content=\"img-src \xFF 'self'\"><img src=\"/b.png\">",
            "csp_meta",
        ),
        Bad::cut("", b"<!doctype html><html amp><img src=\"/b.png\">", "amp"),
        Bad::cut("", b"\xFF\xFE<\0i\0m\0g\0 src=\"/b.png\">", "encoding"),
    ];
    let overspill = offloading("").await;
    let counts = || -> Vec<(&'static str, u64)> { overspill.status().bail_outs };
    for Bad { page, reason, .. } in &bad {
        assert!(
            page.len() > 1
                && reason.is_none_or(|reason| counts().iter().any(|(known, _)| *known == reason))
        );
    }
    // Twice through, so that each comes also when the others have left their plans behind.
    for round in 0..2 {
        for (number, bad) in bad.iter().enumerate() {
            let expected = bad.expected();
            let before = counts();
            for piece in [0, 16_000, 16_000, 0] {
                let make = || {
                    let body = match piece {
                        0 => Body::from(bad.page.clone()),
                        piece => pieces(&bad.page, piece),
                    };
                    html(body, &[("etag", "\"the-same\"")])
                };
                let answer = ask(&overspill, "/", make).await;
                assert!(
                    answer.body == expected,
                    "page {number}, round {round}, pieces of {piece}"
                );
            }
            let grown = counts()
                .into_iter()
                .zip(before)
                .filter(|(now, before)| now.1 > before.1);
            let mut grown: Vec<_> = grown.map(|(now, _)| now.0).collect();
            // What is known by its hash is not scanned again; what streams may be taken for the page before.
            grown.retain(|reason| *reason != "changed");
            if round == 0 {
                assert_eq!(grown, Vec::from_iter(bad.reason), "page {number}");
            } else {
                let known = grown.iter().all(|grown| bad.reason == Some(*grown));
                assert!(known, "page {number}: {grown:?}");
            }
        }
    }
}

#[tokio::test]
async fn under_an_etag_that_lies_a_page_is_known_again_after_one_visitor() {
    let overspill = offloading("").await;
    let changed = || {
        let counts = overspill.status().bail_outs;
        counts
            .iter()
            .find(|(reason, _)| *reason == "changed")
            .map(|(_, count)| *count)
    };
    assert_eq!(changed(), Some(0));
    for (n, bails) in [(0, 0), (1, 1), (2, 2)] {
        let page = format!("<p>{n}</p>{PAGE}{}", text(LONG));
        let mut moved_whole = 0;
        for _ in 0..4 {
            let make = || html(streamed(&page, 900), &[("etag", "\"same\"")]);
            let body = ask(&overspill, "/", make).await.body;
            assert!(body == page || body == moved(&page));
            moved_whole += usize::from(body == moved(&page));
        }
        assert_eq!(moved_whole, if n == 0 { 4 } else { 3 }, "page {n}");
        assert_eq!(changed(), Some(bails));
    }
    // Shorter than the plan's page, but the same so far.
    let page = format!("<p>2</p>{}", "x".repeat(LONG));
    let make = || html(streamed(&page, 900), &[("etag", "\"same\"")]);
    assert_eq!(ask(&overspill, "/", make).await.body, page);
    assert_eq!(changed(), Some(3));
}

#[tokio::test]
async fn a_visitor_who_stalls_keeps_nobody_waiting_for_the_plan_of_a_page_that_streams() {
    let overspill = offloading("").await;
    let page = PAGE.to_owned() + &text(LONG);
    let make = || html(streamed(&page, 900), &[("etag", "\"abc\"")]);
    let service = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(make()));
    let request = Request::get("/").header("host", "site.example");
    let stalled = overspill
        .layer()
        .layer(service)
        .oneshot(request.body(Body::empty()).unwrap());
    let mut stalled = stalled.await.unwrap().into_body();
    let first = stalled.frame().await.unwrap().unwrap().into_data().unwrap();

    for (scanned, spliced) in [(1, 0), (1, 1), (1, 2)] {
        assert_eq!(ask(&overspill, "/", make).await.body, moved(&page));
        let server = status(&overspill);
        assert_eq!(
            (server.pages_scanned, server.pages_spliced),
            (scanned, spliced)
        );
    }
    let rest = stalled.collect().await.unwrap().to_bytes();
    assert_eq!([&first[..], &rest].concat(), moved(&page).as_bytes());
    assert_eq!(status(&overspill).pages_scanned, 2);
}
