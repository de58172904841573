//! Pages made for it: policies, integrity, fonts, modules, srcsets, preloads and more, looked at by Chromium with
//! and without offloading.
//!
//! For each: the same objects are fetched, each once, and all but those that the fixture names from the
//! offload server; what is to be seen is the same, and what the fixture says; the console says no more.

use std::{fmt::Write, fs, path::Path};

use sha2::{Digest, Sha256};

use super::visit::{Places, Visit};
use crate::support::{
    config::Config, process::Nginx, program::Program, wait::until, webdriver::Browser, write,
};

/// A page, and what is to be seen of it.
struct Fixture {
    name: &'static str,
    headers: Vec<(&'static str, String)>,
    html: String,
    /// As [`LOOK`] tells it.
    shows: &'static str,
    /// Paths of the objects that come from the primary still, sorted.
    stays: &'static [&'static str],
    /// Whether `rewrite.modules` is on.
    modules: bool,
}

/// Waits for everything, and tells which pictures (by their width), scripts (in the order in which they ran),
/// styles, fonts and films are there.
const LOOK: &str = r#"
    const images = [...document.images];
    images.forEach(image => { image.loading = 'eager'; });
    await Promise.all(images.map(image => image.complete || new Promise(done => {
        image.onload = image.onerror = done;
    })));
    const media = [...document.querySelectorAll('video, audio')];
    await Promise.all(media.map(element => element.readyState >= 1 || new Promise((done, fail) => {
        element.onloadedmetadata = done;
        element.onerror = () => fail(element.currentSrc);
    })));
    const pictures = images.map(image => image.naturalWidth);
    for (const drawing of document.querySelectorAll('svg image')) {
        pictures.push(drawing.getBBox().width);
    }
    for (const button of document.querySelectorAll('input[type=image]')) {
        pictures.push(button.offsetWidth);
    }
    await document.fonts.ready;
    // Styles may have asked for pictures.
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const style = getComputedStyle(document.documentElement);
    const styles = ['a', 'b', 'c', 'd'].filter(name => style.getPropertyValue('--' + name));
    const fonts = [...document.fonts].filter(font => font.status === 'loaded').map(font => font.family);
    const shows = { pictures, scripts: window.ran || [], styles, fonts, media: media.map(element => element.duration > 0) };
    return Object.entries(shows).filter(([, list]) => list.length)
        .map(([what, list]) => [what, ...list].join(' ')).join('; ');
"#;

/// Nobody uses this preload. Chromium complains of it together with all others that are not used, so that one
/// needs not wait for complaints that may come yet.
const UNUSED: &str = "<link rel=preload as=image href=/keep/unused.svg>";

fn page(name: &'static str, html: impl Into<String>) -> Fixture {
    Fixture {
        name,
        headers: Vec::new(),
        html: html.into(),
        shows: "",
        stays: &[],
        modules: false,
    }
}

impl Fixture {
    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn policy(self, value: impl Into<String>) -> Self {
        self.header("Content-Security-Policy", value)
    }

    fn shows(mut self, shows: &'static str) -> Self {
        self.shows = shows;
        self
    }

    fn stays(mut self, stays: &'static [&'static str]) -> Self {
        self.stays = stays;
        self
    }

    fn modules(mut self) -> Self {
        self.modules = true;
        self
    }
}

/// `sha256-…` of a text, as policies and `integrity` have it.
fn sha256(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = Sha256::digest(text);
    let mut out = String::from("sha256-");
    for chunk in digest.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, place| {
            bits << 8 | u32::from(chunk.get(place).copied().unwrap_or(0))
        });
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 63;
            out.push(if place > chunk.len() {
                '='
            } else {
                DIGITS[digit as usize].into()
            });
        }
    }
    out
}

fn script(name: &str) -> String {
    format!("(window.ran = window.ran || []).push('{name}');\n")
}

fn style(name: &str) -> String {
    format!(":root {{ --{name}: here; }}\n")
}

