//! Any page, cut anywhere, comes out the same; and a browser's parser sees moved URLs alone.
#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use overspill::rewrite::{Kinds, Page, Rewriter, Rules, Settings, Summary, Target};
use url::Url;

#[path = "../../tests/rewrite/oracle.rs"]
mod oracle;

const PREFIX: &str = "https://eu.offload.example/p";

static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    let settings = Settings { include: vec!["**".into()], ..Settings::default() };
    Arc::new(Rules::new(&settings).expect("the rules are sound"))
});

fn page() -> Page {
    Page::new(false, "h", "/d/page", Arc::default()).expect("the page has a URL")
}

fn rewrite<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, cors: bool) -> (BytesMut, Summary) {
    let url = Url::parse(PREFIX).expect("the prefix is a URL");
    let target = Target::new("eu", &url, cors).expect("the prefix can be one");
    let mut rewriter = Rewriter::new(RULES.clone(), page(), Arc::new(target), Kinds::ALL);
    let mut out = BytesMut::new();
    for chunk in chunks {
        rewriter.push(chunk, &mut out);
    }
    let summary = rewriter.finish(&mut out);
    (out, summary)
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (cut, cors, html) = input;
    let (whole, summary) = rewrite([html], cors);
    let (pieces, again) = rewrite(html.chunks(usize::from(cut).max(1)), cors);
    assert_eq!(whole, pieces);
    assert_eq!(summary, again);
    oracle::assert_only_urls_moved(html, &whole);
});
