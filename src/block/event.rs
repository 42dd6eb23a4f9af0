//! The places in the block layer that `blkdebug` can hang a rule on (`BlkdebugEvent`, qapi/block-core.json).

/// A blkdebug event. The variants stand in QEMU's enum order and are spelled as QMP spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlkdebugEvent {
    /// `l1_update`
    L1Update,
    /// `l1_grow_alloc_table`
    L1GrowAllocTable,
    /// `l1_grow_write_table`
    L1GrowWriteTable,
    /// `l1_grow_activate_table`
    L1GrowActivateTable,
    /// `l2_load`
    L2Load,
    /// `l2_update`
    L2Update,
    /// `l2_update_compressed`
    L2UpdateCompressed,
    /// `l2_alloc_cow_read`
    L2AllocCowRead,
    /// `l2_alloc_write`
    L2AllocWrite,
    /// `read_aio`
    ReadAio,
    /// `read_backing_aio`
    ReadBackingAio,
    /// `read_compressed`
    ReadCompressed,
    /// `write_aio`
    WriteAio,
    /// `write_compressed`
    WriteCompressed,
    /// `vmstate_load`
    VmstateLoad,
    /// `vmstate_save`
    VmstateSave,
    /// `cow_read`
    CowRead,
    /// `cow_write`
    CowWrite,
    /// `reftable_load`
    ReftableLoad,
    /// `reftable_grow`
    ReftableGrow,
    /// `reftable_update`
    ReftableUpdate,
    /// `refblock_load`
    RefblockLoad,
    /// `refblock_update`
    RefblockUpdate,
    /// `refblock_update_part`
    RefblockUpdatePart,
    /// `refblock_alloc`
    RefblockAlloc,
    /// `refblock_alloc_hookup`
    RefblockAllocHookup,
    /// `refblock_alloc_write`
    RefblockAllocWrite,
    /// `refblock_alloc_write_blocks`
    RefblockAllocWriteBlocks,
    /// `refblock_alloc_write_table`
    RefblockAllocWriteTable,
    /// `refblock_alloc_switch_table`
    RefblockAllocSwitchTable,
    /// `cluster_alloc`
    ClusterAlloc,
    /// `cluster_alloc_bytes`
    ClusterAllocBytes,
    /// `cluster_free`
    ClusterFree,
    /// `flush_to_os`
    FlushToOs,
    /// `flush_to_disk`
    FlushToDisk,
    /// `pwritev_rmw_head`
    PwritevRmwHead,
    /// `pwritev_rmw_after_head`
    PwritevRmwAfterHead,
    /// `pwritev_rmw_tail`
    PwritevRmwTail,
    /// `pwritev_rmw_after_tail`
    PwritevRmwAfterTail,
    /// `pwritev`
    Pwritev,
    /// `pwritev_zero`
    PwritevZero,
    /// `pwritev_done`
    PwritevDone,
    /// `empty_image_prepare`
    EmptyImagePrepare,
    /// `l1_shrink_write_table`
    L1ShrinkWriteTable,
    /// `l1_shrink_free_l2_clusters`
    L1ShrinkFreeL2Clusters,
    /// `cor_write`
    CorWrite,
    /// `cluster_alloc_space`
    ClusterAllocSpace,
    /// `none`
    None,
}

impl BlkdebugEvent {
    /// All events with their names, in enum order.
    pub const ALL: [(BlkdebugEvent, &'static str); 48] = [
        (BlkdebugEvent::L1Update, "l1_update"),
        (BlkdebugEvent::L1GrowAllocTable, "l1_grow_alloc_table"),
        (BlkdebugEvent::L1GrowWriteTable, "l1_grow_write_table"),
        (BlkdebugEvent::L1GrowActivateTable, "l1_grow_activate_table"),
        (BlkdebugEvent::L2Load, "l2_load"),
        (BlkdebugEvent::L2Update, "l2_update"),
        (BlkdebugEvent::L2UpdateCompressed, "l2_update_compressed"),
        (BlkdebugEvent::L2AllocCowRead, "l2_alloc_cow_read"),
        (BlkdebugEvent::L2AllocWrite, "l2_alloc_write"),
        (BlkdebugEvent::ReadAio, "read_aio"),
        (BlkdebugEvent::ReadBackingAio, "read_backing_aio"),
        (BlkdebugEvent::ReadCompressed, "read_compressed"),
        (BlkdebugEvent::WriteAio, "write_aio"),
        (BlkdebugEvent::WriteCompressed, "write_compressed"),
        (BlkdebugEvent::VmstateLoad, "vmstate_load"),
        (BlkdebugEvent::VmstateSave, "vmstate_save"),
        (BlkdebugEvent::CowRead, "cow_read"),
        (BlkdebugEvent::CowWrite, "cow_write"),
        (BlkdebugEvent::ReftableLoad, "reftable_load"),
        (BlkdebugEvent::ReftableGrow, "reftable_grow"),
        (BlkdebugEvent::ReftableUpdate, "reftable_update"),
        (BlkdebugEvent::RefblockLoad, "refblock_load"),
        (BlkdebugEvent::RefblockUpdate, "refblock_update"),
        (BlkdebugEvent::RefblockUpdatePart, "refblock_update_part"),
        (BlkdebugEvent::RefblockAlloc, "refblock_alloc"),
        (BlkdebugEvent::RefblockAllocHookup, "refblock_alloc_hookup"),
        (BlkdebugEvent::RefblockAllocWrite, "refblock_alloc_write"),
        (BlkdebugEvent::RefblockAllocWriteBlocks, "refblock_alloc_write_blocks"),
        (BlkdebugEvent::RefblockAllocWriteTable, "refblock_alloc_write_table"),
        (BlkdebugEvent::RefblockAllocSwitchTable, "refblock_alloc_switch_table"),
        (BlkdebugEvent::ClusterAlloc, "cluster_alloc"),
        (BlkdebugEvent::ClusterAllocBytes, "cluster_alloc_bytes"),
        (BlkdebugEvent::ClusterFree, "cluster_free"),
        (BlkdebugEvent::FlushToOs, "flush_to_os"),
        (BlkdebugEvent::FlushToDisk, "flush_to_disk"),
        (BlkdebugEvent::PwritevRmwHead, "pwritev_rmw_head"),
        (BlkdebugEvent::PwritevRmwAfterHead, "pwritev_rmw_after_head"),
        (BlkdebugEvent::PwritevRmwTail, "pwritev_rmw_tail"),
        (BlkdebugEvent::PwritevRmwAfterTail, "pwritev_rmw_after_tail"),
        (BlkdebugEvent::Pwritev, "pwritev"),
        (BlkdebugEvent::PwritevZero, "pwritev_zero"),
        (BlkdebugEvent::PwritevDone, "pwritev_done"),
        (BlkdebugEvent::EmptyImagePrepare, "empty_image_prepare"),
        (BlkdebugEvent::L1ShrinkWriteTable, "l1_shrink_write_table"),
        (BlkdebugEvent::L1ShrinkFreeL2Clusters, "l1_shrink_free_l2_clusters"),
        (BlkdebugEvent::CorWrite, "cor_write"),
        (BlkdebugEvent::ClusterAllocSpace, "cluster_alloc_space"),
        (BlkdebugEvent::None, "none"),
    ];

    /// The name that rules and `break` use.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The event of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<BlkdebugEvent> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(e, _)| *e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_enum_order() {
        for (i, (event, name)) in BlkdebugEvent::ALL.iter().enumerate() {
            assert_eq!(*event as usize, i);
            assert_eq!(BlkdebugEvent::from_name(name), Some(*event));
        }
    }
}