/// What is embedded: `/o/N.svg`, N wide; `/o/a.js`, which notes that it ran; `/o/a.css`, which leaves a property;
/// fonts, films, modules; and the same below `/keep`, which stays by `rewrite.exclude`.
pub(crate) fn write_objects(root: &Path) {
    let put = |path: &str, text: String| write(root, path, text.as_bytes());
    for number in 1..40 {
        put(
            &format!("o/{number}.svg"),
            format!(
                "<svg xmlns='http://www.w3.org/2000/svg' width='{number}' height='9'><rect width='9' height='9'/></svg>"
            ),
        );
    }
    fs::create_dir(root.join("keep")).unwrap();
    for name in ["9.svg", "unused.svg"] {
        fs::copy(root.join("o/9.svg"), root.join("keep").join(name)).unwrap();
    }
    fs::copy(root.join("o/9.svg"), root.join("o/icon.svg")).unwrap();
    put("o/sprite.svg", "<svg xmlns='http://www.w3.org/2000/svg'><symbol id='s'><rect width='9' height='9'/></symbol></svg>".into());
    for name in ["a", "b", "c", "d"] {
        put(&format!("o/{name}.js"), script(name));
        put(&format!("o/{name}.css"), style(name));
    }
    put(
        "o/loader.js",
        script("loader")
            + "const more = document.createElement('script'); more.src = '/o/d.js'; document.head.append(more);",
    );
    put(
        "o/lazy.js",
        script("lazy")
            + "document.querySelectorAll('[data-src]').forEach(image => { image.src = image.dataset.src; });",
    );
    put(
        "o/module.js",
        "import { name } from './dependency.js';\n".to_owned()
            + &script("module")
            + "window.ran.push(name);",
    );
    put(
        "o/dependency.js",
        "export const name = 'dependency';".into(),
    );
    put(
        "o/mapped.js",
        "import { name } from 'dependency';\n".to_owned()
            + &script("mapped")
            + "window.ran.push(name);",
    );
    put(
        "o/font.css",
        style("a")
            + "@font-face { font-family: relative; src: url(font.woff2); } h1 { font-family: relative; }",
    );
    put(
        "o/picture.css",
        style("b") + "body { background: url(30.svg); } body::after { content: url('31.svg'); }",
    );
    put("o/imports.css", "@import 'd.css';".to_owned() + &style("c"));
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("static/site");
    for (file, name) in [
        ("assets/fonts/ebgaramond-latin.woff2", "font.woff2"),
        ("light/beam.mp4", "film.mp4"),
        ("light/foghorn.mp3", "sound.mp3"),
    ] {
        fs::copy(site.join(file), root.join("o").join(name)).unwrap();
    }
    put("o/words.vtt", "WEBVTT\n".into());
}

/// One of each kind.
const ALL_KINDS: &str = "<link rel=stylesheet href=/o/font.css><script src=/o/a.js></script>\
    <h1>Heading</h1><img src=/o/1.svg><video src=/o/film.mp4 poster=/o/2.svg></video>";
const ALL_KINDS_SHOW: &str = "pictures 1; scripts a; styles a; fonts relative; media true";

