//! The settings, checked and compiled: what may be moved, by path.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use lol_html::{Selector, errors::SelectorError};
use sha2::{Digest, Sha256};

use super::{Settings, table};

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {message}")]
pub struct RuleError {
    /// The key, such as `rewrite.include[2]`.
    pub key: String,
    /// What was expected and what was found.
    pub message: String,
}

/// The compiled settings.
#[derive(Debug)]
pub struct Rules {
    include: GlobSet,
    exclude: GlobSet,
    /// Pairs of `rewrite.attributes`, lower-case: element, attribute.
    attributes: Vec<(Box<str>, Box<str>)>,
    modules: bool,
    fallback: bool,
    selectors: String,
    /// The same: parsed here, since that takes longer than a small page does.
    selector: Selector,
    /// These, and what the table says no to: for explanations.
    everything: Selector,
    version: u32,
}

// === impl Rules ===

impl Rules {
    /// Compiles the settings.
    ///
    /// # Errors
    /// Every problem at once: a pattern that is no glob, a pair that is not `element:attribute`.
    pub fn new(settings: &Settings) -> Result<Self, Vec<RuleError>> {
        let mut errors = Vec::new();
        let include = globs("rewrite.include", &settings.include, &mut errors);
        let exclude = globs("rewrite.exclude", &settings.exclude, &mut errors);
        let attributes = pairs(&settings.attributes, &mut errors);
        let text = selector_text(&attributes);
        let everything = format!("{text},{}", table::OTHERS);
        let selectors = (parse(&text, &mut errors), parse(&everything, &mut errors));
        match selectors {
            (Some(selector), Some(everything)) if errors.is_empty() => Ok(Self {
                include,
                exclude,
                attributes,
                modules: settings.modules,
                fallback: settings.fallback,
                selectors: text,
                selector,
                everything,
                version: version(settings),
            }),
            _ => Err(errors),
        }
    }

    /// Names the rules: equal settings have equal versions in every process of this version of the
    /// program, so that validators made from it hold across restarts and between primaries.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Whether `path` (percent-encoded, with or without its leading `/`, without query) is that of an
    /// object that may be moved.
    #[must_use]
    pub fn is_object(&self, path: &str) -> bool {
        let path = path.strip_prefix('/').unwrap_or(path);
        self.include.is_match(path) && !self.exclude.is_match(path)
    }

    /// Whether modules may move.
    pub(super) const fn modules(&self) -> bool {
        self.modules
    }

    /// Whether pages get the fallback script.
    #[must_use]
    pub const fn fallback(&self) -> bool {
        self.fallback
    }

    /// The elements that are looked at, as a CSS selector.
    #[must_use]
    pub fn selectors(&self) -> &str {
        &self.selectors
    }

    pub(super) const fn everything(&self) -> &Selector {
        &self.everything
    }

    pub(super) const fn selector(&self) -> &Selector {
        &self.selector
    }

    /// The pairs of `rewrite.attributes`: element, attribute.
    pub(super) fn attributes(&self) -> &[(Box<str>, Box<str>)] {
        &self.attributes
    }
}

/// Raised when the same settings come to move other links, or write them in another way.
const TABLE: u32 = 2;

