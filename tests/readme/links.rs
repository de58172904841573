//! The documentation's links lead somewhere: to a file that is there, and to a heading in it.

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let files = docs.map(|entry| entry.unwrap().path());
    let mut count = 0;
    for file in files.chain([root.join("README.md")]) {
        if file.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for link in links(&text) {
            let place = file.display();
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            // The picture is made by a script.
            assert!(target.exists() || path.ends_with(".png"), "{place}: {link}");
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                assert!(headings(&text).contains(heading), "{place}: {link}");
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

/// What stands behind `](`, but for links to elsewhere.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let links = text.split("](").skip(1);
    links
        .filter_map(|rest| Some(rest.split_once(')')?.0))
        .filter(|link| !link.contains("://"))
}

/// The names of headings, as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|line| {
            line.chars()
                .filter(kept)
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}