fn policies() -> Vec<Fixture> {
    let inline_script = script("inline");
    let inline_style = "body{background:url(/o/3.svg)}";
    let meta =
        |policy: &str| format!("<meta http-equiv=Content-Security-Policy content=\"{policy}\">");
    vec![
        page("policy-default-src", ALL_KINDS).policy("default-src 'self'").shows(ALL_KINDS_SHOW),
        page("policy-each-kind", ALL_KINDS)
            .policy("default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; font-src 'self'; media-src 'self'")
            .shows(ALL_KINDS_SHOW),
        page("policy-elements", ALL_KINDS)
            .policy("default-src 'self'; script-src 'none'; script-src-elem 'self'; style-src 'none'; style-src-elem 'self'")
            .shows(ALL_KINDS_SHOW),
        page("policy-two", ALL_KINDS)
            .policy("default-src 'self' data:, img-src 'self'")
            .policy("default-src http:; object-src 'none'")
            .shows(ALL_KINDS_SHOW),
        page("policy-report-only", ALL_KINDS)
            .header("Content-Security-Policy-Report-Only", "default-src 'self'; report-uri /reports")
            .shows(ALL_KINDS_SHOW),
        page("policy-report-only-none", ALL_KINDS)
            .header("Content-Security-Policy-Report-Only", "img-src 'none'; script-src 'nonce-x' 'strict-dynamic'; report-uri /reports")
            .shows(ALL_KINDS_SHOW),
        page("policy-without-pictures", ALL_KINDS)
            .policy("default-src 'self'; img-src 'none'")
            .shows("pictures 0; scripts a; styles a; fonts relative; media true")
            // A stylesheet takes its pictures along, so it stays as well.
            .stays(&["/o/1.svg", "/o/2.svg", "/o/font.css", "/o/font.woff2"]),
        page("policy-without-fonts", ALL_KINDS)
            .policy("default-src 'self'; font-src 'none'")
            .shows("pictures 1; scripts a; styles a; media true")
            .stays(&["/o/font.css", "/o/font.woff2"]),
        page("policy-meta", meta("default-src 'self'") + ALL_KINDS).shows(ALL_KINDS_SHOW),
        page("policy-meta-late", format!("<script src=/o/b.js></script><link rel=stylesheet href=/o/b.css>{}{ALL_KINDS}", meta("default-src 'self'; img-src 'self'")))
            .shows("pictures 1; scripts b a; styles a b; fonts relative; media true"),
        page("policy-meta-and-header", meta("img-src 'self'; font-src *") + ALL_KINDS)
            .policy("default-src 'self'")
            .shows(ALL_KINDS_SHOW),
        page("policy-hashes", format!("<style>{inline_style}</style><script>{inline_script}</script>{ALL_KINDS}"))
            .policy(format!("default-src 'self'; script-src 'self' '{}'; style-src 'self' '{}'", sha256(&inline_script), sha256(inline_style)))
            .shows("pictures 1; scripts inline a; styles a; fonts relative; media true")
            .stays(&["/o/3.svg"]),
        page("policy-hash-of-a-file", format!("<script src=/o/a.js integrity={0}></script><script src=/o/b.js></script>", sha256(&script("a"))))
            .policy(format!("script-src '{}'", sha256(&script("a"))))
            .shows("scripts a")
            .stays(&[]),
        page("policy-nonces", format!("<script nonce=abc>{inline_script}</script><script nonce=abc src=/o/a.js></script>\
                <script src=/o/b.js></script><link rel=stylesheet nonce=abc href=/o/picture.css><style nonce=abc>{inline_style}</style>"))
            .policy("script-src 'nonce-abc'; style-src 'nonce-abc'")
            .shows("scripts inline a; styles b"),
        page("policy-strict-dynamic", "<script nonce=abc src=/o/loader.js></script><script src=/o/a.js></script><img src=/o/1.svg>\
                <link rel=stylesheet href=/o/a.css>")
            .policy("script-src 'nonce-abc' 'strict-dynamic' http:; object-src 'none'; base-uri 'none'")
            .shows("pictures 1; scripts loader d; styles a")
            .stays(&["/o/a.js", "/o/d.js", "/o/loader.js"]),
        page("policy-upgrades", ALL_KINDS)
            .header("Content-Security-Policy-Report-Only", "upgrade-insecure-requests; default-src 'self'")
            .shows(ALL_KINDS_SHOW),
        page("policy-embedder", ALL_KINDS)
            .header("Cross-Origin-Embedder-Policy", "require-corp")
            .header("Cross-Origin-Opener-Policy", "same-origin")
            .shows(ALL_KINDS_SHOW),
    ]
}

fn integrity() -> Vec<Fixture> {
    let (a, b) = (sha256(&script("a")), sha256(&style("b")));
    vec![
        page("integrity", format!("<script src=/o/a.js integrity={a}></script><link rel=stylesheet href=/o/b.css integrity={b}>\
                <script src=/o/c.js integrity={} crossorigin></script>", sha256(&script("c"))))
            .shows("scripts a c; styles b"),
        page("integrity-wrong", format!("<script src=/o/b.js integrity={a}></script><link rel=stylesheet href=/o/c.css integrity={b}>\
                <script src=/o/a.js integrity={a}></script>"))
            .shows("scripts a"),
        page("integrity-preloaded", format!("{UNUSED}<link rel=preload as=script href=/o/a.js integrity={a}>\
                <link rel=preload as=style href=/o/b.css integrity={b}>\
                <link rel=stylesheet href=/o/b.css integrity={b}><script src=/o/a.js integrity={a}></script>"))
            .shows("scripts a; styles b")
            .stays(&["/keep/unused.svg"]),
    ]
}

