//! Offload servers that are of no use, and pages with the fallback script: what can be mended comes from the
//! primary, each object once, in Chromium.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixtures::write_objects;
use crate::support::{
    broken_server::{Broken, BrokenServer, DyingServer},
    config::Config,
    process::Nginx,
    program::Program,
    wait::until,
    webdriver::Browser,
    write,
};

/// A site with the fallback script, and an offload server that the program believes in, whatever it does.
struct Site {
    root: TempDir,
    behind: Nginx,
    program: Program,
}

impl Site {
    /// Where it has several servers, its objects are spread over them.
    async fn start(servers: &[&str]) -> Self {
        Self::asking(servers, "false").await
    }

    /// The same with what `health` says of each server.
    async fn asking(servers: &[&str], health: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        write_objects(root.path());
        let files = format!("root {};", root.path().display());
        let policy = "add_header Content-Security-Policy \"default-src 'self'; style-src 'self' 'unsafe-inline'\";";
        let policy =
            format!("location ~ -policy {{ {policy} }} location = /favicon.ico {{ return 204; }}");
        let behind = Nginx::configured("", &(files + &policy));
        let servers: Vec<String> = servers
            .iter()
            .enumerate()
            .map(|(name, url)| {
                format!("{{ name = \"{name}\", url = {url:?}, cors = true, health = {health} }}")
            })
            .collect();
        let spread = if servers.len() > 1 { "object" } else { "page" };
        let config = Config::new(format!(
            "primary.upstream = {:?}\noffload.share = 1.0\nrewrite.fallback = true\nrewrite.modules = true\n\
             offload.spread = {spread:?}\noffload.servers = [{}]",
            behind.url,
            servers.join(", ")
        ));
        let program = Program::serve(&config).await;
        for name in 0..servers.len() {
            program.until_usable(&name.to_string(), true).await;
        }
        program.hold_level("offload").await;
        Self {
            root,
            behind,
            program,
        }
    }

    fn page(&self, name: &str, html: &str) -> String {
        write(self.root.path(), &format!("{name}.html"), html.as_bytes());
        format!("http://{}/{name}.html", self.program.site)
    }

    /// How often each object came from the primary. (Chromium likes to ask whether a film is still the same.)
    fn fetched(&self) -> BTreeMap<String, usize> {
        let mut fetched = BTreeMap::new();
        for line in self
            .behind
            .log()
            .lines()
            .filter(|line| !line.contains("\" 304 "))
        {
            let path = line
                .split("\"GET ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            if let Some(path) = path.filter(|path| path.starts_with("/o/")) {
                *fetched.entry(path.to_owned()).or_default() += 1;
            }
        }
        fetched
    }

    /// Waits until so many objects came from the primary: what is shown already may not be in its log yet.
    async fn until_fetched(&self, objects: usize) {
        until(
            format_args!("{objects} objects came from the primary"),
            async || (self.fetched().len() >= objects).then_some(()),
        )
        .await;
    }
}

/// A site whose servers are of no use.
async fn broken_site(broken: &[Broken]) -> (Vec<BrokenServer>, Site) {
    let mut servers = Vec::new();
    for broken in broken {
        servers.push(BrokenServer::start(*broken).await);
    }
    let urls: Vec<&str> = servers.iter().map(|server| &*server.url).collect();
    let site = Site::start(&urls).await;
    (servers, site)
}

/// A browser in whose pages `window.looks` counts how often the fallback script has looked around.
async fn browser() -> Browser {
    let browser = Browser::impatient().await;
    let count = "window.looks = 0; const interval = setInterval;\
        window.setInterval = (look, every) => interval(() => { look(); looks += 1; }, every);";
    let script = json!({ "source": count });
    browser
        .devtools("Page.addScriptToEvaluateOnNewDocument", script)
        .await;
    browser
}

/// What is to be seen just now.
const LOOK: &str = r#"
    const width = element => element.naturalWidth ?? (element.getBBox ? element.getBBox().width : element.offsetWidth);
    const style = getComputedStyle(document.documentElement);
    return {
        pictures: [...document.querySelectorAll('img, svg image, input[type=image]')].map(width),
        media: [...document.querySelectorAll('video, audio')].map(element => element.readyState > 0),
        styles: ['a', 'b', 'c', 'd'].filter(name => style.getPropertyValue('--' + name)),
        fonts: [...document.fonts].filter(font => font.status === 'loaded').map(font => font.family),
        scripts: window.ran || [],
        notes: window.notes || [],
        looks: window.looks,
    };
