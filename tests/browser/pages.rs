//! Real pages: documentation of six makers, looked at by Chromium with and without offloading.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use url::{Position, Url};

use super::visit::{Places, Visit};
use crate::support::{
    config::Config,
    manuals::{DOC, MANUALS, found},
    process::Nginx,
    program::Program,
    webdriver::Browser,
};

/// So many pages are looked at of each.
const EACH: usize = 22;

/// Pages above this list everything else: long to show, and with the objects of any other.
const LONGEST: u64 = 400_000;

/// Waits for all that belongs to the page, and tells how it looks.
const LOOK: &str = r#"
    await Promise.all([...document.images].map(image => image.complete || new Promise(done => {
        image.onload = image.onerror = done;
    })));
    await document.fonts.ready;
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const size = document.documentElement;
    return {
        images: [...document.images].map(image => [image.currentSrc, image.naturalWidth, image.naturalHeight]),
        sheets: [...document.styleSheets].map(sheet => sheet.href),
        fonts: [...document.fonts].map(font => [font.family, font.status]),
        elements: document.querySelectorAll('*').length,
        size: [size.scrollWidth, size.scrollHeight],
        style: [getComputedStyle(document.body).fontFamily, getComputedStyle(document.body).backgroundColor],
    };
"#;

#[tokio::test]
#[ignore = "needs chromium, nginx and documentation packages"]
async fn a_browser_loads_the_same_objects_of_real_pages_with_and_without_offloading() {
    let doc = Path::new(DOC);
    // As primary a plain server, too: some packages link to scripts of others, which lie outside of the folder.
    let icon = "location = /favicon.ico { return 204; }";
    let behind = Nginx::configured("", &format!("root {DOC}; {icon}"));
    let nginx = Nginx::start(doc);
    let program = Program::serve(&Config::new(format!(
        "primary.upstream = {:?}\noffload.share = 1.0\n\
         offload.servers = [{{ name = \"nginx\", url = {:?}, cors = true }}]",
        behind.url, nginx.url
    )))
    .await;
    program.until_usable("nginx", true).await;
    let places = Places {
        primary: format!("http://{}", program.site),
        server: nginx.url.clone(),
    };
    let manuals: Vec<_> = MANUALS.iter().map(|manual| pages(manual)).collect();
    let makers = manuals.iter().filter(|pages| pages.len() == EACH).count();
    let pages: Vec<_> = manuals.into_iter().flatten().collect();
    assert!(
        makers >= 4 && pages.len() >= 100,
        "{} pages of {makers}",
        pages.len()
    );

    let browser = Browser::start().await;
    let mut visits = [Vec::new(), Vec::new()];
    for (level, visits) in ["normal", "offload"].into_iter().zip(&mut visits) {
        program.hold_level(level).await;
        browser.clear_cache().await;
        for page in &pages {
            let url = format!("{}/{}", places.primary, page.path);
            visits.push(Visit::pay(&browser, &places, &url, LOOK).await);
        }
    }
    browser.quit().await;

    let [normal, offload] = visits;
    let mut moved = BTreeSet::new();
    for ((page, normal), offload) in pages.iter().zip(&normal).zip(&offload) {
        let Page { path, objects } = page;
        assert_eq!(normal.requests[0].answer, Ok(200), "{path}");
        assert!(normal.objects_at(&places.server).is_empty(), "{path}");
        let from_server = offload.objects_at(&places.server);
        let from_primary = offload.objects_at(&places.primary);
        // A picture that is the icon as well may be asked for once more.
        let set = |mut objects: Vec<_>| {
            objects.sort_unstable();
            objects.dedup();
            objects
        };
        let all = [&from_server[..], &from_primary[..]].concat();
        let before = normal.objects_at(&places.primary);
        assert_eq!(set(all), set(before), "{path}");
        assert_eq!(offload.state, normal.state, "{path}");
        assert_eq!(offload.complains_more_than(normal), [""; 0], "{path}");
        // What scripts put together stays; what the page names does not.
        let stayed = from_primary
            .iter()
            .find(|object| objects.contains(**object));
        assert_eq!(stayed, None, "{path}");
        moved.extend(from_server.iter().map(|path| (*path).to_owned()));
    }
    println!("{} pages, {} objects", pages.len(), moved.len());
}

/// A page that is looked at.
struct Page {
    /// Below [`DOC`].
    path: String,
    /// Paths of what it seems to embed.
    objects: BTreeSet<String>,
}

/// Pages of a manual that embed something: of each set of objects one, and then more, evenly.
fn pages(manual: &str) -> Vec<Page> {
    let mut by_objects = BTreeMap::<BTreeSet<String>, Vec<String>>::new();
    for file in files(&Path::new(DOC).join(found(manual))) {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        let path = file.strip_prefix(DOC).unwrap().to_str().unwrap().to_owned();
        let objects = objects(&path, &text);
        // Those that lead on at once are not looked at for long.
        if !objects.is_empty() && !text.contains("http-equiv=\"refresh\"") {
            by_objects.entry(objects).or_default().push(path);
        }
    }
    // Round by round, one of each set, those with most objects first.
    let mut sets: Vec<_> = by_objects.into_iter().collect();
    sets.sort_by_key(|(objects, pages)| (std::cmp::Reverse(objects.len()), pages[0].clone()));
    let rounds = (0..EACH).flat_map(|round| {
        sets.iter().filter_map(move |(objects, pages)| {
            let step = (pages.len() / EACH).max(1);
            Some(Page {
                path: pages.get(round * step)?.clone(),
                objects: objects.clone(),
            })
        })
    });
    rounds.take(EACH).collect()
}

/// The HTML files below `folder`, sorted. Symbolic links are other pages once more, so they are left out.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.unwrap();
        let (kind, path) = (entry.file_type().unwrap(), entry.path());
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file()
            && path
                .extension()
                .is_some_and(|extension| extension == "html")
            && entry.metadata().unwrap().len() <= LONGEST
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What a page seems to embed: this only makes a choice of pages.
fn objects(path: &str, text: &str) -> BTreeSet<String> {
    let page = Url::parse("http://x").unwrap().join(path).unwrap();
    let tags = text
        .split('<')
        .skip(1)
        .map(|tag| tag.split('>').next().unwrap_or_default());
    tags.filter(|tag| {
        let name = tag.split_ascii_whitespace().next().unwrap_or_default();
        matches!(name, "img" | "script" | "source" | "video" | "audio")
            || name == "link" && (tag.contains("stylesheet") || tag.contains("icon"))
    })
    .flat_map(|tag| {
        ["src=\"", "href=\""].into_iter().filter_map(move |name| {
            let (_, value) = tag.split_once(name)?;
            Some(value.split('"').next().unwrap_or_default())
        })
    })
    .filter_map(|link| page.join(link).ok())
    .map(|url| url[Position::BeforePath..Position::AfterQuery].to_owned())
    .collect()
}
