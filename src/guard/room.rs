//! How many connections there may be, and who goes when there are too many.
//!
//! Where there are too many, those go first of which nothing is lost: the idle ones, the longest idle before the
//! others. So who opens connections and leaves them keeps nobody out, and a visitor's browser, which keeps some for
//! later, makes room for the next visitor. Where none is idle the server has more to do than it may, and who comes
//! next is refused: a queue would only make everyone wait, those who are let in as well.

use std::{
    collections::{HashMap, hash_map::Entry as MapEntry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{Doing, LimitSettings, accept::Relief, doing::Most, files};
use crate::seldom::Seldom;

/// A search that found nobody idle is not made again before that: it looks at all connections.
const BARREN: Duration = Duration::from_millis(20);
/// So long those are waited for who were told to go: most have gone by then.
const MOMENT: Duration = Duration::from_millis(100);
/// Who was told to go so long ago is taken for one that stays.
const STAYS: Duration = Duration::from_secs(1);
/// For what is open beside connections: listeners, logs, the system's counters.
const OTHER_FILES: u64 = 64;

/// The connections of one listener.
#[derive(Debug)]
pub(crate) struct Room {
    /// Where the connections' clocks begin.
    origin: Instant,
    /// Taken when a connection comes and goes, never by a request.
    inside: Mutex<Inside>,
    /// Rung when one goes that was told to.
    left: Notify,
    full: Seldom,
}

/// How many there may be, and what each may ask for.
#[derive(Debug, Clone, Copy)]
struct Size {
    most: usize,
    per_address: usize,
    each: Most,
}

#[derive(Debug)]
struct Inside {
    size: Size,
    slots: Vec<Option<Guest>>,
    free: Vec<usize>,
    count: usize,
    /// Told to go, and still there; not in `count`.
    leaving: usize,
    addresses: HashMap<Address, Group>,
    /// Until when none will be found idle.
    barren: Option<Instant>,
}

/// The connections of an address.
#[derive(Debug, Default)]
struct Group {
    count: usize,
    leaving: usize,
    barren: Option<Instant>,
}

#[derive(Debug)]
struct Guest {
    doing: Arc<Doing>,
    address: Option<Address>,
    /// When it was told to go.
    told: Option<Instant>,
}

/// A connection's place; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Room>,
    slot: usize,
    /// What the connection in it does.
    pub(crate) doing: Arc<Doing>,
}

/// An IPv4 address, or the first 64 bits of an IPv6 one: the rest is the client's to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Address {
    V4([u8; 4]),
    V6([u8; 8]),
}

// === impl Address ===

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let mut network = [0; 8];
                network.copy_from_slice(&address.octets()[..8]);
                Self::V6(network)
            }
        }
    }
}

// === impl Size ===

impl Size {
    fn of(limits: &LimitSettings, section: &str) -> Self {
        let wanted = u64::from(limits.connections);
        // What is asked for may take a second one: a file, a connection to an upstream.
        let allowed = files::most().map_or(wanted, |files| {
            (files.saturating_sub(OTHER_FILES) / 2)
                .max(files / 4)
                .max(1)
        });
        if allowed < wanted {
            tracing::warn!(
                connections = allowed,
                "the limit of open files is too low for `{section}.connections` ({wanted}): raise it \
                 (`ulimit -n`, LimitNOFILE=) to {} or more",
                wanted * 2 + OTHER_FILES
            );
        }
        Self {
            most: usize::try_from(wanted.min(allowed)).unwrap_or(usize::MAX),
            per_address: limits.connections_per_address as usize,
            each: limits.into(),
        }
    }
}

// === impl Room ===

impl Room {
    /// As large as `limits` say and the limit of open files allows; `section` names them in the log.
    pub(crate) fn new(limits: &LimitSettings, section: &str) -> Arc<Self> {
        Self::of(Size::of(limits, section))
    }

    /// Goes by other limits from now on. Who is there stays, though there may be too many; what each may ask for is of the
    /// connections that come.
    pub(crate) fn resize(&self, limits: &LimitSettings, section: &str) {
        let size = Size::of(limits, section);
        self.inside().size = size;
    }

