//! What a broken offload server costs a visitor, with the fallback script: how long until text shows, until an object
//! is there, and until the page is loaded, in Chromium. For each kind of object a page that has nothing but it and a
//! line of text.
//!
//! `cargo bench --bench fallback`, or some ways to be broken alone: `cargo bench --bench fallback -- refuses hangs`.
//! Needs chromium, chromedriver and nginx.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support;

use std::{fs, path::Path, sync::Arc, time::Duration};

use serde_json::Value;
use support::{
    broken_server::{Broken, BrokenServer},
    config::Config,
    process::Nginx,
    program::Program,
    web::Client,
    webdriver::Browser,
    write,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};

/// A kind of object: its name, what links to it, and a condition that holds when it is there.
type Kind = (&'static str, &'static str, &'static str);

/// Those above the script that the parser waits for can be mended; what is below it can't, and gets no script.
const KINDS: [Kind; 11] = [
    (
        "picture",
        "<img src=/o/picture.svg>",
        "document.images[0]?.naturalWidth",
    ),
    (
        "stylesheet",
        "<link rel=stylesheet href=/o/style.css>",
        STYLED,
    ),
    (
        "script, `defer`",
        "<script defer src=/o/script.js></script>",
        "window.ran",
    ),
    (
        "script, module",
        "<script type=module src=/o/script.js></script>",
        "window.ran",
    ),
    (
        "film",
        "<video src=/o/film.mp4></video>",
        "document.querySelector('video')?.readyState",
    ),
    (
        "picture, in a `style` attribute",
        "<div style=\"background: url('/o/picture.svg')\">.</div>",
        "came('picture.svg')",
    ),
    (
        "script that the parser waits for",
        "<script src=/o/script.js></script>",
        "window.ran",
    ),
    (
        "picture, in `<style>`",
        "<style>body { background: url(/o/picture.svg) }</style>",
        "came('picture.svg')",
    ),
    (
        "font, in `<style>`",
        "<style>@font-face { font-family: f; src: url(/o/font.woff2) } p { font-family: f }</style>",
        "[...document.fonts].some(font => font.status == 'loaded')",
    ),
    (
        "font, in `<style>`, `font-display: swap`",
        "<style>@font-face { font-family: f; src: url(/o/font.woff2); font-display: swap } p { font-family: f }</style>",
        "[...document.fonts].some(font => font.status == 'loaded')",
    ),
    (
        "stylesheet, by `@import` in `<style>`",
        "<style>@import '/o/style.css';</style>",
        STYLED,
    ),
];

const STYLED: &str = "getComputedStyle(document.documentElement).getPropertyValue('--there')";

/// What is to be measured: how the server is, how often, and for how long at most.
struct Case {
    name: &'static str,
    broken: Option<Broken>,
    samples: usize,
    /// So many at once: most of the time they wait.
    at_once: usize,
    patience: Duration,
}

const CASES: [Case; 5] = [
    Case {
        name: "well",
        broken: None,
        samples: 3,
        at_once: 2,
        patience: Duration::from_secs(15),
    },
    Case {
        name: "refuses",
        broken: Some(Broken::Refuses),
        samples: 3,
        at_once: 3,
        patience: Duration::from_secs(15),
    },
    Case {
        name: "503",
        broken: Some(Broken::Answers503),
        samples: 3,
        at_once: 3,
        patience: Duration::from_secs(15),
    },
    Case {
        name: "hangs",
        broken: Some(Broken::Hangs),
        samples: 3,
        at_once: 6,
        patience: Duration::from_secs(45),
    },
    // Linux gives up connecting after two minutes and some seconds (`net.ipv4.tcp_syn_retries`).
    Case {
        name: "silent",
        broken: Some(Broken::Silent),
        samples: 1,
        at_once: 11,
        patience: Duration::from_secs(180),
    },
];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // As a test there is nothing to be seen of it.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let named = |case: &Case| arguments.iter().any(|argument| argument == case.name);
    let all = !CASES.iter().any(named);
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    for case in CASES.iter().filter(|case| all || named(case)) {
        runtime.block_on(measure(case));
    }
}

