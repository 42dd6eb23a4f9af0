//! What the driver knows about an open image (`BDRVQcow2State`).

use super::cache::{Cache, CacheState};
use super::exec::Undo;
use super::open::OpenOptions;
use crate::block::content::Table;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// `QCOW_MAGIC`
pub(super) const MAGIC: u64 = 0x5146_49fb;
/// `QCOW_OFLAG_COPIED`: the refcount of what the entry points to is exactly one.
pub(super) const COPIED: u64 = 1 << 63;
/// `QCOW_OFLAG_COMPRESSED`
pub(super) const COMPRESSED: u64 = 1 << 62;
/// `QCOW_OFLAG_ZERO`
pub(super) const ZERO: u64 = 1;
/// `L1E_OFFSET_MASK`, `L2E_OFFSET_MASK`
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// `REFT_OFFSET_MASK`
pub(super) const REFT_MASK: u64 = 0xffff_ffff_ffff_fe00;
/// `QCOW_MAX_CLUSTER_OFFSET`
pub(super) const MAX_CLUSTER_OFFSET: u64 = (1 << 56) - 1;
/// `QCOW_MAX_L1_SIZE`, in bytes.
pub(super) const MAX_L1_SIZE: u64 = 32 << 20;
/// `QCOW_MAX_REFTABLE_SIZE`, in bytes when a header is checked and in entries when the table grows, as in QEMU.
pub(super) const MAX_REFTABLE_SIZE: u64 = 8 << 20;
/// `INT_MAX`
pub(super) const INT_MAX: u64 = i32::MAX as u64;
/// `QCOW2_INCOMPAT_DIRTY`
pub(super) const INCOMPAT_DIRTY: u64 = 1;
/// `QCOW2_INCOMPAT_CORRUPT`
pub(super) const INCOMPAT_CORRUPT: u64 = 2;
/// `QCOW2_INCOMPAT_COMPRESSION`
pub(super) const INCOMPAT_COMPRESSION: u64 = 8;
/// `QCOW2_COMPAT_LAZY_REFCOUNTS`
pub(super) const COMPAT_LAZY: u64 = 1;
/// `QCOW2_AUTOCLEAR_BITMAPS`
pub(super) const AUTOCLEAR_BITMAPS: u64 = 1;
/// `QCOW2_AUTOCLEAR_DATA_FILE_RAW`
pub(super) const AUTOCLEAR_DATA_FILE_RAW: u64 = 2;
/// `QCOW2_AUTOCLEAR_MASK`
pub(super) const AUTOCLEAR_MASK: u64 = 3;

/// What the driver must know about the node below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileTraits {
    /// Whether events are wanted at all. Without blkdebug directly below, nobody sees them.
    pub events: bool,
    /// Whether `supported_zero_flags` has `BDRV_REQ_NO_FALLBACK`, as for a plain file.
    pub zero_no_fallback: bool,
    /// `bl.request_alignment`, in bytes.
    pub request_alignment: u32,
}

impl Default for FileTraits {
    fn default() -> FileTraits {
        FileTraits { events: true, zero_no_fallback: true, request_alignment: 1 }
    }
}

/// An inconsistency that the driver came upon (`qcow2_signal_corruption`, BLOCK_IMAGE_CORRUPTED).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Corruption {
    /// The message, as QEMU prints it behind `Marking image as corrupt: ` or `Image is corrupt: `.
    pub message: String,
    /// Whether the node is unusable from now on (`bs->drv = NULL`).
    pub fatal: bool,
    /// Place of the write that was prevented, in bytes of the file.
    pub place: Option<(u64, u64)>,
}

/// Strings of the header, which hardly ever change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Names {
    pub backing_file: Option<String>,
    pub backing_format: Option<String>,
    /// Header fields behind the ones known here.
    pub unknown_fields: Vec<u8>,
    /// Extensions that are kept though not understood, newest first, as QEMU writes them back.
    pub unknown_extensions: Vec<(u32, Vec<u8>)>,
    /// The image had stored bitmaps when it was opened, and they were not valid any more.
    pub lost_bitmaps: bool,
}

/// An allocation that is not linked yet (`QCowL2Meta`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct L2Meta {
    pub id: u64,
    /// Guest offset of the first cluster.
    pub offset: u64,
    /// File offset of the first cluster.
    pub alloc_offset: u64,
    pub nb_clusters: u64,
    /// The clusters were there before and are not to be freed.
    pub keep_old: bool,
    /// Offset in the area, and length.
    pub cow_start: (u64, u64),
    pub cow_end: (u64, u64),
    pub skip_cow: bool,
    /// The guest data is written together with the copied parts (`data_qiov`).
    pub merged: bool,
}

impl L2Meta {
    /// `l2meta_cow_start`
    pub fn cow_from(&self) -> u64 {
        self.offset + self.cow_start.0
    }

    /// `l2meta_cow_end`
    pub fn cow_to(&self) -> u64 {
        self.offset + self.cow_end.0 + self.cow_end.1
    }
}

