//! A configuration: quiet defaults, and the lines that a test is about.

use std::{collections::BTreeMap, fmt};

/// Keys in full (`load.cpu.enabled`) with their values as TOML.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config(BTreeMap<String, String>);

/// Free ports, a quick look at the load, and no signal: a test turns on the one that it is about. Nor does an edge lose
/// patience with what a test makes wait.
const QUIET: &str = r#"
    primary.listen = "127.0.0.1:0"
    admin.listen = "127.0.0.1:0"
    edge.listen = "127.0.0.1:0"
    edge.patience = "1h"
    load.interval = "50ms"
    load.smoothing = "200ms"
    load.cpu.enabled = false
    load.bandwidth.enabled = false
    throttle.stay = "0s"
"#;

impl Config {
    /// [`QUIET`], and over it `lines` of `key = value`.
    pub(crate) fn new(lines: impl AsRef<str>) -> Self {
        Self::default().with(QUIET).with(lines)
    }

    /// The same for the site in a folder.
    pub(crate) fn of_site(site: &tempfile::TempDir, lines: &str) -> Self {
        Self::new(format!("primary.site = {:?}\n{lines}", site.path()))
    }

    /// The same with `lines` over it. A list may span lines.
    pub(crate) fn with(mut self, lines: impl AsRef<str>) -> Self {
        let mut entry = String::new();
        for line in lines.as_ref().lines() {
            entry += line.trim();
            let count = |brackets: &[char]| entry.matches(brackets).count();
            if entry.is_empty() || count(&['[', '{']) > count(&[']', '}']) {
                continue;
            }
            let (key, value) = entry.split_once(" = ").expect("an entry is `key = value`");
            self.0.insert(key.to_owned(), value.to_owned());
            entry.clear();
        }
        assert_eq!(entry, "", "a list has an end");
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.0 {
            writeln!(f, "{key} = {value}")?;
        }
        Ok(())
    }
}
