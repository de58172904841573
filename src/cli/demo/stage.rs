//! The three servers, each behind its own link, and Overspill around the primary; and, beside them, a second primary
//! on a link like the first's, that has nobody.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, header},
    middleware::map_response,
    response::Response,
    routing::get,
    serve::{Listener, ListenerExt},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use include_dir::File;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tower_layer::Layer;

use super::{
    SITE,
    crowd::{self, COOKIE},
    link::{Link, LinkBody},
    story::Story,
};
use crate::{
    Overspill, Settings,
    admin::{Admin, AdminSettings, Lifecycle},
    front::{FrontLayer, Rules},
    load::{self, BandwidthSettings, BandwidthSource, Signal, SignalError, Thresholds},
    offload::{IdentitySettings, OffloadSettings, ThrottleSettings},
    servers::{HealthProbe, HealthSettings, ReportKind, ReportSettings, ServerSettings},
    site::Site,
    units::{BitRate, Ratio},
};

/// What the primary's link carries.
const PRIMARY: f64 = 12e6;
/// What each offload server's link carries.
const OFFLOAD: f64 = 16e6;
/// Where an offload server tells its load.
const REPORT: &str = "/.overspill/load";
/// How often it is asked for it.
const REPORTS: Duration = Duration::from_millis(500);
/// The page for those who are turned away, among the demo's files.
const OVERLOADED: &str = "overloaded.html";
/// Which of the servers dies.
pub(super) const MORTAL: usize = 2;

type BoxError = Box<dyn std::error::Error>;

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    pub(super) link: Arc<Link>,
    /// What serves, while it lives.
    serving: JoinSet<()>,
}

/// All that stands when the curtain rises. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Stage {
    /// The primary first.
    pub(super) servers: [Server; 3],
    /// The same site on a link like the primary's, without Overspill.
    pub(super) alone: Server,
    pub(super) admin: SocketAddr,
    pub(super) overspill: Overspill,
    pub(super) thresholds: Thresholds,
    site: Site,
    _lifecycle: Lifecycle,
}

// === impl Server ===

impl Server {
    fn new(name: &'static str, listener: &TcpListener, capacity: f64) -> Result<Self, BoxError> {
        let capacity = BitRate::from_bits_per_second(capacity).ok_or("a link without capacity")?;
        Ok(Self {
            name,
            address: listener.local_addr()?,
            link: Link::new(capacity, Instant::now()),
            serving: JoinSet::new(),
        })
    }

    /// Serves what comes to `listener` until it is killed.
    fn serve(&mut self, listener: TcpListener, app: Router) {
        self.serving.spawn(serve(listener, app));
    }

