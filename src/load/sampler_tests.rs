use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A signal that says what a function says.
struct Says<F>(&'static str, F);

impl<F: FnMut() -> Result<Option<Ratio>, SignalError> + Send> Signal for Says<F> {
    fn name(&self) -> &str {
        self.0
    }
    fn sample(&mut self, _now: Instant) -> Result<Option<Ratio>, SignalError> {
        (self.1)()
    }
}

fn says<F>(name: &'static str, f: F) -> Watched
where
    F: FnMut() -> Result<Option<Ratio>, SignalError> + Send + 'static,
{
    Watched::new(Says(name, f), Thresholds::standard())
}

/// Starts sampling, and gives the readings of each tick.
fn start(signals: Vec<Watched>) -> (Sampler, mpsc::Receiver<Vec<Reading>>) {
    let (ticks, received) = mpsc::channel();
    let on_tick = move |tick: Tick<'_>| {
        // Nobody listens any more once the test has seen enough.
        let _ = ticks.send(tick.readings.to_vec());
    };
    let sampler = Sampler::start(signals, MINIMUM_INTERVAL, Duration::ZERO, on_tick).unwrap();
    (sampler, received)
}

#[test]
fn gives_all_readings_in_order_at_each_tick() {
    let mut load = 0.0;
    let rising = says("rising", move || {
        load += 0.25;
        Ok(Ratio::new(load))
    });
    let broken = says("broken", || Err(SignalError::new("no such file")));
    let (_sampler, ticks) = start(vec![rising, broken, Watched::off("absent", "disabled")]);
    for expected in [0.25, 0.5, 0.75] {
        let readings = ticks.recv_timeout(MINUTE).unwrap();
        let names: Vec<_> = readings.iter().map(|reading| &*reading.name).collect();
        assert_eq!(names, ["rising", "broken", "absent"]);
        assert_eq!(readings[0].load, Ratio::new(expected));
        assert_eq!(readings[0].thresholds, Thresholds::standard());
        assert_eq!(readings[1].off.as_deref(), Some("no such file"));
        assert_eq!(readings[2].off.as_deref(), Some("disabled"));
        assert_eq!(readings[2].thresholds, Thresholds::NONE);
    }
}

#[test]
fn a_signal_that_panics_is_off_and_comes_back_and_harms_no_other() {
    let fine = Arc::new(AtomicBool::new(false));
    let seen = fine.clone();
    let moody = says("moody", move || {
        assert!(seen.load(Ordering::Relaxed), "a bad mood");
        Ok(Ratio::new(0.3))
    });
    let steady = says("steady", || Ok(Ratio::new(0.6)));
    let (_sampler, ticks) = start(vec![moody, steady]);
    let readings = ticks.recv_timeout(MINUTE).unwrap();
    let reason = readings[0].off.as_deref().unwrap();
    assert!(reason.contains("a bad mood"), "{reason}");
    assert_eq!(readings[1].load, Ratio::new(0.6));
    fine.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + MINUTE;
    while ticks.recv_timeout(MINUTE).unwrap()[0].load != Ratio::new(0.3) {
        assert!(Instant::now() < deadline, "never came back");
    }
}

#[test]
fn goes_on_when_what_takes_the_readings_panics() {
    let (ticks, received) = mpsc::channel();
    let mut first = true;
    let on_tick = move |tick: Tick<'_>| {
        // The test may have seen enough.
        let _ = ticks.send(tick.now);
        assert!(!std::mem::take(&mut first), "the first tick fails");
    };
    let _sampler = Sampler::start(vec![], MINIMUM_INTERVAL, SECOND, on_tick).unwrap();
    let first = received.recv_timeout(MINUTE).unwrap();
    assert!(received.recv_timeout(MINUTE).unwrap() > first);
}

#[test]
fn dropping_it_ends_the_thread_and_drops_the_signals_without_waiting_for_the_interval() {
    struct Held(mpsc::Sender<&'static str>);
    impl Drop for Held {
        fn drop(&mut self) {
            // Whether the test still listens is its own affair.
            let _ = self.0.send("dropped");
        }
    }
    let (sender, events) = mpsc::channel();
    let held = Held(sender.clone());
    let signal = says("held", move || {
        // Keeps the whole of it in the closure.
        let _held = &held;
        Ok(None)
    });
    let on_tick = move |_: Tick<'_>| sender.send("ticked").unwrap();
    // Were the interval waited for, this test would take an hour.
    let sampler = Sampler::start(vec![signal], 60 * MINUTE, SECOND, on_tick).unwrap();
    assert_eq!(events.recv_timeout(MINUTE), Ok("ticked"));
    drop(sampler);
    assert_eq!(events.try_recv(), Ok("dropped"));
}

#[test]
fn may_be_dropped_by_its_own_thread() {
    let (give, given) = mpsc::channel::<Sampler>();
    let (done, is_done) = mpsc::channel();
    let on_tick = move |_: Tick<'_>| {
        if let Ok(sampler) = given.recv() {
            drop(sampler);
            done.send(()).unwrap();
        }
    };
    let sampler = Sampler::start(vec![], SECOND, SECOND, on_tick).unwrap();
    give.send(sampler).unwrap();
    assert_eq!(is_done.recv_timeout(MINUTE), Ok(()));
}

#[test]
fn a_late_tick_is_not_made_up_for() {
    let due = Instant::now();
    let ms = Duration::from_millis;
    let next = |late| next_tick(due, due + ms(late), ms(250)) - due;
    assert_eq!(next(3), ms(250));
    assert_eq!(next(249), ms(250));
    assert_eq!(next(250), ms(500));
    assert_eq!(next(10_000), ms(10_250));
}

/// What is logged while `work` runs on this thread.
fn logged(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);
    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || written.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_failure_and_a_recovery_are_each_logged_once_and_a_disabled_signal_never() {
    let mut times = 0;
    let flaky = says("flaky", move || {
        times += 1;
        match times {
            1..=3 => Err(SignalError::new("no such file")),
            _ => Ok(Ratio::new(0.5)),
        }
    });
    let log = logged(|| {
        let mut flaky = Asked::new(flaky, SECOND);
        let mut absent = Asked::new(Watched::off("absent", "disabled"), SECOND);
        for _ in 0..6 {
            flaky.ask();
            absent.ask();
        }
    });
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines[0].contains("WARN") && lines[0].contains("signal=flaky"),
        "{log}"
    );
    assert!(lines[0].contains("error=\"no such file\""), "{log}");
    assert!(
        lines[1].contains("INFO") && lines[1].contains("signal=flaky"),
        "{log}"
    );
}
