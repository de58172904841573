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
//! a server's cache stay together: [weighted rendezvous hashing] over a table of slots, made whenever the
//! servers' states change. Choosing is one look into the table, however many servers there are, and when a
//! server goes only its own visitors move. `load` never means "the emptiest": every visitor until the next
//! report would go there.
//!
//! [weighted rendezvous hashing]: https://en.wikipedia.org/wiki/Rendezvous_hashing#Weighted_variations

use std::{fmt, net::IpAddr};

use globset::{Glob, GlobMatcher};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::hash::mix;
use crate::{problem::Problem, units::Price};

/// Slots of a table: enough that a server's part is met within a percent or so.
const SLOTS: usize = 1021;
/// Free room counts in steps, so that a table changes only when the room did.
const ROOM_STEPS: f64 = 16.0;

/// `offload.select`: one criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criterion {
    /// Rules for the client's address and identity.
    Client,
    /// The price of a gigabyte.
    Price,
    /// The free room.
    Load,
}

/// `[[offload.clients]]`: which servers are for whom.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientRuleSettings {
    /// Networks or addresses of clients. Empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// A glob on the client's identity. A plain cookie can be forged: see `offload.identity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The names of the servers.
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
    /// Its price.
    pub price: Price,
    /// How much more it can take, in any unit that is the same for all candidates.
    pub room: f64,
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
}

/// The choice that the configuration describes.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
    by_price: bool,
    by_room: bool,
}

#[derive(Debug, Clone)]
struct Rule {
    addresses: Vec<IpNet>,
    identity: Option<GlobMatcher>,
    servers: Vec<usize>,
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
        let mut problems = Vec::new();
        let compiled = rules
            .iter()
            .enumerate()
            .map(|(index, rule)| {
                Rule::new(
                    rule,
                    &format!("offload.clients[{index}]"),
                    names,
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
        })
    }
}

impl Select for Policy {
    fn prepare(&self, candidates: &[Candidate]) -> Box<dyn Choose> {
        let pool = |allowed: Option<&[usize]>| {
            let mut usable: Vec<usize> = (0..candidates.len())
                .filter(|index| candidates[*index].usable)
                .filter(|index| allowed.is_none_or(|allowed| allowed.contains(index)))
                .collect();
            if self.by_price {
                usable.sort_by(|a, b| {
                    candidates[*a]
                        .price
                        .per_gigabyte()
                        .total_cmp(&candidates[*b].price.per_gigabyte())
                });
            }
            usable
                .chunk_by(|a, b| !self.by_price || candidates[*a].price == candidates[*b].price)
                .map(|tier| Table::new(tier, candidates, self.by_room))
                .collect()
        };
        Box::new(Tables {
            everyone: pool(None),
            rules: self
                .rules
                .iter()
                .map(|rule| (rule.clone(), pool(Some(&rule.servers))))
                .collect(),
        })
    }
}

// === impl Rule ===

impl Rule {
    fn new(
        settings: &ClientRuleSettings,
        key: &str,
        names: &[&str],
        problems: &mut Vec<Problem>,
    ) -> Self {
        if settings.addresses.is_empty() && settings.identity.is_none() {
            problems.push(Problem::new(key, "must have `addresses` or `identity`"));
        }
        if settings.servers.is_empty() {
            problems.push(Problem::new(
                format!("{key}.servers"),
                "must name at least one server",
            ));
        }
        Self {
            addresses: networks(&settings.addresses, &format!("{key}.addresses"), problems),
            identity: settings
                .identity
                .as_ref()
                .and_then(|glob| match Glob::new(glob) {
                    Ok(glob) => Some(glob.compile_matcher()),
                    Err(error) => {
                        problems.push(Problem::new(
                            format!("{key}.identity"),
                            format_args!("must be a glob such as \"gold-*\": {error}"),
                        ));
                        None
                    }
                }),
            servers: settings
                .servers
                .iter()
                .enumerate()
                .filter_map(|(index, wanted)| {
                    let found = names.iter().position(|name| name == wanted);
                    if found.is_none() {
                        problems.push(Problem::new(
                            format!("{key}.servers[{index}]"),
                            format_args!(
                                "must name one of `offload.servers` ({}), found {wanted:?}",
                                names.join(", ")
                            ),
                        ));
                    }
                    found
                })
                .collect(),
        }
    }

    fn matches(&self, client: &Client<'_>) -> bool {
        let address = self.addresses.is_empty()
            || client.address.is_some_and(|address| {
                self.addresses
                    .iter()
                    .any(|network| network.contains(&address))
            });
        let identity = self.identity.as_ref().is_none_or(|glob| {
            client
                .identity
                .is_some_and(|identity| glob.is_match(identity))
        });
        address && identity
    }
}

