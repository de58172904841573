//! `overspill edge` as a process: what it keeps, what it refuses, and what it makes of a bad primary.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::support::{
    self,
    address::own_address,
    client::{get, post, request},
    config::Config,
    program::{Program, run},
    raw::{Answer, exchange},
    wait::{soon, until},
    webdriver::Browser,
};

const TOKEN: &str = "a long secret";

/// What a primary writes to a connection when it is asked for a path, byte by byte as a test wants it.
#[derive(Clone)]
enum Says {
    /// This, and then the connection ends.
    Bytes(Vec<u8>),
    /// The first, and when the test says so the second.
    Twice(Vec<u8>, Vec<u8>),
    /// The first, and then the second again and again, with a pause between, for as long as it is listened to.
    Drips(Vec<u8>, Vec<u8>, Duration),
    /// The first to who asks whether what he has is still the one, else the second.
    Either(Vec<u8>, Vec<u8>),
    /// Nothing, for ever.
    Nothing,
}

#[derive(Default)]
struct Book {
    says: HashMap<String, Says>,
    /// Heads of requests, in order.
    asked: Vec<String>,
    /// Requests that are not answered to the end, and the most of them that there were at once.
    under_way: usize,
    most: usize,
    /// Paths whose answers would have gone on when nobody listened any more.
    given_up: Vec<String>,
}

/// A primary by hand.
struct Primary {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    go: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer with its length.
fn ok(lines: &str, body: &str) -> Says {
    answer("200 OK", lines, body)
}

fn answer(status: &str, lines: &str, body: &str) -> Says {
    let length = body.len();
    Says::Bytes(
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{lines}\r\n{body}").into(),
    )
}

impl Primary {
    async fn start(says: impl IntoIterator<Item = (&str, Says)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = says.into_iter().map(|(path, says)| (path.to_owned(), says));
        let book = Arc::new(Mutex::new(Book {
            says: says.collect(),
            ..Book::default()
        }));
        let go = watch::Sender::new(false);
        let (shared, going) = (book.clone(), go.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(attend(stream, shared.clone(), going.subscribe()));
            }
        });
        Self {
            address,
            book,
            go,
            task,
        }
    }

    fn say(&self, path: &str, says: Says) {
        self.book.lock().unwrap().says.insert(path.to_owned(), says);
    }

    /// Heads of the requests for `path`, in lower case.
    fn asked(&self, path: &str) -> Vec<String> {
        let line = format!(" {path} http/1.1\r\n");
        let book = self.book.lock().unwrap();
        book.asked
            .iter()
            .filter(|head| head.contains(&line))
            .cloned()
            .collect()
    }

    /// Waits until what it says at `path` is not listened to any more.
    async fn until_given_up(&self, path: &str) {
        until(format_args!("{path} is given up"), async || {
            let book = self.book.lock().unwrap();
            book.given_up
                .iter()
                .any(|given_up| given_up == path)
                .then_some(())
        })
        .await;
    }

    fn config(&self, more: &str) -> Config {
        Config::new(format!(
            "edge.primary = \"http://{}\"\nedge.token = \"{TOKEN}\"\n{more}",
            self.address
        ))
    }

    async fn edge(&self, more: &str) -> Program {
        Program::edge(&self.config(more)).await
    }
}

async fn attend(mut stream: TcpStream, book: Arc<Mutex<Book>>, mut go: watch::Receiver<bool>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let lower = head.to_lowercase();
    let is_conditional = lower.contains("\r\nif-");
    let says = {
        let mut book = book.lock().unwrap();
        book.asked.push(lower);
        book.under_way += 1;
        book.most = book.most.max(book.under_way);
        book.says.get(&path).cloned()
    };
    // Before the last byte is out: whoever has it may ask for the next.
    let done = || book.lock().unwrap().under_way -= 1;
    match says.unwrap_or_else(|| answer("404 Not Found", "", "")) {
        Says::Bytes(bytes) => {
            done();
            let _ = stream.write_all(&bytes).await;
        }
        Says::Twice(first, second) => {
            let _ = stream.write_all(&first).await;
            let _ = go.wait_for(|go| *go).await;
            done();
            let _ = stream.write_all(&second).await;
        }
        Says::Drips(first, again, pause) => {
            let _ = stream.write_all(&first).await;
            while stream.write_all(&again).await.is_ok() {
                tokio::time::sleep(pause).await;
            }
            done();
            book.lock().unwrap().given_up.push(path);
        }
        Says::Either(unchanged, whole) => {
            let bytes = if is_conditional { unchanged } else { whole };
            done();
            let _ = stream.write_all(&bytes).await;
        }
        Says::Nothing => std::future::pending().await,
    }
}

/// A `GET` under the edge's own address.
async fn fetch(edge: &Program, path: &str) -> Answer {
    get(path).host("127.0.0.1").ask(edge.site).await
}

async fn fetch_with(edge: &Program, path: &str, name: &str, value: &str) -> Answer {
    get(path)
        .host("127.0.0.1")
        .header(name, value)
        .ask(edge.site)
        .await
}

async fn own(edge: &Program, path: &str, body: &Value) -> Answer {
    post(path, &body.to_string())
        .host("127.0.0.1")
        .header("Authorization", &format!("Bearer {TOKEN}"))
        .ask(edge.site)
        .await
}

/// Waits until the log says so: it comes by a pipe.
async fn logs(program: &Program, words: &str) {
    until(format_args!("the log says {words:?}"), async || {
        program.log().contains(words).then_some(())
    })
    .await;
}

fn count(status: &Value, name: &str) -> u64 {
    status["requests"][name].as_u64().unwrap()
}

