//! A folder over real sockets.

#![cfg(feature = "server")]

mod support {
    pub(crate) mod raw;
}

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use overspill::{
    front::{FrontLayer, Rules},
    site::{Site, SiteError},
};
use support::raw::{Answer, ask, exchange, parse};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_layer::Layer;
use tower_service::Service;

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
        fs::write(path, content).unwrap();
        self
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn serve(root: &Path) -> SocketAddr {
    let site = FrontLayer::new(Rules::Folder).layer(Site::new(root).unwrap());
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
        ("Range: bytes=0-0,2-3".to_owned(), whole),
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
