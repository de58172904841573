//! Visitors who hold on to what they have: each is bounded, and the others are served.

use std::{fs, net::Ipv4Addr, time::Duration};

use axum::{Router, routing::post};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::sleep,
};

use crate::support::{
    self,
    client::{connect, drain, get, request, visitor},
    config::Config,
    folder,
    program::Program,
    raw::parse,
    upstream::{HOLD, Held, Upstream},
    wait::{soon, until},
};

const GET: &[u8] = b"GET /a.png HTTP/1.1\r\nHost: a\r\n\r\n";

/// A long file: more than the buffers of two kernels take.
const MUCH: usize = 32 << 20;

async fn program(lines: &str) -> (TempDir, Program) {
    let much = vec![7; MUCH];
    let site = folder([
        ("index.html", b"<img src=/a.png>".as_slice()),
        ("a.png", b"png"),
        ("much.bin", &much),
    ]);
    let lines = format!("primary.site = {:?}\n{lines}", site.path());
    let program = Program::serve(&Config::new(lines)).await;
    (site, program)
}

async fn is_served(program: &Program, from: Ipv4Addr) {
    let answer = get("/").from(from).ask(program.site).await;
    assert_eq!(answer.status, 200);
}

async fn until_nothing_is_under_way(program: &Program) {
    program
        .until("nothing is under way", |status| status["in_flight"] == 0)
        .await;
}

/// Sends [`GET`] on a connection that stays, and reads the answer.
async fn ask_and_stay(stream: &mut TcpStream) {
    stream.write_all(GET).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"png") {
        let count = soon("an answer", stream.read_buf(&mut read)).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&read));
    }
}

/// How much memory the program has, in bytes.
fn memory(program: &Program) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The same number for everyone: what is asked of a debug build on a busy machine with all its buffers full.
const MUCH_MEMORY: u64 = 400 << 20;

#[tokio::test]
async fn who_says_nothing_little_or_no_more_is_shown_out() {
    let (_site, program) =
        program("primary.limits.head_time = \"1s\"\nprimary.limits.idle = \"1s\"").await;
    let to = program.site;
    let open = async |said: &[u8]| {
        let mut stream = connect(visitor(1), to).await.unwrap();
        stream.write_all(said).await.unwrap();
        stream
    };
    let mut ends = Vec::new();
    for said in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHos",
        b"PRI * HTTP/2.0\r\n",
        PREFACE,
    ] {
        ends.push((open(said).await, &b""[..]));
    }
    for more in [&b""[..], b"GET / HT"] {
        let mut stream = open(b"").await;
        ask_and_stay(&mut stream).await;
        stream.write_all(more).await.unwrap();
        ends.push((stream, b""));
    }
    // A byte now and then.
    let trickle = open(b"").await;
    let (mut reader, mut writer) = trickle.into_split();
    let trickle = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nX: "
            .iter()
            .chain(std::iter::repeat(&b'a'))
        {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    for number in 2..20 {
        is_served(&program, visitor(number)).await;
    }
    for (mut stream, expected) in ends {
        let (read, _) = drain(&mut stream).await;
        // Over HTTP/2 there are the server's own settings, and its goodbye.
        let read = if read.first() == Some(&0) {
            vec![]
        } else {
            read
        };
        assert_eq!(read, expected);
    }
    let mut read = Vec::new();
    let _ = soon("it ends", reader.read_to_end(&mut read)).await;
    assert_eq!(read, b"");
    soon("nobody reads what trickles", trickle).await.unwrap();
    program
        .until("all are gone", |status| status["connections"] == 0)
        .await;
}

/// What an HTTP/2 client says first (RFC 9113 section 3.4), without a setting.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A request as an HTTP/2 HEADERS frame that ends the stream: fields of the static table (RFC 7541 appendix A), the
/// path and the authority as they are.
fn headers_frame(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(&[0x01, 1, b'a']);
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 0x05];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.append(&mut block);
    frame
}

