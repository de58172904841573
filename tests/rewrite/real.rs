//! Real pages, by the same oracle: those of six manuals, or of a folder:
//! `OVERSPILL_PAGES=/usr/share/doc cargo test --test rewrite real -- --ignored --nocapture`.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use overspill::rewrite::Plan;

use super::{
    Random,
    manuals::{DOC, MANUALS, found},
    oracle, rewrite, site,
};

/// Of the manuals every so many-th page is read: all of them take minutes.
const EVERY: usize = 2;

/// What was seen of a folder's pages.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    pages: u64,
    links: u64,
    bail_outs: u64,
    spliced: u64,
}

#[test]
#[ignore = "needs documentation packages"]
fn real_pages_differ_in_moved_urls_alone() {
    if let Some(folder) = std::env::var_os("OVERSPILL_PAGES") {
        let seen = look(&PathBuf::from(folder), 1);
        println!("{seen:?}");
        assert!(seen.pages > 0);
        return;
    }
    let (mut all, mut packages) = (Seen::default(), 0);
    // On one thread it takes as long as anything here.
    let looks = thread::scope(|scope| {
        let looks = MANUALS
            .map(|manual| scope.spawn(move || look(&Path::new(DOC).join(found(manual)), EVERY)));
        looks.map(|look| look.join().unwrap())
    });
    for (manual, seen) in MANUALS.iter().zip(looks) {
        println!("{manual}: {seen:?}");
        packages += u32::from(seen.links > 0);
        all.pages += seen.pages;
        all.links += seen.links;
        all.bail_outs += seen.bail_outs;
        all.spliced += seen.spliced;
    }
    println!("{packages} packages: {all:?}");
    assert!(
        all.pages >= 2_000 && packages >= 4,
        "{packages} packages: {all:?}"
    );
}

/// Rewrites one of `every` pages below `folder`, as a stream and by a plan.
fn look(folder: &Path, every: usize) -> Seen {
    let mut seen = Seen::default();
    for path in pages(folder).iter().step_by(every) {
        let shown = path.display();
        let page = fs::read(path).unwrap();
        let chunks = Random(seen.pages + 1).chunks(&page, 5000);
        let (out, summary) = rewrite(true, chunks);
        let moved = oracle::assert_only_urls_moved(&page, &out);
        // What the scanner saw is what the parser sees.
        assert_eq!(moved, summary.links, "{shown}");
        assert!(summary.links > 0 || out == page, "{shown}");

        // Of a page of very many links there is no plan.
        if let Some(plan) = Plan::scan(site::rules(), site::page(), &page) {
            match plan.splice(&page, &site::allowance(true)) {
                Some((spliced, links)) => {
                    assert!(spliced == out, "{shown}: spliced, it is another page");
                    assert_eq!(links, summary.links, "{shown}");
                }
                None => assert_eq!(summary.links, 0, "{shown}"),
            }
            assert_eq!(plan.bail_out(), summary.bail_out, "{shown}");
            seen.spliced += 1;
        }
        seen.pages += 1;
        seen.links += u64::from(summary.links);
        seen.bail_outs += u64::from(summary.bail_out.is_some());
    }
    seen
}

/// The pages below `folder`, in the order of their names, so that each is always cut in the same way. Symbolic links
/// are other pages once more.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.unwrap();
        let (kind, path) = (entry.file_type().unwrap(), entry.path());
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() {
            found.extend(pages(&path));
        } else if kind.is_file() && name.contains(".htm") && !name.ends_with(".gz") {
            found.push(path);
        }
    }
    found.sort();
    found
}
