//! The configuration read anew while the program runs.

use std::fs;

use axum::{Router, routing};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::{self, drain, get, request, visitor},
    config::Config,
    folder,
    offload_server::OffloadServer,
    program::Program,
    raw::{Answer, parse},
    small_site,
    upstream::{HOLD, Held, Upstream},
    wait::{soon, until},
};

async fn reload(program: &Program, config: &str) -> Answer {
    fs::write(program.config_file(), config).unwrap();
    request("POST", "/api/reload").ask(program.admin).await
}

fn said(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn what_can_change_changes_at_once_and_what_cannot_is_named() {
    let site = small_site();
    let (eu, us) = (
        OffloadServer::start(site.path(), 0.1).await,
        OffloadServer::start(site.path(), 0.1).await,
    );
    let lines = format!("offload.servers = [{}]", eu.entry("eu", ""));
    let program = Program::serve(&Config::of_site(&site, &lines)).await;
    let known = program.until_usable("eu", true).await;
    program.hold_level("offload").await;
    let page = get("/").ask(program.site).await;
    assert!(page.text().contains(&eu.url()), "{}", page.text());

    let lines = format!(
        "offload.servers = [{}, {}]\noffload.clients = [{{ addresses = [\"127.1.0.0/16\"], servers = [\"us\"] }}]\n\
         explain_header = true\nprimary.listen = \"127.0.0.1:1\"\nload.cpu.enabled = true\nload.cpu.offload = 5\n\
         load.cpu.throttle = 6\nload.cpu.drop = 7",
        eu.entry("eu", ""),
        us.entry("us", ""),
    );
    let answer = reload(&program, &Config::of_site(&site, &lines).to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        said(&answer),
        json!({
            "reloaded": true,
            "changed": [
                "explain_header", "load.cpu.drop", "load.cpu.enabled", "load.cpu.offload", "load.cpu.throttle",
                "offload.clients", "offload.servers",
            ],
            "restart_needed": ["primary.listen"],
        })
    );
    let status = program.status().await;
    assert_eq!(status["level"], "offload", "what is held stays held");
    let kept = &status["servers"][0];
    assert_eq!(kept["usable"], true);
    assert!(
        kept["pages"].as_u64() > known["pages"].as_u64(),
        "what is known of it stays: {kept}"
    );
    program.until_usable("us", true).await;
    let cpu = program
        .until("the processors are looked at", |status| {
            status["signals"][0]["load"].is_number()
        })
        .await;
    assert_eq!(cpu["signals"][0]["offload"], 5.0);
    let page = get("/").from(visitor(7)).ask(program.site).await;
    assert!(page.text().contains(&us.url()), "{}", page.text());
    assert!(
        page.header("x-overspill")
            .unwrap()
            .contains("server=\"us\"")
    );
    let told = get("/api/decisions").ask(program.admin).await;
    assert!(
        told.text().contains("waits for a restart: primary.listen"),
        "{}",
        told.text()
    );
    assert!(program.log().contains("configuration reloaded"));
}

#[tokio::test]
async fn a_bad_configuration_changes_nothing_and_says_why() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "offload.hold = \"7s\"")).await;
    let bad = Config::of_site(&site, "offload.hold = \"soon\"\nload.release = \"x\"").to_string();
    let answer = reload(&program, &bad).await;
    assert_eq!(answer.status, 422);
    let error = said(&answer)["error"].as_str().unwrap().to_owned();
    assert!(
        error.contains("`offload.hold`") && error.contains("`load.release`"),
        "every problem: {error}"
    );
    for text in [
        "not toml [",
        "unknown = 1",
        "primary.site = \"/no/such/folder\"",
    ] {
        let answer = reload(&program, text).await;
        assert_eq!(answer.status, 422, "{text}: {}", answer.text());
    }
    fs::remove_file(program.config_file()).unwrap();
    let answer = request("POST", "/api/reload").ask(program.admin).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert_eq!(get("/").ask(program.site).await.status, 200);
    let told = get("/api/decisions").ask(program.admin).await;
    assert!(told.text().contains("configuration not reloaded"));
    let good = Config::of_site(&site, "offload.hold = \"8s\"").to_string();
    let answer = reload(&program, &good).await;
    assert_eq!(
        said(&answer)["changed"],
        json!(["offload.hold"]),
        "the next one counts from what was in effect"
    );
}

#[tokio::test]
async fn sighup_reads_it_anew_and_requests_under_way_go_on() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    let asking = tokio::spawn({
        let to = program.site;
        async move {
            let mut statuses = Vec::new();
            for _ in 0..200 {
                statuses.push(get("/").ask(to).await.status);
            }
            statuses
        }
    });
    for hold in ["1s", "2s", "3s"] {
        let lines = format!("offload.hold = \"{hold}\"\nmode = \"report\"");
        fs::write(
            program.config_file(),
            Config::of_site(&site, &lines).to_string(),
        )
        .unwrap();
        let before = decisions(&program, "reload").await;
        let id = program.id().to_string();
        let killed = std::process::Command::new("kill")
            .args(["-HUP", &id])
            .status();
        assert!(killed.unwrap().success());
        until("it was read", async || {
            (decisions(&program, "reload").await > before).then_some(())
        })
        .await;
    }
    assert_eq!(program.status().await["mode"], "report");
    let statuses = asking.await.unwrap();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test]
