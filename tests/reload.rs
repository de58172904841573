//! The configuration read anew while the program runs.

#![cfg(feature = "server")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{
    client::{get, request, visitor},
    config::Config,
    offload_server::OffloadServer,
    program::Program,
    raw::Answer,
    small_site,
    wait::until,
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

async fn decisions(program: &Program, kind: &str) -> usize {
    let told = get("/api/decisions").ask(program.admin).await;
    let told = said(&told);
    let told = told["decisions"].as_array().unwrap();
    told.iter().filter(|it| it["kind"] == kind).count()
}
