//! Prometheus's own tool reads the metrics and the alert rules.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::{
    client::get, config::Config, folder, offload_server::OffloadServer, program::Program,
};

fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn is_content(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert_eq!(said, "", "no word against it");
}

#[tokio::test]
#[ignore = "needs prometheus"]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let site = folder([
        ("index.html", b"<img src=/a.png>".as_slice()),
        ("a.png", b"png"),
    ]);
    let server = OffloadServer::start(site.path(), 0.4).await;
    let lines = format!(
        "primary.site = {:?}\noffload.servers = [{}]\nload.in_flight.capacity = 10\n\
         throttle.classes = [{{ name = \"gold\", paths = [\"/gold/**\"], priority = 1 }}]",
        site.path(),
        server.entry("eu", "")
    );
    let program = Program::serve(&Config::new(lines)).await;
    program.until_usable("eu", true).await;
    program.hold_level("offload").await;
    assert_eq!(get("/").ask(program.site).await.status, 200);
    let metrics = get("/metrics").ask(program.admin).await;
    for part in [
        "overspill_pages_rewritten_total{",
        "overspill_request_duration_seconds_bucket{",
        "overspill_turned_away_total{",
    ] {
        assert!(metrics.text().contains(part), "{part}");
    }
    is_content(&promtool(&["check", "metrics"], metrics.text()));

    let edge = Config::new("edge.primary = \"http://127.0.0.1:9\"");
    let edge = Program::edge(&edge).await;
    let metrics = get("/metrics").ask(edge.admin).await;
    is_content(&promtool(&["check", "metrics"], metrics.text()));
}

#[test]
#[ignore = "needs prometheus"]
fn alerts_are_rules_and_fire_when_they_should() {
    is_content(&promtool(&["check", "rules", "alerts.yml"], ""));
    is_content(&promtool(&["test", "rules", "alerts_test.yml"], ""));
}
