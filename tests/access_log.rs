//! The access log of the built program: what stands in it, that nobody can forge it, and that no line is lost.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body, extract::Request, routing::get as on_get};
use futures_util::StreamExt;
use http::{HeaderMap, Response};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use crate::support::{
    self,
    client::{connect, get, request, visitor},
    config::Config,
    curl::curl,
    folder,
    offload_server::OffloadServer,
    program::{Program, run},
    small_site,
    upstream::{Upstream, drips},
    wait::until,
};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The program's access log.
fn log_of(program: &Program) -> PathBuf {
    program.config_file().with_file_name("access.log")
}

fn lines_in(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The lines as soon as there are `count`.
async fn lines(program: &Program, count: usize) -> Vec<String> {
    let path = log_of(program);
    until(format_args!("{count} lines"), async || {
        let lines = lines_in(&path);
        (lines.len() >= count).then_some(lines)
    })
    .await
}

/// The last line about `target`, once there is one.
async fn entry(program: &Program, target: &str) -> Value {
    let path = log_of(program);
    until(format_args!("a line about {target}"), async || {
        let entries = lines_in(&path).into_iter().rev();
        let mut entries = entries.map(|line| serde_json::from_str::<Value>(&line).unwrap());
        entries.find(|entry| entry["target"] == target)
    })
    .await
}

async fn signal(program: &Program, name: &str) {
    let kill = Command::new("kill")
        .args([name, &program.id().to_string()])
        .status();
    assert!(kill.await.unwrap().success());
}

const JSON: &str = "access_log.path = \"access.log\"\naccess_log.format = \"json\"";

#[tokio::test]
async fn without_a_path_there_is_no_log_and_the_signal_does_no_harm() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "")).await;
    signal(&program, "-USR1").await;
    assert_eq!(get("/").ask(program.site).await.status, 200);
    assert!(!log_of(&program).exists());
    let metrics = get("/metrics").ask(program.admin).await;
    assert!(!metrics.text().contains("overspill_access_log"));
}

#[tokio::test]
async fn common_and_combined_read_as_usual_with_the_decision_at_their_end() {
    let site = small_site();
    for (format, middle) in [
        ("common", ""),
        ("combined", " \"http://b.example/\" \"x/1.0\""),
    ] {
        let lines_of =
            format!("access_log.path = \"access.log\"\naccess_log.format = \"{format}\"");
        let program = Program::serve(&Config::of_site(&site, &lines_of)).await;
        let asked = get("/a.png?v=1")
            .header("Referer", "http://b.example/")
            .header("User-Agent", "x/1.0")
            .from(visitor(7));
        assert_eq!(asked.ask(program.site).await.status, 200);
        let line = lines(&program, 1).await.remove(0);
        let (before, after) = line.split_once(']').unwrap();
        let (client, time) = before.split_once('[').unwrap();
        assert_eq!(client, "127.1.0.7 - - ");
        // 28/Nov/2026:14:00:00 +0000
        let shape: String = time
            .chars()
            .map(|c| match c {
                '0'..='9' => '0',
                'A'..='Z' | 'a'..='z' => 'a',
                '-' => '+',
                other => other,
            })
            .collect();
        assert_eq!(shape, "00/aaa/0000:00:00:00 +0000", "{time}");
        let expected =
            format!(" \"GET /a.png?v=1 HTTP/1.1\" 200 3{middle} \"served\" \"normal\" \"-\"");
        assert_eq!(after, expected);
        let mode = fs::metadata(log_of(&program)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777 & !0o640, 0, "{mode:o}");
    }
}