async fn where_servers_are_found_those_of_a_new_configuration_are_asked_as_well() {
    let site = small_site();
    let (eu, us, found) = (
        OffloadServer::start(site.path(), 0.1).await,
        OffloadServer::start(site.path(), 0.1).await,
        OffloadServer::start(site.path(), 0.1).await,
    );
    let file = site.path().join("servers.toml");
    fs::write(&file, format!("servers = [{}]", found.entry("found", ""))).unwrap();
    let lines = |servers: String| {
        format!("offload.servers = [{servers}]\noffload.discovery.file = {file:?}")
    };
    let first = lines(eu.entry("eu", ""));
    let program = Program::serve(&Config::of_site(&site, &first)).await;
    program.until_usable("eu", true).await;
    program.until_usable("found", true).await;

    let second = lines(format!(
        "{}, {}",
        eu.entry("eu", "threshold = 0.77,"),
        us.entry("us", "")
    ));
    let answer = reload(&program, &Config::of_site(&site, &second).to_string()).await;
    assert_eq!(
        said(&answer)["changed"],
        json!(["offload.servers"]),
        "{}",
        answer.text()
    );
    let status = program.status().await;
    let names: Vec<&Value> = status["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["name"])
        .collect();
    assert_eq!(names, ["eu", "us", "found"]);
    assert_eq!(status["servers"][0]["threshold"], 0.77);
    program.until_usable("us", true).await;
    // What was changed is asked as what it is now.
    drop(eu);
    program.until_usable("eu", false).await;
    assert_eq!(program.server("found").await["usable"], true);
}

/// Reloads, and asserts that it took this.
async fn takes(program: &Program, config: &Config, changed: &[&str]) {
    let answer = reload(program, &config.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = said(&answer);
    assert_eq!(
        (&said["changed"], &said["restart_needed"]),
        (&json!(changed), &json!([]))
    );
}

#[tokio::test]
async fn another_site_is_served_to_whoever_comes_and_who_is_there_comes_again() {
    let (first, second) = (
        folder([("a.txt", b"first".as_slice())]),
        folder([("a.txt", b"second".as_slice()), ("b.txt", b"new")]),
    );
    let program = Program::serve(&Config::of_site(&first, "")).await;
    let ask = b"GET /a.txt HTTP/1.1\r\nHost: site.example\r\n\r\n";
    let mut stays = TcpStream::connect(program.site).await.unwrap();
    stays.write_all(ask).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"first") {
        assert!(soon("it comes", stays.read_buf(&mut read)).await.unwrap() > 0);
    }

    // One piece that is wrong, and all stays as it was.
    let wrong =
        "access_log.path = \"/no/such/folder/access.log\"\nprimary.limits.body_size = \"1B\"";
    let answer = reload(&program, &Config::of_site(&second, wrong).to_string()).await;
    assert_eq!(answer.status, 422);
    assert!(
        answer.text().contains("`access_log.path`"),
        "{}",
        answer.text()
    );
    let asked = client::post("/a.txt", "{ }").ask(program.site).await;
    assert_ne!(asked.status, 413);
    assert_eq!(get("/a.txt").ask(program.site).await.text(), "first");

    let right = "primary.files.cache_control = [{ paths = [\"/**\"], value = \"max-age=7\" }]";
    let changed = ["primary.files.cache_control", "primary.site"];
    takes(&program, &Config::of_site(&second, right), &changed).await;
    let answer = get("/a.txt").ask(program.site).await;
    assert_eq!(answer.text(), "second");
    assert_eq!(answer.header("cache-control"), Some("max-age=7"));
    assert_eq!(get("/b.txt").ask(program.site).await.text(), "new");
    // Who is there is told to come again: with the next answer, or between two.
    let asked = stays.write_all(ask).await;
    let (rest, _) = drain(&mut stays).await;
    if asked.is_ok() && !rest.is_empty() {
        assert_eq!(parse(&rest, false).header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn another_upstream_is_asked_and_what_was_asked_of_the_first_is_finished() {
    let says = |name: &'static str| {
        let answer = async move |headers: HeaderMap| {
            let host = headers["host"].to_str().unwrap().to_owned();
            format!("{name} {host}")
        };
        Upstream::start(Router::new().route("/", routing::get(answer)))
    };
    let (first, second) = (says("first").await, says("second").await);
    let lines = |upstream: &Upstream, more: &str| {
        Config::new(format!(
            "primary.upstream = \"http://{}\"\nthrottle.bypass.paths = [\"{HOLD}\"]\n{more}",
            upstream.address
        ))
    };
    let program = Program::serve(&lines(&first, "")).await;
    let mut held = Held::none();
    first.hold(&program, &mut held, 3).await;
    let asked = async || get("/").ask(program.site).await.text().to_owned();
    assert_eq!(asked().await, "first site.example");
    takes(&program, &lines(&second, ""), &["primary.upstream"]).await;
    assert_eq!(asked().await, "second site.example");
    let name = format!("http://{}/", second.address);
    let status = program.status().await;
    assert_eq!(
        status["upstream"]["url"],
        name.trim_end_matches('/'),
        "{status}"
    );
    let own = lines(&second, "primary.proxy.host = \"upstream\"");
    takes(&program, &own, &["primary.proxy.host"]).await;
    assert_eq!(asked().await, format!("second {}", second.address));
    first.release(&mut held).await;

    let site = folder([("index.html", b"a folder".as_slice())]);
    let config = Config::of_site(&site, &format!("throttle.bypass.paths = [\"{HOLD}\"]"));
    let changed = ["primary.proxy.host", "primary.site", "primary.upstream"];
    takes(&program, &config, &changed).await;
    assert_eq!(asked().await, "a folder");
    assert_eq!(program.status().await["upstream"], Value::Null);
}

#[tokio::test]
async fn another_proxy_is_believed() {
    let tell = async |headers: HeaderMap| headers["x-forwarded-for"].as_bytes().to_vec();
    let upstream = Upstream::start(Router::new().route("/", routing::get(tell))).await;
    let lines = |trusted: &str| {
        Config::new(format!(
            "primary.upstream = \"http://{}\"\nprimary.trusted_proxies = [{trusted}]",
            upstream.address
        ))
    };
    let program = Program::serve(&lines("")).await;
    let asked = async || {
        let asked = get("/").header("X-Forwarded-For", "203.0.113.9");
        asked.ask(program.site).await.text().to_owned()
    };
    assert_eq!(asked().await, "127.0.0.1");
    let changed = ["primary.trusted_proxies"];
    takes(&program, &lines("\"127.0.0.1\""), &changed).await;
    assert_eq!(asked().await, "203.0.113.9, 127.0.0.1");
    takes(&program, &lines(""), &changed).await;
    assert_eq!(asked().await, "127.0.0.1");
}

#[tokio::test]
async fn connections_that_come_have_the_new_limits() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    let long = client::post("/a", "twelve bytes");
    assert_ne!(long.ask(program.site).await.status, 413);
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(program.site).await.unwrap());
    }
    program
        .until("they are there", |status| status["connections"] == 20)
        .await;
    let lines = "primary.limits.body_size = \"11B\"\nprimary.limits.connections = 3";
    let changed = ["primary.limits.body_size", "primary.limits.connections"];
    takes(&program, &Config::of_site(&site, lines), &changed).await;
    assert_eq!(long.ask(program.site).await.status, 413);
    program
        .until("there are no more than there may be", |status| {
            status["connections"].as_u64().unwrap() <= 3
        })
        .await;
}

