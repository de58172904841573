//! HTTP/2 as it is not meant: floods of frames that cost the sender little. The connection ends, or what it costs stays
//! bounded; and the others are served.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, response::IntoResponse};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    client::get, config::Config, program::Program, small_site, upstream::Upstream, wait::soon,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET /` or `POST /` of `a`, in HPACK (RFC 7541) without a table.
fn fields(is_post: bool) -> Vec<u8> {
    let mut block = vec![if is_post { 0x83 } else { 0x82 }, 0x86, 0x84];
    block.extend(b"\x01\x01a");
    block
}

/// A literal header.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        block.push(u8::try_from(text.len()).unwrap());
        block.extend(text.as_bytes());
    }
    block
}

/// How a flood went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The server ended the connection.
    Closed,
    /// The server reads no more: who sends waits.
    HeldBack,
    /// It was all taken.
    Taken,
}

/// Sends `part(0)`, `part(1)` and so on up to `count` of them; reads what comes where `reads`.
async fn flood(to: SocketAddr, count: u32, reads: bool, part: impl Fn(u32) -> Vec<u8>) -> End {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(PREFACE).await.unwrap();
    let reading = reads.then(|| {
        tokio::spawn(async move {
            let mut all = vec![0; 65536];
            while matches!(reader.read(&mut all).await, Ok(1..)) {}
        })
    });
    // Many at a time: a write for each would be the slowest part.
    for first in (0..count).step_by(100) {
        let many: Vec<u8> = (first..count.min(first + 100)).flat_map(&part).collect();
        match timeout(Duration::from_secs(2), writer.write_all(&many)).await {
            Err(_) => return End::HeldBack,
            Ok(Err(_)) => return End::Closed,
            Ok(Ok(())) => {}
        }
    }
    match reading {
        Some(reading) => match timeout(Duration::from_secs(2), reading).await {
            Ok(_) => End::Closed,
            Err(_) => End::Taken,
        },
        None => End::Taken,
    }
}

/// It acknowledges no PING, so it is never told which of its requests is the last.
#[tokio::test]
async fn who_does_not_hear_that_there_is_an_end_and_asks_on_is_shown_out() {
    let site = small_site();
    let lines = "primary.limits.requests = 2\nprimary.limits.drain = \"100ms\"";
    let program = Program::serve(&Config::of_site(&site, lines)).await;
    let stream = TcpStream::connect(program.site).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(PREFACE).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut all = vec![0; 65536];
        while matches!(reader.read(&mut all).await, Ok(1..)) {}
    });
    // One that is under way for as long as the connection lasts: there is no window (`SETTINGS_INITIAL_WINDOW_SIZE`).
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let held = frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(false));
    writer.write_all(&[no_window, held].concat()).await.unwrap();
    // `HEAD /`: what is answered takes nothing of it.
    let head = [&b"\x02\x04HEAD"[..], &fields(false)[1..]].concat();
    let mut asked = 1;
    while !reading.is_finished() {
        let frame = frame(HEADERS, END_STREAM | END_HEADERS, asked * 2 + 1, &head);
        if writer.write_all(&frame).await.is_err() {
            break;
        }
        asked += 1;
        assert!(asked < 2000, "it is served on and on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(asked > 2, "it had a moment to ask on");
}

fn memory(program: &Program) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kibibytes << 10
}

/// What a connection may cost that fills all that it can fill: a window, answers that wait, and what the allocator keeps.
const BOUND: u64 = 64 << 20;

async fn is_served(program: &Program) {
    assert_eq!(get("/").ask(program.site).await.status, 200);
}

const fn odd(number: u32) -> u32 {
    number * 2 + 1
}

/// CVE-2023-44487.
fn rapid_reset(number: u32) -> Vec<u8> {
    let stream = odd(number);
    let mut both = frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(false));
    both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    both
}

#[tokio::test]
async fn who_takes_back_all_that_he_asks_is_shown_out() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    // An application that takes its time.
    let app = Router::new().fallback(async move |request: axum::extract::Request| {
        counted.fetch_add(1, SeqCst);
        if request.headers()["host"] == "a" {
            std::future::pending::<()>().await;
        }
        "ok".into_response()
    });
    let upstream = Upstream::start(app).await;
    let lines = format!("primary.upstream = \"http://{}\"", upstream.address);
    let program = Program::serve(&Config::new(lines)).await;
    is_served(&program).await;
    let before = memory(&program);
    for reads in [true, false] {
        let end = flood(program.site, 20_000, reads, rapid_reset).await;
        assert_eq!(end, End::Closed);
    }
    assert!(memory(&program) < before + BOUND);
    // Hardly any of them got as far as the application: far less than a hundredth of what was sent.
    let got_through = asked.load(SeqCst);
    assert!(got_through < 1_000, "{got_through}");
    is_served(&program).await;
}

