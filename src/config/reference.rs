//! `docs/configuration.md`, made from the settings' own types: keys, types and meanings from their schema, defaults
//! from their `Default`, the order from `config/overspill.toml`. A test compares it with the file, and writes it where
//! `UPDATE_DOCS` is set.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::{Settings, tree};
use crate::units::WORDS;

const COMMENTED: &str = include_str!("../../config/overspill.toml");

/// What a doc comment says of a key that has no default.
const GIVEN: &str = "Must be given";

const HEAD: &str = "\
# Configuration

<!-- Made from the code: `UPDATE_DOCS=1 cargo test --lib reference` writes it, and a test compares it. -->

Every key: what it means, what may be written there, and what it is where it is left out.
[`config/overspill.toml`](../config/overspill.toml) has them all in a file to copy from.

The file that is read is that of `--config FILE`, else that of the variable `OVERSPILL_CONFIG`, else
`config/overspill.toml` below the working directory if it is there. Without a file the defaults hold. A variable of the
environment overrides one key; its name is given with the key. What stands in a list of tables (`[[…]]`) can't be
overridden so.

`overspill check` prints the configuration as it takes effect, or every problem at once: unknown keys, wrong units, values
out of range. Nothing starts with a problem.
";

/// One key that holds a value, and no table.
#[derive(Debug)]
struct Key {
    path: String,
    words: String,
    default: Option<Value>,
    doc: Doc,
    /// What may be written, where that is one of some words: each with its meaning.
    values: Vec<(String, String)>,
    variable: Option<String>,
}

/// One table, `[load.cpu]`, or a list of them.
#[derive(Debug)]
struct Table {
    path: String,
    is_list: bool,
    doc: String,
    /// Where a table of the same kind has stood already.
    same_as: Option<String>,
    keys: Vec<Key>,
}

/// A doc comment, of which the sentence that tells the default is taken out.
#[derive(Debug)]
struct Doc {
    meaning: String,
    default: Option<String>,
}

/// Walks the schema, table by table.
struct Walk {
    definitions: BTreeMap<String, Value>,
    /// Where a definition's table stands.
    seen: BTreeMap<String, String>,
    tables: Vec<Table>,
}

/// All tables, in the order of the commented file.
fn tables() -> Vec<Table> {
    let schema = schemars::schema_for!(Settings).to_value();
    let definitions = schema["$defs"]
        .as_object()
        .expect("there are several types");
    let mut walk = Walk {
        definitions: definitions.clone().into_iter().collect(),
        seen: BTreeMap::new(),
        tables: Vec::new(),
    };
    walk.table("", false, false, String::new(), &schema);
    walk.tables
}

/// The whole text.
fn text() -> String {
    tables()
        .iter()
        .fold(HEAD.to_owned(), |text, table| text + &table.to_string())
}

// === impl Walk ===

impl Walk {
    /// Adds the table at `path`, and then those within it.
    fn table(&mut self, path: &str, is_list: bool, in_list: bool, doc: String, schema: &Value) {
        let at = self.tables.len();
        self.tables.push(Table {
            path: path.to_owned(),
            is_list,
            doc,
            same_as: None,
            keys: Vec::new(),
        });
        let properties = schema["properties"].as_object().expect("a table");
        let mut names: Vec<_> = properties.keys().collect();
        names.sort_by_key(|name| position(path, name));
        for name in names {
            let property = &properties[name];
            let path = join(path, name);
            let doc = property["description"]
                .as_str()
                .unwrap_or_default()
                .replace('\n', " ");
            let (kind, value) = self.resolved(property);
            let (is_list, kind, value) = match &value["items"] {
                Value::Null => (false, kind, value),
                items => {
                    let (of, items) = self.resolved(items);
                    if items["properties"].is_object() {
                        (true, of, items)
                    } else {
                        (false, kind, value)
                    }
                }
            };
            if !value["properties"].is_object() {
                let key = self.key(path, in_list, property, &value, &doc);
                self.tables[at].keys.push(key);
                continue;
            }
            let same_as = kind.as_ref().and_then(|kind| self.seen.get(kind).cloned());
            if same_as.is_some() {
                self.tables.push(Table {
                    path,
                    is_list,
                    doc,
                    same_as,
                    keys: Vec::new(),
                });
                continue;
            }
            self.seen.extend(kind.map(|kind| (kind, path.clone())));
            self.table(&path, is_list, in_list || is_list, doc, &value);
        }
    }

