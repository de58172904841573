//! What the fuzz targets have found, run again (`scripts/fuzz` looks for more).

use std::{fs, panic::catch_unwind, path::Path};

use super::holds;

#[test]
fn what_fuzzing_has_found_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut wrong = Vec::new();
    for (name, holds) in holds::ALL {
        let files =
            fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut seen = 0;
        for file in files {
            let path = file.unwrap().path();
            let input = fs::read(&path).unwrap();
            seen += 1;
            if catch_unwind(|| holds(&input)).is_err() {
                wrong.push(path);
            }
        }
        assert!(seen > 0, "nothing for {name}");
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_property_has_a_fuzz_target() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut names: Vec<_> = fs::read_dir(targets)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .map(|file| file.trim_end_matches(".rs").to_owned())
        .collect();
    names.sort_unstable();
    assert_eq!(names, holds::ALL.map(|(name, _)| name));
}
