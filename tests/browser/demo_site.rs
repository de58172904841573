//! A real browser at level `offload`: Chromium shows the demo site with every image, style, font, script
//! and film from the offload server, and has nothing to complain about.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{
    config::Config, process::Nginx, program::Program, wait::until, webdriver::Browser,
};

const PAGES: [&str; 6] = [
    "/",
    "/visit/",
    "/visit/causeway.html",
    "/programme/night-watch.html",
    "/light/",
    "/gallery/",
];

/// Fetches what the page would fetch later, waits for all of it, and tells what came from where.
const LOOK: &str = r#"
    const media = [...document.querySelectorAll('video, audio')];
    for (const element of media) { element.preload = 'auto'; }
    // The light box has one that is empty until a picture is clicked.
    const images = [...document.images].filter(image => image.hasAttribute('src'));
    for (const image of images) { image.loading = 'eager'; }
    await Promise.all(images.map(image => image.decode()));
    await document.fonts.ready;
    await Promise.all(media.map(element => element.readyState >= 1 || new Promise((done, fail) => {
        element.onloadedmetadata = done;
        element.onerror = () => fail(element.currentSrc);
    })));
    return {
        resources: performance.getEntriesByType('resource').map(entry => entry.name),
        images: images.map(image => [image.currentSrc, image.complete && image.naturalWidth]),
        media: media.map(element => [element.currentSrc, element.duration]),
        posters: [...document.querySelectorAll('video')].map(video => video.poster),
        scripts: [...document.scripts].map(script => script.src),
        sheets: [...document.styleSheets].map(sheet => sheet.href),
        fonts: [...document.fonts].map(font => [font.family, font.status]),
        heading: getComputedStyle(document.querySelector('h1')).fontFamily,
    };
"#;

#[tokio::test]
#[ignore = "needs chromium and nginx"]
async fn a_browser_gets_every_object_from_the_offload_server_and_has_no_complaint() {
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("static/site");
    let nginx = Nginx::start(&site);
    let program = Program::serve(&Config::new(format!(
        "primary.site = {site:?}\noffload.share = 1.0\n\
         offload.servers = [{{ name = \"nginx\", url = {:?}, cors = true }}]",
        nginx.url
    )))
    .await;
    program.until_usable("nginx", true).await;
    program.hold_level("offload").await;

    // Looked at in a task of its own: whatever it finds, the browser has to be told to end.
    let browser = std::sync::Arc::new(Browser::start().await);
    let looked = tokio::spawn({
        let (browser, site, server) = (
            browser.clone(),
            format!("http://{}", program.site),
            nginx.url.clone(),
        );
        async move {
            for page in PAGES {
                browser.open(&format!("{site}{page}")).await;
                let seen = browser.run(LOOK).await;
                check(page, &seen, &server);
                let console = browser.console().await;
                assert!(console.is_empty(), "{page}: {console:#?}");
                let name = page.trim_matches('/').replace('/', "-");
                let file = format!(
                    "browser-{}.png",
                    if name.is_empty() { "home" } else { &name }
                );
                let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
                fs::write(&file, browser.screenshot().await).unwrap();
                println!(
                    "{page}: {} objects, {}",
                    list(&seen, "resources").len(),
                    file.display()
                );
            }
        }
    })
    .await;
    browser.quit().await;
    looked.unwrap();

    // What a stylesheet of another origin fetches is kept from the page. But it was fetched there …
    for object in [".woff2", "sea-foot.webp", ".mp4"] {
        let served = |line: &str| line.contains(object) && line.contains("\" 20");
        // A film that was broken off is in the log when nginx has noticed.
        until(
            format_args!("{object} is in the log: {}", nginx.log()),
            async || nginx.log().lines().any(served).then_some(()),
        )
        .await;
    }
    // … and the primary gave nothing but pages.
    let requests = program.status().await["requests"].take();
    assert_eq!(requests["offloaded"], PAGES.len(), "{requests}");
    assert_eq!(requests["served"], 0, "{requests}");
}

fn list<'a>(seen: &'a Value, name: &str) -> &'a [Value] {
    seen[name].as_array().unwrap_or_else(|| panic!("{seen:#}"))
}

fn check(page: &str, seen: &Value, server: &str) {
    let from_server = |url: &Value| {
        let url = url.as_str().unwrap();
        assert!(url.starts_with(&format!("{server}/")), "{page}: {url}");
    };
    // Everything that was fetched for the page: nothing on it is of a kind that stays.
    list(seen, "resources").iter().for_each(from_server);
    let images = list(seen, "images");
    assert!(!images.is_empty());
    for image in images {
        from_server(&image[0]);
        // Drawings have the width that their file says.
        assert!(
            image[1].as_u64().is_some_and(|width| width > 0),
            "{page}: {image}"
        );
    }
    for film in list(seen, "media") {
        from_server(&film[0]);
        assert!(
            film[1].as_f64().is_some_and(|seconds| seconds > 0.0),
            "{page}: {film}"
        );
    }
    for name in ["posters", "scripts", "sheets"] {
        list(seen, name).iter().for_each(from_server);
    }
    let fonts = list(seen, "fonts");
    assert!(
        fonts.iter().any(|font| font[1] == "loaded"),
        "{page}: {fonts:?}"
    );
    let heading = seen["heading"].as_str().unwrap();
    assert!(
        heading.contains(fonts[0][0].as_str().unwrap().trim_matches('"')),
        "{heading}"
    );
}