#[tokio::test]
async fn an_object_is_pulled_once_and_given_out_for_pages_of_every_origin() {
    let primary = Primary::start([(
        "/a.css?v=1",
        ok(
            "Cache-Control: max-age=600\r\nContent-Type: text/css\r\nETag: \"1\"\r\n\
             Access-Control-Allow-Origin: https://www.example.com\r\nX-Own: kept\r\n",
            "body",
        ),
    )])
    .await;
    let edge = primary.edge("").await;
    for round in 0..3 {
        let answer = get("/a.css?v=1")
            .host("127.0.0.1")
            .header("Cookie", "session=secret")
            .header("Authorization", "Basic c2VjcmV0")
            .ask(edge.site)
            .await;
        assert_eq!((answer.status, answer.text()), (200, "body"));
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("timing-allow-origin", "*"),
            ("cache-control", "max-age=600"),
            ("etag", "\"1\""),
            ("x-own", "kept"),
            ("content-type", "text/css"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
        assert_eq!(answer.header("age").is_some(), round > 0);
    }
    let asked = primary.asked("/a.css?v=1");
    assert_eq!(asked.len(), 1);
    assert!(asked[0].contains(&format!("x-overspill-token: {TOKEN}\r\n")));
    let sent = |name: &str| {
        let line = asked[0].lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().to_owned()
    };
    let (load, signed) = (sent("x-overspill-load: "), sent("x-overspill-signature: "));
    let (time, _) = signed.split_once('.').expect("the report is signed");
    let name = sent("x-overspill-server: ");
    assert_eq!(
        signed,
        signature(TOKEN, &name, &load, time.parse().unwrap())
    );
    assert!(asked[0].contains("via: 1.1 overspill-") && asked[0].contains("cdn-loop: overspill-"));
    assert!(!asked[0].contains("cookie") && !asked[0].contains("authorization"));
    let status = edge.status().await;
    assert_eq!((count(&status, "hits"), count(&status, "pulls")), (2, 1));
    assert!(status["stored_bytes"].as_u64().unwrap() >= 4);
    let metrics = get("/metrics").ask(edge.admin).await;
    assert!(
        metrics
            .text()
            .contains("overspill_edge_requests_total{outcome=\"hit\"} 2")
    );
}

#[tokio::test]
async fn it_is_no_proxy() {
    let primary = Primary::start([("/", ok("", "home"))]).await;
    let edge = primary.edge("").await;
    let other = Primary::start([("/secret", ok("", "secret"))]).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n", 421),
        (
            "GET /.overspill/health HTTP/1.1\r\nHost: evil.example\r\n",
            421,
        ),
        (
            &*format!(
                "GET http://{}/secret HTTP/1.1\r\nHost: {}\r\n",
                other.address, other.address
            ),
            400,
        ),
        (
            &*format!(
                "CONNECT {} HTTP/1.1\r\nHost: {}\r\n",
                other.address, other.address
            ),
            405,
        ),
        ("GET //evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n", 400),
        ("GET /a/../b HTTP/1.1\r\nHost: 127.0.0.1\r\n", 400),
        ("GET / HTTP/1.1\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n",
            405,
        ),
        ("OPTIONS / HTTP/1.1\r\nHost: 127.0.0.1\r\n", 405),
        ("GET /.overspill/other HTTP/1.1\r\nHost: 127.0.0.1\r\n", 404),
    ] {
        let answer = exchange(edge.site, format!("{request}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{request}");
        assert!(!answer.body.is_empty(), "it says why: {request}");
    }
    assert!(primary.book.lock().unwrap().asked.is_empty());
    assert!(other.book.lock().unwrap().asked.is_empty());
    logs(&edge, "edge.hosts").await;
}

#[tokio::test]
async fn a_thousand_clients_on_one_cold_object_are_one_pull() {
    let half = "x".repeat(5_000);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\nCache-Control: max-age=60\r\n\r\n";
    let primary = Primary::start([(
        "/cold",
        Says::Twice(format!("{head}{half}").into(), half.clone().into()),
    )])
    .await;
    let edge = Arc::new(primary.edge("").await);
    let mut clients = JoinSet::new();
    for _ in 0..1_000 {
        let site = edge.site;
        clients.spawn(async move {
            let mut stream = TcpStream::connect(site).await.unwrap();
            let request = get("/cold").host("127.0.0.1").text();
            stream.write_all(request.as_bytes()).await.unwrap();
            // Everyone sees the first half while the fill is under way.
            let mut read = vec![0; 5_000];
            soon("the first half comes", stream.read_exact(&mut read))
                .await
                .unwrap();
            stream
        });
    }
    let mut streams = soon("all read", clients.join_all()).await;
    primary.go.send_replace(true);
    for stream in &mut streams {
        let mut rest = Vec::new();
        soon("the rest comes", stream.read_to_end(&mut rest))
            .await
            .unwrap();
        assert!(rest.ends_with(b"xxxx"));
    }
    assert_eq!(primary.asked("/cold").len(), 1);
    let status = edge.status().await;
    assert_eq!(
        (count(&status, "misses"), count(&status, "joined")),
        (1, 999)
    );
    assert_eq!(fetch(&edge, "/cold").await.body.len(), 10_000);
}

#[tokio::test]
async fn conditions_and_ranges_are_answered_from_what_is_kept() {
    let lines = "Cache-Control: max-age=600\r\nETag: \"1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let primary = Primary::start([("/a", ok(lines, "0123456789"))]).await;
    let edge = primary.edge("").await;
    assert_eq!(fetch(&edge, "/a").await.text(), "0123456789");
    for (name, value, status, body) in [
        ("If-None-Match", "\"1\"", 304, ""),
        ("If-None-Match", "\"2\"", 200, "0123456789"),
        (
            "If-Modified-Since",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            304,
            "",
        ),
        ("Range", "bytes=2-4", 206, "234"),
        ("Range", "bytes=-2", 206, "89"),
        ("Range", "bytes=20-", 416, ""),
        ("Range", "bytes=0-1,4-5", 200, "0123456789"),
        // A crowd that reloads does not reach the primary.
        ("Cache-Control", "no-cache", 200, "0123456789"),
    ] {
        let answer = fetch_with(&edge, "/a", name, value).await;
        assert_eq!(
            (answer.status, answer.text()),
            (status, body),
            "{name}: {value}"
        );
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("etag"), Some("\"1\""));
    }
    let part = fetch_with(&edge, "/a", "Range", "bytes=2-4").await;
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let head = request("HEAD", "/a").host("127.0.0.1").ask(edge.site).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("10"))
    );
    assert_eq!(primary.asked("/a").len(), 1);
}

#[tokio::test]
async fn what_is_not_for_everyone_is_passed_on_and_never_kept() {
    let primary = Primary::start([
        ("/no-store", ok("Cache-Control: no-store\r\n", "a")),
        (
            "/private",
            ok("Cache-Control: PRIVATE, max-age=60\r\n", "a"),
        ),
        (
            "/cookie",
            ok(
                "Cache-Control: public, max-age=60\r\nSet-Cookie: a=b\r\n",
                "a",
            ),
        ),
        ("/any", ok("Cache-Control: max-age=60\r\nVary: *\r\n", "a")),
        (
            "/denied",
            answer("403 Forbidden", "Cache-Control: max-age=60\r\n", "a"),
        ),
        (
            "/no-length",
            Says::Bytes(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\na".into()),
        ),
    ])
    .await;
    let edge = primary.edge("").await;
    for path in [
        "/no-store",
        "/private",
        "/cookie",
        "/any",
        "/denied",
        "/no-length",
    ] {
        for _ in 0..2 {
            let answer = fetch(&edge, path).await;
            assert_eq!(answer.text(), "a", "{path}");
            assert_eq!(answer.header("set-cookie"), None);
        }
        assert_eq!(primary.asked(path).len(), 2, "{path}");
    }
}

#[tokio::test]
async fn variants_are_kept_apart() {
    let lines = "Cache-Control: max-age=60\r\nVary: Accept-Encoding\r\n";
    let primary = Primary::start([(
        "/a",
        ok(&format!("{lines}Content-Encoding: gzip\r\n"), "zip"),
    )])
    .await;
    let edge = primary.edge("").await;
    assert_eq!(
        fetch_with(&edge, "/a", "Accept-Encoding", "gzip, deflate")
            .await
            .text(),
        "zip"
    );
    primary.say("/a", ok(lines, "plain"));
    assert_eq!(fetch(&edge, "/a").await.text(), "plain");
    // Another way to say the same is no other variant.
    assert_eq!(
        fetch_with(&edge, "/a", "Accept-Encoding", "deflate,gzip;q=0.5")
            .await
            .text(),
        "zip"
    );
    assert_eq!(fetch(&edge, "/a").await.text(), "plain");
    assert_eq!(primary.asked("/a").len(), 2);
}

#[tokio::test]
async fn who_asks_for_a_variant_that_is_coming_joins_its_pull() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nCache-Control: max-age=60\r\nVary: Accept-Encoding\r\n\r\n";
    let primary = Primary::start([(
        "/slow",
        Says::Twice(format!("{head}01234").into(), "56789".into()),
    )])
    .await;
    let edge = primary.edge("").await;
    let request = get("/slow")
        .host("127.0.0.1")
        .header("Accept-Encoding", "gzip")
        .text();
    let mut streams = Vec::new();
    // One after the other, so that all but the first come when it is known by what it varies.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(edge.site).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"01234") {
            read.push(soon("the first half", stream.read_u8()).await.unwrap());
        }
        streams.push(stream);
    }
    assert_eq!(edge.status().await["pulling"], 1);
    primary.go.send_replace(true);
    for stream in &mut streams {
        let mut rest = Vec::new();
        soon("the rest", stream.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(rest, b"56789");
    }
    assert_eq!(primary.asked("/slow").len(), 1);
    edge.until("nothing is being pulled", |status| status["pulling"] == 0)
        .await;
}

