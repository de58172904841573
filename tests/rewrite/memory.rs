//! What a rewriter takes of memory, whatever the page's length: counted by the allocator, above the chunk in hand and
//! what has come out.

use std::sync::Arc;

use bytes::BytesMut;
use overspill::rewrite::{BailOut, Plan, Replay, Rewriter, Summary};

use super::{rewriter, site};

const KB: usize = 1024;
/// The most for a page of ordinary tags.
const BOUND: usize = 64 * KB;

/// Pages of ordinary tags, of about this length.
fn ordinary(length: usize) -> Vec<(&'static str, String)> {
    let css = "p > a { color: #123; margin: 0 auto }\n";
    [
        ("text", "some text ".to_owned()),
        ("paragraphs", "<p>some text</p>\n".to_owned()),
        ("images", "<p><img src=\"/a.png\" alt=x></p>\n".to_owned()),
        ("long links", format!("<img src=\"/a.png?{}\">\n", "x".repeat(2 * KB))),
        ("pictures", "<picture><source srcset=\"/a.webp, b.webp 2x\"><img src=\"/a.png\"></picture>".to_owned()),
        ("scripts", format!("<script src=/a.js></script><script>{}</script>", "f('<b>');\n".repeat(2_000))),
        ("styles", "<style>p{background:url(/a.png)}</style><p style=\"background:url(b.png)\">x</p>".to_owned()),
        (
            "long styles",
            format!(
                "<style>{}{}</style>",
                css.repeat(30 * KB / css.len()),
                "i{background:url(/a.png)}".repeat(20)
            ),
        ),
        ("pictures in text", format!("<img src=\"data:image/png;base64,{}\">", "A".repeat(8 * KB))),
        ("svg", "<svg viewBox='0 0 1 1'><title>x</title><path d='M0 0'/><image href=a.png /></svg>".to_owned()),
        ("comments", format!("<!-- {} --><p>x</p>", "<img src=/a.png>".repeat(1_000))),
        ("depth", "<div>".repeat(100) + "<img src=/a.png>" + &"</div>".repeat(100)),
        ("lists", format!("<ul>{}</ul>", "<li>one<p>more".repeat(50))),
        ("tables", format!("<table>{}</table>", "<tr><td>a</td><td background=b.png>b</td></tr>".repeat(50))),
        ("forms", "<form><input type=image src=/a.png><select><option>a<option>b</select></form>".to_owned()),
        ("medias", "<video src=a.mp4 poster=b.jpg crossorigin><source src=c.webm><track src=d.vtt></video>".to_owned()),
    ]
    .into_iter()
    .map(|(name, part)| (name, part.repeat(length / part.len() + 1)))
    .collect()
}

/// The most bytes that are held at a time while `push` takes `page` chunk by chunk.
fn peak(
    page: &[u8],
    chunk: usize,
    work: impl FnOnce(&mut dyn FnMut(&mut dyn FnMut(&[u8], &mut BytesMut))),
) -> usize {
    let room = 8 * 1024 * KB;
    let mut out = BytesMut::with_capacity(room);
    let used = allocation_counter::measure(|| {
        work(&mut |push| {
            for chunk in page.chunks(chunk) {
                push(chunk, &mut out);
                assert!(out.capacity() <= room, "what comes out has its place");
                out.clear();
            }
        });
    });
    used.bytes_max as usize
}

/// What a rewriter takes for a page.
fn taken(make: impl FnOnce() -> Rewriter, page: &str, chunk: usize) -> (usize, Summary) {
    let mut summary = Summary::default();
    let bytes = peak(page.as_bytes(), chunk, |feed| {
        let mut rewriter = make();
        feed(&mut |chunk, out| rewriter.push(chunk, out));
        summary = rewriter.finish(&mut BytesMut::new());
    });
    (bytes, summary)
}

/// What is set up once for all pages is none of theirs.
fn warm_up() {
    let page = "<p><img src=/a.png><style>p{background:url(a.png)}</style>";
    let _ = taken(|| rewriter(true), page, 7);
}

#[test]
fn a_page_of_ordinary_tags_takes_at_most_64_kb_whatever_its_length() {
    warm_up();
    let mut too_much = Vec::new();
    for (length, chunk) in [(100 * KB, KB), (100 * KB, 64 * KB), (500 * KB, 16 * KB)] {
        for (name, page) in ordinary(length) {
            let (bytes, summary) = taken(|| rewriter(true), &page, chunk);
            assert_eq!(summary.bail_out, None, "{name}");
            if bytes > BOUND {
                too_much.push((name, length, chunk, bytes));
            }
        }
    }
    assert_eq!(too_much, []);
}