    /// It is gone as a process is that is killed: nobody listens, and whoever it was sending to gets the end of the
    /// connection instead.
    fn kill(&mut self) {
        self.serving = JoinSet::new();
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How Overspill is told of it.
    fn settings(&self, story: &Story) -> ServerSettings {
        ServerSettings {
            name: self.name.to_owned(),
            url: self.url(),
            capacity: Some(self.link.capacity()),
            threshold: Ratio::saturating(0.90),
            cors: true,
            report: ReportSettings {
                kind: ReportKind::Orca,
                url: format!("{}{REPORT}", self.url()),
                every: REPORTS,
                ..ReportSettings::default()
            },
            health: HealthSettings::Probe(HealthProbe {
                path: REPORT.to_owned(),
                every: story.probe,
                ..HealthProbe::default()
            }),
            slow_start: story.slow_start,
            ..ServerSettings::default()
        }
    }
}

// === impl Stage ===

impl Stage {
    /// Builds everything on ports that the system gives, with its files in `folder`, and starts it.
    pub(super) async fn set(folder: &Path, story: &Story) -> Result<Self, BoxError> {
        let listen = || TcpListener::bind(("127.0.0.1", 0));
        let (first, a, b, alone) = (
            listen().await?,
            listen().await?,
            listen().await?,
            listen().await?,
        );
        let mut servers = [
            Server::new("primary", &first, PRIMARY)?,
            Server::new("a", &a, OFFLOAD)?,
            Server::new("b", &b, OFFLOAD)?,
        ];
        let page = folder.join(OVERLOADED);
        std::fs::write(&page, overloaded())?;
        let settings = settings(&servers, story, page);
        let thresholds = settings.load.bandwidth.thresholds();
        let folder = folder.join("site");
        std::fs::create_dir(&folder)?;
        SITE.extract(&folder)?;
        let site = Site::new(&folder)?;
        for (listener, server) in [a, b].into_iter().zip(&mut servers[1..]) {
            server.serve(listener, offload_server(site.clone(), server.link.clone()));
        }
        let mut bare = Server::new("alone", &alone, PRIMARY)?;
        bare.serve(alone, plain(site.clone(), bare.link.clone()));

        let admin = Admin::bind(&settings.admin)?;
        let admin_address = admin.local_addr()?;
        let overspill = Overspill::builder(settings)
            .signal(Queue(servers[0].link.clone()), Queue::thresholds())
            .start()?;
        overspill.learn_objects(Site::objects(&folder, usize::MAX).map(weighed));
        let lifecycle = Lifecycle::new();
        admin.start(overspill.clone(), lifecycle.clone())?;
        let app = primary(site.clone(), &overspill, servers[0].link.clone());
        let gate = overspill.gate(first);
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        servers[0].serving.spawn(async {
            // It never ends by itself.
            let _ = axum::serve(gate, app).await;
        });
        lifecycle.serving();
        Ok(Self {
            servers,
            alone: bare,
            admin: admin_address,
            overspill,
            thresholds,
            site,
            _lifecycle: lifecycle,
        })
    }

    /// Kills the server that dies in the story.
    pub(super) fn kill(&mut self) {
        self.servers[MORTAL].kill();
    }

    /// Starts it again, where it was.
    ///
    /// # Errors
    /// Its address is taken just now.
    pub(super) async fn revive(&mut self) -> io::Result<()> {
        let server = &mut self.servers[MORTAL];
        let listener = TcpListener::bind(server.address).await?;
        server.serve(
            listener,
            offload_server(self.site.clone(), server.link.clone()),
        );
        Ok(())
    }
}

/// Serves until it is dropped, which cuts every connection: those that axum serves would live on.
async fn serve(listener: TcpListener, app: Router) {
    // Answers are written whole.
    let mut listener = listener.tap_io(|io| drop(io.set_nodelay(true)));
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connections = JoinSet::new();
    loop {
        let (io, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let service = TowerToHyperService::new(app.clone());
        let connection = builder
            .serve_connection(TokioIo::new(io), service)
            .into_owned();
        // One that breaks concerns nobody but its client, who knows.
        connections.spawn(async move { drop(connection.await) });
    }
}

/// The site's own page for those who are turned away. It has a picture in it and asks for nothing else.
fn overloaded() -> String {
    let map = SITE.get_file("visit/map.svg");
    let map = map.and_then(File::contents_utf8).unwrap_or_default();
    include_str!("overloaded.html").replace("<!-- map -->", map)
}

/// A site in use has learnt which of its objects visitors take. There is no time for that here, so Overspill is told
/// it: the others weigh nothing.
fn weighed((path, bytes): (String, u64)) -> (String, u64) {
    let bytes = if crowd::takes(&path) { bytes } else { 0 };
    (path, bytes)
}

fn settings([primary, a, b]: &[Server; 3], story: &Story, page: PathBuf) -> Settings {
    let off = |enabled| load::CpuSettings {
        enabled,
        ..load::CpuSettings::default()
    };
    Settings {
        load: load::Settings {
            // Everything here runs on the same processors: they say nothing about the primary.
            cpu: off(false),
            bandwidth: BandwidthSettings {
                source: BandwidthSource::Responses,
                capacity: Some(primary.link.capacity()),
                ..BandwidthSettings::default()
            },
            ..load::Settings::default()
        },
        offload: OffloadSettings {
            hold: story.hold,
            // The whole crowd comes from 127.0.0.1. So do the offload servers, which is why the gate lets
            // everyone pass, and it is the layer that drops, by visitor.
            identity: Some(IdentitySettings {
                cookie: Some(COOKIE.to_owned()),
                ..IdentitySettings::default()
            }),
            servers: vec![a.settings(story), b.settings(story)],
            ..OffloadSettings::default()
        },
        throttle: ThrottleSettings {
            page: Some(page),
            ..ThrottleSettings::default()
        },
        admin: AdminSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..AdminSettings::default()
        },
        ..Settings::default()
    }
}

fn primary(site: Site, overspill: &Overspill, link: Arc<Link>) -> Router {
    let site = FrontLayer::new(Rules::Folder).layer(overspill.layer().layer(site));
    Router::new()
        .fallback_service(site)
        .layer(map_response(move |response| over(link.clone(), response)))
}

/// The site as it is, on a link.
fn plain(site: Site, link: Arc<Link>) -> Router {
    Router::new()
        .fallback_service(FrontLayer::new(Rules::Folder).layer(site))
        .layer(map_response(move |response| over(link.clone(), response)))
}

fn offload_server(site: Site, link: Arc<Link>) -> Router {
    let meter = Arc::new(Meter::new(link.clone()));
    plain(site, link)
        .layer(map_response(allow_other_origins))
        // Beside the link: a report must not wait behind the crowd.
        .route(REPORT, get(move || async move { meter.report() }))
}

async fn over(link: Arc<Link>, response: Response) -> Response {
    response.map(|body| Body::new(LinkBody::new(body, link)))
}

/// Fonts, and whatever else browsers load across origins with CORS only.
async fn allow_other_origins(mut response: Response) -> Response {
    response.headers_mut().insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    response
}

/// How long answers wait for the primary's link. A link that is full cannot tell whether turning people away is enough;
/// what waits for it can: even pages that say no wait when there are too many of them.
struct Queue(Arc<Link>);

impl Queue {
    /// The seconds that are a load of 1.
    const FULL: f64 = 10.0;

