//! `name.src.html` becomes `name.expected.html`; `name.nocors.*` on a server without CORS.

use std::{fs, path::Path, time::SystemTime};

use super::{Random, oracle, rewrite};

#[test]
fn fixtures_become_what_is_expected_however_they_are_cut() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rewrite");
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".src.html") else {
            continue;
        };
        seen += 1;
        let cors = !name.ends_with(".nocors");
        let source = fs::read(folder.join(&file)).unwrap();
        let expected_path = folder.join(format!("{name}.expected.html"));
        if std::env::var_os("OVERSPILL_BLESS").is_some() {
            fs::write(&expected_path, rewrite(cors, [&source[..]]).0).unwrap();
        }
        let expected = fs::read(&expected_path).unwrap();
        for longest in [source.len(), 1, 7, 64, 64, 64] {
            let (out, _) = rewrite(cors, random.chunks(&source, longest));
            assert_eq!(
                String::from_utf8_lossy(&out),
                String::from_utf8_lossy(&expected),
                "{name}, chunks up to {longest}, seed {seed}"
            );
            assert_eq!(out, expected, "{name}");
        }
        oracle::assert_only_urls_moved(&source, &expected);
    }
    assert!(seen >= 25, "found {seen} fixtures in {}", folder.display());
}
