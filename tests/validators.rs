//! Validators over episodes: visitors who come back with what they have been given, directly and through shared
//! caches, are never told that a page of another level, or another server's, is still the one.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use crate::support::{
    caches::Cache,
    client::get,
    config::Config,
    offload_server::OffloadServer,
    process::{Nginx, program},
    program::Program,
    wait::until,
    write,
};

const PAGE: &str = "<!doctype html><link rel=stylesheet href=\"/a.css\"><script src=\"/b.js\"></script><img src=\"/c.png\">";
const VISITORS: usize = 24;

/// The page as a server of the pool makes it.
fn moved(server: &OffloadServer) -> String {
    PAGE.replace("=\"/", &format!("=\"{}/", server.url()))
}

/// A visitor who keeps the page with its tag, and asks whether it is still the one.
#[derive(Debug, Clone, Default)]
struct Visitor {
    address: String,
    kept: Option<(String, String)>,
    /// How often it was.
    not_modified: usize,
}

impl Visitor {
    /// The page that the visitor sees now.
    async fn look(&mut self, at: SocketAddr) -> String {
        let mut request = get("/page.html")
            .header("Accept", "text/html")
            .header("Sec-Fetch-Dest", "document")
            .header("X-Forwarded-For", &self.address);
        if let Some((tag, _)) = &self.kept {
            request = request.header("If-None-Match", tag);
        }
        let answer = request.ask(at).await;
        match (answer.status, &self.kept) {
            (304, Some((_, page))) => {
                self.not_modified += 1;
                page.clone()
            }
            (200, _) => {
                let tag = answer.header("etag").expect("a tag").to_owned();
                let page = answer.text().to_owned();
                self.kept = Some((tag, page.clone()));
                page
            }
            (status, _) => panic!("{status}"),
        }
    }
}

struct Crowd {
    at: SocketAddr,
    visitors: Vec<Visitor>,
}

impl Crowd {
    fn new(at: SocketAddr) -> Self {
        let visitor = |number| Visitor {
            address: format!("203.0.113.{number}"),
            ..Visitor::default()
        };
        Self {
            at,
            visitors: (1..=VISITORS).map(visitor).collect(),
        }
    }

    /// What each sees, and how many of them had it already.
    async fn look(&mut self) -> (Vec<String>, usize) {
        let mut pages = Vec::new();
        let before: usize = self.visitors.iter().map(|one| one.not_modified).sum();
        for visitor in &mut self.visitors {
            pages.push(visitor.look(self.at).await);
        }
        let now: usize = self.visitors.iter().map(|one| one.not_modified).sum();
        (pages, now - before)
    }

    /// Everybody sees one of `pages` at once and again. Returns how many had it already the second time.
    async fn sees(&mut self, pages: &[&str]) -> usize {
        self.assert_sees(pages).await;
        self.assert_sees(pages).await
    }

    async fn assert_sees(&mut self, pages: &[&str]) -> usize {
        let (seen, not_modified) = self.look().await;
        for page in &seen {
            assert!(pages.contains(&page.as_str()), "{page}");
        }
        not_modified
    }

    /// Everybody comes to see one of `pages`; until then what was right before.
    async fn comes_to_see(&mut self, pages: &[&str], before: &[&str]) -> usize {
        until("everybody sees it", async || {
            let (seen, _) = self.look().await;
            for page in &seen {
                let known = pages.iter().chain(before).any(|known| known == page);
                assert!(known, "{page}");
            }
            seen.iter()
                .all(|page| pages.contains(&page.as_str()))
                .then_some(())
        })
        .await;
        self.sees(pages).await
    }
}

