//! What queries show of nodes and devices (`block/qapi.c`). Members are put in the order of the schema.

use crate::base::Json;
use crate::base::errno::Errno;
use crate::bitmap::BlockDirtyInfo;
use crate::qmp::error::QmpError;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::{BackendId, ChildId, Member, NodeId};
use crate::world::block::driver::info::DriverInfo;

pub(in crate::world) type Members = Vec<(&'static str, Json)>;

impl World {
    /// `query-block`: backends with a name or a guest device. With `flat` backing nodes are left out.
    ///
    /// # Errors
    /// An image below has lost its driver.
    pub(in crate::world) fn query_block(&self, flat: bool) -> Result<Json, QmpError> {
        let shown = self.graph.backends.iter().filter(|(_, b)| !b.name.is_empty() || b.dev.is_some());
        shown.map(|(id, _)| self.block_info(id, flat)).collect::<Result<_, _>>().map(Json::list)
    }

    /// `query-named-block-nodes`, newest first. With `flat` backing nodes are not repeated within their overlays.
    ///
    /// # Errors
    /// A node has lost its driver.
    pub(in crate::world) fn query_named_block_nodes(&self, flat: bool) -> Result<Json, QmpError> {
        let nodes = self.graph.named.iter().rev().filter(|n| self.graph.nodes[**n].driver.is_some());
        nodes.map(|n| self.block_device_info(None, *n, flat)).collect::<Result<_, _>>().map(Json::list)
    }

    /// `bdrv_query_info`
    fn block_info(&self, blk: BackendId, flat: bool) -> Result<Json, QmpError> {
        let backend = &self.graph.backends[blk];
        let mut info: Members = vec![("device", Json::Str(backend.name.clone()))];
        if let Some(dev) = backend.dev.as_ref().filter(|dev| !dev.is_empty()) {
            info.push(("qdev", Json::Str(dev.clone())));
        }
        info.push(("type", "unknown".into()));
        info.push(("removable", (backend.dev.is_none() || backend.removable).into()));
        info.push(("locked", false.into()));
        if backend.tray {
            info.push(("tray_open", backend.tray_open.into()));
        }
        // Nodes that the user isn't aware of are passed over.
        let bs = self.graph.blk_bs(blk).map(|bs| self.graph.skip_implicit_filters(bs));
        if let Some(bs) = bs.filter(|bs| self.graph.nodes[*bs].has_drv()) {
            info.push(("inserted", self.block_device_info(Some(blk), bs, flat)?));
        }
        if backend.iostatus_enabled {
            // No guest runs, so no request of a device has failed.
            info.push(("io-status", "ok".into()));
        }
        Ok(Json::dict(info))
    }

    /// `bdrv_block_device_info`
    fn block_device_info(&self, blk: Option<BackendId>, bs: NodeId, flat: bool) -> Result<Json, QmpError> {
        let n = &self.graph.nodes[bs];
        if n.dropped {
            return Err(QmpError::generic(format!("Block device {} is ejected", n.node_name)));
        }
        let (image, depth) = self.image_info(bs, flat, blk.is_some())?;
        let mut info: Members = vec![
            ("file", Json::Str(self.filename_of(bs))),
            ("node-name", Json::Str(n.node_name.clone())),
            ("ro", (!n.flags.rdwr).into()),
            ("drv", n.drv().format_name().into()),
        ];
        if let Some(backing) = self.graph.cow_bs(bs) {
            info.push(("backing_file", Json::Str(self.filename_of(backing))));
        }
        info.push(("backing_file_depth", depth.into()));
        if self.quirks.since(Change::NodeChildren) {
            let child = |child: &ChildId| {
                let child = &self.graph.children[*child];
                let below = Json::Str(self.graph.nodes[child.bs].node_name.clone());
                Json::dict(vec![("child", child.name.into()), ("node-name", below)])
            };
            info.push(("children", Json::list(n.children.iter().map(child).collect())));
        }
        if self.quirks.since(Change::NodeActive) {
            info.push(("active", (!n.flags.inactive).into()));
        }
        info.push(("encrypted", false.into()));
        info.push(("detect_zeroes", n.detect_zeroes.name().into()));
        self.throttle_info(blk, &mut info);
        info.push(("image", image));
        let writeback = blk.is_none_or(|blk| self.graph.backends[blk].write_cache);
        let cache = vec![
            ("writeback", writeback.into()),
            ("direct", n.flags.nocache.into()),
            ("no-flush", n.flags.no_flush.into()),
        ];
        info.push(("cache", Json::dict(cache)));
        // A number without a sign to the command, one with a sign here.
        info.push(("write_threshold", Json::Int(n.write_threshold.cast_signed())));
        if !n.bitmaps.is_empty() {
            info.push(("dirty-bitmaps", Json::list(n.bitmaps.query().map(dirty_info).collect())));
        }
        Ok(Json::dict(info))
    }

    /// The limits of a drive. Only those that are set have a burst.
    fn throttle_info(&self, blk: Option<BackendId>, info: &mut Members) {
        let group = blk.and_then(|blk| self.throttling.group_of(Member::Backend(blk)));
        let limits = group.map(|group| group.state.limits).unwrap_or_default();
        let names = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];
        let bursts = ["bps_max", "bps_rd_max", "bps_wr_max", "iops_max", "iops_rd_max", "iops_wr_max"];
        let lengths = [
            "bps_max_length",
            "bps_rd_max_length",
            "bps_wr_max_length",
            "iops_max_length",
            "iops_rd_max_length",
            "iops_wr_max_length",
        ];
        info.extend(names.into_iter().zip(limits.buckets).map(|(name, limit)| (name, limit.avg.into())));
        let set = limits.buckets.iter().zip(bursts.into_iter().zip(lengths)).filter(|(limit, _)| limit.max > 0);
        let set: Vec<_> = set.collect();
        info.extend(set.iter().map(|(limit, (name, _))| (*name, limit.max.into())));
        info.extend(set.iter().map(|(limit, (_, name))| (*name, limit.burst_length.into())));
        if limits.op_size > 0 {
            info.push(("iops_size", limits.op_size.into()));
        }
        if let Some(group) = group {
            info.push(("group", Json::Str(group.name.clone())));
        }
    }

    /// `bdrv_query_image_info`, and how many images are shown below this one. With `skip` implicit filters are none of them.
    fn image_info(&self, bs: NodeId, flat: bool, skip: bool) -> Result<(Json, u64), QmpError> {
        if self.graph.nodes[bs].dropped {
            let (name, errno) = (self.filename_of(bs), Errno::ENOMEDIUM);
            return Err(QmpError::generic(format!("Can't get image size '{name}': {errno}")));
        }
        let mut info = self.node_info(bs);
        let mut depth = 0;
        if !flat && let Some(below) = self.graph.filter_or_cow_bs(bs) {
            let below = if skip { self.graph.skip_implicit_filters(below) } else { below };
            let (image, deeper) = self.image_info(below, false, skip)?;
            info.push(("backing-image", image));
            depth = deeper + 1;
        }
        Ok((Json::dict(info), depth))
    }

    /// `bdrv_do_query_node_info`
    fn node_info(&self, bs: NodeId) -> Members {
        let n = &self.graph.nodes[bs];
        let mut info: Members =
            vec![("filename", Json::Str(self.filename_of(bs))), ("format", n.drv().format_name().into())];
        let driver_info = self.bdrv_get_info(bs);
        if let Some(driver_info) = driver_info {
            info.push(("dirty-flag", driver_info.is_dirty.into()));
        }
        if let Ok(size) = self.allocated_file_size(bs) {
            info.push(("actual-size", size.into()));
        }
        info.push(("virtual-size", self.bdrv_getlength(bs).into()));
        if let Some(DriverInfo { cluster_size: cluster_size @ 1.., .. }) = driver_info {
            info.push(("cluster-size", cluster_size.into()));
        }
        if !n.backing_file.is_empty() {
            info.push(("backing-filename", Json::Str(n.backing_file.clone())));
            if let Some(full) = self.full_backing_filename_of(bs) {
                info.push(("full-backing-filename", full.into()));
            }
            if !n.backing_format.is_empty() {
                info.push(("backing-filename-format", Json::Str(n.backing_format.clone())));
            }
        }
        if self.quirks.since(Change::ImageLimits) {
            info.push(("limits", self.limits_info(bs)));
        }
        if let Some(specific) = self.bdrv_get_specific_info(bs) {
            info.push(("format-specific", specific));
        }
        info
    }
}

/// `bdrv_query_dirty_bitmaps`
fn dirty_info(bitmap: BlockDirtyInfo) -> Json {
    let mut info: Members = Vec::new();
    if let Some(name) = bitmap.name {
        info.push(("name", Json::Str(name)));
    }
    info.push(("count", bitmap.count.into()));
    info.push(("granularity", bitmap.granularity.into()));
    info.push(("recording", bitmap.recording.into()));
    info.push(("busy", bitmap.busy.into()));
    info.push(("persistent", bitmap.persistent.into()));
    if bitmap.inconsistent {
        info.push(("inconsistent", true.into()));
    }
    Json::dict(info)
}
