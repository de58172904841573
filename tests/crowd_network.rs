//! A crowd larger than primary and offload servers can serve, in a network whose links are what is short: who gets what.
//!
//! A primary, nginx with a copy of the site, and an edge of ours, each on a host of its own with a link of 4 Mbit/s: that
//! are some 14 whole pages a second. How many come through is for the testbed to measure (`benches/crowd/run`).

use std::{fs, path::Path, process::Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Child;

use crate::support::{
    network::{Host, Network},
    process::program,
    wait::{PATIENCE, soon, until, until_within},
    write,
};

const PRIMARY: Host = Host::Server(0);
const NGINX: Host = Host::Server(1);
const EDGE: Host = Host::Server(2);
const OBJECTS: [(&str, usize); 6] = [
    ("a.css", 8_000),
    ("a.js", 12_000),
    ("1.jpg", 20_000),
    ("2.jpg", 20_000),
    ("3.jpg", 20_000),
    ("4.jpg", 20_000),
];
const STATUS: &str = "http://127.0.0.1:9901/api/status";

/// What runs, and where; all of it ends with this.
struct Bed {
    programs: Vec<Child>,
    network: Network,
    folder: TempDir,
    page: String,
}

impl Bed {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let page = site(&folder.path().join("site"));
        let mut bed = Self {
            programs: Vec::new(),
            network: Network::new(3, "4mbit"),
            folder,
            page,
        };
        bed.overspill(PRIMARY, "serve", &primary());
        bed.overspill(EDGE, "edge", &edge());
        let nginx = bed.folder.path().join("nginx.conf");
        fs::write(&nginx, nginx_lines(bed.folder.path())).unwrap();
        let (program, file) = (program("nginx"), nginx.display().to_string());
        bed.run(NGINX, "nginx", program.to_str().unwrap(), &["-c", &file]);
        // Each of them is there, and the primary knows that.
        bed.until("the servers are well", |status| {
            let servers = status["servers"].as_array().unwrap();
            servers.iter().all(|server| server["usable"] == true)
        })
        .await;
        bed
    }

    /// `overspill COMMAND` with a configuration of its own.
    fn overspill(&mut self, host: Host, command: &str, config: &str) {
        let file = self.folder.path().join(format!("{command}.toml"));
        fs::write(&file, config).unwrap();
        let (overspill, file) = (env!("CARGO_BIN_EXE_overspill"), file.display().to_string());
        let site = self.folder.path().join("site").display().to_string();
        let site: &[&str] = if command == "serve" {
            &["--site", &site]
        } else {
            &[]
        };
        let arguments = [&["--log", "json", command, "--config", &file], site].concat();
        self.run(host, command, overspill, &arguments);
    }

    /// What it says goes to a file, of which the end is told where the test fails.
    fn run(&mut self, host: Host, name: &str, program: &str, arguments: &[&str]) {
        let log = fs::File::create(self.folder.path().join(format!("{name}.log"))).unwrap();
        let mut command = self.network.command(host, program);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(log);
        self.programs.push(command.spawn().unwrap());
    }

    /// Visitors for the page; what became of them.
    async fn crowd(&self, rate: &str, length: &str) -> Value {
        let url = format!("http://{}:8080/", Network::address(0));
        let mut crowd = self
            .network
            .command(Host::Visitors, env!("CARGO_BIN_EXE_overspill"));
        crowd
            .args(["crowd", &url, "--rate", rate, "--for", length])
            .args(["--patience", "20s", "--verify", "--json"])
            .args(["--addresses", &Network::visitors()]);
        let output = soon("the crowd has gone", crowd.output()).await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout);
        report.unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    async fn status(&self, host: Host) -> Value {
        let status = self.network.json(host, STATUS).await;
        status.expect("it tells its status")
    }

    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        until_within(PATIENCE, what, async || {
            last = self.network.json(PRIMARY, STATUS).await;
            last.clone().filter(&is)
        })
        .await
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for name in ["serve", "edge", "nginx"] {
            let log = fs::read_to_string(self.folder.path().join(format!("{name}.log")));
            let log = log.unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(30).collect();
            for line in lines.iter().rev() {
                println!("{name}: {line}");
            }
        }
    }
}

/// A page with objects of 100 KB; gives it.
fn site(folder: &Path) -> String {
    let mut page = "<!doctype html><title>A page</title>".to_owned();
    for (name, size) in OBJECTS {
        let path = format!("/o/{name}");
        page += &match name.rsplit_once('.').unwrap().1 {
            "css" => format!("<link rel=stylesheet href={path}>"),
            "js" => format!("<script defer src={path}></script>"),
            _ => format!("<img src={path} alt>"),
        };
        // No two objects have the same bytes anywhere, so that whoever mixes them up is seen.
        let mut bytes: Vec<u8> = (0..size)
            .map(|at| (at * 31 / 7 + name.len()) as u8)
            .collect();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        write(folder, &path, &bytes);
    }
    page += &"<p>Text.\n".repeat(200);
    write(folder, "/index.html", page.as_bytes());
    page
}

fn primary() -> String {
    let (nginx, edge) = (Network::address(1), Network::address(2));
    format!(
        r#"
        primary.listen = "0.0.0.0:8080"
        load.cpu.enabled = false
        [load.bandwidth]
        interface = "eth0"
        capacity = "4Mbit/s"
        offload = 0.70
        throttle = 0.92
        [offload]
        hold = "5s"
        token = "known to both"
        [[offload.servers]]
        name = "nginx"
        url = "http://{nginx}:8080"
        cors = true
        capacity = "4Mbit/s"
        threshold = 0.95
        [[offload.servers]]
        name = "edge"
        url = "http://{edge}:8080"
        cors = true
        capacity = "4Mbit/s"
        threshold = 0.95
        report = {{ kind = "orca", url = "http://{edge}:8080/.overspill/load", every = "500ms" }}
        health = {{ path = "/.overspill/health" }}
        "#
    )
}

