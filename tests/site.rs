//! A folder over real sockets.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use overspill::{
    front::{FrontLayer, Rules},
    site::{CacheControlSettings, Site, SiteError, SiteSettings},
    units::ByteSize,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_layer::Layer;
use tower_service::Service;

use crate::support::{
    raw::{Answer, ask, exchange, parse},
    wait::until,
};

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "site-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(path.join("root")).unwrap();
        Self(path)
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// Writes a file; `path` begins in the folder that holds the root.
    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        // What was changed only just before has no time that could be told.
        is_of(&path, HOUR);
        self
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// Lets a file have been changed so long ago.
fn is_of(path: &Path, age: Duration) {
    let file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn serve(root: &Path) -> SocketAddr {
    serve_by(root, SiteSettings::default()).await
}

async fn serve_by(root: &Path, settings: SiteSettings) -> SocketAddr {
    let site = Site::with_settings(root, &settings).unwrap();
    let site = FrontLayer::new(Rules::Folder).layer(site);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback_service(site);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A small site.
async fn small() -> (Folder, SocketAddr) {
    let folder = Folder::new();
    folder
        .write("root/index.html", "<p>home")
        .write("root/sub/index.html", "<p>sub")
        .write("root/digits.txt", "0123456789")
        .write("root/style.css", "p{}")
        .write("root/a b.css", "a b")
        .write("root/naïve.txt", "diaeresis")
        .write("root/script.js", "1")
        .write("root/data.json", "{}")
        .write("root/image.png", [0x89, b'P'])
        .write("root/font.woff2", "f")
        .write("root/unknown", "?")
        .write("root/empty.txt", "")
        .write("root/noindex/file.txt", "x")
        .write("root/.git/config", "hidden")
        .write("root/sub/.env", "hidden")
        .write("root/.well-known/security.txt", "known")
        .write("root/evil.example/index.html", "<p>not evil")
        .write("secret.txt", "secret");
    let address = serve(&folder.root()).await;
    (folder, address)
}

#[tokio::test]
async fn files_come_with_their_types() {
    let (_folder, site) = small().await;
    for (path, kind, body) in [
        ("/", "text/html; charset=utf-8", "<p>home"),
        ("/index.html?x=1", "text/html; charset=utf-8", "<p>home"),
        ("/sub/", "text/html; charset=utf-8", "<p>sub"),
        ("/digits.txt", "text/plain; charset=utf-8", "0123456789"),
        ("/style.css", "text/css; charset=utf-8", "p{}"),
        ("/a%20b.css", "text/css; charset=utf-8", "a b"),
        ("/na%C3%AFve.txt", "text/plain; charset=utf-8", "diaeresis"),
        ("/script.js", "text/javascript; charset=utf-8", "1"),
        ("/data.json", "application/json", "{}"),
        ("/font.woff2", "font/woff2", "f"),
        ("/unknown", "application/octet-stream", "?"),
        ("/empty.txt", "text/plain; charset=utf-8", ""),
        (
            "/.well-known/security.txt",
            "text/plain; charset=utf-8",
            "known",
        ),
    ] {
        let answer = ask(site, &format!("GET {path}"), "").await;
        assert_eq!((answer.status, answer.text()), (200, body), "{path}");
        assert_eq!(answer.header("content-type"), Some(kind), "{path}");
        assert_eq!(
            answer.header("content-length"),
            Some(&*body.len().to_string()),
            "{path}"
        );
        assert_eq!(answer.header("accept-ranges"), Some("bytes"), "{path}");
        assert!(
            answer.header("etag").unwrap().starts_with('"')
                && answer.header("last-modified").is_some()
        );
    }
    assert_eq!(
        ask(site, "GET /image.png", "").await.header("content-type"),
        Some("image/png")
    );
}

#[tokio::test]
async fn head_gets_the_headers_that_get_would() {
    let (folder, site) = small().await;
    folder.write("root/404.html", "<p>lost");
    for path in ["/", "/digits.txt", "/sub", "/nowhere", "/a%00", "/noindex/"] {
        let lines = "Accept: text/html\r\nRange: bytes=2-3\r\n";
        let mut get = ask(site, &format!("GET {path}"), "Accept: text/html\r\n").await;
        let mut head = ask(site, &format!("HEAD {path}"), lines).await;
        get.headers.remove("date");
        head.headers.remove("date");
        assert_eq!(
            (head.status, &head.headers),
            (get.status, &get.headers),
            "{path}"
        );
        assert!(head.body.is_empty() && get.is_whole, "{path}");
    }
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let (_folder, site) = small().await;
    let first = ask(site, "GET /digits.txt", "").await;
    let (tag, date) = (
        first.header("etag").unwrap(),
        first.header("last-modified").unwrap(),
    );
    let far = "Fri, 01 Jan 2100 00:00:00 GMT";
    let past = "Sat, 01 Jan 2000 00:00:00 GMT";
    for (lines, status) in [
        (format!("If-None-Match: {tag}\r\n"), 304),
        (format!("If-None-Match: W/{tag}\r\n"), 304),
        (format!("If-None-Match: \"a\", {tag} , \"b\"\r\n"), 304),
        ("If-None-Match: *\r\n".to_owned(), 304),
        ("If-None-Match: \"other\"\r\n".to_owned(), 200),
        (
            format!("If-None-Match: \"other\"\r\nIf-Modified-Since: {far}\r\n"),
            200,
        ),
        (format!("If-Modified-Since: {date}\r\n"), 304),
        (format!("If-Modified-Since: {past}\r\n"), 200),
        ("If-Modified-Since: yesterday\r\n".to_owned(), 200),
        (format!("If-Match: {tag}\r\n"), 200),
        ("If-Match: \"other\"\r\n".to_owned(), 412),
        (format!("If-Unmodified-Since: {past}\r\n"), 412),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = ask(site, &format!("{method} /digits.txt"), &lines).await;
            assert_eq!(answer.status, status, "{method} {lines}");
            if status == 304 {
                assert_eq!(answer.header("etag"), Some(tag));
                assert!(answer.body.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn ranges_give_the_part_that_was_asked_for() {
    let (_folder, site) = small().await;
    let first = ask(site, "GET /digits.txt", "").await;
    let (tag, date) = (
        first.header("etag").unwrap(),
        first.header("last-modified").unwrap(),
    );
    let whole = (200, "0123456789", None);
    let part = (206, "23", Some("bytes 2-3/10"));
    for (lines, expected) in [
        ("Range: bytes=2-3".to_owned(), part),
        (
            "Range: bytes=7-".to_owned(),
            (206, "789", Some("bytes 7-9/10")),
        ),
        (
            "Range: bytes=-4".to_owned(),
            (206, "6789", Some("bytes 6-9/10")),
        ),
        (
            "Range: bytes=8-99".to_owned(),
            (206, "89", Some("bytes 8-9/10")),
        ),
        ("Range: bytes=0-5,5-9".to_owned(), whole),
        ("Range: bytes=0-3,4-9".to_owned(), whole),
        (
            "Range: bytes=0-3,20-".to_owned(),
            (206, "0123", Some("bytes 0-3/10")),
        ),
        (format!("Range: bytes={}0-0", "0-0,".repeat(1000)), whole),
        ("Range: items=2-3".to_owned(), whole),
        ("Range: bytes=2-3\r\nRange: bytes=5-6".to_owned(), whole),
        (format!("Range: bytes=2-3\r\nIf-Range: {tag}"), part),
        (format!("Range: bytes=2-3\r\nIf-Range: {date}"), part),
        ("Range: bytes=2-3\r\nIf-Range: \"old\"".to_owned(), whole),
        (format!("Range: bytes=2-3\r\nIf-Range: W/{tag}"), whole),
        (
            "Range: bytes=2-3\r\nIf-Range: Sat, 01 Jan 2000 00:00:00 GMT".to_owned(),
            whole,
        ),
    ] {
        let answer = ask(site, "GET /digits.txt", &format!("{lines}\r\n")).await;
        assert_eq!(
            (answer.status, answer.text(), answer.header("content-range")),
            expected,
            "{lines}"
        );
        assert!(answer.is_whole);
    }
    for range in [
        "10-",
        "99-100",
        "5-2",
        "-0",
        "x-y",
        "",
        "99999999999999999999-",
        "--1",
        "1-2-3",
    ] {
        let answer = ask(
            site,
            "GET /digits.txt",
            &format!("Range: bytes={range}\r\n"),
        )
        .await;
        assert_eq!(
            (answer.status, answer.header("content-range")),
            (416, Some("bytes */10")),
            "{range}"
        );
        assert_eq!(
            answer.text(),
            "What is at this address does not have the part that was asked for.\n"
        );
    }
}

/// The parts of a multipart body: their types, ranges and bytes.
fn parts(answer: &Answer) -> Vec<(String, String, Vec<u8>)> {
    let kind = answer.header("content-type").unwrap();
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let text = String::from_utf8_lossy(&answer.body);
    let delimiter = format!("\r\n--{boundary}");
    let mut parts: Vec<&str> = text.split(&delimiter).collect();
    assert_eq!(parts.remove(0), "");
    assert_eq!(parts.pop(), Some("--\r\n"));
    parts
        .into_iter()
        .map(|part| {
            let (head, body) = part.split_once("\r\n\r\n").unwrap();
            let line = |name: &str| {
                let mut lines = head.split("\r\n");
                let value = lines.find_map(|line| line.strip_prefix(name));
                value.unwrap().trim().to_owned()
            };
            (
                line("Content-Type:"),
                line("Content-Range:"),
                body.as_bytes().to_vec(),
            )
        })
        .collect()
}

/// From memory, and from the disk.
fn both() -> [SiteSettings; 2] {
    let memory = SiteSettings::default();
    let disk = SiteSettings {
        file_size: ByteSize::new(0),
        ..memory.clone()
    };
    [memory, disk]
}

#[tokio::test]
async fn several_ranges_come_as_parts() {
    let folder = Folder::new();
    let content: Vec<u8> = (0..200_000_u32)
        .map(|byte| b'a' + (byte % 23) as u8)
        .collect();
    folder.write("root/letters.txt", &content);
    for settings in both() {
        let site = serve_by(&folder.root(), settings).await;
        for (list, expected) in [
            ("0-0,2-3", vec![0..1, 2..4]),
            (
                "-2, 5-6 ,100000-150000",
                vec![199_998..200_000, 5..7, 100_000..150_001],
            ),
            ("0-0,300000-,2-2", vec![0..1, 2..3]),
        ] {
            let answer = ask(
                site,
                "GET /letters.txt",
                &format!("Range: bytes={list}\r\n"),
            )
            .await;
            assert_eq!((answer.status, answer.is_whole), (206, true), "{list}");
            assert_eq!(answer.header("content-range"), None);
            let expected: Vec<_> = expected
                .into_iter()
                .map(|part| {
                    (
                        "text/plain; charset=utf-8".to_owned(),
                        format!("bytes {}-{}/200000", part.start, part.end - 1),
                        content[part].to_vec(),
                    )
                })
                .collect();
            assert_eq!(parts(&answer), expected, "{list}");
        }
        let etag = ask(site, "HEAD /letters.txt", "").await;
        let etag = etag.header("etag").unwrap();
        for (validator, status) in [(etag, 206), ("\"old\"", 200)] {
            let lines = format!("Range: bytes=0-0,2-3\r\nIf-Range: {validator}\r\n");
            assert_eq!(ask(site, "GET /letters.txt", &lines).await.status, status);
        }
    }
}

#[tokio::test]
async fn files_on_the_disk_answer_as_those_in_memory() {
    let folder = Folder::new();
    folder.write("root/digits.txt", "0123456789");
    let [memory, disk] = both();
    let (memory, disk) = (
        serve_by(&folder.root(), memory).await,
        serve_by(&folder.root(), disk).await,
    );
    let tag = async |site| {
        let answer = ask(site, "HEAD /digits.txt", "").await;
        answer.header("etag").unwrap().to_owned()
    };
    let tags = [tag(memory).await, tag(disk).await];
    let modified = ask(memory, "HEAD /digits.txt", "").await;
    let modified = modified.header("last-modified").unwrap();
    for lines in [
        String::new(),
        "If-None-Match: TAG\r\n".to_owned(),
        "If-None-Match: \"x\"\r\n".to_owned(),
        "If-Match: TAG\r\n".to_owned(),
        "If-Match: \"x\"\r\n".to_owned(),
        format!("If-Modified-Since: {modified}\r\n"),
        "Range: bytes=2-3\r\n".to_owned(),
        "Range: bytes=2-3\r\nIf-Range: TAG\r\n".to_owned(),
        format!("Range: bytes=2-3\r\nIf-Range: {modified}\r\n"),
        "Range: bytes=20-\r\n".to_owned(),
        "Range: bytes=-3\r\n".to_owned(),
    ] {
        for method in ["GET", "HEAD"] {
            let mut answers = Vec::new();
            for (site, tag) in [memory, disk].into_iter().zip(&tags) {
                let lines = lines.replace("TAG", tag);
                let mut answer = ask(site, &format!("{method} /digits.txt"), &lines).await;
                if answer
                    .headers
                    .remove("etag")
                    .is_some_and(|own| own != **tag)
                {
                    panic!("another tag: {lines}");
                }
                answer.headers.remove("date");
                answers.push((answer.status, answer.headers, answer.body));
            }
            assert_eq!(answers[0], answers[1], "{method} {lines}");
        }
    }
}

#[tokio::test]
async fn a_file_that_changed_is_noticed_a_second_later_at_most() {
    for settings in both() {
        let folder = Folder::new();
        folder.write("root/page.html", "one");
        let site = serve_by(&folder.root(), settings).await;
        let get = async || ask(site, "GET /page.html", "").await.text().to_owned();
        assert_eq!(get().await, "one");
        for content in ["two", "six", "longer"] {
            folder.write("root/page.html", content);
            let changed = Instant::now();
            // Not the second that it may take is asked for here, but that what was sent after it is new.
            loop {
                let asked = changed.elapsed();
                let text = get().await;
                if text == content {
                    break;
                }
                assert!(asked < Duration::from_secs(1), "{text} after {asked:?}");
            }
        }
        fs::remove_file(folder.root().join("page.html")).unwrap();
        let removed = Instant::now();
        loop {
            let asked = removed.elapsed();
            if ask(site, "GET /page.html", "").await.status == 404 {
                break;
            }
            assert!(asked < Duration::from_secs(1));
        }
        // What is asked for seldom, too.
        folder.write("root/page.html", "back");
        assert_eq!(get().await, "back");
        folder.write("root/page.html", "seldom");
        tokio::time::sleep(Duration::from_millis(1001)).await;
        assert_eq!(get().await, "seldom");
    }
}

#[tokio::test]
async fn a_change_that_leaves_length_and_time_is_noticed() {
    let folder = Folder::new();
    folder.write("root/page.html", "one");
    let path = folder.root().join("page.html");
    let site = serve(&folder.root()).await;
    let first = ask(site, "GET /page.html", "").await;
    let time = path.metadata().unwrap().modified().unwrap();
    // Another file of the same name, length and time.
    folder.write("root/next.html", "two");
    let next = folder.root().join("next.html");
    let file = fs::OpenOptions::new().append(true).open(&next).unwrap();
    file.set_modified(time).unwrap();
    fs::rename(&next, &path).unwrap();
    tokio::time::sleep(Duration::from_millis(1001)).await;
    let tag = first.header("etag").unwrap();
    let lines = format!("If-None-Match: {tag}\r\n");
    let second = ask(site, "GET /page.html", &lines).await;
    assert_eq!((second.status, second.text()), (200, "two"));
}

/// A validator names one content, also of a file that is written again in the same tick of the clock.
#[tokio::test]
async fn two_contents_never_have_one_validator() {
    for settings in both() {
        let folder = Folder::new();
        let path = folder.root().join("page.html");
        fs::write(&path, "0000").unwrap();
        let mut seen = std::collections::HashMap::new();
        for count in 0..40 {
            let site = serve_by(&folder.root(), settings.clone()).await;
            // In place: only the time tells.
            let text = format!("{count:04}");
            fs::write(&path, &text).unwrap();
            let answer = ask(site, "GET /page.html", "").await;
            assert_eq!(answer.text(), text);
            // A time is told when its second is over, and not before.
            if let Some(time) = answer.header("last-modified") {
                let now = httpdate::fmt_http_date(SystemTime::now());
                assert_ne!(time, now);
            }
            let tag = answer.header("etag").unwrap().to_owned();
            assert_eq!(seen.insert(tag, text), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_under_load_is_never_torn_nor_old() {
    for settings in both() {
        let folder = Folder::new();
        let (path, next) = (folder.root().join("page.txt"), folder.0.join("next"));
        // Each version is its number, again and again, and of a length of its own.
        let version = |number: u64| format!("{number:08}\n").repeat(2000 + number as usize % 50);
        let site = serve_by(&folder.root(), settings).await;
        // Since when each version is there.
        let times = std::sync::Mutex::new(Vec::new());
        let replace = |number: u64| {
            fs::write(&next, version(number)).unwrap();
            fs::rename(&next, &path).unwrap();
            times.lock().unwrap().push(Instant::now());
        };
        replace(0);
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let ask_on = async || {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answer = ask(site, "GET /page.txt", "").await;
                let text = answer.text();
                assert!(answer.is_whole && answer.status == 200);
                let number: u64 = text[..8].parse().unwrap();
                assert!(text == version(number), "torn: {number}");
                // It was still there less than a second before it was asked for.
                let since = times.lock().unwrap().get(number as usize + 1).copied();
                let old = since.map_or(Duration::ZERO, |since| {
                    asked.saturating_duration_since(since)
                });
                assert!(
                    old <= Duration::from_secs(1),
                    "{number} was replaced {old:?} before"
                );
                count += 1;
            }
            count
        };
        let replace_on = async || {
            for number in 1..150 {
                replace(number);
                tokio::time::sleep(Duration::from_millis(number % 40)).await;
            }
            stop.store(true, Ordering::Relaxed);
        };
        let (one, two, three, ()) = tokio::join!(ask_on(), ask_on(), ask_on(), replace_on());
        assert!(one + two + three > 10);
    }
}

#[tokio::test]
async fn encoded_files_beside_a_file_are_served_to_those_who_accept_them() {
    let folder = Folder::new();
    folder
        .write("root/app.js", "plain")
        .write("root/app.js.br", "brotli")
        .write("root/app.js.gz", "gzip")
        .write("root/old.js", "plain")
        .write("root/old.js.gz", "gzip of what was there before")
        .write("root/only.bin", "plain")
        .write("root/only.bin.zst", "zstd")
        .write("root/out.txt", "plain")
        .write("root/style.css", "plain")
        .write("outside.gz", "secret");
    is_of(&folder.root().join("old.js.gz"), 2 * HOUR);
    symlink(
        folder.0.join("outside.gz"),
        folder.root().join("out.txt.gz"),
    )
    .unwrap();
    for mut settings in both() {
        settings.compress = false;
        let site = serve_by(&folder.root(), settings).await;
        for (path, accepts, coding, body) in [
            ("/app.js", "gzip, deflate, br, zstd", Some("br"), "brotli"),
            ("/app.js", "gzip", Some("gzip"), "gzip"),
            ("/app.js", "br;q=0.1, gzip;q=0.2", Some("gzip"), "gzip"),
            ("/app.js", "zstd", None, "plain"),
            ("/app.js", "br;q=0", None, "plain"),
            ("/app.js", "*", Some("br"), "brotli"),
            ("/old.js", "gzip", None, "plain"),
            ("/only.bin", "zstd", Some("zstd"), "zstd"),
            ("/out.txt", "gzip", None, "plain"),
            ("/style.css", "gzip", None, "plain"),
        ] {
            let lines = format!("Accept-Encoding: {accepts}\r\n");
            let answer = ask(site, &format!("GET {path}"), &lines).await;
            assert_eq!(
                (
                    answer.status,
                    answer.header("content-encoding"),
                    answer.text()
                ),
                (200, coding, body),
                "{path} {accepts}"
            );
            let varies = matches!(path, "/app.js" | "/only.bin");
            assert_eq!(
                answer.header("vary"),
                varies.then_some("accept-encoding"),
                "{path}"
            );
        }
        // Each has a tag of its own.
        let tag = async |accepts: &str| {
            let lines = format!("Accept-Encoding: {accepts}\r\n");
            let answer = ask(site, "HEAD /app.js", &lines).await;
            answer.header("etag").unwrap().to_owned()
        };
        let (br, gzip, plain) = (tag("br").await, tag("gzip").await, tag("").await);
        assert!(br != gzip && gzip != plain && plain != br);
        for (accepts, status) in [("br", 304), ("gzip", 200), ("", 200)] {
            let lines = format!("Accept-Encoding: {accepts}\r\nIf-None-Match: {br}\r\n");
            let answer = ask(site, "GET /app.js", &lines).await;
            assert_eq!(answer.status, status, "{accepts}");
            assert_eq!(answer.header("vary"), Some("accept-encoding"));
        }
        let lines = "Accept-Encoding: br\r\nRange: bytes=0-2\r\n";
        let answer = ask(site, "GET /app.js", lines).await;
        assert_eq!((answer.status, answer.text()), (206, "bro"));
        assert_eq!(answer.header("content-encoding"), Some("br"));
        // One that comes later is noticed, as is one that goes.
        folder.write("root/style.css.gz", "late");
        tokio::time::sleep(Duration::from_millis(1001)).await;
        let lines = "Accept-Encoding: gzip\r\n";
        assert_eq!(ask(site, "GET /style.css", lines).await.text(), "late");
        fs::remove_file(folder.root().join("style.css.gz")).unwrap();
        tokio::time::sleep(Duration::from_millis(1001)).await;
        assert_eq!(ask(site, "GET /style.css", lines).await.text(), "plain");
    }
}

#[tokio::test]
async fn texts_that_are_hot_are_compressed() {
    use overspill::rewrite::coding::{Coding, decode_all};
    let folder = Folder::new();
    let page = "<p>the same again and again</p>\n".repeat(500);
    folder
        .write("root/page.html", &page)
        .write("root/small.html", "small")
        .write("root/picture.png", &page);
    let site = serve(&folder.root()).await;
    for (name, coding) in [
        ("br", Coding::Brotli),
        ("gzip", Coding::Gzip),
        ("zstd", Coding::Zstd),
    ] {
        let lines = format!("Accept-Encoding: {name}\r\n");
        let answer = until("the page is compressed", async || {
            let answer = ask(site, "GET /page.html", &lines).await;
            assert_eq!(answer.header("vary"), Some("accept-encoding"));
            if answer.header("content-encoding").is_none() {
                assert!(answer.body == page.as_bytes());
                return None;
            }
            Some(answer)
        })
        .await;
        assert_eq!(answer.header("content-encoding"), Some(name));
        let decoded = decode_all(coding, &answer.body.clone().into(), 1 << 20).unwrap();
        assert!(decoded == page.as_bytes() && answer.body.len() < 1000);
        // A part goes with parts that came when nothing was compressed yet.
        let part = ask(
            site,
            "GET /page.html",
            &format!("{lines}Range: bytes=3-5\r\n"),
        )
        .await;
        assert_eq!((part.status, part.text()), (206, "the"));
        assert_eq!(part.header("content-encoding"), None);
        // A page that is looked at again, and is the same, keeps it.
        let tag = answer.header("etag").unwrap().to_owned();
        is_of(&folder.root().join("page.html"), 2 * HOUR);
        tokio::time::sleep(Duration::from_millis(1001)).await;
        let lines = format!("{lines}If-None-Match: {tag}\r\n");
        assert_eq!(ask(site, "GET /page.html", &lines).await.status, 304);
    }
    let plain = ask(site, "GET /page.html", "").await;
    assert!(plain.header("content-encoding").is_none() && plain.body == page.as_bytes());
    for path in ["/small.html", "/picture.png"] {
        for _ in 0..10 {
            let answer = ask(site, &format!("GET {path}"), "Accept-Encoding: br\r\n").await;
            assert_eq!(answer.header("content-encoding"), None);
            assert_eq!(answer.header("vary"), None);
        }
    }
}

#[tokio::test]
async fn tidy_urls_are_an_option() {
    let folder = Folder::new();
    folder
        .write("root/about.html", "about")
        .write("root/both.html", "page")
        .write("root/both/index.html", "folder")
        .write("root/file", "file")
        .write("root/file.html", "not this")
        .write("root/sub/deep.html", "deep");
    let tidy = SiteSettings {
        tidy_urls: true,
        ..SiteSettings::default()
    };
    let site = serve_by(&folder.root(), tidy).await;
    for (path, status, text) in [
        ("/about", 200, "about"),
        ("/about.html", 200, "about"),
        ("/about?x", 200, "about"),
        ("/both", 200, "page"),
        ("/both/", 200, "folder"),
        ("/file", 200, "file"),
        ("/sub/deep", 200, "deep"),
        ("/sub", 307, ""),
        ("/about/", 404, "There is nothing at this address.\n"),
        ("/nothing", 404, "There is nothing at this address.\n"),
    ] {
        let answer = ask(site, &format!("GET {path}"), "").await;
        assert_eq!((answer.status, answer.text()), (status, text), "{path}");
        if status == 200 && path != "/file" {
            let kind = answer.header("content-type");
            assert_eq!(kind, Some("text/html; charset=utf-8"), "{path}");
        }
    }
    // A file of that very name comes before it, as soon as there is one.
    folder.write("root/about", "itself");
    tokio::time::sleep(Duration::from_millis(1001)).await;
    assert_eq!(ask(site, "GET /about", "").await.text(), "itself");
    let untidy = serve(&folder.root()).await;
    assert_eq!(ask(untidy, "GET /sub/deep", "").await.status, 404);
    assert_eq!(ask(untidy, "GET /both", "").await.status, 307);
}

#[tokio::test]
async fn cache_control_goes_by_the_path() {
    let folder = Folder::new();
    folder
        .write("root/index.html", "home")
        .write("root/404.html", "lost")
        .write("root/assets/a b.css", "p{}");
    let rule = |path: &str, value: &str| CacheControlSettings {
        paths: vec![path.to_owned()],
        value: value.to_owned(),
    };
    let settings = SiteSettings {
        cache_control: vec![
            rule("/assets/a b.*", "max-age=31536000, immutable"),
            rule("**", "no-cache"),
        ],
        ..SiteSettings::default()
    };
    let site = serve_by(&folder.root(), settings).await;
    for (path, value) in [
        ("/assets/a%20b.css", "max-age=31536000, immutable"),
        ("/", "no-cache"),
        ("/nowhere", "no-store"),
    ] {
        let answer = ask(site, &format!("GET {path}"), "").await;
        assert_eq!(answer.header("cache-control"), Some(value), "{path}");
    }
    let again = ask(site, "GET /", "If-None-Match: *\r\n").await;
    assert_eq!(
        (again.status, again.header("cache-control")),
        (304, Some("no-cache"))
    );
    let wrong = SiteSettings {
        cache_control: vec![rule("", "")],
        ..SiteSettings::default()
    };
    let error = Site::with_settings(&folder.root(), &wrong).unwrap_err();
    assert!(matches!(error, SiteError::Settings(_)), "{error}");
}

#[tokio::test]
async fn escapes_lead_to_the_same_file_and_not_round_the_checks() {
    let folder = Folder::new();
    folder
        .write("root/page.html", "page")
        .write("root/.hidden", "secret");
    let site = serve(&folder.root()).await;
    for path in ["/page.html", "/%70age.html", "/p%61ge%2ehtml"] {
        assert_eq!(ask(site, &format!("GET {path}"), "").await.text(), "page");
    }
    // What is kept does not open a way round the checks.
    for (path, status) in [
        ("/.hidden", 404),
        ("/%2ehidden", 404),
        ("/x/..%2fpage.html", 400),
    ] {
        assert_eq!(
            ask(site, &format!("GET {path}"), "").await.status,
            status,
            "{path}"
        );
    }
}

/// Asks an nginx, and us, for the same.
#[tokio::test]
#[ignore = "needs nginx"]
async fn nginx_answers_conditions_and_ranges_alike() {
    let folder = Folder::new();
    folder.write("root/digits.txt", "0123456789");
    let nginx = Nginx::start(&folder).await;
    let site = serve(&folder.root()).await;
    let first = ask(nginx.address, "GET /digits.txt", "").await;
    let date = first.header("last-modified").unwrap();
    let tag = async |site| {
        let answer = ask(site, "GET /digits.txt", "").await;
        assert_eq!(answer.header("last-modified"), Some(date));
        answer.header("etag").unwrap().to_owned()
    };
    let tags = [tag(nginx.address).await, tag(site).await];
    let past = "Sat, 01 Jan 2000 00:00:00 GMT";
    for lines in [
        "If-None-Match: TAG".to_owned(),
        "If-None-Match: W/TAG".to_owned(),
        "If-None-Match: \"a\", TAG , \"b\"".to_owned(),
        "If-None-Match: *".to_owned(),
        "If-None-Match: \"x\"".to_owned(),
        format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}"),
        format!("If-Modified-Since: {date}"),
        format!("If-Modified-Since: {past}"),
        "If-Modified-Since: yesterday".to_owned(),
        "If-Match: TAG".to_owned(),
        "If-Match: *".to_owned(),
        "If-Match: \"x\"".to_owned(),
        format!("If-Unmodified-Since: {date}"),
        format!("If-Unmodified-Since: {past}"),
        "Range: bytes=0-0".to_owned(),
        "Range: bytes=2-".to_owned(),
        "Range: bytes=-3".to_owned(),
        "Range: bytes=-30".to_owned(),
        "Range: bytes=5-99".to_owned(),
        "Range: bytes=10-".to_owned(),
        "Range: bytes=5-2".to_owned(),
        "Range: bytes=x-y".to_owned(),
        "Range: items=0-1".to_owned(),
        "Range: bytes=0-0,2-3".to_owned(),
        "Range: bytes=-1,0-0".to_owned(),
        "Range: bytes=0-5,5-9".to_owned(),
        "Range: bytes=0-0,20-30".to_owned(),
        "Range: bytes=2-3\r\nIf-Range: TAG".to_owned(),
        "Range: bytes=2-3\r\nIf-Range: \"x\"".to_owned(),
        format!("Range: bytes=2-3\r\nIf-Range: {date}"),
        format!("Range: bytes=2-3\r\nIf-Range: {past}"),
    ] {
        let mut answers = Vec::new();
        for (site, tag) in [nginx.address, site].into_iter().zip(&tags) {
            let lines = format!("{}\r\n", lines.replace("TAG", tag));
            let answer = ask(site, "GET /digits.txt", &lines).await;
            let is_multiple = answer
                .header("content-type")
                .is_some_and(|kind| kind.starts_with("multipart/"));
            let body = match answer.status {
                206 if is_multiple => parts(&answer)
                    .into_iter()
                    .map(|(_, range, body)| format!("{range} {}", String::from_utf8(body).unwrap()))
                    .collect(),
                200 | 206 => answer.text().to_owned(),
                _ => String::new(),
            };
            let range = answer.header("content-range").map(str::to_owned);
            answers.push((answer.status, range, body));
        }
        assert_eq!(answers[0], answers[1], "{lines}");
    }
}

/// An nginx that serves the same folder.
struct Nginx {
    process: std::process::Child,
    address: SocketAddr,
}

impl Nginx {
    async fn start(folder: &Folder) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let place = folder.0.display();
        let root = folder.root();
        let root = root.display();
        let conf = format!(
            "daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;\n\
             events {{}}\n\
             http {{ access_log off; types {{ text/plain txt; }} charset utf-8;\n\
             client_body_temp_path {place}/a; proxy_temp_path {place}/b; fastcgi_temp_path {place}/c;\n\
             uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;\n\
             server {{ listen {address}; root {root}; }} }}\n"
        );
        folder.write("nginx.conf", conf);
        let process = std::process::Command::new("nginx")
            .arg("-c")
            .arg(folder.0.join("nginx.conf"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let nginx = Self { process, address };
        until("nginx listens", async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn folders_are_redirected_to_themselves_and_nowhere_else() {
    let (_folder, site) = small().await;
    for (path, location) in [
        ("/sub", "/sub/"),
        ("/sub?a=b&c=//d", "/sub/?a=b&c=//d"),
        ("/evil.example", "/evil.example/"),
        ("/noindex", "/noindex/"),
    ] {
        let answer = ask(site, &format!("GET {path}"), "").await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (307, Some(location)),
            "{path}"
        );
    }
    let answer = exchange(
        site,
        b"GET /sub?\xc3\xa9 HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(answer.status, 307);
    for path in [
        "//evil.example",
        "//evil.example/",
        "//evil.example/..",
        "//evil.example/%2e%2e",
        "/\\evil.example",
        "/%5cevil.example",
        "/%2f%2fevil.example",
        "/%2fevil.example",
        "///evil.example",
        "/sub//evil.example/..",
        "/%09/evil.example",
        "/.//evil.example",
    ] {
        let answer = ask(site, &format!("GET {path}"), "").await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (400, None),
            "{path}"
        );
    }
}

#[tokio::test]
async fn no_path_leads_out_of_the_folder() {
    let (_folder, site) = small().await;
    for (path, status) in [
        ("/../secret.txt", 400),
        ("/sub/../../secret.txt", 400),
        ("/%2e%2e/secret.txt", 400),
        ("/%2E./secret.txt", 400),
        ("/..%2fsecret.txt", 400),
        ("/..%5csecret.txt", 400),
        ("/..\\secret.txt", 400),
        ("/sub/..", 400),
        ("/%252e%252e/secret.txt", 404),
        ("/digits.txt%00.html", 400),
        ("/digits.txt%0a", 400),
        ("/a%", 400),
        ("/a%zz", 400),
        ("/sub//index.html", 400),
        ("/sub%2findex.html", 400),
        ("/.git/config", 404),
        ("/%2egit/config", 404),
        ("/.git", 404),
        ("/.git/", 404),
        ("/sub/.env", 404),
        ("/./digits.txt", 404),
        ("/%ff", 404),
        ("/digits.txt/", 404),
        ("/digits.txt/x", 404),
        ("/noindex/", 404),
        ("/nowhere", 404),
        ("*", 400),
    ] {
        let answer = ask(site, &format!("GET {path}"), "").await;
        assert_eq!(answer.status, status, "{path}");
        assert!(
            !answer.text().contains("secret") && !answer.text().contains("hidden"),
            "{path}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
    let raw = exchange(
        site,
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(raw.status, 400);
}

#[tokio::test]
async fn long_paths_are_refused_and_served_on() {
    let (_folder, site) = small().await;
    let long_name = format!("GET /{}", "n".repeat(300));
    assert_eq!(ask(site, &long_name, "").await.status, 404);
    let deep = format!("GET {}", "/n".repeat(4000));
    assert_eq!(ask(site, &deep, "").await.status, 404);
    for length in [8 * 1024, 60_000, 64 * 1024, 100_000] {
        let answer = ask(site, &format!("GET /{}", "a".repeat(length)), "").await;
        assert_eq!(answer.status, 414, "{length}");
        let answer = ask(site, &format!("GET /{}", "../".repeat(length / 3)), "").await;
        assert!(matches!(answer.status, 400 | 414), "{length}");
    }
    assert_eq!(ask(site, "GET /", "").await.status, 200);
}

#[tokio::test]
async fn a_request_without_one_proper_host_is_refused() {
    let (_folder, site) = small().await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: <a>\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", 400),
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "GET http://evil.example/sub HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400),
    ] {
        let closing = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        assert_eq!(exchange(site, &closing).await.status, status, "{request}");
    }
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let (_folder, site) = small().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let answer = ask(
            site,
            &format!("{method} /digits.txt"),
            "Content-Length: 0\r\n",
        )
        .await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, HEAD")),
            "{method}"
        );
    }
}

#[tokio::test]
async fn links_are_followed_inside_the_folder_only() {
    let folder = Folder::new();
    folder
        .write("root/real/page.html", "<p>real")
        .write("outside/page.html", "secret");
    let (root, outside) = (folder.root(), folder.0.join("outside"));
    symlink(root.join("real"), root.join("inside")).unwrap();
    symlink("real/page.html", root.join("relative.html")).unwrap();
    symlink(&outside, root.join("out")).unwrap();
    symlink("../outside/page.html", root.join("out.html")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("nothing", root.join("dangling")).unwrap();
    symlink("/dev/zero", root.join("zero")).unwrap();
    // As Kubernetes mounts a ConfigMap.
    folder.write("root/..data/mounted.html", "<p>mounted");
    symlink("..data/mounted.html", root.join("mounted.html")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(root.join("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    fs::create_dir_all(root.join("odd/index.html")).unwrap();
    let site = serve(&root).await;
    for (path, status) in [
        ("/inside/page.html", 200),
        ("/relative.html", 200),
        ("/mounted.html", 200),
        ("/inside", 307),
        ("/out/page.html", 404),
        ("/out", 404),
        ("/out/", 404),
        ("/out.html", 404),
        ("/loop", 404),
        ("/dangling", 404),
        ("/zero", 404),
        ("/pipe", 404),
        ("/odd/", 404),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = ask(site, &format!("{method} {path}"), "").await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert!(!answer.text().contains("secret"), "{path}");
        }
    }
}

#[tokio::test]
async fn a_root_that_is_a_link_is_a_root() {
    let folder = Folder::new();
    folder.write("root/index.html", "<p>home");
    symlink(folder.root(), folder.0.join("link")).unwrap();
    let site = serve(&folder.0.join("link")).await;
    assert_eq!(ask(site, "GET /", "").await.text(), "<p>home");
}

#[tokio::test]
async fn what_is_not_there_gets_the_folders_page_or_a_small_one() {
    let (folder, site) = small().await;
    let html = ask(site, "GET /nowhere", "Accept: text/html,*/*;q=0.8\r\n").await;
    assert_eq!(
        (html.status, html.header("content-type")),
        (404, Some("text/html; charset=utf-8"))
    );
    assert!(html.text().contains("<h1>Not Found</h1>") && !html.text().contains("nowhere"));
    let text = ask(site, "GET /nowhere", "Accept: */*\r\n").await;
    assert_eq!(
        (text.status, text.text()),
        (404, "There is nothing at this address.\n")
    );

    folder.write("root/404.html", "<p>lost");
    let lines = "Range: bytes=0-1\r\nIf-None-Match: *\r\n";
    for path in ["/nowhere", "/sub/nowhere", "/.git/config", "/noindex/"] {
        let own = ask(site, &format!("GET {path}"), lines).await;
        assert_eq!((own.status, own.text()), (404, "<p>lost"), "{path}");
        assert_eq!(own.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(
            (own.header("etag"), own.header("cache-control")),
            (None, Some("no-store"))
        );
    }
    assert_eq!(ask(site, "GET /404.html", "").await.status, 200);
}

/// Asks for a file far larger than any socket buffer, changes it once the head is there, reads the rest.
async fn change_while_served(change: impl FnOnce(&fs::File), range: &str) -> Answer {
    let folder = Folder::new();
    folder.write("root/big.bin", "");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.root().join("big.bin"))
        .unwrap();
    file.set_len(BIG).unwrap();
    let site = serve(&folder.root()).await;
    let mut stream = TcpStream::connect(site).await.unwrap();
    let request = format!("GET /big.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{range}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = vec![0; 1000];
    stream.read_exact(&mut read).await.unwrap();
    change(&file);
    let _ = stream.read_to_end(&mut read).await;
    parse(&read, false)
}

const BIG: u64 = 64 << 20;

#[tokio::test]
async fn a_large_file_comes_whole_also_if_it_grows_meanwhile() {
    for range in ["", "Range: bytes=1000-\r\n"] {
        let answer = change_while_served(|file| file.set_len(BIG + 100_000).unwrap(), range).await;
        assert!(
            answer.is_whole && answer.body.len() as u64 + 1000 >= BIG,
            "{}",
            answer.body.len()
        );
    }
}

#[tokio::test]
async fn a_file_that_grows_keeps_its_promised_length_on_http_2() {
    let folder = Folder::new();
    folder.write("root/big.bin", "");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.root().join("big.bin"))
        .unwrap();
    file.set_len(BIG).unwrap();
    let site = serve(&folder.root()).await;
    let stream = TokioIo::new(TcpStream::connect(site).await.unwrap());
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://site.example/big.bin")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = send.send_request(request).await.unwrap();
    file.set_len(BIG + 100_000).unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len() as u64, BIG);
}

#[tokio::test]
async fn a_file_that_shrinks_is_cut_and_not_taken_for_whole() {
    for range in ["", "Range: bytes=1000-\r\n"] {
        let answer = change_while_served(|file| file.set_len(2000).unwrap(), range).await;
        assert!(matches!(answer.status, 200 | 206));
        assert!(
            !answer.is_whole && (answer.body.len() as u64) < BIG,
            "{}",
            answer.body.len()
        );
    }
}

#[tokio::test]
async fn a_body_that_is_too_short_is_an_error_to_whoever_reads_it() {
    let folder = Folder::new();
    folder.write("root/big.bin", "");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.root().join("big.bin"))
        .unwrap();
    file.set_len(BIG).unwrap();
    for range in ["items=0", "bytes=1000-"] {
        file.set_len(BIG).unwrap();
        let request = http::Request::get("/big.bin")
            .header("range", range)
            .body(())
            .unwrap();
        let answer = Site::new(&folder.root())
            .unwrap()
            .call(request)
            .await
            .unwrap();
        let mut body = answer.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        file.set_len(2000).unwrap();
        assert!(body.collect().await.is_err(), "{range}");
    }
}

#[test]
fn objects_are_listed_as_visitors_ask_for_them() {
    let folder = Folder::new();
    folder
        .write("root/index.html", "12345")
        .write("root/a b/ü#%?.css", "123")
        .write("root/.git/config", "x")
        .write("root/.well-known/x", "1")
        .write("root/back\\slash", "x")
        .write("outside/secret", "x");
    let root = folder.root();
    symlink(&root, root.join("self")).unwrap();
    symlink(folder.0.join("outside"), root.join("out")).unwrap();
    symlink("index.html", root.join("copy.html")).unwrap();
    let mut objects: Vec<(String, u64)> = Site::objects(&root, 100).collect();
    objects.sort();
    let expected = [
        ("/.well-known/x", 1),
        ("/a%20b/%C3%BC%23%25%3F.css", 3),
        ("/copy.html", 5),
        ("/index.html", 5),
    ];
    assert_eq!(
        objects,
        expected.map(|(path, size)| (path.to_owned(), size))
    );
    let page: url::Url = "http://a/x".parse().unwrap();
    assert_eq!(
        page.join("a b/ü%23%25%3F.css").unwrap().path(),
        objects[1].0
    );
    assert_eq!(Site::objects(&root, 2).count(), 2);
    assert_eq!(Site::objects(&root.join("nowhere"), 2).count(), 0);
}

#[test]
fn only_a_folder_can_be_served() {
    let folder = Folder::new();
    folder.write("root/file", "");
    let error = Site::new(&folder.root().join("file")).unwrap_err();
    assert!(matches!(error, SiteError::NotAFolder(_)), "{error}");
    let error = Site::new(&folder.root().join("nowhere")).unwrap_err();
    assert!(
        matches!(error, SiteError::Unreadable { .. }) && error.to_string().contains("nowhere"),
        "{error}"
    );
}
