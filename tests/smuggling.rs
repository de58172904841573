//! Requests that two readers may read in two ways. Each is refused, or is exactly one request to whoever is behind; nothing
//! of it becomes part of another.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    config::Config,
    program::Program,
    small_site,
    wait::{soon, until},
};

/// What would have been smuggled.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server that reads to the letter of RFC 9112 and notes every request, and everything that is none.
struct Strict {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    /// A whole request: its first line and its body.
    Request(String, String),
    /// Bytes that are no request.
    Wrong(String),
    /// A request that ended before its body did.
    Broken,
}

impl Strict {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let all = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, all.clone()));
            }
        });
        Self { address, seen }
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Reads requests one after the other, and answers each.
async fn answer(mut stream: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut read = Vec::new();
    loop {
        let request = loop {
            match request(&read) {
                Ok(Some((request, length))) => {
                    read.drain(..length);
                    break request;
                }
                Ok(None) => {}
                Err(wrong) => {
                    seen.lock().unwrap().push(Seen::Wrong(wrong));
                    return;
                }
            }
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                if !read.is_empty() {
                    seen.lock().unwrap().push(Seen::Broken);
                }
                return;
            }
        };
        seen.lock().unwrap().push(request);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// The request that `read` begins with, and its length; [`None`]: more has to come.
fn request(read: &[u8]) -> Result<Option<(Seen, usize)>, String> {
    let text = String::from_utf8_lossy(read).into_owned();
    let Some((head, rest)) = text.split_once("\r\n\r\n") else {
        return Ok(None);
    };
    if head.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Err(format!("a control character: {head:?}"));
    }
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    if first.split(' ').count() != 3 || !first.ends_with(" HTTP/1.1") {
        return Err(format!("no request line: {first:?}"));
    }
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = line
            .split_once(": ")
            .ok_or(format!("no header: {line:?}"))?;
        if name.contains([' ', '\t']) {
            return Err(format!("no header name: {name:?}"));
        }
        match &*name.to_ascii_lowercase() {
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            _ => {}
        }
    }
    let begins = head.len() + 4;
    let body = match (&*lengths, &*codings) {
        ([], []) => Some((String::new(), 0)),
        ([length], []) => {
            let length: usize = length.parse().map_err(|_| format!("{length:?}"))?;
            (rest.len() >= length).then(|| (rest[..length].to_owned(), length))
        }
        ([], ["chunked"]) => chunked(rest)?,
        _ => return Err(format!("{lengths:?} and {codings:?}")),
    };
    Ok(body.map(|(body, length)| (Seen::Request(first.to_owned(), body), begins + length)))
}

/// A chunked body and its length with all that belongs to it.
fn chunked(text: &str) -> Result<Option<(String, usize)>, String> {
    let (mut body, mut at) = (String::new(), 0);
    loop {
        let Some((size, rest)) = text[at..].split_once("\r\n") else {
            return Ok(None);
        };
        let length = usize::from_str_radix(size, 16).map_err(|_| format!("chunk {size:?}"))?;
        at += size.len() + 2;
        if length == 0 {
            // Trailers up to an empty line.
            let Some(end) = format!("\r\n{rest}").find("\r\n\r\n") else {
                return Ok(None);
            };
            return Ok(Some((body, at + end + 2)));
        }
        if rest.len() < length + 2 {
            return Ok(None);
        }
        body += &rest[..length];
        if &rest[length..length + 2] != "\r\n" {
            return Err("a chunk without an end".to_owned());
        }
        at += length + 2;
    }
}

/// Who has nothing more to say is soon shown out.
const QUICK: &str = r#"
    primary.limits.head_time = "300ms"
    primary.limits.idle = "300ms"
    primary.limits.slow_time = "300ms"
"#;

/// The program in front of `strict`.
async fn in_front_of(strict: &Strict) -> Program {
    let lines = format!("primary.upstream = \"http://{}\"\n{QUICK}", strict.address);
    Program::serve(&Config::new(lines)).await
}

/// Sends `bytes` and then nothing more; gives all that comes back.
async fn say(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // Who refuses closes before all is read.
    let _ = stream.write_all(bytes).await;
    let mut read = Vec::new();
    let _ = soon("the connection ends", stream.read_to_end(&mut read)).await;
    String::from_utf8_lossy(&read).into_owned()
}

/// Refused with a status, or the connection ends without a word.
fn is_refused(answer: &str) -> bool {
    answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 501 ")
}

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

