//! A plan gives what a scan does, for every server, however the page comes; and of another page under the same
//! plan, a part is edited as a scan would, and the rest goes out as it came.
//!
//! The input is a page; behind the byte 0x1E, the other one. Without it, the other page is the same one, damaged.

use std::sync::Arc;

use overspill::rewrite::{Allowance, Kind, Kinds, Plan, Private};

use super::{
    oracle,
    site::{self, Random},
};

pub fn plan(data: &[u8]) {
    let mut random = Random::of(data);
    let (page, other) = match data.iter().position(|byte| *byte == 0x1E) {
        Some(at) => (&data[..at], data[at + 1..].to_vec()),
        None => (data, damaged(data, &mut random)),
    };
    let scanned = Plan::scan(site::any_rules(), site::page(), page);
    let allowance = some_allowance(&mut random, scanned.as_ref());
    let scan = |allowance: &Allowance, page: &[u8]| {
        site::rewrite(site::rewriter(site::any_rules(), allowance.clone()), [page])
    };
    let (expected, summary) = scan(&allowance, page);

    let recorded = {
        let rewriter = site::rewriter(site::any_rules(), site::allowance(random.below(2) == 0));
        let mut rewriter = rewriter.recording();
        let mut out = bytes::BytesMut::new();
        for chunk in random.cut(page) {
            rewriter.push(chunk, &mut out);
        }
        rewriter.finish(&mut out);
        rewriter.take_plan()
    };
    let ahead = Plan::scan_stream(site::any_rules(), site::page(), page);
    for plan in [&scanned, &ahead, &recorded].into_iter().flatten() {
        assert_eq!(plan.bail_out(), summary.bail_out);
        match plan.splice(page, &allowance) {
            Some((spliced, links)) => {
                assert!(spliced == expected, "spliced, it is another page");
                assert_eq!(links, summary.links);
            }
            None => assert!(expected == page && summary.links == 0),
        }
    }
    let (whole, _) = scan(&allowance, &other);
    for plan in [ahead, recorded].into_iter().flatten().map(Arc::new) {
        let (replayed, again) = site::replay(plan.clone(), allowance.clone(), random.cut(page));
        assert!(replayed == expected, "replayed, it is another page");
        assert_eq!(
            (again.links, again.objects),
            (summary.links, summary.objects.clone())
        );

        let (mixed, _) = site::replay(plan, allowance.clone(), random.cut(&other));
        if !oracle::counts_likes(&other) {
            oracle::assert_only_urls_moved(&other, &mixed);
        }
        let same = whole.iter().zip(&mixed).take_while(|(a, b)| a == b).count();
        assert!(
            other.ends_with(&mixed[same..]),
            "what follows the edits is not what came: {:?} became {:?}, not {:?}",
            String::from_utf8_lossy(&other),
            String::from_utf8_lossy(&mixed),
            String::from_utf8_lossy(&whole)
        );
    }
}

/// A server, what may move there, and an object that may not.
fn some_allowance(random: &mut Random, plan: Option<&Plan>) -> Allowance {
    let target = site::target(random.below(2) == 0);
    let all = random.below(2) == 0;
    let mut some = || all || random.below(4) > 0;
    let mut kinds: Kinds = Kind::ALL.into_iter().filter(|_| some()).collect();
    if kinds.is_empty() {
        kinds = kinds.with(Kind::Image);
    }
    let private = Private::default();
    let objects = plan.map_or(&[][..], Plan::objects);
    if !objects.is_empty() && random.below(2) == 0 {
        private.remember(objects[random.below(objects.len())]);
    }
    Allowance::new(target, kinds).with_private(Arc::new(private))
}

/// A page with some bytes gone, or others in their place.
fn damaged(page: &[u8], random: &mut Random) -> Vec<u8> {
    let mut damaged = page.to_vec();
    let from = random.below(page.len() + 1);
    let until = (from + random.below(9)).min(page.len());
    let instead: &[u8] = [
        b"".as_slice(),
        b"x",
        b"<",
        b"\"",
        b"'",
        b">",
        b"<base href=/b/>",
    ][random.below(7)];
    damaged.splice(from..until, instead.iter().copied());
    damaged
}
