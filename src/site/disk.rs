//! Looks at the disk: what is at a path, and whether it is still so. Both wait for it, so they belong on a blocking thread.

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{
    accept::CODINGS,
    aside::locked,
    conditions::Modified,
    entry::{Coded, Entry, Face, Seen, Variant, extension},
    files::{Opened, Stamp, is_missing, resolve},
    kind::Kind,
    settings::{CacheControl, SiteSettings},
};
use crate::problem::Problem;

/// Below this size a coding is not worth its headers.
const LEAST: usize = 512;
/// Above this size compressing takes too long.
const MOST: usize = 8 << 20;
/// A file that is changed all the time is read so often, and then sent as it comes.
const READS: usize = 3;

/// What is at a path.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// A file.
    File(Arc<Entry>),
    /// A folder, asked for without its slash.
    Folder,
    /// Nothing that is served.
    Missing,
}

/// A folder, and how what is in it is served.
pub(super) struct Disk {
    /// Absolute and without symbolic links.
    pub(super) root: PathBuf,
    largest: u64,
    compress: bool,
    tidy: bool,
    cache_control: CacheControl,
}

/// So long a look at a folder is one at each of the files in it, in milliseconds.
pub(super) const MOMENT: u64 = 50;

/// Folders as they are now, each looked at once for all the files in it that are looked at in the same moment.
#[derive(Debug, Default)]
pub(super) struct Folders(HashMap<PathBuf, (SystemTime, Option<Stamp>)>);

// === impl Folders ===

impl Folders {
    /// The folder that `file` is in; [`None`] where it can't be told from what it was shortly before.
    fn around(&mut self, file: &Path) -> Option<Stamp> {
        let folder = file.parent()?;
        let now = SystemTime::now();
        if let Some((looked, stamp)) = self.0.get(folder)
            && now
                .duration_since(*looked)
                .is_ok_and(|age| age < Duration::from_millis(MOMENT))
        {
            return *stamp;
        }
        let stamp = Stamp::at(folder).filter(|stamp| !stamp.is_fresh(now));
        self.0.insert(folder.to_owned(), (now, stamp));
        stamp
    }
}

// === impl Disk ===

impl Disk {
    /// `root` is canonical.
    pub(super) fn new(root: PathBuf, settings: &SiteSettings, problems: &mut Vec<Problem>) -> Self {
        Self {
            root,
            largest: settings.file_size.bytes().min(settings.memory.bytes()),
            compress: settings.compress,
            tidy: settings.tidy_urls,
            cache_control: settings.compile("primary.files", problems),
        }
    }

    /// Whether all is still as it was seen.
    pub(super) fn holds(&self, entry: &Entry, folders: &mut Folders) -> bool {
        let seen = &entry.seen;
        !seen.is_fresh
            && Stamp::at(&seen.file) == Some(seen.stamp)
            && has_the_same_beside(seen, folders)
            && seen.instead_of.as_ref().is_none_or(|path| !path.is_file())
    }

    /// What is at `path`. `checked`: the store's time now, `before`: what was there.
    pub(super) fn look(
        &self,
        path: &[u8],
        checked: u64,
        before: Option<&Entry>,
    ) -> io::Result<Found> {
        let Some(asked) = below(&self.root, path) else {
            return Ok(Found::Missing);
        };
        let mut instead_of = None;
        let file = if path.is_empty() || path.ends_with(b"/") {
            asked.join("index.html")
        } else {
            let is_folder = match resolve(&self.root, &asked) {
                Ok((_, metadata)) => Some(metadata.is_dir()),
                Err(error) if is_missing(&error) => None,
                Err(error) => return Err(error),
            };
            if is_folder == Some(false) {
                asked
            } else {
                let tidy = with_end(&asked, ".html");
                let is_tidy = self.tidy
                    && resolve(&self.root, &tidy).is_ok_and(|(_, metadata)| metadata.is_file());
                if is_tidy {
                    instead_of = Some(asked);
                    tidy
                } else if is_folder.is_some() {
                    return Ok(Found::Folder);
                } else {
                    return Ok(Found::Missing);
                }
            }
        };
        match self.read(path, file, instead_of, checked, before) {
            Ok(entry) => Ok(Found::File(Arc::new(entry))),
            Err(error) if is_missing(&error) => Ok(Found::Missing),
            Err(error) => Err(error),
        }
    }

