//! `query-blockstats` (`block/qapi.c`).

use super::node::Members;
use crate::base::Json;
use crate::block::accounting::{Accounting, AcctType, Counters};
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{BackendId, NodeId};

impl World {
    /// `qmp_query_blockstats`: of backends with a name or a guest device, or of all nodes.
    #[must_use]
    pub(in crate::world) fn query_blockstats(&self, nodes: bool) -> Json {
        if nodes {
            // `bdrv_next_node`: the oldest first.
            return Json::list(
                self.graph.named.iter().map(|n| Json::dict(self.bds_stats(Some(*n), false, None))).collect(),
            );
        }
        let shown = self.graph.backends.iter().filter(|(_, b)| !b.name.is_empty() || b.dev.is_some());
        Json::list(shown.map(|(id, _)| self.blk_stats(id)).collect())
    }

    fn blk_stats(&self, blk: BackendId) -> Json {
        let backend = &self.graph.backends[blk];
        let mut info: Members = vec![("device", Json::Str(backend.name.clone()))];
        if let Some(dev) = backend.dev.as_ref().filter(|dev| !dev.is_empty()) {
            info.push(("qdev", Json::Str(dev.clone())));
        }
        info.extend(self.bds_stats(self.graph.blk_bs(blk), true, Some(&backend.stats)));
        Json::dict(info)
    }

    /// `bdrv_query_bds_stats`. With `blk_level`, what lies below a filter is shown a second time, where backing files are.
    fn bds_stats(&self, bs: Option<NodeId>, blk_level: bool, counters: Option<&Accounting>) -> Members {
        let bs = bs.map(|bs| if blk_level { self.graph.skip_implicit_filters(bs) } else { bs });
        let highest = bs.map_or(0, |bs| self.graph.nodes[bs].wr_highest_offset);
        let stats = self.device_stats(counters, highest);
        let Some(bs) = bs else { return vec![("stats", stats)] };
        let node = &self.graph.nodes[bs];
        let mut info: Members = vec![("node-name", Json::Str(node.node_name.clone())), ("stats", stats)];
        if let Some(file) = node.file_driver() {
            info.push(("driver-specific", discards(file.discards)));
        }
        // The primary child of each of the drivers here is also what stores its data.
        if let Some(child) = self.graph.primary_child(bs) {
            let below = self.graph.children[child].bs;
            info.push(("parent", Json::dict(self.bds_stats(Some(below), blk_level, None))));
        }
        if let Some(below) = self.graph.filter_or_cow_bs(bs).filter(|_| blk_level) {
            info.push(("backing", Json::dict(self.bds_stats(Some(below), blk_level, None))));
        }
        info
    }

    /// `BlockDeviceStats`
    fn device_stats(&self, blk: Option<&Accounting>, highest: u64) -> Json {
        let none = Counters::default();
        let of = |kind| blk.map_or(&none, |stats| stats.of(kind));
        let (rd, wr, fl) = (of(AcctType::Read), of(AcctType::Write), of(AcctType::Flush));
        let mut info: Members = vec![
            ("rd_bytes", rd.bytes.into()),
            ("wr_bytes", wr.bytes.into()),
            ("zone_append_bytes", 0u64.into()),
            ("unmap_bytes", 0u64.into()),
            ("rd_operations", rd.operations.into()),
            ("wr_operations", wr.operations.into()),
            ("zone_append_operations", 0u64.into()),
            ("flush_operations", fl.operations.into()),
            ("unmap_operations", 0u64.into()),
            ("rd_total_time_ns", rd.time.as_nanos().into()),
            ("wr_total_time_ns", wr.time.as_nanos().into()),
            ("zone_append_total_time_ns", 0u64.into()),
            ("flush_total_time_ns", fl.time.as_nanos().into()),
            ("unmap_total_time_ns", 0u64.into()),
            ("wr_highest_offset", highest.into()),
        ];
        info.extend(["rd_merged", "wr_merged", "zone_append_merged", "unmap_merged"].map(|name| (name, 0u64.into())));
        if let Some(last) = blk.and_then(|stats| stats.last_access) {
            info.push(("idle_time_ns", (self.now - last).as_nanos().into()));
        }
        info.extend([
            ("failed_rd_operations", rd.failed.into()),
            ("failed_wr_operations", wr.failed.into()),
            ("failed_zone_append_operations", 0u64.into()),
            ("failed_flush_operations", fl.failed.into()),
            ("failed_unmap_operations", 0u64.into()),
            ("invalid_rd_operations", rd.invalid.into()),
            ("invalid_wr_operations", wr.invalid.into()),
            ("invalid_zone_append_operations", 0u64.into()),
            ("invalid_flush_operations", fl.invalid.into()),
            ("invalid_unmap_operations", 0u64.into()),
            // Nodes have no such settings.
            ("account_invalid", blk.is_some_and(|stats| stats.account_invalid).into()),
            ("account_failed", blk.is_some_and(|stats| stats.account_failed).into()),
            ("timed_stats", Json::list(Vec::new())),
        ]);
        if !self.quirks.since(Change::ZoneAppendStats) {
            info.retain(|(name, _)| !name.contains("zone_append"));
        }
        Json::dict(info)
    }
}

/// `BlockStatsSpecificFile`: how many discards there were, and of how many bytes. None fails.
fn discards((number, bytes): (u64, u64)) -> Json {
    Json::dict(vec![
        ("driver", "file".into()),
        ("discard-nb-ok", number.into()),
        ("discard-nb-failed", 0u64.into()),
        ("discard-bytes-ok", bytes.into()),
    ])
}
