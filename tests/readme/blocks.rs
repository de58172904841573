//! The fenced blocks of the documentation.

use std::{fs, path::Path};

/// One fenced block, as it stands.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// Such as `README.md:48`.
    pub(crate) place: String,
    /// What stands behind the fence.
    pub(crate) language: String,
    /// Without the fence, and without the indentation that a list gives it.
    pub(crate) text: String,
}

/// All blocks of README.md and docs/*.md, in order.
pub(crate) fn all() -> Vec<Block> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()))
        .filter(|name| name.ends_with(".md"))
        .collect();
    files.sort();
    files.insert(0, "README.md".to_owned());
    files
        .iter()
        .flat_map(|file| of(file, &fs::read_to_string(root.join(file)).unwrap()))
        .collect()
}

fn of(file: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let place = format!("{file}:{number}");
        let indentation = line.len() - line.trim_start().len();
        let mut text = String::new();
        loop {
            let (line, _) = lines.next().unwrap_or_else(|| panic!("{place} has no end"));
            if line.trim_start() == "```" {
                break;
            }
            text += line.get(indentation..).unwrap_or_default();
            text += "\n";
        }
        let language = language.to_owned();
        blocks.push(Block {
            place,
            language,
            text,
        });
    }
    blocks
}
