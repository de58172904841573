//! The dashboard in a real browser, against the real program.

use std::process::Command;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{
    client::{get, post},
    config::Config,
    offload_server::OffloadServer,
    program::{Program, command},
    small_site,
    wait::{soon, until},
    webdriver::Browser,
};

/// Waits until `expression`, of the page, is `wanted`.
async fn shows(browser: &Browser, expression: &str, wanted: Value) {
    let mut last = Value::Null;
    until(format!("{expression} is {wanted}"), async || {
        last = browser.run(&format!("return {expression};")).await;
        (last == wanted).then_some(())
    })
    .await;
}

/// Nothing was wrong, and nobody else was asked.
async fn is_clean(browser: &Browser, admin: impl std::fmt::Display) {
    let console = browser.console().await;
    let wrong: Vec<&Value> = console
        .iter()
        .filter(|told| told["level"] == "SEVERE")
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let own = format!("http://{admin}/");
    let asked: Vec<String> = browser
        .events()
        .await
        .iter()
        .filter(|event| event["method"] == "Network.requestWillBeSent")
        .map(|event| {
            event["params"]["request"]["url"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert!(asked.len() > 5, "{asked:?}");
    for url in asked {
        // The browser's own first page is none of ours.
        let is_own = [&own, "data:", "chrome:"]
            .iter()
            .any(|start| url.starts_with(*start));
        assert!(is_own, "{url}");
    }
}

/// Fills the form in and sends it; a question whether it is meant is answered by yes.
async fn hold(browser: &Browser, level: &str, length: &str) {
    let script = format!(
        "document.getElementById('override-level').value = '{level}';\
         document.getElementById('override-level').dispatchEvent(new Event('change'));\
         document.getElementById('override-for').value = '{length}';\
         document.getElementById('override-for').dispatchEvent(new Event('input'));\
         document.getElementById('hold').click();\
         await new Promise(later => setTimeout(later, 50));\
         if (document.getElementById('confirm-dialog').open) document.getElementById('confirm-yes').click();"
    );
    assert_eq!(browser.run(&script).await, Value::Null);
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn level_servers_and_decisions_change_on_screen_and_the_buttons_work() {
    let site = small_site();
    let server = OffloadServer::start(site.path(), 0.4).await;
    let lines = format!(
        "offload.servers = [{}]\nload.in_flight.capacity = 50",
        server.entry("eu", "")
    );
    let program = Program::serve(&Config::of_site(&site, &lines)).await;
    program.until_usable("eu", true).await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", program.admin)).await;
    shows(&browser, "document.body.dataset.connected", json!("true")).await;
    shows(&browser, "document.body.dataset.level", json!("normal")).await;
    let row = "document.querySelector('#servers [data-server=\"eu\"]')";
    shows(&browser, &format!("{row}.dataset.usable"), json!("true")).await;

    // By the API.
    program.hold_level("offload").await;
    shows(&browser, "document.body.dataset.level", json!("offload")).await;
    let said = browser
        .run("return document.getElementById('level').textContent;")
        .await;
    assert!(
        said.as_str().unwrap().to_lowercase().contains("offload"),
        "in words: {said}"
    );
    assert_eq!(get("/").ask(program.site).await.status, 200);
    shows(
        &browser,
        "document.querySelector('#decisions [data-kind=\"override\"]') !== null",
        json!(true),
    )
    .await;

    // By the buttons.
    hold(&browser, "throttle", "90s").await;
    shows(&browser, "document.body.dataset.level", json!("throttle")).await;
    assert_eq!(get("/").ask(program.site).await.status, 503);
    let left = program.status().await["override"].as_f64().unwrap();
    assert!(left > 0.0 && left <= 90.0);
    hold(&browser, "drop", "forever").await;
    until("the mistake is told", async || {
        let message = browser
            .run("return document.getElementById('message').textContent;")
            .await;
        message.as_str()?.contains("`for`").then_some(())
    })
    .await;
    assert_eq!(program.status().await["level"], "throttle");
    browser
        .run("document.getElementById('release').click();")
        .await;
    shows(&browser, "document.body.dataset.level", json!("normal")).await;

    drop(server);
    shows(&browser, &format!("{row}.dataset.usable"), json!("false")).await;
    let words = browser.run(&format!("return {row}.textContent;")).await;
    assert!(words.as_str().unwrap().contains("not healthy: "), "{words}");
    until("it is told among the decisions", async || {
        let told =
            "return document.querySelector('#decisions [data-kind=\"server\"]').textContent;";
        let told = browser.run(told).await;
        told.as_str()?
            .contains("eu gets no work: not healthy")
            .then_some(())
    })
    .await;
    // Not the mistake above, which was answered by a 400.
    let console = browser.console().await;
    let wrong: Vec<&Value> = console
        .iter()
        .filter(|told| told["level"] == "SEVERE" && !told["message"].to_string().contains("400"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    is_clean(&browser, program.admin).await;

    // It goes away, and says so; it is found again by itself where it comes back.
    let admin = program.admin;
    let mut program = program;
    program.kill().await;
    shows(&browser, "document.body.dataset.connected", json!("false")).await;
    let again = Config::of_site(&site, &format!("admin.listen = \"{admin}\""));
    let _again = Program::serve(&again).await;
    shows(&browser, "document.body.dataset.connected", json!("true")).await;
    shows(
        &browser,
        "document.querySelectorAll('#servers [data-server]').length",
        json!(0),
    )
    .await;
    browser.quit().await;
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn with_a_token_nothing_is_shown_or_done_before_it_is_given() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "admin.token = \"open sesame\"")).await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", program.admin)).await;
    shows(
        &browser,
        "document.getElementById('token-dialog').open",
        json!(true),
    )
    .await;
    assert_eq!(
        browser.run("return document.body.dataset.connected;").await,
        "false"
    );
    let give = async |token: &str| {
        let script = format!(
            "document.getElementById('token').value = '{token}';\
             document.getElementById('token-send').click();"
        );
        browser.run(&script).await;
    };
    give("sesame").await;
    until("a wrong one is told", async || {
        let told = browser
            .run("return document.getElementById('token-error').textContent;")
            .await;
        (!told.as_str()?.trim().is_empty()).then_some(())
    })
    .await;
    // What tells that the first question was closed may come as late as the second one.
    let late = "const dialog = document.getElementById('token-dialog');\
                dialog.dispatchEvent(new Event('close'));\
                return dialog.open;";
    assert_eq!(browser.run(late).await, true);
    give("open sesame").await;
    shows(&browser, "document.body.dataset.connected", json!("true")).await;
    shows(
        &browser,
        "document.getElementById('token-dialog').open",
        json!(false),
    )
    .await;
    hold(&browser, "offload", "5m").await;
    shows(&browser, "document.body.dataset.level", json!("offload")).await;
    // An answer that is no 200 is told there as an error: a token that is asked for is none.
    for told in browser.console().await {
        assert!(told["message"].to_string().contains("401"), "{told}");
    }
    is_clean(&browser, program.admin).await;
    browser.quit().await;
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn charts_of_a_running_demo_have_data_and_thresholds() {
    let mut demo = command()
        .args(["demo", "--fast", "--keep"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let admin = loop {
        let line = soon("the demo says where its dashboard is", lines.next_line())
            .await
            .unwrap();
        let line = line.expect("the demo goes on");
        if line.to_lowercase().contains("dashboard")
            && let Some((_, address)) = line.split_once("http://")
        {
            let end = address.find('/').unwrap_or(address.len());
            break address[..end].to_owned();
        }
    };
    // It must not wait for a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let browser = Browser::start().await;
    browser.open(&format!("http://{admin}/")).await;
    until("points are there", async || {
        let points = browser.run("return window.overspill.points();").await;
        (points.as_u64()? >= 5).then_some(())
    })
    .await;
    let thresholds = browser.run("return window.overspill.thresholds();").await;
    for threshold in [0.7, 0.9, 0.98] {
        assert!(
            thresholds.as_array().unwrap().contains(&json!(threshold)),
            "{thresholds}"
        );
    }
    let series = browser.run("return window.overspill.series();").await;
    assert!(series.to_string().contains("bandwidth"), "{series}");
    for chart in ["load-chart", "share-chart", "requests-chart"] {
        let drawn = format!(
            "const canvas = document.querySelector('#{chart} canvas');\
             const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;\
             const colours = new Set();\
             for (let at = 0; at < data.length; at += 4) colours.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);\
             return colours.size;"
        );
        let colours = browser.run(&drawn).await;
        assert!(colours.as_u64().unwrap() > 3, "{chart}: {colours}");
    }
    let rows = browser
        .run("return document.querySelectorAll('#servers [data-server]').length;")
        .await;
    assert_eq!(rows, 2);
    let status: Value =
        serde_json::from_slice(&get("/api/status").ask(admin.parse().unwrap()).await.body).unwrap();
    assert!(status["requests"]["served"].as_u64().unwrap() > 0);
    let answer = post("/api/override", r#"{"level":"throttle","for":"1m"}"#)
        .ask(admin.parse().unwrap())
        .await;
    assert_eq!(answer.status, 200);
    shows(&browser, "document.body.dataset.level", json!("throttle")).await;
    // Nothing scrolls sideways, on a phone neither.
    browser
        .devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true }),
        )
        .await;
    shows(
        &browser,
        "document.documentElement.scrollWidth <= innerWidth",
        json!(true),
    )
    .await;
    is_clean(&browser, &admin).await;
    browser.quit().await;
    demo.kill().await.unwrap();
}

/// The parser of the stream, numbers and history, without a browser.
#[test]
#[ignore = "needs nodejs"]
fn the_pages_own_tests_pass() {
    let version = Command::new("node").arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let major: u32 = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let tests = std::fs::read_dir("tests/dashboard").unwrap();
    let tests: Vec<_> = tests.map(|file| file.unwrap().path()).collect();
    assert!(tests.len() >= 3, "{tests:?}");
    let mut node = Command::new("node");
    if major < 20 {
        // Later ones see by themselves that a file is a module.
        node.arg("--experimental-default-type=module");
    }
    let output = node.arg("--test").args(tests).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "node {version}{said}");
    let passed = said
        .lines()
        .find_map(|line| line.split_once("pass "))
        .map(|(_, count)| count.trim().parse::<u32>());
    assert!(
        passed.is_some_and(|passed| passed.is_ok_and(|passed| passed > 10)),
        "{said}"
    );
}