#[tokio::test]
async fn what_is_stale_is_asked_about_and_given_out_where_the_primary_fails() {
    let lines = "Cache-Control: max-age=0, stale-if-error=600\r\nETag: \"1\"\r\n";
    let primary = Primary::start([("/a.css", ok(lines, "good"))]).await;
    let edge = primary.edge("edge.patience = \"5s\"").await;
    assert_eq!(fetch(&edge, "/a.css").await.text(), "good");
    primary.say(
        "/a.css",
        Says::Bytes(format!("HTTP/1.1 304 Not Modified\r\n{lines}\r\n").into()),
    );
    assert_eq!(fetch(&edge, "/a.css").await.text(), "good");
    assert!(primary.asked("/a.css")[1].contains("if-none-match: \"1\""));
    assert_eq!(count(&edge.status().await, "renewed"), 1);
    let redirect = "Location: http://169.254.169.254/\r\n";
    for (what, says) in [
        ("an error", answer("500 Internal Server Error", "", "bad")),
        ("a refusal", answer("429 Too Many Requests", "", "bad")),
        ("a wrong host", answer("421 Misdirected Request", "", "bad")),
        ("a redirect", answer("302 Found", redirect, "bad")),
        ("an error page", ok("Content-Type: text/html\r\n", "bad")),
        (
            "a cut body",
            Says::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nbad".into()),
        ),
        (
            "a cut chunk",
            Says::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nbad".into()),
        ),
        (
            "a wrong length",
            Says::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nbad".into()),
        ),
        ("nonsense", Says::Bytes(b"nonsense\r\n\r\n".into())),
        (
            "a head without end",
            drip("HTTP/1.1 200 OK\r\nX-More: ", "a"),
        ),
        (
            "a body that never gets ready",
            drip(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "1\r\na\r\n",
            ),
        ),
        ("silence", Says::Nothing),
    ] {
        primary.say("/a.css", says);
        let pulls = primary.asked("/a.css").len();
        until(format_args!("{what} is asked for"), async || {
            let answer = fetch(&edge, "/a.css").await;
            assert_eq!((answer.status, answer.text()), (200, "good"), "{what}");
            // What could not be renewed is given out at once for a while, and asked for aside.
            (primary.asked("/a.css").len() > pulls).then_some(())
        })
        .await;
        until(format_args!("{what} is judged"), async || {
            (edge.status().await["pulling"] == 0).then_some(())
        })
        .await;
        let answer = fetch(&edge, "/a.css").await;
        assert_eq!((answer.status, answer.text()), (200, "good"), "{what}");
    }
}

#[tokio::test]
async fn a_304_that_repeats_no_validator_is_about_what_was_asked_with() {
    let date = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let tag = "ETag: \"1\"\r\n";
    let both = format!("{tag}{date}");
    let primary = Primary::start([]).await;
    let edge = primary.edge("").await;
    for (path, kept, repeated) in [
        ("/date", date, ""),
        ("/tag", tag, ""),
        ("/both", &both, ""),
        ("/date-alone", &both, date),
        ("/other-kind", tag, date),
    ] {
        primary.say(
            path,
            ok(&format!("Cache-Control: no-cache\r\n{kept}"), "good"),
        );
        assert_eq!(fetch(&edge, path).await.text(), "good", "{path}");
        let unchanged =
            format!("HTTP/1.1 304 Not Modified\r\nCache-Control: no-cache\r\n{repeated}\r\n");
        primary.say(path, Says::Bytes(unchanged.into()));
        for round in 1..4 {
            let answer = fetch(&edge, path).await;
            assert_eq!((answer.status, answer.text()), (200, "good"), "{path}");
            assert_eq!(primary.asked(path).len(), 1 + round, "{path}");
        }
    }
}

#[tokio::test]
async fn a_304_about_another_object_or_one_not_to_be_kept_makes_the_edge_ask_for_the_whole() {
    let primary = Primary::start([]).await;
    let edge = primary.edge("").await;
    for (path, lines) in [
        ("/other", "ETag: \"2\"\r\n"),
        ("/unshared", "ETag: \"1\"\r\nCache-Control: no-store\r\n"),
    ] {
        primary.say(
            path,
            ok("Cache-Control: no-cache\r\nETag: \"1\"\r\n", "old"),
        );
        assert_eq!(fetch(&edge, path).await.text(), "old");
        let length = "new".len();
        primary.say(
            path,
            Says::Either(
                format!("HTTP/1.1 304 Not Modified\r\n{lines}\r\n").into(),
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{lines}\r\nnew").into(),
            ),
        );
        let answer = fetch(&edge, path).await;
        assert_eq!((answer.status, answer.text()), (200, "new"), "{path}");
        let asked = primary.asked(path);
        assert_eq!(asked.len(), 3, "{path}");
        assert!(asked[1].contains("if-none-match: \"1\"") && !asked[2].contains("if-none-match"));
    }
}

/// An answer that goes on for ever, a little every 20 ms.
fn drip(first: &str, again: &str) -> Says {
    Says::Drips(first.into(), again.into(), Duration::from_millis(20))
}

#[tokio::test]
async fn what_is_kept_is_displaced_by_answers_about_the_object_alone() {
    const CROWD: usize = 10;
    let lines = "Cache-Control: max-age=0, stale-if-error=600\r\nETag: \"1\"\r\n";
    let paths = ["/unshared", "/gone"];
    let primary = Primary::start(paths.map(|path| (path, ok(lines, "good")))).await;
    let edge = primary.edge("edge.patience = \"1h\"").await;
    for path in paths {
        assert_eq!(fetch(&edge, path).await.text(), "good");
        let denied = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        primary.go.send_replace(false);
        primary.say(path, Says::Twice(Vec::new(), denied.into()));
        let mut crowd = JoinSet::new();
        for _ in 0..CROWD {
            let site = edge.site;
            crowd.spawn(async move { get(path).host("127.0.0.1").ask(site).await });
        }
        edge.until("all ask", |status| status["in_flight"] == CROWD)
            .await;
        primary.go.send_replace(true);
        let answers = soon("all are answered", crowd.join_all()).await;
        let denied = answers.iter().filter(|answer| answer.status == 403).count();
        // Who comes when the others have got theirs asks again.
        assert_eq!(denied, primary.asked(path).len() - 1);
        assert!(denied < CROWD, "the others get what is kept");
        let good = answers.iter().filter(|answer| answer.text() == "good");
        assert_eq!(good.count(), CROWD - denied);
        primary.say(
            path,
            Says::Bytes(format!("HTTP/1.1 304 Not Modified\r\n{lines}\r\n").into()),
        );
        assert_eq!(fetch(&edge, path).await.text(), "good", "it is still there");
    }
    let unshared = ok("Cache-Control: no-store\r\n", "new");
    let gone = answer("404 Not Found", "Cache-Control: no-store\r\n", "gone");
    for (path, says, text) in [("/unshared", unshared, "new"), ("/gone", gone, "gone")] {
        primary.say(path, says);
        assert_eq!(fetch(&edge, path).await.text(), text);
        primary.say(path, answer("500 Internal Server Error", "", "bad"));
        assert_eq!(fetch(&edge, path).await.status, 502, "{path}");
    }
}

