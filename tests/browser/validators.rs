//! Pages that Chromium keeps and asks about again, while the level goes up and down and the visitor from one server to
//! another: what it shows is never left over from an episode, and never another server's.

use std::{
    fs::File,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::fixtures::write_objects;
use crate::support::{
    config::Config, process::Nginx, program::Program, wait::until, webdriver::Browser, write,
};

const PAGE: &str = "<!doctype html><title>Kept</title><link rel=stylesheet href=/o/a.css>\
    <img src=/o/1.svg><img srcset='/o/2.svg, /o/3.svg 2x'>";

/// Where the visitor's objects come from, one after the other: each change there is.
const PLACES: [&str; 7] = ["eu", "us", "normal", "us", "eu", "normal", "eu"];

/// How a page says that it may be kept.
struct Kind {
    name: &'static str,
    /// What nginx is told of it.
    lines: &'static str,
    /// What the primary answers to two visits, each with a second look, where links are moved and where not. `None`:
    /// it may not be asked, since the browser may use what it holds.
    answers: Option<[[u16; 4]; 2]>,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "etag",
        lines: "add_header Cache-Control no-cache;",
        answers: Some([[200, 304, 304, 304]; 2]),
    },
    // The tag is weak then.
    Kind {
        name: "gzip",
        lines: "add_header Cache-Control no-cache; gzip on; gzip_min_length 1;",
        answers: Some([[200, 304, 304, 304]; 2]),
    },
    Kind {
        name: "date",
        lines: "add_header Cache-Control no-cache; etag off;",
        answers: Some([[200; 4], [200, 304, 304, 304]]),
    },
    Kind {
        name: "fresh",
        lines: "add_header Cache-Control max-age=3600;",
        answers: None,
    },
    // Nothing is said of it, and it is old: browsers take it for fresh (RFC 9111, 4.2.2).
    Kind {
        name: "old",
        lines: "",
        answers: None,
    },
];

/// Where its objects are from, and whether they are there; and what the page is to a script that looks again.
const LOOK: &str = r#"
    const images = [...document.images];
    await Promise.all(images.map(image => image.complete || new Promise(done => {
        image.onload = image.onerror = done;
    })));
    const again = await (await fetch(location.href, { cache: 'no-cache' })).text();
    const parsed = new DOMParser().parseFromString(again, 'text/html');
    const urls = page => [...page.querySelectorAll('[href]')].map(link => link.href)
        .concat([...page.images].map(image => image.getAttribute('src') || image.srcset.split(/,? /)[0]));
    const origins = page => [...new Set(urls(page).map(url => new URL(url, location.href).origin))];
    return {
        shown: origins(document),
        again: origins(parsed),
        widths: images.map(image => image.naturalWidth),
        style: getComputedStyle(document.documentElement).getPropertyValue('--a').trim(),
    };
"#;

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn a_browser_shows_no_page_of_another_episode_or_of_another_server() {
    let root = tempfile::tempdir().unwrap();
    write_objects(root.path());
    let locations = KINDS.map(|Kind { name, lines, .. }| {
        write_old(root.path(), &format!("{name}.html"));
        format!("location = /{name}.html {{ {lines} }}")
    });
    let behind = Nginx::configured(
        "",
        &format!(
            "root {}; location = /favicon.ico {{ return 204; }} {}",
            root.path().display(),
            locations.concat()
        ),
    );
    let servers = [Nginx::start(root.path()), Nginx::start(root.path())];
    let program = Program::serve(&Config::new(format!(
        "primary.upstream = {:?}\noffload.share = 1.0\noffload.hold = \"0s\"\n\
         offload.identity = {{ cookie = \"who\" }}\n\
         offload.servers = [{{ name = \"eu\", url = {:?}, cors = true }}, {{ name = \"us\", url = {:?}, cors = true }}]\n\
         offload.clients = [{{ identity = \"eu\", servers = [\"eu\"] }}, {{ identity = \"us\", servers = [\"us\"] }}]",
        behind.url, servers[0].url, servers[1].url
    )))
    .await;
    for server in ["eu", "us"] {
        program.until_usable(server, true).await;
    }
    let primary = format!("http://{}", program.site);

    let browser = Browser::start().await;
    for Kind { name, answers, .. } in KINDS {
        let url = format!("{primary}/{name}.html");
        let mut before = 0;
        // The browser holds the page as it is, and nothing has to be asked for.
        let mut keeps_it = false;
        for (step, place) in PLACES.into_iter().enumerate() {
            let moved = place != "normal";
            let wanted = match place {
                "eu" => &servers[0].url,
                "us" => &servers[1].url,
                _ => &primary,
            };
            program
                .hold_level(if moved { "offload" } else { "normal" })
                .await;
            let cookie = json!({ "name": "who", "value": place, "url": primary });
            browser.devtools("Network.setCookie", cookie).await;
            let wanted = if keeps_it { &primary } else { wanted };
            for visit in 0..2 {
                browser.open("about:blank").await;
                browser.open(&url).await;
                let seen = browser.run(LOOK).await;
                let expected = json!({ "shown": [wanted], "again": [wanted], "widths": [1, 2], "style": "here" });
                assert_eq!(
                    seen, expected,
                    "{name}, step {step} ({place}), visit {visit}"
                );
            }
            keeps_it |= answers.is_none() && !moved;
            let Some(answers) = answers else { continue };
            let expected = answers[usize::from(!moved)];
            let answered = until(
                format_args!("{name}, step {step} is in the log"),
                async || {
                    let all = statuses(&behind.log(), name);
                    (all.len() >= before + expected.len()).then_some(all)
                },
            )
            .await;
            assert_eq!(
                answered[before..],
                expected,
                "{name}, step {step} ({place})"
            );
            before = answered.len();
        }
    }
    browser.quit().await;
}

/// Writes the page; it was made a year ago.
fn write_old(root: &Path, name: &str) {
    write(root, name, PAGE.as_bytes());
    let file = File::options().write(true).open(root.join(name)).unwrap();
    let year = Duration::from_secs(365 * 24 * 3600);
    file.set_modified(SystemTime::now() - year).unwrap();
}

/// What was answered to each request for the page of a kind.
fn statuses(log: &str, name: &str) -> Vec<u16> {
    let request = format!("\"GET /{name}.html HTTP/");
    log.lines()
        .filter_map(|line| line.split_once(&request))
        .map(|(_, rest)| rest.split(' ').nth(1).unwrap().parse().unwrap())
        .collect()
}