    fn read(
        &self,
        path: &[u8],
        file: PathBuf,
        instead_of: Option<PathBuf>,
        checked: u64,
        before: Option<&Entry>,
    ) -> io::Result<Entry> {
        let kind = Kind::of(&file);
        let has_beside = !kind.compressed;
        let stamps = if has_beside {
            beside(&file)
        } else {
            Default::default()
        };
        let (opened, bytes) = self.open(&file)?;
        let mut is_there = stamps.map(|stamp| stamp.is_some_and(|stamp| fits(stamp, opened.stamp)));
        for (place, coding) in CODINGS.into_iter().enumerate() {
            // Not one that is outside of the folder, or a folder itself.
            is_there[place] = is_there[place]
                && resolve(&self.root, &with_end(&file, extension(coding)))
                    .is_ok_and(|(_, metadata)| metadata.is_file());
        }
        // Either all of them are in memory, or none.
        let in_memory = |(is_there, stamp): (&bool, &Option<Stamp>)| {
            !is_there || stamp.is_none_or(|stamp| stamp.length <= self.largest)
        };
        let bytes = bytes.filter(|_| is_there.iter().zip(&stamps).all(in_memory));
        let length = bytes.as_ref().map_or(0, Bytes::len);
        let compress = self.compress && kind.compressible && (LEAST..=MOST).contains(&length);
        let face = Face {
            kind: kind.value,
            cache_control: self
                .cache_control
                .of(&String::from_utf8_lossy(path))
                .cloned(),
            varies: compress || is_there.contains(&true),
            compress,
        };
        let is_fresh = opened.stamp.is_fresh(opened.at)
            || stamps
                .iter()
                .flatten()
                .any(|stamp| stamp.is_fresh(opened.at));
        let seen = Seen {
            file,
            stamp: opened.stamp,
            instead_of,
            beside: stamps,
            has_beside,
            folder: Arc::default(),
            is_fresh,
        };
        let mut coded = [Coded::Unknown, Coded::Unknown, Coded::Unknown];
        for (place, coding) in CODINGS.into_iter().enumerate() {
            if is_there[place]
                && let Ok(variant) = self.beside(&seen.file, place, bytes.is_some(), &face)
            {
                coded[place] = Coded::There(Box::new(variant));
            } else if !face.compress {
                coded[place] = Coded::Useless;
            } else if is_there[place] {
                // It is there and can't be had: at the next look, perhaps.
                tracing::debug!(file = %seen.file.display(), ?coding, "encoded file not read");
            }
        }
        let modified = Modified::of(opened.stamp.modified, opened.at);
        let plain = match bytes {
            None => Variant::on_disk(opened, &face, None),
            Some(bytes) => Variant::in_memory(bytes, modified, &face, None),
        };
        let mut entry = Entry::new(path.into(), seen, face, plain, coded, checked);
        if let Some(before) = before {
            entry.inherit(before);
        }
        Ok(entry)
    }

    /// Opens a file, and reads it where it is to be kept.
    fn open(&self, file: &Path) -> io::Result<(Opened, Option<Bytes>)> {
        let mut opened = Opened::open(&self.root, file)?;
        for _ in 0..READS {
            if let Some(bytes) = opened.read(self.largest)? {
                return Ok((opened, Some(bytes)));
            }
            if opened.stamp.length > self.largest {
                break;
            }
            opened = Opened::open(&self.root, file)?;
        }
        Ok((opened, None))
    }

    /// The file in a coding, from beside it.
    fn beside(&self, file: &Path, place: usize, keep: bool, face: &Face) -> io::Result<Variant> {
        let coding = CODINGS[place];
        let file = with_end(file, extension(coding));
        if !keep {
            let opened = Opened::open(&self.root, &file)?;
            return Ok(Variant::on_disk(opened, face, Some(coding)));
        }
        let (opened, bytes) = self.open(&file)?;
        let bytes = bytes.ok_or_else(|| io::Error::other("it is changed all the time"))?;
        let modified = Modified::of(opened.stamp.modified, opened.at);
        Ok(Variant::in_memory(bytes, modified, face, Some(coding)))
    }
}

