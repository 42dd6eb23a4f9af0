//! Opening and closing an image (block/qcow2.c).

use super::bitmap::StoredBitmap;
use super::cache::{CacheState, Which};
use super::exec::{Caught, Cx, Fault, Res};
use super::header::{HEADER_LEN, Header, c_string};
use super::state::{
    AUTOCLEAR_DATA_FILE_RAW, AUTOCLEAR_MASK, COMPAT_LAZY, INCOMPAT_COMPRESSION, INCOMPAT_CORRUPT, INT_MAX, MAX_L1_SIZE,
    MAX_REFTABLE_SIZE, Names, Qcow2, REFT_MASK, Scalars,
};
use crate::base::errno::Errno;
use crate::block::content::Table;
use crate::block::event::BlkdebugEvent as Event;
use std::sync::Arc;

/// `QCOW2_INCOMPAT_MASK`
const INCOMPAT_KNOWN: u64 = 0x1f;
const INCOMPAT_DATA_FILE: u64 = 4;
const INCOMPAT_EXTL2: u64 = 16;
/// `DEFAULT_L2_CACHE_MAX_SIZE`, in bytes.
const L2_CACHE_MAX: u64 = 32 << 20;

/// How to open an image. The defaults are QEMU's, for writing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OpenOptions {
    /// `BDRV_O_RDWR`, and not `read-only`.
    pub writable: bool,
    /// `BDRV_O_INACTIVE`: nothing is written to the image, and its bitmaps are left alone.
    pub inactive: bool,
    /// `pass-discard-request`; by default on if the node has `discard=unmap`.
    pub discard_request: bool,
    /// `discard-no-unref`: a cluster that is discarded keeps its place.
    pub discard_no_unref: bool,
    /// `lazy-refcounts`, instead of what the header says.
    pub lazy_refcounts: Option<bool>,
    /// `l2-cache-size` in bytes.
    pub l2_cache_size: Option<u64>,
    /// `l2-cache-entry-size` in bytes.
    pub l2_cache_entry_size: Option<u64>,
    /// `refcount-cache-size` in bytes.
    pub refcount_cache_size: Option<u64>,
    /// `cache-size` in bytes.
    pub cache_size: Option<u64>,
    /// `cache-clean-interval` in seconds; nothing is ever cleaned, but the number has a range.
    pub cache_clean_interval: u64,
    /// What is wrong with a size, which is found before all else.
    pub refused: Option<Arc<str>>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            writable: true,
            inactive: false,
            discard_request: false,
            discard_no_unref: false,
            lazy_refcounts: None,
            l2_cache_size: None,
            l2_cache_entry_size: None,
            refcount_cache_size: None,
            cache_size: None,
            cache_clean_interval: 0,
            refused: None,
        }
    }
}

fn einval<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::new(Errno::EINVAL, message))
}

/// `validate_compression_type`
fn check_compression(header: &Header) -> Result<(), Fault> {
    match (header.compression_type, header.incompatible & INCOMPAT_COMPRESSION != 0) {
        (0, false) | (1, true) => Ok(()),
        (0, true) => einval("qcow2: Compression type incompatible feature bit must not be set"),
        (1, false) => einval("qcow2: Compression type incompatible feature bit must be set"),
        (other, _) => Err(Fault::new(Errno::ENOTSUP, format!("qcow2: unknown compression type: {other}"))),
    }
}

/// What real QEMU opens and this driver does not.
fn check_simulated(header: &Header) -> Result<(), Fault> {
    let lacks = [
        (header.incompatible & INCOMPAT_DATA_FILE != 0, "an external data file"),
        (header.incompatible & INCOMPAT_EXTL2 != 0, "extended L2 entries"),
        (header.crypt_method != 0, "encryption"),
        (header.nb_snapshots != 0, "internal snapshots"),
    ];
    match lacks.iter().find(|(has, _)| *has) {
        Some((_, what)) => Err(Fault::new(Errno::ENOTSUP, format!("The image has {what}, which is not simulated"))),
        None => Ok(()),
    }
}