fn edge() -> String {
    let primary = Network::address(0);
    format!(
        r#"
        load.cpu.enabled = false
        [load.bandwidth]
        interface = "eth0"
        capacity = "4Mbit/s"
        offload = 0.95
        [edge]
        listen = "0.0.0.0:8080"
        primary = "http://{primary}:8080"
        token = "known to both"
        "#
    )
}

fn nginx_lines(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 2048; }}\n\
         http {{ include /etc/nginx/mime.types; access_log off;\n\
         client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;\n\
         uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n\
         server {{ listen 8080 backlog=2048; root {folder}/site; add_header Access-Control-Allow-Origin *; }} }}\n"
    )
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a count: {value}"))
}

/// Nobody got a page or an object that was not right, and nothing failed but by coming too late.
fn assert_nothing_was_wrong(report: &Value) {
    for name in ["failed", "dropped", "refused", "not_started", "unfinished"] {
        assert_eq!(report[name], 0, "{name}: {report}");
    }
    let objects = &report["objects"];
    for name in [
        "failed",
        "throttled",
        "wrong",
        "unverified",
        "missing",
        "foreign",
    ] {
        assert_eq!(objects[name], 0, "objects {name}: {report}");
    }
    assert_eq!(report["partial"], report["partial_timed_out"], "{report}");
}

#[tokio::test]
#[ignore = "needs network namespaces (root, iproute2), nginx and curl"]
async fn a_crowd_beyond_all_servers_gets_whole_pages_or_is_told_to_come_later() {
    let bed = Bed::start().await;
    let host = |number: usize| format!("{}:8080", Network::address(number));

    // A few are served by the primary alone.
    let few = bed.crowd("1", "6s").await;
    assert_nothing_was_wrong(&few);
    assert!(count(&few["offered"]) > 0);
    assert_eq!(few["whole"], few["offered"], "{few}");
    let status = bed.status(PRIMARY).await;
    for outcome in ["offloaded", "throttled", "dropped"] {
        assert_eq!(status["requests"][outcome], 0, "{outcome}: {status}");
    }
    assert_eq!(few["hosts"].as_object().unwrap().len(), 1, "{few}");
    assert_eq!(status["level"], "normal");

    // Three times as many as all servers can serve.
    let crowd = bed.crowd("40", "12s").await;
    assert_nothing_was_wrong(&crowd);
    let visitors = |name: &str| count(&crowd[name]);
    assert!(visitors("throttled") > 0, "{crowd}");
    let let_in = visitors("offered") - visitors("throttled");
    // However slow this machine is: who is let in is one who can be served.
    assert!(
        visitors("whole") * 10 >= let_in * 9,
        "{let_in} were let in: {crowd}"
    );
    // Every server did its part.
    let weight: usize = OBJECTS.iter().map(|(_, size)| size).sum();
    for number in 0..3 {
        let bytes = count(&crowd["hosts"][&host(number)]["bytes"]);
        assert!(bytes > 3 * weight as u64, "{number}: {crowd}");
    }
    let status = bed.status(PRIMARY).await;
    let requests = |outcome: &str| count(&status["requests"][outcome]);
    assert!(requests("offloaded") > 0, "{status}");
    assert!(requests("throttled") >= visitors("throttled"), "{status}");
    assert_eq!(requests("dropped"), 0, "{status}");
    // The edge's pulls came through, though visitors were turned away meanwhile: each object once, or anew when it
    // was out of date.
    let pulls = requests("bypassed");
    assert!(pulls >= OBJECTS.len() as u64, "{status}");
    let edge = bed.status(EDGE).await;
    // What may come compressed may be there twice: as browsers take it, for whom the edge is warmed up, and as this crowd
    // does, which takes no coding.
    let kept = count(&edge["objects"]) as usize;
    assert!(
        (OBJECTS.len()..=2 * OBJECTS.len()).contains(&kept),
        "{edge}"
    );
    let edges = |what: &str| count(&edge["requests"][what]);
    assert_eq!(edges("failed") + edges("refused"), 0, "{edge}");
    assert!(edges("hits") > edges("misses"), "{edge}");

    // When the crowd has gone, so has the episode after a while, and pages are as they are.
    let status = bed
        .until("normal again", |status| status["level"] == "normal")
        .await;
    assert_eq!(status["hold_left"], 0.0, "{status}");
    let page = format!("http://{}/", host(0));
    let page = bed.network.get(Host::Visitors, &page).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&page), bed.page);
}

#[tokio::test]
#[ignore = "needs network namespaces (root, iproute2), nginx and curl"]
async fn what_a_test_made_is_gone_with_it() {
    let network = Network::new(1, "4mbit");
    let files = network.files();
    let there = || files.iter().filter(|file| file.exists()).count();
    assert_eq!(there(), 2);
    let mut sleeping = network.command(Host::Server(0), "sleep");
    let mut sleeping = sleeping.arg("600").spawn().unwrap();
    let failing = tokio::spawn(async move {
        let _network = network;
        panic!("as a test that fails");
    });
    assert!(failing.await.is_err());
    until("the hosts are gone", async || (there() == 0).then_some(())).await;
    soon("and what ran there", sleeping.wait()).await.unwrap();
}