/// Whether the encoded files beside a file are those that were seen. Mostly there were none, and there are none as long as
/// nothing has come into the folder, which its time tells: one look for all the files in it.
fn has_the_same_beside(seen: &Seen, folders: &mut Folders) -> bool {
    if !seen.has_beside {
        return true;
    }
    if seen.beside.iter().any(Option::is_some) {
        return beside(&seen.file) == seen.beside;
    }
    // Before the files: what comes in between is seen the next time.
    let folder = folders.around(&seen.file);
    if folder.is_some() && *locked(&seen.folder) == folder {
        return true;
    }
    let is_empty = CODINGS.iter().all(|coding| {
        // A link that leads nowhere may lead somewhere one day, and its folder would not tell.
        let path = with_end(&seen.file, extension(*coding));
        path.symlink_metadata().is_err()
    });
    if is_empty {
        *locked(&seen.folder) = folder;
    }
    is_empty || beside(&seen.file) == seen.beside
}

/// The encoded files beside `file`.
fn beside(file: &Path) -> [Option<Stamp>; CODINGS.len()] {
    CODINGS.map(|coding| Stamp::at(&with_end(file, extension(coding))))
}

/// Whether an encoded file is one of this file, and not of what was there before. Copies may come in any order.
fn fits(encoded: Stamp, file: Stamp) -> bool {
    const ORDER: Duration = Duration::from_secs(2);
    let modified = encoded.modified.checked_add(ORDER);
    modified.unwrap_or(SystemTime::UNIX_EPOCH) >= file.modified
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// What `path` names below `root`. It was checked: it begins with no slash, and leads nowhere else.
fn below(root: &Path, path: &[u8]) -> Option<PathBuf> {
    #[cfg(unix)]
    let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(path);
    #[cfg(not(unix))]
    let path = std::str::from_utf8(path).ok()?;
    // As a whole: `join` would take a path with a slash at its end for one without.
    let mut joined = OsString::from(root);
    joined.push("/");
    joined.push(path);
    Some(joined.into())
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// An hour ago.
    fn age(path: &Path) {
        let hour = Duration::from_secs(3600);
        let file = fs::File::open(path).unwrap();
        file.set_modified(SystemTime::now() - hour).unwrap();
    }

    /// A folder with a page in it, as they were seen an hour later.
    fn seen(before: impl FnOnce(&Path)) -> (tempfile::TempDir, Disk, Arc<Entry>) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        before(&root);
        fs::write(root.join("page.html"), "page").unwrap();
        age(&root.join("page.html"));
        age(&root);
        let disk = Disk::new(root, &SiteSettings::default(), &mut Vec::new());
        match disk.look(b"page.html", 0, None) {
            Ok(Found::File(entry)) => (folder, disk, entry),
            found => panic!("{found:?}"),
        }
    }

    fn knows_the_folder(entry: &Entry) -> bool {
        locked(&entry.seen.folder).is_some()
    }

    #[test]
    fn what_comes_beside_a_file_is_seen_by_the_time_of_their_folder() {
        let (_folder, disk, entry) = seen(|_| {});
        let holds = || disk.holds(&entry, &mut Folders::default());
        assert!(holds() && knows_the_folder(&entry) && holds());
        fs::write(disk.root.join("page.html.gz"), "encoded").unwrap();
        assert!(!holds());
        fs::remove_file(disk.root.join("page.html.gz")).unwrap();
        assert!(holds());
    }

    #[test]
    fn a_folder_that_was_changed_just_now_may_change_again_and_look_the_same() {
        let (_folder, disk, entry) = seen(|_| {});
        fs::write(disk.root.join("other.html"), "other").unwrap();
        assert!(disk.holds(&entry, &mut Folders::default()) && !knows_the_folder(&entry));
    }

    #[test]
    fn a_link_that_leads_nowhere_is_looked_at_each_time() {
        let elsewhere = |root: &Path| {
            fs::create_dir(root.join("elsewhere")).unwrap();
            symlink("elsewhere/page.gz", root.join("page.html.gz")).unwrap();
        };
        let (_folder, disk, entry) = seen(elsewhere);
        let holds = || disk.holds(&entry, &mut Folders::default());
        assert!(holds() && !knows_the_folder(&entry));
        fs::write(disk.root.join("elsewhere/page.gz"), "encoded").unwrap();
        assert!(!holds());
    }
}
