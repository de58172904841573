//! `overspill explain`, as a user runs it.

#![cfg(feature = "server")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{config::Config, upstream::Upstream};

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

#[test]
fn what_cannot_be_read_is_told() {
    for page in ["/no/such/page.html", "http://127.0.0.1:1/"] {
        let (ok, _, err) = explain(&[page]);
        assert!(!ok);
        assert!(err.contains(page), "{err}");
    }
}
