//! Servers that come and go while the program runs: from a file, and by a real name server.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    client::{get, visitor},
    config::Config,
    dns::{NAME, NameServer},
    folder,
    offload_server::OffloadServer,
    program::{Program, named, run},
    wait::until,
};

const PAGE: &[u8] = b"<!doctype html><img src=\"/a.png\"><img src=\"/b.png\">";

fn site() -> TempDir {
    folder([
        ("index.html", PAGE),
        ("a.png", &[1; 3000]),
        ("b.png", &[2; 5000]),
    ])
}

fn config(site: &TempDir, lines: &str) -> Config {
    Config::new(format!(
        "primary.site = {:?}\noffload.share = 1.0\n{lines}",
        site.path()
    ))
}

/// Writes a file as whoever cares for its readers does.
fn replace(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::rename(&beside, path).unwrap();
}

fn file_of(entries: &[String]) -> String {
    format!("servers = [{}]\n", entries.join(", "))
}

fn names(status: &Value) -> BTreeSet<String> {
    let servers = status["servers"].as_array().unwrap();
    let name = |server: &Value| server["name"].as_str().unwrap().to_owned();
    servers.iter().map(name).collect()
}

async fn until_names(program: &Program, expected: &[&str]) -> Value {
    let expected: BTreeSet<_> = expected.iter().map(|name| (*name).to_owned()).collect();
    let what = format!("the servers are {expected:?}");
    program
        .until(&what, |status| names(status) == expected)
        .await
}

/// Waits until the log says so: it comes by a pipe.
async fn until_logged(program: &Program, words: &str) {
    until(format_args!("the log says {words:?}"), async || {
        program.log().contains(words).then_some(())
    })
    .await;
}

/// Which of the servers' URLs a page links to.
async fn links_to(program: &Program, number: usize) -> String {
    let page = get("/").from(visitor(number)).ask(program.site).await;
    assert_eq!(page.status, 200);
    let text = page.text();
    let from = text.find("src=\"").unwrap() + 5;
    let url = text[from..].split("/a.png").next().unwrap().to_owned();
    let moved = String::from_utf8_lossy(PAGE).replace("=\"/", &format!("=\"{url}/"));
    assert_eq!(text, moved, "the page is whole, and of one server");
    url
}

#[tokio::test]
async fn a_file_is_followed_and_who_stays_keeps_what_is_known_of_it() {
    let site = site();
    let (a, b) = (
        OffloadServer::start(site.path(), 0.1).await,
        OffloadServer::start(site.path(), 0.1).await,
    );
    let own = OffloadServer::start(site.path(), 0.1).await;
    let folder = folder([]);
    let path = folder.path().join("servers.toml");
    replace(&path, &file_of(&[a.entry("a", "")]));
    let program = Program::serve(&config(
        &site,
        &format!(
            "offload.servers = [{}]\noffload.discovery.file = {path:?}",
            own.entry("own", "threshold = 0.05,")
        ),
    ))
    .await;
    assert_eq!(
        names(&program.status().await),
        ["a", "own"].map(String::from).into(),
        "what the file names is there from the start"
    );
    program.until_usable("a", true).await;
    program.hold_level("offload").await;
    for number in 0..5 {
        assert_eq!(links_to(&program, number).await, a.url());
    }
    let before = program.server("a").await;
    assert_eq!(before["source"], "file");
    assert_eq!(program.server("own").await["source"], "configuration");
    assert!(before["links"].as_u64().unwrap() >= 10, "{before}");

    // One comes, one changes a little.
    replace(
        &path,
        &file_of(&[a.entry("a", "price = 0.5,"), b.entry("b", "price = 0.5,")]),
    );
    until_names(&program, &["a", "b", "own"]).await;
    let after = program.server("a").await;
    for key in ["links", "pages", "assigned_bytes"] {
        assert!(
            after[key].as_u64() >= before[key].as_u64(),
            "{key}: {after}"
        );
    }
    assert_eq!(after["health"], "well", "it need not be probed anew");
    assert_eq!(after["ramp"], 1.0);
    assert!(
        after["cost"].as_f64().unwrap() > 0.0,
        "the new price: {after}"
    );
    program.until_usable("b", true).await;
    let mut seen = BTreeSet::new();
    for number in 0..60 {
        seen.insert(links_to(&program, number).await);
    }
    assert_eq!(seen, [a.url(), b.url()].into());

    // One goes.
    replace(&path, &file_of(&[b.entry("b", "price = 0.5,")]));
    until_names(&program, &["b", "own"]).await;
    for number in 0..10 {
        assert_eq!(links_to(&program, number).await, b.url());
    }
    assert_eq!(program.status().await["level"], "offload");
    assert_eq!(program.status().await["discovery"][0]["servers"], 1);
}

