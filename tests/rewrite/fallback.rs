//! Where the fallback script stands in a page.

use std::sync::Arc;

use bytes::BytesMut;
use overspill::rewrite::{Allowance, Kinds, Rewriter, Rules, Settings, Target};
use url::Url;

use super::site::page;

const SCRIPT: &str =
    "<script src=\"/fallback.js\" data-from=\"https://eu.offload.example/p\"></script>";

/// The page with a mark where the script stands, and without the prefix of what moved.
fn placed(html: &str) -> String {
    let settings = Settings {
        fallback: true,
        ..Settings::default()
    };
    let target = Url::parse("https://eu.offload.example/p").unwrap();
    let target = Arc::new(Target::new("eu", &target, true).unwrap());
    let allowance =
        Allowance::new(target, Kinds::ALL).with_fallback(Some(Arc::from("/fallback.js")));
    let rules = Arc::new(Rules::new(&settings).unwrap());
    let mut rewriter = Rewriter::allowing(rules, page(), allowance);
    let mut out = BytesMut::new();
    rewriter.push(html.as_bytes(), &mut out);
    rewriter.finish(&mut out);
    let out = String::from_utf8(out.to_vec()).unwrap();
    out.replace(SCRIPT, "^")
        .replace("https://eu.offload.example/p", "")
}

#[test]
fn the_script_stands_in_front_of_the_first_moved_link() {
    for expected in [
        "<title>x</title><a href=/x>x</a>^<link rel=stylesheet href=/a.css><img src=/b.png>",
        "^<body background=/a.png><img src=/b.png>",
        "<picture>^<source srcset=/a.png><img src=/b.png></picture>",
        "<table><tr>^<td background=/a.png>x</table>",
        "<p>x</p>^<p style='background:url(/a.png)'>x</p>",
    ] {
        assert_eq!(placed(&expected.replace('^', "")), expected);
    }
}

#[test]
fn the_script_stands_where_it_can_run() {
    for expected in [
        "<template><img src=/a.png></template>^<img src=/b.png>",
        "<svg><image href=/a.png /></svg><p>x</p>^<img src=/b.png>",
        "<svg><image href=/a.png /></svg><p>x</p>^<img alt=x>",
        "<svg><image href=/a.png /></svg><p data-overspill=off><img src=/b.png></p>^<img src=/c.png>",
    ] {
        assert_eq!(placed(&expected.replace('^', "")), expected);
    }
}

#[test]
fn a_page_gets_the_script_only_for_what_moves_and_where_it_may_run() {
    for html in [
        "<link rel=canonical href=/a.css><img src=data:x><a href=/b.png>x</a>",
        "<svg><image href=/a.png /></svg>",
        "<base href=http://other.example/><img src=http://127.0.0.1:8080/a.png>",
        "<meta http-equiv=content-security-policy content=\"script-src 'nonce-x'\"><img src=/a.png>",
        "<meta http-equiv=content-security-policy content=\"img-src *; script-src 'none'\"><img src=/a.png>",
    ] {
        assert!(!placed(html).contains('^'), "{html}");
    }
    let html = "<base href=/docs/><meta http-equiv=content-security-policy content=\"img-src *; script-src 'self'\">\
                <img src=/a.png>";
    assert!(placed(html).contains("^<img"), "{}", placed(html));
}