/// Reasons to give a freed cluster back to the file system (`enum qcow2_discard_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum DiscardType {
    Never,
    Always,
    Request,
    Snapshot,
    Other,
}

/// The part of the state that is small enough to be put back by copying it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Scalars {
    pub version: u32,
    pub cluster_bits: u32,
    pub refcount_order: u32,
    /// Guest size in bytes, `total_sectors * 512`.
    pub size: u64,
    pub l1_size: u64,
    pub l1_offset: u64,
    pub reft_offset: u64,
    /// In entries.
    pub reft_size: u64,
    pub max_reft_index: u64,
    pub free_cluster_index: u64,
    pub free_byte_offset: u64,
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
    pub compression_type: u8,
    /// Entries in a slice of an L2 table.
    pub l2_slice_size: u64,
    pub lazy_refcounts: bool,
    pub writable: bool,
    /// `pass-discard-request`: discards of the guest reach the file.
    pub discard_request: bool,
    /// `discard-no-unref`: what the guest discards keeps its cluster.
    pub discard_no_unref: bool,
    pub prealloc_checked: bool,
    pub prealloc: bool,
    pub nb_bitmaps: u32,
    pub bitmap_dir_offset: u64,
    pub bitmap_dir_size: u64,
    /// Offset and length, in the order in which they will be sent.
    pub discards: Vec<(u64, u64)>,
    /// `cluster_allocs`, newest first.
    pub allocs: Vec<L2Meta>,
    pub next_alloc: u64,
    pub corruption: Option<Arc<Corruption>>,
    pub names: Arc<Names>,
    /// What the image was opened with.
    pub options: Arc<OpenOptions>,
}

/// [`Scalars`] that are copied when a procedure first changes them, so that they can be put back. Most procedures change none.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    now: Scalars,
    /// A procedure is under way.
    armed: bool,
    /// How they were when it began.
    before: Option<Box<Scalars>>,
}

impl Tracked {
    /// From here on, [`Tracked::rewind`] comes back to this.
    pub fn mark(&mut self) {
        self.armed = true;
        self.before = None;
    }

    /// Back to how they were at the last mark, and no longer tracked.
    pub fn rewind(&mut self) {
        self.armed = false;
        if let Some(before) = self.before.take() {
            self.now = *before;
        }
    }

    /// Leaves them as they are, and no longer tracked.
    pub fn keep(&mut self) {
        self.armed = false;
        self.before = None;
    }
}

impl Deref for Tracked {
    type Target = Scalars;
    fn deref(&self) -> &Scalars {
        &self.now
    }
}

impl DerefMut for Tracked {
    fn deref_mut(&mut self) -> &mut Scalars {
        if self.armed && self.before.is_none() {
            self.before = Some(Box::new(self.now.clone()));
        }
        &mut self.now
    }
}

// Between procedures only the values count.
impl Clone for Tracked {
    fn clone(&self) -> Tracked {
        Tracked { now: self.now.clone(), ..Tracked::default() }
    }
}

impl PartialEq for Tracked {
    fn eq(&self, other: &Tracked) -> bool {
        self.now == other.now
    }
}

impl Eq for Tracked {}

impl Hash for Tracked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.now.hash(state);
    }
}

impl Corruption {
    /// What QEMU prints on standard error.
    #[must_use]
    pub fn text(&self) -> String {
        let (what, which) =
            if self.fatal { ("Marking image as corrupt", "") } else { ("Image is corrupt", "non-fatal ") };
        format!("qcow2: {what}: {}; further {which}corruption events will be suppressed", self.message)
    }
}

/// An open qcow2 image (`BDRVQcow2State`). Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Qcow2 {
    pub(super) sc: Tracked,
    pub(super) caches: [CacheState; 2],
    pub(super) l1: triomphe::Arc<Table>,
    pub(super) reftable: triomphe::Arc<Table>,
    pub(super) tables: [Cache; 2],
    /// Room for the undo list of a procedure; empty between procedures.
    pub(super) scratch: Vec<Undo>,
    /// `bs->file`: its alignments and what it can do.
    pub file: FileTraits,
    /// Whether a backing node is attached (`bs->backing`).
    pub has_backing: bool,
}

impl Qcow2 {
    /// The state before an image is opened.
    #[must_use]
    pub fn new(file: FileTraits) -> Qcow2 {
        Qcow2 { file, ..Qcow2::default() }
    }

