//! Persistent bitmaps (block/qcow2-bitmap.c).
//!
//! Bits travel as QEMU serializes them: the last level of the bitmap in words of 64 bits, least significant bit first,
//! little-endian.

mod store;

use crate::base::errno::Errno;
use crate::block::content::{Data, Table, WriteTag};
use crate::block::qcow2::exec::{Caught, Cx, Fault, Res};
use crate::block::qcow2::header::{MAX_BITMAP_DIRECTORY, MAX_BITMAPS, c_string};
use crate::block::qcow2::state::{AUTOCLEAR_BITMAPS, Qcow2, Scalars};
use triomphe::Arc;

/// `BME_MAX_TABLE_SIZE`, in entries.
const MAX_TABLE: u64 = 0x800_0000;
/// `BME_MAX_PHYS_SIZE`, in bytes.
const MAX_PHYS: u64 = 0x2000_0000;
const GRANULARITY_BITS: std::ops::RangeInclusive<u32> = 9..=31;
const MAX_NAME: u64 = 1023;
const FLAG_IN_USE: u32 = 1;
const FLAG_AUTO: u32 = 2;
const RESERVED_FLAGS: u32 = 0xffff_fffc;
const ENTRY_RESERVED: u64 = 0xff00_0000_0000_01fe;
const ENTRY_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const ENTRY_ONES: u64 = 1;
/// `sizeof(Qcow2BitmapDirEntry)`
const DIR_ENTRY: u64 = 24;

/// A bitmap as it was found in an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoredBitmap {
    /// Up to 1023 bytes.
    pub name: String,
    /// Bytes that a bit stands for.
    pub granularity: u64,
    /// Whether it records writes (flag `auto`).
    pub enabled: bool,
    /// Whether it was in use when the image was last closed, so that its bits are worthless.
    pub inconsistent: bool,
    /// Whether it may not be changed, as the image is not open for writing.
    pub readonly: bool,
    /// The bits, serialized; none if `inconsistent`.
    pub bits: Data,
}

/// A bitmap in memory that is to be stored when the image is closed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreBitmap {
    /// Up to 1023 bytes.
    pub name: String,
    /// Bytes that a bit stands for; a power of two.
    pub granularity: u64,
    /// Whether it records writes.
    pub enabled: bool,
    /// Whether it was loaded and may not be changed; then it is left as it is in the image.
    pub readonly: bool,
    /// The bits, serialized: one for each `granularity` bytes of the guest's disk, in whole words of 64.
    pub bits: Data,
}

/// A bitmap in memory, and whether it may be changed (`bdrv_dirty_bitmap_check` with `BDRV_BITMAP_DEFAULT`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BitmapCheck {
    /// By which the directory of the image is searched.
    pub name: String,
    /// Why it may not be changed.
    pub problem: Option<String>,
}

/// A bitmap in memory, when its image becomes writable again (`qcow2_reopen_bitmaps_rw`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemoryBitmap {
    /// By which the directory of the image is searched.
    pub name: String,
    /// It may not be changed.
    pub readonly: bool,
    /// It was in use when its image was last closed.
    pub inconsistent: bool,
}

/// A bitmap as the directory of an image lists it (`Qcow2BitmapInfo`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListedBitmap {
    /// As in its directory entry.
    pub name: String,
    /// Bytes that a bit stands for.
    pub granularity: u64,
    /// Whether it is in use, so that its bits in the image are worthless.
    pub in_use: bool,
    /// Whether it records writes.
    pub auto: bool,
}

impl Qcow2 {
    /// `qcow2_get_bitmap_info_list`. `read` gives bytes of the file: offset, length.
    ///
    /// # Errors
    /// The directory in the image is broken.
    pub fn listed_bitmaps(&self, read: impl FnOnce(u64, u64) -> Data) -> Result<Vec<ListedBitmap>, Fault> {
        if self.sc.nb_bitmaps == 0 {
            return Ok(Vec::new());
        }
        let (offset, size) = (self.sc.bitmap_dir_offset, self.sc.bitmap_dir_size);
        let listed = |entry: Entry| ListedBitmap {
            granularity: 1 << entry.granularity_bits,
            in_use: entry.flags & FLAG_IN_USE != 0,
            auto: entry.flags & FLAG_AUTO != 0,
            name: entry.name,
        };
        Ok(parse_directory(&self.sc, &read(offset, size))?.into_iter().map(listed).collect())
    }
}