#[tokio::test]
async fn an_access_log_is_begun_written_elsewhere_and_ended() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    let at = |name: &str| program.config_file().with_file_name(name);
    let text = |name: &str| fs::read_to_string(at(name)).unwrap_or_default();
    let ask = async |target: &str| {
        assert_eq!(get(target).ask(program.site).await.status, 200);
    };
    ask("/?none").await;
    let config = |lines: &str| Config::of_site(&site, lines);
    let first = config("access_log.path = \"first.log\"");
    takes(&program, &first, &["access_log.path"]).await;
    ask("/?first").await;
    let second = config("access_log.path = \"second.log\"\naccess_log.format = \"json\"");
    let changed = ["access_log.format", "access_log.path"];
    takes(&program, &second, &changed).await;
    ask("/?second").await;
    until("a line in each", async || {
        (text("first.log").contains("/?first") && text("second.log").contains("/?second"))
            .then_some(())
    })
    .await;
    assert!(text("first.log").starts_with("127.0.0.1 - - ["));
    assert!(text("second.log").starts_with("{\"time\""));
    let metrics = get("/metrics").ask(program.admin).await;
    let counted = "overspill_access_log_lines_total{result=\"written\"} 2";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    takes(&program, &config(""), &changed).await;
    ask("/?none").await;
    // Again, so that all that came before is written by then.
    takes(&program, &first, &["access_log.path"]).await;
    ask("/?last").await;
    until("a line", async || {
        text("first.log").contains("/?last").then_some(())
    })
    .await;
    assert_eq!(
        text("first.log").lines().count(),
        2,
        "{}",
        text("first.log")
    );
    assert_eq!(
        text("second.log").lines().count(),
        1,
        "{}",
        text("second.log")
    );
}

async fn decisions(program: &Program, kind: &str) -> usize {
    let told = get("/api/decisions").ask(program.admin).await;
    let told = said(&told);
    let told = told["decisions"].as_array().unwrap();
    told.iter().filter(|it| it["kind"] == kind).count()
}
