//! Files below a folder, and nowhere else. All of it waits for the disk, so it belongs on a blocking thread.
//!
//! A path is resolved, symbolic links included, and looked at before it is opened: it has to end below
//! the folder, at a regular file (a pipe would be waited for, a device is no page).

use std::{
    fs::{File, Metadata},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

/// Within one the kernel's clock may stand still.
const TICK: Duration = Duration::from_millis(20);

/// What tells a file from what was there before: its length, its times and its place on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) length: u64,
    pub(super) modified: SystemTime,
    /// Of the content or of the name: tools that set the time of a copy to that of the original can't set it.
    changed: SystemTime,
    /// Device and number.
    pub(super) place: (u64, u64),
}

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) stamp: Stamp,
    /// Taken before anything else was looked at.
    pub(super) at: SystemTime,
}

// === impl Stamp ===

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let (changed, place) = {
            use std::os::unix::fs::MetadataExt;
            let seconds = u64::try_from(metadata.ctime()).unwrap_or_default();
            let rest = u32::try_from(metadata.ctime_nsec()).unwrap_or_default();
            let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, rest));
            (changed, (metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let (changed, place) = (None, (0, 0));
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Self {
            length: metadata.len(),
            modified,
            changed: changed.unwrap_or(modified),
            place,
        }
    }

    /// Of what is at `path` now, be it where it may.
    pub(super) fn at(path: &Path) -> Option<Self> {
        path.metadata().ok().as_ref().map(Self::of)
    }

    /// Whether the file was changed so shortly before `now` that another change could leave the same stamp: file systems
    /// count times in steps, of up to two seconds.
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        const STEP: Duration = Duration::from_secs(2);
        match now.duration_since(self.modified) {
            Ok(age) => age < STEP,
            Err(ahead) => ahead.duration() < STEP,
        }
    }
}

// === impl Opened ===

impl Opened {
    /// Opens a file below `root`.
    pub(super) fn open(root: &Path, path: &Path) -> io::Result<Self> {
        let at = SystemTime::now();
        let (path, _) = resolve(root, path)?;
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ErrorKind::NotFound.into());
        }
        let stamp = Stamp::of(&metadata);
        Ok(Self { file, stamp, at })
    }

    /// All of the file, as it was at one moment. [`None`]: it was changed meanwhile, or is longer than `most`.
    pub(super) fn read(&mut self, most: u64) -> io::Result<Option<Bytes>> {
        self.let_settle()?;
        if self.stamp.length > most {
            return Ok(None);
        }
        let length = usize::try_from(self.stamp.length).unwrap_or(usize::MAX);
        let mut content = Vec::new();
        content
            .try_reserve_exact(length)
            .map_err(|_| ErrorKind::OutOfMemory)?;
        // One more, to see that there is none.
        (&self.file)
            .take(self.stamp.length.saturating_add(1))
            .read_to_end(&mut content)?;
        let after = Stamp::of(&self.file.metadata()?);
        let is_whole = content.len() == length && after == self.stamp;
        Ok(is_whole.then(|| Bytes::from(content.into_boxed_slice())))
    }

    /// Whoever writes a file may be at it just now, and within a tick of the kernel's clock its times don't tell. By the time
    /// of its change: the other one may have been set back since.
    fn let_settle(&mut self) -> io::Result<()> {
        let age = self.at.duration_since(self.stamp.changed);
        if let Some(left) = age.ok().and_then(|age| TICK.checked_sub(age)) {
            std::thread::sleep(left);
            self.at = SystemTime::now();
            self.stamp = Stamp::of(&self.file.metadata()?);
        }
        Ok(())
    }
}

/// Where `path` really is, if that is a file or a folder below `root`.
pub(super) fn resolve(root: &Path, path: &Path) -> io::Result<(PathBuf, Metadata)> {
    let path = path.canonicalize()?;
    if !path.starts_with(root) {
        return Err(ErrorKind::NotFound.into());
    }
    let metadata = path.metadata()?;
    if metadata.is_file() || metadata.is_dir() {
        Ok((path, metadata))
    } else {
        Err(ErrorKind::NotFound.into())
    }
}

/// Whether there is nothing: a name that cannot be, or may not be read, is as good as not there.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::NotADirectory
            | ErrorKind::PermissionDenied
    )
    // Linux's ELOOP, which has no stable kind: a link to itself is a link to nothing.
    || error.raw_os_error() == Some(40)
}

/// Reads from a place in a file that others read as well.
pub(super) fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    #[cfg(unix)]
    let read = std::os::unix::fs::FileExt::read_at(file, into, at);
    #[cfg(windows)]
    let read = std::os::windows::fs::FileExt::seek_read(file, into, at);
    read
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_changed_just_now_is_read_when_another_change_would_tell() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let path = root.join("page.html");
        fs::write(&path, "page").unwrap();
        // As by a tool that sets the time of a copy to that of the original.
        let file = File::options().append(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let mut opened = Opened::open(&root, &path).unwrap();
        assert_eq!(opened.read(100).unwrap().unwrap(), "page");
        let age = opened.at.duration_since(opened.stamp.changed).unwrap();
        assert!(age >= TICK);
    }
}
