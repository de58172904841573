//! A real site at level `offload`: the manual of Apache, served by the built program, its objects by a
//! real nginx. Parsed before and after, its pages differ in moved URLs alone, and what those lead to is
//! what the primary had.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use html5ever::{ParseOpts, parse_document, tendril::TendrilSink};
use markup5ever_rcdom::{Node, NodeData, RcDom};
use url::{Position, Url};

use crate::support::{config::Config, process::Nginx, program::Program, web::Client};

/// Debian's package apache2-doc.
const MANUAL: &str = "/usr/share/doc/apache2-doc/manual";

#[tokio::test]
#[ignore = "needs nginx and apache2-doc"]
async fn every_page_of_a_real_site_differs_in_moved_urls_alone() {
    let manual = Path::new(MANUAL);
    let nginx = Nginx::start(manual);
    let program = Program::serve(&Config::new(format!(
        "primary.site = {manual:?}\noffload.share = 1.0\n\
         offload.servers = [{{ name = \"nginx\", url = {:?}, cors = true }}]",
        nginx.url
    )))
    .await;
    program.until_usable("nginx", true).await;
    program.hold_level("offload").await;

    let client = Client::new();
    let pages = pages(manual);
    let mut moved = BTreeSet::new();
    let (mut rewritten, mut links) = (0, 0);
    for file in &pages {
        let before = fs::read(file).unwrap();
        let path = file.strip_prefix(manual).unwrap().display();
        let url = Url::parse(&format!("http://{}/{path}", program.site)).unwrap();
        let after = client.get(url.as_str()).await;
        assert_eq!(after.status, 200, "{url}");
        let mut comparison = Comparison {
            page: &url,
            server: &nginx.url,
            moved: Vec::new(),
        };
        comparison.walk(&parse(&before), &parse(&after.body));
        rewritten += usize::from(!comparison.moved.is_empty());
        links += comparison.moved.len();
        moved.extend(comparison.moved);
    }
    assert!(
        rewritten >= 200,
        "{rewritten} of {} pages in {MANUAL}",
        pages.len()
    );

    for url in &moved {
        let got = client.get(url).await;
        assert_eq!(got.status, 200, "{url}");
        let path = url
            .strip_prefix(&nginx.url)
            .unwrap()
            .trim_start_matches('/');
        assert!(
            got.body == fs::read(manual.join(path)).unwrap(),
            "{url}: other bytes"
        );
    }
    println!(
        "{rewritten} of {} pages rewritten, {links} links moved to {} objects",
        pages.len(),
        moved.len()
    );
}

/// The HTML files below `folder`. Symbolic links are other pages once more, so they are left out.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (kind, path) = (entry.file_type().unwrap(), entry.path());
        if kind.is_dir() {
            pages.extend(self::pages(&path));
        } else if kind.is_file()
            && path
                .extension()
                .is_some_and(|extension| extension == "html")
        {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

fn parse(bytes: &[u8]) -> Rc<Node> {
    let parser = parse_document(RcDom::default(), ParseOpts::default());
    parser.one(&*String::from_utf8_lossy(bytes)).document
}

/// Two trees in step.
struct Comparison<'a> {
    page: &'a Url,
    server: &'a str,
    /// URLs of the second tree that are elsewhere now.
    moved: Vec<String>,
}

impl Comparison<'_> {
    fn walk(&mut self, before: &Rc<Node>, after: &Rc<Node>) {
        self.compare(&before.data, &after.data);
        let (before, after) = (before.children.borrow(), after.children.borrow());
        assert_eq!(before.len(), after.len(), "{}: children", self.page);
        for (before, after) in before.iter().zip(&*after) {
            self.walk(before, after);
        }
    }

    fn compare(&mut self, before: &NodeData, after: &NodeData) {
        let (name, before, after) = match (before, after) {
            (
                NodeData::Element {
                    name,
                    attrs: before,
                    template_contents: content_before,
                    ..
                },
                NodeData::Element {
                    name: name_after,
                    attrs: after,
                    template_contents: content_after,
                    ..
                },
            ) => {
                assert_eq!(name, name_after, "{}", self.page);
                let (content_before, content_after) =
                    (content_before.borrow(), content_after.borrow());
                match (&*content_before, &*content_after) {
                    (Some(before), Some(after)) => self.walk(before, after),
                    (before, after) => assert_eq!(before.is_some(), after.is_some()),
                }
                (&*name.local, before.borrow(), after.borrow())
            }
            (before, after) => {
                // Text, comments and doctypes print all that they hold.
                assert_eq!(format!("{before:?}"), format!("{after:?}"), "{}", self.page);
                return;
            }
        };
        assert_eq!(
            before.len(),
            after.len(),
            "{}: attributes of {name}",
            self.page
        );
        let rel = before
            .iter()
            .find(|attribute| &*attribute.name.local == "rel");
        let rel = rel.map_or("", |rel| &rel.value);
        for (before, after) in before.iter().zip(&*after) {
            assert_eq!(before.name, after.name, "{}", self.page);
            let attribute = &*before.name.local;
            match self.moves_to(name, rel, attribute, &before.value) {
                Some(expected) => {
                    assert_eq!(&*after.value, expected, "{}: {name} {attribute}", self.page);
                    let url = Url::parse(&expected).unwrap();
                    self.moved.push(url[..Position::AfterQuery].to_owned());
                }
                None => assert_eq!(
                    before.value, after.value,
                    "{}: {name} {attribute}",
                    self.page
                ),
            }
        }
    }

    /// What a link becomes, by the table; `None` for what stays.
    fn moves_to(&self, element: &str, rel: &str, attribute: &str, value: &str) -> Option<String> {
        let in_table = match (element, attribute) {
            ("img" | "source" | "script" | "video" | "audio", "src") | ("video", "poster") => true,
            ("link", "href") => rel
                .split(' ')
                .any(|word| matches!(word, "stylesheet" | "icon")),
            // Not on these pages; should they come to be, the trees differ.
            _ => false,
        };
        let url = self.page.join(value).ok().filter(|_| in_table)?;
        let is_object = [".css", ".js", ".png", ".gif", ".jpg", ".svg", ".ico"]
            .iter()
            .any(|ending| url.path().ends_with(ending));
        (is_object && url.origin() == self.page.origin())
            .then(|| format!("{}{}", self.server, &url[Position::BeforePath..]))
    }
}
