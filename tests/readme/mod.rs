//! Every snippet of the documentation is run.
//!
//! Each fenced block of README.md and docs/*.md has one rule in [`RULES`], which says how it is tried; a block that none
//! fits fails, and so does a rule that fits none. Blocks of `text` show what is printed, and are not run.

mod blocks;
mod links;
mod shell;

use std::{cell::RefCell, fs, path::Path, process::Stdio};

use axum::{Router, routing::get as on_get};
use serde_json::Value;

use self::{
    blocks::Block,
    shell::{PAGE, Shell, is_script},
};
use crate::support::{
    self,
    address::own_address,
    caches::Cache,
    client::get,
    config::Config,
    handing::Process,
    process::program,
    program::{Program, command},
    upstream::Upstream,
    wait::{soon, until},
};

const TOKEN: &str = "a long secret";

/// How a block is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The program of README.md: it is built into this test, and serves.
    Program,
    /// Its Cargo.toml.
    Dependencies,
    /// `overspill check` finds no problem in it.
    Configuration,
    /// A page, and what becomes of it.
    Page,
    /// The demo plays to its end.
    Demo,
    /// Scripts that run all of this: they can be read.
    Scripts,
    /// A folder is served.
    Folder,
    /// A server that is there is stood in front of.
    InFront,
    /// An edge gives out the primary's objects.
    Edge,
    /// Each line beside a running primary and its edge.
    Beside,
    /// nginx, with its ready file.
    Nginx,
    /// Varnish, with its ready file.
    Varnish,
}

/// The language of a block, what stands in it, and how it is tried. The first that fits counts.
const RULES: [(&str, &str, How); 15] = [
    ("rust", "async fn main", How::Program),
    ("toml", "[dependencies]", How::Dependencies),
    ("toml", "", How::Configuration),
    ("html", "", How::Page),
    ("sh", "-- demo", How::Demo),
    ("sh", "scripts/", How::Scripts),
    ("sh", "overspill serve --site", How::Folder),
    ("sh", "overspill serve --upstream", How::InFront),
    ("sh", "overspill edge --primary", How::Edge),
    ("sh", "nginx -s reload", How::Nginx),
    ("sh", "varnishd -a", How::Varnish),
    ("sh", "overspill crowd", How::Beside),
    ("sh", "overspill check", How::Beside),
    ("sh", "overspill ", How::Beside),
    ("sh", "/.overspill/", How::Beside),
];

fn rule(block: &Block) -> Option<usize> {
    let fits = |(language, part, _): &(&str, &str, How)| {
        block.language == *language && block.text.contains(part)
    };
    RULES.iter().position(fits)
}

/// The blocks that are tried so: at least one.
fn blocks(how: How) -> Vec<Block> {
    let mut found = blocks::all();
    found.retain(|block| rule(block).is_some_and(|rule| RULES[rule].2 == how));
    assert!(!found.is_empty(), "{how:?}");
    found
}

#[test]
fn every_block_has_a_rule_and_every_rule_a_block() {
    let (mut used, mut count) = ([false; RULES.len()], 0);
    for block in blocks::all() {
        if block.language == "text" {
            continue;
        }
        let place = &block.place;
        let rule = rule(&block).unwrap_or_else(|| panic!("no rule says how {place} is tried"));
        used[rule] = true;
        count += 1;
    }
    for (rule, used) in RULES.iter().zip(used) {
        assert!(used, "{rule:?} fits no block");
    }
    assert!(count > 20, "{count}");
}

#[tokio::test]
async fn configurations_have_no_problem() {
    for Block { place, text, .. } in blocks(How::Configuration) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overspill.toml");
        // Those certificates are here.
        let own = |file: &str| folder.path().join(file).display().to_string();
        let text = ["cert.pem", "key.pem"].iter().fold(text, |text, file| {
            text.replace(&format!("\"{file}\""), &format!("{:?}", own(file)))
        });
        if text.contains("key.pem") {
            make_certificate(folder.path());
        }
        fs::write(&path, text).unwrap();
        let mut check = command();
        // The folder that is served unless another is named is there.
        check
            .args(["check", "--config"])
            .arg(&path)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = soon("check", check.output()).await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{place}:\n{told}");
    }
}

/// `cert.pem` and `key.pem` in `folder`: of a name `a`, for a hundred years.
fn make_certificate(folder: &Path) {
    for file in ["cert.pem", "key.pem"] {
        fs::copy(
            Path::new("tests/fixtures/tls").join(file),
            folder.join(file),
        )
        .unwrap();
    }
}