    fn of(size: Size) -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            inside: Mutex::new(Inside::new(size)),
            left: Notify::new(),
            full: Seldom::default(),
        })
    }

    /// A place for one more, which is free again when nobody holds on to it; [`None`]: there is none. Without an address none is counted.
    pub(crate) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Arc<Place>> {
        let address = address.map(Address::from);
        let mut inside = self.inside();
        let Size {
            most,
            per_address,
            each,
        } = inside.size;
        // Some more than the one at once: looking for them costs more than they do. And those that a reload left too many.
        let (some, some_of_all) = (1 + per_address / 16, 1 + most / 64);
        let count = inside.of_address(address).0;
        if count >= per_address {
            inside.show_out(count - per_address + some, address);
        }
        if inside.count >= most {
            let excess = inside.count - most;
            inside.show_out(excess + some_of_all, None);
        }
        let (count, leaving) = inside.of_address(address);
        let is_address_full = count >= per_address
            || leaving > some * 2 && count + inside.staying(address) >= per_address + some;
        let (count, leaving) = (inside.count, inside.leaving);
        let is_full = count >= most
            || leaving > some_of_all * 2 && count + inside.staying(None) >= most + some_of_all;
        if is_full || is_address_full {
            drop(inside);
            if self.full.is_due() {
                let limit = if is_full {
                    "connections"
                } else {
                    "connections_per_address"
                };
                tracing::warn!(limit, "connections are refused: none is idle");
            }
            return None;
        }
        let doing = Arc::new(Doing::new(self.origin, each));
        let slot = inside.add(Guest {
            doing: doing.clone(),
            address,
            told: None,
        });
        drop(inside);
        Some(Arc::new(Place {
            room: self.clone(),
            slot,
            doing,
        }))
    }

    /// Waits a moment where many were told to go who are still there: their files are open until they have.
    pub(crate) async fn settle(&self) {
        let too_many = |inside: &Inside| {
            let most = 4.max(inside.size.most / 16);
            inside.leaving > most && inside.just_told() > most
        };
        let settled = async {
            while too_many(&self.inside()) {
                self.left.notified().await;
            }
        };
        // Some of them may have begun to ask just then, and take their time.
        let _ = tokio::time::timeout(MOMENT, settled).await;
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Nothing in there panics half-way.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relief for Room {
    fn relieve(&self) -> bool {
        let mut inside = self.inside();
        let some = 1 + inside.count / 64;
        inside.show_out(some, None)
    }
}

// === impl Inside ===

impl Inside {
    fn new(size: Size) -> Self {
        Self {
            size,
            slots: Vec::new(),
            free: Vec::new(),
            count: 0,
            leaving: 0,
            addresses: HashMap::new(),
            barren: None,
        }
    }

    fn add(&mut self, guest: Guest) -> usize {
        self.count += 1;
        if let Some(address) = guest.address {
            self.addresses.entry(address).or_default().count += 1;
        }
        if let Some(slot) = self.free.pop() {
            self.slots[slot] = Some(guest);
            return slot;
        }
        self.slots.push(Some(guest));
        self.slots.len() - 1
    }

    /// Whether it was told to go.
    fn remove(&mut self, slot: usize) -> bool {
        let Some(guest) = self.slots.get_mut(slot).and_then(Option::take) else {
            return false;
        };
        self.free.push(slot);
        let was_told = guest.told.is_some();
        if was_told {
            self.leaving -= 1;
        } else {
            self.count -= 1;
        }
        if let Some(MapEntry::Occupied(mut entry)) =
            guest.address.map(|address| self.addresses.entry(address))
        {
            let group = entry.get_mut();
            if was_told {
                group.leaving -= 1;
            } else {
                group.count -= 1;
            }
            if group.count + group.leaving == 0 {
                entry.remove();
            }
        }
        was_told
    }

    /// How many of those that were told to go stay, since they had just begun to ask, or do not hear it: there must not be ever
    /// more of them. Of all or of an address.
    fn staying(&self, address: Option<Address>) -> usize {
        let now = Instant::now();
        let stays = |guest: &&Guest| {
            let is_meant = address.is_none() || guest.address == address;
            let told = guest.told.filter(|_| is_meant);
            told.is_some_and(|told| !guest.doing.is_idle() || now >= told + STAYS)
        };
        self.slots.iter().flatten().filter(stays).count()
    }

    /// How many were told to go just now.
    fn just_told(&self) -> usize {
        let now = Instant::now();
        let is_new = |guest: &&Guest| guest.told.is_some_and(|told| now < told + MOMENT);
        self.slots.iter().flatten().filter(is_new).count()
    }

    /// How many an address has, and how many more that were told to go.
    fn of_address(&self, address: Option<Address>) -> (usize, usize) {
        let group = address.and_then(|address| self.addresses.get(&address));
        group.map_or((0, 0), |group| (group.count, group.leaving))
    }

    /// Until when none will be found idle: of all, or of an address.
    fn barren(&mut self, address: Option<Address>) -> Option<&mut Option<Instant>> {
        match address {
            None => Some(&mut self.barren),
            Some(address) => Some(&mut self.addresses.get_mut(&address)?.barren),
        }
    }

    /// Tells up to `most` of the idle ones to go, of all or of an address, those that have been idle the longest; whether
    /// there were any.
    fn show_out(&mut self, most: usize, address: Option<Address>) -> bool {
        let now = Instant::now();
        let barren = self.barren(address).and_then(|barren| *barren);
        if barren.is_some_and(|barren| now < barren) {
            return false;
        }
        let mut idle: Vec<(u64, usize)> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(slot, guest)| {
                let guest = guest.as_ref()?;
                let is_meant = address.is_none() || guest.address == address;
                (guest.told.is_none() && is_meant && guest.doing.is_idle())
                    .then(|| (guest.doing.idle_since().load(Relaxed), slot))
            })
            .collect();
        if idle.is_empty() {
            if let Some(barren) = self.barren(address) {
                *barren = Some(now + BARREN);
            }
            return false;
        }
        if idle.len() > most {
            idle.select_nth_unstable(most - 1);
            idle.truncate(most);
        }
        for (_, slot) in idle {
            let Some(guest) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
                continue;
            };
            guest.told = Some(now);
            guest.doing.crowded.store(true, Relaxed);
            guest.doing.leave.notify_one();
            self.count -= 1;
            self.leaving += 1;
            let group = guest
                .address
                .and_then(|address| self.addresses.get_mut(&address));
            if let Some(group) = group {
                group.count -= 1;
                group.leaving += 1;
            }
        }
        true
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let was_told = self.room.inside().remove(self.slot);
        if was_told {
            self.room.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(most: usize, per_address: usize) -> Arc<Room> {
        Room::of(Size {
            most,
            per_address,
            each: (&LimitSettings::DEFAULT).into(),
        })
    }

    fn address(number: u32) -> Option<IpAddr> {
        Some(IpAddr::from(number.to_be_bytes()))
    }

    /// Whether it was told to go.
    fn goes(place: &Place) -> bool {
        let told = std::pin::pin!(place.doing.leave.notified());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        told.poll(&mut cx).is_ready()
    }

    async fn pass() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_goes_first_and_the_busy_stay() {
        let room = room(3, 10);
        let busy = room.enter(address(1)).unwrap();
        let mut answering = vec![busy.doing.begin(false)];
        pass().await;
        let old = room.enter(address(2)).unwrap();
        pass().await;
        let young = room.enter(address(3)).unwrap();
        pass().await;
        let newest = room.enter(address(4)).unwrap();
        assert!(goes(&old) && !goes(&young) && !goes(&busy) && !goes(&newest));
        for place in [&young, &newest] {
            answering.push(place.doing.begin(false));
        }
        assert!(room.enter(address(5)).is_none(), "none is idle");
        answering.clear();
        pass().await;
        assert!(room.enter(address(5)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_has_many_makes_room_for_itself_alone() {
        let room = room(100, 2);
        let other = room.enter(address(1)).unwrap();
        pass().await;
        let first = room.enter(address(2)).unwrap();
        pass().await;
        let second = room.enter(address(2)).unwrap();
        let third = room.enter(address(2)).unwrap();
        assert!(goes(&first) && !goes(&other) && !goes(&second) && !goes(&third));
        let _busy = [second.doing.begin(false), third.doing.begin(false)];
        assert!(room.enter(address(2)).is_none());
        assert!(room.enter(address(3)).is_some());
        assert!(room.enter(None).is_some(), "who is not counted");
        let network = |text: &str| Some(text.parse().unwrap());
        let _places = [network("2001:db8::1"), network("2001:db8::2")].map(|address| {
            let place = room.enter(address).unwrap();
            let answering = place.doing.begin(false);
            (place, answering)
        });
        assert!(room.enter(network("2001:db8::3")).is_none(), "one network");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_told_to_go_and_stays_counts() {
        for (most, per_address, asks) in [
            (3, 100, true),
            (100, 3, true),
            (3, 100, false),
            (100, 3, false),
        ] {
            let room = room(most, per_address);
            let (mut places, mut answering) = (Vec::<Arc<Place>>::new(), Vec::new());
            // Each begins to ask just when it is told to go, or does not hear it, so that none of them leaves.
            while let Some(place) = room.enter(address(1)) {
                let told = places.iter().find(|place| asks && goes(place));
                answering.extend(told.map(|told| told.doing.begin(false)));
                places.push(place);
                pass().await;
                assert!(places.len() < 100, "they are ever more");
            }
            assert!(places.len() > 3);
            drop(answering);
            let begun = Instant::now();
            room.settle().await;
            assert!(begun.elapsed() <= Duration::from_millis(100));
            places.clear();
            assert!(room.enter(address(1)).is_some());
            assert!(room.inside().addresses.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_who_was_told_to_go_whoever_else_leaves() {
        let room = room(200, 1000);
        let mut places: Vec<_> = (0..200).map(|_| room.enter(None).unwrap()).collect();
        room.inside().show_out(100, None);
        let leaves = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if places.len() > 150 {
                    places.remove(0);
                }
            }
        };
        let begun = Instant::now();
        tokio::select! {
            biased;
            () = room.settle() => {}
            () = leaves => {}
        }
        assert_eq!(begun.elapsed(), MOMENT);
        // Nor for the same ones again.
        room.settle().await;
        assert_eq!(begun.elapsed(), MOMENT);
    }

    #[tokio::test]
    async fn a_million_addresses_leave_nothing_behind() {
        let room = room(1000, 10);
        let mut places = std::collections::VecDeque::new();
        for number in 0..1_000_000 {
            places.extend(room.enter(address(number)));
            // They go soon after they are told.
            if places.len() > 1000 {
                places.pop_front();
            }
        }
        let inside = room.inside();
        assert!(inside.count <= 1000, "{}", inside.count);
        assert!(inside.slots.len() <= 1100, "{}", inside.slots.len());
        assert!(inside.addresses.capacity() <= 4096);
        drop(inside);
        places.clear();
        let inside = room.inside();
        assert_eq!((inside.count, inside.leaving), (0, 0));
        assert!(inside.addresses.is_empty());
    }
}