#[test]
fn a_page_by_its_plan_takes_at_most_64_kb_whatever_its_length() {
    warm_up();
    for (name, page) in ordinary(300 * KB) {
        let plan = Plan::scan_stream(site::rules(), site::page(), page.as_bytes());
        let plan = Arc::new(plan.expect("it has few edits"));
        let bytes = peak(page.as_bytes(), 16 * KB, |feed| {
            let mut replay = Replay::new(plan, site::allowance(true));
            feed(&mut |chunk, out| replay.push(chunk, out));
            replay.finish(&mut BytesMut::new());
        });
        assert!(bytes <= BOUND, "{name}: {bytes}");
    }
}

#[test]
fn what_never_ends_is_let_go() {
    warm_up();
    let mut pages = vec![
        ("a style", "<style>".to_owned(), "p{background:url(/a.png)}"),
        (
            "a picture",
            "<picture><source srcset=/a.png>".to_owned(),
            "<p>x</p>",
        ),
        ("a script", "<script>".to_owned(), "x"),
        ("a comment", "<!--".to_owned(), "x"),
        ("CDATA", "<svg><![CDATA[".to_owned(), "x"),
        ("a title", "<title>".to_owned(), "x<b>"),
    ];
    for (name, start, more) in pages.drain(..) {
        let page = start + &more.repeat(2000 * KB / more.len());
        let (bytes, _) = taken(|| rewriter(true), &page, 16 * KB);
        assert!(bytes <= BOUND, "{name}: {bytes}");
    }
}

#[test]
fn a_tag_that_never_ends_is_let_go_at_256_kb() {
    warm_up();
    let start = "<img src=\"/a.png\"><p title=\"";
    let page = start.to_owned() + &"x".repeat(5000 * KB) + "\"><img src=/b.png>";
    let (bytes, summary) = taken(|| rewriter(true), &page, 16 * KB);
    assert_eq!(
        (summary.bail_out, summary.links),
        (Some(BailOut::TagSize), 1)
    );
    // Once, and a second time while the scanner makes room for more.
    assert!(bytes <= 2 * 256 * KB + BOUND, "{bytes}");
    let (mut rewriter, mut out) = (rewriter(true), BytesMut::new());
    rewriter.push(&page.as_bytes()[..300 * KB], &mut out);
    assert!(out.len() > 300 * KB, "what was held is out");
}

#[test]
fn a_long_tag_takes_what_it_is_long_and_what_it_holds() {
    warm_up();
    let long = |before: &str, part: &str, after: &str| {
        let value = part.repeat(200 * KB / part.len());
        format!("<p>x</p>{before}{value}{after}<p>x</p>").repeat(3)
    };
    for (name, page, bound) in [
        // The scanner's copy, and a second one while it grows.
        (
            "a picture",
            long("<img src=\"data:image/png;base64,", "A", "\">"),
            600 * KB,
        ),
        ("a title", long("<p title=\"", "x", "\">"), 600 * KB),
        // An edit for each link, …
        (
            "a srcset",
            long("<img srcset=\"", "/a/picture-of-a-place.png 1600w, ", "\">"),
            3000 * KB,
        ),
        // … a place for each attribute.
        (
            "attributes",
            long("<p ", "data-x=\"some text\" ", ">"),
            3000 * KB,
        ),
    ] {
        let (bytes, summary) = taken(|| rewriter(true), &page, 16 * KB);
        assert_eq!(summary.bail_out, None, "{name}");
        assert!(bytes <= bound, "{name}: {bytes}");
    }
}

#[test]
fn end_tags_may_be_left_out_of_32000_elements() {
    warm_up();
    let rows = "<tr><td>a<td>b<td><img src=/a.png>\n".repeat(8_000);
    let page = format!("<table>{rows}</table><img src=/b.png>");
    let (bytes, summary) = taken(|| rewriter(true), &page, 16 * KB);
    assert_eq!((summary.bail_out, summary.links), (None, 8_001));
    assert!(bytes <= 6_000 * KB, "{bytes}");
    // Then the page goes on as it came, and the memory is given back.
    for page in ["<p>x\n".repeat(200_000), "<svg>".repeat(200_000)] {
        let (bytes, summary) = taken(|| rewriter(true), &page, 16 * KB);
        assert_eq!(summary.bail_out, Some(BailOut::Memory));
        assert!(bytes <= 16_000 * KB, "{bytes}");
    }
}

#[test]
fn a_plan_that_grows_too_large_is_given_up() {
    warm_up();
    let page = "<img src=\"/a.png\">".repeat(60_000);
    let mut plan = None;
    let bytes = peak(page.as_bytes(), 16 * KB, |feed| {
        let mut rewriter = rewriter(true).recording();
        feed(&mut |chunk, out| rewriter.push(chunk, out));
        rewriter.finish(&mut BytesMut::new());
        plan = rewriter.take_plan();
    });
    assert!(plan.is_none());
    // 2 MB as it counts itself, and room to grow.
    assert!(bytes <= 6_000 * KB + BOUND, "{bytes}");
}
