//! What is in a folder, as a visitor would ask for it: the page weights begin with these sizes.

use std::{
    fs::ReadDir,
    path::{Path, PathBuf},
};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::files::resolve;

/// What the URL standard encodes in a path, and what would end a segment or begin an escape: so the
/// path of a file and a page's link to it, parsed, are the same text.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'%');

/// A folder that is being read.
struct Folder {
    entries: ReadDir,
    /// Where it really is.
    place: PathBuf,
    /// Its path as a visitor writes it, with the slash at the end.
    path: String,
}

/// Walks a folder, depth first.
pub(super) struct Objects {
    root: PathBuf,
    open: Vec<Folder>,
    files_left: usize,
    /// A folder full of folders ends, too.
    entries_left: usize,
}

impl Objects {
    /// At most `limit` files, and no more than sixteen entries looked at for each of them.
    pub(super) fn new(root: &Path, limit: usize) -> Self {
        let root = root.canonicalize().unwrap_or_default();
        let mut walk = Self {
            open: Vec::new(),
            files_left: limit,
            entries_left: limit.saturating_mul(16),
            root: root.clone(),
        };
        walk.enter(root, "/".to_owned());
        walk
    }

    fn enter(&mut self, place: PathBuf, path: String) {
        // A link to a folder that is being walked would never end.
        if self.open.iter().any(|folder| folder.place == place) {
            return;
        }
        match place.read_dir() {
            Ok(entries) => self.open.push(Folder {
                entries,
                place,
                path,
            }),
            Err(error) => tracing::debug!(place = %place.display(), %error, "folder not read"),
        }
    }
}

impl Iterator for Objects {
    type Item = (String, u64);

    fn next(&mut self) -> Option<Self::Item> {
        while self.files_left > 0 && self.entries_left > 0 {
            let folder = self.open.last_mut()?;
            let Some(Ok(entry)) = folder.entries.next() else {
                self.open.pop();
                continue;
            };
            self.entries_left -= 1;
            let Some(path) = entry
                .file_name()
                .to_str()
                .and_then(|name| visible(&folder.path, name))
            else {
                continue;
            };
            let Ok((place, metadata)) = resolve(&self.root, &entry.path()) else {
                continue;
            };
            if metadata.is_file() {
                self.files_left -= 1;
                return Some((path, metadata.len()));
            }
            self.enter(place, path + "/");
        }
        None
    }
}

/// The path of `name` in a folder, unless it is one that is never served.
fn visible(folder: &str, name: &str) -> Option<String> {
    let path = format!("{folder}{}", utf8_percent_encode(name, ENCODED));
    crate::front::check_target(&path, crate::front::Rules::Folder)
        .ok()
        .map(|()| path)
}
