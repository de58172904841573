//! Starts and ends that nobody notices: sockets that are there before the program, successors, the service manager.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixDatagram,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::Router;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::{get, request},
    config::Config,
    handing::{Process, restart, signal, with_sockets},
    program::Program,
    raw::exchange,
    small_site,
    upstream::{HOLD, Held, Upstream},
    wait::{soon, until},
};

const ASK: &[u8] = b"GET /a.png HTTP/1.1\r\nHost: a\r\n\r\n";

/// Asks again and again until it is told to stop, on connections that are kept as long as the server keeps them, or for each
/// request anew. Every request is answered, whatever happens meanwhile.
async fn visit(to: SocketAddr, keep: bool, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    let mut kept: Option<TcpStream> = None;
    while !stop.load(SeqCst) {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect(to).await.expect("a connection"),
        };
        stream.write_all(ASK).await.expect("it takes a request");
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\npng") {
            let count = soon("an answer", stream.read_buf(&mut read)).await;
            let count = count.expect("the connection is there until the answer is");
            assert!(count > 0, "{}", String::from_utf8_lossy(&read));
        }
        assert!(read.starts_with(b"HTTP/1.1 200 "));
        answered.fetch_add(1, SeqCst);
        let head = String::from_utf8_lossy(&read).to_ascii_lowercase();
        if keep && !head.contains("connection: close") {
            kept = Some(stream);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_refuses_and_loses_nobody() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let visitors: Vec<_> = (0..8)
        .map(|number| {
            let visit = visit(
                program.site,
                number % 2 == 0,
                stop.clone(),
                answered.clone(),
            );
            tokio::spawn(visit)
        })
        .collect();
    let some_more = async |what: &str| {
        let before = answered.load(SeqCst);
        until(what, async || {
            (answered.load(SeqCst) > before + 50).then_some(())
        })
        .await;
    };
    some_more("before").await;
    let mut successors = Vec::new();
    for _ in 0..3 {
        let successor = restart(&program).await;
        some_more("after a restart").await;
        if let Some(before) = successors.last() {
            let before: &Process = before;
            until("its predecessor ends", async || {
                (!before.is_there()).then_some(())
            })
            .await;
        }
        assert!(successor.is_there());
        successors.push(successor);
    }
    // The last one serves alone, the site and the administrator.
    assert_eq!(get("/").ask(program.site).await.status, 200);
    assert_eq!(program.status().await["lifecycle"], "serving");
    stop.store(true, SeqCst);
    for visitor in visitors {
        visitor.await.expect("every request was answered");
    }
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn a_successor_that_fails_changes_nothing_and_says_why() {
    let site = small_site();
    let config = Config::of_site(&site, "");
    let program = Program::serve(&config).await;
    fs::write(
        program.config_file(),
        "mode = \"sideways\"\nprimary.sight = 1",
    )
    .unwrap();
    let answer = request("POST", "/api/restart").ask(program.admin).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    for part in ["the successor did not start", "`mode`", "primary.sight"] {
        assert!(answer.text().contains(part), "{}", answer.text());
    }
    assert_eq!(get("/").ask(program.site).await.status, 200);
    assert_eq!(program.status().await["lifecycle"], "serving");

    // By the signal as well, and when the file is good again there is a successor.
    signal(program.id(), "USR2");
    until("it says so", async || {
        (program
            .log()
            .matches("no restart: all stays as it was")
            .count()
            == 2)
            .then_some(())
    })
    .await;
    fs::write(program.config_file(), config.to_string()).unwrap();
    signal(program.id(), "USR2");
    let successor = until("a successor", async || {
        let log = program.log();
        let line = log
            .lines()
            .find(|line| line.contains("a successor has taken over"))?;
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        Some(Process(line["successor"].as_u64()?.try_into().unwrap()))
    })
    .await;
    assert_eq!(get("/").ask(program.site).await.status, 200);
    let admin = program.admin;
    assert_eq!(program.ended().await, Some(0));
    assert_eq!(get("/readyz").ask(admin).await.status, 200);
    assert!(successor.is_there());
}

#[tokio::test]
async fn what_is_under_way_at_a_restart_is_finished() {
    let upstream = Upstream::start(Router::new()).await;
    let lines = format!(
        "primary.upstream = \"http://{}\"\nthrottle.bypass.paths = [\"{HOLD}\"]",
        upstream.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    let mut held = Held::none();
    upstream.hold(&program, &mut held, 3).await;
    let _successor = restart(&program).await;
    // The new one serves, the old one waits.
    until("the new one serves", async || {
        (program.status().await["in_flight"] == 0).then_some(())
    })
    .await;
    upstream.release(&mut held).await;
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn draining_has_an_end() {
    let upstream = Upstream::start(Router::new()).await;
    let lines = format!(
        "primary.upstream = \"http://{}\"\nthrottle.bypass.paths = [\"{HOLD}\"]\nprimary.limits.drain = \"200ms\"",
        upstream.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    let mut held = Held::none();
    upstream.hold(&program, &mut held, 1).await;
    signal(program.id(), "TERM");
    until("it gives up", async || {
        let log = program.log();
        log.contains("when the time for draining was over")
            .then_some(())
    })
    .await;
    assert_eq!(program.ended().await, Some(0));
}

/// A socket that listens, where it is, and a request that waits in its queue.
fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn waiting(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let ask = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    stream
}

async fn is_answered(mut stream: TcpStream) {
    let mut read = String::new();
    soon("an answer", stream.read_to_string(&mut read))
        .await
        .unwrap();
    assert!(read.starts_with("HTTP/1.1 200 "), "{read}");
}

/// The configuration's own address can't be listened on: whoever takes it fails.
fn config(site: &TempDir) -> Config {
    Config::of_site(site, "primary.listen = \"192.0.2.1:1\"")
}

#[tokio::test]
async fn a_socket_that_is_handed_over_is_used_in_place_of_the_address() {
    let site = small_site();
    for name in [None, Some("overspill.socket")] {
        let (listener, address) = listening();
        let early = waiting(address).await;
        let program = with_sockets(vec![listener], name);
        let program = Program::start_by(program, "serve", &config(&site)).await;
        assert_eq!(program.site, address);
        is_answered(early).await;
        // Handed on, though the configuration has another address.
        let _successor = restart(&program).await;
        assert_eq!(get("/").ask(address).await.status, 200);
        assert_eq!(program.ended().await, Some(0));
        assert_eq!(get("/").ask(address).await.status, 200);
    }
}

#[tokio::test]
async fn the_admin_listener_is_handed_over_by_its_name() {
    let site = small_site();
    let ((admin, admin_at), (listener, at)) = (listening(), listening());
    let config = config(&site).with("admin.listen = \"127.0.0.1:1\"");
    let program = with_sockets(vec![admin, listener], Some("admin:site"));
    let program = Program::start_by(program, "serve", &config).await;
    assert_eq!((program.site, program.admin), (at, admin_at));
}

#[tokio::test]
async fn sockets_of_another_process_are_left_alone() {
    let site = small_site();
    let (listener, address) = listening();
    let mut program = with_sockets(vec![listener], None);
    program.env("LISTEN_PID", "1");
    let program = Program::start_by(program, "serve", &Config::of_site(&site, "")).await;
    assert_ne!(program.site, address);
    assert_eq!(get("/").ask(program.site).await.status, 200);
}

#[tokio::test]
async fn an_edge_takes_sockets_and_hands_them_on() {
    let site = small_site();
    let primary = Program::serve(&Config::of_site(&site, "")).await;
    let (listener, address) = listening();
    let config = Config::new(format!(
        "edge.primary = \"http://{}\"\nedge.listen = \"192.0.2.1:1\"",
        primary.site
    ));
    let edge = with_sockets(vec![listener], Some("site"));
    let edge = Program::start_by(edge, "edge", &config).await;
    assert_eq!(edge.site, address);
    assert_eq!(exchange(address, ASK_AND_GO).await.body, b"png");
    let _successor = restart(&edge).await;
    assert_eq!(exchange(address, ASK_AND_GO).await.body, b"png");
    assert_eq!(edge.ended().await, Some(0));
    assert_eq!(exchange(address, ASK_AND_GO).await.body, b"png");
}

const ASK_AND_GO: &[u8] = b"GET /a.png HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A service manager: what it is told, in the order in which it comes.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, folder }
    }

    /// Waits for a message with this line in it.
    async fn hears(&self, line: &str) -> String {
        let mut seen = Vec::new();
        until(line, async || {
            let mut buffer = [0; 1024];
            while let Ok(length) = self.socket.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if message.lines().any(|said| said.starts_with(line)) {
                    return Some(message);
                }
                if !message.contains("WATCHDOG=1") {
                    seen.push(message);
                }
            }
            None
        })
        .await
    }
}

#[tokio::test]
async fn the_service_manager_is_told() {
    let site = small_site();
    let manager = Manager::start();
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_overspill"));
    program
        .env("NOTIFY_SOCKET", manager.folder.path().join("notify"))
        .env("WATCHDOG_USEC", "100000");
    let program = Program::start_by(program, "serve", &Config::of_site(&site, "")).await;
    manager.hears("READY=1").await;
    manager.hears("WATCHDOG=1").await;
    manager.hears("WATCHDOG=1").await;
    let answer = request("POST", "/api/reload").ask(program.admin).await;
    assert_eq!(answer.status, 200);
    let reloading = manager.hears("RELOADING=1").await;
    let time = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(
        time.is_some_and(|time| time.parse::<u64>().is_ok()),
        "{reloading}"
    );
    manager.hears("READY=1").await;
    let successor = restart(&program).await;
    let told = manager.hears("MAINPID=").await;
    assert!(
        told.contains(&format!("MAINPID={}\n", successor.0)),
        "{told}"
    );
    assert!(told.contains("READY=1"), "{told}");
    assert_eq!(program.ended().await, Some(0));
    manager.hears("WATCHDOG=1").await;
    successor.signal("TERM");
    manager.hears("STOPPING=1").await;
}

/// Runs wrk for some seconds while `meanwhile` happens again and again; it has not one error.
async fn under_wrk(program: &Program, mut meanwhile: impl AsyncFnMut()) {
    let wrk = tokio::process::Command::new("wrk")
        .args(["-t1", "-c20", "-d5s", "--timeout", "60s"])
        .arg(format!("http://{}/a.png", program.site))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("wrk starts");
    let mut wrk = std::pin::pin!(wrk.wait_with_output());
    let output = loop {
        tokio::select! {
            output = &mut wrk => break output.unwrap(),
            () = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                meanwhile().await;
            } => {}
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("requests in"), "{said}");
    for part in ["Socket errors", "Non-2xx"] {
        assert!(!said.contains(part), "{said}");
    }
}

#[tokio::test]
#[ignore = "needs wrk"]
async fn a_reload_under_wrk_has_not_one_failed_request() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    under_wrk(&program, async || {
        let answer = request("POST", "/api/reload").ask(program.admin).await;
        assert_eq!(answer.status, 200);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs wrk"]
async fn a_restart_under_wrk_has_not_one_failed_request() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    let mut successors = Vec::new();
    under_wrk(&program, async || {
        if successors.len() < 4 {
            successors.push(restart(&program).await);
        }
    })
    .await;
    assert!(successors.len() > 1, "{successors:?}");
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_takes_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let units = [
        "overspill.service",
        "overspill.socket",
        "overspill-edge.service",
    ]
    .map(|name| {
        let unit = fs::read_to_string(deploy.join(name)).unwrap();
        // Where the program is here.
        let unit = unit.replace("/usr/local/bin/overspill", env!("CARGO_BIN_EXE_overspill"));
        let path = folder.path().join(name);
        fs::write(&path, unit).unwrap();
        path
    });
    let checked = std::process::Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(units)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.is_empty(), "{said}");
}

/// An application that agrees to any upgrade, says the first half of a frame, and the rest when it is told `rest`. It
/// answers a Close, and tells of each that it got.
async fn half_a_frame(closes: Arc<AtomicUsize>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let closes = closes.clone();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n") {
                    read.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(read).unwrap().to_ascii_lowercase();
                let Some((_, protocol)) = head.split_once("\r\nupgrade: ") else {
                    let answer =
                        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage";
                    stream.write_all(answer).await.unwrap();
                    return;
                };
                let (protocol, _) = protocol.split_once('\r').unwrap();
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.write_all(b"\x81\x08half").await.unwrap();
                let mut said = Vec::new();
                while stream
                    .read_buf(&mut said)
                    .await
                    .is_ok_and(|count| count > 0)
                {
                    if said == b"rest" {
                        stream.write_all(b"rest").await.unwrap();
                        said.clear();
                    }
                    // Masked by nothing.
                    if said == b"\x88\x82\0\0\0\0\x03\xe9" {
                        closes.fetch_add(1, SeqCst);
                        let _ = stream.write_all(b"\x88\x02\x03\xe9").await;
                        return;
                    }
                }
            });
        }
    });
    address
}