/// An entry of the directory (`Qcow2Bitmap`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::block::qcow2) struct Entry {
    table_offset: u64,
    table_size: u64,
    flags: u32,
    granularity_bits: u32,
    pub(in crate::block::qcow2) name: String,
}

impl Entry {
    fn dir_size(&self) -> u64 {
        dir_entry_size(self.name.len() as u64)
    }

    /// `check_dir_entry`
    fn check(&self, sc: &Scalars) -> Result<(), Errno> {
        let bad = self.table_size == 0
            || self.table_offset == 0
            || sc.offset_into_cluster(self.table_offset) != 0
            || self.table_size > MAX_TABLE
            || !GRANULARITY_BITS.contains(&self.granularity_bits)
            || self.flags & RESERVED_FLAGS != 0
            || self.name.len() as u64 > MAX_NAME;
        let phys = self.table_size.saturating_mul(sc.cluster_size());
        let short = self.flags & FLAG_IN_USE == 0
            && u128::from(sc.size) > (u128::from(phys) * 8) << self.granularity_bits.min(63);
        if bad || phys > MAX_PHYS || short { Err(Errno::EINVAL) } else { Ok(()) }
    }
}

/// The entries of the directory's bytes.
fn parse_directory(sc: &Scalars, dir: &Data) -> Result<Vec<Entry>, Fault> {
    let fail = |text: &str| Err(Fault::new(Errno::EINVAL, text));
    let size = dir.len();
    let mut list = Vec::new();
    let mut at = 0;
    while at < size {
        if at + DIR_ENTRY > size {
            return fail("Broken bitmap directory");
        }
        if list.len() as u64 + 1 > u64::from(sc.nb_bitmaps) {
            return fail("More bitmaps found than specified in header extension");
        }
        let (name_len, extra) = (dir.be_at(at + 18, 2), dir.be_at(at + 20, 4));
        let next = at + dir_entry_size(name_len + extra);
        if next > size {
            return fail("Broken bitmap directory");
        }
        if extra != 0 {
            return fail("Bitmap extra data is not supported");
        }
        let name = c_string(&dir.slice(at + DIR_ENTRY, name_len));
        let entry = Entry {
            table_offset: dir.be_at(at, 8),
            table_size: dir.be_at(at + 8, 4),
            flags: dir.be_at(at + 12, 4) as u32,
            granularity_bits: dir.be_at(at + 17, 1) as u32,
            name,
        };
        if entry.check(sc).is_err() || dir.be_at(at + 16, 1) != 1 {
            return fail(&format!("Bitmap '{}' doesn't satisfy the constraints", entry.name));
        }
        list.push(entry);
        at = next;
    }
    if list.len() as u64 != u64::from(sc.nb_bitmaps) {
        return fail("Less bitmaps found than specified in header extension");
    }
    Ok(list)
}

/// `calc_dir_entry_size`
fn dir_entry_size(name: u64) -> u64 {
    (DIR_ENTRY + name).next_multiple_of(8)
}

/// `check_table_entry`
fn table_entry_ok(entry: u64, cluster_size: u64) -> bool {
    let offset = entry & ENTRY_OFFSET;
    entry & ENTRY_RESERVED == 0 && (offset == 0 || (entry & ENTRY_ONES == 0 && offset.is_multiple_of(cluster_size)))
}

/// Bytes of the serialized bits of a disk of `size` bytes.
fn serialized_size(size: u64, granularity_bits: u32) -> u64 {
    size.div_ceil(1 << granularity_bits).div_ceil(64) * 8
}

impl Scalars {
    /// `check_constraints_on_bitmap`
    fn check_bitmap(&self, name: &str, granularity: u64) -> Result<(), Fault> {
        let bits = granularity.trailing_zeros();
        let bytes = self.size.div_ceil(granularity.max(1)).div_ceil(8);
        let text = if bits > *GRANULARITY_BITS.end() {
            format!("Granularity exceeds maximum ({} bytes)", 1u64 << GRANULARITY_BITS.end())
        } else if bits < *GRANULARITY_BITS.start() {
            format!("Granularity is under minimum ({} bytes)", 1u64 << GRANULARITY_BITS.start())
        } else if bytes > MAX_PHYS || bytes > MAX_TABLE * self.cluster_size() {
            "Too much space will be occupied by the bitmap. Use larger granularity".to_owned()
        } else if name.len() as u64 > MAX_NAME {
            format!("Name length exceeds maximum ({MAX_NAME} characters)")
        } else {
            return Ok(());
        };
        Err(Fault::new(Errno::EINVAL, text))
    }
}

