//! Servers of one price, and which of them takes a client: consistent hashing with bounded loads.
//!
//! ```text
//! layout   once for a list of servers      slot ► server, as many slots as it has capacity
//! table    when a server's state changed   slot ► the layout's server, if the draw is within its free part;
//!                                                  else that of another slot, and so on
//! choice   for every request               client ► slot ► server; full: the client's next slots
//! ```
//!
//! The layout is filled by turns, as in [Maglev].
//! Whether a server keeps a slot depends on the slot and on its own free part alone. So when one goes, only its
//! own slots are drawn anew; when it comes back it gets those and no others; and as it fills up, slots leave it
//! one after the other and go nowhere but to those that have room. (But when so many go that only one in 64 is
//! left, how the others' slots are given away changes, and more may move.) Making a table takes some steps for each
//! slot, however many servers there are.
//!
//! [Maglev]: https://research.google/pubs/pub44824/

use super::{
    super::hash::{self, mix},
    Candidate,
};

/// Slots for so many servers at most: primes, with thirty slots and more for each.
const SLOTS: [(usize, usize); 3] = [(16, 1021), (256, 8191), (1000, 32_749)];
/// Slots where there are more.
const MOST_SLOTS: usize = 65_521;
/// So many slots are tried for one that was refused, before the best of all is looked for.
const DRAWS: u64 = 128;
/// Where only one member in so many is usable, the best is looked for at once: drawing would take long.
const FEW: usize = 64;
/// The least free part that counts: a usable server is not without any visitor, and where all are nearly full,
/// drawing does not take long.
const LEAST: f64 = 1.0 / 16.0;
/// So many of a client's slots are tried.
const TRIES: u64 = 8;
/// So many servers are asked at last whether they have room. When all are full, the next snapshot will say so.
const ASKED: usize = 64;

/// A server in a layout.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    /// Its position among the candidates.
    index: usize,
    /// A hash of its name, so that a change of the list moves nobody else's visitors.
    name: u64,
    most: f64,
}

/// Which slots are whose, if all have the same part of their capacity free.
#[derive(Debug)]
pub(super) struct Layout {
    members: Vec<Member>,
    /// Empty where there are fewer than two.
    slots: Box<[Slot]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// A position in `members`.
    member: u16,
    /// The free part, of 2³², from which on the member keeps it. The draws of a member's slots are spread evenly,
    /// so that half of them stay at half the room, and not half by chance.
    draw: u32,
}

/// Which slots are whose now.
#[derive(Debug)]
pub(super) struct Table {
    version: u64,
    servers: Vec<usize>,
    /// Positions in `servers`. Empty where there is only one.
    slots: Box<[u16]>,
}

// === impl Member ===

impl Member {
    pub(super) fn new(index: usize, candidate: &Candidate, by_room: bool) -> Self {
        let is_known = by_room && candidate.most.is_finite() && candidate.most > 0.0;
        Self {
            index,
            name: hash::bytes(candidate.name.as_bytes()),
            most: if is_known { candidate.most } else { 1.0 },
        }
    }

    /// Members stand in this order, whatever the order of the configuration.
    pub(super) const fn key(&self) -> u64 {
        self.name
    }
}

// === impl Layout ===

impl Layout {
    pub(super) fn new(members: Vec<Member>) -> Self {
        let slots = if members.len() > 1 {
            fill(&members)
        } else {
            Box::default()
        };
        Self { members, slots }
    }

    pub(super) fn is_of(&self, members: &[Member]) -> bool {
        self.members == members
    }
}

/// Everyone takes the next free slot of its own sequence, by turns, and has as many turns as it has capacity.
fn fill(members: &[Member]) -> Box<[Slot]> {
    let count = SLOTS
        .into_iter()
        .find(|(most, _)| members.len() <= *most)
        .map_or(MOST_SLOTS, |(_, slots)| slots);
    let greatest = members.iter().map(|member| member.most).fold(0.0, f64::max);
    // Where it is in its sequence, the step of its sequence, its part of a turn, what it has saved up, and its
    // last draw.
    let mut sequences: Vec<(usize, usize, f64, f64, u32)> = members
        .iter()
        .map(|member| {
            let offset = mix(member.name) % count as u64;
            let step = mix(!member.name) % (count as u64 - 1) + 1;
            // The first turn is everybody's.
            let turn = member.most / greatest;
            let draw = member.name as u32;
            (offset as usize, step as usize, turn, 1.0 - turn, draw)
        })
        .collect();
    let mut slots: Vec<Option<Slot>> = vec![None; count];
    let mut free = count;
    loop {
        for (member, (at, step, turn, saved, draw)) in sequences.iter_mut().enumerate() {
            *saved += *turn;
            if *saved < 1.0 {
                continue;
            }
            *saved -= 1.0;
            while slots[*at].is_some() {
                *at = (*at + *step) % count;
            }
            // Steps of the golden ratio leave no gap and no heap, however many they are.
            *draw = draw.wrapping_add(0x9e37_79b9);
            slots[*at] = Some(Slot {
                member: member as u16,
                draw: *draw,
            });
            free -= 1;
            if free == 0 {
                return slots.into_iter().map(Option::unwrap_or_default).collect();
            }
        }
    }
}