#[tokio::test]
async fn every_outcome_is_told_with_its_reason_and_server() {
    let site = small_site();
    let server = OffloadServer::start(site.path(), 0.1).await;
    let program = Program::serve(&Config::of_site(
        &site,
        &format!(
            "{JSON}\noffload.servers = [{}]\noffload.redirect = [\"/r/**\"]\noffload.token = \"secret\"\n\
             throttle.bypass.paths = [\"/healthz\"]",
            server.entry("eu", "")
        ),
    ))
    .await;
    program.until_usable("eu", true).await;
    let ask = async |target: &str| {
        let asked = get(target).header("Accept", "text/html");
        let status = asked
            .try_ask(program.site)
            .await
            .map(|answer| answer.status);
        let entry = entry(&program, target).await;
        assert_eq!(status.unwrap_or(444), entry["status"], "{entry}");
        entry
    };
    let told = |entry: &Value| {
        let text = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
        ["level", "outcome", "reason", "server"].map(text).join(" ")
    };

    let page = ask("/?1").await;
    assert_eq!(told(&page), "normal served normal -");
    let length = fs::metadata(site.path().join("index.html")).unwrap().len();
    assert_eq!(page["bytes"], length);
    assert_eq!(page["method"], "GET");
    assert_eq!(page["protocol"], "HTTP/1.1");
    assert_eq!(page["host"], "site.example");
    assert_eq!(page["client"], "127.0.0.1");
    assert_eq!(page["sampled"], 1);
    assert_eq!(page["aborted"], false);
    assert_eq!(page["trace_id"], Value::Null);
    assert!(page["duration"].as_f64().unwrap() > 0.0);
    assert_eq!(told(&ask("/healthz").await), "normal bypassed exempt -");
    assert_eq!(told(&ask("//").await), "normal refused - -");
    let pull = get("/a.png?pull").header("X-Overspill-Token", "secret");
    assert_eq!(pull.ask(program.site).await.status, 200);
    assert_eq!(
        told(&entry(&program, "/a.png?pull").await),
        "normal bypassed pull -"
    );
    let head = request("HEAD", "/a.png?head").ask(program.site).await;
    assert_eq!(head.status, 200);
    let head = entry(&program, "/a.png?head").await;
    assert_eq!(
        (&head["bytes"], &head["aborted"]),
        (&0.into(), &false.into())
    );

    program.hold_level("offload").await;
    assert_eq!(told(&ask("/?2").await), "offload offloaded in_share eu");
    assert_eq!(told(&ask("/a.png?2").await), "offload served object -");
    let redirected = ask("/r/a").await;
    assert_eq!(told(&redirected), "offload redirected in_share eu");
    assert_eq!(redirected["status"], 307);

    program.hold_level("throttle").await;
    let throttled = ask("/?3").await;
    assert_eq!(told(&throttled), "throttle throttled turned_away -");
    assert_eq!(throttled["status"], 503);

    // The server has this address, so the gate lets it pass.
    program.hold_level("drop").await;
    let dropped = ask("/?4").await;
    assert_eq!(told(&dropped), "drop dropped drop_held -");
    assert_eq!(
        (&dropped["bytes"], &dropped["aborted"]),
        (&0.into(), &true.into())
    );
    let over_h2 = curl(&[
        "--http2-prior-knowledge",
        &format!("http://{}/?5", program.site),
    ])
    .await;
    assert_ne!(over_h2.code, Some(0));
    let dropped = entry(&program, "/?5").await;
    assert_eq!(told(&dropped), "drop dropped drop_held -");
    assert_eq!(dropped["protocol"], "HTTP/2.0");

    // Anybody else is closed at the gate, unheard.
    assert_eq!(get("/?6").from(visitor(1)).bytes(program.site).await, b"");
    let closed = until("a line of the gate", async || {
        let lines = lines_in(&log_of(&program)).into_iter();
        let mut entries = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
        entries.find(|entry| entry["client"] == "127.1.0.1")
    })
    .await;
    assert_eq!(told(&closed), "drop dropped gate -");
    assert_eq!(
        (&closed["status"], &closed["method"]),
        (&444.into(), &Value::Null)
    );

    let metrics = get("/metrics").ask(program.admin).await;
    assert!(
        metrics
            .text()
            .contains("overspill_access_log_lines_total{result=\"written\"}"),
        "{}",
        metrics.text()
    );
}

