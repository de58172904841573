//! The merged tree of values, and reading it without stopping at the first problem.

use std::path::Path;

use config::{Config, ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};
use serde::de::{DeserializeOwned, IntoDeserializer, value::StrDeserializer};
use serde_path_to_error::Segment;

use super::Settings;
use crate::problem::Problem;

/// The merged values.
pub(super) type Tree = Map<String, Value>;

/// Lists that the environment may give as `a,b`.
pub(super) const LISTS: [&str; 10] = [
    "primary.hosts",
    "primary.trusted_proxies",
    "offload.select",
    "offload.redirect",
    "edge.hosts",
    "rewrite.include",
    "rewrite.exclude",
    "rewrite.attributes",
    "throttle.bypass.paths",
    "throttle.bypass.addresses",
];

/// More rounds than that are not a configuration but an attack on patience.
const MOST_PROBLEMS: usize = 100;

/// The file, and over it the environment: the process's own, or `variables` in tests.
pub(super) fn read(
    path: Option<&Path>,
    variables: Option<Map<String, String>>,
) -> Result<Tree, Problem> {
    let file = match path {
        Some(path) => collect(
            File::from(path).format(FileFormat::Toml),
            &path.display().to_string(),
        )?,
        None => Tree::new(),
    };
    let mut environment = Environment::with_prefix("OVERSPILL")
        .separator("__")
        .try_parsing(true)
        .list_separator(",");
    for list in LISTS {
        environment = environment.with_list_parse_key(list);
    }
    let environment = environment.source(variables);
    let overrides = environment
        .collect()
        .map_err(|error| Problem::new("OVERSPILL__…", error))?;
    merge(file, environment, &overrides)
}

/// The text alone.
pub(super) fn read_text(text: &str) -> Result<Tree, Problem> {
    collect(File::from_str(text, FileFormat::Toml), "the configuration")
}

/// The tree of a configuration whose servers are those of `file`, which holds nothing else.
pub(super) fn servers(mut file: Tree) -> Result<Tree, Vec<Problem>> {
    let servers = file.remove("servers");
    let mut others: Vec<_> = file.into_keys().collect();
    others.sort();
    if !others.is_empty() {
        let problem = |key| Problem::new(key, "is no key of this file: expected `[[servers]]`");
        return Err(others.into_iter().map(problem).collect());
    }
    let servers = servers.map(|servers| ("servers".to_owned(), servers));
    let offload = Value::new(None, ValueKind::Table(servers.into_iter().collect()));
    Ok([("offload".to_owned(), offload)].into())
}

fn collect(source: impl Source + Send + Sync + 'static, name: &str) -> Result<Tree, Problem> {
    // The parser's own message spans lines and points to the place.
    source.collect().map_err(|error| {
        Problem::new(
            name,
            format_args!("can't be read as TOML: {}", error.to_string().trim_end()),
        )
    })
}

fn merge(file: Tree, environment: Environment, overrides: &Tree) -> Result<Tree, Problem> {
    let mut builder = Config::builder();
    // Of a signal's three thresholds those that are left out are never entered, unless all three are left
    // out. An override of one key must not look like a section that leaves out the others.
    for signal in ["cpu", "bandwidth", "in_flight", "queue_delay", "upstream"] {
        let names = ["offload", "throttle", "drop"];
        let in_file = names
            .iter()
            .any(|name| lookup(&file, &["load", signal, name]).is_some());
        // The environment's keys are not unfolded yet.
        let overridden = names
            .iter()
            .any(|name| overrides.contains_key(&format!("load.{signal}.{name}")));
        if overridden && !in_file {
            let standard = crate::load::Thresholds::standard();
            for (name, value) in
                names
                    .into_iter()
                    .zip([standard.offload, standard.throttle, standard.drop])
            {
                let value = value.map(crate::units::Ratio::get);
                builder = builder
                    .set_default(format!("load.{signal}.{name}"), value)
                    .map_err(|error| Problem::new(format!("load.{signal}.{name}"), error))?;
            }
        }
    }
    let merged = builder
        .add_source(Collected(file))
        .add_source(environment)
        .build()
        .and_then(|config| config.collect());
    merged.map_err(|error| Problem::new("OVERSPILL__…", error))
}

fn lookup<'a>(tree: &'a Tree, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = tree.get(*first)?;
    match (&value.kind, rest.is_empty()) {
        (_, true) => Some(value),
        (ValueKind::Table(table), false) => lookup(table, rest),
        _ => None,
    }
}

/// A tree that was read already.
#[derive(Debug, Clone)]
struct Collected(Tree);

impl Source for Collected {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Tree, ConfigError> {
        Ok(self.0.clone())
    }
}