/// Heads that are refused, whatever they are followed by.
fn refused() -> Vec<String> {
    let with = |lines: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let mut all: Vec<String> = [
        // Lengths.
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length: five\r\n",
        "Content-Length: \r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 99999999999999999999\r\n",
        // Codings.
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunk\r\n",
        "Transfer-Encoding:\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n",
        // Names and lines.
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Content-Length : 5\r\n",
        " Content-Length: 5\r\n",
        "X: a\r\n Content-Length: 5\r\n",
        "X: a\r\n\tb\r\n",
        "X: a\rContent-Length: 5\r\n",
        "X: a\r\rb\r\n",
        "X: a\0b\r\n",
        "X\0: a\r\n",
        ": a\r\n",
        "X\r\n",
        "X y: a\r\n",
        "(x): a\r\n",
        // Hosts.
        "Host: b\r\n",
    ]
    .map(with)
    .into();
    all.extend(
        [
            "GET /\r\n\r\n",
            "GET / \r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\rHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            "GET / HTTP/3.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/11\r\nHost: a\r\n\r\n",
            "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
            "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        ]
        .map(str::to_owned),
    );
    all
}

#[tokio::test]
async fn ambiguous_heads_are_refused_and_nothing_after_them_is_read() {
    let strict = Strict::start().await;
    let upstream = in_front_of(&strict).await;
    let site = small_site();
    let folder = Program::serve(&Config::of_site(&site, QUICK)).await;
    let mut wrong = Vec::new();
    for head in refused() {
        for tail in ["", "0\r\n\r\n", "hello"] {
            let bytes = format!("{head}{tail}{SMUGGLED}");
            for program in [&upstream, &folder] {
                let answer = say(program.site, bytes.as_bytes()).await;
                if !is_refused(&answer) || answer.contains("200 OK") {
                    wrong.push(format!("{bytes:?}: {answer:?}"));
                }
            }
            let seen = strict.take();
            let smuggled =
                |seen: &Seen| matches!(seen, Seen::Request(line, _) if line.contains("smuggled"));
            assert!(!seen.iter().any(smuggled), "{bytes:?}: {seen:?}");
            assert_eq!(seen, [], "{bytes:?}");
        }
    }
}

#[tokio::test]
async fn what_is_read_leniently_is_one_request_for_whoever_is_behind() {
    let strict = Strict::start().await;
    let program = in_front_of(&strict).await;
    let mut wrong = Vec::new();
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    for (lines, body) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("Content-Length: 05\r\n", "hello"),
        (
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
            chunks,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
            chunks,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
            chunks,
        ),
        ("Transfer-Encoding: ChUnKeD\r\n", chunks),
        ("Transfer-Encoding:chunked \t\r\n", chunks),
        ("transfer-encoding:\tchunked\r\n", chunks),
        (
            "Transfer-Encoding: chunked\r\n",
            "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\n",
            "005\r\nhello\r\n000\r\n\r\n",
        ),
        // Of trailers nothing becomes part of the head.
        (
            "Transfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\nContent-Length: 3\r\nHost: b\r\n\r\n",
        ),
        (
            "Connection: Content-Length, Host\r\nContent-Length: 5\r\n",
            "hello",
        ),
        (
            "Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
            chunks,
        ),
        // A line may end with LF alone (RFC 9112 section 2.2).
        ("Content-Length: 5\nX: y\r\n", "hello"),
    ] {
        let head = format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let answer = say(program.site, format!("{head}{body}").as_bytes()).await;
        let seen = strict.take();
        let asked = Seen::Request("POST /x HTTP/1.1".to_owned(), "hello".to_owned());
        let is_one = answer.starts_with("HTTP/1.1 200 ") && seen == [asked];
        let is_none =
            is_refused(&answer) && !seen.iter().any(|seen| matches!(seen, Seen::Request(..)));
        if !(is_one || is_none) || answers(&answer) != 1 {
            wrong.push(format!("{head:?}{body:?}: {answer:?} {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// RFC 9112 section 6.1: what comes after a request with both is not believed.
#[tokio::test]
async fn a_connection_ends_after_a_request_with_two_kinds_of_length() {
    let strict = Strict::start().await;
    let program = in_front_of(&strict).await;
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        let bytes = format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n0\r\n\r\n{SMUGGLED}");
        let answer = say(program.site, bytes.as_bytes()).await;
        assert_eq!(answers(&answer), 1, "{answer}");
        let one = Seen::Request("POST /x HTTP/1.1".to_owned(), String::new());
        assert_eq!(strict.take(), [one]);
    }
}

#[tokio::test]
async fn a_body_that_is_none_breaks_off_and_nothing_of_it_is_a_request() {
    let strict = Strict::start().await;
    let program = in_front_of(&strict).await;
    let mut wrong = Vec::new();
    for body in [
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\n\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\n X: y\r\n\r\n",
        "5\r\nhell",
    ] {
        let head = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = say(program.site, format!("{head}{body}{SMUGGLED}").as_bytes()).await;
        if answer.starts_with("HTTP/1.1 2") || answers(&answer) > 1 {
            wrong.push(format!("{body:?}: {answer:?}"));
        }
        // What had gone upstream by then is seen to be broken off.
        let next = say(program.site, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(next.starts_with("HTTP/1.1 200 "), "{next}");
        let seen = strict.take();
        for seen in &seen {
            let expected = match seen {
                Seen::Request(line, body) => line == "GET /next HTTP/1.1" && body.is_empty(),
                Seen::Broken => true,
                Seen::Wrong(_) => false,
            };
            if !expected {
                wrong.push(format!("{body:?}: {seen:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_refused_request_with_a_body_does_not_make_the_next_one() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, QUICK)).await;
    // The folder takes no POST; its body looks like a request.
    let length = SMUGGLED.len();
    let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}");
    let answer = say(program.site, bytes.as_bytes()).await;
    assert_eq!(answers(&answer), 1, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    until("nothing is under way", async || {
        (program.status().await["in_flight"] == 0).then_some(())
    })
    .await;
}