impl Qcow2 {
    /// Whether a new bitmap could be stored in the image (`qcow2_co_can_store_new_dirty_bitmap`, behind the check for
    /// its name). `persistent` are the names of the persistent bitmaps that the node has.
    ///
    /// # Errors
    /// QEMU's reason, without the prefix `Can't make bitmap '…' persistent in '…': `.
    pub fn can_store_bitmap<'a>(
        &self,
        name: &str,
        granularity: u64,
        persistent: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), String> {
        if self.sc.version < 3 {
            return Err("Cannot store dirty bitmaps in qcow2 v2 files".to_owned());
        }
        self.sc.check_bitmap(name, granularity).map_err(|fault| fault.to_string())?;
        let (mut number, mut size) = (1, dir_entry_size(name.len() as u64));
        for other in persistent {
            number += 1;
            size += dir_entry_size(other.len() as u64);
        }
        if number > MAX_BITMAPS {
            return Err("Maximum number of persistent bitmaps is already reached".to_owned());
        }
        if size > MAX_BITMAP_DIRECTORY {
            return Err("Not enough space in the bitmap directory".to_owned());
        }
        Ok(())
    }
}

impl Cx<'_> {
    /// `bitmap_list_load`
    pub(in crate::block::qcow2) fn load_directory(&mut self) -> Res<Vec<Entry>> {
        let (offset, size) = (self.q.sc.bitmap_dir_offset, self.q.sc.bitmap_dir_size);
        if size == 0 {
            return Err(Fault::new(Errno::EINVAL, "Requested bitmap directory size is zero").into());
        }
        let dir = self.read(offset, size).say("Failed to read bitmap directory")?;
        Ok(parse_directory(&self.q.sc, &dir)?)
    }

    /// `bitmap_table_load`
    fn load_bitmap_table(&mut self, offset: u64, size: u64) -> Res<Arc<Table>> {
        let table = self.read(offset, size * 8)?.to_table(8);
        let cluster_size = self.q.sc.cluster_size();
        if table.any(|entry| !table_entry_ok(entry, cluster_size)) { Cx::fail(Errno::EINVAL) } else { Ok(table) }
    }

    /// `load_bitmap_data`
    fn load_bits(&mut self, entry: &Entry, table: &Table) -> Res<Data> {
        let cluster_size = self.q.sc.cluster_size();
        let total = serialized_size(self.q.sc.size, entry.granularity_bits);
        if total.div_ceil(cluster_size) != entry.table_size {
            return Cx::fail(Errno::EINVAL);
        }
        let mut bits = Data::new();
        for (i, place) in table.iter() {
            let start = u64::from(i) * cluster_size;
            let len = cluster_size.min(total - start);
            let part = match place & ENTRY_OFFSET {
                0 if place & ENTRY_ONES != 0 => Data::pattern(0xff, len, WriteTag(0)),
                0 => continue,
                at => self.read(at, cluster_size)?.slice(0, len),
            };
            bits.append(&Data::zeroes(start - bits.len()));
            bits.append(&part);
        }
        bits.append(&Data::zeroes(total - bits.len()));
        Ok(bits)
    }

    /// `qcow2_load_dirty_bitmaps`: the bitmaps of the image, and whether the header was written.
    pub fn load_bitmaps(&mut self) -> Res<(Vec<StoredBitmap>, bool)> {
        if self.q.sc.nb_bitmaps == 0 {
            return Ok((Vec::new(), false));
        }
        let writable = self.q.sc.writable;
        let mut list = self.load_directory()?;
        let mut loaded = Vec::new();
        for entry in &mut list {
            let inconsistent = entry.flags & FLAG_IN_USE != 0;
            let mut bits = Data::new();
            if !inconsistent {
                let text = format!("Could not read bitmap_table table from image for bitmap '{}'", entry.name);
                let table = self.load_bitmap_table(entry.table_offset, entry.table_size).say(&text)?;
                let text = format!("Could not read bitmap '{}' from image", entry.name);
                bits = self.load_bits(entry, &table).say(&text)?;
            }
            loaded.push(StoredBitmap {
                name: entry.name.clone(),
                granularity: 1 << entry.granularity_bits,
                enabled: entry.flags & FLAG_AUTO != 0,
                inconsistent,
                readonly: !writable,
                bits,
            });
            entry.flags |= FLAG_IN_USE;
        }
        let update = writable && loaded.iter().any(|bitmap| !bitmap.inconsistent);
        if update {
            self.mark_in_use(&list).say("Can't update bitmap directory")?;
        }
        Ok((loaded, update))
    }

    /// `update_ext_header_and_dir_in_place`
    fn mark_in_use(&mut self, list: &[Entry]) -> Res {
        if self.q.sc.autoclear & AUTOCLEAR_BITMAPS == 0 || list.len() as u64 != u64::from(self.q.sc.nb_bitmaps) {
            return Cx::fail(Errno::EINVAL);
        }
        self.q.sc.autoclear &= !AUTOCLEAR_BITMAPS;
        self.update_header_sync()?;
        let dir = self.directory_bytes(list)?;
        let (offset, size) = (self.q.sc.bitmap_dir_offset, self.q.sc.bitmap_dir_size);
        if offset == 0 || dir.len() != size {
            return Cx::fail(Errno::EINVAL);
        }
        self.overlap_check(Some(crate::block::qcow2::overlap::Overlap::BitmapDirectory), offset, size)?;
        self.write(offset, || dir)?;
        self.update_header_sync()?;
        self.q.sc.autoclear |= AUTOCLEAR_BITMAPS;
        self.update_header_sync()
    }

    /// What the bitmaps refer to: offsets and lengths in the file (`qcow2_check_bitmaps_refcounts`).
    pub(in crate::block::qcow2) fn bitmap_references(&mut self) -> Res<Vec<(u64, u64)>> {
        let sc = &self.q.sc;
        if sc.nb_bitmaps == 0 {
            return Ok(Vec::new());
        }
        let mut refs = vec![(sc.bitmap_dir_offset, sc.bitmap_dir_size)];
        for entry in self.load_directory()? {
            refs.push((entry.table_offset, entry.table_size * 8));
            let table = self.load_bitmap_table(entry.table_offset, entry.table_size)?;
            let places = table.iter().map(|(_, place)| place & ENTRY_OFFSET).filter(|&place| place != 0);
            refs.extend(places.map(|place| (place, self.q.sc.cluster_size())));
        }
        Ok(refs)
    }

    /// `qcow2_reopen_bitmaps_rw`, as far as the image is concerned.
    pub fn bitmaps_writable(&mut self, bitmaps: &[MemoryBitmap]) -> Res {
        if self.q.sc.nb_bitmaps == 0 {
            return Ok(());
        }
        let mut list = self.load_directory()?;
        let mut update = false;
        for entry in &mut list {
            let (name, in_use) = (&entry.name, entry.flags & FLAG_IN_USE != 0);
            let Some(bitmap) = bitmaps.iter().find(|bitmap| bitmap.name == *name) else { continue };
            let text = match (in_use, bitmap.inconsistent, bitmap.readonly) {
                (false, false, true) => {
                    entry.flags |= FLAG_IN_USE;
                    update = true;
                    continue;
                }
                (true, true, _) | (true, false, false) => continue,
                (false, true, _) => "is inconsistent in memory and not marked IN_USE in the image",
                (false, false, false) => "is not marked IN_USE in the image and not marked readonly in RAM",
                (true, false, true) => "is marked IN_USE in the image and readonly in RAM",
            };
            return Err(Fault::new(Errno::EINVAL, format!("Corruption: bitmap '{name}' {text}")).into());
        }
        if update { self.mark_in_use(&list).say("Can't update bitmap directory") } else { Ok(()) }
    }

    /// `qcow2_truncate_bitmaps_check`: a resize needs all stored bitmaps in memory and changeable.
    pub fn check_bitmaps_for_resize(&mut self, bitmaps: &[BitmapCheck]) -> Res {
        if self.q.sc.nb_bitmaps == 0 {
            return Ok(());
        }
        for entry in self.load_directory()? {
            let text = match bitmaps.iter().find(|bitmap| bitmap.name == entry.name) {
                None => "Cannot resize qcow2 with persistent bitmaps that were not loaded into memory",
                Some(BitmapCheck { problem: Some(problem), .. }) => problem,
                Some(_) => continue,
            };
            return Err(Fault::new(Errno::ENOTSUP, text).into());
        }
        Ok(())
    }
}