    /// Guest size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.sc.size
    }

    /// Cluster size in bytes.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        1 << self.sc.cluster_bits
    }

    /// Format version: 2 (`compat=0.10`) or 3 (`compat=1.1`).
    #[must_use]
    pub fn version(&self) -> u32 {
        self.sc.version
    }

    /// Width of a refcount in bits.
    #[must_use]
    pub fn refcount_bits(&self) -> u32 {
        1 << self.sc.refcount_order
    }

    /// `qcow2_vm_state_offset`: where the state of the machine would begin, in bytes of the guest's disk.
    #[must_use]
    pub fn vm_state_offset(&self) -> u64 {
        self.sc.size_to_l1(self.sc.size) << (2 * self.sc.cluster_bits - 3)
    }

    /// Whether refcounts may be out of date while the image is open (`lazy-refcounts`).
    #[must_use]
    pub fn lazy_refcounts(&self) -> bool {
        self.sc.compatible & COMPAT_LAZY != 0
    }

    /// How clusters are compressed.
    #[must_use]
    pub fn compression_type(&self) -> &'static str {
        if self.sc.compression_type == 0 { "zlib" } else { "zstd" }
    }

    /// Whether the image is marked dirty (only with lazy refcounts).
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.sc.incompatible & INCOMPAT_DIRTY != 0
    }

    /// Whether the image is marked corrupt.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.sc.incompatible & INCOMPAT_CORRUPT != 0
    }

    /// The corruption that was reported last, if any.
    #[must_use]
    pub fn corruption(&self) -> Option<&Corruption> {
        self.sc.corruption.as_deref()
    }

    /// What QEMU says of stored bitmaps that were not valid any more when the image was opened, if there were any.
    #[must_use]
    pub fn lost_bitmaps(&self) -> Option<&'static str> {
        let text = match self.sc.version {
            2 => {
                "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without persistent \
                 bitmap support; so now they must all be considered inconsistent"
            }
            _ => "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent",
        };
        self.sc.names.lost_bitmaps.then_some(text)
    }

    /// Name of the backing file as it stands in the header.
    #[must_use]
    pub fn backing_file(&self) -> Option<&str> {
        self.sc.names.backing_file.as_deref()
    }

    /// Format of the backing file as it stands in the header.
    #[must_use]
    pub fn backing_format(&self) -> Option<&str> {
        self.sc.names.backing_format.as_deref()
    }

    /// How many bitmaps the image stores.
    #[must_use]
    pub fn stored_bitmaps(&self) -> u32 {
        self.sc.nb_bitmaps
    }

    /// Whether anything waits in the caches to be written.
    #[must_use]
    pub fn has_dirty_caches(&self) -> bool {
        self.tables.iter().any(Cache::is_dirty)
    }
}

/// Geometry.
impl Scalars {
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub fn offset_into_cluster(&self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    pub fn start_of_cluster(&self, offset: u64) -> u64 {
        offset & !(self.cluster_size() - 1)
    }

    pub fn size_to_clusters(&self, size: u64) -> u64 {
        size.div_ceil(self.cluster_size())
    }

    pub fn round_up(&self, offset: u64) -> u64 {
        self.start_of_cluster(offset.saturating_add(self.cluster_size() - 1))
    }

    /// log2 of the entries in an L2 table.
    pub fn l2_bits(&self) -> u32 {
        self.cluster_bits - 3
    }

    pub fn l1_index(&self, offset: u64) -> u64 {
        offset >> (self.l2_bits() + self.cluster_bits)
    }

    /// `size_to_l1`
    pub fn size_to_l1(&self, size: u64) -> u64 {
        size.div_ceil(1 << (self.l2_bits() + self.cluster_bits))
    }

    /// Index of the entry in its L2 slice.
    pub fn slice_index(&self, offset: u64) -> u64 {
        (offset >> self.cluster_bits) & (self.l2_slice_size - 1)
    }

    /// `refcount_block_bits`: log2 of the entries in a refcount block.
    pub fn refblock_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.refcount_order
    }

    pub fn refblock_size(&self) -> u64 {
        1 << self.refblock_bits()
    }

    pub fn refcount_max(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.refcount_order))
    }

    /// Bytes of an entry in the table that stands for a refcount block; narrow refcounts are packed in bytes.
    pub fn refblock_width(&self) -> u8 {
        1 << self.refcount_order.saturating_sub(3)
    }

    pub fn csize_shift(&self) -> u32 {
        62 - (self.cluster_bits - 8)
    }

    /// `qcow2_need_accurate_refcounts`
    pub fn accurate_refcounts(&self) -> bool {
        self.incompatible & INCOMPAT_DIRTY == 0
    }

    pub fn passes_discard(&self, kind: DiscardType) -> bool {
        match kind {
            DiscardType::Never | DiscardType::Other => false,
            DiscardType::Always | DiscardType::Snapshot => true,
            DiscardType::Request => self.discard_request,
        }
    }
}

/// What a guest cluster is (`QCow2ClusterType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ClusterType {
    Unallocated,
    ZeroPlain,
    ZeroAlloc,
    Normal,
    Compressed,
}

impl ClusterType {
    /// `qcow2_get_cluster_type`
    pub fn of(entry: u64) -> ClusterType {
        match (entry & COMPRESSED != 0, entry & ZERO != 0, entry & OFFSET_MASK != 0) {
            (true, _, _) => ClusterType::Compressed,
            (_, true, true) => ClusterType::ZeroAlloc,
            (_, true, false) => ClusterType::ZeroPlain,
            (_, false, true) => ClusterType::Normal,
            (_, false, false) => ClusterType::Unallocated,
        }
    }

    /// `qcow2_cluster_is_allocated`
    pub fn is_allocated(self) -> bool {
        matches!(self, ClusterType::Compressed | ClusterType::Normal | ClusterType::ZeroAlloc)
    }
}