"#;

/// What is waited for, and what is to be seen instead.
struct Seen<'a> {
    wanted: &'a Value,
    last: RefCell<Value>,
}

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; it is {}", self.wanted, self.last.borrow())
    }
}

/// Waits until what `wanted` names is to be seen.
async fn until_seen(browser: &Browser, wanted: &Value) -> Value {
    let seen = Seen {
        wanted,
        last: RefCell::default(),
    };
    until(&seen, async || {
        let state = browser.run(LOOK).await;
        let mut parts = wanted.as_object().unwrap().iter();
        let is = parts.all(|(name, value)| state[name] == *value);
        seen.last.replace(state.clone());
        is.then_some(state)
    })
    .await
}

/// Waits until the fallback script has looked around so often.
async fn until_looks(browser: &Browser, looks: u64) {
    until(format_args!("{looks} looks"), async || {
        let seen = browser.run("return looks;").await;
        (seen.as_u64().unwrap() >= looks).then_some(())
    })
    .await;
}

/// All that can be mended, but scripts that the parser waits for, behind a policy without inline scripts.
const EVERYTHING: &str = "<!doctype html><title>Everything</title>\
    <link rel=preload as=image href=/o/1.svg><link rel=preload as=font href=/o/font.woff2 crossorigin>\
    <link rel=stylesheet href=/o/font.css><link rel=stylesheet href=/o/b.css crossorigin>\
    <script defer src=/o/a.js></script><script defer src=/o/b.js></script><script type=module src=/o/module.js></script>\
    <body background=/o/12.svg><h1>Heading</h1>\
    <img src=/o/1.svg><img srcset='/o/2.svg, /o/3.svg 2x'><picture><source srcset=/o/4.svg><img src=/o/5.svg></picture>\
    <img loading=lazy src=/o/6.svg><img crossorigin src=/o/7.svg><img data-src=/o/8.svg src=/o/8.svg>\
    <input type=image src=/o/9.svg><svg><image href=/o/10.svg /><image xlink:href=/o/11.svg /></svg>\
    <table><tr><td background=/o/13.svg>.</table><p style=\"background:url('/o/14.svg')\">.</p>\
    <video src=/o/film.mp4 poster=/o/15.svg></video><video poster=/o/16.svg preload=none src=/o/film.mp4?3></video>\
    <video><source src=/o/film.mp4?1><source src=/o/film.mp4?2></video><audio src=/o/sound.mp3></audio>\
    <p style='height:9000px'>.</p><img loading=lazy src=/o/17.svg>";

/// What is to be seen of it before it is scrolled.
fn everything() -> Value {
    json!({
        "pictures": [1, 2, 4, 6, 7, 8, 9, 10, 11, 0],
        "media": [true, false, true, true],
        "styles": ["a", "b"],
        "fonts": ["relative"],
    })
}

/// What of it comes from the primary then.
const MENDED: [&str; 24] = [
    "/o/1.svg",
    "/o/10.svg",
    "/o/11.svg",
    "/o/12.svg",
    "/o/13.svg",
    "/o/14.svg",
    "/o/15.svg",
    "/o/16.svg",
    "/o/2.svg",
    "/o/4.svg",
    "/o/6.svg",
    "/o/7.svg",
    "/o/8.svg",
    "/o/9.svg",
    "/o/a.js",
    "/o/b.css",
    "/o/b.js",
    "/o/dependency.js",
    "/o/film.mp4",
    "/o/film.mp4?1",
    "/o/font.css",
    "/o/font.woff2",
    "/o/module.js",
    "/o/sound.mp3",
];