#[tokio::test]
async fn while_the_primary_is_down_nobody_but_the_first_waits_for_it() {
    let lines = "Cache-Control: max-age=0, stale-if-error=600\r\n";
    let strict = "Cache-Control: max-age=0, must-revalidate\r\n";
    let primary = Primary::start([
        ("/a.css", ok(lines, "good")),
        ("/b.css", ok(strict, "good")),
    ])
    .await;
    let edge = primary.edge("edge.patience = \"1h\"").await;
    for path in ["/a.css", "/b.css"] {
        assert_eq!(fetch(&edge, path).await.text(), "good");
        primary.say(path, answer("500 Internal Server Error", "", "bad"));
    }
    assert_eq!(fetch(&edge, "/a.css").await.text(), "good");
    assert_eq!(
        fetch(&edge, "/b.css").await.status,
        502,
        "its primary wants it so"
    );
    primary.say("/a.css", Says::Nothing);
    for _ in 0..3 {
        let stale = soon("at once", fetch(&edge, "/a.css")).await;
        assert_eq!((stale.status, stale.text()), (200, "good"));
        assert_eq!(
            stale.header("cache-status"),
            Some("Overspill; hit; detail=stale")
        );
    }
    // It may still be on its way when the last visitor has been answered.
    until("one asks for it aside", async || {
        (primary.asked("/a.css").len() >= 3).then_some(())
    })
    .await;
    assert_eq!(primary.asked("/a.css").len(), 3, "and one alone");
}

#[tokio::test]
async fn an_answer_without_end_is_given_up_when_nobody_reads_it() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n";
    let flood = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    let primary = Primary::start([
        ("/drip", drip(chunked, "1\r\na\r\n")),
        (
            "/flood",
            Says::Drips(chunked.into(), flood.into(), Duration::ZERO),
        ),
        ("/head", drip("HTTP/1.1 200 OK\r\nX-More: ", "a")),
    ])
    .await;
    let edge = primary
        .edge("edge.patience = \"5s\"\nedge.largest = \"1MB\"\nedge.memory = \"4MB\"")
        .await;
    for (path, read) in [("/drip", 100), ("/flood", 8 << 20)] {
        let mut stream = TcpStream::connect(edge.site).await.unwrap();
        let request = get(path).host("127.0.0.1").text();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut begun = vec![0; read];
        soon("it comes as it is made", stream.read_exact(&mut begun))
            .await
            .unwrap();
        assert!(begun.starts_with(b"HTTP/1.1 200 OK\r\n"));
        drop(stream);
        primary.until_given_up(path).await;
    }
    let answer = fetch(&edge, "/head").await;
    assert_eq!(answer.status, 504, "{}", answer.text());
    primary.until_given_up("/head").await;
    edge.until("nothing is being pulled", |status| status["pulling"] == 0)
        .await;
    for path in ["/drip", "/flood", "/head"] {
        primary.say(path, ok("Cache-Control: max-age=60\r\n", "good"));
        assert_eq!(fetch(&edge, path).await.text(), "good", "{path}");
    }
}

#[tokio::test]
async fn what_a_primary_says_unasked_is_nobodys_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Connections stay open, and each answer has another behind it that nobody asked for.
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let path = text.split(' ').nth(1).unwrap();
                    let one = |body: &str| {
                        format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nCache-Control: max-age=60\r\n\r\n{body}",
                            body.len()
                        )
                    };
                    let both = one(path) + &one("evil");
                    let _ = stream.write_all(both.as_bytes()).await;
                    head.clear();
                }
            });
        }
    });
    let edge = Program::edge(&Config::new(format!("edge.primary = \"http://{address}\""))).await;
    for round in 0..50 {
        let path = format!("/{round}");
        assert_eq!(fetch(&edge, &path).await.text(), path);
    }
    for round in 0..50 {
        let path = format!("/{round}");
        assert_eq!(fetch(&edge, &path).await.text(), path);
    }
    task.abort();
}