fn version(settings: &Settings) -> u32 {
    let mut hash = Sha256::new();
    hash.update(TABLE.to_be_bytes());
    for list in [&settings.include, &settings.exclude, &settings.attributes] {
        hash.update((list.len() as u64).to_be_bytes());
        for text in list {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
    hash.update([u8::from(settings.modules), u8::from(settings.fallback)]);
    let digest = hash.finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The compiled patterns: `*` stops at a slash, and a leading slash counts for nothing, so match them with
/// paths without it.
pub(crate) fn compile_globs(key: &str, patterns: &[String]) -> Result<GlobSet, Vec<RuleError>> {
    let mut errors = Vec::new();
    let set = globs(key, patterns, &mut errors);
    if errors.is_empty() {
        Ok(set)
    } else {
        Err(errors)
    }
}

fn globs(key: &str, patterns: &[String], errors: &mut Vec<RuleError>) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    let mut report = |index: Option<usize>, message: String| {
        errors.push(RuleError {
            key: index.map_or_else(|| key.to_owned(), |index| format!("{key}[{index}]")),
            message,
        });
    };
    for (index, pattern) in patterns.iter().enumerate() {
        let relative = pattern.strip_prefix('/').unwrap_or(pattern);
        // "/" is the site's first page.
        if pattern.is_empty() {
            report(
                Some(index),
                "expected a glob such as \"**/*.png\", found \"\"".to_owned(),
            );
            continue;
        }
        // `*` stops at a slash, as people who write `**` expect.
        match GlobBuilder::new(relative).literal_separator(true).build() {
            Ok(glob) => {
                set.add(glob);
            }
            Err(error) => report(
                Some(index),
                format!(
                    "expected a glob such as \"**/*.png\", found {pattern:?}: {}",
                    error.kind()
                ),
            ),
        }
    }
    set.build().unwrap_or_else(|error| {
        report(None, error.to_string());
        GlobSet::empty()
    })
}

fn selector_text(pairs: &[(Box<str>, Box<str>)]) -> String {
    let mut text = table::SELECTOR.to_owned();
    for (element, _) in pairs {
        text.push(',');
        text.push_str(element);
    }
    text
}

fn parse(selector: &str, errors: &mut Vec<RuleError>) -> Option<Selector> {
    selector
        .parse()
        .map_err(|error: SelectorError| {
            errors.push(RuleError {
                key: "rewrite.attributes".to_owned(),
                message: error.to_string(),
            });
        })
        .ok()
}

/// Whether `name` can be the name of an element, or of an attribute, which may have `more` marks.
fn is_name(name: &str, more: &[char]) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || more.contains(&c))
}

/// Elements that the page itself hangs on: nothing of theirs is an object.
const NEVER: [&str; 3] = ["base", "meta", "html"];

fn pairs(texts: &[String], errors: &mut Vec<RuleError>) -> Vec<(Box<str>, Box<str>)> {
    let mut pairs = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match text.split_once(':') {
            Some((element, attribute))
                if is_name(element, &[])
                    && is_name(attribute, &[':', '.'])
                    && !NEVER
                        .iter()
                        .any(|never| never.eq_ignore_ascii_case(element)) =>
            {
                pairs.push((
                    element.to_ascii_lowercase().into(),
                    attribute.to_ascii_lowercase().into(),
                ));
            }
            _ => errors.push(RuleError {
                key: format!("rewrite.attributes[{index}]"),
                message: format!(
                    "expected \"element:attribute\" such as \"img:data-zoom\", found {text:?}"
                ),
            }),
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(include: &[&str], exclude: &[&str]) -> Rules {
        Rules::new(&Settings {
            include: include.iter().map(|&s| s.to_owned()).collect(),
            exclude: exclude.iter().map(|&s| s.to_owned()).collect(),
            ..Settings::default()
        })
        .unwrap()
    }

    #[test]
    fn default_rules_take_what_pages_embed() {
        let rules = Rules::new(&Settings::default()).unwrap();
        for path in [
            "/a.png",
            "a.png",
            "/x/y/z.woff2",
            "/x.min.css",
            "//double.js",
        ] {
            assert!(rules.is_object(path), "{path}");
        }
        for path in ["/", "/index.html", "/api/data.json", "/png", "/a.pdf", ""] {
            assert!(!rules.is_object(path), "{path}");
        }
    }

    #[test]
    fn leading_slash_of_a_pattern_means_nothing() {
        for pattern in ["downloads/**", "/downloads/**"] {
            let rules = rules(&[pattern], &["**/*.sig"]);
            assert!(rules.is_object("/downloads/a/b.iso"));
            assert!(!rules.is_object("/downloads/b.iso.sig"));
            assert!(!rules.is_object("/other/downloads/a"));
        }
    }

    #[test]
    fn reports_every_problem_with_its_key() {
        let errors = Rules::new(&Settings {
            include: vec!["**/*.png".into(), "a{b".into()],
            exclude: vec!["[".into(), String::new()],
            attributes: vec!["img:data-zoom".into(), "img".into(), "base:href".into()],
            modules: true,
            fallback: true,
        })
        .unwrap_err();
        let keys: Vec<_> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "rewrite.include[1]",
                "rewrite.exclude[0]",
                "rewrite.exclude[1]",
                "rewrite.attributes[1]",
                "rewrite.attributes[2]"
            ]
        );
        assert!(errors[0].message.contains("a{b"), "{}", errors[0]);
    }

    #[test]
    fn version_follows_the_settings() {
        let same = |settings: &Settings| Rules::new(settings).unwrap().version();
        let default = Settings::default();
        assert_eq!(same(&default), same(&default.clone()));
        let mut other = default.clone();
        other.exclude.push("x".into());
        assert_ne!(same(&default), same(&other));
    }
}