fn fonts() -> Vec<Fixture> {
    vec![
        page("crossorigin", format!("{UNUSED}<link rel=preload as=image href=/o/1.svg crossorigin><img crossorigin src=/o/1.svg>\
                <script crossorigin src=/o/a.js></script><link rel=stylesheet crossorigin=use-credentials href=/o/b.css>"))
            .shows("pictures 1; scripts a; styles b")
            .stays(&["/keep/unused.svg", "/o/b.css"]),
        page("font-of-a-stylesheet", "<link rel=stylesheet href=/o/font.css><h1>Heading</h1>")
            .shows("styles a; fonts relative"),
        page("font-inline", "<style>@font-face { font-family: inline; src: local('no such font'), url('/o/font.woff2') format('woff2') } \
                h1 { font-family: inline }</style><h1>Heading</h1>")
            .shows("fonts inline"),
        page("font-preloaded", format!("{UNUSED}<link rel=preload as=font type=font/woff2 href=/o/font.woff2 crossorigin>\
                <link rel=stylesheet href=/o/font.css><h1>Heading</h1>"))
            .shows("styles a; fonts relative")
            .stays(&["/keep/unused.svg"]),
        page("font-preloaded-inline", format!("{UNUSED}<link rel=preload as=font href=/o/font.woff2 crossorigin=anonymous>\
                <style>@font-face {{ font-family: inline; src: url(/o/font.woff2) }} h1 {{ font-family: inline }}</style><h1>Heading</h1>"))
            .shows("fonts inline")
            .stays(&["/keep/unused.svg"]),
    ]
}

fn modules() -> Vec<Fixture> {
    let module = format!(
        "{UNUSED}<link rel=modulepreload href=/o/module.js><link rel=modulepreload href=/o/dependency.js>\
        <script type=module src=/o/module.js></script><script nomodule src=/o/b.js></script><script src=/o/a.js></script>"
    );
    let mapped = "<script type=importmap>{\"imports\":{\"dependency\":\"/o/dependency.js\"}}</script>\
        <script type=module src=/o/mapped.js></script><script src=/o/a.js></script>";
    vec![
        page("modules-stay", module.clone())
            .shows("scripts a module dependency")
            .stays(&["/keep/unused.svg", "/o/dependency.js", "/o/module.js"]),
        page("modules-move", module)
            .modules()
            .shows("scripts a module dependency")
            .stays(&["/keep/unused.svg"]),
        page(
            "modules-inline",
            "<script type=module>import '/o/module.js';</script><script src=/o/a.js></script>",
        )
        .modules()
        .shows("scripts a module dependency")
        .stays(&["/o/dependency.js", "/o/module.js"]),
        page("modules-behind-a-map", mapped)
            .modules()
            .shows("scripts a mapped dependency")
            .stays(&["/o/dependency.js", "/o/mapped.js"]),
        page(
            "modules-policy",
            "<script type=module src=/o/module.js></script>",
        )
        .modules()
        .policy("script-src 'self'")
        .shows("scripts module dependency"),
    ]
}