#[tokio::test]
async fn a_bad_primary_makes_a_clear_502_or_504_and_nothing_is_kept() {
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    endless.extend(b"X-More: and more\r\n".repeat(100_000));
    let found = |location: &str| answer("302 Found", &format!("Location: {location}\r\n"), "bad");
    let primary = Primary::start([("/good.css", ok("", "good"))]).await;
    let edge = primary.edge("edge.patience = \"5s\"").await;
    for (path, status, says) in [
        (
            "/1.css",
            502,
            answer("500 Internal Server Error", "", "bad"),
        ),
        (
            "/2.css",
            502,
            answer(
                "503 Service Unavailable",
                "Cache-Control: max-age=60\r\n",
                "bad",
            ),
        ),
        ("/3.css", 502, found("http://127.0.0.1:1/secret")),
        ("/4.css", 502, found("//10.0.0.1/")),
        (
            "/5.css",
            502,
            ok(
                "Content-Type: text/html\r\nCache-Control: max-age=60\r\n",
                "bad",
            ),
        ),
        ("/6.css", 502, Says::Bytes(endless)),
        (
            "/7.css",
            502,
            Says::Bytes(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nbad".into(),
            ),
        ),
        ("/8.css", 502, Says::Bytes(Vec::new())),
        ("/9.css", 504, Says::Nothing),
        (
            "/10.css",
            502,
            answer(
                "206 Partial Content",
                "Content-Range: bytes 0-2/9\r\n",
                "bad",
            ),
        ),
    ] {
        primary.say(path, says);
        let answer = fetch(&edge, path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(!answer.text().contains("bad"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        // A page may see that it failed, and how long that took.
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("timing-allow-origin", "*"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}: {name}");
        }
        primary.say(path, ok("Cache-Control: max-age=60\r\n", "good"));
        assert_eq!(fetch(&edge, path).await.text(), "good", "{path}");
    }
    // What was cut when its head was out is seen to be cut, and is not kept.
    primary.say(
        "/cut",
        Says::Bytes(
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nCache-Control: max-age=60\r\n\r\nbad".into(),
        ),
    );
    let cut = get("/cut").host("127.0.0.1").bytes(edge.site).await;
    // The connection may end before the head is out.
    if !cut.is_empty() {
        let cut = support::raw::parse(&cut, false);
        assert!(cut.status == 502 || !cut.is_whole);
    }
    primary.say("/cut", ok("Cache-Control: max-age=60\r\n", "good"));
    assert_eq!(fetch(&edge, "/cut").await.text(), "good");
    drop(primary);
    assert_eq!(fetch(&edge, "/gone").await.status, 502);
    let health = fetch(&edge, "/.overspill/health").await;
    assert_eq!(
        (health.status, health.text()),
        (200, "ok\n"),
        "it never pulls"
    );
}

#[tokio::test]
async fn a_chunked_body_that_is_cut_is_seen_to_be_cut_by_everyone_and_is_not_kept() {
    const FIRST: &str = "5\r\nfirst\r\n";
    let primary = Primary::start([]).await;
    let edge = primary.edge("").await;
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n";
    for (path, rest) in [
        ("/in-a-chunk", "9\r\nbad"),
        ("/between-chunks", "3\r\nbad\r\n"),
        ("/in-a-length", "3\r\nbad\r\n1"),
        ("/in-the-last-chunk", "3\r\nbad\r\n0\r\n"),
        ("/at-nonsense", "3\r\nbad\r\nx\r\n"),
    ] {
        primary.go.send_replace(false);
        primary.say(
            path,
            Says::Twice(format!("{chunked}{FIRST}").into(), rest.into()),
        );
        let request = get(path).host("127.0.0.1").text();
        let mut readers = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(edge.site).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(FIRST.as_bytes()) {
                read.push(soon("the first chunk", stream.read_u8()).await.unwrap());
            }
            readers.push((stream, read));
        }
        primary.go.send_replace(true);
        for (mut stream, mut read) in readers {
            // That the connection breaks is as good as that it ends.
            let _ = soon("the end", stream.read_to_end(&mut read)).await;
            let cut = support::raw::parse(&read, false);
            assert_eq!(cut.status, 200);
            assert!(cut.body.starts_with(b"first"), "{path}");
            assert!(!cut.is_whole, "{path}: {}", cut.text());
        }
        assert_eq!(primary.asked(path).len(), 1, "{path}");
        primary.say(path, ok("Cache-Control: max-age=60\r\n", "good"));
        assert_eq!(fetch(&edge, path).await.text(), "good", "{path}");
    }
}

#[tokio::test]
async fn a_circle_ends_with_508() {
    let primary = Primary::start([]).await;
    let first = primary.edge("").await;
    // Two edges that take each other for the primary.
    let port = own_address();
    let config = |to: SocketAddr| Config::new(format!("edge.primary = \"http://{to}\""));
    let second = Program::edge(&config(port)).await;
    let third = Program::edge(&config(second.site).with(format!("edge.listen = \"{port}\""))).await;
    let answer = fetch(&third, "/a").await;
    assert_eq!(answer.status, 508, "{}", answer.text());
    assert!(answer.text().contains("circle"));
    drop(first);
}

#[tokio::test]
async fn a_circle_through_the_primary_ends_with_508_too() {
    let port = own_address();
    let primary = Program::serve(&Config::new(format!(
        "primary.upstream = \"http://{port}\"\noffload.token = \"{TOKEN}\""
    )))
    .await;
    let edge = Program::edge(&Config::new(format!(
        "edge.listen = \"{port}\"\nedge.primary = \"http://{}\"\nedge.token = \"{TOKEN}\"",
        primary.site
    )))
    .await;
    let answer = fetch(&edge, "/a").await;
    assert_eq!(answer.status, 508, "{}", answer.text());
    assert!(answer.text().contains("circle"));
    logs(
        &edge,
        "`edge.primary` leads to a server that asks this edge",
    )
    .await;
    assert_eq!(edge.status().await["objects"], 0);
}

#[tokio::test]
async fn objects_over_the_size_go_past_the_cache() {
    let large = "x".repeat(100_000);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n186a0\r\n{large}\r\n0\r\n\r\n"
    );
    let primary = Primary::start([
        ("/known", ok("Cache-Control: max-age=60\r\n", &large)),
        ("/unknown", Says::Bytes(chunked.into())),
    ])
    .await;
    let edge = primary.edge("edge.largest = \"50kB\"").await;
    for path in ["/known", "/unknown"] {
        for _ in 0..2 {
            let answer = fetch(&edge, path).await;
            assert_eq!(answer.body.len(), 100_000, "{path}");
            assert!(answer.is_whole);
        }
        assert_eq!(primary.asked(path).len(), 2, "{path}");
    }
    // A film can be wound forward.
    let answer = fetch_with(&edge, "/known", "Range", "bytes=5-6").await;
    assert_eq!(answer.status, 200);
    assert!(primary.asked("/known")[2].contains("range: bytes=5-6"));
}

