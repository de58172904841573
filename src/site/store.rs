//! The files that are kept, and how it is noticed that they changed.
//!
//! What was looked at on the disk less than a second ago goes out without a look: no system call, no lock that anyone
//! holds for long. In the second half of that second whoever asks has it looked at aside, so that for what is asked for
//! all the time nobody ever waits. What was looked at longer ago is looked at first, by one for all who ask for it
//! then.
//!
//! A look compares length, times and place of the file and of the encoded ones beside it. Where they were changed so
//! shortly before that another change could look the same, the file is read again, too.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use moka::{ops::compute::Op, sync::Cache};
use tokio::{runtime::Handle, sync::watch};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    accept::CODINGS,
    conditions::Modified,
    entry::{Coded, Content, Entry, Face, Seen, Variant, extension},
    files::{Opened, Stamp, is_missing, resolve},
    kind::Kind,
    settings::{CacheControl, SiteSettings},
};
use crate::{problem::Problem, rewrite::coding::encode_small};

/// For so long nothing is looked at, in milliseconds: a second, less what counting in whole ones may hide.
const UNSEEN: u64 = 999;
/// From this age on what is asked for is looked at aside.
const ASIDE: u64 = 500;
/// A coding is made when it was wanted so often.
const HOT: u8 = 3;
/// Below this size a coding is not worth its headers.
const LEAST: usize = 512;
/// Above this size compressing takes too long.
const MOST: usize = 8 << 20;
/// So many codings wait to be made; what is still hot then will be wanted again.
const WAITING: usize = 1000;
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

/// A disk that fails, for all who wait for it.
pub(super) type Failed = Arc<io::Error>;

/// What was found, and when the look began.
type Landed = Option<(Result<Found, Failed>, u64)>;

/// The files below a folder.
pub(super) struct Store {
    /// Absolute and without symbolic links.
    root: PathBuf,
    largest: u64,
    compress: bool,
    tidy: bool,
    cache_control: CacheControl,
    kept: Cache<u64, Arc<Entry>, BuildHasherDefault<AsItIs>>,
    seed: u64,
    origin: Instant,
    /// Looks that are under way, by path.
    flights: Mutex<HashMap<Box<[u8]>, watch::Receiver<Landed>>>,
    checks: Aside<Arc<Entry>>,
    codings: Aside<(Arc<Entry>, usize)>,
    looks: AtomicU64,
}

/// The keys are hashes already.
#[derive(Debug, Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // For keys of other types, of which there are none.
        self.0 = crate::servers::hash::bytes(bytes);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// Work that is done by one thread aside, one after the other.
#[derive(Debug)]
struct Aside<T>(Mutex<Queue<T>>);

#[derive(Debug)]
struct Queue<T> {
    waiting: Vec<T>,
    runs: bool,
}

/// Ends a flight, also when what was to land has crashed.
struct Landing<'a> {
    store: &'a Store,
    path: &'a [u8],
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        locked(&self.store.flights).remove(self.path);
    }
}

/// What these locks guard is whole at every moment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

// === impl Aside ===

impl<T: Send + 'static> Aside<T> {
    const fn new() -> Self {
        Self(Mutex::new(Queue {
            waiting: Vec::new(),
            runs: false,
        }))
    }

    /// Has `work` done by `run`, which takes all that waits. `false`: not now.
    fn add(&self, work: T, most: usize, run: impl FnOnce() + Send + 'static) -> bool {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let mut queue = locked(&self.0);
        if queue.waiting.len() >= most {
            return false;
        }
        queue.waiting.push(work);
        if !std::mem::replace(&mut queue.runs, true) {
            drop(queue);
            runtime.spawn_blocking(run);
        }
        true
    }

    /// What waits; nothing: whoever asks has to stop.
    fn take(&self) -> Vec<T> {
        let mut queue = locked(&self.0);
        queue.runs = !queue.waiting.is_empty();
        std::mem::take(&mut queue.waiting)
    }
}

// === impl Store ===

