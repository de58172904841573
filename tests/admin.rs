//! What the operator sees and does, over real sockets with the built program.

use serde_json::{Value, json};

use crate::support::{
    self,
    client::{get, post, request, visitor},
    config::Config,
    folder,
    program::{Program, command, run},
    wait::soon,
};

const PAGE: &[u8] = b"<p>home";

fn config(folder: &tempfile::TempDir, lines: &str) -> Config {
    Config::new(format!("primary.site = {:?}\n{lines}", folder.path()))
}

const SERVERS: &str = r#"
    offload.servers = [
        { name = "eu", url = "http://127.0.0.1:9", health = false, price = 0.02, threshold = 0.9 },
        { name = "us", url = "http://127.0.0.1:9", health = false },
    ]
"#;

#[tokio::test]
async fn says_that_it_lives_and_that_it_is_ready() {
    let site = folder([("index.html", PAGE)]);
    let program = Program::serve(&config(&site, "")).await;
    for path in ["/livez", "/readyz"] {
        let answer = get(path).ask(program.admin).await;
        assert_eq!((answer.status, answer.text()), (200, "ok\n"), "{path}");
    }
    assert_eq!(get("/nowhere").ask(program.admin).await.status, 404);
    assert_eq!(
        get("/api/status").ask(program.site).await.status,
        404,
        "not on the site's own address"
    );
}

#[tokio::test]
async fn tells_everything_that_is_known_and_decided() {
    let site = folder([("index.html", PAGE)]);
    let lines = format!("{SERVERS}\nload.in_flight.capacity = 10");
    let program = Program::serve(&config(&site, &lines)).await;
    assert_eq!(get("/").ask(program.site).await.body, PAGE);
    let first_looks =
        |status: &Value| !status["signals"][0].is_null() && status["requests"]["served"] == 1;
    let status = program
        .until("the first look at the load", first_looks)
        .await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptime"].as_f64().unwrap() > 0.0);
    assert_eq!(status["mode"], "enforce");
    assert_eq!(status["level"], "normal");
    assert_eq!(status["override"], Value::Null);
    assert_eq!(status["share"], 0.0);
    assert_eq!(status["throttled"], 0.0);
    assert_eq!(status["dropped"], 0.0);
    assert!(status["bytes_sent"].as_u64().unwrap() >= PAGE.len() as u64);
    assert_eq!(
        status["requests"],
        json!({
            "served": 1, "offloaded": 0, "redirected": 0, "throttled": 0, "dropped": 0, "bypassed": 0,
        })
    );
    let in_flight = program.signal("in_flight").await;
    assert_eq!(in_flight["offload"], 0.7);
    assert_eq!(in_flight["throttle"], 0.9);
    assert_eq!(in_flight["drop"], 0.98);
    assert_eq!(in_flight["off"], Value::Null);
    let eu = program.until_usable("eu", true).await;
    assert_eq!(eu["url"], "http://127.0.0.1:9");
    assert_eq!(eu["threshold"], 0.9);
    assert!((eu["resume"].as_f64().unwrap() - 0.85).abs() < 1e-9);
    assert_eq!(eu["health"], "not probed");
    assert_eq!(eu["assigned_bytes"], 0);
}

#[tokio::test]
async fn a_signal_that_cannot_be_read_is_off_and_says_why() {
    let site = folder([("index.html", PAGE)]);
    let lines = r#"
        load.bandwidth.enabled = true
        load.bandwidth.interface = "no-such-interface"
        load.bandwidth.capacity = "1Gbit/s"
    "#;
    let program = Program::serve(&config(&site, lines)).await;
    let off = |status: &Value| {
        status["signals"].as_array().unwrap().iter().any(|signal| {
            signal["name"] == "bandwidth"
                && signal["off"]
                    .as_str()
                    .is_some_and(|off| off.contains("no-such-interface"))
        })
    };
    program.until("bandwidth is off", off).await;
    assert_eq!(get("/").ask(program.site).await.status, 200);
}