/// Reads the settings; what can't be read is told and left at its default.
pub(super) fn settings(tree: Tree) -> (Settings, Vec<Problem>) {
    let mut root = Value::new(None, ValueKind::Table(tree));
    let mut problems = Vec::new();
    while problems.len() < MOST_PROBLEMS {
        let error = match serde_path_to_error::deserialize::<_, Settings>(root.clone()) {
            Ok(settings) => return (settings, problems),
            Err(error) => error,
        };
        let path: Vec<Segment> = error.path().iter().cloned().collect();
        let taken = take(&mut root, &path);
        problems.push(Problem::new(
            key(&path),
            message(error.inner(), taken.as_ref()),
        ));
        if taken.is_none() {
            // Nothing to take out: the next round would say the same.
            break;
        }
    }
    (Settings::default(), problems)
}

/// Takes the value at `path` out, or the nearest above it that is there.
fn take(value: &mut Value, path: &[Segment]) -> Option<Value> {
    let (first, rest) = path.split_first()?;
    match (&mut value.kind, first) {
        (ValueKind::Table(table), Segment::Map { key }) => {
            let inner = table.get_mut(key)?;
            take(inner, rest).or_else(|| table.remove(key))
        }
        (ValueKind::Array(array), Segment::Seq { index }) => {
            let inner = array.get_mut(*index)?;
            if let Some(taken) = take(inner, rest) {
                return Some(taken);
            }
            // The others must keep their places, since places are told in messages.
            let empty = match inner.kind {
                ValueKind::Table(_) => ValueKind::Table(Tree::new()),
                _ => return Some(array.remove(*index)),
            };
            Some(std::mem::replace(inner, Value::new(None, empty)))
        }
        _ => None,
    }
}

