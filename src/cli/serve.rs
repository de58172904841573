//! `overspill serve`.

use axum::serve::Listener;

use super::{ServeArguments, check::checked};
use crate::{
    admin::{Admin, Lifecycle},
    app::{self, Inner, Overspill, Serving},
    guard::allow_many_connections,
    site::Site,
};

type BoxError = Box<dyn std::error::Error>;

/// More files than that are not weighed beforehand.
const MOST_OBJECTS: usize = 100_000;

/// Serves until told to stop.
pub(super) fn run(arguments: &ServeArguments) -> Result<(), BoxError> {
    let (settings, inner) = checked(&arguments.config, |settings| {
        if let Some(site) = &arguments.site {
            settings.primary.site = Some(site.clone());
            settings.primary.upstream = None;
        }
        if let Some(upstream) = &arguments.upstream {
            settings.primary.upstream = Some(upstream.clone());
            settings.primary.site = None;
        }
        if let Some(listen) = arguments.listen {
            settings.primary.listen = listen;
        }
    })?;
    allow_many_connections();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let admin = Admin::bind(&settings.admin)?;
        let overspill = Overspill::start(settings.clone())?;
        let serving = Serving::new(&settings, inner.clone(), overspill.clone()).await?;
        let lifecycle = Lifecycle::new();
        tracing::info!(admin = %format_args!("http://{}", admin.local_addr()?), "status, metrics and overrides");
        let answering = admin.start(overspill.clone(), lifecycle.clone())?;
        if let Inner::Site(_) = inner {
            weigh(&settings.primary.site.clone().unwrap_or_else(|| app::DEFAULT_SITE.into()), overspill.clone());
        }
        tracing::info!(
            site = %format_args!("http://{}", serving.listener.local_addr()?),
            mode = settings.mode.as_str(),
            servers = settings.offload.servers.len(),
            "serving"
        );
        lifecycle.serving();
        let stop = async {
            tokio::select! {
                () = asked_to_stop() => lifecycle.drain(),
                () = lifecycle.drained() => {}
            }
            tracing::info!("draining");
            tokio::spawn(async {
                asked_to_stop().await;
                tracing::warn!("asked to stop again: what is under way is given up");
                std::process::exit(1);
            });
        };
        app::serve(serving, stop).await;
        answering.end().await;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Learns the sizes of the folder's objects, aside: a large folder takes a while to walk.
fn weigh(folder: &std::path::Path, overspill: Overspill) {
    let folder = folder.to_path_buf();
    tokio::task::spawn_blocking(move || {
        overspill.learn_objects(Site::objects(&folder, MOST_OBJECTS))
    });
}

/// SIGTERM, SIGINT; elsewhere than on Unix, Ctrl-C.
#[cfg(unix)]
pub(super) async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hang_up)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        // Without them the system's own way of ending a process still works.
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            // Without a word a closed terminal would end the site.
            _ = hang_up.recv() => tracing::warn!("SIGHUP: this version reads its configuration at start only"),
        }
    }
}

#[cfg(not(unix))]
pub(super) async fn asked_to_stop() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
