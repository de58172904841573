//! Manuals of six makers, as Debian's packages bring them: thousands of pages that nobody wrote for a test.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where Debian puts documentation.
pub(crate) const DOC: &str = "/usr/share/doc";

/// The folders of the packages' pages below [`DOC`]; `*` stands for a version.
pub(crate) const MANUALS: [&str; 6] = [
    "apache2-doc/manual",
    "python3.*/html",
    "postgresql-doc-*/html",
    "git-doc",
    "sqlite3",
    "cmake-data/html",
];

/// The first folder below [`DOC`] whose name `pattern` fits.
pub(crate) fn found(pattern: &str) -> PathBuf {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern.into();
    };
    let (after, below) = after.split_once('/').unwrap_or((after, ""));
    let mut names: Vec<_> = fs::read_dir(DOC)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            let version = name
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after));
            version.is_some_and(|version| version.bytes().all(|b| b.is_ascii_digit()))
                && Path::new(DOC).join(name).join(below).is_dir()
        })
        .collect();
    names.sort();
    let name = names
        .pop()
        .unwrap_or_else(|| panic!("no {pattern} in {DOC}"));
    Path::new(&name).join(below)
}