/// Everything is there after a while, each object once from the primary; what is scrolled to later as well.
async fn mends_everything(broken: &[Broken]) {
    let (servers, site) = broken_site(broken).await;
    let browser = browser().await;
    let url = site.page("everything-policy", EVERYTHING);
    // With a server that hangs, the page is not loaded before it is mended.
    browser.open(&url).await;
    let seen = until_seen(&browser, &everything()).await;
    // Backgrounds and posters, too.
    site.until_fetched(MENDED.len()).await;
    // All scripts, and those of a kind in their order.
    let scripts: Vec<_> = browser.run(LOOK).await["scripts"]
        .as_array()
        .unwrap()
        .clone();
    let place = |name: &str| scripts.iter().position(|ran| ran == name);
    assert!(
        place("a").is_some() && place("a") < place("b"),
        "{broken:?}: {seen}"
    );
    assert_eq!(scripts.len(), 4, "{broken:?}: {seen}");
    let looks = seen["looks"].as_u64().unwrap();
    until_looks(&browser, looks + 2 * servers.len() as u64).await;
    let once = |paths: &[&str]| -> BTreeMap<String, usize> {
        paths.iter().map(|path| ((*path).to_owned(), 1)).collect()
    };
    assert_eq!(site.fetched(), once(&MENDED), "{broken:?}");

    browser
        .run("scrollTo(0, document.documentElement.scrollHeight);")
        .await;
    let mut scrolled = everything();
    scrolled["pictures"][9] = 17.into();
    until_seen(&browser, &scrolled).await;
    let mended = [&MENDED[..], &["/o/17.svg"]].concat();
    site.until_fetched(mended.len()).await;
    assert_eq!(site.fetched(), once(&mended), "{broken:?}");
    browser.quit().await;
}

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn a_server_that_refuses_answers_503_or_hangs_costs_no_object() {
    tokio::join!(
        mends_everything(&[Broken::Refuses]),
        mends_everything(&[Broken::Answers503]),
        mends_everything(&[Broken::Hangs]),
    );
}

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn several_servers_that_are_dead_cost_a_spread_page_no_object() {
    const DEAD: [Broken; 2] = [Broken::Refuses, Broken::Answers503];
    tokio::join!(
        mends_everything(&DEAD),
        keeps_the_order(&DEAD),
        stops_at_forty(&DEAD),
    );
}

/// Scripts that the parser waits for, one that it waits for because another wrote it, two that another put there to
/// run in order, and one that comes last; between them what counts on those before it.
fn in_order(server: &str) -> String {
    let put = ["c", "d"].map(|name| {
        format!(
            "put = document.createElement('script'); put.async = false; put.src = '{server}/o/{name}.js'; \
             document.head.append(put);"
        )
    });
    format!(
        "<!doctype html><title>In order</title><script>ran = []; notes = []; note = event => notes.push(event.type);\
         after = () => ran.push('after ' + ran.findLast(name => !'cd'.includes(name)));</script><script src=/o/a.js onload=note(event) onerror=note(event)></script>\
         <script>after(); let put; {}</script>\
         <script src=/o/b.js onload=note(event) onerror=note(event)></script><script>after();\
         document.write(\"<script src='{server}/o/written.js'></scr\" + \"ipt><i>written</i>\");</script>\
         <script>after();</script>\
         <script defer src=/o/lazy.js onload=note(event) onerror=note(event)></script><img src=/o/1.svg>",
        put.concat()
    )
}