#[test]
fn the_dependencies_are_those_of_this_crate() {
    let own: Value = toml::from_str(include_str!("../../Cargo.toml")).unwrap();
    let [Block { text, .. }] = &blocks(How::Dependencies)[..] else {
        panic!("there is one");
    };
    let told: Value = toml::from_str(text).unwrap();
    for (name, told) in told["dependencies"].as_object().unwrap() {
        let version = |value: &Value| {
            value
                .as_str()
                .or(value["version"].as_str())
                .map(str::to_owned)
        };
        if name != "overspill" {
            assert_eq!(version(told), version(&own["dependencies"][name]), "{name}");
        }
    }
}

#[tokio::test]
#[ignore = "needs a minute: it builds the library once again"]
async fn a_crate_with_the_dependencies_and_the_program_compiles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [dependencies, program] =
        [How::Dependencies, How::Program].map(|how| blocks(how)[0].text.clone());
    let manifest = dependencies.replace("../overspill", root.to_str().unwrap());
    assert_ne!(manifest, dependencies);
    let package = "[package]\nname = \"site\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    let folder = support::folder([
        ("Cargo.toml", format!("{package}{manifest}").as_bytes()),
        ("src/main.rs", program.as_bytes()),
    ]);
    fs::copy(root.join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    let mut cargo = tokio::process::Command::new(env!("CARGO"));
    cargo
        .args(["check", "--offline"])
        .current_dir(folder.path())
        // Not that of the tests: what a test tells of itself makes cargo build some of it again, and then once more.
        .env(
            "CARGO_TARGET_DIR",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme"),
        )
        .kill_on_drop(true);
    // However long it takes: whoever waits for it asked for it.
    assert!(cargo.status().await.unwrap().success());
}

/// Tells this test in a process of its own to be the program of README.md.
const SERVE: &str = "README_PROGRAM_SERVES";

/// The program of README.md.
mod wrap {
    include!("wrap.rs");

    pub(super) fn run() {
        main().unwrap();
    }
}

#[test]
#[ignore = "serves until it is ended: the test below starts it in a process of its own"]
fn the_program() {
    // With all that is ignored it has nothing to do.
    if std::env::var_os(SERVE).is_some() {
        wrap::run();
    }
}

