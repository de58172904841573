//! A real browser: Chromium without a window, driven by chromedriver ([WebDriver]).
//!
//! [WebDriver]: https://www.w3.org/TR/webdriver2/

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};

use super::{
    process::{Running, start, wait_for},
    wait::PATIENCE,
    web::Client,
};

/// Starts chromedriver; gives its port.
fn driver() -> (Running, u16) {
    let mut said = String::new();
    // The port that it finds free of IPv6 may be taken of IPv4: then it ends.
    for _ in 0..5 {
        let mut command = Command::new("chromedriver");
        command
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let (driver, lines) = start(&mut command, |child| child.stdout.take());
        let port = wait_for(&lines, |line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        match port {
            Ok(port) => return (driver, port),
            Err(lines) => said = lines,
        }
    }
    panic!("chromedriver does not start; it says:\n{said}");
}

/// A session with a browser of its own.
#[derive(Debug)]
pub(crate) struct Browser {
    client: Client,
    session: String,
    /// The browser's own process, while it has not been told to end.
    process: AtomicU64,
    _driver: Running,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        Self::with("normal", &[]).await
    }

    /// One that believes every certificate.
    pub(crate) async fn trusting_all() -> Self {
        Self::with("normal", &["--ignore-certificate-errors"]).await
    }

    /// One that looks at pages while they load: they may never be done.
    pub(crate) async fn impatient() -> Self {
        Self::with("none", &[]).await
    }

    async fn with(strategy: &str, more: &[&str]) -> Self {
        let (driver, port) = driver();
        let profile = tempfile::tempdir().unwrap();
        let data = format!("--user-data-dir={}", profile.path().display());
        let mut arguments = vec![
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
            &data,
        ];
        arguments.extend(more);
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "pageLoadStrategy": strategy,
            // In milliseconds.
            "timeouts": { "script": PATIENCE.as_millis() as u64 },
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let client = Client::new();
        let driver_url = format!("http://127.0.0.1:{port}/session");
        let answer = client.json("POST", &driver_url, &capabilities).await;
        let id = answer["value"]["sessionId"].as_str().unwrap();
        let process = answer["value"]["capabilities"]["goog:processID"].as_u64();
        Self {
            client,
            session: format!("{driver_url}/{id}"),
            process: AtomicU64::new(process.expect("chromedriver tells what it started")),
            _driver: driver,
            _profile: profile,
        }
    }

    async fn post(&self, command: &str, body: Value) -> Value {
        let url = format!("{}/{command}", self.session);
        self.client.json("POST", &url, &body).await["value"].take()
    }

    /// Opens `url` and waits until it is loaded, if the browser is patient.
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

    /// What the DevTools protocol told of the page and its network since the last call: `method` and `params`.
    pub(crate) async fn events(&self) -> Vec<Value> {
        let mut told = self.post("se/log", json!({ "type": "performance" })).await;
        let told = told.as_array_mut().unwrap().drain(..);
        told.map(|entry| {
            let mut entry: Value =
                serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            entry["message"].take()
        })
        .collect()
    }

    /// A command of the DevTools protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", body).await
    }

    /// Forgets what it keeps of pages and objects.
    pub(crate) async fn clear_cache(&self) {
        self.devtools("Network.clearBrowserCache", json!({})).await;
    }

    /// What is seen, as PNG.
    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        let url = format!("{}/screenshot", self.session);
        let answer = self.client.get(&url).await;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        base64(answer["value"].as_str().unwrap())
    }

    /// Ends the browser.
    pub(crate) async fn quit(&self) {
        self.client.json("DELETE", &self.session, &json!({})).await;
        self.process.store(0, Ordering::Relaxed);
    }
}

impl Drop for Browser {
    /// A browser outlives its driver. After a test that has failed, nobody told it to end.
    fn drop(&mut self) {
        let process = self.process.load(Ordering::Relaxed);
        if process != 0 {
            let _ = Command::new("kill")
                .args(["-KILL", &process.to_string()])
                .status();
        }
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