#[tokio::test]
async fn a_broken_file_keeps_what_was_and_is_told_by_its_key() {
    let site = site();
    let a = OffloadServer::start(site.path(), 0.1).await;
    let folder = folder([]);
    let path = folder.path().join("servers.toml");
    replace(&path, &file_of(&[a.entry("a", "")]));
    let program = Program::serve(&config(
        &site,
        &format!("offload.discovery.file = {path:?}"),
    ))
    .await;
    program.until_usable("a", true).await;
    for (content, reason) in [
        (
            file_of(&[a.entry("a", ""), a.entry("b", "threshold = -1,")]),
            "`servers[1].threshold` expected a ratio",
        ),
        (
            file_of(&[a.entry("a", ""), a.entry("a", "")]),
            "`servers[1].name` must be unlike every other server's, found \"a\" at `servers[0]` too",
        ),
        ("servers = [".to_owned(), "can't be read as TOML"),
        (
            "[[server]]\nname = \"a\"\n".to_owned(),
            "`server` is no key of this file",
        ),
        ("\u{0}".repeat(5_000_000), "it is longer than"),
    ] {
        replace(&path, &content);
        let status = program
            .until(reason, |status| {
                let error = status["discovery"][0]["error"].as_str();
                error.is_some_and(|error| error.contains(reason))
            })
            .await;
        assert_eq!(named(&status["servers"], "a")["usable"], true, "{reason}");
        until_logged(&program, "what was known from it stays").await;
    }
    fs::remove_file(&path).unwrap();
    program
        .until("the file is missed", |status| {
            let error = status["discovery"][0]["error"].as_str();
            error.is_some_and(|error| error.contains("No such file"))
        })
        .await;
    assert_eq!(program.server("a").await["usable"], true);
    // A pipe that nobody writes to keeps nobody waiting.
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    program
        .until("the pipe is told", |status| {
            let error = status["discovery"][0]["error"].as_str();
            error == Some("it is no regular file")
        })
        .await;
    // Once it is in order it counts again.
    replace(&path, &file_of(&[a.entry("other", "")]));
    until_names(&program, &["other"]).await;
    // The servers are there a moment before it is told.
    let is_well = |status: &Value| status["discovery"][0]["error"].is_null();
    program.until("nothing is wrong any more", is_well).await;
    assert_eq!(program.terminate().await, Some(0));
}

#[tokio::test]
async fn a_file_that_is_written_in_two_goes_takes_nobody_away() {
    let site = site();
    let folder = folder([]);
    let path = folder.path().join("servers.toml");
    let entry = |name: &str, port: u16| {
        format!("{{ name = \"{name}\", url = \"http://127.0.0.1:{port}\", health = false }}")
    };
    let both = [entry("a", 1), entry("b", 2)];
    replace(&path, &file_of(&both));
    let program = Program::serve(&config(
        &site,
        &format!("offload.discovery.file = {path:?}\noffload.discovery.keep = \"5m\""),
    ))
    .await;
    until_names(&program, &["a", "b"]).await;
    // The first goes of both, as they are seen: nothing, and the first server.
    for (half, says) in [
        (String::new(), "\"gone\":2"),
        (file_of(&both[..1]), "\"gone\":1"),
    ] {
        fs::write(&path, half).unwrap();
        until_logged(&program, says).await;
        assert_eq!(
            names(&program.status().await),
            ["a", "b"].map(String::from).into()
        );
    }
    let three = [entry("a", 1), entry("b", 2), entry("c", 3)];
    fs::write(&path, file_of(&three)).unwrap();
    let status = until_names(&program, &["a", "b", "c"]).await;
    assert_eq!(status["servers"].as_array().unwrap().len(), 3);
    let read = || {
        let log = program.log();
        log.matches("`offload.discovery.file` was read").count()
    };
    until("both whole ones", async || (read() >= 2).then_some(())).await;
    assert_eq!(read(), 2, "the whole ones alone");
}