#[tokio::test]
async fn the_program_is_that_of_the_readme_and_serves() {
    let [Block { text, .. }] = &blocks(How::Program)[..] else {
        panic!("there is one");
    };
    assert_eq!(text, include_str!("wrap.rs"));
    assert!(text.lines().count() < 15, "it is to be short");

    let config = support::folder([("overspill.toml", &b"load.cpu.enabled = false\n"[..])]);
    let serving = || {
        tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "readme::the_program"])
            .env(SERVE, "yes")
            .env("OVERSPILL_CONFIG", config.path().join("overspill.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let address = "127.0.0.1:3000".parse().unwrap();
    let mut child = serving();
    let answer = until("the program serves", async || {
        // Its port is that of the example: somebody else may have it for a while.
        if child.try_wait().unwrap().is_some() {
            child = serving();
            return None;
        }
        let answer = get("/").try_ask(address).await?;
        answer.text().contains("/hello.png").then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_page_becomes_what_is_said() {
    let [Block { text: before, .. }, Block { text: after, .. }] = &blocks(How::Page)[..] else {
        panic!("there are two");
    };
    let site = support::folder([("index.html", before.as_bytes())]);
    let primary = Program::serve(&Config::new(format!(
        "primary.site = {:?}\n\
         offload.servers = [{{ name = \"eu\", url = \"https://eu.offload.example\", cors = true, health = false }}]",
        site.path()
    )))
    .await;
    primary.hold_level("offload").await;
    primary.until_level("offload").await;
    assert_eq!(get("/").ask(primary.site).await.text(), after);
}

#[tokio::test]
async fn the_demo_plays_to_its_end() {
    for block in blocks(How::Demo) {
        let shell = Shell::new().with("overspill demo", "overspill demo --fast");
        shell
            .run(&block, async |_, printed| {
                assert!(!printed.stdout.is_empty())
            })
            .await;
    }
}

#[tokio::test]
async fn the_scripts_can_be_read() {
    for block in blocks(How::Scripts) {
        for line in block.text.lines() {
            let script =
                Path::new(env!("CARGO_MANIFEST_DIR")).join(line.split(' ').next().unwrap());
            assert!(is_script(&script).await, "{}: {line}", block.place);
        }
    }
}

#[tokio::test]
async fn a_folder_is_served() {
    for block in blocks(How::Folder) {
        let at = own_address();
        let shell = Shell::new().variable("OVERSPILL__PRIMARY__LISTEN", &at.to_string());
        let _serving = shell.start(&block);
        let answer = until("the folder", async || get("/").try_ask(at).await).await;
        assert_eq!(answer.text(), PAGE);
    }
}

#[tokio::test]
async fn a_server_is_stood_in_front_of() {
    let app = Router::new().route("/", on_get(async || "from the upstream"));
    let upstream = Upstream::start(app).await;
    for block in blocks(How::InFront) {
        let at = own_address();
        let shell = Shell::new()
            .with(
                "http://127.0.0.1:3000",
                format!("http://{}", upstream.address),
            )
            .with("0.0.0.0:8080", at.to_string());
        let _serving = shell.start(&block);
        let answer = until("the upstream", async || get("/").try_ask(at).await).await;
        assert_eq!(answer.text(), "from the upstream");
    }
}

#[tokio::test]
async fn an_edge_gives_out_the_primarys_objects() {
    let around = Around::start().await;
    for block in blocks(How::Edge) {
        let at = own_address();
        let shell = Shell::new()
            .with(
                "https://www.example.com",
                format!("http://{}", around.primary.site),
            )
            .with("0.0.0.0:8081", at.to_string());
        let _serving = shell.start(&block);
        let object = get("/a.css").host(&at.to_string());
        let answer = until("the edge", async || object.try_ask(at).await).await;
        assert_eq!(answer.text(), "a{}");
        // It has the token: who shows another is refused.
        let load = get("/.overspill/load").host(&at.to_string());
        assert_eq!(load.ask(at).await.status, 401);
        let shown = load.header("Authorization", &format!("Bearer {TOKEN}"));
        assert_eq!(shown.ask(at).await.status, 200);
    }
}

/// A primary and its edge, which is called as in the examples.
struct Around {
    shell: Shell,
    primary: Program,
    edge: Program,
}

impl Around {
    async fn start() -> Self {
        let shell = Shell::new();
        let at = own_address();
        let primary = Program::serve(&Config::new(format!(
            "primary.site = {:?}\n\
             offload.token = {TOKEN:?}\n\
             offload.servers = [{{ name = \"eu\", url = \"http://{at}\", cors = true, \
             health = {{ path = \"/.overspill/health\", every = \"50ms\" }} }}]",
            shell.path("public")
        )))
        .await;
        let edge = Program::edge(&Config::new(format!(
            "edge.listen = \"{at}\"\nedge.primary = \"http://{}\"\nedge.token = {TOKEN:?}",
            primary.site
        )))
        .await;
        primary.until_usable("eu", true).await;
        let shell = shell
            .variable("OVERSPILL__ADMIN__LISTEN", &primary.admin.to_string())
            .with(
                "http://eu.offload.example:8081",
                format!("http://{}", edge.site),
            )
            .with("https://site.cdn.example", format!("http://{}", edge.site))
            .with("127.0.0.1:8081", edge.site.to_string())
            .with("127.0.0.1:8080", primary.site.to_string())
            .with("10.0.0.5", primary.site.to_string())
            .with("--for 30s", "--for 1s")
            .with("overspill crowd", "overspill crowd --patience 2m")
            .with("--for 1m", "--for 2s");
        Self {
            shell,
            primary,
            edge,
        }
    }

    async fn follow(&self, block: &Block) {
        // Who takes over is nobody's child: it ends with this.
        let successors = RefCell::new(Vec::new());
        let after = async |line: &str, printed: &shell::Printed| {
            if let Some((_, said)) = printed.stdout.split_once("restarted: process ") {
                let process = said.split(' ').next().unwrap().parse().unwrap();
                successors.borrow_mut().push(Process(process));
            }
            let elsewhere = line.contains(" > ") || line.contains("--out");
            assert!(
                elsewhere == printed.stdout.is_empty(),
                "{line}: {printed:?}"
            );
            // What an operator does by hand takes longer than a step of the control loop.
            if let Some((_, rest)) = line.split_once("overspill override ") {
                let held = !rest.starts_with("--release");
                let is = |status: &Value| status["override"].is_null() != held;
                self.primary.until(line, is).await;
            }
        };
        self.shell.run(block, after).await;
        let restarts = block.text.matches("overspill restart").count();
        assert_eq!(successors.borrow().len(), restarts, "{}", block.place);
    }
}

#[tokio::test]
async fn what_is_done_beside_a_running_server_works() {
    for block in blocks(How::Beside) {
        let around = Around::start().await;
        around.follow(&block).await;
        // Nothing of it has brought either down, unless it says so.
        let Around { primary, edge, .. } = around;
        let ended = match block.text.contains("overspill drain") {
            true => primary.ended().await,
            false => primary.terminate().await,
        };
        assert_eq!(ended, Some(0), "{}", block.place);
        assert_eq!(edge.terminate().await, Some(0), "{}", block.place);
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn the_ready_file_goes_into_a_running_nginx() {
    let around = Around::start().await;
    for block in blocks(How::Nginx) {
        let shell = Shell::new();
        let (conf, own) = (shell.path("conf.d/"), shell.path("."));
        fs::create_dir(&conf).unwrap();
        let at = own_address();
        // The lines with an arrow.
        let ready = include_str!("../../config/nginx-offload.conf")
            .replace("listen 8081;", &format!("listen {at};"))
            .replace(
                "server 127.0.0.1:8080;",
                &format!("server {};", around.primary.site),
            )
            .replace("/var/cache/nginx/overspill", &shell.path("cache"));
        support::write(
            shell.folder.path(),
            "config/nginx-offload.conf",
            ready.as_bytes(),
        );
        let main = format!(
            "pid {own}/pid; error_log stderr; events {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path {own}/b; proxy_temp_path {own}/p;\n\
             fastcgi_temp_path {own}/f; uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;\n\
             include {conf}*.conf; }}\n"
        );
        support::write(shell.folder.path(), "nginx.conf", main.as_bytes());
        let nginx = program("nginx");
        let nginx = format!("'{}' -p '{own}' -c '{own}/nginx.conf'", nginx.display());
        shell.command_called("nginx", &format!("exec {nginx} -e stderr \"$@\""));
        let run = "exec \"$0\" -g 'daemon off; master_process on;'";
        let mut running = tokio::process::Command::new("sh")
            .args(["-c", run, &shell.path("bin/nginx")])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        until("nginx runs", async || {
            Path::new(&shell.path("pid")).exists().then_some(())
        })
        .await;
        let shell = shell.with("/etc/nginx/conf.d/", conf);
        shell.run(&block, async |_, _| ()).await;
        let object = until("the ready file is taken", async || {
            get("/a.css").try_ask(at).await
        })
        .await;
        assert_eq!(object.text(), "a{}");
        shell.command_called("quit", "exec \"$(dirname \"$0\")/nginx\" -s quit");
        let quit = tokio::process::Command::new(shell.path("bin/quit")).status();
        assert!(quit.await.unwrap().success());
        assert!(soon("nginx ends", running.wait()).await.unwrap().success());
    }
}

#[tokio::test]
#[ignore = "needs varnish"]
async fn varnish_starts_with_the_ready_file() {
    let around = Around::start().await;
    for block in blocks(How::Varnish) {
        let whole = block
            .text
            .replace("-a :8081", "-a ADDRESS")
            .replace("malloc,1g", "malloc,64m");
        assert_eq!(whole.lines().count(), 1, "{}", block.place);
        let cache = Cache::start(|at, folder| {
            let (host, port) = (around.primary.site.ip(), around.primary.site.port());
            let ready = include_str!("../../config/varnish-offload.vcl")
                .replace(".host = \"127.0.0.1\";", &format!(".host = \"{host}\";"))
                .replace(".port = \"8080\";", &format!(".port = \"{port}\";"));
            support::write(folder, "config/varnish-offload.vcl", ready.as_bytes());
            let mut command = std::process::Command::new(program("varnishd"));
            // Without a jail it runs as whoever runs the tests, in the foreground.
            command
                .args(["-j", "none", "-F", "-n"])
                .arg(folder.join("work"));
            let words = whole.replace("ADDRESS", &at.to_string());
            let file = folder.join("config/varnish-offload.vcl");
            let words = words.replace("config/varnish-offload.vcl", file.to_str().unwrap());
            command.args(words.split_whitespace().skip(1));
            command
        });
        let answer = get("/a.css").ask(cache.address).await;
        assert_eq!(answer.text(), "a{}");
    }
}

const OPERATIONS: &str = include_str!("../../docs/operations.md");

#[tokio::test]
async fn every_metric_is_explained() {
    let class = "throttle.classes = [{ name = \"checkout\", paths = [\"/checkout/**\"] }]";
    let server = "offload.servers = [{ name = \"eu\", url = \"http://127.0.0.1:9\" }]";
    let shell = Shell::new();
    let site = format!("primary.site = {:?}", shell.path("public"));
    let primary = Program::serve(&Config::new([class, server, &site].join("\n"))).await;
    let metrics = get("/metrics").ask(primary.admin).await;
    let types = metrics
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let mut count = 0;
    for (name, kind) in types.map(|line| line.split_once(' ').unwrap()) {
        // OpenMetrics and the older format name counters in two ways.
        let name = name.trim_end_matches("_total");
        let total = if kind == "counter" { "_total" } else { "" };
        let told = [format!("`{name}{total}`"), format!("`{name}{total}{{")];
        assert!(told.iter().any(|told| OPERATIONS.contains(told)), "{name}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}

#[test]
fn every_alert_is_explained() {
    let rules = include_str!("../../deploy/prometheus/alerts.yml");
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(OPERATIONS.contains(&format!("| `{alert}` (")), "{alert}");
    }
}
