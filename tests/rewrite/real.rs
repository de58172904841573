//! Real pages, by the same oracle: those of Debian's apache2-doc, or of another folder:
//! `OVERSPILL_PAGES=/usr/share/doc cargo test --test rewrite -- --ignored`.

use std::{fs, path::PathBuf};

use super::{Random, oracle, rewrite};

#[test]
#[ignore = "needs apache2-doc"]
fn real_pages_differ_in_moved_urls_alone() {
    let folder = std::env::var_os("OVERSPILL_PAGES");
    let folder = folder.unwrap_or_else(|| "/usr/share/doc/apache2-doc/manual".into());
    let mut folders = vec![PathBuf::from(folder)];
    let (mut pages, mut links, mut bail_outs) = (0, 0, 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.contains(".htm") || name.ends_with(".gz") {
                continue;
            }
            let page = fs::read(&path).unwrap();
            let (out, summary) = rewrite(true, Random(pages + 1).chunks(&page, 5000));
            let moved = oracle::assert_only_urls_moved(&page, &out);
            // What the scanner saw is what the parser sees.
            assert_eq!(moved, summary.links, "{}", path.display());
            assert!(summary.links > 0 || out == page, "{}", path.display());
            pages += 1;
            links += summary.links;
            bail_outs += u32::from(summary.bail_out.is_some());
        }
    }
    println!("{pages} pages, {links} links moved, {bail_outs} bail-outs");
    assert!(pages > 0);
}