/// Reads networks such as `203.0.113.0/24`; a bare address is the network of itself alone.
pub fn networks(texts: &[String], key: &str, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    texts
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let network = text
                .parse()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network
                .map_err(|_| {
                    problems.push(Problem::new(
                        format!("{key}[{index}]"),
                        format_args!("must be a network such as \"203.0.113.0/24\" or an address, found {text:?}"),
                    ));
                })
                .ok()
        })
        .collect()
}

/// For everyone and for every rule the tables, cheapest first.
#[derive(Debug)]
struct Tables {
    everyone: Vec<Table>,
    rules: Vec<(Rule, Vec<Table>)>,
}

/// Servers of one price.
#[derive(Debug)]
struct Table {
    servers: Vec<usize>,
    /// Positions in `servers`.
    slots: Box<[u16]>,
}

// === impl Tables ===

impl Choose for Tables {
    fn choose(&self, client: &Client<'_>, has_room: &dyn Fn(usize) -> bool) -> Option<usize> {
        let tables = self
            .rules
            .iter()
            .find(|(rule, _)| rule.matches(client))
            .map_or(&self.everyone, |(_, tables)| tables);
        tables
            .iter()
            .find_map(|table| table.choose(client.hash, has_room))
    }
}

// === impl Table ===

impl Table {
    fn new(servers: &[usize], candidates: &[Candidate], by_room: bool) -> Self {
        let greatest = servers
            .iter()
            .map(|index| candidates[*index].room)
            .fold(0.0, f64::max);
        let weights: Vec<f64> = servers
            .iter()
            .map(|index| {
                if by_room && greatest > 0.0 {
                    (candidates[*index].room / greatest * ROOM_STEPS)
                        .ceil()
                        .max(1.0)
                } else {
                    1.0
                }
            })
            .collect();
        // A server's own hash is of its name, so that a change of the list moves nobody else's visitors.
        let names: Vec<u64> = servers
            .iter()
            .map(|index| super::hash::bytes(candidates[*index].name.as_bytes()))
            .collect();
        let winner = |slot: usize| {
            let score = |position: usize| {
                let hash = mix(names[position] ^ mix(slot as u64));
                // In (0, 1): the logarithm is finite and below 0.
                let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
                -weights[position] / unit.ln()
            };
            (0..servers.len())
                .max_by(|a, b| score(*a).total_cmp(&score(*b)))
                .unwrap_or(0) as u16
        };
        let slots = if servers.len() > 1 {
            (0..SLOTS).map(winner).collect()
        } else {
            Box::default()
        };
        Self {
            servers: servers.to_vec(),
            slots,
        }
    }