#[tokio::test]
async fn in_report_mode_a_line_says_what_would_be() {
    let site = small_site();
    let lines = format!("{JSON}\nmode = \"report\"");
    let program = Program::serve(&Config::of_site(&site, &lines)).await;
    program.hold_level("throttle").await;
    let asked = get("/?1").header("Accept", "text/html");
    assert_eq!(asked.ask(program.site).await.status, 200);
    let would = entry(&program, "/?1").await;
    assert_eq!(
        (&would["outcome"], &would["report"], &would["status"]),
        (&"throttled".into(), &true.into(), &200.into())
    );
}

#[tokio::test]
async fn an_answer_that_is_given_up_is_told_from_a_whole_one() {
    let upstream = Router::new()
        .route(
            "/never",
            on_get(async || std::future::pending::<String>().await),
        )
        .route(
            "/drips",
            on_get(async || Response::new(drips(b"drip", std::future::pending(), ""))),
        )
        .route(
            "/breaks",
            on_get(async || {
                // The head goes out before it breaks.
                let begins = futures_util::stream::once(async { Ok("some") });
                let breaks = futures_util::stream::once(async {
                    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                    Err(std::io::Error::other("no more"))
                });
                Response::new(Body::from_stream(begins.chain(breaks)))
            }),
        );
    let upstream = Upstream::start(upstream).await;
    let lines = format!("{JSON}\nprimary.upstream = \"http://{}\"", upstream.address);
    let program = Program::serve(&Config::new(lines)).await;
    for (target, awaited, status, bytes) in [
        ("/never", &b""[..], 499, 0..1),
        ("/drips", b"drip", 200, 4..100),
    ] {
        let mut stream = connect(visitor(1), program.site).await.unwrap();
        stream
            .write_all(get(target).text().as_bytes())
            .await
            .unwrap();
        let mut read = Vec::new();
        while !read
            .windows(awaited.len().max(1))
            .any(|part| part == awaited)
            && !awaited.is_empty()
        {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0);
        }
        if awaited.is_empty() {
            program
                .until("it is under way", |status| status["in_flight"] == 1)
                .await;
        }
        drop(stream);
        let given_up = entry(&program, target).await;
        assert_eq!(given_up["status"], status, "{given_up}");
        assert!(
            bytes.contains(&given_up["bytes"].as_u64().unwrap()),
            "{given_up}"
        );
        assert_eq!(given_up["aborted"], true);
    }
    let url = format!("http://{}/never?http2", program.site);
    let said = curl(&["--http2-prior-knowledge", "--max-time", "1", &url]).await;
    assert_eq!(said.stdout, "");
    assert_eq!(entry(&program, "/never?http2").await["status"], 499);
    get("/breaks").bytes(program.site).await;
    assert_eq!(entry(&program, "/breaks").await["aborted"], true);
}

#[tokio::test]
async fn nobody_forges_a_line() {
    let site = small_site();
    let evil = "a\" 200 5 \"-\" \"\\x1b\x1b[2J\u{9b}31m\t";
    for format in ["common", "combined", "json"] {
        let lines_of =
            format!("access_log.path = \"access.log\"\naccess_log.format = \"{format}\"");
        let program = Program::serve(&Config::of_site(&site, &lines_of)).await;
        let asked = format!(
            "GET /\"\u{e9}?{{}} HTTP/1.1\r\nHost: a.example\r\nReferer: {evil}\r\nUser-Agent: {evil}\r\nConnection: close\r\n\r\n"
        );
        support::raw::exchange(program.site, asked).await;
        let asked = "GET /last HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
        support::raw::exchange(program.site, asked).await;
        let path = log_of(&program);
        // In any order: what can't be read is told when its connection has ended.
        let lines = until("both lines", async || {
            let lines = lines_in(&path);
            (lines.len() >= 2).then_some(lines)
        })
        .await;
        assert!(lines.len() == 2 && lines.iter().any(|line| line.contains("/last")));
        for line in lines {
            assert!(
                line.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                "{line}"
            );
            match format {
                "json" => _ = serde_json::from_str::<Value>(&line).unwrap(),
                "common" => assert_eq!(line.matches('"').count(), 8, "{line}"),
                _ => assert_eq!(line.matches('"').count(), 12, "{line}"),
            }
        }
    }
}

