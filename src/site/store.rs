//! The files that are kept, and how it is noticed that they changed.
//!
//! What was looked at on the disk less than a second ago goes out without a look: no system call, no lock that anyone
//! holds for long. Whatever is asked for again is looked at again and again for a few seconds, aside ([`Rounds`]), so that
//! for what is asked for every few seconds nobody waits, as long as a round takes less than three quarters of a second.
//! What was looked at longer ago is looked at first, by one for all who ask for it then.
//!
//! A look compares length, times and place of the file and of the encoded ones beside it. Where they were changed so
//! shortly before that another change could look the same, the file is read again, too.

use std::{
    collections::HashMap,
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    accept::CODINGS,
    aside::{Aside, locked},
    disk::{Disk, Folders, Found, MOMENT},
    entry::{Coded, Content, Entry, Variant},
    rounds::Rounds,
    settings::SiteSettings,
    table::Table,
};
use crate::{problem::Problem, rewrite::coding::encode_small};

/// For so long nothing is looked at, in milliseconds: a second, less what counting in whole ones may hide.
const UNSEEN: u64 = 999;
/// A coding is made when it was wanted so often.
const HOT: u8 = 3;
/// So many codings wait to be made; what is still hot then will be wanted again.
const WAITING: usize = 1000;

/// A disk that fails, for all who wait for it.
pub(super) type Failed = Arc<io::Error>;

/// What was found, and when the look began.
type Landed = Option<(Result<Found, Failed>, u64)>;

/// The files below a folder.
pub(super) struct Store {
    disk: Disk,
    kept: Table,
    seed: u64,
    origin: Instant,
    /// Looks that are under way, by path.
    flights: Mutex<HashMap<Box<[u8]>, watch::Receiver<Landed>>>,
    rounds: Rounds,
    /// Not held on to: what the store lets go of must be gone.
    codings: Aside<(Weak<Entry>, usize)>,
    looks: AtomicU64,
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

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("root", &self.disk.root)
            .finish_non_exhaustive()
    }
}

// === impl Store ===

impl Store {
    /// `root` is canonical.
    pub(super) fn new(root: PathBuf, settings: &SiteSettings, problems: &mut Vec<Problem>) -> Self {
        let mut seed = [0; 8];
        // Without it the keys can be guessed, and no more.
        let _ = getrandom::fill(&mut seed);
        Self {
            disk: Disk::new(root, settings, problems),
            kept: Table::new(settings.memory.bytes()),
            seed: u64::from_ne_bytes(seed),
            origin: Instant::now(),
            flights: Mutex::default(),
            rounds: Rounds::new(),
            codings: Aside::new(),
            looks: AtomicU64::new(0),
        }
    }