fn template() -> &'static str {
    "{ url = \"http://{host}:{port}\", cors = true, \
     report = { kind = \"orca\", url = \"http://{host}:{port}/.overspill/load\", every = \"500ms\" }, \
     health = { path = \"/.overspill/health\", every = \"100ms\" } }"
}

fn by_srv(site: &TempDir, name_server: &NameServer, lines: &str) -> Config {
    config(
        site,
        &format!(
            "offload.discovery.srv = {NAME:?}\n\
             offload.discovery.name_server = \"{}\"\n\
             offload.discovery.every = \"1s\"\n\
             offload.discovery.template = {}\n{lines}",
            name_server.address,
            template()
        ),
    )
}

#[tokio::test]
async fn a_name_servers_records_become_servers_and_go_when_they_are_left_out() {
    let site = site();
    let (a, b) = (
        OffloadServer::start(site.path(), 0.1).await,
        OffloadServer::start(site.path(), 0.1).await,
    );
    let (port_a, port_b) = (a.address.port(), b.address.port());
    let (name_a, name_b) = (format!("localhost:{port_a}"), format!("localhost:{port_b}"));
    let name_server = NameServer::start(&[(10, 1, port_a, "localhost")]).await;
    let program = Program::serve(&by_srv(
        &site,
        &name_server,
        "offload.discovery.keep = \"2s\"",
    ))
    .await;
    until_names(&program, &[&name_a]).await;
    let found = program.until_usable(&name_a, true).await;
    assert_eq!(found["source"], "srv");
    program.hold_level("offload").await;
    assert_eq!(links_to(&program, 1).await, format!("http://{name_a}"));

    // A second one that is preferred, and takes all.
    name_server
        .set(&[(10, 1, port_a, "localhost"), (5, 1, port_b, "localhost")])
        .await;
    until_names(&program, &[&name_a, &name_b]).await;
    program.until_usable(&name_b, true).await;
    for number in 0..10 {
        assert_eq!(links_to(&program, number).await, format!("http://{name_b}"));
    }
    let before = program.server(&name_b).await;

    // The first is left out: it goes after a while, and nothing happens to the other.
    name_server.set(&[(5, 1, port_b, "localhost")]).await;
    until_names(&program, &[&name_b]).await;
    let after = program.server(&name_b).await;
    assert_eq!(after["usable"], true);
    assert!(after["assigned_bytes"].as_u64() >= before["assigned_bytes"].as_u64());
    assert!(after["assigned_bytes"].as_u64() > Some(0));

    // An answer without a record changes nothing, and is told.
    name_server.set(&[]).await;
    program
        .until("the empty answer is told", |status| {
            let error = status["discovery"][0]["error"].as_str();
            error.is_some_and(|error| error.contains("names no server: the 1 that are known stay"))
        })
        .await;
    assert_eq!(names(&program.status().await), [name_b.clone()].into());

    // Neither does a name server that is gone.
    drop(name_server);
    program
        .until("the silence is told", |status| {
            let error = status["discovery"][0]["error"].as_str();
            error.is_some_and(|error| !error.contains("names no server"))
        })
        .await;
    assert_eq!(links_to(&program, 3).await, format!("http://{name_b}"));
    assert_eq!(program.status().await["level"], "offload");
}

#[tokio::test]
async fn of_a_long_answer_the_first_records_count_and_of_one_that_is_too_long_none() {
    let site = site();
    let targets: Vec<_> = (0..10_000_u16)
        .map(|number| format!("s{number}.x"))
        .collect();
    let records = |count: usize| -> Vec<_> {
        let targets = targets.iter().take(count).enumerate();
        targets
            .map(|(number, target)| (number as u16 / 100, 1, 81, target.as_str()))
            .collect()
    };
    let name_server = NameServer::start(&records(1_000)).await;
    let lines = "offload.discovery.keep = \"0s\"";
    let program = Program::serve(&by_srv(&site, &name_server, lines)).await;
    let told = async |what: &str| {
        let status = program
            .until(what, |status| {
                let error = status["discovery"][0]["error"].as_str();
                error.is_some_and(|error| error.contains(what))
            })
            .await;
        until_logged(&program, what).await;
        assert_eq!(names(&status).len(), 256);
    };
    told("names 1000 servers, of which the first 256 count").await;
    // No message of DNS holds so many: what comes is cut.
    name_server.set(&records(10_000)).await;
    told("the 256 that are known stay").await;
    name_server.set(&[(0, 0, 81, "s1.x")]).await;
    until_names(&program, &["s1.x:81"]).await;
}