/// What another protocol than HTTP is spoken over, once the first half of a frame has come.
async fn upgraded(to: SocketAddr, protocol: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let ask = format!(
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    comes(&mut stream, b"\x81\x08half").await;
    stream
}

async fn comes(stream: &mut TcpStream, end: &[u8]) {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(soon("it comes", stream.read_u8()).await.unwrap());
    }
}

#[tokio::test]
async fn websockets_are_told_to_go_while_the_successor_serves() {
    let closes = Arc::new(AtomicUsize::new(0));
    let app = half_a_frame(closes.clone()).await;
    let lines = format!("primary.upstream = \"http://{app}\"\nprimary.limits.drain = \"1h\"");
    let program = Program::serve(&Config::new(lines)).await;
    let mut answers = upgraded(program.site, "websocket").await;
    let mut silent = upgraded(program.site, "WebSocket").await;
    for stream in [&mut answers, &mut silent] {
        stream.write_all(b"rest").await.unwrap();
        comes(stream, b"rest").await;
    }
    let mut in_the_middle = upgraded(program.site, "websocket").await;

    let _successor = restart(&program).await;
    // Between two frames.
    for stream in [&mut answers, &mut silent] {
        comes(stream, b"\x88\x02\x03\xe9").await;
    }
    in_the_middle.write_all(b"rest").await.unwrap();
    comes(&mut in_the_middle, b"rest\x88\x02\x03\xe9").await;
    // The new one serves meanwhile, and who was told to go may come again.
    assert_eq!(get("/").ask(program.site).await.text(), "page");
    let mut again = upgraded(program.site, "websocket").await;
    for stream in [&mut answers, &mut in_the_middle] {
        stream.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
        let mut rest = Vec::new();
        soon("it ends", stream.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(rest, b"", "nothing follows a goodbye");
    }
    assert_eq!(
        closes.load(SeqCst),
        2,
        "the application hears that they left"
    );
    // Who does not answer is not waited for as long as a drain may last.
    let mut rest = Vec::new();
    let _ = soon("it ends", silent.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    assert_eq!(program.ended().await, Some(0));
    again.write_all(b"rest").await.unwrap();
    comes(&mut again, b"rest").await;
}

#[tokio::test]
async fn another_protocol_hears_nothing_of_a_drain_and_ends_with_it() {
    let app = half_a_frame(Arc::default()).await;
    let lines = format!("primary.upstream = \"http://{app}\"\nprimary.limits.drain = \"500ms\"");
    let program = Program::serve(&Config::new(lines)).await;
    let mut stream = upgraded(program.site, "irc").await;
    signal(program.id(), "TERM");
    let mut rest = Vec::new();
    let _ = soon("it ends", stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    assert_eq!(program.ended().await, Some(0));
}
