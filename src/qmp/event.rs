//! The names of QMP events and which of them are held back when they come too fast (monitor/monitor.c).

use crate::base::time::Span;

/// The least time between two events of a rate-limited kind (`monitor_qapi_event_conf`).
pub const RATE_LIMIT: Span = Span::SECOND;

/// A rate-limited kind of event. Of those that come within [`RATE_LIMIT`] of the one sent before,
/// the last is sent when that time is over, the others are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limited {
    /// Event name.
    pub event: &'static str,
    /// The member of `data` by whose value the events are told apart, if any.
    pub per: Option<&'static str>,
}

/// The rate-limited events.
pub const LIMITED: [Limited; 9] = [
    Limited { event: "RTC_CHANGE", per: None },
    Limited { event: "BLOCK_IO_ERROR", per: Some("qom-path") },
    Limited { event: "WATCHDOG", per: None },
    Limited { event: "BALLOON_CHANGE", per: None },
    Limited { event: "QUORUM_REPORT_BAD", per: Some("node-name") },
    Limited { event: "QUORUM_FAILURE", per: None },
    Limited { event: "VSERPORT_CHANGE", per: Some("id") },
    Limited { event: "MEMORY_DEVICE_SIZE_CHANGE", per: Some("qom-path") },
    Limited { event: "HV_BALLOON_STATUS_REPORT", per: None },
];

/// The limit an event of that name is under, if any.
#[must_use]
pub fn limit(event: &str) -> Option<Limited> {
    LIMITED.into_iter().find(|l| l.event == event)
}

/// Every event name of QEMU 10.0.2, sorted.
pub const EVENTS: [&str; 55] = [
    "ACPI_DEVICE_OST",
    "BALLOON_CHANGE",
    "BLOCK_EXPORT_DELETED",
    "BLOCK_IMAGE_CORRUPTED",
    "BLOCK_IO_ERROR",
    "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_ERROR",
    "BLOCK_JOB_PENDING",
    "BLOCK_JOB_READY",
    "BLOCK_WRITE_THRESHOLD",
    "COLO_EXIT",
    "DEVICE_DELETED",
    "DEVICE_TRAY_MOVED",
    "DEVICE_UNPLUG_GUEST_ERROR",
    "DUMP_COMPLETED",
    "FAILOVER_NEGOTIATED",
    "GUEST_CRASHLOADED",
    "GUEST_PANICKED",
    "GUEST_PVSHUTDOWN",
    "HV_BALLOON_STATUS_REPORT",
    "JOB_STATUS_CHANGE",
    "MEMORY_DEVICE_SIZE_CHANGE",
    "MEMORY_FAILURE",
    "MIGRATION",
    "MIGRATION_PASS",
    "NETDEV_STREAM_CONNECTED",
    "NETDEV_STREAM_DISCONNECTED",
    "NETDEV_VHOST_USER_CONNECTED",
    "NETDEV_VHOST_USER_DISCONNECTED",
    "NIC_RX_FILTER_CHANGED",
    "POWERDOWN",
    "PR_MANAGER_STATUS_CHANGED",
    "QUORUM_FAILURE",
    "QUORUM_REPORT_BAD",
    "RESET",
    "RESUME",
    "RTC_CHANGE",
    "SHUTDOWN",
    "SPICE_CONNECTED",
    "SPICE_DISCONNECTED",
    "SPICE_INITIALIZED",
    "SPICE_MIGRATE_COMPLETED",
    "STOP",
    "SUSPEND",
    "SUSPEND_DISK",
    "UNPLUG_PRIMARY",
    "VFIO_MIGRATION",
    "VFU_CLIENT_HANGUP",
    "VNC_CONNECTED",
    "VNC_DISCONNECTED",
    "VNC_INITIALIZED",
    "VSERPORT_CHANGE",
    "WAKEUP",
    "WATCHDOG",
];

/// The members that the `data` of an event of the block layer can have (qapi/block-core.json, job.json, qdev.json); `None` for events of
/// other parts of QEMU.
#[must_use]
pub fn members(event: &str) -> Option<&'static [&'static str]> {
    Some(match event {
        "BLOCK_EXPORT_DELETED" => &["id"],
        "BLOCK_IMAGE_CORRUPTED" => &["device", "node-name", "msg", "offset", "size", "fatal"],
        "BLOCK_IO_ERROR" => &["qom-path", "device", "node-name", "operation", "action", "nospace", "reason"],
        "BLOCK_JOB_CANCELLED" | "BLOCK_JOB_READY" => &["type", "device", "len", "offset", "speed"],
        "BLOCK_JOB_COMPLETED" => &["type", "device", "len", "offset", "speed", "error"],
        "BLOCK_JOB_ERROR" => &["device", "operation", "action"],
        "BLOCK_JOB_PENDING" => &["type", "id"],
        "BLOCK_WRITE_THRESHOLD" => &["node-name", "amount-exceeded", "write-threshold"],
        "JOB_STATUS_CHANGE" => &["id", "status"],
        "QUORUM_FAILURE" => &["reference", "sector-num", "sectors-count"],
        "QUORUM_REPORT_BAD" => &["type", "error", "node-name", "sector-num", "sectors-count"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limited_events_exist() {
        assert!(EVENTS.is_sorted());
        assert!(LIMITED.iter().all(|l| EVENTS.binary_search(&l.event).is_ok()));
    }
}