/// Prints what the kinds of objects cost with such a server.
async fn measure(case: &Case) {
    let root = tempfile::tempdir().unwrap();
    write_site(root.path());
    let (_broken, _well, url);
    match case.broken {
        Some(broken) => {
            let server = BrokenServer::start(broken).await;
            url = server.url.clone();
            _broken = server;
        }
        None => {
            let headers =
                "add_header Access-Control-Allow-Origin *; add_header Timing-Allow-Origin *;";
            let server =
                Nginx::configured("", &format!("root {}; {headers}", root.path().display()));
            url = server.url.clone();
            _well = server;
        }
    }
    let behind = Nginx::start(root.path());
    let program = Program::serve(&Config::new(format!(
        "primary.upstream = {:?}\noffload.share = 1.0\nrewrite.fallback = true\nrewrite.modules = true\n\
         offload.servers = [{{ name = \"server\", url = {url:?}, cors = true, health = false }}]",
        behind.url
    )))
    .await;
    program.until_usable("server", true).await;
    program.hold_level("offload").await;

    let room = Arc::new(Semaphore::new(case.at_once));
    let mut visits = JoinSet::new();
    for (index, (name, _, there)) in KINDS.into_iter().enumerate() {
        let page = format!("http://{}/{index}.html", program.site);
        let html = Client::new().get(&page).await.body;
        let html = String::from_utf8_lossy(&html);
        assert!(html.contains(&format!("{url}/o/")), "{name}: {html}");
        for _ in 0..case.samples {
            let (room, page, patience) = (room.clone(), page.clone(), case.patience);
            visits.spawn(async move {
                let _permit = room.acquire_owned().await;
                (index, visit(&page, there, patience).await)
            });
        }
    }
    let mut seen = vec![[const { Vec::new() }; 3]; KINDS.len()];
    while let Some(visit) = visits.join_next().await {
        let (index, times) = visit.unwrap();
        for (times, time) in seen[index].iter_mut().zip(times) {
            times.push(time);
        }
    }
    println!(
        "\n{}: seconds, {} visits of each page, {} s each at most\n",
        case.name,
        case.samples,
        case.patience.as_secs()
    );
    println!(
        "| the page's object | text shows | the object is there | the page is loaded |\n|---|---|---|---|"
    );
    for ((name, ..), times) in KINDS.iter().zip(seen) {
        let [text, object, loaded] = times.map(|times| range(&times));
        println!("| {name} | {text} | {object} | {loaded} |");
    }
}

/// From the least to the most; what did not happen is a dash.
fn range(times: &[Option<f64>]) -> String {
    let mut cells: Vec<_> = times
        .iter()
        .map(|time| time.map_or("–".to_owned(), |time| format!("{time:.1}")))
        .collect();
    cells.sort_by(|a, b| {
        let number = |cell: &str| cell.parse().unwrap_or(f64::INFINITY);
        number(a).total_cmp(&number(b))
    });
    cells.dedup();
    match &cells[..] {
        [first, .., last] => format!("{first} to {last}"),
        [only] => only.clone(),
        [] => String::new(),
    }
}

/// Looks at a page, in a browser of its own, until nothing is missing or patience is at its end: when text showed, the
/// object was there and the page was loaded, in seconds since the browser set out for it.
async fn visit(page: &str, there: &str, patience: Duration) -> [Option<f64>; 3] {
    let look = format!(
        "const came = name => performance.getEntriesByType('resource').some(entry => entry.name.endsWith(name) \
           && (entry.responseStatus == 200 || !entry.name.startsWith(location.origin) && entry.decodedBodySize));\
         const [paint] = performance.getEntriesByName('first-contentful-paint');\
         const [page] = performance.getEntriesByType('navigation');\
         return [paint?.startTime, ({there}) ? performance.now() : null, page?.loadEventEnd || null, location.href];"
    );
    let browser = Browser::impatient().await;
    browser.open(page).await;
    let start = Instant::now();
    let mut times = [None; 3];
    while times.contains(&None) && start.elapsed() < patience {
        let now: Value = browser.run(&look).await;
        if now[3] == page {
            for (time, now) in times.iter_mut().zip(now.as_array().unwrap()) {
                *time = time.or(now.as_f64().map(|milliseconds| milliseconds / 1000.0));
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    browser.quit().await;
    times
}

/// The pages, numbered, and their objects.
fn write_site(root: &Path) {
    let film = Path::new(env!("CARGO_MANIFEST_DIR")).join("static/site");
    let picture = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>";
    let files: [(&str, &[u8]); 5] = [
        ("picture.svg", picture.as_bytes()),
        ("style.css", b":root { --there: 1 }"),
        ("script.js", b"window.ran = 1;"),
        ("film.mp4", &fs::read(film.join("light/beam.mp4")).unwrap()),
        (
            "font.woff2",
            &fs::read(film.join("assets/fonts/ebgaramond-latin.woff2")).unwrap(),
        ),
    ];
    for (name, content) in files {
        write(root, &format!("o/{name}"), content);
    }
    for (index, (name, object, _)) in KINDS.iter().enumerate() {
        let html = format!("<!doctype html><title>{name}</title>{object}<p>Text</p>");
        write(root, &format!("{index}.html"), html.as_bytes());
    }
}