#[tokio::test]
async fn trusted_proxies_name_the_client_and_others_do_not() {
    let site = small_site();
    let lines = format!("{JSON}\nprimary.trusted_proxies = [\"127.1.0.1\"]");
    let program = Program::serve(&Config::of_site(&site, &lines)).await;
    for (from, client) in [(1, "203.0.113.9"), (2, "127.1.0.2")] {
        let target = format!("/?{from}");
        let asked = get(&target)
            .header("X-Forwarded-For", "203.0.113.9")
            .from(visitor(from));
        assert_eq!(asked.ask(program.site).await.status, 200);
        assert_eq!(entry(&program, &target).await["client"], client);
    }
}

#[tokio::test]
async fn a_file_that_is_rotated_loses_no_line() {
    const REQUESTS: usize = 600;
    let site = small_site();
    let logs = tempfile::tempdir().unwrap();
    let path = logs.path().join("access.log");
    let lines = format!("access_log.format = \"json\"\naccess_log.path = {path:?}");
    let program = Program::serve(&Config::of_site(&site, &lines)).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let asking: Vec<_> = (0..3)
        .map(|_| {
            let (asked, site) = (asked.clone(), program.site);
            tokio::spawn(async move {
                loop {
                    let number = asked.fetch_add(1, Ordering::SeqCst);
                    if number >= REQUESTS {
                        return;
                    }
                    let target = format!("/a.png?{number}");
                    assert_eq!(get(&target).ask(site).await.status, 200);
                }
            })
        })
        .collect();
    for number in 0..5 {
        until("some more requests", async || {
            (asked.load(Ordering::SeqCst) > number * 100).then_some(())
        })
        .await;
        fs::rename(&path, path.with_extension(format!("log.{number}"))).unwrap();
        signal(&program, "-USR1").await;
        until("a new file", async || path.exists().then_some(())).await;
    }
    for task in asking {
        task.await.unwrap();
    }
    // What waits is written before it ends.
    assert_eq!(program.terminate().await, Some(0));
    let mut targets = BTreeSet::new();
    let mut files = 0;
    for file in fs::read_dir(logs.path()).unwrap() {
        files += 1;
        for line in lines_in(&file.unwrap().path()) {
            let entry: Value = serde_json::from_str(&line).unwrap();
            assert!(targets.insert(entry["target"].to_string()), "twice: {line}");
        }
    }
    assert_eq!((files, targets.len()), (6, REQUESTS));
}

#[tokio::test]
async fn what_a_full_disk_loses_is_counted_and_serving_goes_on() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "access_log.path = \"/dev/full\"")).await;
    for _ in 0..3 {
        assert_eq!(get("/").ask(program.site).await.status, 200);
    }
    until("they are counted", async || {
        let metrics = get("/metrics").ask(program.admin).await;
        metrics
            .text()
            .contains("overspill_access_log_lines_total{result=\"dropped\"} 3")
            .then_some(())
    })
    .await;
    assert!(program.log().contains("can't write the access log"));
    assert_eq!(program.terminate().await, Some(0));
}

