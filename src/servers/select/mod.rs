//! Which offload server takes a visitor.
//!
//! The criteria of `offload.select` are taken in their order; each narrows, the next breaks ties:
//!
//! | criterion | narrows to |
//! |---|---|
//! | `client` | the servers that the first matching rule of `[[offload.clients]]` names; no rule: all |
//! | `price` | the cheapest that still have room |
//! | `load` | by free room: a server with twice the room gets twice the visitors |
//!
//! `price` after `load` decides nothing, since two servers never have the same room. Without `load` the
//! servers of a price share evenly. What is left is settled by a hash of the client, so that a visitor and
//! a server's cache stay together: by a table of slots, made whenever the servers' states change (see
//! `table`). Choosing is one look into the table, however many servers there are, and when a server goes only
//! its own visitors move. `load` never means "the emptiest": every visitor until the next report would go
//! there.
//!
//! Where the objects of a page are spread (`offload.spread = "object"`), the same tables say which server an
//! object belongs to, of those that are as good as the one that the visitor was given: a *pool*.

mod rule;
mod table;

use std::{
    fmt,
    net::IpAddr,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use self::{
    rule::Rule,
    table::{Layout, Member, Table},
};
use crate::{problem::Problem, units::Price};

pub use self::rule::networks;

/// `offload.select`: one criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Criterion {
    /// The rules of `[[offload.clients]]`, for the client's address and identity.
    Client,
    /// The price of a gigabyte: the cheapest that has room.
    Price,
    /// The free room: more visitors for the one that has more.
    Load,
}

/// `offload.spread`: how the objects of a page are spread over the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SpreadBy {
    /// All come from the visitor's server.
    #[default]
    Page,
    /// Each comes from the server that it hashes to, among those that are as good as the visitor's: so many caches hold
    /// as many times more than one.
    Object,
}

/// `[[offload.clients]]`: which servers are for whom.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ClientRuleSettings {
    /// Networks or addresses of clients. Default: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// A glob on the client's identity. A plain cookie can be made up: see `offload.identity`. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The names of the servers. Must be given.
    pub servers: Vec<String>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// A hash of the client key: the identity, or the address.
    pub hash: u64,
    /// The address, as far as it is known.
    pub address: Option<IpAddr>,
    /// The identity, where one is configured and given.
    pub identity: Option<&'a str>,
}

/// A server as a chooser sees it. Its position among the candidates is its position in the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Whether it gets work at all.
    pub usable: bool,
    /// Servers of a lower rank are taken first, whatever the others cost: the priority of DNS SRV, else 0.
    pub rank: u16,
    /// Its price.
    pub price: Price,
    /// How much more it can take, in any unit that is the same for all candidates.
    pub room: f64,
    /// How much it can take when it does nothing, in the same unit.
    pub most: f64,
}

/// Makes choosers: replace it to choose in your own way.
pub trait Select: fmt::Debug + Send + Sync + 'static {
    /// Called by the control loop whenever the candidates changed, never on the request path.
    fn prepare(&self, candidates: &[Candidate]) -> Box<dyn Choose>;
}

/// Chooses, on the request path: quickly, and without waiting.
pub trait Choose: fmt::Debug + Send + Sync + 'static {
    /// The position of the server for `client`, or [`None`] where nobody has room. `has_room` tells whether
    /// a server, by its position, can take one more right now.
    fn choose(&self, client: &Client<'_>, has_room: &dyn Fn(usize) -> bool) -> Option<usize>;

    /// The rule that says which servers `client` may have: its position in the configuration, and the positions of
    /// its servers. [`None`], unless this is written anew: any.
    fn rule(&self, client: &Client<'_>) -> Option<(usize, Vec<usize>)> {
        let _ = client;
        None
    }

    /// The pool of `server`, which was chosen for `client`: those that are as good. The objects of the client's
    /// page are spread over it where `offload.spread` is "object". [`None`], unless this is written anew: the
    /// whole page goes to the one server.
    fn pool(&self, client: &Client<'_>, server: usize) -> Option<usize> {
        let _ = (client, server);
        None
    }

    /// How many pools there are.
    fn pools(&self) -> usize {
        0
    }

    /// The servers of a pool, by their positions.
    fn members(&self, pool: usize) -> &[usize] {
        let _ = pool;
        &[]
    }

    /// The server of the pool that the object with this hash belongs to, of those that `may` have it: always
    /// the same one as long as they may.
    fn place(&self, pool: usize, object: u64, may: &dyn Fn(usize) -> bool) -> Option<usize> {
        let _ = (pool, object, may);
        None
    }

    /// Names all that [`place`](Self::place) goes by: where it is the same, so is every object's server.
    fn version(&self, pool: usize) -> u64 {
        let _ = pool;
        0
    }
}

/// The choice that the configuration describes.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
    by_price: bool,
    by_room: bool,
    /// What of the tables does not change with the servers' states. Written by the control loop.
    layouts: Arc<Mutex<Vec<Arc<Layout>>>>,
}

// === impl Policy ===

impl Policy {
    /// The policy of `criteria` and `rules` for the servers of these `names`.
    ///
    /// # Errors
    /// Every problem: an address, glob or server name that means nothing.
    pub fn new(
        criteria: &[Criterion],
        rules: &[ClientRuleSettings],
        names: &[&str],
    ) -> Result<Self, Vec<Problem>> {
        Self::of(criteria, rules, names, false)
    }

