//! A real browser: Chromium without a window, driven by chromedriver ([WebDriver]).
//!
//! [WebDriver]: https://www.w3.org/TR/webdriver2/

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{
    process::{Running, start, wait_for},
    web::Client,
};

/// A session with a browser of its own.
#[derive(Debug)]
pub(crate) struct Browser {
    client: Client,
    session: String,
    _driver: Running,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let mut command = Command::new("chromedriver");
        command
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let (driver, lines) = start(&mut command, |child| child.stdout.take());
        let port: u16 = wait_for(&lines, |line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless",
            // Tests run as root in containers, where the sandbox does not start.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            "--no-first-run",
            "--window-size=1280,1600",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let client = Client::new();
        let driver_url = format!("http://127.0.0.1:{port}/session");
        let answer = client.json("POST", &driver_url, &capabilities).await;
        let id = answer["value"]["sessionId"].as_str().unwrap();
        Self {
            client,
            session: format!("{driver_url}/{id}"),
            _driver: driver,
            _profile: profile,
        }
    }

    async fn post(&self, command: &str, body: Value) -> Value {
        let url = format!("{}/{command}", self.session);
        self.client.json("POST", &url, &body).await["value"].take()
    }

    /// Opens `url` and waits until it is loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.post("url", json!({ "url": url })).await;
    }

    /// Runs the body of an async function in the page; gives what it returns.
    pub(crate) async fn run(&self, body: &str) -> Value {
        let script = format!(
            "const done = arguments[0];\
             (async () => {{ {body} }})().then(done, error => done({{ thrown: String(error) }}));"
        );
        self.post("execute/async", json!({ "script": script, "args": [] }))
            .await
    }

    /// What the console was told since the last call.
    pub(crate) async fn console(&self) -> Vec<Value> {
        let mut told = self.post("se/log", json!({ "type": "browser" })).await;
        told.as_array_mut().unwrap().drain(..).collect()
    }

    /// What is seen, as PNG.
    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        let url = format!("{}/screenshot", self.session);
        let answer = self.client.get(&url).await;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        base64(answer["value"].as_str().unwrap())
    }

    /// Ends the browser. Without it, the browser would outlive its driver.
    pub(crate) async fn quit(&self) {
        self.client.json("DELETE", &self.session, &json!({})).await;
    }
}

/// Decodes base64 (RFC 4648, section 4).
fn base64(text: &str) -> Vec<u8> {
    let value = |byte| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("no base64: {byte}"),
    };
    let digits = text
        .trim_end_matches('=')
        .bytes()
        .map(value)
        .collect::<Vec<_>>();
    digits
        .chunks(4)
        .flat_map(|chunk| {
            let bits = (0..4).fold(0u32, |bits, place| {
                bits << 6 | u32::from(chunk.get(place).copied().unwrap_or(0))
            });
            bits.to_be_bytes()[1..chunk.len()].to_vec()
        })
        .collect()
}