/// `qcow2_validate_table`
fn check_table(sc: &Scalars, offset: u64, entries: u64, each: u64, max: u64, name: &str) -> Result<(), Fault> {
    if entries > max / each {
        return Err(Fault::new(Errno::EFBIG, format!("{name} too large")));
    }
    if i64::MAX as u64 - entries * each < offset || sc.offset_into_cluster(offset) != 0 {
        return einval(format!("{name} offset invalid"));
    }
    Ok(())
}

fn lazy_refcounts(sc: &Scalars, options: &OpenOptions) -> bool {
    options.lazy_refcounts.unwrap_or(sc.compatible & COMPAT_LAZY != 0)
}

impl Qcow2 {
    /// `qcow2_update_options_commit`. The caches are empty.
    fn update_options_commit(&mut self, options: &OpenOptions) {
        let (l2_places, entry, refcount_places) = cache_sizes(&self.sc, options).expect("it was looked at before");
        self.sc.lazy_refcounts = lazy_refcounts(&self.sc, options);
        self.sc.l2_slice_size = entry / 8;
        self.caches = [CacheState::new(l2_places, entry), CacheState::new(refcount_places, self.cluster_size())];
    }

    /// `qcow2_reopen_commit`: what was prepared is so from now on. Nothing was sent to the node since, so that the caches have nothing to
    /// write.
    pub fn reopen_commit(&mut self, options: &OpenOptions) {
        self.drop_clean_caches();
        self.update_options_commit(options);
        self.sc.writable = options.writable;
        self.sc.discard_request = options.discard_request;
        self.sc.discard_no_unref = options.discard_no_unref;
        self.sc.options = Arc::new(options.clone());
    }
}