/// The frames of which all is there: type, flags, stream.
fn frames(mut read: &[u8]) -> Vec<(u8, u8, u32)> {
    let mut found = Vec::new();
    while let [a, b, c, kind, flags, s1, s2, s3, s4, rest @ ..] = read {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(rest) = rest.get(length..) else {
            break;
        };
        found.push((*kind, *flags, u32::from_be_bytes([*s1, *s2, *s3, *s4])));
        read = rest;
    }
    found
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;

#[tokio::test]
async fn who_never_reads_is_shown_out() {
    let (_site, program) = program("primary.limits.slow_time = \"1s\"").await;
    let ask = b"GET /much.bin HTTP/1.1\r\nHost: a\r\n\r\n";
    // A client without windows, which says so in its settings: SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
    let shut = [&settings[..], &headers_frame(1, "/much.bin")].concat();
    for said in [&ask[..], &shut] {
        let mut streams = Vec::new();
        for number in 0..20 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(16 << 10).unwrap();
            socket.bind((visitor(number), 0).into()).unwrap();
            let mut stream = socket.connect(program.site).await.unwrap();
            stream.write_all(said).await.unwrap();
            streams.push(stream);
        }
        program
            .until("all were there", |status| {
                status["requests"]["served"].as_u64() >= Some(20)
                    || status["in_flight"].as_u64() >= Some(20)
            })
            .await;
        is_served(&program, visitor(99)).await;
        until_nothing_is_under_way(&program).await;
        assert!(memory(&program) < MUCH_MEMORY);
        for mut stream in streams {
            let (read, _) = drain(&mut stream).await;
            assert!(read.len() < MUCH);
            assert!(read.is_empty() || read[0] != 0 || !frames(&read).iter().any(|f| f.0 == DATA));
        }
    }
}