impl Store {
    /// `root` is canonical.
    pub(super) fn new(root: PathBuf, settings: &SiteSettings, problems: &mut Vec<Problem>) -> Self {
        let memory = settings.memory.bytes();
        let mut seed = [0; 8];
        // Without it the keys can be guessed, and no more.
        let _ = getrandom::fill(&mut seed);
        Self {
            root,
            largest: settings.file_size.bytes().min(memory),
            compress: settings.compress,
            tidy: settings.tidy_urls,
            cache_control: settings.compile("primary.files", problems),
            kept: Cache::builder()
                .max_capacity(memory)
                .weigher(|_, entry: &Arc<Entry>| entry.weight())
                .build_with_hasher(BuildHasherDefault::default()),
            seed: u64::from_ne_bytes(seed),
            origin: Instant::now(),
            flights: Mutex::default(),
            checks: Aside::new(),
            codings: Aside::new(),
            looks: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn key(&self, path: &[u8]) -> u64 {
        xxh3_64_with_seed(path, self.seed)
    }

    fn get(&self, path: &[u8]) -> Option<Arc<Entry>> {
        self.kept
            .get(&self.key(path))
            .filter(|entry| *entry.path == *path)
    }

    /// The file at `path`, if it is kept and was looked at less than a second ago.
    pub(super) fn at_hand(self: &Arc<Self>, path: &[u8]) -> Option<Arc<Entry>> {
        let entry = self.get(path)?;
        let age = self.now().saturating_sub(entry.checked.load(Relaxed));
        if age >= UNSEEN {
            return None;
        }
        if age >= ASIDE && !entry.queued.swap(true, Relaxed) {
            let store = self.clone();
            let run = move || store.check_waiting();
            if !self.checks.add(entry.clone(), usize::MAX, run) {
                entry.queued.store(false, Relaxed);
            }
        }
        Some(entry)
    }

    /// What is at `path`, after a look at the disk.
    pub(super) async fn find(self: &Arc<Self>, path: &[u8]) -> Result<Found, Failed> {
        let asked = self.now();
        loop {
            let mut flight = self.flight(path);
            let landed = flight.wait_for(Option::is_some).await;
            let Ok(Some((found, began))) = landed.as_deref() else {
                return Err(Arc::new(io::Error::other(
                    "the look at the disk was given up",
                )));
            };
            // Somebody else's that took long may be too old. The next one began later.
            if *began >= asked || self.now().saturating_sub(*began) < UNSEEN {
                return found.clone();
            }
        }
    }

    /// The look at `path` that is under way, or a new one.
    fn flight(self: &Arc<Self>, path: &[u8]) -> watch::Receiver<Landed> {
        let (tell, told) = {
            let mut flights = locked(&self.flights);
            if let Some(flight) = flights.get(path) {
                return flight.clone();
            }
            let (tell, told) = watch::channel(None);
            flights.insert(path.into(), told.clone());
            (tell, told)
        };
        let (store, path, began) = (self.clone(), Box::<[u8]>::from(path), self.now());
        tokio::task::spawn_blocking(move || {
            let landing = Landing {
                store: &store,
                path: &path,
            };
            let found = store.refresh(&path).map_err(Arc::new);
            drop(landing);
            tell.send_replace(Some((found, began)));
        });
        told
    }

    /// Looks at what is kept; at the disk for the rest.
    fn refresh(&self, path: &[u8]) -> io::Result<Found> {
        match self.get(path) {
            Some(entry) if self.holds(&entry) => Ok(Found::File(entry)),
            entry => self.look(path, entry),
        }
    }

    fn check_waiting(&self) {
        loop {
            let waiting = self.checks.take();
            if waiting.is_empty() {
                return;
            }
            for entry in waiting {
                // Before: whoever asks after it may queue it again.
                entry.queued.store(false, Relaxed);
                if !self.holds(&entry)
                    && let Err(error) = self.look(&entry.path.clone(), Some(entry))
                {
                    tracing::debug!(%error, "file not read");
                }
            }
        }
    }

    /// Whether all is still as it was seen.
    fn holds(&self, entry: &Entry) -> bool {
        let (now, seen) = (self.now(), &entry.seen);
        let holds = !seen.is_fresh
            && Stamp::at(&seen.file) == Some(seen.stamp)
            && (!seen.has_beside || beside(&seen.file) == seen.beside)
            && seen.instead_of.as_ref().is_none_or(|path| !path.is_file());
        if holds {
            entry.checked.fetch_max(now, Relaxed);
        }
        holds
    }

    /// Looks at what is there, and keeps it. `before`: what was.
    fn look(&self, path: &[u8], before: Option<Arc<Entry>>) -> io::Result<Found> {
        self.looks.fetch_add(1, Relaxed);
        let found = self.look_at(path, before.as_deref());
        match &found {
            Ok(Found::File(entry)) if entry.is_in_memory() => {
                self.kept.insert(self.key(path), entry.clone());
            }
            _ if before.is_some() => self.kept.invalidate(&self.key(path)),
            _ => {}
        }
        found
    }

    fn look_at(&self, path: &[u8], before: Option<&Entry>) -> io::Result<Found> {
        let checked = self.now();
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

    /// `entry` was asked for in the coding at `place`, which is not there.
    pub(super) fn wants(self: &Arc<Self>, entry: &Arc<Entry>, place: usize) {
        let wanted = &entry.wanted[place];
        let times = wanted.load(Relaxed);
        // Once more than it takes: it is being made.
        if times > HOT {
            return;
        }
        wanted.store(times + 1, Relaxed);
        if times + 1 == HOT {
            let store = self.clone();
            let run = move || store.encode_waiting();
            wanted.store(HOT + 1, Relaxed);
            if !self.codings.add((entry.clone(), place), WAITING, run) {
                wanted.store(0, Relaxed);
            }
        }
    }

    fn encode_waiting(&self) {
        loop {
            let waiting = self.codings.take();
            if waiting.is_empty() {
                return;
            }
            for (entry, place) in waiting {
                self.encode(&entry, place);
            }
        }
    }

    fn encode(&self, entry: &Arc<Entry>, place: usize) {
        let Content::Memory(bytes) = &entry.plain.content else {
            return;
        };
        let key = self.key(&entry.path);
        let is_kept = |kept: &Entry| kept.plain.etag == entry.plain.etag && kept.path == entry.path;
        if !self.kept.get(&key).is_some_and(|kept| is_kept(&kept)) {
            return;
        }
        let coding = CODINGS[place];
        let coded = match encode_small(coding, bytes) {
            // Less than a twentieth saved is not worth the client's work.
            Ok(encoded) if encoded.len() < bytes.len() - bytes.len() / 20 => {
                let encoded = Bytes::from(Box::<[u8]>::from(&*encoded));
                let modified = entry.plain.modified.clone();
                let variant = Variant::in_memory(encoded, modified, &entry.face, Some(coding));
                Coded::There(Box::new(variant))
            }
            Ok(_) => Coded::Useless,
            Err(error) => {
                tracing::debug!(%error, ?coding, "file not encoded");
                Coded::Useless
            }
        };
        self.kept.entry(key).and_compute_with(|kept| {
            // It may have been changed, or renewed, meanwhile.
            match kept.map(moka::Entry::into_value) {
                Some(kept) if is_kept(&kept) && matches!(kept.coded[place], Coded::Unknown) => {
                    Op::Put(Arc::new(kept.with(place, coded)))
                }
                _ => Op::Nop,
            }
        });
    }

    /// How often the disk was looked at for something else than whether it is unchanged.
    #[cfg(test)]
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Relaxed)
    }
}

impl Entry {
    /// Takes over from what was there `before` what is still true: the very bytes, by which others know it, and the
    /// codings that were made of them.
    fn inherit(&mut self, before: &Entry) {
        if before.plain.etag != self.plain.etag || !self.is_in_memory() || !before.is_in_memory() {
            return;
        }
        self.plain.content = before.plain.content.clone();
        for (place, coded) in self.coded.iter_mut().enumerate() {
            match (&*coded, &before.coded[place]) {
                (Coded::Unknown, Coded::There(made))
                    if before.seen.beside[place].is_none() && self.face.compress =>
                {
                    let Content::Memory(bytes) = &made.content else {
                        continue;
                    };
                    let modified = self.plain.modified.clone();
                    let coding = Some(CODINGS[place]);
                    let made = Variant::in_memory(bytes.clone(), modified, &self.face, coding);
                    *coded = Coded::There(Box::new(made));
                }
                (Coded::Unknown, Coded::Useless) if before.face.compress => {
                    *coded = Coded::Useless;
                }
                (Coded::There(own), Coded::There(made)) if own.etag == made.etag => {
                    let mut own = own.clone();
                    own.content = made.content.clone();
                    *coded = Coded::There(own);
                }
                _ => {}
            }
        }
    }