    /// The same where rules may also name servers that are not there yet.
    ///
    /// # Errors
    /// Every problem: an address or a glob that means nothing.
    pub fn while_more_may_come(
        criteria: &[Criterion],
        rules: &[ClientRuleSettings],
        names: &[&str],
    ) -> Result<Self, Vec<Problem>> {
        Self::of(criteria, rules, names, true)
    }

    fn of(
        criteria: &[Criterion],
        rules: &[ClientRuleSettings],
        names: &[&str],
        more_may_come: bool,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let compiled = rules
            .iter()
            .enumerate()
            .map(|(index, rule)| {
                Rule::new(
                    rule,
                    &format!("offload.clients[{index}]"),
                    names,
                    more_may_come,
                    &mut problems,
                )
            })
            .collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let position = |wanted| criteria.iter().position(|criterion| *criterion == wanted);
        let (price, load) = (position(Criterion::Price), position(Criterion::Load));
        Ok(Self {
            rules: if criteria.contains(&Criterion::Client) {
                compiled
            } else {
                Vec::new()
            },
            by_price: price.is_some_and(|price| load.is_none_or(|load| price < load)),
            by_room: load.is_some(),
            layouts: Arc::default(),
        })
    }
}

impl Policy {
    /// The tables of those candidates that `allowed` names, first by rank, then cheapest first. Their layouts are taken from `known`
    /// where they are still right, and noted in `layouts`.
    fn tables(
        &self,
        candidates: &[Candidate],
        allowed: Option<&[usize]>,
        known: &[Arc<Layout>],
        layouts: &mut Vec<Arc<Layout>>,
    ) -> Vec<Table> {
        // Those that are not usable just now belong to the layout as well: it must not change when they go.
        let mut servers: Vec<usize> = (0..candidates.len())
            .filter(|index| allowed.is_none_or(|allowed| allowed.contains(index)))
            .collect();
        let price = |index: &usize| match self.by_price {
            true => candidates[*index].price.per_gigabyte(),
            false => 0.0,
        };
        let rank = |index: &usize| candidates[*index].rank;
        servers.sort_by(|a, b| rank(a).cmp(&rank(b)).then(price(a).total_cmp(&price(b))));
        let tiers = servers.chunk_by(|a, b| rank(a) == rank(b) && price(a) == price(b));
        let tables = tiers.map(|tier| {
            let mut members: Vec<Member> = tier
                .iter()
                .map(|index| Member::new(*index, &candidates[*index], self.by_room))
                .collect();
            members.sort_by_key(Member::key);
            let layout = known
                .get(layouts.len())
                .filter(|layout| layout.is_of(&members))
                .cloned()
                .unwrap_or_else(|| Arc::new(Layout::new(members)));
            let table = Table::new(&layout, candidates, self.by_room);
            layouts.push(layout);
            table
        });
        tables.flatten().collect()
    }
}

impl Select for Policy {
    fn prepare(&self, candidates: &[Candidate]) -> Box<dyn Choose> {
        // Every write leaves the value whole, so a panic of another thread has broken nothing.
        let mut known = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut layouts = Vec::with_capacity(known.len());
        let mut all = self.tables(candidates, None, &known, &mut layouts);
        let everyone = 0..all.len();
        let mut rules = Vec::with_capacity(self.rules.len());
        for rule in &self.rules {
            let from = all.len();
            all.extend(self.tables(candidates, Some(rule.servers()), &known, &mut layouts));
            rules.push((rule.clone(), from..all.len()));
        }
        *known = layouts;
        Box::new(Tables {
            all,
            everyone,
            rules,
        })
    }
}

/// For everyone and for every rule the tables, in the order in which they are asked. A pool is a table, by its position.
#[derive(Debug)]
struct Tables {
    all: Vec<Table>,
    everyone: Range<usize>,
    rules: Vec<(Rule, Range<usize>)>,
}

// === impl Tables ===

impl Tables {
    fn of(&self, client: &Client<'_>) -> Range<usize> {
        let rule = self.rules.iter().find(|(rule, _)| rule.matches(client));
        rule.map_or(&self.everyone, |(_, tables)| tables).clone()
    }
}

impl Choose for Tables {
    fn choose(&self, client: &Client<'_>, has_room: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.all[self.of(client)]
            .iter()
            .find_map(|table| table.choose(client.hash, has_room))
    }

    fn rule(&self, client: &Client<'_>) -> Option<(usize, Vec<usize>)> {
        let position = self
            .rules
            .iter()
            .position(|(rule, _)| rule.matches(client))?;
        Some((position, self.rules[position].0.servers().to_vec()))
    }

    fn pool(&self, client: &Client<'_>, server: usize) -> Option<usize> {
        self.of(client)
            .find(|pool| self.all[*pool].servers().contains(&server))
    }

    fn pools(&self) -> usize {
        self.all.len()
    }

    fn members(&self, pool: usize) -> &[usize] {
        self.all.get(pool).map_or(&[], Table::servers)
    }

    fn place(&self, pool: usize, object: u64, may: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.all.get(pool)?.choose(object, may)
    }

    fn version(&self, pool: usize) -> u64 {
        self.all.get(pool).map_or(0, Table::version)
    }
}

#[cfg(test)]
mod tests;