#[tokio::test]
async fn who_reads_slowly_but_reads_gets_everything() {
    let lines = "primary.limits.slow_time = \"3s\"\nprimary.limits.slow_bytes = \"1B\"";
    let (_site, program) = program(lines).await;
    let mut stream = connect(visitor(1), program.site).await.unwrap();
    stream
        .write_all(b"GET /much.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut read = Vec::new();
    // Longer than the time in all, and never for long without a byte: so much at a time that the server, which writes
    // where half of the kernel's room is free again, sees it.
    let mut part = vec![0; MUCH / 60];
    for _ in 0..30 {
        sleep(Duration::from_millis(200)).await;
        stream.read_exact(&mut part).await.unwrap();
        read.extend_from_slice(&part);
    }
    soon("the end", stream.read_to_end(&mut read))
        .await
        .unwrap();
    assert_eq!(parse(&read, false).body.len(), MUCH);
}

#[tokio::test]
async fn who_sends_a_body_byte_by_byte_is_shown_out_and_who_waits_for_the_upstream_is_not() {
    let app = Router::new().route("/echo", post(async |body: String| body));
    let upstream = Upstream::start(app).await;
    let lines = format!(
        "primary.upstream = \"http://{}\"\nprimary.limits.slow_time = \"1s\"",
        upstream.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    let mut held = Held::none();
    upstream.hold(&program, &mut held, 3).await;
    let mut slow = connect(visitor(1), program.site).await.unwrap();
    let head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n";
    slow.write_all(head).await.unwrap();
    let (mut reader, mut writer) = slow.into_split();
    let sending = tokio::spawn(async move {
        while writer.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    let mut read = Vec::new();
    let _ = soon("it is shown out", reader.read_to_end(&mut read)).await;
    assert!(!read.starts_with(b"HTTP/1.1 200"), "{read:?}");
    soon("it can't send any more", sending).await.unwrap();
    // Those have waited for longer.
    upstream.release(&mut held).await;
}

#[tokio::test]
async fn resets_in_the_middle_leave_nothing_behind() {
    let (_site, program) = program("").await;
    for round in 0..3 {
        let mut streams = Vec::new();
        for number in 0..100 {
            let mut stream = connect(visitor(number), program.site).await.unwrap();
            stream
                .write_all(b"GET /much.bin HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            streams.push(stream);
        }
        for stream in &mut streams {
            let mut some = [0; 1000];
            // In the middle of the head, of the answer, or before either.
            if round > 0 {
                soon("some", stream.read(&mut some[..round * 400]))
                    .await
                    .unwrap();
            }
            stream.set_zero_linger().unwrap();
        }
        drop(streams);
        is_served(&program, visitor(1)).await;
        until_nothing_is_under_way(&program).await;
    }
    program
        .until("all are gone", |status| status["connections"] == 0)
        .await;
    assert!(memory(&program) < MUCH_MEMORY);
}

#[tokio::test]
async fn a_hundred_requests_at_once_on_one_connection_are_all_answered() {
    let (_site, program) = program("").await;
    let mut stream = connect(visitor(1), program.site).await.unwrap();
    let last = b"GET /a.png HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream
        .write_all(&[GET.repeat(99), last.to_vec()].concat())
        .await
        .unwrap();
    let (read, error) = drain(&mut stream).await;
    let text = String::from_utf8(read).unwrap();
    assert_eq!(text.matches("\r\n\r\npng").count(), 100, "{error:?}");

    let mut stream = connect(visitor(1), program.site).await.unwrap();
    let asked: Vec<u8> = (0..100)
        .flat_map(|number| headers_frame(2 * number + 1, "/a.png"))
        .collect();
    stream.write_all(&[PREFACE, &asked].concat()).await.unwrap();
    let mut read = Vec::new();
    let ended = |read: &[u8]| {
        let is_end = |(kind, flags, _): &&(u8, u8, u32)| *kind == DATA && flags & 1 == 1;
        frames(read).iter().filter(is_end).count()
    };
    while ended(&read) < 100 {
        let count = soon("an answer", stream.read_buf(&mut read)).await.unwrap();
        assert!(count > 0, "{:?}", frames(&read));
    }
}

#[tokio::test]
async fn more_streams_at_once_than_may_be_are_refused() {
    let upstream = Upstream::start(Router::new()).await;
    let lines = format!(
        "primary.upstream = \"http://{}\"\nprimary.limits.streams = 3",
        upstream.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    let mut stream = connect(visitor(1), program.site).await.unwrap();
    let asked: Vec<u8> = (0..10)
        .flat_map(|number| headers_frame(2 * number + 1, HOLD))
        .collect();
    stream.write_all(&[PREFACE, &asked].concat()).await.unwrap();
    const RST_STREAM: u8 = 3;
    let mut read = Vec::new();
    let refused = |read: &[u8]| frames(read).iter().filter(|f| f.0 == RST_STREAM).count();
    while refused(&read) < 7 {
        let count = soon("a refusal", stream.read_buf(&mut read)).await.unwrap();
        assert!(count > 0, "{:?}", frames(&read));
    }
    assert!(!frames(&read).iter().any(|frame| frame.0 == HEADERS));
    is_served_by_upstream(&program).await;
}

/// It has nothing, and says so.
async fn is_served_by_upstream(program: &Program) {
    let answer = get("/nothing").from(visitor(2)).ask(program.site).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn a_head_may_be_so_long_and_no_longer() {
    let (_site, program) = program("primary.limits.head_size = \"8KiB\"").await;
    let with = async |bytes: usize| {
        let long = "a".repeat(bytes);
        get("/a.png")
            .header("X-Long", &long)
            .ask(program.site)
            .await
            .status
    };
    assert_eq!(with(7 << 10).await, 200);
    assert_eq!(with(9 << 10).await, 431);
    for (bytes, expected) in [("7000", "200"), ("9000", "431")] {
        let long = format!("X-Long: {}", "a".repeat(bytes.parse().unwrap()));
        let url = format!("http://{}/a.png", program.site);
        let arguments = [
            "--http2-prior-knowledge",
            "-H",
            &long,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &url,
        ];
        let said = support::curl::curl(&arguments).await;
        assert!(said.stdout.ends_with(expected), "{bytes} {said:?}");
    }
}

#[tokio::test]
async fn ten_thousand_idle_connections_are_kept_and_a_visitor_is_served() {
    const COUNT: usize = 10_000;
    let site = folder([("index.html", b"home".as_slice()), ("a.png", b"png")]);
    let lines = format!(
        "primary.site = {:?}\nprimary.limits.idle = \"30m\"\nprimary.limits.connections = {}",
        site.path(),
        COUNT - 1
    );
    // As most systems start a program; the hard limit is higher.
    let program = Program::serve_after("ulimit -S -n 1024", &Config::new(lines)).await;
    let opening = (0..20).map(|address| {
        let to = program.site;
        tokio::spawn(async move {
            let mut streams = Vec::new();
            for _ in 0..COUNT / 20 {
                let mut stream = connect(visitor(address), to).await.unwrap();
                ask_and_stay(&mut stream).await;
                streams.push(stream);
            }
            streams
        })
    });
    let mut streams = Vec::new();
    for opening in opening.collect::<Vec<_>>() {
        streams.extend(opening.await.unwrap());
    }
    // Who comes when there is room for no more displaces some that have been idle for long, once in a while.
    let is_kept = |status: &serde_json::Value| {
        let count = status["connections"].as_u64().unwrap() as usize;
        (COUNT - COUNT / 50..COUNT).contains(&count)
    };
    program.until("they are kept", is_kept).await;
    for number in 100..120 {
        is_served(&program, visitor(number)).await;
    }
    program.until("they are still kept", is_kept).await;
    let memory = memory(&program);
    assert!(memory < MUCH_MEMORY, "{} MB", memory >> 20);
    // The youngest are as they were.
    ask_and_stay(streams.last_mut().unwrap()).await;
}

/// Whether the other side has ended it.
async fn has_ended(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(
        tokio::time::timeout(Duration::from_millis(50), stream.read(&mut byte)).await,
        Ok(Ok(0) | Err(_))
    )
}

#[tokio::test]
async fn the_longest_idle_make_room_and_where_all_are_busy_the_newest_is_refused() {
    let upstream = Upstream::start(Router::new()).await;
    let lines = format!(
        "primary.upstream = \"http://{}\"\nprimary.limits.connections = 10",
        upstream.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    let mut held = Held::none();
    upstream.hold(&program, &mut held, 5).await;
    let mut idle = Vec::new();
    for number in 1..=5 {
        idle.push(connect(visitor(number), program.site).await.unwrap());
        program
            .until("it is there", |status| status["connections"] == 5 + number)
            .await;
    }
    is_served_by_upstream(&program).await;
    until("the longest idle has ended", async || {
        has_ended(&mut idle[0]).await.then_some(())
    })
    .await;
    assert!(!has_ended(idle.last_mut().unwrap()).await);
    // One at a time each makes room for one.
    upstream.hold(&program, &mut held, 5).await;
    let before = program.status().await["requests"]["dropped"].clone();
    assert_eq!(before, 0);
    assert_eq!(
        get("/nothing").from(visitor(9)).bytes(program.site).await,
        b""
    );
    assert_eq!(program.status().await["requests"]["dropped"], 1);
    assert!(program.log().contains("connections are refused"));
    upstream.release(&mut held).await;
    is_served_by_upstream(&program).await;
}

#[tokio::test]
async fn an_address_may_have_so_many_and_a_trusted_proxy_more() {
    let upstream = Upstream::start(Router::new()).await;
    let lines = format!(
        r#"
        primary.upstream = "http://{}"
        primary.limits.connections_per_address = 3
        primary.trusted_proxies = ["127.1.0.9"]
        throttle.bypass.addresses = ["127.0.0.1"]
        "#,
        upstream.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    let mut held = Vec::new();
    let ask = get(HOLD).text();
    let mut hold = async |from: Ipv4Addr| {
        let mut stream = connect(from, program.site).await.unwrap();
        let _ = stream.write_all(ask.as_bytes()).await;
        held.push(stream);
    };
    for _ in 0..3 {
        hold(visitor(1)).await;
    }
    for _ in 0..6 {
        hold(visitor(9)).await;
    }
    program
        .until("all wait", |status| status["in_flight"] == 9)
        .await;
    assert_eq!(
        get("/nothing").from(visitor(1)).bytes(program.site).await,
        b""
    );
    is_served_by_upstream(&program).await;
    let proxied = get("/nothing").from(visitor(9)).ask(program.site).await;
    assert_eq!(proxied.status, 404);
}

#[tokio::test]
async fn a_low_limit_of_open_files_is_told_and_kept() {
    let site = folder([("index.html", b"home".as_slice())]);
    let lines = format!("primary.site = {:?}", site.path());
    let program = Program::serve_after("ulimit -n 100", &Config::new(lines)).await;
    assert!(
        program.log().contains("the limit of open files is too low"),
        "{}",
        program.log()
    );
    let mut streams = Vec::new();
    for _ in 0..200 {
        // It may have been ended before it shows as begun.
        streams.extend(connect(visitor(1), program.site).await.ok());
    }
    for number in 2..10 {
        is_served(&program, visitor(number)).await;
    }
    assert!(!program.log().contains("can't accept"), "{}", program.log());
}

/// How many files the program has open.
fn open_files(program: &Program) -> usize {
    fs::read_dir(format!("/proc/{}/fd", program.id()))
        .unwrap()
        .count()
}

/// How much processor time the program has used, in ticks of 10 ms.
fn ticks(program: &Program) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", program.id())).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let number = |index: usize| rest.split(' ').nth(index).unwrap().parse::<u64>().unwrap();
    number(11) + number(12)
}

async fn allow_files(program: &Program, count: usize) {
    let status = tokio::process::Command::new("prlimit")
        .args(["--pid", &program.id().to_string()])
        .arg(format!("--nofile={count}:20000"))
        .status()
        .await
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn where_no_file_is_left_accepting_waits_and_goes_on() {
    let upstream = Upstream::start(Router::new()).await;
    let lines = format!("primary.upstream = \"http://{}\"", upstream.address);
    let program = Program::serve(&Config::new(lines)).await;
    let mut held = Held::none();
    upstream.hold(&program, &mut held, 10).await;
    // Not one more, though it believes that it may have thousands.
    allow_files(&program, 3).await;
    let site = program.site;
    let asking = tokio::spawn(async move { get("/nothing").ask(site).await });
    let said = || program.log().matches("can't accept a connection").count();
    until("it says so", async || (said() > 0).then_some(())).await;
    let before = ticks(&program);
    sleep(Duration::from_secs(2)).await;
    let used = ticks(&program) - before;
    // A circle without a pause takes all of a processor; a busy machine makes this less, not more.
    assert!(used < 100, "{used} of 200");
    assert_eq!(said(), 1);
    assert!(!asking.is_finished());
    // Those that are there already are served.
    upstream.release(&mut held).await;
    allow_files(&program, 1000).await;
    let answer = soon("an answer", asking).await.unwrap();
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn where_no_file_is_left_idle_connections_end() {
    let (_site, program) = program("").await;
    let mut idle = Vec::new();
    for number in 0..20 {
        let mut stream = connect(visitor(number), program.site).await.unwrap();
        ask_and_stay(&mut stream).await;
        idle.push(stream);
    }
    allow_files(&program, open_files(&program)).await;
    for number in 100..110 {
        let answer = soon(
            "an answer",
            get("/").from(visitor(number)).try_ask(program.site),
        )
        .await;
        assert!(answer.is_none_or(|answer| answer.status == 200 || answer.status >= 500));
    }
    until("the longest idle has ended", async || {
        has_ended(&mut idle[0]).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn other_methods_are_bounded_as_well() {
    let (_site, program) = program("primary.limits.idle = \"1s\"").await;
    let mut streams = Vec::new();
    for method in ["OPTIONS", "HEAD", "POST", "BREW"] {
        let text = request(method, "/a.png")
            .text()
            .replace("Connection: close\r\n", "");
        let mut stream = connect(visitor(1), program.site).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    for mut stream in streams {
        let (read, _) = drain(&mut stream).await;
        assert!(read.starts_with(b"HTTP/1.1 "));
    }
}

#[tokio::test]
async fn an_edge_has_the_same_limits() {
    let upstream = Upstream::start(Router::new()).await;
    let lines = format!(
        "primary.upstream = \"http://{}\"\nthrottle.bypass.paths = [\"{HOLD}\"]",
        upstream.address
    );
    let primary = Program::serve(&Config::new(lines)).await;
    let lines = format!(
        r#"
        edge.primary = "http://{}"
        edge.limits.connections = 5
        edge.limits.connections_per_address = 2
        edge.limits.idle = "1s"
        edge.limits.head_time = "1s"
        "#,
        primary.site
    );
    let edge = Program::edge(&Config::new(lines)).await;
    let mut silent = connect(visitor(1), edge.site).await.unwrap();
    assert_eq!(drain(&mut silent).await.0, b"");
    let is_served = async |number| {
        let asked = get("/.overspill/health").host(&edge.site.to_string());
        let answer = asked.from(visitor(number)).ask(edge.site).await;
        assert_eq!(answer.status, 200);
    };
    let mut many = Vec::new();
    for _ in 0..30 {
        many.extend(connect(visitor(1), edge.site).await.ok());
    }
    is_served(2).await;
    drop(many);

    // Who is idle makes room, who waits for an answer does not.
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(visitor(3), edge.site).await.unwrap();
        stream
            .write_all(get(HOLD).host("localhost").text().as_bytes())
            .await
            .unwrap();
        busy.push(stream);
    }
    edge.until("both wait", |status| status["in_flight"] == 2)
        .await;
    let third = get("/.overspill/health").from(visitor(3));
    assert_eq!(third.bytes(edge.site).await, b"");
    until("it says by which limit", async || {
        edge.log().contains("connections_per_address").then_some(())
    })
    .await;
    is_served(2).await;
}
