//! The operator's commands, as an operator runs them: override, reload, drain, explain for a client; completions, the
//! manual and the help.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    admin_server::{AdminServer, Asked},
    config::Config,
    folder,
    program::{Program, command},
    wait::soon,
};

/// Every command.
const COMMANDS: [&str; 14] = [
    "serve",
    "edge",
    "demo",
    "check",
    "explain",
    "status",
    "override",
    "reload",
    "restart",
    "drain",
    "crowd",
    "completions",
    "man",
    "help",
];

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn overspill(arguments: &[&str]) -> Ran {
    with(arguments, &[], Path::new("/")).await
}

async fn with(arguments: &[&str], variables: &[(&str, &str)], folder: &Path) -> Ran {
    let mut command = command();
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(folder);
    let output = soon("the command ends", command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

async fn program(site: &TempDir, lines: &str) -> Program {
    Program::serve(&Config::new(format!(
        "primary.site = {:?}\n{lines}",
        site.path()
    )))
    .await
}

fn token_file(folder: &TempDir, text: &str, mode: u32) -> String {
    let path = folder.path().join("token");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_level_is_held_and_let_go() {
    let site = folder([("index.html", b"<p>home".as_slice())]);
    let program = program(&site, "").await;
    let url = format!("http://{}", program.admin);
    let ran = overspill(&["override", "throttle", "--for", "10m", "--admin", &url]).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(
        ran.out.starts_with("throttle is held for 10m 0s, until "),
        "{}",
        ran.out
    );
    assert_eq!(ran.out.lines().count(), 1);
    program.until_level("throttle").await;
    let ran = overspill(&["override", "--release", "--admin", &url]).await;
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(0), "let go: the load decides again\n")
    );
    program.until_level("normal").await;
}

#[tokio::test]
async fn what_cannot_be_held_is_refused_before_anything_is_sent() {
    let server = AdminServer::start().await;
    let url = server.url();
    for (arguments, part) in [
        (
            &["panic", "--for", "1m"][..],
            "possible values: normal, offload, throttle, drop",
        ),
        (&["drop", "--for", "25h"], "at most 24h"),
        (&["drop", "--for", "0s"], "more than 0s"),
        (&["drop", "--for", "soon"], "a duration such as"),
        (&["drop"], "--for <DURATION>"),
        (&["--for", "1m"], "LEVEL"),
        (&[], "LEVEL"),
        (&["drop", "--for", "1m", "--release"], "cannot be used with"),
    ] {
        let ran = overspill(&[&["override", "--admin", &url], arguments].concat()).await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn draining_ends_the_server() {
    let site = folder([("index.html", b"<p>home".as_slice())]);
    let program = program(&site, "").await;
    let ran = overspill(&["drain", "--admin", &program.admin.to_string()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.starts_with("draining: "), "{}", ran.out);
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn a_reload_tells_what_changed_and_what_waits_for_a_restart() {
    let server = AdminServer::start().await;
    let answer = json!({ "reloaded": true, "changed": ["offload.hold"], "restart_needed": ["primary.listen"] });
    server.answers("/api/reload", 200, &answer);
    let ran = overspill(&["reload", "--admin", &server.url()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.out.starts_with("reloaded: offload.hold; "),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("restart only: primary.listen"),
        "{}",
        ran.out
    );

    let problems = "2 problems in the configuration\n  `mode` a\n  `offload.hold` b";
    server.answers("/api/reload", 422, &json!({ "error": problems }));
    let ran = overspill(&["reload", "--admin", &server.url()]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(
        ran.err.contains("what was in force stays in force") && ran.err.contains(problems),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn a_real_server_reloads_what_it_can_and_refuses_what_is_wrong() {
    let site = folder([("index.html", b"<p>home".as_slice())]);
    let program = program(&site, "").await;
    let url = format!("http://{}", program.admin);
    let file = program.config_file();
    let before = fs::read_to_string(&file).unwrap();
    let ran = overspill(&["reload", "--admin", &url]).await;
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(0), "reloaded: nothing has changed\n")
    );
    fs::write(&file, format!("{before}offload.hold = \"1m\"\n")).unwrap();
    let ran = overspill(&["reload", "--admin", &url]).await;
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(0), "reloaded: offload.hold\n"),
        "{ran:?}"
    );
    fs::write(
        &file,
        format!("{before}offload.hold = \"soon\"\nmode = \"odd\"\n"),
    )
    .unwrap();
    let ran = overspill(&["reload", "--admin", &url]).await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("`offload.hold`") && ran.err.contains("`mode`"),
        "{}",
        ran.err
    );
    // The decisions tell it, problems and all.
    let ran = overspill(&["status", "--once", "--admin", &url]).await;
    assert!(ran.out.contains("reloaded: offload.hold"), "{}", ran.out);
    assert!(!ran.out.contains('\u{fffd}'), "{}", ran.out);
}

#[tokio::test]
async fn a_real_server_explains_itself() {
    let site = folder([("index.html", b"<p>home".as_slice())]);
    let lines =
        r#"offload.servers = [{ name = "eu", url = "http://127.0.0.1:9", health = false }]"#;
    let program = program(&site, lines).await;
    program.until_usable("eu", true).await;
    program.hold_level("offload").await;
    program
        .until("everyone", |status| status["share"] == 1.0)
        .await;
    let url = format!("http://{}", program.admin);
    let ran = overspill(&["explain", "/", "--client", "203.0.113.7", "--admin", &url]).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for part in [
        "offload: ",
        "level     offload (mode enforce)",
        "among them",
        "    eu  chosen",
    ] {
        assert!(ran.out.contains(part), "{part}\n{}", ran.out);
    }
}

#[tokio::test]
async fn the_token_comes_from_a_file_or_the_environment() {
    let site = folder([("index.html", b"<p>home".as_slice())]);
    let program = program(&site, "admin.token = \"right\"").await;
    let url = format!("http://{}", program.admin);
    let private = TempDir::new().unwrap();
    let right = token_file(&private, "right\n", 0o600);
    let to_wrong = ("OVERSPILL_TOKEN", "wrong");
    let release = ["override", "--release", "--admin", &url];
    let by_file = [&release[..], &["--token-file", &right]].concat();

    let ran = with(&release, &[("OVERSPILL_TOKEN", "right")], Path::new("/")).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    // The file goes before the variable.
    let ran = with(&by_file, &[to_wrong], Path::new("/")).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    // A file that others can read still works, with a word.
    token_file(&private, "right\n", 0o644);
    let ran = with(&by_file, &[], Path::new("/")).await;
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.err.contains("everyone on this machine can read"),
        "{}",
        ran.err
    );

    let ran = with(&release, &[], Path::new("/")).await;
    assert_eq!(ran.code, Some(1));
    let parts = ["`admin.token`", "--token-file", "OVERSPILL_TOKEN"];
    assert!(
        parts.iter().all(|part| ran.err.contains(part)),
        "{}",
        ran.err
    );
    let ran = with(&release, &[to_wrong], Path::new("/")).await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("that of OVERSPILL_TOKEN is another"),
        "{}",
        ran.err
    );
    assert!(
        !ran.err.contains("wrong"),
        "no secret in an error: {}",
        ran.err
    );
}

#[tokio::test]
async fn a_file_without_a_token_is_an_error() {
    let server = AdminServer::start().await;
    let private = TempDir::new().unwrap();
    for (text, part) in [
        ("\n", "is empty"),
        ("two\nlines", "visible characters in one line"),
    ] {
        let file = token_file(&private, text, 0o600);
        let ran = overspill(&["drain", "--admin", &server.url(), "--token-file", &file]).await;
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.err.contains(part) && ran.err.contains(&file),
            "{}",
            ran.err
        );
    }
    let ran = overspill(&[
        "drain",
        "--admin",
        &server.url(),
        "--token-file",
        "/nowhere",
    ])
    .await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("/nowhere can't be read"), "{}", ran.err);
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn the_configuration_says_where_the_server_is_and_its_token() {
    let server = AdminServer::start().await;
    server.answers("/api/drain", 202, &json!({ "draining": true }));
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("config")).unwrap();
    let file = folder.path().join("config/overspill.toml");
    let port = server.address.port();
    let text =
        format!("mode = \"odd\"\nadmin = {{ listen = \"0.0.0.0:{port}\", token = \"own\" }}\n");
    fs::write(&file, text).unwrap();
    let asked = |token: Option<&str>| Asked {
        line: "POST /api/drain".to_owned(),
        token: token.map(str::to_owned),
        body: "{}".to_owned(),
    };

    let ran = with(&["drain"], &[], folder.path()).await;
    assert_eq!(
        ran.code,
        Some(0),
        "what is wrong elsewhere does not matter: {ran:?}"
    );
    assert_eq!(server.asked(), [asked(Some("Bearer own"))]);
    let ran = overspill(&["drain", "--config", file.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");

    // Another server does not get to know the token of this one.
    let other = AdminServer::start().await;
    other.answers("/api/drain", 202, &json!({}));
    let ran = with(&["drain", "--admin", &other.url()], &[], folder.path()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(other.asked(), [asked(None)]);

    fs::write(&file, "admin.listen = \"here\"").unwrap();
    let ran = with(&["drain"], &[], folder.path()).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("`admin.listen`"), "{}", ran.err);
    let ran = overspill(&["drain", "--config", "/nowhere.toml"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("/nowhere.toml"), "{}", ran.err);
}

#[tokio::test]
async fn refusals_are_told_in_words() {
    let server = AdminServer::start().await;
    let url = server.url();
    for (status, said, part) in [
        (
            403,
            "asked by another site's page\n",
            "refuses: asked by another site's page",
        ),
        (429, "", "too many wrong tokens: try again in 7 s"),
        (404, "", "does not know /api/override"),
        (400, r#"{"error":"`for`: no"}"#, "overspill: `for`: no"),
        (
            500,
            r#"{"error":"broken\u001b[2J"}"#,
            "500 Internal Server Error: broken",
        ),
        (200, "hello", "not with JSON"),
    ] {
        server.says("/api/override", status, said);
        let ran = overspill(&["override", "drop", "--for", "1m", "--admin", &url]).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
        assert!(!ran.err.contains('\x1b'));
    }
    drop(server);
    let ran = overspill(&["reload", "--admin", &url]).await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains(&format!(
            "no Overspill answers at {url}: connection refused"
        )),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn explains_what_a_client_would_get() {
    let server = AdminServer::start().await;
    let answer = json!({
        "path": "/x?a=b", "client": "203.0.113.7", "identity": "gold 1", "mode": "enforce", "level": "offload",
        "outcome": "offload", "server": "eu", "text": "the objects of the page are linked to eu",
        "share": 0.42, "place": 0.13, "in_share": true,
        "admission": { "throttled": 0.0, "dropped": 0.0, "place": 0.77, "class": null },
        "rule": { "index": 0, "servers": ["eu"] },
        "servers": [{ "name": "eu", "usable": true, "considered": true, "chosen": true, "why": "chosen: alone" },
                    { "name": "us", "usable": false, "considered": false, "chosen": false, "why": "the rule" }],
    });
    server.answers("/api/explain", 200, &answer);
    let url = server.url();
    let asking = [
        "explain",
        "/x?a=b",
        "--client",
        "203.0.113.7",
        "--identity",
        "gold 1",
        "--admin",
        &url,
    ];
    let ran = overspill(&asking).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for part in [
        "offload: the objects of the page are linked to eu\n",
        "203.0.113.7, known as gold 1",
        "42 % of the visitors are offloaded; this one's place is 0.13, below 0.42: among them",
        "offload.clients[0]: eu",
        "eu  chosen      alone",
        "us  not asked   the rule",
    ] {
        assert!(ran.out.contains(part), "{part}\n{}", ran.out);
    }
    assert_eq!(
        server.asked()[0].line,
        "GET /api/explain?path=%2Fx%3Fa%3Db&client=203.0.113.7&identity=gold+1"
    );
    let ran = overspill(&[&asking[..], &["--json"]].concat()).await;
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap(), answer);

    server.answers("/api/explain", 400, &json!({ "error": "`path`: too long" }));
    let ran = overspill(&asking).await;
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (Some(1), "overspill: `path`: too long\n")
    );
}

#[tokio::test]
async fn a_client_is_an_address_and_a_page_a_path() {
    let ran = overspill(&["explain", "/x", "--client", "here"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("expected an IP address"), "{}", ran.err);
    let ran = overspill(&["explain", "x.html", "--client", "::1"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("expected a path of the site"),
        "{}",
        ran.err
    );
    let ran = overspill(&["explain", "/x", "--identity", "me"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("--client"), "{}", ran.err);
}

#[tokio::test]
async fn every_command_teaches_with_examples() {
    let ran = overspill(&["--help"]).await;
    assert!(ran.out.contains("First steps:"), "{}", ran.out);
    for name in COMMANDS {
        assert!(
            ran.out.contains(&format!("\n  {name} ")),
            "{name}: {}",
            ran.out
        );
        if name == "help" {
            continue;
        }
        let help = with(&[name, "--help"], &[("COLUMNS", "80")], Path::new("/")).await;
        assert_eq!(help.code, Some(0));
        assert!(help.out.contains("Examples:\n"), "{}", help.out);
        assert!(
            help.out.contains(&format!("overspill {name}")),
            "{}",
            help.out
        );
        for line in help.out.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
}

#[tokio::test]
async fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = overspill(&["completions", shell]).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{shell}");
        for name in COMMANDS {
            assert!(ran.out.contains(name), "{shell}: {name}");
        }
    }
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("overspill.bash");
    fs::write(&script, overspill(&["completions", "bash"]).await.out).unwrap();
    let mut bash = tokio::process::Command::new("bash");
    let checked = soon("bash", bash.arg("-n").arg(&script).output())
        .await
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    // As a shell that has read it.
    for (words, completed) in [
        ("overspill st", "status"),
        ("overspill override of", "offload"),
    ] {
        let asks = r#"source "$0"; COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _overspill overspill "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"; echo "${COMPREPLY[*]}""#;
        let mut bash = tokio::process::Command::new("bash");
        let asked = bash
            .args(["--norc", "-c", asks])
            .arg(&script)
            .arg(words)
            .output();
        let asked = soon("bash", asked).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&asked.stdout).trim(),
            completed,
            "{asked:?}"
        );
    }
    assert_eq!(overspill(&["completions", "tcsh"]).await.code, Some(2));
}

#[tokio::test]
async fn the_manual_covers_every_command() {
    let ran = overspill(&["man"]).await;
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains(".TH overspill 1"), "{}", ran.out);
    let folder = TempDir::new().unwrap();
    let pages = folder.path().join("man1");
    let ran_out = overspill(&["man", "--out", pages.to_str().unwrap()]).await;
    assert_eq!(ran_out.code, Some(0), "{ran_out:?}");
    assert!(pages.join("overspill.1").exists());
    for name in COMMANDS.iter().filter(|name| **name != "help") {
        assert!(
            ran.out
                .contains(&format!("OVERSPILL {}", name.to_uppercase())),
            "{name}"
        );
        let page = fs::read_to_string(pages.join(format!("overspill-{name}.1"))).unwrap();
        assert!(page.contains(".SH EXAMPLES\n"), "{name}");
    }
    let mut groff = tokio::process::Command::new("groff");
    let page = pages.join("all.1");
    fs::write(&page, &ran.out).unwrap();
    groff
        .args(["-man", "-Tutf8", "-ww"])
        .arg(&page)
        .stdin(Stdio::null());
    match groff.output().await {
        Ok(made) => {
            assert!(
                made.status.success() && made.stderr.is_empty(),
                "{}",
                String::from_utf8_lossy(&made.stderr)
            );
            assert!(String::from_utf8_lossy(&made.stdout).contains("Watch a running server"));
        }
        // Not everywhere.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
    }
}
