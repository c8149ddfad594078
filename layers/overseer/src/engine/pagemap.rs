//! Whether the kernel's page-map scan may be used to reset guest memory.
//!
//! The scan finds the pages a guest wrote. A written page that was swapped out is missed (wasmtime pull request 14357),
//! and the next instance would read it; so the scan is used only where no page can be swapped.

use std::{fs, path::Path};

/// Whether this process cannot be swapped: no swap device, or a control group that allows none.
pub(super) fn unswappable() -> bool {
    no_swap_device(&fs::read_to_string("/proc/swaps").unwrap_or_default())
        || no_swap_allowed(
            &fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
            Path::new("/sys/fs/cgroup"),
        )
}

/// `/proc/swaps` holds its heading and nothing else.
fn no_swap_device(swaps: &str) -> bool {
    swaps.starts_with("Filename") && swaps.lines().skip(1).all(|line| line.trim().is_empty())
}

/// The version 2 control group of the process has `memory.swap.max` 0.
fn no_swap_allowed(membership: &str, root: &Path) -> bool {
    membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .is_some_and(|group| {
            fs::read_to_string(root.join(group).join("memory.swap.max")).is_ok_and(|max| max.trim() == "0")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_ruled_out_only_by_an_empty_list_or_a_zero_limit() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(no_swap_device(heading));
        assert!(!no_swap_device(&format!(
            "{heading}/dev/sda2 partition 2097148 0 -2\n"
        )));
        assert!(!no_swap_device(""), "an unreadable list proves nothing");

        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("app")).unwrap();
        assert!(!no_swap_allowed("0::/app\n", root.path()));
        fs::write(root.path().join("app/memory.swap.max"), "max\n").unwrap();
        assert!(!no_swap_allowed("0::/app\n", root.path()));
        fs::write(root.path().join("app/memory.swap.max"), "0\n").unwrap();
        assert!(no_swap_allowed("0::/app\n", root.path()));
    }
}