fn pictures() -> Vec<Fixture> {
    vec![
        page("srcset", "<img srcset='/o/10.svg 10w, /o/20.svg 2000w' sizes=5px src=/o/1.svg>\
                <img srcset='/o/11.svg, /o/12.svg 2x' src=/o/2.svg><img srcset='/o/13.svg 1x,/o/14.svg 3x'><img src=/o/3.svg srcset=''>")
            .shows("pictures 5 11 13 3"),
        page("picture", "<picture><source media='(max-width: 1px)' srcset=/o/10.svg><source type=image/unknown srcset=/o/11.svg>\
                <source srcset='/o/12.svg, /o/13.svg 2x'><img src=/o/1.svg></picture>\
                <picture><source media='(max-width: 1px)' srcset=/o/10.svg><img src=/o/2.svg></picture>\
                <picture><source srcset=/o/14.svg><img src=/o/3.svg crossorigin></picture>")
            .shows("pictures 12 2 14"),
        page("lazy", "<img loading=lazy src=/o/1.svg><p style='height:9000px'></p><img loading=lazy src=/o/2.svg><img loading=lazy srcset=/o/3.svg>")
            .shows("pictures 1 2 3"),
        page("lazy-by-script", "<img data-src=/o/1.svg><img data-src=/o/2.svg><script src=/o/lazy.js></script>")
            .shows("pictures 1 2; scripts lazy"),
        page("base", "<base href=/o/><img src=1.svg><img src=../o/./2.svg><img srcset='3.svg 1x'><script src=a.js></script>\
                <link rel=stylesheet href=picture.css><p style='background:url(4.svg)'>.</p>")
            .shows("pictures 1 2 3; scripts a; styles b"),
        page("base-late", "<img src=/o/1.svg><base href=/o/><img src=2.svg>").shows("pictures 1 2"),
        page("svg", "<svg><image href=/o/1.svg /><image xlink:href=/o/2.svg /><use href=/o/sprite.svg#s /><script href=/o/a.js></script></svg><img src=/o/3.svg>")
            .shows("pictures 3 1 2; scripts a")
            .stays(&["/o/sprite.svg"]),
        page("style-attributes", "<p style='background:url(/o/1.svg)'>.</p><p style=\"color:red;background-image:url(&quot;/o/2.svg?a&amp;b&quot;)\">.</p>\
                <p style=\"list-style:url('/o/3.svg');display:list-item;margin:1em\">.</p><p style='background:image-set(\"/o/4.svg\" 1x, \"/o/5.svg\" 2x)'>.</p>\
                <p style='--p:url(/o/6.svg);background:var(--p)'>.</p><p style='mask-image:url(/o/7.svg)'>.</p>"),
        page("style-element", "<style>@import '/o/imports.css'; @import url(/o/a.css) screen; p { background: url( \"/o/1.svg\" ) } \
                q::before { content: url(/o/2.svg) }</style><p>.</p><q>.</q>")
            .shows("styles a c d"),
        page("background", "<body background=/o/1.svg><table background=/o/2.svg><tr background=/o/3.svg><td background=/o/4.svg>.</table>\
                <input type=image src=/o/5.svg>")
            .shows("pictures 5"),
        page("media", "<video src=/o/film.mp4 poster=/o/1.svg><track src=/o/words.vtt default></video>\
                <video preload=metadata><source src=/o/unknown type=video/unknown><source src=/o/film.mp4?2></video><audio src=/o/sound.mp3></audio>")
            .shows("media true true true")
            .stays(&["/o/words.vtt"]),
        page("spellings", "<img src='  /o/1.svg '><img src='/o/../o/2.svg'><img src='&#47;o&#x2f;3.svg'><img src=/o/4.svg?a=1&amp;b=2#f>\
                <img src='/o/\n5.svg'><img src=\\o\\6.svg><IMG SRC=/o/7.svg SRC=/o/8.svg>")
            .shows("pictures 1 2 3 4 5 6 7"),
        page("off", "<img src=/o/1.svg><img src=/o/2.svg data-overspill=off><div data-overspill=off><img src=/o/3.svg>\
                <script src=/o/a.js></script><style>p{background:url(/o/4.svg)}</style></div><p>.</p><img src=/o/5.svg>")
            .shows("pictures 1 2 3 5; scripts a")
            .stays(&["/o/2.svg", "/o/3.svg", "/o/4.svg", "/o/a.js"]),
        page("excluded", "<img src=/keep/9.svg><img src=/o/1.svg><iframe srcdoc='<img src=/o/2.svg>'></iframe>")
            .shows("pictures 9 1")
            .stays(&["/keep/9.svg", "/o/2.svg"]),
    ]
}

