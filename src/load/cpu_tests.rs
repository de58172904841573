use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{super::tree::Tree, *};

const SECOND: Duration = Duration::from_secs(1);

/// A process in /a/b, with a quota of 1.5 processors on /a and of 1 on /a/b, on 4 processors.
fn nested() -> Tree {
    Tree::new()
        .with("proc/self/cgroup", "0::/a/b\n")
        .with(
            "proc/self/mountinfo",
            "29 24 0:26 / /cg rw - cgroup2 cgroup rw\n",
        )
        .with("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-127\n")
        .with("sys/devices/system/cpu/online", "0-3\n")
        .with("cg/a/cpu.max", "150000 100000\n")
        .with("cg/a/b/cpu.max", "100000 100000\n")
}

fn used(tree: &Tree, parent: u64, own: u64) {
    tree.write("cg/a/cpu.stat", &format!("usage_usec {parent}\n"));
    tree.write("cg/a/b/cpu.stat", &format!("usage_usec {own}\n"));
}

/// The load after a second in which parent and own group used so many microseconds.
fn load(tree: &Tree, parent: u64, own: u64) -> f64 {
    let start = Instant::now();
    let mut cpu = Cpu::below(tree.path().to_owned());
    used(tree, 5_000_000, 1_000_000);
    assert_eq!(cpu.sample(start).unwrap(), None);
    used(tree, 5_000_000 + parent, 1_000_000 + own);
    cpu.sample(start + SECOND).unwrap().unwrap().get()
}

#[test]
fn the_load_is_that_of_the_group_nearest_to_its_quota() {
    let tree = nested();
    assert_eq!(load(&tree, 750_000, 750_000), 0.75);
    assert_eq!(load(&tree, 1_350_000, 450_000), 0.9);
}

#[test]
fn a_quota_above_the_processors_is_cut_to_their_number() {
    let tree = nested()
        .with("cg/a/cpu.max", "1600000 100000\n")
        .with("cg/a/b/cpu.max", "max 100000\n");
    // The parent's siblings run on all four.
    assert_eq!(load(&tree, 3_000_000, 1_000_000), 0.75);
    tree.write("proc/self/status", "Cpus_allowed_list:\t2\n");
    assert_eq!(load(&tree, 2_000_000, 800_000), 0.8);
    // Four of them busy with siblings' work is no load on the one that is ours.
    assert_eq!(load(&tree, 1_000_000, 100_000), 0.25);
}

#[test]
fn goes_on_without_the_lists_of_processors() {
    let tree = nested();
    tree.remove("proc/self/status");
    tree.remove("sys/devices/system/cpu/online");
    assert_eq!(load(&tree, 300_000, 300_000), 0.3);
}

#[test]
fn a_counter_that_goes_back_gives_no_reading() {
    let tree = nested();
    let start = Instant::now();
    let mut cpu = Cpu::below(tree.path().to_owned());
    used(&tree, 9_000_000, 9_000_000);
    cpu.sample(start).unwrap();
    used(&tree, 10, 10);
    assert_eq!(cpu.sample(start + SECOND).unwrap(), None);
    used(&tree, 10, 200_010);
    let load = cpu.sample(start + 2 * SECOND).unwrap();
    assert_eq!(load, Ratio::new(0.2));
}

#[test]
fn a_broken_quota_is_an_error_and_not_the_machine() {
    let tree = nested().with("cg/a/cpu.max", "lots");
    used(&tree, 0, 0);
    let mut cpu = Cpu::below(tree.path().to_owned());
    assert!(cpu.sample(Instant::now()).is_err());
}

#[test]
fn reads_the_kernels_lists() {
    assert_eq!(parse_list("0-2,8\n"), Some(vec![0, 1, 2, 8]));
    assert_eq!(parse_list(" 5"), Some(vec![5]));
    assert_eq!(parse_list("\n"), Some(vec![]));
    for garbage in ["x", "1-", "-1", "1-2-3", "0-99999999999"] {
        assert_eq!(parse_list(garbage), None, "{garbage}");
    }
}

#[test]
fn the_mean_is_over_the_allowed_processors_or_else_over_all() {
    let usages = [("cpu0", 1.0), ("cpu1", 0.5), ("cpu2", 0.0)].into_iter();
    assert_eq!(mean(usages.clone(), None), Some(0.5));
    assert_eq!(mean(usages.clone(), Some(&[0, 1])), Some(0.75));
    assert_eq!(mean(usages.clone(), Some(&[7])), Some(0.5));
    assert_eq!(mean([].into_iter(), None), None);
}

/// Samples until `done`, for five minutes at most: others may be building on this machine.
fn sample_until(cpu: &mut dyn Signal, done: impl Fn(Ratio) -> bool) -> Ratio {
    let deadline = Instant::now() + 300 * SECOND;
    loop {
        match cpu.sample(Instant::now()).unwrap() {
            Some(load) if done(load) => return load,
            load => assert!(Instant::now() < deadline, "still {load:?}"),
        }
        // Between two samples there has to be time to measure.
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Keeps a processor busy until dropped.
struct Busy(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Busy {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let work = move || {
            while !seen.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        Self(stop, Some(std::thread::spawn(work)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap();
    }
}

#[test]
fn every_processor_busy_reads_as_a_high_load() {
    let mut cpu = Cpu::new();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let busy: Vec<Busy> = (0..processors).map(|_| Busy::start()).collect();
    // Whatever else runs here, it only adds. (A container's own share may be smaller than the machine's
    // idle rest, hence not 1.0.)
    let high = sample_until(&mut cpu, |load| load.get() > 0.5);
    drop(busy);
    assert!(high.get() < 1.5, "a share of what is there, found {high}");
}
