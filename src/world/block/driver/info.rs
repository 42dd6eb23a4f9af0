//! What a node says of its image, by the hooks of its driver, and what holds for drivers that lack a hook.

use super::Driver;
use super::rows::{ZeroFlags, ZeroSupport};
use crate::base::Json;
use crate::base::errno::{Errno, Ret};
use crate::host::Frozen;
use crate::version::changes::Change;
use crate::world::World;
use crate::world::arena::NodeId;

/// Sector size, in bytes.
const SECTOR: u64 = 512;
/// `IOV_MAX`
const MAX_IOV: u64 = 1024;
/// A page of the host, in bytes.
const OPT_MEM_ALIGNMENT: u64 = 4096;

/// `BlockDriverInfo`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverInfo {
    /// In bytes; 0 where there are no clusters.
    pub cluster_size: u64,
    /// Where the state of the machine begins, in bytes of the guest's disk; 0 where there is none.
    pub vm_state_offset: u64,
    /// Whether the image is marked as not closed.
    pub is_dirty: bool,
}

impl World {
    /// `bdrv_get_info`: a filter's is that of the node below.
    #[must_use]
    pub(in crate::world) fn bdrv_get_info(&self, node: NodeId) -> Option<DriverInfo> {
        let row = self.graph.nodes[node].driver.as_ref()?.row();
        match row.get_info {
            Some(get_info) => get_info(self, node),
            None if row.is_filter => self.bdrv_get_info(self.below(node)),
            None => None,
        }
    }

    /// `bdrv_get_info`'s cluster size: `None` where the driver has no such notion.
    #[must_use]
    pub(in crate::world) fn cluster_size_of(&self, node: NodeId) -> Option<u64> {
        self.bdrv_get_info(node).map(|info| info.cluster_size)
    }

    /// `bdrv_co_get_allocated_file_size`, in bytes.
    ///
    /// # Errors
    /// `ENOTSUP` for drivers with a protocol name that do not say: they are taken to keep their data elsewhere.
    pub(in crate::world) fn allocated_file_size(&self, node: NodeId) -> Ret<u64> {
        let Some(driver) = &self.graph.nodes[node].driver else { return Err(Errno::ENOTSUP) };
        match driver.row().get_allocated_file_size {
            Some(size) => size(self, node),
            None if driver.has_protocol_name() => Err(Errno::ENOTSUP),
            None => self.allocated_file_size(self.below(node)),
        }
    }

    /// `bdrv_get_specific_info`: `ImageInfoSpecific`.
    #[must_use]
    pub(in crate::world) fn bdrv_get_specific_info(&self, node: NodeId) -> Option<Json> {
        let driver = self.graph.nodes[node].drv();
        if matches!(driver, Driver::File(_)) && !self.quirks.since(Change::FormatSpecificOfFiles) {
            return None;
        }
        driver.row().get_specific_info.map(|info| info(self, node))
    }

    /// `supported_zero_flags`
    #[must_use]
    pub(in crate::world) fn supported_zero_flags(&self, node: NodeId) -> ZeroSupport {
        let below = |node| self.supported_zero_flags(self.below(node));
        match self.graph.nodes[node].drv().row().zero_flags {
            ZeroFlags::None => ZeroSupport::default(),
            ZeroFlags::Own(own) => own(self, node),
            ZeroFlags::OfBelow => below(node),
            ZeroFlags::OfAllBelow => {
                let all = self.quorum_children(node).into_iter().map(|child| self.supported_zero_flags(child));
                all.fold(ZeroSupport::ALL, |a, b| ZeroSupport {
                    may_unmap: a.may_unmap && b.may_unmap,
                    no_fallback: a.no_fallback && b.no_fallback,
                })
            }
            ZeroFlags::NoFallbackOfBelow => ZeroSupport { may_unmap: false, ..below(node) },
        }
    }

    /// `bdrv_recurse_can_replace`: nothing but filters stands between the two, or a driver's own rule says so.
    #[must_use]
    pub(in crate::world) fn bdrv_recurse_can_replace(&self, bs: NodeId, to_replace: NodeId) -> bool {
        if bs == to_replace {
            return true;
        }
        let driver = &self.graph.nodes[bs].driver;
        match driver.as_ref().and_then(|driver| driver.row().recurse_can_replace) {
            Some(can_replace) => can_replace(self, bs, to_replace),
            None => self.graph.filter_bs(bs).is_some_and(|below| self.bdrv_recurse_can_replace(below, to_replace)),
        }
    }

    /// What a node reads as now. QEMU has nothing of the kind: watchers ask.
    #[must_use]
    pub fn frozen(&self, node: NodeId) -> Frozen {
        let Some(n) = self.graph.nodes.get(node).filter(|n| n.has_drv()) else { return Frozen::Unknown };
        match n.drv().row().frozen {
            Some(frozen) => frozen(self, node),
            None => {
                let below = self.graph.filter_child(node).map(|edge| self.frozen(self.graph.bs(edge)));
                below.unwrap_or(Frozen::Unknown)
            }
        }
    }
}

impl World {
    /// `BlockLimitsInfo`: the optional members are those that are not 0.
    pub(in crate::world) fn limits_info(&self, bs: NodeId) -> Json {
        let bl = &self.graph.nodes[bs].bl;
        let mut info: Vec<(&'static str, Json)> = vec![("request-alignment", bl.request_alignment.into())];
        let optional = [
            ("max-discard", bl.max_pdiscard),
            ("discard-alignment", self.discard_alignment(bs)),
            ("max-write-zeroes", bl.max_pwrite_zeroes),
            ("write-zeroes-alignment", bl.pwrite_zeroes_alignment),
            ("max-transfer", bl.max_transfer),
        ];
        info.extend(optional.into_iter().filter(|(_, limit)| *limit > 0).map(|(name, limit)| (name, limit.into())));
        info.push(("max-iov", MAX_IOV.into()));
        info.push(("min-mem-alignment", self.min_mem_alignment(bs).into()));
        info.push(("opt-mem-alignment", OPT_MEM_ALIGNMENT.into()));
        Json::dict(info)
    }

    /// The alignment of discards that a node has itself, or the strictest of its children's.
    fn discard_alignment(&self, bs: NodeId) -> u64 {
        let n = &self.graph.nodes[bs];
        let below = || n.children.iter().map(|child| self.discard_alignment(self.graph.children[*child].bs)).max();
        match n.bl.pdiscard_alignment {
            0 if matches!(n.drv(), Driver::MirrorTop(_) | Driver::CommitTop) => 0,
            0 => below().unwrap_or(0),
            own => own,
        }
    }

    /// How the buffers of requests have to be aligned, as `bdrv_refresh_limits` finds it: a file's by whether it goes past the host's cache,
    /// that of other nodes the strictest of their children's.
    fn min_mem_alignment(&self, bs: NodeId) -> u64 {
        let n = &self.graph.nodes[bs];
        match n.drv() {
            Driver::File(_) if n.flags.nocache => SECTOR,
            Driver::File(_) => 1,
            // They are made without a child, and nobody asks again when they have one.
            Driver::MirrorTop(_) | Driver::CommitTop => SECTOR,
            _ => n
                .children
                .iter()
                .map(|child| self.min_mem_alignment(self.graph.children[*child].bs))
                .max()
                .unwrap_or(SECTOR),
        }
    }
}