fn preloads() -> Vec<Fixture> {
    let objects = "<link rel=stylesheet href=/o/font.css><script src=/o/a.js></script><h1>Heading</h1><img src=/o/1.svg>\
        <img srcset='/o/10.svg 10w, /o/20.svg 2000w' sizes=5px>";
    let shows = "pictures 1 5; scripts a; styles a; fonts relative";
    vec![
        page("preloads", format!("{UNUSED}<link rel=preload as=image href=/o/1.svg><link rel=preload as=script href=/o/a.js>\
                <link rel=preload as=style href=/o/font.css><link rel=preload as=font href=/o/font.woff2 crossorigin>\
                <link rel=preload as=image imagesrcset='/o/10.svg 10w, /o/20.svg 2000w' imagesizes=5px>{objects}"))
            .shows(shows)
            .stays(&["/keep/unused.svg"]),
        page("preloads-in-the-header", format!("{UNUSED}{objects}"))
            .header("Link", "</o/1.svg>; rel=preload; as=image, </o/a.js>; rel=\"preload\"; as=\"script\"")
            .header("Link", "</o/font.css>; rel=preload; as=style, </o/font.woff2>; rel=preload; as=font; crossorigin")
            .header("Link", "</o/10.svg>; rel=preload; as=image; imagesrcset=\"/o/10.svg 10w, /o/20.svg 2000w\"; imagesizes=5px")
            .shows(shows)
            .stays(&["/keep/unused.svg"]),
        page("preloads-with-a-policy", format!("{UNUSED}<link rel=preload as=image href=/o/1.svg><link rel=preload as=script href=/o/a.js>{objects}"))
            .policy("default-src 'self'")
            .header("Link", "</o/font.css>; rel=preload; as=style")
            .shows(shows)
            .stays(&["/keep/unused.svg"]),
        page("preload-of-what-is-imported", format!("{UNUSED}<link rel=preload as=style href=/o/d.css><link rel=stylesheet href=/o/imports.css>"))
            .shows("styles c d")
            .stays(&["/keep/unused.svg"]),
        page("preload-used-as-style", format!("{UNUSED}<link rel=preload as=style href=/o/a.css onload=\"this.onload=null;this.rel='stylesheet'\">\
                <link rel=stylesheet media=print href=/o/b.css onload=\"this.media='all'\">"))
            .shows("styles a b")
            .stays(&["/keep/unused.svg"]),
    ]
}

