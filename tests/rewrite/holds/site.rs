//! The site of every test: one page, the rules, and the server that links are moved to.

use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use overspill::rewrite::{
    Allowance, OwnHosts, Page, Plan, Replay, Rewriter, Rules, Settings, Summary, Target,
};
use url::Url;

/// The server that links are moved to.
pub const PREFIX: &str = "https://eu.offload.example/p";

static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| rules_of(settings()));

/// Any path is that of an object, so that a fuzzer need not guess extensions.
static ANY: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    rules_of(Settings {
        include: vec!["**".into()],
        modules: true,
        ..settings()
    })
});

static TARGETS: LazyLock<[Arc<Target>; 2]> = LazyLock::new(|| {
    [false, true].map(|cors| {
        let url = Url::parse(PREFIX).expect("the prefix is a URL");
        Arc::new(Target::new("eu", &url, cors).expect("the prefix is a server's"))
    })
});

static HOSTS: LazyLock<Arc<OwnHosts>> =
    LazyLock::new(|| Arc::new(OwnHosts::new(&["www.example.com"]).expect("it is a name")));

pub fn settings() -> Settings {
    Settings {
        exclude: vec!["excluded/**".into()],
        attributes: vec![
            "img:data-zoom".into(),
            "a:data-file".into(),
            "x-viewer:full".into(),
        ],
        ..Settings::default()
    }
}

pub fn rules_of(settings: Settings) -> Arc<Rules> {
    Arc::new(Rules::new(&settings).expect("the rules are sound"))
}

/// Those of the fixtures: the default, with some attributes and an exception.
pub fn rules() -> Arc<Rules> {
    RULES.clone()
}

pub fn any_rules() -> Arc<Rules> {
    ANY.clone()
}

pub fn page() -> Page {
    page_over(false)
}

pub fn page_over(https: bool) -> Page {
    Page::new(
        https,
        "127.0.0.1:8080",
        "/docs/guide/index.html",
        HOSTS.clone(),
    )
    .expect("the page has a URL")
}

pub fn target(cors: bool) -> Arc<Target> {
    TARGETS[usize::from(cors)].clone()
}

pub fn allowance(cors: bool) -> Allowance {
    let target = target(cors);
    let kinds = target.kinds();
    Allowance::new(target, kinds)
}

pub fn rewriter(rules: Arc<Rules>, allowance: Allowance) -> Rewriter {
    Rewriter::allowing(rules, page(), allowance)
}

/// Rewrites `chunks` as one page.
pub fn rewrite<'a>(
    mut rewriter: Rewriter,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Summary) {
    let mut out = BytesMut::new();
    for chunk in chunks {
        rewriter.push(chunk, &mut out);
    }
    let summary = rewriter.finish(&mut out);
    (out.to_vec(), summary)
}

/// Edits `chunks` as one page, by `plan`.
pub fn replay<'a>(
    plan: Arc<Plan>,
    allowance: Allowance,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Summary) {
    let mut replay = Replay::new(plan, allowance);
    let mut out = BytesMut::new();
    for chunk in chunks {
        replay.push(chunk, &mut out);
    }
    let summary = replay.finish(&mut out);
    (out.to_vec(), summary)
}

/// Numbers that repeat where their seed does (xorshift).
pub struct Random(pub u64);

impl Random {
    /// As the input says: what it finds is found again.
    pub fn of(data: &[u8]) -> Self {
        let hash = data.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
        });
        Self(hash | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// Cuts `bytes` into chunks of up to `longest` bytes, some of them empty.
    pub fn chunks<'a>(&mut self, mut bytes: &'a [u8], longest: usize) -> Vec<&'a [u8]> {
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(self.below(longest + 1).min(bytes.len()));
            chunks.push(chunk);
            bytes = rest;
        }
        chunks
    }

    /// Cuts `bytes` in one way or another.
    pub fn cut<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let longest = [1, 7, 60, bytes.len()][self.below(4)];
        self.chunks(bytes, longest)
    }
}