/// `offload.servers[1].url`.
fn key(path: &[Segment]) -> String {
    let mut key = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => key.push_str(&format!("[{index}]")),
            Segment::Map { key: name } => {
                if !key.is_empty() {
                    key.push('.');
                }
                key.push_str(name);
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    if key.is_empty() {
        "configuration".to_owned()
    } else {
        key
    }
}

/// What was expected and found.
fn message(error: &ConfigError, found: Option<&Value>) -> String {
    let mut text = match error {
        ConfigError::Message(message) => message.clone(),
        ConfigError::Type {
            unexpected,
            expected,
            ..
        } => format!("expected {expected}, found {unexpected}"),
        ConfigError::At { error, .. } => return message(error, found),
        other => other.to_string(),
    };
    let shown =
        |found: Option<&Value>| found.map_or_else(|| "nothing".to_owned(), Value::to_string);
    if text.ends_with("socket address syntax") {
        return format!(
            "expected an address such as \"127.0.0.1:8080\", found {:?}",
            shown(found)
        );
    }
    if let Some(expected) = unknown_variant(&text) {
        return format!("{expected}, found {:?}", shown(found));
    }
    if text.starts_with("unknown field") {
        // The key is told already; what serde adds is the list of keys that there are.
        let known = text.find("expected").map_or("", |at| &text[at..]);
        text = format!("is no key of the configuration: {known}");
    }
    text
}

/// What is expected of an enum, from "enum Mode does not have variant constructor …": the crate `config`
/// tells the enum's name, but not what it may be.
fn unknown_variant(text: &str) -> Option<String> {
    use crate::{load, offload, servers};
    let name = text
        .strip_prefix("enum ")?
        .split_once(" does not have variant constructor")?
        .0;
    Some(match name {
        "Mode" => expected::<offload::Mode>(),
        "ThrottleAction" => expected::<offload::ThrottleAction>(),
        "DropMethod" => expected::<offload::DropMethod>(),
        "BandwidthSource" => expected::<load::BandwidthSource>(),
        "Criterion" => expected::<servers::Criterion>(),
        "SpreadBy" => expected::<servers::SpreadBy>(),
        "Period" => expected::<servers::Period>(),
        "ReportKind" => expected::<servers::ReportKind>(),
        _ => return None,
    })
}

/// Serde's own list of an enum's variants, as it tells it to whoever gives none of them.
fn expected<T: DeserializeOwned>() -> String {
    let none: StrDeserializer<'_, serde::de::value::Error> = "".into_deserializer();
    let error = T::deserialize(none).err().map(|error| error.to_string());
    let list = error.as_deref().and_then(|error| error.split_once(", "));
    list.map_or_else(
        || "expected another word".to_owned(),
        |(_, list)| list.replace('`', "\""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        match Settings::from_toml(text) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_key_and_what_was_expected() {
        let found = problems(
            r#"
            mode = "on"
            colour = "red"
            [primary]
            listen = "here"
            trusted_proxies = ["everyone"]
            [load]
            interval = "fast"
            [load.cpu]
            offload = 0.7
            throttle = 0.5
            drop = "lots"
            [load.bandwidth]
            capacity = "20 potatoes"
            [offload]
            share = 1.5
            hold = 30
            [[offload.servers]]
            name = "eu"
            url = "eu.offload.example"
            [[offload.servers]]
            name = "eu"
            url = "https://b.example"
            threshold = -1
            typo = 1
            [[offload.clients]]
            addresses = ["203.0.113.0/24"]
            servers = ["mars"]
            [throttle]
            page = "no/such/page.html"
            [rewrite]
            include = ["["]
            "#,
        );
        let text = found.join("\n");
        for part in [
            "`mode` expected one of \"off\", \"report\", \"enforce\", found \"on\"",
            "`colour` is no key of the configuration",
            "`primary.listen`",
            "`primary.trusted_proxies[0]` must be a network such as \"203.0.113.0/24\"",
            "`load.interval` expected a duration such as \"250ms\" or \"30s\", found \"fast\"",
            "`load.cpu.drop` expected a ratio such as 0.7 or \"70%\", found \"lots\"",
            "`load.cpu.throttle` must be above `load.cpu.offload` (0.7), found 0.5",
            "`load.bandwidth.capacity` expected a bit rate such as \"20Mbit/s\" or \"2.5MB/s\", found \"20 potatoes\"",
            "`offload.share` expected \"auto\" or a ratio from 0 to 1, found 1.5",
            "`offload.hold` expected a duration such as \"250ms\" or \"30s\", found \"30\"",
            "`offload.servers[0].url` must be a URL such as \"https://eu.offload.example\" with its scheme, found \"eu.offload.example\"",
            "`offload.servers[1].name` must be unlike every other server's, found \"eu\" at `offload.servers[0]` too",
            "`offload.servers[1].threshold` expected a ratio such as 0.7 or \"70%\", found \"-1\"",
            "`offload.servers[1].typo` is no key",
            "`offload.clients[0].servers[0]` must name one of `offload.servers` (eu, eu), found \"mars\"",
            "`throttle.page` must be a readable template",
            "`rewrite.include[0]`",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
    }

    #[test]
    fn the_defaults_have_no_problem() {
        assert_eq!(problems(""), Vec::<String>::new());
    }

    #[test]
    fn text_that_is_no_toml_is_told_with_its_place() {
        let found = problems("mode = \n").join("\n");
        assert!(
            found.contains("can't be read as TOML") && found.contains("line 1"),
            "{found}"
        );
    }

    fn with_environment(file: &str, variables: &[(&str, &str)]) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overspill.toml");
        std::fs::write(&path, file).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let (settings, problems) = settings(read(Some(&path), Some(variables)).unwrap());
        assert_eq!(problems, []);
        settings
    }

    #[test]
    fn the_environment_overrides_one_key_and_nothing_else() {
        let settings = with_environment(
            "[primary]\nhosts = [\"a.example\"]\n",
            &[
                ("OVERSPILL__LOAD__CPU__OFFLOAD", "0.6"),
                ("OVERSPILL__PRIMARY__HOSTS", "b.example,c.example"),
                ("OVERSPILL__OFFLOAD__HOLD", "5s"),
                ("OVERSPILL__LOAD__CPU__ENABLED", "false"),
                ("OVERSPILL__OFFLOAD__TOKEN", "12345"),
                ("OVERSPILL_TOKEN", "not a key"),
            ],
        );
        assert_eq!(settings.load.cpu.offload.unwrap().get(), 0.6);
        assert_eq!(
            settings.load.cpu.throttle.unwrap().get(),
            0.9,
            "still there"
        );
        assert_eq!(settings.primary.hosts, ["b.example", "c.example"]);
        assert_eq!(settings.offload.hold.as_secs(), 5);
        assert_eq!(settings.offload.token, "12345");
        assert!(!settings.load.cpu.enabled);
    }

    #[test]
    fn a_level_that_a_section_leaves_out_is_never_entered() {
        let settings = with_environment(
            "[load.cpu]\noffload = 0.5\n",
            &[("OVERSPILL__LOAD__CPU__OFFLOAD", "0.6")],
        );
        assert_eq!(settings.load.cpu.offload.unwrap().get(), 0.6);
        assert_eq!(settings.load.cpu.throttle, None);
        assert_eq!(settings.load.cpu.drop, None);
        assert!(
            settings.load.bandwidth.throttle.is_some(),
            "another section"
        );
    }
}
