//! `name.src.html` becomes `name.expected.html`. Words between the dots say what is unlike in the others; the folder's
//! README tells which row and which sentence of the table each is for.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use overspill::rewrite::{Allowance, Page, Plan, Private, Rewriter, Rules, Settings, Target};
use url::Url;

use super::{
    Random,
    holds::{self, oracle::FALLBACK},
    oracle, site,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rewrite")
}

/// The names of the fixtures.
fn names() -> BTreeSet<String> {
    let files = fs::read_dir(folder()).unwrap();
    files
        .filter_map(|file| {
            let file = file.unwrap().file_name().into_string().unwrap();
            file.strip_suffix(".src.html").map(str::to_owned)
        })
        .collect()
}

/// How a fixture's page is rewritten.
struct Case {
    rules: Arc<Rules>,
    page: Page,
    allowance: Allowance,
}

impl Case {
    fn of(name: &str) -> Self {
        let words: Vec<_> = name.split('.').skip(1).collect();
        let known = [
            "nocors", "modules", "private", "http", "https", "hashed", "fallback",
        ];
        assert!(words.iter().all(|word| known.contains(word)), "{name}");
        let is = |word| words.contains(&word);
        let rules = site::rules_of(Settings {
            modules: is("modules"),
            fallback: is("fallback"),
            ..site::settings()
        });
        let page = site::page_over(is("http") || is("https")).with_styles_hashed(is("hashed"));
        let target = if is("http") {
            let url = Url::parse(&site::PREFIX.replace("https:", "http:")).unwrap();
            Arc::new(Target::new("eu", &url, true).unwrap())
        } else {
            site::target(!is("nocors"))
        };
        let kinds = target.kinds();
        let mut allowance = Allowance::new(target, kinds);
        if is("private") {
            let private = Private::default();
            let object = Plan::scan(rules.clone(), page.clone(), b"<img src=private.png>");
            private.remember(object.unwrap().objects()[0]);
            allowance = allowance.with_private(Arc::new(private));
        }
        if is("fallback") {
            allowance = allowance.with_fallback(Some(FALLBACK.into()));
        }
        Self {
            rules,
            page,
            allowance,
        }
    }

    fn rewrite<'a>(&self, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let (rules, page) = (self.rules.clone(), self.page.clone());
        let rewriter = Rewriter::allowing(rules, page, self.allowance.clone());
        site::rewrite(rewriter, chunks).0
    }

    fn splice(&self, page: &[u8]) -> Vec<u8> {
        let plan = Plan::scan(self.rules.clone(), self.page.clone(), page).unwrap();
        let spliced = plan.splice(page, &self.allowance);
        spliced.map_or(page.to_vec(), |(page, _)| page.to_vec())
    }
}

#[test]
fn fixtures_become_what_is_expected_however_they_are_cut() {
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    for name in names() {
        let case = Case::of(&name);
        let source = fs::read(folder().join(format!("{name}.src.html"))).unwrap();
        let expected_path = folder().join(format!("{name}.expected.html"));
        if std::env::var_os("OVERSPILL_BLESS").is_some() {
            fs::write(&expected_path, case.rewrite([&source[..]])).unwrap();
        }
        let expected = fs::read(&expected_path).unwrap();
        let check = |out: &[u8], how: &dyn std::fmt::Display| {
            assert_eq!(
                String::from_utf8_lossy(out),
                String::from_utf8_lossy(&expected),
                "{name}, {how}, seed {seed}"
            );
            assert_eq!(out, expected, "{name}");
        };
        for longest in [source.len(), 1, 7, 64, 64, 64] {
            let out = case.rewrite(random.chunks(&source, longest));
            check(&out, &format_args!("chunks up to {longest}"));
        }
        // To a server that is not reached by https, nothing is even looked for.
        if case.allowance.target().unwrap().https() || !case.page.https() {
            check(&case.splice(&source), &"spliced");
        }
        oracle::assert_only_urls_moved(&source, &expected);
        // What holds for any page holds for it.
        holds::rewrite(&source);
        holds::plan(&source);
        holds::explain(&source);
    }
}

#[test]
fn each_fixture_is_named_by_what_it_is_for() {
    let readme = fs::read_to_string(folder().join("README.md")).unwrap();
    let named: BTreeSet<String> = readme
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .filter(|word| !word.starts_with('.'))
        .collect();
    assert_eq!(named, names());
}
