//! `overspill explain`, as a user runs it.

use std::process::Command;

use axum::response::IntoResponse;
use http::{HeaderValue, StatusCode};
use overspill::rewrite::coding::{Coding, encode_all};
use serde_json::Value;

use crate::support::{config::Config, upstream::Upstream};

const PAGE: &str = "<a href=/x>x</a><img src=/a.png srcset='b.png 2x, //cdn.example/c.png 3x'>\
    <link rel=stylesheet href=s.css><script type=module src=m.js></script><style>p{background:url(d.png)}</style>\
    <div data-overspill=off><img src=e.png></div><svg><use href=f.svg#x /></svg>";

fn explain(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_overspill"))
        .arg("explain")
        .args(arguments)
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Element, attribute, whether it moves, and why not.
fn links(json: &str) -> Vec<(String, String, bool, Option<String>)> {
    let json: Value = serde_json::from_str(json).unwrap();
    let links = json["links"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    links
        .map(|link| {
            (
                text(&link["element"]).unwrap(),
                text(&link["attribute"]).unwrap(),
                link["moved"].as_bool().unwrap(),
                text(&link["why"]),
            )
        })
        .collect()
}

#[test]
fn tells_of_each_link_what_happens_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let (page, config) = (
        folder.path().join("page.html"),
        folder.path().join("o.toml"),
    );
    std::fs::write(&page, PAGE).unwrap();
    let servers = r#"offload.servers = [{ name = "eu", url = "http://eu.example" }]"#;
    std::fs::write(&config, Config::new(servers).to_string()).unwrap();
    let (page, config) = (page.to_str().unwrap(), config.to_str().unwrap());

    let (ok, out, err) = explain(&[page, "--config", config, "--json"]);
    assert!(ok, "{err}");
    let found = links(&out);
    let expected = [
        ("a", "href", false, Some("not_embedded")),
        ("img", "src", true, None),
        ("img", "srcset", true, None),
        ("img", "srcset", false, Some("foreign_host")),
        // The server has no `cors`.
        ("link", "href", false, Some("server")),
        ("script", "src", false, Some("module")),
        ("style", "text", true, None),
        ("img", "src", false, Some("off")),
        ("use", "href", false, Some("same_origin")),
    ];
    let expected = expected.map(|(element, attribute, moved, why)| {
        (
            element.to_owned(),
            attribute.to_owned(),
            moved,
            why.map(str::to_owned),
        )
    });
    assert_eq!(found, expected);

    let (ok, out, _) = explain(&[page, "--config", config]);
    assert!(ok);
    assert!(out.ends_with("3 of 9 links move\n"), "{out}");
    assert!(
        !out.contains('\x1b'),
        "no colour where it is not a terminal"
    );
}

#[tokio::test]
async fn reads_a_page_from_a_site_with_its_policies() {
    let site = axum::Router::new().route(
        "/",
        axum::routing::get(|| async {
            (
                [("content-security-policy", "img-src 'none'")],
                axum::response::Html("<img src=/a.png><script src=/a.js></script>"),
            )
        }),
    );
    let site = Upstream::start(site).await;
    let url = format!("http://{}/", site.address);
    let run = move || explain(&[&url, "--json"]);
    let (ok, out, err) = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(ok, "{err}");
    let moved: Vec<bool> = links(&out).into_iter().map(|link| link.2).collect();
    assert_eq!(moved, [false, true]);
}

#[tokio::test]
async fn says_why_nothing_of_a_response_moves() {
    let page = "<img src=/a.png>";
    let answers = [
        ("type", "content-type", "application/xhtml+xml"),
        ("charset", "content-type", "text/html; charset=utf-16le"),
        (
            "attachment",
            "content-disposition",
            "attachment; filename=a.html",
        ),
        ("no_transform", "cache-control", "max-age=60, no-transform"),
        ("encoding", "content-encoding", "compress"),
    ];
    let mut site = axum::Router::new();
    for (name, header, value) in answers {
        let answer = move || async move {
            let mut answer = axum::response::Html(page).into_response();
            let value = HeaderValue::from_static(value);
            answer.headers_mut().insert(header, value);
            answer
        };
        site = site.route(&format!("/{name}"), axum::routing::get(answer));
    }
    let found = move || async move { (StatusCode::ACCEPTED, axum::response::Html(page)) };
    let site = Upstream::start(site.route("/status", axum::routing::get(found))).await;
    let reasons = [
        ("type", "Content-Type"),
        ("charset", "charset"),
        ("attachment", "saved, not shown"),
        ("no_transform", "no-transform"),
        ("encoding", "Content-Encoding"),
        ("status", "status"),
    ];
    for (name, reason) in reasons {
        let url = format!("http://{}/{name}", site.address);
        let run = move || (explain(&[&url, "--json"]), explain(&[&url]));
        let (json, text) = tokio::task::spawn_blocking(run).await.unwrap();
        assert!(json.0 && text.0, "{}{}", json.2, text.2);
        let json: Value = serde_json::from_str(&json.1).unwrap();
        assert_eq!(json["unqualified"], name);
        assert_eq!(json["links"], Value::Array(Vec::new()), "{name}");
        assert!(text.1.starts_with("nothing moves"), "{}", text.1);
        assert!(text.1.contains(reason), "{}", text.1);
    }
}

#[tokio::test]
async fn an_encoded_page_is_decoded() {
    // Whatever was asked for, these come encoded; the last one is cut.
    let codings = [
        ("gzip", Coding::Gzip),
        ("br", Coding::Brotli),
        ("cut", Coding::Gzip),
    ];
    let mut site = axum::Router::new();
    for (name, coding) in codings {
        let mut body = encode_all(coding, PAGE.as_bytes()).unwrap();
        if name == "cut" {
            body.truncate(body.len() - 9);
        }
        let encoding = if coding == Coding::Gzip { "gzip" } else { "br" };
        let headers = [
            ("content-type", "text/html"),
            ("content-encoding", encoding),
        ];
        let answer = move || async move { (headers, body) };
        site = site.route(&format!("/{name}"), axum::routing::get(answer));
    }
    let site = Upstream::start(site).await;
    for (name, _) in codings {
        let url = format!("http://{}/{name}", site.address);
        let run = move || explain(&[&url, "--json"]);
        let (ok, out, err) = tokio::task::spawn_blocking(run).await.unwrap();
        if name == "cut" {
            assert!(!ok && err.contains("cut short"), "{err}");
        } else {
            assert!(ok, "{err}");
            assert_eq!(links(&out).len(), 9, "{name}");
            let json: Value = serde_json::from_str(&out).unwrap();
            assert_eq!(json["unqualified"], Value::Null);
        }
    }
}

/// A page whose elements, attributes and values would steer a terminal; it has one more that is plain.
const STEERING: &str = "<x\x1b[31mred style=\"background:url(/a.png)\"></x>\
    <y\u{9b}31m\u{e9}\u{e9} style=\"background:url('/\x1b]0;t\x07.png')\"></y><img src=/b.png>";

fn written(folder: &tempfile::TempDir, page: &str) -> String {
    let path = folder.path().join("page.html");
    std::fs::write(&path, page).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_page_does_not_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let (ok, out, err) = explain(&[&written(&folder, STEERING)]);
    assert!(ok, "{err}");
    let steers = |c: char| c.is_control() && c != '\n';
    assert!(!out.contains(steers), "{out:?}");
    assert!(out.contains("x\\u{1b}[31mred style"), "{out}");
    // Values stand below each other.
    let lines = out
        .lines()
        .filter(|line| line.contains("http://localhost/"));
    let columns: Vec<_> = lines
        .map(|line| {
            line.split("http://localhost/")
                .next()
                .unwrap()
                .chars()
                .count()
        })
        .collect();
    assert_eq!(columns.len(), 3, "{out}");
    assert!(columns.iter().all(|column| *column == columns[0]), "{out}");
}

#[test]
#[ignore = "needs script of util-linux"]
fn a_terminal_gets_colour_unless_it_is_asked_not_to() {
    let folder = tempfile::tempdir().unwrap();
    let page = written(&folder, "<img src=/a.png><a href=/b>b</a>");
    let program = env!("CARGO_BIN_EXE_overspill");
    let shown = |no_color: Option<&str>| {
        let mut script = Command::new("script");
        script
            .args([
                "-qec",
                &format!("'{program}' explain '{page}'"),
                "/dev/null",
            ])
            .current_dir(folder.path())
            .env_remove("NO_COLOR")
            .stdin(std::process::Stdio::null());
        if let Some(value) = no_color {
            script.env("NO_COLOR", value);
        }
        let output = script.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let colourful = shown(None);
    assert!(
        colourful.contains("\x1b[32mmoves\x1b[0m  img src"),
        "{colourful:?}"
    );
    assert!(
        colourful.contains("\x1b[33mstays\x1b[0m  a href"),
        "{colourful:?}"
    );
    let plain = shown(Some("1"));
    assert!(
        plain.contains("moves  img src") && !plain.contains('\x1b'),
        "{plain:?}"
    );
}

#[test]
fn what_cannot_be_read_is_told() {
    for page in ["/no/such/page.html", "http://127.0.0.1:1/"] {
        let (ok, _, err) = explain(&[page]);
        assert!(!ok);
        assert!(err.contains(page), "{err}");
    }
}
