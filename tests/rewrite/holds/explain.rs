//! Any page: what is explained is what happens.

use overspill::rewrite::explain as explain_page;

use super::site;

pub fn explain(page: &[u8]) {
    let (findings, bail_out) = explain_page(site::any_rules(), site::page(), page);
    for cors in [true, false] {
        let rewriter = site::rewriter(site::any_rules(), site::allowance(cors));
        let (_, summary) = site::rewrite(rewriter, [page]);
        let target = site::target(cors);
        let moves = findings.iter().filter(|finding| {
            finding.stays().is_none() && finding.refused_by(&target, target.kinds()).is_none()
        });
        assert_eq!(moves.count() as u32, summary.links, "cors: {cors}");
        // It looks at more elements, and may be in doubt about one that nothing hangs on.
        assert!(summary.bail_out.is_none() || bail_out == summary.bail_out);
    }
    for finding in &findings {
        assert!(!finding.element.is_empty() && !finding.attribute.is_empty());
        let moves = finding.stays().is_none();
        assert!(!moves || finding.resolved.is_some());
    }
}
