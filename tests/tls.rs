//! TLS, as clients see it: curl, openssl, raw sockets and a browser.

use std::{fs, io, net::SocketAddr, path::PathBuf, process::Stdio};

use axum::{Router, http::HeaderMap, routing};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    task::JoinSet,
};

use crate::support::{
    self,
    client::{self, drain, get, visitor},
    config::Config,
    curl::curl,
    manuals::{DOC, MANUALS},
    program::{self, Program},
    small_site,
    tls::{self, Certificates},
    upstream::Upstream,
    wait::{soon, until},
    webdriver::Browser,
};

/// The primary with the small site and the certificate `a`.
async fn program(certificates: &Certificates, lines: &str) -> (TempDir, Program) {
    let site = small_site();
    fs::write(site.path().join("healthz"), "well").unwrap();
    let tls = certificates.lines("primary.tls", "a");
    let program = Program::serve(&Config::of_site(&site, &format!("{tls}\n{lines}"))).await;
    (site, program)
}

/// The body of what curl gets by https, with these arguments.
async fn secure(certificates: &Certificates, program: &Program, arguments: &[&str]) -> String {
    let authority = certificates.path("a.pem");
    let url = format!("https://{}/", program.site);
    let all = [&["--cacert", authority.to_str().unwrap(), &url], arguments].concat();
    let said = curl(&all).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout
}