#[tokio::test]
async fn a_path_that_is_no_file_is_a_problem_of_the_configuration() {
    let site = small_site();
    for path in ["/nowhere/access.log", "/"] {
        let lines = format!("access_log.path = {path:?}");
        let ended = run(&["serve"], &Config::of_site(&site, &lines).to_string()).await;
        assert_ne!(ended.code, Some(0));
        assert!(
            ended
                .stderr
                .contains("`access_log.path` must be a file that can be written to"),
            "{}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn a_part_gets_lines_and_a_crowd_no_more_than_the_rate() {
    let site = small_site();
    let lines = format!("{JSON}\naccess_log.rate = 1");
    let program = Program::serve(&Config::of_site(&site, &lines)).await;
    program.hold_level("offload").await;
    let begun = std::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(get("/a.png").ask(program.site).await.status, 200);
    }
    let most = begun.elapsed().as_secs() + 2;
    program.hold_level("normal").await;
    get("/last").ask(program.site).await;
    entry(&program, "/last").await;
    let entries: Vec<Value> = lines_in(&log_of(&program))
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(entries.len() as u64 <= most + 1, "{entries:?}");
    let stood_for: u64 = entries
        .iter()
        .map(|entry| entry["sampled"].as_u64().unwrap())
        .sum();
    assert_eq!(stood_for, 51, "{entries:?}");
}

#[tokio::test]
async fn lines_go_to_stderr_too() {
    let site = small_site();
    let program = Program::serve(&Config::of_site(&site, "access_log.path = \"stderr\"")).await;
    get("/a.png?here").ask(program.site).await;
    until("the line", async || {
        program
            .log()
            .contains("\"GET /a.png?here HTTP/1.1\" 200 3")
            .then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs goaccess"]
async fn goaccess_reads_every_line() {
    let site = small_site();
    for format in ["common", "combined"] {
        let lines_of = format!(
            "access_log.path = \"access.log\"\naccess_log.format = \"{format}\"\naccess_log.rate = 1000000"
        );
        let program = Program::serve(&Config::of_site(&site, &lines_of)).await;
        let ask = async |number: usize| {
            let asked = get("/?a=b").header("User-Agent", "a \"b\" \\ c");
            asked.from(visitor(number)).bytes(program.site).await
        };
        for (number, level) in ["normal", "offload", "throttle", "drop"].iter().enumerate() {
            program.hold_level(level).await;
            ask(number).await;
        }
        let path = log_of(&program);
        lines(&program, 4).await;
        let report = path.with_extension("json");
        let read = Command::new("goaccess")
            .arg(&path)
            .arg(format!("--log-format={}", format.to_uppercase()))
            .args(["--no-progress", "-o"])
            .arg(&report)
            .output()
            .await
            .unwrap();
        assert!(read.status.success(), "{read:?}");
        let report: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
        let general = &report["general"];
        assert_eq!(general["valid_requests"], 4, "{general}");
        assert_eq!(general["failed_requests"], 0, "{general}");
    }
}

#[tokio::test]
async fn an_edge_says_how_its_answers_came_about() {
    let site = folder([("a.png", b"png".as_slice())]);
    let primary = Program::serve(&Config::of_site(&site, "")).await;
    let lines = format!("{JSON}\nedge.primary = \"http://{}\"", primary.site);
    let edge = Program::edge(&Config::new(lines)).await;
    for (target, outcome) in [("/a.png", "miss"), ("/a.png", "hit")] {
        let answer = get(target).host("127.0.0.1").ask(edge.site).await;
        assert_eq!(answer.status, 200);
        until("the line", async || {
            (entry(&edge, target).await["outcome"] == outcome).then_some(())
        })
        .await;
    }
    let line = entry(&edge, "/a.png").await;
    assert_eq!((&line["bytes"], &line["level"]), (&3.into(), &Value::Null));
    let metrics = get("/metrics").ask(edge.admin).await;
    let counted = "overspill_edge_access_log_lines_total{result=\"written\"} 2";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
}

/// A server that says which trace it was told of.
async fn tells_trace() -> Upstream {
    let told = async |request: Request| {
        let value = |headers: &HeaderMap, name: &str| {
            let values = headers.get_all(name).iter();
            let values: Vec<_> = values.map(|value| value.to_str().unwrap()).collect();
            values.join(",")
        };
        let headers = request.headers();
        format!(
            "{} {}",
            value(headers, "traceparent"),
            value(headers, "tracestate")
        )
    };
    Upstream::start(Router::new().fallback(told)).await
}

#[tokio::test]
async fn a_trace_goes_on_to_the_upstream_as_it_came_and_what_is_none_does_not() {
    let upstream = tells_trace().await;
    let lines = format!("{JSON}\nprimary.upstream = \"http://{}\"", upstream.address);
    let program = Program::serve(&Config::new(lines)).await;
    for (number, (parents, passes)) in [
        (vec![TRACE], true),
        (vec![], false),
        (
            vec!["00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"],
            false,
        ),
        (
            vec!["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            false,
        ),
        (vec![TRACE, TRACE], false),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/{number}");
        let mut asked = get(&target).header("Tracestate", "a=b");
        for parent in parents {
            asked = asked.header("Traceparent", parent);
        }
        let answer = asked.ask(program.site).await;
        let (told, trace) = match passes {
            true => (format!("{TRACE} a=b"), Value::from(&TRACE[3..35])),
            false => (" ".to_owned(), Value::Null),
        };
        assert_eq!(answer.text(), told);
        assert_eq!(entry(&program, &target).await["trace_id"], trace);
    }
}

#[tokio::test]
async fn server_timing_tells_visitors_and_no_cache() {
    let upstream = Upstream::start(Router::new().fallback(async || {
        let mut response = Response::new(Body::from("x"));
        response
            .headers_mut()
            .insert("server-timing", "db;dur=53".parse().unwrap());
        response
    }))
    .await;
    let lines = format!(
        "primary.upstream = \"http://{}\"\noffload.token = \"secret\"",
        upstream.address
    );
    let told = async |program: &Program, token: bool| {
        let mut asked = get("/");
        if token {
            asked = asked.header("X-Overspill-Token", "secret");
        }
        let answer = asked.ask(program.site).await;
        let values = answer.headers.get_all("server-timing").iter();
        let values: Vec<_> = values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect();
        values
    };
    let silent = Program::serve(&Config::new(&lines)).await;
    assert_eq!(told(&silent, false).await, ["db;dur=53"]);
    let program = Program::serve(&Config::new(format!("{lines}\nserver_timing = true"))).await;
    let values = told(&program, false).await;
    assert_eq!(values[0], "db;dur=53");
    let metrics: BTreeSet<_> = values[1]
        .split(", ")
        .map(|one| one.split(';').next().unwrap())
        .collect();
    assert_eq!(metrics, ["app", "overspill", "total"].into());
    assert!(
        values[1].starts_with("overspill;desc=\"served\";dur="),
        "{values:?}"
    );
    assert_eq!(told(&program, true).await, ["db;dur=53"]);
    program.hold_level("throttle").await;
    let away = get("/")
        .header("Accept", "text/html")
        .ask(program.site)
        .await;
    let timing = away.header("server-timing").unwrap();
    assert!(
        timing.starts_with("overspill;desc=\"throttled\"") && !timing.contains("app"),
        "{timing}"
    );
}

/// All lines as soon as there is one about `/last`, which was asked after all others: of each its target and status.
async fn told(program: &Program) -> Vec<(String, u64)> {
    get("/last").ask(program.site).await;
    entry(program, "/last").await;
    let entries = lines_in(&log_of(program)).into_iter().map(|line| {
        let entry: Value = serde_json::from_str(&line).unwrap();
        let target = entry["target"].as_str().unwrap_or("-").to_owned();
        (target, entry["status"].as_u64().unwrap())
    });
    entries.filter(|(target, _)| target != "/last").collect()
}

#[tokio::test]
async fn what_the_limits_refuse_gets_one_line_with_the_status_that_was_answered() {
    let takes_all = async |body: bytes::Bytes| format!("{} bytes", body.len());
    let upstream = Upstream::start(Router::new().fallback(takes_all)).await;
    let lines = format!(
        "{JSON}\nprimary.upstream = \"http://{}\"\nprimary.limits.body_size = \"10B\"\nprimary.limits.headers = 20",
        upstream.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    let long = "Content-Length: 11\r\n\r\nelevenbytes";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n8\r\neight...\r\n8\r\neight...\r\n0\r\n\r\n";
    for (target, rest, status) in [
        ("/fits", "Content-Length: 10\r\n\r\nten bytes.", 200),
        ("/long", long, 413),
        ("/longer", chunked, 413),
    ] {
        let asked =
            format!("POST {target} HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n{rest}");
        let answer = support::raw::exchange(program.site, asked).await;
        assert_eq!(answer.status, status, "{target}");
    }
    let url = format!("http://{}/many", program.site);
    let many: Vec<String> = (0..30).map(|number| format!("X-{number}: 1")).collect();
    let mut asks = vec!["--http2-prior-knowledge", &url];
    for header in &many {
        asks.extend(["-H", header]);
    }
    let answer = curl(&asks).await;
    assert!(answer.stdout.starts_with("HTTP/2 431"), "{}", answer.stdout);
    let expected = [
        ("/fits", 200),
        ("/long", 413),
        ("/longer", 413),
        ("/many", 431),
    ];
    let expected: Vec<_> = expected
        .map(|(target, status)| (target.to_owned(), status))
        .into();
    assert_eq!(told(&program).await, expected);
    let refused = entry(&program, "/longer").await;
    assert_eq!(
        (&refused["outcome"], &refused["aborted"]),
        (&"refused".into(), &false.into())
    );
}

#[tokio::test]
async fn heads_that_nobody_can_read_get_a_line_with_the_status_that_was_answered() {
    let site = folder([("a.png", b"png".as_slice())]);
    let limits = "primary.limits.head_size = \"128KiB\"\nedge.limits.head_size = \"128KiB\"";
    let primary = Program::serve(&Config::of_site(&site, &format!("{JSON}\n{limits}"))).await;
    let lines = format!(
        "{JSON}\n{limits}\nedge.primary = \"http://{}\"",
        primary.site
    );
    let edge = Program::edge(&Config::new(lines)).await;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(130 << 10));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(101));
    let target = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    for program in [&primary, &edge] {
        let mut expected = Vec::new();
        for (said, status) in [
            ("what? is this\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
            ("GET / HTTP/7.3\r\n\r\n", 400),
            (&*long, 431),
            (&*many, 431),
            (&*target, 414),
        ] {
            let answer = support::raw::exchange(program.site, said).await;
            assert_eq!(answer.status, status);
            expected.push(("-".to_owned(), u64::from(status)));
        }
        // Who says nothing, or goes in the middle, was not answered.
        for said in ["", "GET / HT"] {
            let mut stream = connect(visitor(1), program.site).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
        }
        // The line comes after the answer.
        until("all lines", async || {
            let mut told = told(program).await;
            told.sort();
            expected.sort();
            (told == expected).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_cut_off_at_the_end_of_a_drain_gets_its_line() {
    let upstream = Router::new()
        .route(
            "/never",
            on_get(async || std::future::pending::<String>().await),
        )
        .route(
            "/drips",
            on_get(async || Response::new(drips(b"drip", std::future::pending(), ""))),
        );
    let upstream = Upstream::start(upstream).await;
    let lines = format!(
        "{JSON}\nprimary.upstream = \"http://{}\"\nprimary.limits.drain = \"200ms\"",
        upstream.address
    );
    let program = Program::serve(&Config::new(lines)).await;
    let logs = program.config_file();
    let kept = tempfile::tempdir().unwrap();
    let kept_log = kept.path().join("access.log");
    fs::hard_link(logs.with_file_name("access.log"), &kept_log).unwrap();
    let mut asking = Vec::new();
    for target in ["/never", "/drips"] {
        let mut stream = connect(visitor(1), program.site).await.unwrap();
        let asked = get(&format!("{target}?1")).text();
        stream.write_all(asked.as_bytes()).await.unwrap();
        if target == "/drips" {
            stream.read_u8().await.unwrap();
        }
        asking.push(tokio::spawn(async move {
            let mut read = Vec::new();
            let _ = stream.read_to_end(&mut read).await;
        }));
        let url = format!("http://{}{target}?2", program.site);
        asking.push(tokio::spawn(async move {
            curl(&["--http2-prior-knowledge", &url]).await;
        }));
    }
    program
        .until("all are under way", |status| status["in_flight"] == 4)
        .await;
    assert_eq!(program.terminate().await, Some(0));
    for asking in asking {
        asking.await.unwrap();
    }
    let mut told = std::collections::BTreeMap::new();
    for line in lines_in(&kept_log) {
        let entry: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(entry["aborted"], true, "{entry}");
        let target = entry["target"].as_str().unwrap().to_owned();
        assert!(
            told.insert(target, entry["status"].clone()).is_none(),
            "{entry}"
        );
    }
    assert_eq!(told.len(), 4, "{told:?}");
    for (target, status) in [("/drips?1", 200), ("/never?1", 499), ("/never?2", 499)] {
        assert_eq!(told[target], status, "{told:?}");
    }
}