#[tokio::test]
async fn a_crowd_notices_nothing_of_servers_that_come_and_go() {
    let site = site();
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(OffloadServer::start(site.path(), 0.1).await);
    }
    let folder = folder([]);
    let path = folder.path().join("servers.toml");
    let entry = |number: usize| servers[number].entry(&format!("s{number}"), "");
    replace(&path, &file_of(&[entry(0)]));
    let program = Program::serve(&config(
        &site,
        &format!("offload.discovery.file = {path:?}\noffload.hold = \"1h\""),
    ))
    .await;
    program.until_usable("s0", true).await;
    program.hold_level("offload").await;
    let lists: [&[usize]; 5] = [&[0, 1], &[1, 2], &[2], &[2, 0], &[0, 1, 2]];
    for list in lists {
        let entries: Vec<_> = list.iter().map(|number| entry(*number)).collect();
        let wanted: BTreeSet<_> = list.iter().map(|number| format!("s{number}")).collect();
        replace(&path, &file_of(&entries));
        let mut visits = 0;
        until(format!("{wanted:?}"), async || {
            // Each page links to one server, and what it links to is there.
            for _ in 0..5 {
                visits += 1;
                let url = links_to(&program, visits % 200).await;
                let place = url.strip_prefix("http://").unwrap();
                let object = get("/b.png").ask(place.parse().unwrap()).await;
                assert_eq!((object.status, object.body.len()), (200, 5000));
            }
            (names(&program.status().await) == wanted).then_some(())
        })
        .await;
        for name in &wanted {
            program.until_usable(name, true).await;
        }
    }
    let status = program.status().await;
    assert_eq!(status["level"], "offload");
    assert_eq!(status["requests"]["throttled"], 0);
    assert_eq!(status["requests"]["dropped"], 0);
}

#[tokio::test]
async fn rules_wait_for_servers_that_are_yet_to_be_found() {
    let site = site();
    let (a, gold) = (
        OffloadServer::start(site.path(), 0.1).await,
        OffloadServer::start(site.path(), 0.1).await,
    );
    let folder = folder([]);
    let path = folder.path().join("servers.toml");
    let program = Program::serve(&config(
        &site,
        &format!(
            "offload.servers = [{}]\n\
             offload.identity = {{ cookie = \"who\" }}\n\
             offload.clients = [{{ identity = \"gold\", servers = [\"gold\"] }}]\n\
             offload.discovery.file = {path:?}",
            a.entry("a", "")
        ),
    ))
    .await;
    program.until_usable("a", true).await;
    program.hold_level("offload").await;
    let page = async |who: &str| {
        let page = get("/").header("Cookie", &format!("who={who}"));
        page.ask(program.site).await.text().to_owned()
    };
    assert!(page("gold").await.contains("src=\"/a.png\""));
    assert!(page("iron").await.contains(&a.url()));
    replace(&path, &file_of(&[gold.entry("gold", "")]));
    until_names(&program, &["a", "gold"]).await;
    program.until_usable("gold", true).await;
    assert!(page("gold").await.contains(&gold.url()));
}

#[tokio::test]
async fn check_looks_into_the_file_of_servers() {
    let folder = folder([]);
    let path = folder.path().join("servers.toml");
    let config = format!("offload.discovery.file = {path:?}");
    let missing = run(&["check"], &with_site(&config, folder.path())).await;
    assert_eq!(missing.code, Some(0), "{missing:?}");
    assert!(missing.stderr.contains("can't be read yet"), "{missing:?}");
    replace(&path, "[[servers]]\nname = \"a\"\nurl = \"a.example\"\n");
    let broken = run(&["check"], &with_site(&config, folder.path())).await;
    assert_eq!(broken.code, Some(1), "{broken:?}");
    assert!(
        broken.stderr.contains("`servers[0].url` must be a URL"),
        "{broken:?}"
    );
    assert!(broken.stderr.contains("servers.toml"), "{broken:?}");
}

fn with_site(lines: &str, site: &Path) -> String {
    format!("primary.site = {site:?}\n{lines}\n")
}