/// What `openssl s_client` says of a handshake.
async fn s_client(to: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &to.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = soon("openssl ends", command.output()).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn curl_is_served_over_each_version_of_tls_and_of_http() {
    let certificates = Certificates::of_localhost();
    let (_site, program) = program(&certificates, "").await;
    for (arguments, status) in [
        (&["--http1.1"][..], "HTTP/1.1 200"),
        (&["--http2"], "HTTP/2 200"),
        (&["--http2", "--tls-max", "1.2"], "HTTP/2 200"),
        (&["--http1.1", "--tls-max", "1.2"], "HTTP/1.1 200"),
        (&["--http2", "--tlsv1.3"], "HTTP/2 200"),
        // No protocol is named: it is HTTP/1.1.
        (&["--no-alpn"], "HTTP/1.1 200"),
    ] {
        let said = secure(&certificates, &program, arguments).await;
        assert!(said.starts_with(status), "{arguments:?}: {said}");
        assert!(said.ends_with("<img src=/a.png>"), "{arguments:?}: {said}");
    }
    let old = s_client(program.site, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).await;
    assert!(old.contains("Cipher is (NONE)"), "{old}");
    let plain = curl(&[&format!("http://{}/", program.site)]).await;
    assert_ne!(plain.code, Some(0), "{plain:?}");
    // What comes next is served all the same.
    secure(&certificates, &program, &[]).await;
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn a_session_is_resumed() {
    let certificates = Certificates::of_localhost();
    let (_site, program) = program(&certificates, "").await;
    for version in ["-tls1_2", "-tls1_3"] {
        let session = certificates.path("session");
        let session = session.to_str().unwrap();
        // The tickets of TLS 1.3 come with the answer.
        let mut first = Command::new("openssl")
            .args(["s_client", "-connect", &program.site.to_string()])
            .args([version, "-sess_out", session, "-ign_eof", "-quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut input = first.stdin.take().unwrap();
        input.write_all(request).await.unwrap();
        soon("openssl ends", first.wait()).await.unwrap();
        let again = s_client(program.site, &[version, "-sess_in", session]).await;
        assert!(again.contains("\nReused, "), "{version}: {again}");
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn each_name_gets_its_certificate_and_any_other_the_first() {
    let certificates = Certificates::of_localhost();
    certificates.make("b", "DNS:b.example,DNS:*.b.example");
    certificates.make("c", "DNS:C.example");
    let more = ["b", "c"].map(|name| {
        let path = |kind| certificates.path(&format!("{name}.{kind}"));
        format!(
            "{{ certificate = {:?}, key = {:?} }}",
            path("pem"),
            path("key")
        )
    });
    let more = format!("primary.tls.more = [{}]", more.join(", "));
    let (_site, program) = program(&certificates, &more).await;
    for (name, wanted) in [
        ("localhost", "a"),
        ("b.example", "b"),
        ("www.b.example", "b"),
        ("WWW.B.example", "b"),
        ("a.www.b.example", "a"),
        ("c.example", "c"),
        ("other.example", "a"),
    ] {
        let said = s_client(program.site, &["-servername", name, "-alpn", "h2,http/1.1"]).await;
        assert!(
            said.contains(&format!("subject=CN = {wanted}")),
            "{name}: {said}"
        );
        assert!(said.contains("ALPN protocol: h2"), "{said}");
    }
    let said = s_client(program.site, &["-noservername"]).await;
    assert!(said.contains("subject=CN = a"), "{said}");
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn new_files_are_used_and_connections_under_way_go_on() {
    let certificates = Certificates::of_localhost();
    certificates.make("new", "DNS:localhost");
    let (_site, program) = program(&certificates, "").await;
    let old = certificates.path("old.pem");
    fs::copy(certificates.path("a.pem"), &old).unwrap();
    let both: [PathBuf; 2] = [old.clone(), certificates.path("new.pem")];
    let stream = TcpStream::connect(program.site).await.unwrap();
    let mut under_way = tls::connect(stream, "localhost", &both).await.unwrap();
    assert_eq!(tls::get(&mut under_way, "/").await.status, 200);

    // The half of it does not fit: nothing changes, and it is told.
    certificates.replace("a", "new", "pem");
    until("the log tells", async || {
        program
            .log()
            .contains("must be the key of the certificate in")
            .then_some(())
    })
    .await;
    let shown = async || tls::shown(program.site, "localhost", &both).await;
    assert_eq!(shown().await, Some(tls::certificate(&old)));
    assert_eq!(tls::get(&mut under_way, "/").await.status, 200);

    certificates.replace("a", "new", "key");
    until("the new one is shown", async || {
        (shown().await == Some(tls::certificate(&both[1]))).then_some(())
    })
    .await;
    assert_eq!(tls::get(&mut under_way, "/").await.status, 200);
    // Told once, and in the decision log as well.
    let told = program.log().matches("new certificates not used").count();
    assert_eq!(told, 1, "{}", program.log());
    until("the decision log tells", async || {
        let said = get("/api/decisions").ask(program.admin).await;
        said.text()
            .contains("new certificates are in use until")
            .then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn what_is_wrong_with_the_files_is_told_by_its_key() {
    let certificates = Certificates::of_localhost();
    certificates.make("b", "DNS:b.example");
    certificates.openssl("ec -in a.key -aes128 -passout pass:secret -out locked.key");
    let site = small_site();
    let path = |file: &str| certificates.path(file);
    for (certificate, key, wanted) in [
        (
            "none.pem",
            "a.key",
            "`primary.tls.certificate` must be the path of a PEM file, found no file at",
        ),
        (
            "a.pem",
            "none.key",
            "`primary.tls.key` must be the path of a PEM file, found no file at",
        ),
        (
            "a.key",
            "a.key",
            "`primary.tls.certificate` must hold a certificate (PEM), found none in",
        ),
        (
            "a.pem",
            "a.pem",
            "`primary.tls.key` must hold a private key without a passphrase",
        ),
        (
            "a.pem",
            "b.key",
            "`primary.tls.key` must be the key of the certificate in",
        ),
        ("a.pem", "locked.key", "`primary.tls.key` must "),
    ] {
        let config = Config::of_site(
            &site,
            &format!(
                "primary.tls.certificate = {:?}\nprimary.tls.key = {:?}",
                path(certificate),
                path(key)
            ),
        )
        .to_string();
        for command in ["check", "serve"] {
            let ended = program::run(&[command], &config).await;
            assert_ne!(ended.code, Some(0), "{certificate} {key}: {ended:?}");
            assert!(ended.stderr.contains(wanted), "{wanted}: {ended:?}");
            assert!(ended.stderr.contains("1 problem in"), "{ended:?}");
        }
    }
    let half = format!("primary.tls.certificate = {:?}", path("a.pem"));
    let ended = program::run(&["check"], &Config::of_site(&site, &half).to_string()).await;
    assert!(
        ended
            .stderr
            .contains("`primary.tls.key` must be the path of a PEM file, found none"),
        "{ended:?}"
    );
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn a_certificate_that_has_ended_is_told_with_its_date() {
    let certificates = Certificates::none();
    certificates.make_ended("a", "DNS:localhost");
    let (_site, program) = program(&certificates, "").await;
    let log = program.log();
    assert!(log.contains("the certificate has expired"), "{log}");
    assert!(log.contains("2020-02-01T00:00:00Z"), "{log}");
    // What is to be made of that is the client's to say.
    let said = curl(&["--insecure", &format!("https://{}/", program.site)]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
}

/// The address of the redirect, which the log does not tell.
fn redirect() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn plain_http_is_sent_to_https() {
    let certificates = Certificates::of_localhost();
    let plain = redirect();
    let lines = format!("primary.tls.redirect = \"{plain}\"\nprimary.limits.head_time = \"300ms\"");
    let (_site, program) = program(&certificates, &lines).await;
    let answer = get("/a/b.html?c=d").ask(plain).await;
    assert_eq!(answer.status, 308);
    let port = program.site.port();
    let location = format!("https://site.example:{port}/a/b.html?c=d");
    assert_eq!(answer.header("location"), Some(&*location));
    let posted = client::post("/a", "{}").ask(plain).await;
    assert_eq!(posted.status, 308);
    let strange = get("//evil.example/").ask(plain).await;
    assert_eq!(strange.status, 400, "{strange:?}");
    let authority = certificates.path("a.pem");
    let url = format!("http://127.0.0.1:{}/", plain.port());
    let said = curl(&["--location", "--cacert", authority.to_str().unwrap(), &url]).await;
    assert!(said.stdout.ends_with("<img src=/a.png>"), "{said:?}");
    // Who says nothing is shown out there, too.
    let mut silent = TcpStream::connect(plain).await.unwrap();
    assert_eq!(drain(&mut silent).await.0, b"");
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn behind_a_port_mapping_the_redirect_names_the_port_that_it_is_told() {
    let certificates = Certificates::of_localhost();
    let site = small_site();
    let primary = Program::serve(&Config::of_site(&site, "")).await;
    for (port, location) in [
        ("443", "https://site.example/a?b"),
        ("8443", "https://site.example:8443/a?b"),
    ] {
        let (of_primary, of_edge) = (redirect(), redirect());
        let lines =
            format!("primary.tls.redirect = \"{of_primary}\"\nprimary.tls.redirect_port = {port}");
        let (_site, _program) = program(&certificates, &lines).await;
        let tls = certificates.lines("edge.tls", "a");
        let _edge = Program::edge(&Config::new(format!(
            "edge.primary = \"http://{}\"\n{tls}\nedge.tls.redirect = \"{of_edge}\"\nedge.tls.redirect_port = {port}\nedge.limits.head_time = \"300ms\"",
            primary.site
        )))
        .await;
        for plain in [of_primary, of_edge] {
            let answer = get("/a?b").ask(plain).await;
            assert_eq!(answer.header("location"), Some(location));
        }
        // As at the primary's, half a head has its time.
        let mut half = TcpStream::connect(of_edge).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(drain(&mut half).await.0, b"");
    }
    let tls = certificates.lines("primary.tls", "a");
    for (lines, expected) in [
        (
            "primary.tls.redirect_port = 443",
            "`primary.tls.redirect_port` is for the redirect",
        ),
        ("primary.tls.redirect_port = 0", "primary.tls.redirect_port"),
        (
            "primary.tls.hsts = \"11y\"",
            "`primary.tls.hsts` must be from 0s to 3650d",
        ),
    ] {
        let config = Config::of_site(&site, &format!("{tls}\n{lines}"));
        let ended = program::run(&["check"], &config.to_string()).await;
        let said = ended.stdout + &ended.stderr;
        assert!(ended.code != Some(0) && said.contains(expected), "{said}");
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn the_redirect_has_the_limits_and_the_access_log_of_the_others() {
    let certificates = Certificates::of_localhost();
    let site = small_site();
    let behind = Program::serve(&Config::of_site(&site, "")).await;
    let log = "access_log.path = \"access.log\"\naccess_log.format = \"json\"";
    for section in ["primary", "edge"] {
        let plain = redirect();
        let tls = certificates.lines(&format!("{section}.tls"), "a");
        let lines = format!(
            "{log}\n{tls}\n{section}.tls.redirect = \"{plain}\"\n{section}.limits.connections = 2\n\
             {section}.limits.head_time = \"1h\""
        );
        let program = match section {
            "primary" => Program::serve(&Config::of_site(&site, &lines)).await,
            _ => {
                let lines = format!("{lines}\nedge.primary = \"http://{}\"", behind.site);
                Program::edge(&Config::new(lines)).await
            }
        };
        let answer = get("/a?b").ask(plain).await;
        assert_eq!(answer.status, 308);
        let answer = support::raw::exchange(plain, "what\r\n\r\n").await;
        assert_eq!(answer.status, 400);
        let mut halves = JoinSet::new();
        for _ in 0..8 {
            let mut half = TcpStream::connect(plain).await.unwrap();
            half.write_all(b"GET /x HTTP/1.1\r\n").await.unwrap();
            halves.spawn(async move { drain(&mut half).await.0 });
        }
        // There is room for two.
        for _ in 0..6 {
            assert_eq!(halves.join_next().await.unwrap().unwrap(), b"");
        }
        let path = program.config_file().with_file_name("access.log");
        until("both lines", async || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            let redirected = lines.iter().find(|line| line["target"] == "/a?b")?;
            assert_eq!(
                (&redirected["status"], &redirected["outcome"]),
                (&308.into(), &Value::Null)
            );
            lines.iter().any(|line| line["status"] == 400).then_some(())
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn browsers_are_kept_on_https_where_that_is_wanted() {
    const HSTS: &str = "strict-transport-security";
    let certificates = Certificates::of_localhost();
    let upstream = Upstream::start(Router::new().route(
        "/own",
        axum::routing::get(async || [(HSTS, "max-age=1; includeSubDomains")]),
    ))
    .await;
    let plain = redirect();
    let tls = certificates.lines("primary.tls", "a");
    for (hsts, expected) in [
        ("", None),
        ("primary.tls.hsts = \"365d\"", Some("max-age=31536000")),
        ("primary.tls.hsts = \"0s\"", Some("max-age=0")),
    ] {
        let program = Program::serve(&Config::new(format!(
            "primary.upstream = \"http://{}\"\n{tls}\nprimary.tls.redirect = \"{plain}\"\n{hsts}",
            upstream.address
        )))
        .await;
        assert_eq!(get("/").ask(plain).await.header(HSTS), None);
        let told = async |target: &str| {
            let stream = TcpStream::connect(program.site).await.unwrap();
            let mut stream = tls::connect(stream, "localhost", &[certificates.path("a.pem")])
                .await
                .unwrap();
            let answer = tls::get(&mut stream, target).await;
            let said: Vec<_> = answer.headers.get_all(HSTS).iter().cloned().collect();
            said
        };
        assert_eq!(told("/nothing").await, Vec::from_iter(expected));
        assert_eq!(told("/own").await, ["max-age=1; includeSubDomains"]);
        assert_eq!(program.terminate().await, Some(0));
    }
    let edge = Program::edge(&Config::new(format!(
        "edge.primary = \"http://{}\"\n{}\nedge.tls.hsts = \"1h\"",
        upstream.address,
        certificates.lines("edge.tls", "a")
    )))
    .await;
    let url = format!("https://{}/own", edge.site);
    let authority = certificates.path("a.pem");
    for version in ["--http1.1", "--http2"] {
        let said = curl(&["--cacert", authority.to_str().unwrap(), version, &url]).await;
        let head = said.stdout.to_ascii_lowercase();
        assert_eq!(head.matches(HSTS).count(), 1, "{head}");
        assert!(
            head.contains("strict-transport-security: max-age=3600\r\n"),
            "{head}"
        );
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn a_reload_takes_other_certificates_and_what_is_said_of_them() {
    let certificates = Certificates::of_localhost();
    certificates.make("b", "DNS:localhost,IP:127.0.0.1");
    let plain = redirect();
    let site = small_site();
    let config = |name: &str, lines: &str| {
        let tls = certificates.lines("primary.tls", name);
        let lines = format!("{tls}\nprimary.tls.redirect = \"{plain}\"\n{lines}");
        Config::of_site(&site, &lines)
    };
    let program = Program::serve(&config("a", "")).await;
    let reload = async |config: Config| {
        fs::write(program.config_file(), config.to_string()).unwrap();
        client::request("POST", "/api/reload")
            .ask(program.admin)
            .await
    };
    let among = ["a.pem", "b.pem"].map(|name| certificates.path(name));
    let shows = async || tls::shown(program.site, "localhost", &among).await;
    assert_eq!(shows().await, Some(tls::certificate(&among[0])));
    let answer = reload(config("none", "")).await;
    assert_eq!(answer.status, 422);
    assert!(
        answer.text().contains("`primary.tls.certificate`"),
        "{}",
        answer.text()
    );
    assert_eq!(shows().await, Some(tls::certificate(&among[0])));

    let answer = reload(config(
        "b",
        "primary.tls.redirect_port = 443\nprimary.tls.hsts = \"1h\"",
    ))
    .await;
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(said["restart_needed"], json!([]), "{said}");
    assert_eq!(shows().await, Some(tls::certificate(&among[1])));
    let answer = get("/").ask(plain).await;
    assert_eq!(answer.header("location"), Some("https://site.example/"));
    let url = format!("https://localhost:{}/", program.site.port());
    let said = curl(&["--cacert", among[1].to_str().unwrap(), &url]).await;
    assert!(
        said.stdout
            .contains("strict-transport-security: max-age=3600"),
        "{said:?}"
    );
    // The new files are the ones that are looked at.
    certificates.make("c", "DNS:localhost,IP:127.0.0.1");
    certificates.replace("b", "c", "key");
    certificates.replace("b", "c", "pem");
    until("they are used", async || {
        let renewed = certificates.path("c.pem");
        let shown = tls::shown(program.site, "localhost", std::slice::from_ref(&renewed)).await;
        shown.map(|_| ())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn at_drop_a_connection_is_closed_before_a_byte_of_tls() {
    let certificates = Certificates::of_localhost();
    let plain = redirect();
    let lines = format!("primary.tls.redirect = \"{plain}\"");
    let (_site, program) = program(&certificates, &lines).await;
    program.hold_level("drop").await;
    for (number, to) in [program.site, plain].into_iter().enumerate() {
        let mut stream = client::connect(visitor(number), to).await.unwrap();
        // It does not even wait for the client's first byte.
        let (read, error) = drain(&mut stream).await;
        assert_eq!((read.len(), error), (0, None));
    }
    let stream = client::connect(visitor(7), program.site).await.unwrap();
    let files = [certificates.path("a.pem")];
    let refused = tls::connect(stream, "localhost", &files).await;
    let kind = refused.map(drop).map_err(|error| error.kind());
    assert!(
        matches!(
            kind,
            Err(io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe)
        ),
        "{kind:?}"
    );
    let status = program.status().await;
    assert_eq!(status["requests"]["dropped"], 3, "{status}");
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn what_is_dropped_after_the_handshake_gets_not_even_an_alert() {
    let certificates = Certificates::of_localhost();
    for method in ["close", "reset"] {
        // The gate lets offload servers pass, and the layer drops.
        let lines = format!(
            "drop.method = \"{method}\"\n\
             offload.servers = [{{ name = \"eu\", url = \"http://127.0.0.1:9\", health = false }}]"
        );
        let (_site, program) = program(&certificates, &lines).await;
        program.hold_level("drop").await;
        let stream = TcpStream::connect(program.site).await.unwrap();
        let files = [certificates.path("a.pem")];
        let mut stream = tls::connect(stream, "localhost", &files).await.unwrap();
        // With the answer come the tickets for later: nothing waits in the socket any more.
        assert_eq!(tls::get(&mut stream, "/healthz").await.text(), "well");
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        let (mut stream, _) = stream.into_inner();
        let wanted = (method == "reset").then_some(io::ErrorKind::ConnectionReset);
        assert_eq!(drain(&mut stream).await, (Vec::new(), wanted), "{method}");
    }
}

/// Many answers at once over one connection, small and large, to a client that reads now and then.
#[tokio::test]
#[ignore = "needs openssl"]
async fn all_answers_over_one_connection_of_http2_come_whole() {
    let certificates = Certificates::of_localhost();
    let (site, program) = program(&certificates, "").await;
    let large: Vec<u8> = (0..300_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    fs::write(site.path().join("large.bin"), &large).unwrap();
    let stream = TcpStream::connect(program.site).await.unwrap();
    let files = [certificates.path("a.pem")];
    let stream = tls::connect_for(&["h2"], stream, "localhost", &files)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..5 {
        let mut asked = JoinSet::new();
        for number in 0..60 {
            let mut client = client.clone();
            let path = ["a.png", "large.bin"][usize::from(number % 5 == 0)];
            let url = format!("https://localhost:{}/{path}", program.site.port());
            asked.spawn(async move {
                let request = http::Request::get(url).body(Empty::new()).unwrap();
                let answer = client.send_request(request).await.unwrap();
                assert_eq!(answer.status(), 200);
                (path, answer.into_body().collect().await.unwrap().to_bytes())
            });
        }
        let all = soon("all answers", asked.join_all()).await;
        assert_eq!(all.len(), 60);
        for (path, body) in all {
            let wanted = if path == "a.png" {
                &b"png"[..]
            } else {
                &large[..]
            };
            assert!(body == wanted, "{path}: {} bytes", body.len());
        }
        // One alone is not kept waiting for others.
        let mut client = client.clone();
        let url = format!("https://localhost:{}/a.png", program.site.port());
        let request = http::Request::get(url).body(Empty::new()).unwrap();
        let answer = soon("an answer", client.send_request(request))
            .await
            .unwrap();
        let body = soon("its body", answer.into_body().collect())
            .await
            .unwrap();
        assert_eq!(body.to_bytes(), "png");
    }
    drop(client);
    let _ = soon("the connection ends", connection).await;
}

/// The first bytes of a client that never says the rest: the header of a record of 512 bytes.
const BEGINNING: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];

#[tokio::test]
#[ignore = "needs openssl"]
async fn slow_handshakes_are_shown_out_and_hold_up_nobody() {
    let certificates = Certificates::of_localhost();
    let (_site, program) = program(&certificates, "primary.limits.head_time = \"2s\"").await;
    let mut slow = Vec::new();
    for said in [&b""[..], BEGINNING] {
        let mut stream = TcpStream::connect(program.site).await.unwrap();
        stream.write_all(said).await.unwrap();
        slow.push(stream);
    }
    secure(&certificates, &program, &[]).await;
    for mut stream in slow {
        assert_eq!(drain(&mut stream).await.0, b"");
    }
    // After the handshake the head of the first request has to come.
    let stream = TcpStream::connect(program.site).await.unwrap();
    let files = [certificates.path("a.pem")];
    let mut silent = tls::connect(stream, "localhost", &files).await.unwrap();
    let mut read = Vec::new();
    let _ = soon("it is shown out", silent.read_to_end(&mut read)).await;
    assert!(!read.starts_with(b"HTTP/1.1 2"), "{read:?}");
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn handshakes_that_wait_make_room_for_others() {
    let certificates = Certificates::of_localhost();
    let lines = "primary.limits.connections = 3\nprimary.limits.head_time = \"1h\"";
    let (_site, program) = program(&certificates, lines).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(program.site).await.unwrap();
        stream.write_all(BEGINNING).await.unwrap();
        waiting.push(stream);
    }
    secure(&certificates, &program, &[]).await;
    assert_eq!(drain(&mut waiting.remove(0)).await.0, b"");
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn pages_over_https_are_linked_to_servers_with_https_alone() {
    let certificates = Certificates::of_localhost();
    let lines = "offload.share = 1.0\n\
        offload.servers = [\
            { name = \"plain\", url = \"http://plain.example\", cors = true, health = false }, \
            { name = \"secure\", url = \"https://secure.example\", cors = true, health = false, price = 0.09 }]";
    let (_site, program) = program(&certificates, lines).await;
    program.until_usable("secure", true).await;
    program.hold_level("offload").await;
    for version in ["--http1.1", "--http2"] {
        let page = secure(&certificates, &program, &[version]).await;
        assert!(!page.contains("http://plain.example"), "{page}");
    }
    let lines = "offload.share = 1.0\n\
        offload.servers = [{ name = \"secure\", url = \"https://secure.example\", cors = true, health = false }]";
    let (_site, program) = self::program(&certificates, lines).await;
    program.until_usable("secure", true).await;
    program.hold_level("offload").await;
    for version in ["--http1.1", "--http2"] {
        let page = secure(&certificates, &program, &[version]).await;
        assert!(page.contains("https://secure.example/a.png"), "{page}");
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn an_upstream_is_told_that_it_was_https() {
    let certificates = Certificates::of_localhost();
    let told = |headers: HeaderMap| async move {
        let proto = headers.get("x-forwarded-proto");
        proto
            .map_or("none", |proto| proto.to_str().unwrap())
            .to_owned()
    };
    let upstream = Upstream::start(Router::new().route("/", routing::get(told))).await;
    let tls = certificates.lines("primary.tls", "a");
    let lines = format!("primary.upstream = \"http://{}\"\n{tls}", upstream.address);
    let program = Program::serve(&Config::new(lines)).await;
    for version in ["--http1.1", "--http2"] {
        let said = secure(&certificates, &program, &[version]).await;
        assert!(said.ends_with("https"), "{version}: {said}");
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn an_edge_speaks_tls_as_well() {
    let certificates = Certificates::of_localhost();
    let site = small_site();
    let primary = Program::serve(&Config::of_site(&site, "")).await;
    let (tls, plain) = (certificates.lines("edge.tls", "a"), redirect());
    let edge = Program::edge(&Config::new(format!(
        "edge.primary = \"http://{}\"\nedge.tls.redirect = \"{plain}\"\n{tls}",
        primary.site
    )))
    .await;
    for version in ["--http1.1", "--http2"] {
        let url = format!("https://{}/a.png", edge.site);
        let authority = certificates.path("a.pem");
        let said = curl(&["--cacert", authority.to_str().unwrap(), version, &url]).await;
        assert!(said.stdout.ends_with("png"), "{said:?}");
    }
    let answer = get("/a.png").ask(plain).await;
    assert_eq!(answer.status, 308);
    let missing = format!(
        "edge.tls.certificate = \"none.pem\"\nedge.tls.key = {:?}",
        certificates.path("a.key")
    );
    let ended = program::run(&["edge"], &Config::new(missing).to_string()).await;
    assert!(
        ended
            .stderr
            .contains("`edge.tls.certificate` must be the path"),
        "{ended:?}"
    );
}

/// Pages with styles, scripts and pictures, in numbers.
fn larger_site() -> TempDir {
    let site = small_site();
    let objects: String = (0..40)
        .map(|number| format!("<img src=/{number}.svg>"))
        .collect();
    let page = format!(
        "<!doctype html><title>x</title><link rel=icon href=data:,><link rel=stylesheet href=/a.css>\
         <script src=/a.js></script>{objects}"
    );
    let svg = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>";
    fs::write(site.path().join("index.html"), page).unwrap();
    fs::write(site.path().join("a.css"), "body { color: rgb(1, 2, 3) }").unwrap();
    fs::write(site.path().join("a.js"), "document.title = 'ran'").unwrap();
    for number in 0..40 {
        fs::write(site.path().join(format!("{number}.svg")), svg).unwrap();
    }
    site
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn a_browser_gets_a_site_whole_over_http2() {
    let certificates = Certificates::of_localhost();
    let site = larger_site();
    let tls = certificates.lines("primary.tls", "a");
    let program = Program::serve(&Config::of_site(&site, &tls)).await;
    let browser = Browser::trusting_all().await;
    browser
        .open(&format!("https://localhost:{}/", program.site.port()))
        .await;
    let seen = browser
        .run(
            "const entries = kind => performance.getEntriesByType(kind);\
             return {\
                protocol: entries('navigation')[0].nextHopProtocol,\
                objects: new Set(entries('resource').filter(e => e.responseStatus == 200).map(e => e.name)).size,\
                http2: entries('resource').every(e => e.nextHopProtocol == 'h2'),\
                pictures: [...document.images].filter(i => i.complete && i.naturalWidth == 9).length,\
                title: document.title,\
                color: getComputedStyle(document.body).color,\
                secure: isSecureContext,\
             };",
        )
        .await;
    let wanted = json!({
        "protocol": "h2", "objects": 42, "http2": true, "pictures": 40, "title": "ran", "color": "rgb(1, 2, 3)",
        "secure": true,
    });
    assert_eq!(seen, wanted);
    assert_eq!(browser.console().await, Vec::<Value>::new());
    browser.quit().await;
}

/// Browses the manual of Apache as a reader would: pages, their styles, scripts and pictures.
#[tokio::test]
#[ignore = "needs chromium and apache2-doc"]
async fn a_real_site_is_browsed_over_tls_and_http2() {
    let certificates = Certificates::of_localhost();
    let tls = certificates.lines("primary.tls", "a");
    let manual = std::path::Path::new(DOC).join(MANUALS[0]);
    let program = Program::serve(&Config::new(format!("primary.site = {manual:?}\n{tls}"))).await;
    let browser = Browser::trusting_all().await;
    for page in [
        "en/index.html",
        "en/mod/core.html",
        "en/howto/htaccess.html",
    ] {
        browser
            .open(&format!("https://localhost:{}/{page}", program.site.port()))
            .await;
        let seen = browser
            .run(
                "const all = [...performance.getEntriesByType('navigation'),\
                    ...performance.getEntriesByType('resource')];\
                 return {\
                    whole: all.filter(e => e.responseStatus == 200 || e.responseStatus == 0).length,\
                    all: all.length,\
                    other: all.filter(e => e.nextHopProtocol != 'h2').map(e => e.name + ' ' + e.nextHopProtocol),\
                    broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),\
                 };",
            )
            .await;
        assert_eq!(seen["whole"], seen["all"], "{page}: {seen}");
        assert!(seen["all"].as_u64().unwrap() > 3, "{page}: {seen}");
        assert_eq!(seen["broken"], json!([]), "{page}: {seen}");
        // (An object that the browser still has from the page before came by no protocol.)
        let other = seen["other"].as_array().unwrap();
        assert!(
            other.iter().all(|one| one.as_str().unwrap().ends_with(' ')),
            "{page}: {seen}"
        );
    }
    let console = browser.console().await;
    let errors: Vec<_> = console
        .iter()
        .filter(|entry| entry["level"] == "SEVERE")
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    browser.quit().await;
}
