//! What rewriting costs: the first sight of a page against the bare scanner, splicing by a plan, and a request
//! for a page that is known.
//!
//! `cargo bench --bench rewrite`. The pages are those of the Debian packages apache2-doc, python3-doc,
//! postgresql-doc, git-doc and sqlite3-doc, as far as they are installed; `OVERSPILL_PAGES=FOLDER` takes others.
//! Figures of bytes a second are of the page's bytes.

mod support;

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use divan::{Bencher, black_box, counter::BytesCount};
use lol_html::{
    AsciiCompatibleEncoding, HtmlRewriter, MemorySettings, OutputSink, Selector,
    send::{Element, ElementContentHandlers, Settings as Scanner},
};
use overspill::{
    Settings,
    level::Level,
    rewrite::{self, Allowance, Kinds, Page, Plan, Rewriter, Rules, Target},
    servers::{ServerSettings, SpreadBy},
};
use support::{Asked, Site, exchange, overspill};
use tower_layer::Layer;
use url::Url;

fn main() {
    divan::main();
}

/// How a body comes: as the readers of files and sockets cut it.
const CHUNK: usize = 16 * 1024;
/// So many bytes of pages are enough.
const CORPUS: usize = 6_000_000;

static PAGES: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    let mut folders: Vec<PathBuf> = match std::env::var_os("OVERSPILL_PAGES") {
        Some(folder) => vec![folder.into()],
        None => [
            "apache2-doc/manual/en",
            "python3/html",
            "python3.11/html",
            "python3.13/html",
            "postgresql-doc-15/html",
            "postgresql-doc-17/html",
            "git-doc",
            "sqlite3",
        ]
        .iter()
        .map(|name| Path::new("/usr/share/doc").join(name))
        .filter(|folder| folder.is_dir())
        .collect(),
    };
    if folders.is_empty() {
        folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("static/site"));
    }
    let share = CORPUS / folders.len();
    let mut pages = Vec::new();
    for folder in &folders {
        let mut left = share;
        for file in files(folder) {
            let page = fs::read(&file).expect("a file that was listed");
            let Some(rest) = left.checked_sub(page.len()) else {
                continue;
            };
            left = rest;
            pages.push(Bytes::from(page));
        }
    }
    let sum: usize = pages.iter().map(Bytes::len).sum();
    eprintln!("{} pages, {sum} bytes, of {folders:?}", pages.len());
    pages
});

/// The pages below a folder, in the order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("a folder of pages")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    let is_page = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| matches!(extension, "html" | "htm" | "en"))
    };
    entries
        .into_iter()
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false if is_page(&path) => vec![path],
            false => Vec::new(),
        })
        .collect()
}

fn bytes() -> BytesCount {
    BytesCount::new(PAGES.iter().map(Bytes::len).sum::<usize>())
}

fn rules() -> Arc<Rules> {
    Arc::new(Rules::new(&rewrite::Settings::default()).expect("the default"))
}

fn page() -> Page {
    Page::new(true, "www.example.com", "/manual/page.html", Arc::default()).expect("a URL")
}

fn target() -> Arc<Target> {
    let url = Url::parse("https://eu.offload.example").expect("a URL");
    Arc::new(Target::new("eu", &url, true).expect("a server"))
}

/// A page that was never seen.
#[divan::bench_group(sample_count = 20, sample_size = 1)]
mod first_sight {
    use super::*;

    struct Sink;

    impl OutputSink for Sink {
        fn handle_chunk(&mut self, chunk: &[u8]) {
            black_box(chunk);
        }
    }

    /// The scanner with our selectors, and a handler that does nothing: what can't be had for less.
    #[divan::bench]
    fn bare_scanner(bencher: Bencher<'_, '_>) {
        let rules = rules();
        let selector: Selector = rules.selectors().parse().expect("ours");
        let encoding =
            AsciiCompatibleEncoding::new(encoding_rs::WINDOWS_1252).expect("one of ASCII");
        bencher.counter(bytes()).bench_local(|| {
            for page in PAGES.iter() {
                let settings = Scanner::new_send()
                    .with_encoding(encoding)
                    .with_adjust_charset_on_meta_tag(false)
                    .with_strict(false)
                    .with_memory_settings(MemorySettings::new())
                    .append_element_content_handler((
                        Cow::Borrowed(&selector),
                        ElementContentHandlers::default().element(
                            |element: &mut Element<'_, '_>| {
                                black_box(element);
                                Ok(())
                            },
                        ),
                    ));
                let mut scanner = HtmlRewriter::new(settings, Sink);
                for chunk in page.chunks(CHUNK) {
                    scanner.write(chunk).expect("lax");
                }
                scanner.end().expect("lax");
            }
        });
    }