#[tokio::test]
async fn purges_what_it_is_told_by_who_shows_the_token() {
    let kept = || ok("Cache-Control: max-age=600\r\n", "a");
    let primary = Primary::start([
        ("/a/1", kept()),
        ("/a/2", kept()),
        ("/b", kept()),
        ("/b?c", kept()),
    ])
    .await;
    let edge = primary.edge("").await;
    let all = ["/a/1", "/a/2", "/b", "/b?c"];
    let pulled = async |path: &str| {
        let before = primary.asked(path).len();
        fetch(&edge, path).await;
        primary.asked(path).len() > before
    };
    for path in all {
        assert!(pulled(path).await && !pulled(path).await);
    }
    let refused = post("/.overspill/purge", r#"{"all":true}"#)
        .host("127.0.0.1")
        .header("Authorization", "Bearer wrong")
        .ask(edge.site)
        .await;
    assert_eq!(refused.status, 401);
    assert!(!pulled("/b").await);
    for (body, gone) in [
        (json!({ "path": "/b" }), &["/b", "/b?c"][..]),
        (json!({ "prefix": "/a/" }), &["/a/1", "/a/2"]),
        (json!({ "all": true }), &all),
    ] {
        let answer = own(&edge, "/.overspill/purge", &body).await;
        assert_eq!(answer.text(), format!("{{\"purged\":{}}}", gone.len()));
        for path in all {
            assert_eq!(pulled(path).await, gone.contains(&path), "{body}: {path}");
        }
    }
    for body in [json!({}), json!({ "path": "/a", "all": true }), json!([])] {
        assert_eq!(own(&edge, "/.overspill/purge", &body).await.status, 400);
    }
}

#[tokio::test]
async fn a_warm_up_pulls_each_object_once() {
    let kept = || ok("Cache-Control: max-age=600\r\n", "a");
    let primary = Primary::start([("/1", kept()), ("/2", kept())]).await;
    let edge = primary.edge("").await;
    let paths = json!({ "paths": ["/1", "/2", "/1", "http://evil.example/"] });
    let answer = own(&edge, "/.overspill/warm", &paths).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    until("both are there", async || {
        (edge.status().await["objects"] == 2).then_some(())
    })
    .await;
    for path in ["/1", "/2"] {
        fetch(&edge, path).await;
        assert_eq!(primary.asked(path).len(), 1);
    }
}

#[tokio::test]
async fn warm_ups_pull_eight_objects_at_once_to_the_end_of_their_bodies() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=600\r\n\r\na";
    let paths: Vec<String> = (0..40).map(|number| format!("/{number}")).collect();
    let others: Vec<String> = (0..20).map(|number| format!("/other/{number}")).collect();
    let slow = || Says::Twice(head.into(), b"b".into());
    let quick = || ok("Cache-Control: max-age=600\r\n", "a");
    let says = paths.iter().map(|path| (&**path, slow()));
    let primary = Primary::start(says.chain(others.iter().map(|path| (&**path, quick())))).await;
    let edge = primary.edge("edge.patience = \"10m\"").await;
    // Two warm-ups do not pull twice as much.
    for paths in [&paths[..20], &paths[20..]] {
        let answer = own(&edge, "/.overspill/warm", &json!({ "paths": paths })).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    let slow = || {
        let book = primary.book.lock().unwrap();
        let is_slow = |head: &&String| !head.contains("/other/");
        book.asked.iter().filter(is_slow).count()
    };
    until("the first are asked for", async || {
        (slow() >= 8).then_some(())
    })
    .await;
    // While visitors are served as ever.
    for path in &others {
        assert_eq!(fetch(&edge, path).await.text(), "a");
    }
    assert_eq!(slow(), 8);
    primary.go.send_replace(true);
    edge.until("all are there", |status| status["objects"] == 60)
        .await;
    // With one visitor's.
    let most = primary.book.lock().unwrap().most;
    assert!(most <= 9, "{most} at once");
    assert_eq!(primary.book.lock().unwrap().asked.len(), 60);
}

#[tokio::test]
async fn several_sites_are_told_apart_by_host_and_by_prefix() {
    let says = |body: &str| [("/x", ok("Cache-Control: max-age=60\r\n", body))];
    let main = Primary::start(says("main")).await;
    let (shop, blog) = (
        Primary::start(says("shop")).await,
        Primary::start(says("blog")).await,
    );
    let sites = format!(
        "edge.sites = [{{ host = \"shop.example\", primary = \"http://{}\" }}, \
         {{ prefix = \"/blog\", primary = \"http://{}\", token = \"other\" }}]",
        shop.address, blog.address
    );
    let edge = main.edge(&sites).await;
    for _ in 0..2 {
        assert_eq!(fetch(&edge, "/x").await.text(), "main");
        assert_eq!(fetch(&edge, "/blog/x").await.text(), "blog");
        assert_eq!(
            get("/x").host("shop.example").ask(edge.site).await.text(),
            "shop"
        );
    }
    assert_eq!((main.asked("/x").len(), shop.asked("/x").len()), (1, 1));
    assert!(blog.asked("/x")[0].contains("x-overspill-token: other"));
}

#[tokio::test]
async fn each_site_has_its_own_warm_ups_purges_health_and_name() {
    let says = |body: &str| [("/x", ok("Cache-Control: max-age=600\r\n", body))];
    let main = Primary::start(says("main")).await;
    let (shop, blog) = (
        Primary::start(says("shop")).await,
        Primary::start(says("blog")).await,
    );
    let edge = main
        .edge(&format!(
            "edge.sites = [{{ host = \"shop.example\", primary = \"http://{}\" }}, \
             {{ prefix = \"/blog\", primary = \"http://{}\" }}, \
             {{ prefix = \"/other\", primary = \"http://{}\", token = \"other\" }}]",
            shop.address, blog.address, blog.address
        ))
        .await;
    let with_token =
        |ask: support::client::Request| ask.header("Authorization", &format!("Bearer {TOKEN}"));
    let at = [
        ("127.0.0.1", "", &main),
        ("shop.example", "", &shop),
        ("127.0.0.1", "/blog", &blog),
    ];
    let asked = || at.map(|(_, _, primary)| primary.asked("/x").len());
    // All three have one token: each primary reaches its own site.
    for (round, (host, prefix, _)) in at.iter().enumerate() {
        let own = |what: &str| format!("{prefix}/.overspill/{what}");
        let warm = post(&own("warm"), r#"{"paths":["/x"]}"#).host(host);
        let answer = with_token(warm).ask(edge.site).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        edge.until("it is there", |status| status["objects"] == round + 1)
            .await;
        assert_eq!(asked().iter().sum::<usize>(), round + 1);
        let health = get(&own("health?probe")).host(host).ask(edge.site).await;
        assert_eq!((health.status, health.text()), (200, "ok\n"));
    }
    assert_eq!(asked(), [1, 1, 1]);
    for (host, prefix, primary) in at {
        let purge = post(&format!("{prefix}/.overspill/purge"), r#"{"all":true}"#).host(host);
        let answer = with_token(purge).ask(edge.site).await;
        assert_eq!(answer.text(), r#"{"purged":1}"#, "{host}{prefix}");
        let before = primary.asked("/x").len();
        get(&format!("{prefix}/x")).host(host).ask(edge.site).await;
        assert_eq!(primary.asked("/x").len(), before + 1, "{host}{prefix}");
    }
    // Another site's token opens nothing.
    for what in ["load", "purge", "warm"] {
        let path = format!("/other/.overspill/{what}");
        let ask = if what == "load" {
            get(&path)
        } else {
            post(&path, "{}")
        };
        let answer = with_token(ask.host("127.0.0.1")).ask(edge.site).await;
        assert_eq!(answer.status, 401, "{what}");
    }
    // Each primary knows the edge by its own name for it.
    for (name, prefix, primary) in [
        ("main.edge:81", "", &main),
        ("blog.edge:82", "/blog", &blog),
        ("shop.example", "", &shop),
    ] {
        let load = get(&format!("{prefix}/.overspill/load")).host(name);
        assert_eq!(with_token(load).ask(edge.site).await.status, 200, "{name}");
        primary.say("/named", ok("", ""));
    }
    for (host, prefix, name, primary) in [
        ("127.0.0.1", "", "main.edge:81", &main),
        ("blog.edge", "/blog", "blog.edge:82", &blog),
        ("shop.example", "", "shop.example", &shop),
    ] {
        let path = format!("{prefix}/named");
        assert_eq!(get(&path).host(host).ask(edge.site).await.status, 200);
        let head = &primary.asked("/named")[0];
        let line = format!("x-overspill-server: {name}\r\n");
        assert!(head.contains(&line), "{head}");
    }
    for primary in [&main, &shop, &blog] {
        let book = primary.book.lock().unwrap();
        assert!(!book.asked.iter().any(|head| head.contains("/.overspill/")));
    }
}

#[tokio::test]
async fn a_redirect_of_a_site_below_a_prefix_stays_below_it() {
    let found = |location: &str| answer("302 Found", &format!("Location: {location}\r\n"), "");
    let primary = Primary::start([
        ("/root.css", found("/real.css?v=1")),
        ("/near.css", found("real.css")),
    ])
    .await;
    let host = format!("//{}/real.css", primary.address);
    primary.say("/host.css", found(&host));
    let edge = primary
        .edge(&format!(
            "edge.sites = [{{ prefix = \"/shop/\", primary = \"http://{}\" }}]",
            primary.address
        ))
        .await;
    for (path, location) in [
        ("/shop/root.css", "/shop/real.css?v=1"),
        ("/shop/near.css", "real.css"),
        ("/shop/host.css", &*host),
        ("/root.css", "/real.css?v=1"),
    ] {
        // By a pull, and by who asks alone.
        for _ in 0..2 {
            let answer = fetch(&edge, path).await;
            assert_eq!(
                (answer.status, answer.header("location")),
                (302, Some(location)),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn a_full_edge_says_so_gives_out_what_it_has_and_pulls_nothing() {
    let primary = Primary::start([
        ("/kept", ok("Cache-Control: max-age=600\r\n", "kept")),
        (
            "/stale",
            ok("Cache-Control: max-age=0, stale-if-error=600\r\n", "stale"),
        ),
        ("/slow", Says::Nothing),
    ])
    .await;
    let edge = primary
        .edge("load.in_flight.capacity = 2\nedge.patience = \"1h\"")
        .await;
    assert_eq!(fetch(&edge, "/kept").await.text(), "kept");
    assert_eq!(fetch(&edge, "/stale").await.text(), "stale");
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(edge.site).await.unwrap();
        let request = get("/slow").host("127.0.0.1").text();
        stream.write_all(request.as_bytes()).await.unwrap();
        held.push(stream);
    }
    edge.until("full", |status| status["full"] == true).await;
    let report = get("/.overspill/load")
        .host("127.0.0.1")
        .header("Authorization", &format!("Bearer {TOKEN}"))
        .ask(edge.site)
        .await;
    let report: Value = serde_json::from_slice(&report.body).unwrap();
    assert!(
        report["application_utilization"].as_f64().unwrap() >= 0.98,
        "{report}"
    );
    assert_eq!(report["named_metrics"]["over_threshold"], 1.0);
    assert_eq!(fetch(&edge, "/kept").await.text(), "kept");
    assert_eq!(fetch(&edge, "/stale").await.text(), "stale");
    let turned_away = fetch(&edge, "/cold").await;
    assert_eq!(turned_away.status, 503);
    assert!(
        turned_away
            .header("retry-after")
            .unwrap()
            .parse::<u32>()
            .unwrap()
            >= 1
    );
    assert!(primary.asked("/cold").is_empty());
}

#[tokio::test]
async fn the_load_is_told_to_who_shows_the_token_alone() {
    let primary = Primary::start([]).await;
    let edge = primary.edge("").await;
    let ask = async |header: &str| {
        let ask = get("/.overspill/load").host("eu.example:8081");
        ask.header("Authorization", header)
            .ask(edge.site)
            .await
            .status
    };
    assert_eq!(ask("Bearer wrong").await, 401);
    logs(&edge, "offload.token").await;
    let by_name = async || get("/x").host("eu.example").ask(edge.site).await.status;
    assert_eq!(by_name().await, 421);
    assert_eq!(ask(&format!("Bearer {TOKEN}")).await, 200);
    assert_eq!(
        by_name().await,
        404,
        "the primary has asked under that name"
    );
}

#[tokio::test]
async fn without_a_token_nobody_teaches_an_edge_names() {
    let primary = Primary::start([("/x", ok("", "x"))]).await;
    let config = |more: &str| {
        let primary = primary.address;
        Config::new(format!("edge.primary = \"http://{primary}\"\n{more}"))
    };
    let edge = Program::edge(&config("edge.hosts = [\"eu.example\"]")).await;
    let ask = async |host: &str, path: &str| get(path).host(host).ask(edge.site).await;
    // More than would be learnt.
    for number in 0..70 {
        let host = format!("{number}.example");
        let load = ask(&host, "/.overspill/load").await;
        assert_eq!(load.status, 421);
        assert!(load.text().contains("edge.hosts"), "{}", load.text());
        for path in ["/x", "/.overspill/health"] {
            assert_eq!(ask(&host, path).await.status, 421, "{host}{path}");
        }
    }
    // Its names, and its addresses, are its own all the same.
    for host in ["eu.example", "EU.example:8081", "localhost", "127.0.0.1"] {
        for path in ["/.overspill/load", "/.overspill/health", "/x"] {
            assert_eq!(ask(host, path).await.status, 200, "{host}{path}");
        }
    }
}

#[tokio::test]
async fn a_primary_and_its_edge_know_each_other() {
    let site = support::folder([
        ("index.html", &b"<img src=\"/a.png\">"[..]),
        ("a.png", b"picture"),
    ]);
    let primary = Program::serve(&Config::new(format!(
        "primary.site = {:?}\noffload.token = \"{TOKEN}\"",
        site.path()
    )))
    .await;
    let edge = Program::edge(&Config::new(format!(
        "edge.primary = \"http://{}\"\nedge.token = \"{TOKEN}\"\nedge.name = \"eu\"",
        primary.site
    )))
    .await;
    assert_eq!(fetch(&edge, "/a.png").await.text(), "picture");
    assert_eq!(primary.status().await["requests"]["bypassed"], 1, "a pull");
    drop(edge);
    let stranger = Program::edge(&Config::new(format!(
        "edge.primary = \"http://{}\"\nedge.token = \"wrong\"",
        primary.site
    )))
    .await;
    assert_eq!(
        fetch(&stranger, "/a.png").await.text(),
        "picture",
        "served as a visitor"
    );
    logs(&stranger, "set `edge.token` to its `offload.token`").await;
    until("the primary's log", async || {
        primary
            .log()
            .contains("set `offload.token` here and `edge.token` there")
            .then_some(())
    })
    .await;
}

/// `<time>.<mac>`, as DESIGN.md has it.
fn signature(token: &str, name: &str, load: &str, time: u64) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(token.as_bytes()).unwrap();
    mac.update(format!("overspill load report\n{time}\n{name}\n{load}").as_bytes());
    let mac = mac.finalize().into_bytes();
    let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{time}.{mac}")
}

fn unix() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

#[tokio::test]
async fn a_busy_edge_is_known_by_the_signed_report_that_rides_on_its_pulls() {
    let site = support::folder([
        ("index.html", &b"<img src=\"/a.png\">"[..]),
        ("a.png", b"picture"),
        ("calm", br#"{"application_utilization":0.25}"#),
    ]);
    let calm = Program::serve(&Config::new(format!("primary.site = {:?}", site.path()))).await;
    // Both are asked for their loads, if at all, once: what changes came with a pull.
    let primary = Program::serve(&Config::new(format!(
        "primary.site = {:?}\noffload.token = \"{TOKEN}\"\n\
         offload.servers = [\
         {{ name = \"eu\", url = \"http://127.0.0.1:1\", health = false, \
         report = {{ kind = \"orca\", url = \"http://{}/calm\", every = \"1h\" }} }}, \
         {{ name = \"silent\", url = \"http://127.0.0.1:2\", health = false }}]",
        site.path(),
        calm.site
    )))
    .await;
    primary.until_usable("eu", true).await;
    let pull_with = async |name: &str, load: &str, token: &str, signature: &str| {
        get("/a.png")
            .header("X-Overspill-Token", token)
            .header("X-Overspill-Server", name)
            .header("X-Overspill-Load", load)
            .header("X-Overspill-Signature", signature)
            .ask(primary.site)
            .await
    };
    let pull = async |name: &str, load: &str, token: &str| {
        let signature = signature(TOKEN, name, load, unix());
        pull_with(name, load, token, &signature).await
    };
    let busy = r#"{"application_utilization":0.93}"#;
    // Neither without the token nor for another's name, nor for one that does not tell its load so.
    pull("eu", busy, "wrong").await;
    pull("silent", busy, TOKEN).await;
    pull("us", busy, TOKEN).await;
    until("the primary's log", async || {
        primary.log().contains("no server of ours").then_some(())
    })
    .await;
    // Nor one that a cache hands on which adds its token to what a visitor made up; nor an old one.
    let own = signature(TOKEN, "eu", r#"{"application_utilization":0.1}"#, unix());
    for signature in [
        "",
        "1.00",
        &own,
        &signature(TOKEN, "silent", busy, unix()),
        &signature("a guess", "eu", busy, unix()),
        &signature(TOKEN, "eu", busy, unix() - 3600),
        &signature(TOKEN, "eu", busy, unix() + 3600),
    ] {
        assert_eq!(pull_with("eu", busy, TOKEN, signature).await.status, 200);
    }
    let calm = r#"{"application_utilization":0.5}"#;
    until("one that is believed", async || {
        pull("eu", calm, TOKEN).await;
        let server = primary.server("eu").await;
        assert_eq!(server["usable"], true, "nothing else was: {server}");
        (server["reported"] == 0.5).then_some(())
    })
    .await;
    logs(&primary, "counts for nothing").await;
    let told = primary.log().matches("counts for nothing").count();
    assert!((1..7).contains(&told), "now and then: {told}");
    let silent = primary.server("silent").await;
    assert_eq!(
        (&silent["reported"], &silent["usable"]),
        (&Value::Null, &json!(true))
    );
    until("busy by its report", async || {
        pull("eu", busy, TOKEN).await;
        let server = primary.server("eu").await;
        (server["usable"] == false && server["reported"] == 0.93).then_some(())
    })
    .await;
    let absurd = r#"{"application_utilization":1e9}"#;
    until("refused", async || {
        pull("eu", absurd, TOKEN).await;
        let log = primary.log();
        let reason = "expected `application_utilization` to be a number";
        log.contains(reason).then_some(())
    })
    .await;
    // One that came without the token is told to its sender, and what to do is in the log.
    let forged = pull("eu", busy, "wrong").await;
    assert!(forged.header("x-overspill-token").is_some());
    logs(&primary, "set `offload.token` here and `edge.token` there").await;
}

/// A primary whose page shows one picture, and an edge of it.
async fn primary_and_edge() -> (tempfile::TempDir, Program, Program) {
    let site = support::folder([
        ("index.html", &b"<img src=\"/hot.png\">"[..]),
        ("hot.png", b"picture"),
        ("cold.png", b"picture"),
    ]);
    let free = own_address();
    let primary = Program::serve(&Config::new(format!(
        "primary.site = {:?}\noffload.token = \"{TOKEN}\"\n\
         offload.servers = [{{ name = \"eu\", url = \"http://{free}\", \
         report = {{ kind = \"orca\", url = \"http://{free}/.overspill/load\", every = \"500ms\" }}, \
         health = {{ path = \"/.overspill/health\", every = \"100ms\" }} }}]",
        site.path()
    )))
    .await;
    let edge = Program::edge(&Config::new(format!(
        "edge.listen = \"{free}\"\nedge.primary = \"http://{}\"\nedge.token = \"{TOKEN}\"",
        primary.site
    )))
    .await;
    primary.until_usable("eu", true).await;
    (site, primary, edge)
}

#[tokio::test]
async fn at_the_start_of_an_episode_the_edges_pull_the_hottest_objects() {
    let (_site, primary, edge) = primary_and_edge().await;
    assert_eq!(get("/hot.png").ask(primary.site).await.status, 200);
    assert_eq!(get("/hot.png").ask(primary.site).await.status, 200);
    primary.hold_level("offload").await;
    edge.until("the hot one is there", |status| status["objects"] == 1)
        .await;
    assert_eq!(count(&edge.status().await, "pulls"), 1);
    assert_eq!(fetch(&edge, "/hot.png").await.text(), "picture");
    assert_eq!(count(&edge.status().await, "pulls"), 1);
}

#[tokio::test]
async fn in_calm_the_edges_pull_what_is_asked_for_again_and_again() {
    let (_site, primary, edge) = primary_and_edge().await;
    for _ in 0..3 {
        assert_eq!(get("/hot.png").ask(primary.site).await.status, 200);
    }
    assert_eq!(get("/cold.png").ask(primary.site).await.status, 200);
    edge.until("the hot one is there", |status| status["objects"] == 1)
        .await;
    assert_eq!(primary.status().await["level"], "normal");
    // Asked once more it is nothing new, and the other one has only now become hot.
    for path in ["/hot.png", "/cold.png", "/cold.png"] {
        assert_eq!(get(path).ask(primary.site).await.status, 200);
    }
    edge.until("the other one is there", |status| status["objects"] == 2)
        .await;
    assert_eq!(count(&edge.status().await, "pulls"), 2);
    assert_eq!(fetch(&edge, "/cold.png").await.text(), "picture");
    assert_eq!(count(&edge.status().await, "pulls"), 2);
}

#[tokio::test]
async fn beside_another_on_one_machine_it_takes_another_admin_port() {
    let primary = Primary::start([]).await;
    let usual = "127.0.0.1:9901";
    // Whoever has it, it is taken.
    let _taken = TcpListener::bind(usual).await;
    let edge = primary.edge(&format!("admin.listen = \"{usual}\"")).await;
    assert_ne!(edge.admin.port(), 9901);
    assert_eq!(edge.status().await["role"], "edge");
    // One that was chosen is that one or none.
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let config = primary.config(&format!("admin.listen = \"{address}\""));
    let finished = run(&["edge"], &config.to_string()).await;
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains(&address.to_string()),
        "{}",
        finished.stderr
    );
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn a_browser_gets_the_font_that_a_stylesheet_pulls_through_an_edge() {
    let site = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("static/site");
    let free = own_address();
    let primary = Program::serve(&Config::new(format!(
        "primary.site = {site:?}\noffload.token = \"{TOKEN}\"\noffload.share = 1.0\n\
         offload.servers = [{{ name = \"eu\", url = \"http://{free}\", cors = true, \
         health = {{ path = \"/.overspill/health\", every = \"100ms\" }} }}]"
    )))
    .await;
    let edge = Program::edge(&Config::new(format!(
        "edge.listen = \"{free}\"\nedge.primary = \"http://{}\"\nedge.token = \"{TOKEN}\"",
        primary.site
    )))
    .await;
    primary.until_usable("eu", true).await;
    primary.hold_level("offload").await;
    let browser = Arc::new(Browser::start().await);
    let seen = tokio::spawn({
        let (browser, url) = (browser.clone(), format!("http://{}/", primary.site));
        async move {
            browser.open(&url).await;
            let seen = browser
                .run(
                    "await document.fonts.ready; return { \
                     sheets: [...document.styleSheets].map(sheet => sheet.href), \
                     fonts: [...document.fonts].map(font => font.status) };",
                )
                .await;
            (seen, browser.console().await)
        }
    })
    .await;
    // Whatever it found, the browser has to be told to end.
    browser.quit().await;
    let (seen, console) = seen.unwrap();
    assert!(console.is_empty(), "{console:#?}");
    let sheets = seen["sheets"].as_array().unwrap();
    assert!(!sheets.is_empty());
    for sheet in sheets {
        assert!(
            sheet
                .as_str()
                .unwrap()
                .starts_with(&format!("http://{free}/")),
            "{seen:#}"
        );
    }
    assert!(
        seen["fonts"]
            .as_array()
            .unwrap()
            .iter()
            .any(|font| font == "loaded"),
        "{seen:#}"
    );
    let font = fetch(&edge, "/assets/fonts/ebgaramond-latin.woff2").await;
    assert_eq!(
        font.header("cache-status"),
        Some("Overspill; hit"),
        "it was pulled for the browser"
    );
    let requests = primary.status().await["requests"].take();
    assert_eq!(
        (&requests["offloaded"], &requests["served"]),
        (&json!(1), &json!(0))
    );
}