    fn key(&self, path: String, in_list: bool, property: &Value, value: &Value, doc: &str) -> Key {
        let of_list = |value: &Value| self.resolved(&value["items"]).1;
        let is_list = value["items"].is_object() || value["items"].is_boolean();
        let one = if is_list {
            of_list(value)
        } else {
            value.clone()
        };
        let values: Vec<_> = one["oneOf"]
            .as_array()
            .into_iter()
            .flatten()
            .map(word)
            .collect();
        let can_be_written = !is_list || tree::LISTS.contains(&path.as_str());
        let separated = if is_list { ", separated by commas" } else { "" };
        let variable = format!("OVERSPILL__{}", path.to_uppercase().replace('.', "__"));
        Key {
            words: words(&one, is_list),
            default: property
                .get("default")
                .filter(|value| !value.is_null() && !doc.contains(GIVEN))
                .cloned(),
            doc: Doc::read(doc),
            values,
            variable: (!in_list && can_be_written).then(|| format!("`{variable}`{separated}")),
            path,
        }
    }

    /// The definition that `schema` names, with its name; or `schema` itself. What may be left out is what it is
    /// where it is not.
    fn resolved(&self, schema: &Value) -> (Option<String>, Value) {
        let given = schema["anyOf"]
            .as_array()
            .and_then(|any| any.first())
            .unwrap_or(schema);
        match given["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix("#/$defs/"))
        {
            Some(name) => (Some(name.to_owned()), self.definitions[name].clone()),
            None => (None, given.clone()),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Where `name` of the table at `path` stands in the commented file, be it active or an example.
fn position(path: &str, name: &str) -> usize {
    let find = |text: &str, from: usize| Some(from + COMMENTED[from..].find(text)?);
    let header = |path: &str| {
        [
            format!("\n[{path}]"),
            format!("\n[[{path}]]"),
            format!("\n# [[{path}]]"),
            // In prose more follows.
            format!("\n# [{path}]\n"),
        ]
        .iter()
        .find_map(|header| find(header, 0))
    };
    let own = join(path, name);
    // Its own header, or a line in its table; else within the inline table of its parent.
    let in_table = || {
        let from = if path.is_empty() {
            Some(0)
        } else {
            header(path)
        };
        from.and_then(|from| {
            [format!("\n{name} = "), format!("\n# {name} = ")]
                .iter()
                .filter_map(|line| find(line, from))
                .min()
        })
    };
    let inline = || {
        let (_, parent) = path.rsplit_once('.')?;
        find(
            &format!(" {name} = "),
            find(&format!("# {parent} = {{"), 0)?,
        )
    };
    header(&own)
        .or_else(in_table)
        .or_else(inline)
        .unwrap_or(usize::MAX)
}

/// One of the words that an enum may be, and what it means.
fn word(value: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().replace('\n', " ");
    (text(&value["const"]), text(&value["description"]))
}

fn words(value: &Value, is_list: bool) -> String {
    if let Some(words) = value[WORDS].as_str() {
        return words.to_owned();
    }
    let kind = match &value["type"] {
        Value::Array(kinds) => kinds.first().and_then(Value::as_str),
        kind => kind.as_str(),
    };
    let kind = if value["oneOf"].is_array() {
        Some("word")
    } else {
        kind
    };
    match (kind, is_list) {
        (Some("word"), true) => "a list of these words",
        (Some("word"), false) => "one of these words",
        (_, true) => "a list of strings",
        (Some("boolean"), _) => "`true` or `false`",
        (Some("integer"), _) => "a whole number",
        (Some("number"), _) => "a number",
        (Some("object"), _) => "a table of strings",
        _ => "a string",
    }
    .to_owned()
}

// === impl Doc ===

impl Doc {
    fn read(comment: &str) -> Self {
        let Some((before, rest)) = comment.split_once("Default: ") else {
            return Self {
                meaning: comment.to_owned(),
                default: None,
            };
        };
        let (default, after) = rest
            .split_once(". ")
            .unwrap_or((rest.trim_end_matches('.'), ""));
        Self {
            meaning: format!("{before}{after}").trim_end().to_owned(),
            default: Some(default.to_owned()),
        }
    }
}

// === impl Display ===

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match (path.as_str(), self.is_list) {
            ("", _) => {}
            (_, true) => write!(f, "\n## `[[{path}]]`\n\n{}\n", self.doc)?,
            (_, false) => write!(f, "\n## `[{path}]`\n\n{}\n", self.doc)?,
        }
        if let Some(same) = &self.same_as {
            writeln!(f, "\nIts keys and their defaults are those of `{same}`.")?;
        }
        self.keys.iter().try_for_each(|key| key.fmt(f))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path, words, doc, ..
        } = self;
        write!(f, "\n### `{path}`\n\n{}\n\n", doc.meaning)?;
        writeln!(f, "- Type: {words}.")?;
        for (word, meaning) in &self.values {
            writeln!(f, "  - `\"{word}\"`: {meaning}")?;
        }
        writeln!(f, "- Default: {}.", self.default_in_words())?;
        if let Some(variable) = &self.variable {
            writeln!(f, "- Variable: {variable}.")?;
        }
        Ok(())
    }
}

impl Key {
    fn default_in_words(&self) -> String {
        if self.doc.meaning.contains(GIVEN) {
            return "none".to_owned();
        }
        match (&self.default, &self.doc.default) {
            (Some(value), _) => format!("`{}`", as_toml(value)),
            (None, Some(told)) => told.clone(),
            (None, None) => "none".to_owned(),
        }
    }
}

/// A value as it is written in the configuration.
fn as_toml(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(as_toml).collect();
            format!("[{}]", values.join(", "))
        }
        value => value.to_string(),
    }
}