/// A server for these pages, as nginx has it: each with headers of its own.
fn locations(fixtures: &[Fixture]) -> String {
    let mut lines = String::new();
    for fixture in fixtures {
        write!(lines, "location = /{}.html {{ ", fixture.name).unwrap();
        for (name, value) in &fixture.headers {
            write!(
                lines,
                "add_header {name} \"{}\"; ",
                value.replace('"', "\\\"")
            )
            .unwrap();
        }
        lines += "}\n";
    }
    lines
}

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn a_browser_shows_the_same_of_made_pages_with_and_without_offloading() {
    let fixtures: Vec<_> = [
        policies(),
        integrity(),
        fonts(),
        modules(),
        pictures(),
        preloads(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let root = tempfile::tempdir().unwrap();
    write_objects(root.path());
    for Fixture { name, html, .. } in &fixtures {
        let html =
            format!("<!doctype html><title>{name}</title><link rel=icon href=/o/icon.svg>{html}");
        write(root.path(), &format!("{name}.html"), html.as_bytes());
    }
    let files = format!("root {}; ", root.path().display());
    let reports = "location = /reports { return 204; }\n";
    let behind = Nginx::configured("", &(files.clone() + reports + &locations(&fixtures)));
    let nginx = Nginx::configured(
        "",
        &(files
            + "add_header Access-Control-Allow-Origin *; add_header Cross-Origin-Resource-Policy cross-origin;"),
    );
    let config = Config::new(format!(
        "primary.upstream = {:?}\noffload.share = 1.0\nrewrite.exclude = [\"keep/**\"]\n\
         offload.servers = [{{ name = \"nginx\", url = {:?}, cors = true }}]",
        behind.url, nginx.url
    ));
    let programs = [
        Program::serve(&config).await,
        Program::serve(&config.clone().with("rewrite.modules = true")).await,
    ];
    for (program, modules) in programs.iter().zip([false, true]) {
        program.until_usable("nginx", true).await;
        let frames = |fixture: &Fixture| {
            let waits = fixture.modules == modules && fixture.html.contains(UNUSED);
            waits.then(|| format!("<iframe src=/{}.html></iframe>", fixture.name))
        };
        let html: String = fixtures.iter().filter_map(frames).collect();
        write(
            root.path(),
            &format!("frames-{modules}.html"),
            html.as_bytes(),
        );
    }

    let browser = Browser::start().await;
    let mut visits = [Vec::new(), Vec::new()];
    let mut frames = [Vec::new(), Vec::new()];
    for (level, (visits, frames)) in ["normal", "offload"]
        .into_iter()
        .zip(visits.iter_mut().zip(&mut frames))
    {
        for program in &programs {
            program.hold_level(level).await;
        }
        for fixture in &fixtures {
            let places = places(fixture, &programs, &nginx);
            let url = format!("{}/{}.html", places.primary, fixture.name);
            browser.clear_cache().await;
            visits.push(Visit::pay(&browser, &places, &url, LOOK).await);
        }
        // Complaints of what is not used come seconds later: so all of them at once.
        for (program, modules) in programs.iter().zip([false, true]) {
            let places = Places {
                primary: format!("http://{}", program.site),
                server: nginx.url.clone(),
            };
            let url = format!("{}/frames-{modules}.html", places.primary);
            let mut visit = Visit::pay(&browser, &places, &url, "return 0;").await;
            let waits =
                |fixture: &&Fixture| fixture.modules == modules && fixture.html.contains(UNUSED);
            let waiting = fixtures.iter().filter(waits).count();
            until(
                format_args!("what the frames of {url} did not use"),
                async || {
                    visit.listen(&browser, &places).await;
                    let complaints = visit
                        .console
                        .iter()
                        .filter(|line| line.contains("unused.svg"));
                    (complaints.count() == waiting).then_some(())
                },
            )
            .await;
            frames.push(visit);
        }
    }
    until("the icon comes from the server", async || {
        let log = nginx.log();
        log.contains("GET /o/icon.svg").then_some(())
    })
    .await;
    browser.quit().await;

    let [normal, offload] = visits;
    let mut failed = Vec::new();
    for ((fixture, normal), offload) in fixtures.iter().zip(&normal).zip(&offload) {
        let wrong = compare(
            fixture,
            &places(fixture, &programs, &nginx),
            normal,
            offload,
        );
        failed.extend(
            wrong
                .iter()
                .map(|wrong| format!("{}: {wrong}", fixture.name)),
        );
    }
    let [normal, offload] = frames;
    for (normal, offload) in normal.iter().zip(&offload) {
        failed.extend(
            offload
                .complains_more_than(normal)
                .into_iter()
                .map(str::to_owned),
        );
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("{} pages", fixtures.len());
}

fn places(fixture: &Fixture, programs: &[Program; 2], nginx: &Nginx) -> Places {
    Places {
        primary: format!("http://{}", programs[usize::from(fixture.modules)].site),
        server: nginx.url.clone(),
    }
}

/// What is wrong with a page.
fn compare(fixture: &Fixture, places: &Places, normal: &Visit, offload: &Visit) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |what: &str, expected: String, found: String| {
        if expected != found {
            wrong.push(format!("{what}: expected {expected}, found {found}"));
        }
    };
    check(
        "shows at normal",
        fixture.shows.into(),
        normal.state.as_str().unwrap_or_default().into(),
    );
    check(
        "shows at offload",
        fixture.shows.into(),
        offload.state.as_str().unwrap_or_default().into(),
    );
    check(
        "at the server at normal",
        "[]".into(),
        format!("{:?}", normal.objects_at(&places.server)),
    );
    check(
        "at the primary at offload",
        format!("{:?}", fixture.stays),
        format!("{:?}", offload.objects_at(&places.primary)),
    );
    check(
        "fetched",
        format!("{:#?}", normal.fetched(places)),
        format!("{:#?}", offload.fetched(places)),
    );
    check(
        "more complaints",
        "[]".into(),
        format!("{:#?}", offload.complains_more_than(normal)),
    );
    wrong
}