    /// As a page streams by: scanned, edited, recorded.
    #[divan::bench]
    fn streaming(bencher: Bencher<'_, '_>) {
        let (rules, allowance) = (rules(), Allowance::new(target(), Kinds::ALL));
        bencher.counter(bytes()).bench_local(|| {
            for body in PAGES.iter() {
                let rewriter = Rewriter::allowing(rules.clone(), page(), allowance.clone());
                let mut rewriter = rewriter.recording();
                for chunk in body.chunks(CHUNK) {
                    let mut out = BytesMut::with_capacity(chunk.len());
                    rewriter.push(chunk, &mut out);
                    black_box(&out);
                }
                let mut out = BytesMut::new();
                rewriter.finish(&mut out);
                black_box(rewriter.take_plan());
            }
        });
    }

    /// A page that is there as a whole: its plan, and the page by the plan.
    #[divan::bench]
    fn whole(bencher: Bencher<'_, '_>) {
        let (rules, allowance) = (rules(), Allowance::new(target(), Kinds::ALL));
        bencher.counter(bytes()).bench_local(|| {
            for body in PAGES.iter() {
                let plan = Plan::scan(rules.clone(), page(), body).expect("a plan");
                black_box(plan.splice(body, &allowance));
            }
        });
    }
}

/// A page whose plan is there, made for one server.
#[divan::bench(sample_count = 100)]
fn splice(bencher: Bencher<'_, '_>) {
    let (rules, allowance) = (rules(), Allowance::new(target(), Kinds::ALL));
    let planned = PAGES.iter().map(|body| {
        let plan = Plan::scan(rules.clone(), page(), body).expect("a plan");
        (body, plan)
    });
    // A page without links to move is not copied.
    let pages: Vec<_> = planned
        .filter(|(body, plan)| plan.splice(body, &allowance).is_some())
        .collect();
    let sum: usize = pages.iter().map(|(body, _)| body.len()).sum();
    bencher.counter(BytesCount::new(sum)).bench_local(|| {
        for (body, plan) in &pages {
            black_box(plan.splice(body, &allowance));
        }
    });
}

/// One request for a page of 13 KB that the application holds in memory.
#[divan::bench_group(sample_count = 1000, sample_size = 100)]
mod request {
    use super::*;

    /// By the application alone.
    #[divan::bench]
    fn bare(bencher: Bencher<'_, '_>) {
        let mut service = Site::with_links();
        bencher
            .with_inputs(|| Asked::Page.request())
            .bench_local_values(|request| exchange(&mut service, request));
    }

    /// At `offload`: its links moved, for the thousandth time.
    #[divan::bench]
    fn known(bencher: Bencher<'_, '_>) {
        known_to(bencher, &settings());
    }

    /// The same with its objects spread over so many servers.
    #[divan::bench(args = [10, 1000])]
    fn known_and_spread(bencher: Bencher<'_, '_>, servers: usize) {
        let mut settings = settings();
        settings.offload.spread = SpreadBy::Object;
        let one = settings.offload.servers.remove(0);
        settings.offload.servers = (0..servers)
            .map(|number| ServerSettings {
                name: format!("s{number}"),
                url: format!("https://s{number}.offload.example"),
                ..one.clone()
            })
            .collect();
        known_to(bencher, &settings);
    }

    fn known_to(bencher: Bencher<'_, '_>, settings: &Settings) {
        let overspill = overspill(settings.clone());
        while !overspill.status().servers[0].usable {
            std::thread::sleep(Duration::from_millis(10));
        }
        overspill.override_level(Level::Offload, Duration::from_secs(3600));
        let mut service = overspill.layer().layer(Site::with_links());
        bencher
            .with_inputs(|| Asked::Page.request())
            .bench_local_values(|request| exchange(&mut service, request));
        let servers = overspill.status().servers;
        let pages = servers
            .iter()
            .map(|server| server.pages_scanned + server.pages_spliced);
        assert!(pages.sum::<u64>() > 0);
    }

    fn settings() -> Settings {
        Settings::from_toml(
            "offload.share = 1.0\n\
             offload.servers = [{ name = \"eu\", url = \"https://eu.offload.example\", cors = true, health = false }]",
        )
        .expect("settings that are in order")
    }
}