    /// The same with one coding more.
    fn with(&self, place: usize, coded: Coded) -> Self {
        let mut all = self.coded.clone();
        all[place] = coded;
        let wanted = Default::default();
        Self {
            path: self.path.clone(),
            seen: self.seen.clone(),
            face: self.face.clone(),
            plain: self.plain.clone(),
            coded: all,
            wanted,
            checked: AtomicU64::new(self.checked.load(Relaxed)),
            queued: Default::default(),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::units::ByteSize;

    fn store(settings: &SiteSettings) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let store = Store::new(root, settings, &mut Vec::new());
        (folder, store)
    }

    /// Writes a file that was changed so many hours ago.
    fn write(path: &Path, content: &[u8], hours: u64) {
        fs::write(path, content).unwrap();
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600))
            .unwrap();
    }

    fn file(store: &Store, path: &str) -> Arc<Entry> {
        match store.refresh(path.as_bytes()) {
            Ok(Found::File(entry)) => entry,
            found => panic!("{path}: {found:?}"),
        }
    }

    fn bytes(entry: &Entry) -> &Bytes {
        match &entry.plain.content {
            Content::Memory(bytes) => bytes,
            Content::Disk(_) => panic!("not in memory"),
        }
    }

    #[test]
    fn what_is_unchanged_is_not_read_again() {
        let (folder, store) = store(&SiteSettings::default());
        write(&folder.path().join("page.html"), b"page", 1);
        let first = file(&store, "page.html");
        assert!(Arc::ptr_eq(&first, &file(&store, "page.html")));
        assert_eq!(store.looks(), 1);
        // Another time, and nothing else: the same bytes, by which the layer knows the page.
        write(&folder.path().join("page.html"), b"page", 2);
        let second = file(&store, "page.html");
        assert_eq!(store.looks(), 2);
        assert_eq!(bytes(&first).as_ptr(), bytes(&second).as_ptr());
        assert!(
            first.plain.etag == second.plain.etag && first.plain.modified != second.plain.modified
        );
        write(&folder.path().join("page.html"), b"text", 2);
        let third = file(&store, "page.html");
        assert!(bytes(&third) == "text" && third.plain.etag != second.plain.etag);
    }