    /// From 3 s on some get no answer, from 4 s on nobody does.
    fn thresholds() -> Thresholds {
        Thresholds {
            drop: Some(Ratio::saturating(0.3)),
            ..Thresholds::NONE
        }
    }
}

impl Signal for Queue {
    fn name(&self) -> &str {
        "queue"
    }

    fn sample(&mut self, _: Instant) -> Result<Option<Ratio>, SignalError> {
        Ok(Some(Ratio::saturating(self.0.queue() / Self::FULL)))
    }
}

/// What an offload server reports: its link's load since it was last asked.
#[derive(Debug)]
struct Meter {
    link: Arc<Link>,
    last: Mutex<(Instant, u64, f64)>,
}

// === impl Meter ===

impl Meter {
    /// Shorter times than that tell nothing.
    const LEAST: Duration = Duration::from_millis(200);

    fn new(link: Arc<Link>) -> Self {
        Self {
            last: Mutex::new((Instant::now(), link.sent(), 0.0)),
            link,
        }
    }

    fn load(&self, now: Instant) -> f64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(last.0);
        if passed >= Self::LEAST {
            let sent = self.link.sent();
            let rate = (sent - last.1) as f64 / passed.as_secs_f64();
            *last = (now, sent, rate / self.link.capacity().bytes_per_second());
        }
        last.2
    }

    /// As ORCA's JSON.
    fn report(&self) -> axum::Json<serde_json::Value> {
        let load = self.load(Instant::now());
        axum::Json(serde_json::json!({
            "application_utilization": load,
            "named_metrics": { "bandwidth": load },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_gets_the_map() {
        let page = overloaded();
        assert!(page.contains("<svg") && page.contains("{{ retry_after }}"));
        assert_eq!(page.matches("{{").count(), 1, "nothing else is a template");
        assert!(!page.contains("{%") && !page.contains("{#"));
        // At `drop` such pages alone fill the primary's link.
        assert!((12_000..20_000).contains(&page.len()), "{}", page.len());
    }
}