/// Scripts run in their order, each once, and their page hears that they came, and of no failure.
async fn keeps_the_order(broken: &[Broken]) {
    let (servers, site) = broken_site(broken).await;
    write(site.root.path(), "o/written.js", b"ran.push('written');");
    let browser = browser().await;
    browser
        .open(&site.page("order", &in_order(&servers[0].url)))
        .await;
    let seen = until_seen(
        &browser,
        &json!({ "pictures": [1], "notes": ["load", "load", "load"] }),
    )
    .await;
    let (put, others): (Vec<&str>, Vec<&str>) = seen["scripts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .partition(|name| ["c", "d"].contains(name));
    assert_eq!(put, ["c", "d"], "{broken:?}: {seen}");
    let expected = [
        "a",
        "after a",
        "b",
        "after b",
        "written",
        "after written",
        "lazy",
    ];
    assert_eq!(others, expected, "{broken:?}: {seen}");
    // The page is whole. What nobody waits for any more is not told to have failed, either.
    until_looks(&browser, 3 * servers.len() as u64).await;
    let whole = browser
        .run("return [document.querySelectorAll('i').length, document.title, notes.length];")
        .await;
    assert_eq!(whole, json!([1, "In order", 3]), "{broken:?}");
    site.until_fetched(7).await;
    let names = [
        "1.svg",
        "a.js",
        "b.js",
        "c.js",
        "d.js",
        "lazy.js",
        "written.js",
    ];
    let once = names.map(|name| (format!("/o/{name}"), 1)).into();
    assert_eq!(site.fetched(), once, "{broken:?}");
    browser.quit().await;
}

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn classic_scripts_run_in_their_order_though_their_server_is_dead() {
    tokio::join!(
        keeps_the_order(&[Broken::Refuses]),
        keeps_the_order(&[Broken::Answers503]),
    );
}

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn scripts_in_the_head_are_mended_behind_a_policy_that_allows_own_scripts_alone() {
    let (_servers, site) = broken_site(&[Broken::Refuses]).await;
    let browser = browser().await;
    let html = "<!doctype html><title>Behind a policy</title><script src=/o/a.js></script><script src=/o/b.js></script>\
        <script async src=/o/lazy.js></script><link rel=stylesheet href=/o/a.css><img src=/o/1.svg>";
    browser.open(&site.page("scripts-policy", html)).await;
    let seen = until_seen(&browser, &json!({ "pictures": [1], "styles": ["a"] })).await;
    let mut scripts = seen["scripts"].as_array().unwrap().clone();
    scripts.retain(|name| name != "lazy");
    assert_eq!(scripts, ["a", "b"], "{seen}");
    until_looks(&browser, 2).await;
    site.until_fetched(5).await;
    assert_eq!(site.fetched().values().sum::<usize>(), 5);
    let console = browser.console().await;
    let policies = |entry: &&Value| {
        let text = entry["message"].as_str().unwrap_or_default();
        text.contains("Content Security Policy") || text.contains("Content-Security-Policy")
    };
    assert_eq!(console.iter().find(policies), None);
    browser.quit().await;
}

/// Of a hundred pictures forty come from the primary; of the others their page hears, once each.
async fn stops_at_forty(broken: &[Broken]) {
    let (servers, site) = broken_site(broken).await;
    let picture = |number| {
        let name = number % 17 + 1;
        format!("<img src=/o/{name}.svg?{number} onerror=notes.push(this.src)>")
    };
    let html: String = (0..100).map(picture).collect();
    let browser = browser().await;
    let start = "<!doctype html><title>Many</title><script>notes = []</script>";
    browser
        .open(&site.page("many", &(start.to_owned() + &html)))
        .await;
    until("forty pictures, and sixty failures", async || {
        let seen = browser
            .run("return [[...document.images].filter(image => image.naturalWidth).length, notes.length];")
            .await;
        (seen == json!([40, 60])).then_some(())
    })
    .await;
    let looks = browser.run("return looks;").await.as_u64().unwrap();
    until_looks(&browser, looks + 2 * servers.len() as u64).await;
    let told = browser
        .run("return [notes.length, new Set(notes).size];")
        .await;
    assert_eq!(told, json!([60, 60]), "{broken:?}");
    site.until_fetched(40).await;
    let fetched = site.fetched();
    assert_eq!(fetched.len(), 40, "{broken:?}: {fetched:?}");
    assert!(fetched.values().all(|times| *times == 1), "{fetched:?}");
    browser.quit().await;
}

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn a_page_asks_the_primary_for_forty_objects_at_most() {
    tokio::join!(
        stops_at_forty(&[Broken::Refuses]),
        stops_at_forty(&[Broken::Answers503]),
        stops_at_forty(&[Broken::Hangs]),
    );
}

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn with_a_server_that_is_well_nothing_comes_from_the_primary() {
    let objects = tempfile::tempdir().unwrap();
    write_objects(objects.path());
    let server = Nginx::start(objects.path());
    let site = Site::start(&[&server.url]).await;
    let browser = browser().await;
    browser
        .open(&site.page("everything-policy", EVERYTHING))
        .await;
    let mut scrolled = everything();
    until_seen(&browser, &scrolled).await;
    until_looks(&browser, 2).await;
    browser
        .run("scrollTo(0, document.documentElement.scrollHeight);")
        .await;
    scrolled["pictures"][9] = 17.into();
    let looks = until_seen(&browser, &scrolled).await["looks"]
        .as_u64()
        .unwrap();
    until_looks(&browser, looks + 2).await;
    assert_eq!(site.fetched(), BTreeMap::new());
    browser.quit().await;
}

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn a_server_that_is_killed_between_two_pages_costs_no_object() {
    let objects = tempfile::tempdir().unwrap();
    write_objects(objects.path());
    let server = Nginx::start(objects.path());
    let site = Site::asking(&[&server.url], "{}").await;
    let browser = browser().await;
    let url = site.page("everything-policy", EVERYTHING);
    browser.open(&url).await;
    until_seen(&browser, &everything()).await;
    assert_eq!(site.fetched(), BTreeMap::new());

    // The next page names it still, or not any more: the visitor sees the same.
    drop(server);
    browser.clear_cache().await;
    browser.open(&url).await;
    until_seen(&browser, &everything()).await;
    until("backgrounds and posters", async || {
        (site.fetched().len() >= MENDED.len()).then_some(())
    })
    .await;

    // And those after that name it no more.
    site.program.until_usable("0", false).await;
    let page = site.program.until("offloading stops", |_| true).await;
    assert_eq!(page["servers"][0]["health"], "ill");
    browser.clear_cache().await;
    browser.open(&url).await;
    until_seen(&browser, &everything()).await;
    let names = "return [document.querySelectorAll('[src],[href]')].flatMap(all => [...all])\
        .filter(element => new URL(element.src || element.href, location).port != location.port).length;";
    assert_eq!(browser.run(names).await, 0);
    browser.quit().await;
}

/// A picture of which half of the bytes show half of it: 64 wide and high, of 24 bits.
fn bitmap() -> Vec<u8> {
    let pixels = 64 * 64 * 3_u32;
    let mut file = b"BM".to_vec();
    for number in [
        54 + pixels,
        0,
        54,
        40,
        64,
        64,
        1 | 24 << 16,
        0,
        pixels,
        0,
        0,
        0,
        0,
    ] {
        file.extend(number.to_le_bytes());
    }
    file.resize(54 + pixels as usize, 0x99);
    file
}

/// Of each of these objects the half has come when the server is killed; then all of it is to be seen.
async fn is_killed_in_the_middle(html: &str, objects: &[&str], seen: Value, scripts: usize) {
    let root = tempfile::tempdir().unwrap();
    write_objects(root.path());
    write(root.path(), "o/half.bmp", &bitmap());
    let server = DyingServer::start(root.path()).await;
    let site = Site::start(&[&server.url]).await;
    write(site.root.path(), "o/half.bmp", &bitmap());
    let browser = browser().await;
    let html = format!("<!doctype html><title>In the middle</title>{html}");
    browser.open(&site.page("middle-policy", &html)).await;
    until(format_args!("{objects:?} have begun"), async || {
        (server.asked() == objects).then_some(())
    })
    .await;
    server.kill();
    let seen = until_seen(&browser, &seen).await;
    until("every script has run", async || {
        let ran = browser.run("return (window.ran || []).length;").await;
        (ran == scripts).then_some(())
    })
    .await;
    let looks = seen["looks"].as_u64().unwrap();
    until_looks(&browser, looks + 2).await;
    let once: BTreeMap<_, _> = objects.iter().map(|path| (path.to_string(), 1)).collect();
    assert_eq!(site.fetched(), once);
    browser.quit().await;
}

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn a_server_that_is_killed_in_the_middle_of_its_answers_costs_no_object() {
    tokio::join!(
        is_killed_in_the_middle(
            "<link rel=stylesheet href=/o/a.css><script src=/o/a.js></script>",
            &["/o/a.css", "/o/a.js"],
            json!({ "styles": ["a"] }),
            1,
        ),
        // (Beside those that a page is held up by, a browser waits with these.)
        is_killed_in_the_middle(
            "<script defer src=/o/b.js></script><script async src=/o/lazy.js></script>",
            &["/o/b.js", "/o/lazy.js"],
            json!({}),
            2,
        ),
        is_killed_in_the_middle(
            "<img src=/o/half.bmp><img src=/o/1.svg><picture><source srcset=/o/2.svg><img src=/o/3.svg></picture>\
             <img srcset='/o/half.bmp?2x 1x'>",
            &["/o/1.svg", "/o/2.svg", "/o/half.bmp", "/o/half.bmp?2x"],
            json!({ "pictures": [64, 1, 2, 64] }),
            0,
        ),
    );
}