    #[test]
    fn what_changed_just_now_is_read_again() {
        let (folder, store) = store(&SiteSettings::default());
        let path = folder.path().join("page.html");
        fs::write(&path, "one").unwrap();
        assert!(file(&store, "page.html").seen.is_fresh);
        let time = path.metadata().unwrap().modified().unwrap();
        fs::write(&path, "two").unwrap();
        fs::File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
        assert_eq!(bytes(&file(&store, "page.html")), "two");
    }

    #[test]
    fn holds_no_more_than_it_may() {
        let (folder, store) = store(&SiteSettings {
            memory: ByteSize::new(1 << 20),
            ..SiteSettings::default()
        });
        for number in 0..300 {
            write(
                &folder.path().join(format!("{number}.bin")),
                &[0; 10_000],
                1,
            );
        }
        for number in 0..300 {
            assert_eq!(bytes(&file(&store, &format!("{number}.bin"))).len(), 10_000);
        }
        store.kept.run_pending_tasks();
        assert!(store.kept.weighted_size() <= 1 << 20);
        assert!((50..=104).contains(&store.kept.entry_count()));
        // What is larger than all of it is not kept at all.
        write(&folder.path().join("large.bin"), &[0; 1 << 21], 1);
        assert!(!file(&store, "large.bin").is_in_memory());
    }

    #[test]
    fn nothing_is_kept_where_nothing_may_be() {
        let (folder, store) = store(&SiteSettings {
            memory: ByteSize::new(0),
            ..SiteSettings::default()
        });
        write(&folder.path().join("page.html"), b"page", 1);
        assert!(!file(&store, "page.html").is_in_memory());
        store.kept.run_pending_tasks();
        assert_eq!(store.kept.entry_count(), 0);
    }

    #[test]
    fn a_coding_is_made_once_and_stays() {
        let (folder, store) = store(&SiteSettings::default());
        let page = b"the same again and again ".repeat(100);
        write(&folder.path().join("page.html"), &page, 1);
        store.encode(&file(&store, "page.html"), 0);
        let kept = file(&store, "page.html");
        let Coded::There(first) = &kept.coded[0] else {
            panic!("{:?}", kept.coded[0]);
        };
        assert!(first.length < 200 && first.headers["content-encoding"] == "br");
        write(&folder.path().join("page.html"), &page, 2);
        let renewed = file(&store, "page.html");
        let Coded::There(second) = &renewed.coded[0] else {
            panic!("{:?}", renewed.coded[0]);
        };
        assert_eq!(first.etag, second.etag);
        write(&folder.path().join("page.html"), &page[1..], 2);
        assert!(matches!(file(&store, "page.html").coded[0], Coded::Unknown));
        // Of an entry that is not kept any more nothing is made.
        store.encode(&renewed, 2);
        assert!(matches!(file(&store, "page.html").coded[2], Coded::Unknown));
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        let (folder, store) = store(&SiteSettings::default());
        let mut noise = vec![0; 5000];
        getrandom::fill(&mut noise).unwrap();
        write(&folder.path().join("noise.txt"), &noise, 1);
        store.encode(&file(&store, "noise.txt"), 1);
        let kept = file(&store, "noise.txt");
        assert!(matches!(kept.coded[1], Coded::Useless));
        let mut headers = http::HeaderMap::new();
        headers.insert("accept-encoding", "zstd".parse().unwrap());
        assert_eq!(kept.variant(&headers).1, None);
    }
}
