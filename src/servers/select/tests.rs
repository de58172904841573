use super::{super::hash::mix, *};

fn candidates(count: usize) -> Vec<Candidate> {
    (0..count)
        .map(|index| Candidate {
            name: format!("server-{index}"),
            usable: true,
            rank: 0,
            price: Price::default(),
            room: 1.0,
            most: 1.0,
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
fn free_room_decides_how_many() {
    let mut servers = candidates(2);
    (servers[0].room, servers[0].most) = (3.0, 3.0);
    servers[1].most = 2.0;
    let choices = choices(&*policy(&ALL, &[]).prepare(&servers), 20_000);
    let first = choices.iter().filter(|choice| **choice == Some(0)).count();
    assert!((first as i32 - 15_000).abs() < 400, "{first} of 20000");
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
fn the_lowest_rank_is_taken_whatever_it_costs() {
    let mut servers = candidates(4);
    for (server, (rank, price)) in servers
        .iter_mut()
        .zip([(1, 0.0), (0, 0.5), (0, 0.1), (2, 0.0)])
    {
        (server.rank, server.price) = (rank, Price::new(price).unwrap());
    }
    let choose = policy(&ALL, &[]).prepare(&servers);
    let mut gone = Vec::new();
    for next in [2, 1, 0, 3] {
        let chosen = choose.choose(&client(1), &|server| !gone.contains(&server));
        assert_eq!(chosen, Some(next));
        gone.push(next);
    }
}

#[test]
fn a_rule_for_a_server_that_is_not_there_yet_gives_nobody_and_waits_for_it() {
    let rules = [ClientRuleSettings {
        identity: Some("gold".to_owned()),
        servers: vec!["to-come".to_owned()],
        ..ClientRuleSettings::default()
    }];
    let gold = Client {
        identity: Some("gold"),
        ..client(1)
    };
    let chosen = |names: &[&str]| {
        let policy = Policy::while_more_may_come(&ALL, &rules, names).unwrap();
        let mut servers = candidates(names.len());
        for (server, name) in servers.iter_mut().zip(names) {
            server.name = (*name).to_owned();
        }
        let choose = policy.prepare(&servers);
        choose.choose(&gold, &|_| true)
    };
    assert_eq!(chosen(&["server-0"]), None);
    assert_eq!(chosen(&["server-0", "to-come"]), Some(1));
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
    let problems = Policy::new(&ALL, &[rule, ClientRuleSettings::default()], &["eu"]).unwrap_err();
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

/// Servers of many sizes, each with some of its room free.
fn pool() -> impl proptest::strategy::Strategy<Value = Vec<Candidate>> {
    use proptest::prelude::*;
    let server = (1u32..20, 1u32..=32, proptest::bool::weighted(0.9));
    proptest::collection::vec(server, 2..40).prop_map(|servers| {
        let mut candidates = candidates(servers.len());
        for (candidate, (most, free, usable)) in candidates.iter_mut().zip(servers) {
            candidate.most = f64::from(most);
            candidate.room = f64::from(most * free) / 32.0;
            candidate.usable = usable;
        }
        candidates
    })
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(48))]

    #[test]
    fn when_a_server_goes_only_its_own_visitors_move_and_they_come_back(mut servers in pool(), gone: proptest::sample::Index) {
        let policy = policy(&ALL, &[]);
        let gone = gone.index(servers.len());
        servers[gone].usable = true;
        let before = choices(&*policy.prepare(&servers), 2_000);
        servers[gone].usable = false;
        let without = choices(&*policy.prepare(&servers), 2_000);
        for (before, after) in before.iter().zip(&without) {
            proptest::prop_assert_ne!(*after, Some(gone));
            if *before != Some(gone) {
                proptest::prop_assert_eq!(before, after);
            }
        }
        servers[gone].usable = true;
        proptest::prop_assert_eq!(choices(&*policy.prepare(&servers), 2_000), before);
    }

    #[test]
    fn when_a_servers_room_changes_visitors_go_to_it_or_leave_it(mut servers in pool(), which: proptest::sample::Index, free in 1u32..=32) {
        let policy = policy(&ALL, &[]);
        let which = which.index(servers.len());
        let room = servers[which].most * f64::from(free) / 32.0;
        let grows = room > servers[which].room;
        let before = choices(&*policy.prepare(&servers), 2_000);
        servers[which].room = room;
        for (before, after) in before.iter().zip(choices(&*policy.prepare(&servers), 2_000)) {
            if *before != after {
                proptest::prop_assert_eq!(if grows { after } else { *before }, Some(which));
            }
        }
    }

    #[test]
    fn a_version_tells_whether_objects_have_moved(mut servers in pool(), which: proptest::sample::Index, free in 1u32..=32) {
        let policy = policy(&ALL, &[]);
        let placed = |choose: &dyn Choose| -> Vec<_> {
            (0..4_000).map(|object| choose.place(0, mix(object), &|_| true)).collect()
        };
        servers[0].usable = true;
        let before = policy.prepare(&servers);
        let which = which.index(servers.len());
        servers[which].room = servers[which].most * f64::from(free) / 32.0;
        let after = policy.prepare(&servers);
        proptest::prop_assert!(before.members(0).contains(&0));
        if before.version(0) == after.version(0) {
            proptest::prop_assert_eq!(placed(&*before), placed(&*after));
        }
        if placed(&*before) != placed(&*after) {
            proptest::prop_assert_ne!(before.version(0), after.version(0));
        }
        let own = before.choose(&client(7), &|_| true).unwrap();
        proptest::prop_assert_eq!(before.pool(&client(7), own), Some(0));
    }

    #[test]
    fn where_anyone_is_usable_someone_is_chosen(servers in pool()) {
        let anyone = servers.iter().any(|server| server.usable);
        for choice in choices(&*policy(&ALL, &[]).prepare(&servers), 200) {
            proptest::prop_assert_eq!(choice.is_some(), anyone);
            proptest::prop_assert!(choice.is_none_or(|server| servers[server].usable));
        }
    }
}

#[test]
fn each_of_many_servers_gets_what_its_room_is_of_all_room() {
    let mut servers = candidates(1000);
    for (number, server) in servers.iter_mut().enumerate() {
        server.room = [1.0, 0.5][number % 2];
    }
    let mut counts = vec![0_i32; 1000];
    for choice in choices(&*policy(&ALL, &[]).prepare(&servers), 300_000) {
        counts[choice.unwrap()] += 1;
    }
    // 400 and 200 are due.
    for (number, count) in counts.iter().enumerate() {
        let due = [400, 200][number % 2];
        assert!((count - due).abs() * 2 < due, "{number}: {count}");
    }
    let all: i32 = counts.iter().step_by(2).sum();
    assert!((190_000..210_000).contains(&all), "{all}");
}

#[test]
fn the_last_ones_of_many_take_all() {
    let mut servers = candidates(1000);
    for server in &mut servers {
        server.usable = false;
    }
    (servers[7].usable, servers[700].usable) = (true, true);
    servers[7].room = 1.0 / 32.0;
    let choices = choices(&*policy(&ALL, &[]).prepare(&servers), 20_000);
    let few = choices.iter().filter(|choice| **choice == Some(7)).count();
    assert!(choices.iter().all(|choice| matches!(choice, Some(7 | 700))));
    assert!((600..2_000).contains(&few), "one part in 17: {few}");
}

#[test]
fn a_server_that_is_taken_out_of_the_list_moves_few_others() {
    let policy = policy(&ALL, &[]);
    let servers = candidates(20);
    let before = choices(&*policy.prepare(&servers), 10_000);
    let mut fewer = servers.clone();
    fewer.remove(3);
    let after = choices(&*policy.prepare(&fewer), 10_000);
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| {
            let (before, after) = (before.unwrap(), after.unwrap());
            before != 3 && servers[before].name != fewer[after].name
        })
        .count();
    assert!(moved < 1_000, "{moved} of 9500");
}

#[test]
fn a_full_pool_is_not_asked_for_ever() {
    let choose = policy(&ALL, &[]).prepare(&candidates(1000));
    let asked = std::cell::Cell::new(0);
    let none = choose.choose(&client(1), &|_| {
        asked.set(asked.get() + 1);
        false
    });
    assert_eq!(none, None);
    assert!(asked.get() < 100, "{}", asked.get());
}
