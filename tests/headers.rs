//! The headers of a page that is rewritten, both ways, through the whole layer.
//!
//! `tests/fixtures/headers/name.src.http` holds a request as the client sends it, and the application's answer;
//! `name.expected.http` the request as the application gets it, and the answer as the client gets it. Bodies come whole
//! and in random pieces, and encoded where the head says so (in the files they are plain). Of every page that a GET
//! gets, a HEAD gets the same head.
//!
//! Lines in front of the request: `# ` says what the fixture is for, `#! ` changes the configuration, or is `normal`.
//! In the files `{eu}` is the tag of the server's rewriting (`{eu-nocors}` without CORS), `{us}` that of another's,
//! `{hold}` what is left of the episode in seconds.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::body::{Body, Bytes};
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use overspill::{
    Overspill, Settings,
    level::Level,
    rewrite::{
        Rules, Target,
        coding::{Coding, decode_all, encode_all},
        headers::Tag,
    },
};
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

use crate::support::{config::Config, wait::until};

const SERVERS: &str = r#"offload.hold = "1h"
    offload.servers = [{ name = "eu", url = "https://eu.example", cors = true, health = false }]"#;
const HOLD: u64 = 3600;

/// A request and an answer, as text.
#[derive(Debug, Clone, Default, PartialEq)]
struct Exchange {
    request: Vec<String>,
    response: Vec<String>,
    body: String,
}

struct Fixture {
    config: Vec<String>,
    comments: String,
    exchange: Exchange,
}

// === impl Fixture ===

impl Fixture {
    fn parse(text: &str) -> Self {
        let (mut config, mut comments) = (Vec::new(), String::new());
        let mut rest = text;
        while rest.starts_with('#') {
            let (line, after) = rest.split_once('\n').unwrap();
            match line.strip_prefix("#! ") {
                Some(line) => config.push(line.to_owned()),
                None => {
                    comments += line;
                    comments.push('\n');
                }
            }
            rest = after;
        }
        let (request, rest) = rest.split_once("\n\n").unwrap();
        let (response, body) = rest.split_once("\n\n").unwrap_or((rest.trim_end(), ""));
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        Self {
            config,
            comments,
            exchange: Exchange {
                request: lines(request),
                response: lines(response),
                body: body.to_owned(),
            },
        }
    }
}

// === impl Exchange ===

impl Exchange {
    fn text(&self) -> String {
        let head = [self.request.join("\n"), self.response.join("\n")].join("\n\n");
        if self.body.is_empty() {
            head + "\n"
        } else {
            head + "\n\n" + &self.body
        }
    }
}

/// What the placeholders stand for.
fn tags() -> [(&'static str, String); 3] {
    let rules = Rules::new(&Default::default()).unwrap();
    [
        ("{eu}", "eu", true),
        ("{us}", "us", true),
        ("{eu-nocors}", "eu", false),
    ]
    .map(|(place, name, cors)| {
        let url = format!("https://{name}.example").parse().unwrap();
        let target = Target::new(name, &url, cors).unwrap();
        (place, Tag::new(&target, &rules).to_string())
    })
}

fn with_tags(text: &str) -> String {
    tags().iter().fold(text.to_owned(), |text, (place, tag)| {
        text.replace(place, tag)
    })
}

fn with_places(text: &str) -> String {
    let text = tags().iter().fold(text.to_owned(), |text, (place, tag)| {
        text.replace(tag, place)
    });
    // However long the tests take: below it, nothing in the fixtures is.
    let Some((before, after)) = text.split_once("private, max-age=") else {
        return text;
    };
    let digits = after
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(after.len());
    let (age, rest) = after.split_at(digits);
    let is_hold = age
        .parse::<u64>()
        .is_ok_and(|age| (HOLD / 2..=HOLD).contains(&age));
    let age = if is_hold { "{hold}" } else { age };
    format!("{before}private, max-age={age}{rest}")
}

fn headers(lines: &[String]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(": ")
            .unwrap_or((line.trim_end_matches(':'), ""));
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(&with_tags(value)).unwrap());
    }
    headers
}

fn lines(first: String, headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| with_places(&format!("{name}: {}", value.to_str().unwrap())))
        .collect();
    lines.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    lines.insert(0, first);
    lines
}

/// How the application's body comes.
#[derive(Debug, Clone, Copy)]
enum Comes {
    Whole,
    InPieces(u64),
}

fn body(bytes: Bytes, comes: Comes) -> Body {
    let Comes::InPieces(seed) = comes else {
        return Body::from(bytes);
    };
    let pieces = stream::unfold((bytes, seed), async |(mut left, mut random)| {
        // Between the pieces nothing is there for a moment, as from a network.
        tokio::task::yield_now().await;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let length = left.len().min(1 + (random % 20) as usize);
        let piece = left.split_to(length);
        (length > 0).then_some((Ok::<_, Infallible>(piece), (left, random)))
    });
    Body::from_stream(pieces)
}