    /// In milliseconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) const fn rounds(&self) -> &Rounds {
        &self.rounds
    }

    fn key(&self, path: &[u8]) -> u64 {
        xxh3_64_with_seed(path, self.seed)
    }

    fn get(&self, path: &[u8]) -> Option<Arc<Entry>> {
        self.kept
            .get(self.key(path))
            .filter(|entry| *entry.path == *path)
    }

    /// The file at `path`, if it is kept and was looked at less than a second ago.
    pub(super) fn at_hand(self: &Arc<Self>, path: &[u8]) -> Option<Arc<Entry>> {
        let entry = self.get(path)?;
        let now = self.now();
        if now.saturating_sub(entry.checked.load(Relaxed)) >= UNSEEN {
            return None;
        }
        self.rounds.asked_for(&entry, now, self);
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
    fn refresh(self: &Arc<Self>, path: &[u8]) -> io::Result<Found> {
        match self.get(path) {
            Some(entry) if self.holds(&entry, &mut Folders::default()) => {
                // Not for the first time, since it was kept: whoever asks for it every two seconds need not wait, either.
                self.rounds.asked_for(&entry, self.now(), self);
                Ok(Found::File(entry))
            }
            entry => self.look(path, entry),
        }
    }

    /// Looks at `entry` again, and keeps what is there now; whether that is the same.
    pub(super) fn check(&self, entry: &Arc<Entry>, folders: &mut Folders) -> bool {
        // It may have been replaced meanwhile, by one with a coding more: that one is looked at when it is asked for.
        let kept = self.get(&entry.path);
        if !kept.is_some_and(|kept| Arc::ptr_eq(&kept, entry)) {
            return false;
        }
        let holds = self.holds(entry, folders);
        if !holds && let Err(error) = self.look(&entry.path, Some(entry.clone())) {
            tracing::debug!(%error, "file not read");
        }
        holds
    }

    /// Whether all is still as it was seen.
    fn holds(&self, entry: &Entry, folders: &mut Folders) -> bool {
        // Its folder may have been looked at a moment ago.
        let since = self.now().saturating_sub(MOMENT);
        let holds = self.disk.holds(entry, folders);
        if holds {
            entry.checked.fetch_max(since, Relaxed);
        }
        holds
    }

    /// Looks at what is there, and keeps it. `before`: what was.
    fn look(&self, path: &[u8], before: Option<Arc<Entry>>) -> io::Result<Found> {
        self.looks.fetch_add(1, Relaxed);
        let found = self.disk.look(path, self.now(), before.as_deref());
        match &found {
            Ok(Found::File(entry)) if entry.is_in_memory() => {
                self.kept.put(self.key(path), entry);
            }
            _ if before.is_some() => self.kept.remove(self.key(path)),
            _ => {}
        }
        found
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
            if !self
                .codings
                .add((Arc::downgrade(entry), place), WAITING, run)
            {
                wanted.store(0, Relaxed);
            }
        }
    }

    fn encode_waiting(&self) {
        self.codings.work_off(|(entry, place)| {
            if let Some(entry) = entry.upgrade() {
                self.encode(&entry, place);
            }
        });
    }

    fn encode(&self, entry: &Arc<Entry>, place: usize) {
        let Content::Memory(bytes) = &entry.plain.content else {
            return;
        };
        let key = self.key(&entry.path);
        let is_kept = |kept: &Entry| kept.plain.etag == entry.plain.etag && kept.path == entry.path;
        if !self.kept.get(key).is_some_and(|kept| is_kept(&kept)) {
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
        self.kept.change(key, |kept| {
            // It may have been changed, or renewed, meanwhile.
            let kept = kept?;
            let is_missing = is_kept(kept) && matches!(kept.coded[place], Coded::Unknown);
            Some(match is_missing {
                true => Arc::new(kept.with(place, coded.clone())),
                false => kept.clone(),
            })
        });
    }

    /// How many files are kept.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.kept.holds().0
    }

    /// How often the disk was looked at for something else than whether it is unchanged.
    #[cfg(test)]
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        time::{Duration, SystemTime},
    };

    use super::{super::answer::Asker, *};
    use crate::units::ByteSize;

    fn store(settings: &SiteSettings) -> (tempfile::TempDir, Arc<Store>) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let store = Store::new(root, settings, &mut Vec::new());
        (folder, Arc::new(store))
    }

    /// Writes a file that was changed so many hours ago.
    fn write(path: &Path, content: &[u8], hours: u64) {
        fs::write(path, content).unwrap();
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600))
            .unwrap();
    }

    fn file(store: &Arc<Store>, path: &str) -> Arc<Entry> {
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
        let (count, weight) = store.kept.holds();
        assert!(weight <= 1 << 20);
        assert!((50..=104).contains(&count));
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
        assert_eq!(store.kept.holds(), (0, 0));
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
        let request = http::Request::builder().header("accept-encoding", "zstd");
        let request = request.body(()).unwrap();
        assert_eq!(kept.variant(Asker::of(&request)).1, None);
    }

    #[tokio::test]
    async fn what_is_asked_for_goes_along_and_what_is_not_is_left() {
        let (folder, store) = store(&SiteSettings::default());
        for name in ["asked.html", "changed.html", "left.html"] {
            write(&folder.path().join(name), b"page", 1);
            file(&store, name);
        }
        let at_hand = |name: &str| store.at_hand(name.as_bytes()).expect("it was looked at");
        let [asked, changed, left] = ["asked.html", "changed.html", "left.html"].map(at_hand);
        write(&folder.path().join("changed.html"), b"text", 1);
        // As if time had passed, in which two of them were asked for.
        let later = store.now() + 10_000;
        for entry in [&asked, &changed] {
            entry.asked.store(later, Relaxed);
        }
        let looks = store.looks();
        assert!(store.rounds.go_once(&store, later));
        assert!(asked.goes_along.load(Relaxed) && !left.goes_along.load(Relaxed));
        // Of the two only what changed was read.
        assert_eq!(store.looks(), looks + 1);
        assert!(Arc::ptr_eq(&asked, &at_hand("asked.html")));
        assert_eq!(bytes(&at_hand("changed.html")), "text");
        // To go along is not to be held on to.
        let held = Arc::strong_count(&left);
        assert!(at_hand("left.html").goes_along.load(Relaxed));
        assert_eq!(Arc::strong_count(&left), held);
        assert!(!store.rounds.go_once(&store, later + 10_000));
    }

    #[tokio::test]
    async fn what_is_asked_for_now_and_then_goes_along() {
        let (folder, store) = store(&SiteSettings::default());
        write(&folder.path().join("page.html"), b"page", 1);
        let entry = file(&store, "page.html");
        let goes_along = || entry.goes_along.load(Relaxed);
        // Whoever walks through the whole folder asks for it once.
        assert!(!goes_along());
        // By a look each time, as where the one before was too long ago.
        assert!(Arc::ptr_eq(&entry, &file(&store, "page.html")));
        assert!(goes_along());
        // Once it was left it goes along again.
        assert!(!store.rounds.go_once(&store, store.now() + 10_000) && !goes_along());
        file(&store, "page.html");
        assert!(goes_along());
    }

    #[test]
    fn what_is_known_by_its_folder_is_known_since_that_was_looked_at() {
        let (folder, store) = store(&SiteSettings::default());
        write(&folder.path().join("page.html"), b"page", 1);
        let entry = file(&store, "page.html");
        entry.checked.store(0, Relaxed);
        assert!(store.check(&entry, &mut Folders::default()));
        assert!(entry.checked.load(Relaxed) <= store.now().saturating_sub(MOMENT));
    }
}