#[tokio::test]
async fn metrics_have_the_names_of_the_contract_and_can_be_read() {
    let site = folder([
        ("index.html", b"<img src=/a.png>".as_slice()),
        ("a.png", b"png"),
    ]);
    let lines = format!("{SERVERS}\nload.in_flight.capacity = 10");
    let program = Program::serve(&config(&site, &lines)).await;
    program.until_usable("eu", true).await;
    program.until_usable("us", true).await;
    program.hold_level("offload").await;
    assert_eq!(get("/").ask(program.site).await.status, 200);
    program
        .until("a page is counted", |status| {
            status["requests"]["offloaded"] == 1
        })
        .await;
    let kind = |answer: &support::raw::Answer| answer.header("content-type").unwrap().to_owned();
    let classic = get("/metrics").ask(program.admin).await;
    assert_eq!(kind(&classic), "text/plain; version=0.0.4; charset=utf-8");
    assert!(!classic.text().contains("# EOF"));
    for counter in [
        "overspill_requests_total",
        "overspill_cost_total",
        "process_cpu_seconds_total",
    ] {
        let family = format!("# TYPE {counter} counter\n");
        assert!(classic.text().contains(&family), "{counter}");
    }
    let answer = get("/metrics")
        .header(
            "Accept",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1",
        )
        .ask(program.admin)
        .await;
    assert_eq!(answer.status, 200);
    assert!(kind(&answer).starts_with("application/openmetrics-text"));
    let samples = samples(answer.text());
    let sum = |name: &str| -> Option<f64> {
        let values: Vec<f64> = samples
            .iter()
            .filter(|(sample, _, _)| sample == name)
            .map(|(_, _, value)| *value)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    };
    for name in [
        "overspill_load_ratio",
        "overspill_cost_total",
        "overspill_server_assigned_bytes_total",
        "overspill_rewrite_bailouts_total",
    ] {
        assert!(sum(name).is_some(), "{name} in {samples:?}");
    }
    assert_eq!(sum("overspill_level"), Some(1.0));
    assert_eq!(sum("overspill_share_ratio"), Some(1.0));
    assert_eq!(sum("overspill_server_usable"), Some(2.0));
    assert_eq!(sum("overspill_pages_rewritten_total"), Some(1.0));
    assert_eq!(sum("overspill_links_rewritten_total"), Some(1.0));
    assert_eq!(sum("overspill_build_info"), Some(1.0));
    assert_eq!(sum("overspill_request_duration_seconds_count"), Some(1.0));
    assert!(sum("overspill_request_duration_seconds_sum").unwrap() > 0.0);
    if cfg!(target_os = "linux") {
        assert!(sum("process_resident_memory_bytes").unwrap() > 1e6);
        assert!(sum("process_open_fds").unwrap() >= 3.0);
        assert!(sum("process_max_fds").unwrap() >= sum("process_open_fds").unwrap());
    }
    let outcomes: Vec<&str> = samples
        .iter()
        .filter(|(name, _, _)| name == "overspill_requests_total")
        .map(|(_, labels, _)| labels.as_str())
        .collect();
    for outcome in [
        "served",
        "offloaded",
        "redirected",
        "throttled",
        "dropped",
        "bypassed",
    ] {
        assert!(
            outcomes.contains(&format!("outcome=\"{outcome}\"").as_str()),
            "{outcome} in {outcomes:?}"
        );
    }
    for (_, labels, _) in &samples {
        for part in labels.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap();
            assert!(
                [
                    "signal", "outcome", "reason", "server", "how", "le", "version"
                ]
                .contains(&name),
                "{labels}"
            );
            assert!(
                !value.contains("127.0.0.1") && !value.contains('/'),
                "{labels}"
            );
        }
    }
}

/// Name, labels and value of every sample. Reads as a scraper would: every line is one of the format's.
fn samples(text: &str) -> Vec<(String, String, f64)> {
    let body = text
        .strip_suffix("# EOF\n")
        .expect("OpenMetrics ends with # EOF");
    body.lines()
        .filter(|line| {
            let comment = line.strip_prefix("# ");
            assert!(
                comment.is_none_or(
                    |c| ["HELP", "TYPE", "UNIT"].contains(&c.split(' ').next().unwrap())
                ),
                "{line}"
            );
            comment.is_none()
        })
        .map(|line| {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            let labels = labels.strip_suffix('}').unwrap();
            (
                name.to_owned(),
                labels.to_owned(),
                value.parse().unwrap_or_else(|_| panic!("{line}")),
            )
        })
        .collect()
}