/// Sends the fixture's request through the layer to an application that gives the fixture's answer.
async fn exchange(
    overspill: &Overspill,
    fixture: &Exchange,
    method: Method,
    comes: Comes,
) -> Exchange {
    let mut line = fixture.request[0].split(' ');
    line.next();
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method.clone();
    *request.uri_mut() = line.next().unwrap().parse().unwrap();
    *request.headers_mut() = headers(&fixture.request[1..]);

    let answer = headers(&fixture.response[1..]);
    let status = fixture.response[0].split(' ').nth(1).unwrap();
    let mut response = Response::builder().status(status).body(()).unwrap();
    *response.headers_mut() = answer;
    let coding = Coding::of(response.headers()).ok().flatten();
    let plain = Bytes::copy_from_slice(fixture.body.trim_end_matches('\n').as_bytes());
    let bytes = match coding {
        Some(coding) if !plain.is_empty() => encode_all(coding, &plain).unwrap(),
        _ => plain,
    };
    if method == Method::HEAD {
        *response
            .headers_mut()
            .entry(header::CONTENT_LENGTH)
            .or_insert(0.into()) = bytes.len().into();
    }
    let bytes = if method == Method::HEAD {
        Bytes::new()
    } else {
        bytes
    };
    let seen = Arc::new(Mutex::new(None));
    let service = service_fn(async |request: Request<Body>| {
        let first = format!("{} {} HTTP/1.1", request.method(), request.uri());
        *seen.lock().unwrap() = Some(lines(first, request.headers()));
        let (parts, ()) = response.clone().into_parts();
        Ok::<_, Infallible>(Response::from_parts(parts, body(bytes.clone(), comes)))
    });
    let response = overspill
        .layer()
        .layer(service)
        .oneshot(request)
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let exact = http_body::Body::size_hint(&body).exact();
    let mut bytes = body.collect().await.unwrap().to_bytes();
    if method == Method::GET {
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let length = length.map(|length| length.to_str().unwrap().parse().unwrap());
        let told = length.or(exact);
        assert!(
            told.is_none_or(|told| told == bytes.len() as u64),
            "{told:?}"
        );
    }
    if let Some(coding) = coding.filter(|_| !bytes.is_empty()) {
        bytes = decode_all(coding, &bytes, 1 << 20).unwrap();
    }
    let mut text = String::from_utf8(bytes.to_vec()).unwrap();
    if !text.is_empty() {
        text.push('\n');
    }
    let first = format!("HTTP/1.1 {}", parts.status.as_u16());
    let request = seen.lock().unwrap().take();
    Exchange {
        request: request.expect("the application is asked"),
        response: lines(first, &parts.headers),
        body: text,
    }
}

/// The layer for each configuration, made once.
#[derive(Default)]
struct Layers(BTreeMap<Vec<String>, Arc<Overspill>>);

impl Layers {
    async fn get(&mut self, lines: &[String]) -> Arc<Overspill> {
        if let Some(overspill) = self.0.get(lines) {
            return overspill.clone();
        }
        let mut config = Config::new(SERVERS);
        for line in lines.iter().filter(|line| *line != "normal") {
            config = config.with(line);
        }
        let settings = Settings::from_toml(&config.to_string()).unwrap();
        let overspill = Arc::new(Overspill::start(settings).unwrap());
        until("the server gets work", async || {
            overspill.status().servers[0].usable.then_some(())
        })
        .await;
        let normal = lines.iter().any(|line| line == "normal");
        let level = if normal {
            Level::Normal
        } else {
            Level::Offload
        };
        overspill.override_level(level, Duration::from_secs(HOLD));
        self.0.insert(lines.to_vec(), overspill.clone());
        overspill
    }
}

#[tokio::test]
async fn each_exchange_is_what_is_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/headers");
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut layers = Layers::default();
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter_map(|file| file.strip_suffix(".src.http").map(str::to_owned))
        .collect();
    names.sort_unstable();
    assert!(names.len() >= 50, "found {} fixtures", names.len());
    let mut wrong = String::new();
    for name in names {
        let source = fs::read_to_string(folder.join(format!("{name}.src.http"))).unwrap();
        let fixture = Fixture::parse(&source);
        assert!(
            !fixture.comments.is_empty(),
            "{name} does not say what it is for"
        );
        let overspill = layers.get(&fixture.config).await;
        let method = fixture.exchange.request[0].split(' ').next().unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let expected = folder.join(format!("{name}.expected.http"));
        if std::env::var_os("OVERSPILL_BLESS").is_some() {
            let got = exchange(&overspill, &fixture.exchange, method.clone(), Comes::Whole).await;
            fs::write(&expected, got.text()).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap();
        for comes in [
            Comes::Whole,
            Comes::Whole,
            Comes::InPieces(seed),
            Comes::InPieces(seed + 2),
        ] {
            let got = exchange(&overspill, &fixture.exchange, method.clone(), comes).await;
            if got.text() != expected {
                let got = got.text();
                writeln!(
                    wrong,
                    "── {name}, {comes:?}: expected\n{expected}── got\n{got}"
                )
                .unwrap();
            }
        }
        if method == Method::GET {
            let head = exchange(&overspill, &fixture.exchange, Method::HEAD, Comes::Whole).await;
            let expected = Fixture::parse(&expected).exchange;
            let without_length = |lines: &[String]| -> Vec<String> {
                let length = |line: &&String| !line.starts_with("content-length: ");
                lines.iter().filter(length).cloned().collect()
            };
            assert_eq!(
                without_length(&head.response),
                without_length(&expected.response),
                "HEAD of {name}"
            );
            assert_eq!(head.request[1..], expected.request[1..], "HEAD of {name}");
            assert_eq!(head.body, "");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
