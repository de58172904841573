//! `[primary.files]`: how a folder is served.

use globset::GlobSet;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::{problem::Problem, rewrite, units::ByteSize};

/// `[primary.files]`: how the folder of `primary.site` is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SiteSettings {
    /// What files that are kept in memory may take, in all. `"0B"`: every file is read from the disk each time. A file
    /// that changes is noticed a second later at most. Default: 256 MiB.
    pub memory: ByteSize,
    /// A file that is larger is not kept, but read from the disk while it is sent. Default: 1 MiB.
    pub file_size: ByteSize,
    /// Whether texts that are asked for again and again are compressed, once and in the background, for those who
    /// accept it (br, zstd, gzip). A `.br`, `.zst` or `.gz` beside a file is always taken for that, unless it is
    /// older than the file. Default: true.
    pub compress: bool,
    /// Whether `/about` is `about.html`, where no file is called `about`. Default: false.
    pub tidy_urls: bool,
    /// What `Cache-Control` says, by path: the first entry counts that fits. Default: nothing.
    pub cache_control: Vec<CacheControlSettings>,
}

/// `[[primary.files.cache_control]]`: how long some of the files may be kept by browsers and caches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CacheControlSettings {
    /// Globs of paths, matched on the path with its escapes decoded; a leading `/` means the same as none. `*` stops at
    /// a `/`, `**` does not. Must be given.
    pub paths: Vec<String>,
    /// The header's value, such as `"public, max-age=31536000, immutable"`. Must be given.
    pub value: String,
}

/// `cache_control`, made ready.
#[derive(Debug, Default)]
pub(super) struct CacheControl(Vec<(GlobSet, HeaderValue)>);

impl Default for SiteSettings {
    fn default() -> Self {
        Self {
            memory: ByteSize::new(256 << 20),
            file_size: ByteSize::new(1 << 20),
            compress: true,
            tidy_urls: false,
            cache_control: Vec::new(),
        }
    }
}

// === impl SiteSettings ===

impl SiteSettings {
    /// Appends what is wrong, with `section` before each key.
    pub fn check(&self, section: &str, problems: &mut Vec<Problem>) {
        self.compile(section, problems);
    }

    /// What can be used of `cache_control`.
    pub(super) fn compile(&self, section: &str, problems: &mut Vec<Problem>) -> CacheControl {
        let mut rules = Vec::new();
        for (index, entry) in self.cache_control.iter().enumerate() {
            let key = |name: &str| format!("{section}.cache_control[{index}].{name}");
            if entry.paths.is_empty() {
                problems.push(Problem::new(key("paths"), "must name at least one path"));
            }
            let value = match HeaderValue::try_from(entry.value.as_str()) {
                Ok(value) if !entry.value.trim().is_empty() => Some(value),
                _ => {
                    let message = format!(
                        "must be what a header can carry, such as \"max-age=3600\", found {:?}",
                        entry.value
                    );
                    problems.push(Problem::new(key("value"), message));
                    None
                }
            };
            match (rewrite::globs(&key("paths"), &entry.paths), value) {
                (Ok(globs), Some(value)) => rules.push((globs, value)),
                (Ok(_), None) => {}
                (Err(errors), _) => problems.extend(
                    errors
                        .into_iter()
                        .map(|error| Problem::new(error.key, error.message)),
                ),
            }
        }
        CacheControl(rules)
    }
}

// === impl CacheControl ===

impl CacheControl {
    /// What is said of the file at `path`, without its leading slash.
    pub(super) fn of(&self, path: &str) -> Option<&HeaderValue> {
        let fitting = self.0.iter().find(|(globs, _)| globs.is_match(path));
        fitting.map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(paths: &[&str], value: &str) -> CacheControlSettings {
        CacheControlSettings {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn the_first_entry_that_fits_counts() {
        let settings = SiteSettings {
            cache_control: vec![
                entry(&["/assets/**", "*.ico"], "max-age=1"),
                entry(&["**/*.{css,js}"], "max-age=2"),
            ],
            ..SiteSettings::default()
        };
        let mut problems = Vec::new();
        let rules = settings.compile("primary.files", &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        for (path, expected) in [
            ("assets/a/b.css", Some("max-age=1")),
            ("favicon.ico", Some("max-age=1")),
            ("a/favicon.ico", None),
            ("style.css", Some("max-age=2")),
            ("a/b.js", Some("max-age=2")),
            ("", None),
        ] {
            let value = rules.of(path).map(|value| value.to_str().unwrap());
            assert_eq!(value, expected, "{path}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key() {
        let settings = SiteSettings {
            cache_control: vec![
                entry(&["**"], "max-age=1"),
                entry(&[], ""),
                entry(&["a[b"], "a\nb"),
            ],
            ..SiteSettings::default()
        };
        let mut problems = Vec::new();
        settings.check("primary.files", &mut problems);
        let keys: Vec<_> = problems.iter().map(|problem| &*problem.key).collect();
        assert_eq!(
            keys,
            [
                "primary.files.cache_control[1].paths",
                "primary.files.cache_control[1].value",
                "primary.files.cache_control[2].value",
                "primary.files.cache_control[2].paths[0]",
            ]
        );
        assert!(problems[1].to_string().contains("max-age=3600"));
    }
}