#[test]
fn the_reference_says_what_the_code_does() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let text = text();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    let found = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().zip(found.lines()).find(|(a, b)| a != b);
    assert!(
        text == found,
        "{file} is not what the code says (UPDATE_DOCS=1 writes it); first difference: {line:?}"
    );
}

#[test]
fn every_key_stands_in_the_commented_file() {
    for table in tables() {
        for key in table.keys {
            let (parent, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
            // `[offload.identity]` is an inline table, whose header in place of a cookie stands in prose.
            let in_prose = ["offload.identity.header", "throttle.classes.header"];
            assert!(
                position(parent, name) != usize::MAX || in_prose.contains(&key.path.as_str()),
                "{}",
                key.path
            );
            assert!(!key.doc.meaning.is_empty(), "{}", key.path);
        }
    }
}

#[test]
fn every_default_can_be_given_by_its_variable() {
    let mut variables = config::Map::new();
    for key in tables().into_iter().flat_map(|table| table.keys) {
        if let (Some(variable), Some(value)) = (key.variable, key.default) {
            let (_, rest) = variable.split_once('`').unwrap();
            let (name, _) = rest.split_once('`').unwrap();
            let text = match value {
                Value::String(text) => text,
                // A list with commas in its globs can't be given so.
                Value::Array(values)
                    if values.iter().any(|value| value.to_string().contains(',')) =>
                {
                    continue;
                }
                Value::Array(values) if values.is_empty() => continue,
                Value::Array(values) => values.iter().fold(String::new(), |text, value| {
                    let comma = if text.is_empty() { "" } else { "," };
                    text + comma + value.as_str().unwrap()
                }),
                value => value.to_string(),
            };
            variables.insert(name.to_owned(), text);
        }
    }
    assert!(variables.len() > 30, "{variables:?}");
    let (settings, problems) = Settings::from_tree(tree::read(None, Some(variables)));
    assert_eq!(problems, []);
    assert_eq!(settings, Settings::default());
}