#[tokio::test]
async fn an_operator_holds_a_level_and_lets_it_go() {
    let site = folder([("index.html", PAGE)]);
    let program = Program::serve(&config(&site, SERVERS)).await;
    for level in ["offload", "throttle", "drop", "normal"] {
        let body = json!({ "level": level, "for": "2m" }).to_string();
        let answer = post("/api/override", &body).ask(program.admin).await;
        let said: Value = serde_json::from_str(answer.text()).unwrap();
        assert_eq!(
            (answer.status, said),
            (200, json!({ "level": level, "seconds": 120.0 }))
        );
        let status = program.status().await;
        assert_eq!(status["level"], level, "in effect when the answer comes");
        let left = status["override"].as_f64().unwrap();
        assert!(left > 0.0 && left <= 120.0, "{left}");
        let shown = get("/")
            .try_ask(program.site)
            .await
            .map(|answer| answer.status);
        let expected = match level {
            "throttle" => Some(503),
            "drop" => None,
            _ => Some(200),
        };
        assert_eq!(shown, expected, "{level}");
    }
    program.hold_level("throttle").await;
    let answer = post("/api/override", r#"{"level":null}"#)
        .ask(program.admin)
        .await;
    assert_eq!(answer.status, 200);
    let status = program.status().await;
    assert_eq!(
        (&status["level"], &status["override"]),
        (&json!("normal"), &Value::Null)
    );
}

#[tokio::test]
async fn a_level_held_by_hand_ends_by_itself() {
    let site = folder([("index.html", PAGE)]);
    let program = Program::serve(&config(&site, SERVERS)).await;
    let answer = post("/api/override", r#"{"level":"throttle","for":"200ms"}"#)
        .ask(program.admin)
        .await;
    assert_eq!(answer.status, 200);
    program
        .until("the override ends", |status| {
            status["override"].is_null() && status["level"] == "normal"
        })
        .await;
}

#[tokio::test]
async fn nonsense_is_refused_and_changes_nothing() {
    let site = folder([("index.html", PAGE)]);
    let program = Program::serve(&config(&site, SERVERS)).await;
    let long = format!("{{\"level\":\"{}\",\"for\":\"1m\"}}", "x".repeat(5_000_000));
    for body in [
        "",
        "null",
        "[]",
        "offload",
        "{\"level\":\"offload\"",
        r#"{"level":"offload"}"#,
        r#"{"level":"panic","for":"1m"}"#,
        r#"{"level":"Offload","for":"1m"}"#,
        r#"{"level":7,"for":"1m"}"#,
        r#"{"level":"offload","for":60}"#,
        r#"{"level":"offload","for":"-1s"}"#,
        r#"{"level":"offload","for":"0s"}"#,
        r#"{"level":"offload","for":"25h"}"#,
        r#"{"level":"offload","for":"NaN"}"#,
        r#"{"level":"offload","for":"1m","also":1}"#,
        "{\"level\":\"off\u{0}load\",\"for\":\"1m\"}",
        &long,
    ] {
        let answer = post("/api/override", body).ask(program.admin).await;
        let shown: String = body.chars().take(60).collect();
        assert!(
            (400..500).contains(&answer.status),
            "{shown}: {}",
            answer.status
        );
        let said: Value = serde_json::from_slice(&answer.body)
            .unwrap_or_else(|_| panic!("{shown}: {:?}", answer.text()));
        assert!(
            said["error"]
                .as_str()
                .is_some_and(|error| !error.is_empty()),
            "{shown}: {said}"
        );
    }
    let form = request("POST", "/api/override").header("Content-Length", "0");
    assert_eq!(form.ask(program.admin).await.status, 415);
    assert_eq!(get("/api/override").ask(program.admin).await.status, 405);
    let status = program.status().await;
    assert_eq!(
        (&status["level"], &status["override"]),
        (&json!("normal"), &Value::Null)
    );
}

#[tokio::test]
async fn with_a_token_nobody_without_it_sees_or_does_anything() {
    let site = folder([("index.html", PAGE)]);
    let program = Program::serve(&config(&site, "admin.token = \"open sesame\"")).await;
    let body = r#"{"level":"drop","for":"1m"}"#;
    // Who tries too often is not heard any more: each try comes from an address of its own.
    let mut number = 0;
    for asked in [
        get("/metrics"),
        get("/api/status"),
        post("/api/override", body),
        request("POST", "/api/drain"),
    ] {
        for (shown, wrong) in [
            ("nothing", None),
            ("another", Some("Bearer open sesam")),
            ("more", Some("Bearer open sesame!")),
            ("another scheme", Some("Basic open sesame")),
            ("no scheme", Some("open sesame")),
            ("an empty one", Some("Bearer ")),
        ] {
            let asked = wrong.map_or_else(
                || asked.clone(),
                |wrong| asked.clone().header("Authorization", wrong),
            );
            number += 1;
            let asked = asked.from(visitor(number));
            let answer = asked.ask(program.admin).await;
            assert_eq!(answer.status, 401, "{shown}: {asked:?}");
            assert!(
                answer
                    .header("www-authenticate")
                    .unwrap()
                    .starts_with("Bearer")
            );
            assert!(!answer.text().contains("sesame"));
        }
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(
            get(path).ask(program.admin).await.status,
            200,
            "{path} is for load balancers"
        );
    }
    let asked =
        |request: support::client::Request| request.header("Authorization", "Bearer open sesame");
    assert_eq!(asked(get("/metrics")).ask(program.admin).await.status, 200);
    let status: Value =
        serde_json::from_slice(&asked(get("/api/status")).ask(program.admin).await.body).unwrap();
    assert_eq!(status["level"], "normal", "nothing was changed");
    assert!(!program.log().contains("sesame"));
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_token() {
    let site = folder([("index.html", PAGE)]);
    for listen in [
        "0.0.0.0:0",
        "[::]:0",
        "192.0.2.1:9901",
        "[::ffff:192.0.2.1]:9901",
    ] {
        let lines = format!("admin.listen = \"{listen}\"");
        let text = config(&site, &lines).to_string();
        for arguments in [&["serve"][..], &["check"]] {
            let run = run(arguments, &text).await;
            assert_eq!(run.code, Some(1), "{listen} {run:?}");
            assert!(
                run.stderr.contains("`admin.token` must be given"),
                "{run:?}"
            );
            assert!(run.stderr.contains("1 problem "), "{run:?}");
        }
    }
    for token in [" sesame", "sesame\\n", "sésame"] {
        let lines = format!("admin.token = \"{token}\"");
        let run = run(&["check"], &config(&site, &lines).to_string()).await;
        assert!(
            run.stderr.contains("`admin.token` must be of letters"),
            "{run:?}"
        );
    }
    let lines = "admin.listen = \"0.0.0.0:0\"\nadmin.token = \"open sesame\"";
    let run = run(&["check"], &config(&site, lines).to_string()).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        !run.stdout.contains("sesame"),
        "what is printed hides it: {}",
        run.stdout
    );
}

#[tokio::test]
async fn draining_ends_the_program_and_refuses_new_work() {
    let site = folder([("index.html", PAGE)]);
    let program = Program::serve(&config(&site, "")).await;
    let answer = request("POST", "/api/drain").ask(program.admin).await;
    assert_eq!(answer.status, 202);
    assert_eq!(program.ended().await, Some(0));
    let program = Program::serve(&config(&site, "")).await;
    assert_eq!(program.terminate().await, Some(0), "SIGTERM does the same");
}

#[tokio::test]
async fn help_and_version_are_there() {
    for (argument, text) in [
        ("--version", env!("CARGO_PKG_VERSION")),
        ("--help", "serve"),
    ] {
        let output = soon("it ends", command().arg(argument).output())
            .await
            .unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains(text));
    }
}