    /// The client's own slot; where that server is full, the next slots by further hashes (bounded loads);
    /// at last anyone who has room.
    fn choose(&self, hash: u64, has_room: &dyn Fn(usize) -> bool) -> Option<usize> {
        const TRIES: u64 = 8;
        let by_slot = (0..TRIES).filter_map(|attempt| {
            let slot = (mix(hash.wrapping_add(attempt)) % SLOTS as u64) as usize;
            let position = usize::from(*self.slots.get(slot)?);
            self.servers.get(position).copied()
        });
        by_slot
            .chain(self.servers.iter().copied())
            .find(|server| has_room(*server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(count: usize) -> Vec<Candidate> {
        (0..count)
            .map(|index| Candidate {
                name: format!("server-{index}"),
                usable: true,
                price: Price::default(),
                room: 1.0,
            })
            .collect()
    }

    fn policy(criteria: &[Criterion], rules: &[ClientRuleSettings]) -> Policy {
        Policy::new(
            criteria,
            rules,
            &["server-0", "server-1", "server-2", "server-3"],
        )
        .unwrap()
    }

    fn client(number: u64) -> Client<'static> {
        Client {
            hash: mix(number),
            address: None,
            identity: None,
        }
    }

    fn choices(choose: &dyn Choose, count: u64) -> Vec<Option<usize>> {
        (0..count)
            .map(|n| choose.choose(&client(n), &|_| true))
            .collect()
    }

    const ALL: [Criterion; 3] = [Criterion::Client, Criterion::Price, Criterion::Load];

    #[test]
    fn when_a_server_goes_only_its_own_visitors_move_and_they_come_back() {
        let policy = policy(&ALL, &[]);
        let mut servers = candidates(4);
        let before = choices(&*policy.prepare(&servers), 10_000);
        servers[2].usable = false;
        let without = choices(&*policy.prepare(&servers), 10_000);
        for (before, after) in before.iter().zip(&without) {
            assert_ne!(*after, Some(2));
            if *before != Some(2) {
                assert_eq!(before, after);
            }
        }
        servers[2].usable = true;
        assert_eq!(choices(&*policy.prepare(&servers), 10_000), before);
    }

    #[test]
    fn free_room_decides_how_many() {
        let mut servers = candidates(2);
        servers[0].room = 3.0;
        let choices = choices(&*policy(&ALL, &[]).prepare(&servers), 20_000);
        let first = choices.iter().filter(|choice| **choice == Some(0)).count();
        // 16 steps against ceil(16 / 3) = 6.
        let expected = 20_000.0 * 16.0 / 22.0;
        assert!(
            (first as f64 - expected).abs() < 1_200.0,
            "{first} of 20000"
        );
    }

    #[test]
    fn the_cheapest_with_room_is_taken() {
        let mut servers = candidates(3);
        servers[0].price = Price::new(0.05).unwrap();
        servers[1].price = Price::new(0.01).unwrap();
        servers[2].price = Price::new(0.02).unwrap();
        let choose = policy(&ALL, &[]).prepare(&servers);
        assert!(
            choices(&*choose, 100)
                .iter()
                .all(|choice| *choice == Some(1))
        );
        assert_eq!(choose.choose(&client(1), &|server| server != 1), Some(2));
        assert_eq!(choose.choose(&client(1), &|server| server == 0), Some(0));
        assert_eq!(choose.choose(&client(1), &|_| false), None);
    }

    #[test]
    fn a_price_named_after_the_load_decides_nothing() {
        let mut servers = candidates(2);
        servers[0].price = Price::new(0.05).unwrap();
        let choose = policy(&[Criterion::Load, Criterion::Price], &[]).prepare(&servers);
        assert!(choices(&*choose, 100).contains(&Some(0)));
    }

    #[test]
    fn rules_say_which_servers_are_for_whom() {
        let rules = [
            ClientRuleSettings {
                addresses: vec!["203.0.113.0/24".to_owned()],
                servers: vec!["server-3".to_owned()],
                ..ClientRuleSettings::default()
            },
            ClientRuleSettings {
                identity: Some("gold-*".to_owned()),
                servers: vec!["server-1".to_owned()],
                ..ClientRuleSettings::default()
            },
        ];
        let choose = policy(&ALL, &rules).prepare(&candidates(4));
        let with = |address: &str, identity| {
            let client = Client {
                address: address.parse().ok(),
                identity,
                ..client(7)
            };
            choose.choose(&client, &|_| true)
        };
        assert_eq!(
            with("203.0.113.9", Some("gold-1")),
            Some(3),
            "the first rule that matches"
        );
        assert_eq!(with("198.51.100.9", Some("gold-1")), Some(1));
        let anyone = with("198.51.100.9", Some("iron-1"));
        assert_eq!(anyone, choose.choose(&client(7), &|_| true));
    }

    #[test]
    fn a_full_server_is_passed_over_for_another() {
        let choose = policy(&ALL, &[]).prepare(&candidates(4));
        for number in 0..1000 {
            let own = choose.choose(&client(number), &|_| true).unwrap();
            let other = choose
                .choose(&client(number), &|server| server != own)
                .unwrap();
            assert_ne!(own, other);
        }
        assert_eq!(choose.choose(&client(1), &|server| server == 2), Some(2));
    }

    #[test]
    fn nobody_is_chosen_where_nobody_is_usable() {
        let mut servers = candidates(2);
        servers.iter_mut().for_each(|server| server.usable = false);
        assert_eq!(choices(&*policy(&ALL, &[]).prepare(&servers), 1), [None]);
        assert_eq!(choices(&*policy(&ALL, &[]).prepare(&[]), 1), [None]);
    }

    #[test]
    fn every_problem_of_a_rule_is_told() {
        let rule = ClientRuleSettings {
            addresses: vec!["everywhere".to_owned()],
            identity: Some("[".to_owned()),
            servers: vec!["mars".to_owned()],
        };
        let problems =
            Policy::new(&ALL, &[rule, ClientRuleSettings::default()], &["eu"]).unwrap_err();
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let text = text.join("\n");
        for part in [
            "`offload.clients[0].addresses[0]` must be a network",
            "`offload.clients[0].identity` must be a glob",
            "`offload.clients[0].servers[0]` must name one of `offload.servers` (eu), found \"mars\"",
            "`offload.clients[1]` must have",
            "`offload.clients[1].servers` must name",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
