use super::{super::tree::Tree, *};

const V2: &str = "29 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

fn v2(membership: &str) -> Tree {
    Tree::new()
        .with("proc/self/cgroup", membership)
        .with("proc/self/mountinfo", V2)
}

/// Folder below the root, own, quota, used.
fn accounts(tree: &Tree) -> Vec<(String, bool, Option<f64>, u64)> {
    let root = tree.path();
    let accounts = Cgroups::new(root.to_owned()).accounts().unwrap();
    let short = |account: Account| {
        let group = account.group.strip_prefix(root).unwrap().to_owned();
        (
            group.display().to_string(),
            account.own,
            account.quota,
            account.used,
        )
    };
    accounts.into_iter().map(short).collect()
}

fn error(tree: &Tree) -> String {
    let mut groups = Cgroups::new(tree.path().to_owned());
    groups.accounts().unwrap_err().to_string()
}

#[test]
fn takes_the_own_group_and_every_ancestor_with_a_quota() {
    let tree = v2("0::/a/b/c\n")
        .with("sys/fs/cgroup/cpu.stat", "usage_usec 900\n")
        .with("sys/fs/cgroup/a/cpu.max", "150000 100000\n")
        .with("sys/fs/cgroup/a/cpu.stat", "usage_usec 70\nuser_usec 60\n")
        .with("sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
        .with("sys/fs/cgroup/a/b/cpu.stat", "usage_usec 50\n")
        .with("sys/fs/cgroup/a/b/c/cpu.max", "20000 40000\n")
        .with(
            "sys/fs/cgroup/a/b/c/cpu.stat",
            "usage_usec 30\nuser_usec 1\n",
        );
    assert_eq!(
        accounts(&tree),
        [
            ("sys/fs/cgroup/a/b/c".to_owned(), true, Some(0.5), 30_000),
            ("sys/fs/cgroup/a".to_owned(), false, Some(1.5), 70_000),
        ]
    );
}

#[test]
fn takes_the_own_group_without_a_quota_where_an_ancestor_has_one() {
    let tree = v2("0::/a/b\n")
        .with("sys/fs/cgroup/a/cpu.max", "800000 100000\n")
        .with("sys/fs/cgroup/a/cpu.stat", "usage_usec 70\n")
        .with("sys/fs/cgroup/a/b/cpu.stat", "usage_usec 30\n");
    assert_eq!(
        accounts(&tree),
        [
            ("sys/fs/cgroup/a/b".to_owned(), true, None, 30_000),
            ("sys/fs/cgroup/a".to_owned(), false, Some(8.0), 70_000),
        ]
    );
}

#[test]
fn is_empty_without_a_quota_without_groups_and_without_mounts() {
    let tree = v2("0::/a\n").with("sys/fs/cgroup/a/cpu.max", "max 100000\n");
    assert_eq!(accounts(&tree), []);
    assert_eq!(accounts(&v2("0::/\n")), []);
    assert_eq!(accounts(&Tree::new()), []);
    let unmounted = Tree::new().with("proc/self/cgroup", "0::/a\n4:cpu:/a\n");
    assert_eq!(accounts(&unmounted), []);
    assert_eq!(accounts(&v2("garbage\n0:\n\n7:cpu\n")), []);
}

#[test]
fn a_mount_that_shows_only_the_container_is_taken_off_the_path() {
    let container = "29 24 0:26 /pod/box /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    let tree = v2("0::/pod/box/worker\n")
        .with("proc/self/mountinfo", container)
        .with("sys/fs/cgroup/cpu.max", "50000 100000\n")
        .with("sys/fs/cgroup/cpu.stat", "usage_usec 5\n")
        .with("sys/fs/cgroup/worker/cpu.stat", "usage_usec 4\n");
    assert_eq!(
        accounts(&tree),
        [
            ("sys/fs/cgroup/worker".to_owned(), true, None, 4_000),
            ("sys/fs/cgroup".to_owned(), false, Some(0.5), 5_000),
        ]
    );
}

#[test]
fn where_path_and_mount_do_not_fit_the_mount_point_counts() {
    for membership in ["0::/\n", "0::/../sibling\n", "0::/podium\n"] {
        let tree = v2(membership)
            .with(
                "proc/self/mountinfo",
                "29 24 0:26 /pod /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            )
            .with("sys/fs/cgroup/cpu.max", "50000 100000\n")
            .with("sys/fs/cgroup/cpu.stat", "usage_usec 5\n");
        assert_eq!(
            accounts(&tree),
            [("sys/fs/cgroup".to_owned(), true, Some(0.5), 5_000)],
            "{membership}"
        );
    }
}

#[test]
fn never_leaves_the_mount_by_a_path_with_dots() {
    let tree = v2("0::/../../x\n").with("sys/fs/x/cpu.max", "50000 100000\n");
    assert_eq!(accounts(&tree), []);
}

#[test]
fn reads_version_1_with_its_controllers_together_or_apart() {
    let together = Tree::new()
        .with("proc/self/cgroup", "4:cpu,cpuacct:/a/b\n0::/elsewhere\n")
        .with(
            "proc/self/mountinfo",
            "33 32 0:30 / /sys/fs/cgroup/cpu\\040x rw - cgroup cgroup rw,cpu,cpuacct\n",
        )
        .with("sys/fs/cgroup/cpu x/a/cpu.cfs_quota_us", "200000\n")
        .with("sys/fs/cgroup/cpu x/a/cpu.cfs_period_us", "100000\n")
        .with("sys/fs/cgroup/cpu x/a/cpuacct.usage", "123\n")
        .with("sys/fs/cgroup/cpu x/a/b/cpu.cfs_quota_us", "-1\n")
        .with("sys/fs/cgroup/cpu x/a/b/cpu.cfs_period_us", "100000\n")
        .with("sys/fs/cgroup/cpu x/a/b/cpuacct.usage", "99\n");
    assert_eq!(
        accounts(&together),
        [
            ("sys/fs/cgroup/cpu x/a/b".to_owned(), true, None, 99),
            ("sys/fs/cgroup/cpu x/a".to_owned(), false, Some(2.0), 123),
        ]
    );

    let apart = Tree::new()
        .with("proc/self/cgroup", "2:cpuacct:/a\n1:cpu:/a\n0::/\n")
        .with(
            "proc/self/mountinfo",
            "32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu\n\
             33 31 0:30 / /cg/cpuacct rw - cgroup cgroup rw,cpuacct\n",
        )
        .with("cg/cpu/a/cpu.cfs_quota_us", "50000\n")
        .with("cg/cpu/a/cpu.cfs_period_us", "100000\n")
        .with("cg/cpuacct/a/cpuacct.usage", "77\n");
    assert_eq!(
        accounts(&apart),
        [("cg/cpu/a".to_owned(), true, Some(0.5), 77)]
    );
}

#[test]
fn where_both_versions_are_mounted_only_the_one_with_the_quota_counts() {
    let mounts = "\
        30 31 0:27 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new()
        .with("proc/self/cgroup", "1:cpu,cpuacct:/a/b\n0::/\n")
        .with("proc/self/mountinfo", mounts)
        // The root of version 2: all that the machine does.
        .with("cg/unified/cpu.stat", "usage_usec 999999\n")
        .with("cg/cpu/a/cpu.cfs_quota_us", "50000\n")
        .with("cg/cpu/a/cpu.cfs_period_us", "100000\n")
        .with("cg/cpu/a/cpuacct.usage", "77\n")
        .with("cg/cpu/a/b/cpuacct.usage", "7\n");
    assert_eq!(
        accounts(&tree),
        [
            ("cg/cpu/a/b".to_owned(), true, None, 7),
            ("cg/cpu/a".to_owned(), false, Some(0.5), 77),
        ]
    );
}

#[test]
fn an_allowance_that_cannot_be_read_is_an_error_that_names_the_file() {
    for garbage in ["garbage", "", "5 x", "-5 100", "5 0", "NaN 1"] {
        let tree = v2("0::/a\n").with("sys/fs/cgroup/a/cpu.max", garbage);
        let error = error(&tree);
        assert!(
            error.contains("cpu.max") && error.contains(garbage),
            "{error}"
        );
    }
    let tree = v2("0::/a\n").with("sys/fs/cgroup/a/cpu.max", "5 10");
    assert!(error(&tree).contains("cpu.stat"));
    tree.write("sys/fs/cgroup/a/cpu.stat", "usage_usec -1\n");
    assert!(error(&tree).contains("usage_usec"));
}

#[test]
fn follows_a_process_that_is_moved_and_a_quota_that_changes() {
    let tree = v2("0::/a\n")
        .with("sys/fs/cgroup/a/cpu.max", "10 10")
        .with("sys/fs/cgroup/a/cpu.stat", "usage_usec 1")
        .with("sys/fs/cgroup/b/cpu.max", "20 10")
        .with("sys/fs/cgroup/b/cpu.stat", "usage_usec 1");
    let mut groups = Cgroups::new(tree.path().to_owned());
    let mut quota = || groups.accounts().unwrap()[0].quota;
    assert_eq!(quota(), Some(1.0));
    tree.write("sys/fs/cgroup/a/cpu.max", "5 10");
    assert_eq!(quota(), Some(0.5));
    tree.write("proc/self/cgroup", "0::/b\n");
    assert_eq!(quota(), Some(2.0));
}