// === impl Table ===

impl Table {
    /// The table of those members that are usable; [`None`] where nobody is.
    pub(super) fn new(layout: &Layout, candidates: &[Candidate], by_room: bool) -> Option<Self> {
        // A draw of 32 bits has to be below this.
        let chances: Vec<u64> = layout
            .members
            .iter()
            .map(|member| match &candidates[member.index] {
                candidate if !candidate.usable => 0,
                candidate if by_room => {
                    ((candidate.room / member.most).clamp(LEAST, 1.0) * 2f64.powi(32)) as u64
                }
                _ => 1 << 32,
            })
            .collect();
        // From a position in the layout to one in `servers`.
        let mut positions = vec![0; layout.members.len()];
        let (mut usable, mut servers) = (Vec::new(), Vec::new());
        for (member, position) in positions.iter_mut().enumerate() {
            if chances[member] > 0 {
                *position = servers.len() as u16;
                servers.push(layout.members[member].index);
                usable.push(member);
            }
        }
        let slots: Box<[u16]> = match servers.len() {
            0 => return None,
            1 => Box::default(),
            _ => (0..layout.slots.len() as u64)
                .map(|slot| positions[owner(slot, layout, &chances, &usable)])
                .collect(),
        };
        let mut version = hash::Running::default();
        for (position, server) in servers.iter().enumerate() {
            version.add(layout.members[usable[position]].name);
            version.add(*server as u64);
        }
        for four in slots.chunks(4) {
            version.add(
                four.iter()
                    .fold(0, |word, slot| word << 16 | u64::from(*slot)),
            );
        }
        Some(Self {
            version: version.end(),
            servers,
            slots,
        })
    }

    pub(super) fn servers(&self) -> &[usize] {
        &self.servers
    }

    /// Two tables of one version give the same slots to the same servers.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// The client's own slot; where that server is full, the next slots by further hashes (bounded loads);
    /// at last anyone who has room.
    pub(super) fn choose(&self, hash: u64, has_room: &dyn Fn(usize) -> bool) -> Option<usize> {
        let slots = self.slots.len() as u64;
        let by_slot = (0..TRIES).filter_map(|attempt| {
            let slot = mix(hash.wrapping_add(attempt)).checked_rem(slots)?;
            let position = usize::from(*self.slots.get(slot as usize)?);
            self.servers.get(position).copied()
        });
        let first = hash as usize % self.servers.len();
        let (before, from) = self.servers.split_at(first);
        by_slot
            .chain(from.iter().chain(before).copied().take(ASKED))
            .find(|server| has_room(*server))
    }
}

/// The member that a slot belongs to now.
fn owner(slot: u64, layout: &Layout, chances: &[u64], usable: &[usize]) -> usize {
    let Slot { member, draw } = layout.slots[slot as usize];
    if u64::from(draw) < chances[usize::from(member)] {
        return member.into();
    }
    let draws = if usable.len() * FEW > layout.members.len() {
        DRAWS
    } else {
        0
    };
    for attempt in 0..draws {
        let hash = mix(slot | attempt << 32);
        let other = (hash >> 32) % layout.slots.len() as u64;
        let member = usize::from(layout.slots[other as usize].member);
        if hash & 0xffff_ffff < chances[member] {
            return member;
        }
    }
    best(slot, layout, chances, usable)
}

/// The winner by [weighted rendezvous hashing]: exact and as consistent as the draws, but a step for every server.
///
/// [weighted rendezvous hashing]: https://en.wikipedia.org/wiki/Rendezvous_hashing#Weighted_variations
fn best(slot: u64, layout: &Layout, chances: &[u64], usable: &[usize]) -> usize {
    let score = |member: usize| {
        let hash = mix(layout.members[member].name ^ mix(slot));
        // In (0, 1): the logarithm is finite and below 0.
        let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -(chances[member] as f64 * layout.members[member].most) / unit.ln()
    };
    usable
        .iter()
        .map(|member| (score(*member), *member))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(0, |(_, member)| member)
}
