//! What a page becomes, seen from outside: fixtures, properties with a browser's parser as the oracle,
//! and pages that nobody should have written.

mod fixtures;
mod hostile;
mod oracle;
mod properties;
mod real;

use std::sync::Arc;

use bytes::BytesMut;
use overspill::rewrite::{Kinds, OwnHosts, Page, Rewriter, Rules, Settings, Summary, Target};
use url::Url;

/// The server that links are moved to in every test.
const PREFIX: &str = "https://eu.offload.example/p";

fn rules() -> Arc<Rules> {
    Arc::new(
        Rules::new(&Settings {
            exclude: vec!["excluded/**".into()],
            attributes: vec![
                "img:data-zoom".into(),
                "a:data-file".into(),
                "x-viewer:full".into(),
            ],
            ..Settings::default()
        })
        .unwrap(),
    )
}

fn page() -> Page {
    let hosts = Arc::new(OwnHosts::new(&["www.example.com"]).unwrap());
    Page::new(false, "127.0.0.1:8080", "/docs/guide/index.html", hosts).unwrap()
}

fn rewriter(cors: bool) -> Rewriter {
    let target = Target::new("eu", &Url::parse(PREFIX).unwrap(), cors).unwrap();
    Rewriter::new(rules(), page(), Arc::new(target), Kinds::ALL)
}

/// Rewrites `chunks` as one page.
fn rewrite<'a>(cors: bool, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Summary) {
    let mut rewriter = rewriter(cors);
    let mut out = BytesMut::new();
    for chunk in chunks {
        rewriter.push(chunk, &mut out);
    }
    let summary = rewriter.finish(&mut out);
    (out.to_vec(), summary)
}

/// Numbers that repeat where their seed does (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// Cuts `bytes` into chunks of up to `longest` bytes, some of them empty.
    fn chunks<'a>(&mut self, mut bytes: &'a [u8], longest: usize) -> Vec<&'a [u8]> {
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(self.below(longest + 1).min(bytes.len()));
            chunks.push(chunk);
            bytes = rest;
        }
        chunks
    }
}
