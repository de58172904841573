//! `overspill status`, as an operator runs it.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::support::{
    admin_server::AdminServer,
    config::Config,
    folder,
    program::{Program, command},
    wait::{soon, until},
};

async fn status(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command();
    command
        .arg("status")
        .args(arguments)
        .current_dir(std::env::temp_dir());
    let output: Output = soon("status ends", command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// What a status has at least.
fn at(level: &str) -> Value {
    json!({ "version": "9.9.9", "uptime": 60.0, "level": level, "mode": "enforce" })
}

#[tokio::test]
async fn shows_a_running_server_once_as_plain_text() {
    let site = folder([("index.html", b"<p>home".as_slice())]);
    let lines = format!(
        r#"primary.site = {:?}
        load.in_flight.capacity = 10
        offload.servers = [{{ name = "eu", url = "http://127.0.0.1:9", health = false, price = 0.02 }}]"#,
        site.path()
    );
    let program = Program::serve(&Config::new(lines)).await;
    program.until_usable("eu", true).await;
    program.hold_level("offload").await;
    program.until_level("offload").await;
    let url = format!("http://{}", program.admin);
    let (code, picture, err) = status(&["--once", "--admin", &url]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{picture}");
    for part in [
        concat!("overspill ", env!("CARGO_PKG_VERSION")),
        " OFFLOAD ",
        "HELD BY HAND",
        "in_flight",
        "offload    0.70",
        "served",
        "eu ",
    ] {
        assert!(picture.contains(part), "{part}\n{picture}");
    }
    assert!(!picture.contains('\x1b'), "{picture:?}");

    // Where the output is no terminal it is printed once, too.
    let (code, again, _) = status(&["--admin", &url]).await;
    assert_eq!(code, Some(0));
    assert!(again.contains(" OFFLOAD "), "{again}");

    let (code, line, _) = status(&["--once", "--json", "--admin", &url]).await;
    assert_eq!((code, line.lines().count()), (Some(0), 1));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "offload");
    assert_eq!(line["servers"][0]["name"], "eu");
}

#[tokio::test]
async fn shows_what_the_server_remembers() {
    let server = AdminServer::start().await;
    let points: Vec<f64> = (0..100)
        .map(|second| 1_764_324_000.0 + f64::from(second))
        .collect();
    let mut now = at("throttle");
    now["time"] = json!(1_764_324_100.0);
    now["signals"] = json!([{ "name": "cpu", "load": 0.93, "offload": 0.7, "throttle": 0.9 }]);
    server
        .answers("/api/status", 200, &now)
        .answers(
            "/api/history",
            200,
            &json!({
                "time": points, "level": vec![2; 100], "share": vec![0.5; 100],
                "signals": { "cpu": vec![0.95; 100] }, "requests": { "served": vec![8.0; 100] },
            }),
        )
        .answers(
            "/api/decisions",
            200,
            &json!({ "decisions": [{ "time": 1.0, "text": "offload → throttle: cpu 0.93 ≥ 0.90" }] }),
        );
    let (code, picture, err) = status(&["--once", "--admin", &server.url()]).await;
    assert_eq!(code, Some(0), "{err}");
    for part in [
        "TTTTTTTTTT",
        "██████████",
        "≥ throttle   0.90",
        "offload → throttle: cpu 0.93 ≥ 0.90",
    ] {
        assert!(picture.contains(part), "{part}\n{picture}");
    }
    let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.line).collect();
    assert!(asked.contains(&"GET /api/history".to_owned()), "{asked:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_in_a_line() {
    let server = AdminServer::start().await;
    let url = server.url();
    drop(server);
    for more in [&["--once"][..], &["--once", "--json"]] {
        let (code, out, err) = status(&[more, &["--admin", &url]].concat()).await;
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert_eq!(
            err,
            format!("overspill: no Overspill answers at {url}: connection refused\n")
        );
    }
}

#[tokio::test]
async fn what_is_no_primary_is_said() {
    let server = AdminServer::start().await;
    let url = server.url();
    let (code, _, err) = status(&["--admin", &url]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("does not know /api/status"), "{err}");
    server.says("/api/status", 200, "<html>hello");
    let (code, _, err) = status(&["--admin", &url]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("but not with JSON"), "{err}");
    server.answers("/api/status", 200, &json!({ "objects": 7 }));
    let (code, _, err) = status(&["--admin", &url]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("is no primary"), "{err}");
}

#[tokio::test]
async fn json_goes_on_a_line_a_second_and_outlives_the_server() {
    let server = AdminServer::start().await;
    let (url, address) = (server.url(), server.address);
    server.answers("/api/status", 200, &at("offload"));
    let mut command = command();
    command
        .args(["status", "--json", "--admin", &url])
        .stdout(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let mut next = async || -> Value {
        let line = soon("a line", lines.next_line()).await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(next().await["level"], "offload");
    drop(server);
    let gone = until("it is gone", async || {
        Some(next().await).filter(|line| line["error"].is_string())
    })
    .await;
    assert!(
        gone["error"]
            .as_str()
            .unwrap()
            .contains("no Overspill answers"),
        "{gone}"
    );
    assert_eq!(next().await["since"], gone["since"]);
    let server = AdminServer::start_at(address).await;
    server.answers("/api/status", 200, &at("drop"));
    until("it is back", async || {
        (next().await["level"] == "drop").then_some(())
    })
    .await;
    // Who reads goes away.
    drop(lines);
    assert!(soon("it ends", running.wait()).await.unwrap().success());
}

/// `overspill status` on a terminal of its own, made by script(1).
struct OnTerminal {
    child: tokio::process::Child,
    shown: String,
}

impl OnTerminal {
    fn start(url: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_overspill");
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command"])
            .arg(format!(
                "stty rows 30 cols 100; exec {program} status --admin {url}"
            ))
            .arg("/dev/null")
            .env("TERM", "xterm-256color")
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Self {
            child: command.spawn().unwrap(),
            shown: String::new(),
        }
    }

    /// Waits until the terminal was sent `part`.
    async fn until(&mut self, part: &str) {
        let out = self.child.stdout.as_mut().unwrap();
        let mut buffer = [0; 4096];
        while !self.shown.contains(part) {
            let read = soon(part, out.read(&mut buffer)).await.unwrap();
            assert!(read > 0, "it ended without {part}:\n{}", self.shown);
            self.shown += &String::from_utf8_lossy(&buffer[..read]);
        }
    }

    async fn press(&mut self, keys: &[u8]) {
        let keyboard = self.child.stdin.as_mut().unwrap();
        keyboard.write_all(keys).await.unwrap();
        keyboard.flush().await.unwrap();
    }

    async fn end(&mut self) -> Option<i32> {
        soon("it ends", self.child.wait()).await.unwrap().code()
    }
}

const OTHER_SCREEN: &str = "\x1b[?1049h";
const FIRST_SCREEN: &str = "\x1b[?1049l";

#[tokio::test]
#[ignore = "needs script of util-linux"]
async fn a_terminal_is_given_back_as_it_was() {
    let server = AdminServer::start().await;
    server.answers("/api/status", 200, &at("offload"));
    for keys in [&b"q"[..], b"\x1b", b"\x03"] {
        let mut terminal = OnTerminal::start(&server.url());
        terminal.until(OTHER_SCREEN).await;
        terminal.until(" OFFLOAD ").await;
        terminal.press(keys).await;
        terminal.until(FIRST_SCREEN).await;
        assert_eq!(terminal.end().await, Some(0), "{keys:?}");
    }
}

#[tokio::test]
#[ignore = "needs script of util-linux"]
async fn a_terminal_is_given_back_after_an_error_too() {
    let server = AdminServer::start().await;
    server.answers("/api/status", 200, &at("offload"));
    let mut terminal = OnTerminal::start(&server.url());
    terminal.until(" OFFLOAD ").await;
    server.says("/api/status", 401, "no");
    terminal.until(FIRST_SCREEN).await;
    terminal.until("wants the token").await;
    assert_eq!(terminal.end().await, Some(1));
}