/// Through episodes and from server to server; `cache` is what is in front of the program.
async fn keeps_episodes_apart(cache: Option<impl Fn(SocketAddr) -> Cache>) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "page.html", PAGE.as_bytes());
    // A second is the least that a shared cache keeps a page for.
    let lines = format!(
        "root {}; add_header Cache-Control max-age=1;",
        folder.path().display()
    );
    let behind = Nginx::configured("", &lines);
    let eu = OffloadServer::start(folder.path(), 0.0).await;
    let us = OffloadServer::start(folder.path(), 0.0).await;
    let program = Program::serve(&Config::new(format!(
        "primary.upstream = {:?}\nprimary.trusted_proxies = [\"127.0.0.1/32\"]\noffload.share = 1.0\n\
         offload.servers = [{}, {}]",
        behind.url,
        eu.entry("eu", ""),
        us.entry("us", ""),
    )))
    .await;
    let (by_eu, by_us) = (moved(&eu), moved(&us));
    let both = [by_eu.as_str(), &by_us];
    program.until_usable("eu", true).await;
    program.until_usable("us", true).await;
    program.hold_level("normal").await;
    let direct = cache.is_none();
    let cache = cache.map(|cache| cache(program.site));
    let mut crowd = Crowd::new(cache.as_ref().map_or(program.site, |cache| cache.address));

    assert_eq!(crowd.sees(&[PAGE]).await, VISITORS);
    for _ in 0..2 {
        program.hold_level("offload").await;
        let again = crowd.comes_to_see(&both, &[PAGE]).await;
        if direct {
            // Some may be given to the other server meanwhile, so that both have their share.
            assert!(again > VISITORS / 2, "{again}");
        }
        let (pages, _) = crowd.look().await;
        assert!(
            both.iter()
                .all(|server| pages.iter().any(|page| page == server))
        );

        // One of the servers is full: its visitors get the other's, and keep nothing of its own.
        eu.set_load(1.0);
        program.until_usable("eu", false).await;
        crowd.comes_to_see(&[&by_us], &both).await;

        // No rewritten page outlives its episode: the next look shows the page as it is.
        program.hold_level("normal").await;
        assert!(crowd.sees(&[PAGE]).await > 0);
        eu.set_load(0.0);
        program.until_usable("eu", true).await;
    }
    // What changes at the primary is seen in an episode and after it.
    let changed = PAGE.replace("c.png", "d.png");
    write(folder.path(), "page.html", changed.as_bytes());
    let moved_anew = by_us.replace("c.png", "d.png");
    eu.set_load(1.0);
    program.until_usable("eu", false).await;
    crowd.comes_to_see(&[&changed], &[PAGE]).await;
    program.hold_level("offload").await;
    crowd.comes_to_see(&[&moved_anew], &[&changed]).await;
    program.hold_level("normal").await;
    crowd.sees(&[&changed]).await;
}

/// nginx as a shared cache of the whole site.
fn nginx(site: SocketAddr) -> Cache {
    Cache::start(|address, folder| {
        let file = folder.join("nginx.conf");
        let folder = folder.display();
        let lines = format!(
            "daemon off; master_process off; pid {folder}/pid; error_log stderr;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; proxy_temp_path {folder}/proxy; client_body_temp_path {folder}/body;\n\
             fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
             proxy_cache_path {folder}/cache keys_zone=pages:1m;\n\
             server {{ listen {address}; location / {{ proxy_pass http://{site}; proxy_cache pages;\n\
             proxy_cache_revalidate on; }} }} }}\n"
        );
        fs::write(&file, lines).unwrap();
        let mut command = Command::new(program("nginx"));
        command
            .arg("-p")
            .arg(format!("{folder}"))
            .arg("-c")
            .arg(file);
        command
    })
}

/// Varnish as a shared cache of the whole site, which keeps what it may for as long as it may.
fn varnish(site: SocketAddr) -> Cache {
    Cache::start(|address, folder: &Path| {
        let file = folder.join("site.vcl");
        let lines = format!(
            "vcl 4.1; backend site {{ .host = \"{}\"; .port = \"{}\"; }}\n\
             sub vcl_backend_response {{ set beresp.keep = 1h; }}\n",
            site.ip(),
            site.port()
        );
        fs::write(&file, lines).unwrap();
        let mut command = Command::new(program("varnishd"));
        command.args(["-j", "none", "-F", "-s", "malloc,16m", "-a"]);
        command.arg(address.to_string()).arg("-f").arg(file);
        command.arg("-n").arg(folder.join("work"));
        command
    })
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn visitors_who_come_back_see_the_page_of_the_level_and_of_one_server() {
    keeps_episodes_apart(None::<fn(SocketAddr) -> Cache>).await;
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn behind_nginx_as_a_shared_cache_visitors_see_the_page_of_the_level_and_of_one_server() {
    keeps_episodes_apart(Some(nginx)).await;
}

#[tokio::test]
#[ignore = "needs nginx and varnish"]
async fn behind_varnish_as_a_shared_cache_visitors_see_the_page_of_the_level_and_of_one_server() {
    keeps_episodes_apart(Some(varnish)).await;
}
