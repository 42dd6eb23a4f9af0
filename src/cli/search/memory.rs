//! How much memory this process holds, and how much there is.
#![expect(clippy::disallowed_methods, reason = "the kernel tells in files")]

use std::fs::read_to_string;

/// Bytes that the process holds now; 0 where the kernel does not tell.
pub(in crate::cli) fn held() -> u64 {
    let text = read_to_string("/proc/self/status").unwrap_or_default();
    kib_of(&text, "VmRSS:") * 1024
}

/// Bytes that the machine has; where the kernel does not tell, without limit.
pub(in crate::cli) fn of_machine() -> u64 {
    match kib_of(&read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:") {
        0 => u64::MAX,
        kib => kib * 1024,
    }
}

/// The number behind a key, as in `VmRSS:  1234 kB`.
fn kib_of(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
