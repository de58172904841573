//! `overspill demo`: a primary, two offload servers and a crowd, in one process, over real sockets.
//!
//! ```text
//! story ──► crowd ──► visitors ══ HTTP ══► stage: primary (Overspill around the site) ── link, 12 Mbit/s
//!   │         │                                   a, b (the same site)               ── links, 16 Mbit/s
//!   │         └─────► the same visitors ══ HTTP ═══► alone (the same site, nothing else) ── link, 12 Mbit/s
//!   └────► director ◄── status, bytes sent ──┘
//!              └──► show (lines, a bar), summary
//! ```

mod bar;
mod crowd;
mod director;
mod line;
mod link;
mod show;
mod stage;
mod story;
mod summary;

use std::{
    future::Future,
    io::{self, Write},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use include_dir::{Dir, include_dir};
use tokio::{task::JoinSet, time::Instant};

use self::{
    director::Director,
    show::Show,
    stage::Stage,
    story::{FEW, Played, Story},
    summary::Summary,
};
use super::DemoArguments;
use crate::{crowd::Settings, guard::allow_many_connections};

type BoxError = Box<dyn std::error::Error>;

/// The site, within the program: it plays wherever it is installed.
static SITE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/static/site");

/// How often the director looks at the level.
const LOOK: Duration = Duration::from_millis(100);

/// Plays the demo.
pub(super) fn run(arguments: &DemoArguments) -> Result<(), BoxError> {
    let story = if arguments.fast {
        Story::FAST
    } else {
        Story::FULL
    };
    allow_many_connections();
    let folder = tempfile::Builder::new()
        .prefix("overspill-demo-")
        .tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let played: Result<(), BoxError> = runtime.block_on(async {
        let mut show = Show::new(arguments.json, &story);
        let mut stage = Stage::set(folder.path(), &story).await?;
        let mut stop = pin!(asked_to_stop());
        let summary = play(&mut stage, story, &mut show, &mut stop).await?;
        show.ending(&summary)?;
        if arguments.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&summary)?)?;
        }
        if arguments.keep && summary.complete {
            keep(&stage, &story, &mut show, &mut stop).await?;
        }
        Ok(())
    });
    // Whoever still waits for an answer gets none.
    runtime.shutdown_background();
    match played {
        // `overspill demo | head`: who has seen enough has seen enough.
        Err(error) if is_broken_pipe(&*error) => Ok(()),
        played => played,
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Plays the story to its end, or until `stop` is ready.
async fn play(
    stage: &mut Stage,
    story: Story,
    show: &mut Show,
    stop: impl Future<Output = ()>,
) -> Result<Summary, BoxError> {
    show.opening(stage, &story)?;
    let crowd = |url: String| crowd::crowd(&url, &SITE, story.patience, Settings::SEED);
    let crowds = [crowd(stage.servers[0].url())?, crowd(stage.alone.url())?];
    let played = Arc::new(Played::new(story));
    let began = Instant::now();
    let mut visitors = JoinSet::new();
    for crowd in crowds.clone() {
        let played = played.clone();
        visitors.spawn(async move {
            let rate = |time| played.visitors(time);
            crowd.come(rate, story.most(), began).await;
        });
    }
    let mut director = Director::new(stage, show, story, played, crowds, began);
    tokio::select! {
        ended = director.direct() => ended?,
        () = stop => {}
    }
    Ok(director.summary())
}

/// All of it goes on with a few visitors, until `stop` is ready.
async fn keep(
    stage: &Stage,
    story: &Story,
    show: &mut Show,
    stop: impl Future<Output = ()>,
) -> Result<(), BoxError> {
    /// For so long a crowd comes before another does.
    const LONG: Duration = Duration::from_secs(3600);
    show.keeping(stage, FEW)?;
    let few = async {
        for seed in Settings::SEED.. {
            let crowd = crowd::crowd(&stage.servers[0].url(), &SITE, story.patience, seed)?;
            crowd.come(|_| FEW, LONG, Instant::now()).await;
        }
        Ok::<(), url::ParseError>(())
    };
    tokio::select! {
        ended = few => ended?,
        () = stop => {}
    }
    Ok(())
}

/// SIGINT, SIGTERM, a terminal that is closed; elsewhere than on Unix, Ctrl-C.
#[cfg(unix)]
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        // Without them the system's own way of ending a process still works.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
}

#[cfg(not(unix))]
async fn asked_to_stop() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