/// `read_cache_sizes` and the lower bounds: L2 places, bytes of a place, refcount places.
fn cache_sizes(sc: &Scalars, options: &OpenOptions) -> Result<(u32, u64, u32), Fault> {
    let cluster = sc.cluster_size();
    let max_l2 = (sc.size.div_ceil(cluster) * 8).next_multiple_of(cluster);
    let max_setting = options.l2_cache_size.unwrap_or(L2_CACHE_MAX);
    let mut l2 = max_l2.min(max_setting);
    let mut refcount = options.refcount_cache_size.unwrap_or(0);
    if let Some(both) = options.cache_size {
        match (options.l2_cache_size, options.refcount_cache_size) {
            (Some(_), Some(_)) => {
                return einval("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
            }
            (Some(wanted), _) if wanted > both => return einval("l2-cache-size may not exceed cache-size"),
            (_, Some(wanted)) if wanted > both => return einval("refcount-cache-size may not exceed cache-size"),
            (Some(_), None) => refcount = both - l2,
            (None, Some(_)) => l2 = both - refcount,
            (None, None) if both >= max_l2 + 4 * cluster => (l2, refcount) = (max_l2, both - max_l2),
            (None, None) => {
                refcount = both.min(4 * cluster);
                l2 = both - refcount;
            }
        }
    }
    let mut entry = options.l2_cache_entry_size.unwrap_or(cluster);
    if l2 < max_l2 && options.l2_cache_entry_size.is_none() {
        entry = cluster.min(4096);
    }
    if !(512..=cluster).contains(&entry) || !entry.is_power_of_two() {
        return einval(format!(
            "L2 cache entry size must be a power of two between 512 and the cluster size ({cluster})"
        ));
    }
    let (l2, refcount) = ((l2 / entry).max(2), (refcount / cluster).max(4));
    if l2 > INT_MAX {
        return einval("L2 cache size too big");
    }
    if refcount > INT_MAX {
        return einval("Refcount cache size too big");
    }
    Ok((l2 as u32, entry, refcount as u32))
}

impl Qcow2 {
    /// `update_max_refcount_table_index`
    pub(super) fn update_max_reft_index(&mut self) {
        let last = self.reftable.iter().rev().find(|&(_, entry)| entry & REFT_MASK != 0);
        self.sc.max_reft_index = last.map_or(0, |(index, _)| u64::from(index));
    }
}

impl Cx<'_> {
    /// `qcow2_do_open`
    pub fn do_open(&mut self, options: &OpenOptions) -> Res<Vec<StoredBitmap>> {
        let header = self.read(0, HEADER_LEN).say("Could not read qcow2 header")?;
        let header = Header::parse(&header)?;
        let mut names = Names::default();
        if header.header_len > HEADER_LEN {
            let data = self
                .read(HEADER_LEN, header.header_len - HEADER_LEN)
                .say("Could not read unknown qcow2 header fields")?;
            names.unknown_fields = data.to_bytes();
        }
        let cluster_size = 1u64 << header.cluster_bits;
        if header.backing_offset > cluster_size {
            einval("Invalid backing file offset")?;
        }
        let ext_end = if header.backing_offset == 0 { cluster_size } else { header.backing_offset };
        check_compression(&header)?;
        let unknown = header.incompatible & !INCOMPAT_KNOWN;
        if unknown != 0 {
            let text = format!("Unsupported qcow2 feature(s): Unknown incompatible feature: {unknown:x}");
            return Err(Fault::new(Errno::ENOTSUP, text).into());
        }
        self.take_header(&header, options)?;
        self.read_l1()?;
        self.update_options(options)?;
        self.refcount_init()?;
        let mut update = self.read_extensions(header.header_len, ext_end, &mut names)?;
        if self.q.sc.autoclear & AUTOCLEAR_DATA_FILE_RAW != 0 {
            einval("data-file-raw requires a data file")?;
        }
        if header.backing_offset != 0 {
            let len = header.backing_len;
            if len > 1023.min(cluster_size - header.backing_offset) {
                einval("Backing file name too long")?;
            }
            let name = self.read(header.backing_offset, len).say("Could not read backing file name")?;
            names.backing_file = Some(c_string(&name));
        }
        self.q.sc.names = Arc::new(names);
        update |= self.q.sc.autoclear & !AUTOCLEAR_MASK != 0;
        update &= options.writable && !options.inactive;
        if update {
            self.q.sc.autoclear &= AUTOCLEAR_MASK;
        }
        let (bitmaps, header_updated) = if options.inactive { Default::default() } else { self.load_bitmaps()? };
        if update && !header_updated {
            self.update_header().say("Could not update qcow2 header")?;
        }
        Ok(bitmaps)
    }

    /// Checks the header and enters its fields.
    fn take_header(&mut self, header: &Header, options: &OpenOptions) -> Result<(), Fault> {
        if header.incompatible & INCOMPAT_CORRUPT != 0 && options.writable {
            return Err(Fault::new(Errno::EACCES, "qcow2: Image is corrupt; cannot be opened read/write"));
        }
        if header.refcount_order > 6 {
            return einval("Reference count entry width too large; may not exceed 64 bits");
        }
        check_simulated(header)?;
        // The procedure runs again for each answer: what was noted by the run before serves again.
        let known = &self.q.sc.options;
        let options_kept = if **known == *options { known.clone() } else { Arc::new(options.clone()) };
        *self.q.sc = Scalars {
            version: header.version as u32,
            cluster_bits: header.cluster_bits as u32,
            refcount_order: header.refcount_order as u32,
            size: header.size & !511,
            l1_size: header.l1_size,
            l1_offset: header.l1_offset,
            reft_offset: header.reft_offset,
            reft_size: header.reft_clusters << (header.cluster_bits - 3),
            incompatible: header.incompatible,
            compatible: header.compatible,
            autoclear: header.autoclear,
            compression_type: header.compression_type as u8,
            writable: options.writable,
            discard_request: options.discard_request,
            discard_no_unref: options.discard_no_unref,
            options: options_kept,
            names: Arc::default(),
            max_reft_index: 0,
            free_cluster_index: 0,
            free_byte_offset: 0,
            l2_slice_size: 0,
            lazy_refcounts: false,
            prealloc_checked: false,
            prealloc: false,
            nb_bitmaps: 0,
            bitmap_dir_offset: 0,
            bitmap_dir_size: 0,
            discards: Vec::new(),
            allocs: Vec::new(),
            next_alloc: 0,
            corruption: None,
        };
        self.q.caches = Default::default();
        let sc = &self.q.sc;
        if header.reft_clusters == 0 {
            return einval("Image does not contain a reference count table");
        }
        let cluster = sc.cluster_size();
        check_table(sc, sc.reft_offset, header.reft_clusters, cluster, MAX_REFTABLE_SIZE, "Reference count table")?;
        check_table(sc, header.snapshots_offset, header.nb_snapshots, 40, 40 * 65_536, "Snapshot table")?;
        check_table(sc, sc.l1_offset, sc.l1_size, 8, MAX_L1_SIZE, "Active L1 table")?;
        // `size_to_l1` overflows for sizes near 2^64; these are refused when the node's length is looked at.
        let l1_shift = sc.l2_bits() + sc.cluster_bits;
        let needed = header.size.wrapping_add((1 << l1_shift) - 1) >> l1_shift;
        if needed > INT_MAX {
            return Err(Fault::new(Errno::EFBIG, "Image is too big"));
        }
        if sc.l1_size < needed {
            return einval("L1 table is too small");
        }
        Ok(())
    }

    fn read_l1(&mut self) -> Res {
        let Scalars { l1_offset, l1_size, .. } = *self.q.sc;
        let mut l1 = triomphe::Arc::new(Table::new(8));
        if l1_size > 0 {
            l1 = self.read(l1_offset, l1_size * 8).say("Could not read L1 table")?.to_table(8);
        }
        self.replace_l1(l1);
        Ok(())
    }

    fn refcount_init(&mut self) -> Res {
        let Scalars { reft_offset, reft_size, .. } = *self.q.sc;
        self.event(Event::ReftableLoad);
        let table = self.read(reft_offset, reft_size * 8).say("Could not initialize refcount handling")?.to_table(8);
        self.replace_reftable(table);
        self.q.update_max_reft_index();
        Ok(())
    }

    /// `qcow2_update_options`: caches of the right size, empty. What they held before is written first.
    pub fn update_options(&mut self, options: &OpenOptions) -> Res {
        self.update_options_prepare(options)?;
        self.forget_cache(Which::L2);
        self.forget_cache(Which::Refcount);
        self.q.update_options_commit(options);
        Ok(())
    }

    /// `qcow2_update_options_prepare`: what may fail. The caches are written, and keep what they hold.
    pub fn update_options_prepare(&mut self, options: &OpenOptions) -> Res {
        if let Some(text) = &options.refused {
            einval(&**text)?;
        }
        cache_sizes(&self.q.sc, options)?;
        if self.q.caches[0].size > 0 {
            self.flush_cache(Which::L2).say("Failed to flush the L2 table cache")?;
            self.flush_cache(Which::Refcount).say("Failed to flush the refcount block cache")?;
        }
        if options.cache_clean_interval > u64::from(u32::MAX) {
            einval("Cache clean interval too big")?;
        }
        let lazy = lazy_refcounts(&self.q.sc, options);
        if lazy && self.q.sc.version < 3 {
            einval("Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level")?;
        }
        if self.q.sc.lazy_refcounts && !lazy {
            self.mark_image_clean().say("Failed to disable lazy refcounts")?;
        }
        if options.discard_no_unref && self.q.sc.version < 3 {
            einval("discard-no-unref is only supported since qcow2 version 3")?;
        }
        Ok(())
    }

    /// The flushes of `qcow2_inactivate`, behind the storing of the bitmaps: the messages that QEMU prints.
    pub fn inactivate(&mut self, mut failed: Option<Errno>) -> Res<Vec<String>> {
        let mut messages = Vec::new();
        for (which, name) in [(Which::L2, "L2 table"), (Which::Refcount, "refcount block")] {
            if let Err(fault) = self.flush_cache(which).caught()? {
                messages.push(format!("Failed to flush the {name} cache: {}", fault.errno));
                failed = Some(fault.errno);
            }
        }
        if failed.is_none() {
            let _ = self.mark_image_clean().caught()?;
        }
        Ok(messages)
    }
}