#[tokio::test]
async fn floods_of_frames_stay_bounded() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    is_served(&program).await;
    let before = memory(&program);
    let open = frame(HEADERS, END_HEADERS, 1, &fields(true));
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
    let ping = frame(PING, 0, 0, &[7; 8]);
    let nothing = frame(DATA, 0, 1, &[]);
    let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 0]);
    let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]);
    let after = |open: &[u8], more: &[u8]| {
        let (open, more) = (open.to_vec(), more.to_vec());
        move |number| {
            if number == 0 {
                open.clone()
            } else {
                more.clone()
            }
        }
    };
    // Nobody may ask for more in one connection than this many frames.
    const MANY: u32 = 1_000_000;
    let mut ends = Vec::new();
    for reads in [true, false] {
        for (name, end) in [
            (
                "reset",
                flood(program.site, 100_000, reads, rapid_reset).await,
            ),
            (
                "settings",
                flood(program.site, MANY, reads, after(&settings, &settings)).await,
            ),
            (
                "ping",
                flood(program.site, MANY, reads, after(&ping, &ping)).await,
            ),
            (
                "empty",
                flood(program.site, MANY, reads, after(&open, &nothing)).await,
            ),
            (
                "update",
                flood(program.site, MANY, reads, after(&update, &update)).await,
            ),
            (
                "priority",
                flood(program.site, MANY, reads, after(&priority, &priority)).await,
            ),
        ] {
            let memory = memory(&program);
            assert!(memory < before + BOUND, "{name}: {before} {memory}");
            ends.push((name, reads, end));
        }
        is_served(&program).await;
    }
    println!("{ends:?}");
    // An increment of nothing is an error (RFC 9113 section 6.9).
    assert!(ends.contains(&("update", true, End::Closed)), "{ends:?}");
}

/// CVE-2024-27316 and its like: a head that never ends.
#[tokio::test]
async fn a_head_without_an_end_ends_the_connection() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    is_served(&program).await;
    let before = memory(&program);
    let begin = frame(HEADERS, END_STREAM, 1, &fields(false));
    for more in [Vec::new(), field("x", &"y".repeat(100))] {
        let more = frame(CONTINUATION, 0, 1, &more);
        let part = |number| {
            if number == 0 {
                begin.clone()
            } else {
                more.clone()
            }
        };
        for reads in [true, false] {
            let end = flood(program.site, 1_000_000, reads, part).await;
            assert_eq!(end, End::Closed, "{reads}");
        }
    }
    assert!(memory(&program) < before + BOUND);
    is_served(&program).await;
}

/// Reads frames until `is_meant` finds one; gives the kind, the flags, the stream and the payload.
async fn read_frame(
    stream: &mut TcpStream,
    is_meant: impl Fn(u8, u32) -> bool,
) -> Option<(u8, u8, u32, Vec<u8>)> {
    loop {
        let mut head = [0; 9];
        soon("a frame", stream.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        soon("its payload", stream.read_exact(&mut payload))
            .await
            .ok()?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if is_meant(head[3], id) {
            return Some((head[3], head[4], id, payload));
        }
    }
}

/// Headers that HTTP/2 does not have (RFC 9113 section 8.2.2), and lengths that are not true: none of it is asked of the site.
#[tokio::test]
async fn what_would_mean_something_else_in_http_1_is_not_asked() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("connection", "keep-alive"),
        ("keep-alive", "1"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("content-length", "5"),
        ("Host", "a"),
        ("x", "a\r\nb: c"),
        ("x", "a\0b"),
        ("x y", "a"),
    ] {
        let mut block = fields(false);
        block.extend(field(name, value));
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
        let mut stream = TcpStream::connect(program.site).await.unwrap();
        stream
            .write_all(&[PREFACE, &request].concat())
            .await
            .unwrap();
        // A connection that ends, or a stream that does; a refusal in words is as good.
        let of_it = |kind, id| id == 1 && kind != WINDOW_UPDATE;
        if let Some((HEADERS, ..)) = read_frame(&mut stream, of_it).await {
            let is_data = |kind, _| kind == DATA;
            let (.., body) = read_frame(&mut stream, is_data).await.unwrap();
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(!body.contains(PAGE), "{name}: {body}");
        }
    }
    let mut stream = TcpStream::connect(program.site).await.unwrap();
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(false));
    stream
        .write_all(&[PREFACE, &request].concat())
        .await
        .unwrap();
    let (.., body) = read_frame(&mut stream, |kind, _| kind == DATA)
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&body).contains(PAGE));
}

/// What the page of the site has.
const PAGE: &str = "<title>x</title>";

#[tokio::test]
#[ignore = "needs nghttp2-client"]
async fn nghttp2_and_h2load_are_served() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    let url = format!("http://{}/", program.site);
    let run = |program: &str, arguments: &[&str]| {
        let ran = Command::new(program)
            .args(arguments)
            .arg(&url)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{said}");
        said
    };
    // With the page's picture, by an upgrade from HTTP/1.1 (which the server does not take) and by prior knowledge.
    let said = run("nghttp", &["-v", "-a"]);
    assert!(said.contains(":status: 200"), "{said}");
    assert!(said.contains("/a.png"), "{said}");
    assert!(
        !said.contains("GOAWAY frame <") || said.contains("NO_ERROR"),
        "{said}"
    );
    for arguments in [["-n2000", "-c10", "-m20"], ["-n2000", "-c1", "-m100"]] {
        let said = run("h2load", &arguments);
        assert!(
            said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{said}"
        );
    }
}
