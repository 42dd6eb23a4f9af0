//! Persistent bitmaps and their directory, written (block/qcow2-bitmap.c).

use super::{ENTRY_OFFSET, Entry, FLAG_AUTO, FLAG_IN_USE, MAX_PHYS, MAX_TABLE, StoreBitmap, dir_entry_size};
use crate::base::errno::Errno;
use crate::block::content::{Data, Table, WriteTag};
use crate::block::qcow2::exec::{Caught, Cx, Fault, Res, errno_of};
use crate::block::qcow2::header::MAX_BITMAP_DIRECTORY;
use crate::block::qcow2::header::MAX_BITMAPS;
use crate::block::qcow2::state::{AUTOCLEAR_BITMAPS, DiscardType, Scalars};

impl Cx<'_> {
    pub(super) fn directory_bytes(&self, list: &[Entry]) -> Result<Data, Errno> {
        let mut out = Vec::new();
        for entry in list {
            entry.check(&self.q.sc)?;
            out.extend(entry.table_offset.to_be_bytes());
            out.extend((entry.table_size as u32).to_be_bytes());
            out.extend(entry.flags.to_be_bytes());
            out.extend([1, entry.granularity_bits as u8]);
            out.extend((entry.name.len() as u16).to_be_bytes());
            out.extend([0; 4]);
            out.extend(entry.name.as_bytes());
            out.resize(out.len().next_multiple_of(8), 0);
        }
        if out.is_empty() || out.len() as u64 > MAX_BITMAP_DIRECTORY {
            return Err(Errno::EINVAL);
        }
        Ok(Data::bytes(out.into(), WriteTag(0)))
    }

    /// `bitmap_list_store`, to a new place: its offset and size.
    fn store_directory(&mut self, list: &[Entry]) -> Res<(u64, u64)> {
        let dir = self.directory_bytes(list)?;
        let size = dir.len();
        let offset = self.alloc_clusters(size)?;
        let written = match self.overlap_check(None, offset, size).caught()? {
            Ok(()) => self.write(offset, || dir).caught()?,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = written {
            self.free_clusters(offset, size, DiscardType::Other)?;
            return Err(fault.into());
        }
        Ok((offset, size))
    }

    /// `update_ext_header_and_dir`
    fn update_directory(&mut self, list: &[Entry]) -> Res {
        let old = Scalars::clone(&self.q.sc);
        let (offset, size) = if list.is_empty() { (0, 0) } else { self.store_directory(list)? };
        if let Err(fault) = self.switch_directory(list, offset, size).caught()? {
            if offset > 0 {
                self.free_clusters(offset, size, DiscardType::Other)?;
            }
            let sc = &mut self.q.sc;
            sc.bitmap_dir_offset = old.bitmap_dir_offset;
            sc.bitmap_dir_size = old.bitmap_dir_size;
            sc.nb_bitmaps = old.nb_bitmaps;
            sc.autoclear = old.autoclear;
            return Err(fault.into());
        }
        if old.bitmap_dir_size > 0 {
            self.free_clusters(old.bitmap_dir_offset, old.bitmap_dir_size, DiscardType::Other)?;
        }
        Ok(())
    }

    fn switch_directory(&mut self, list: &[Entry], offset: u64, size: u64) -> Res {
        if list.is_empty() {
            self.q.sc.autoclear &= !AUTOCLEAR_BITMAPS;
        } else {
            self.flush_caches()?;
            self.q.sc.autoclear |= AUTOCLEAR_BITMAPS;
        }
        self.q.sc.bitmap_dir_offset = offset;
        self.q.sc.bitmap_dir_size = size;
        self.q.sc.nb_bitmaps = list.len() as u32;
        self.update_header_sync()
    }

    /// `clear_bitmap_table`
    fn free_bits(&mut self, table: &Table) -> Res {
        for place in table.iter().map(|(_, entry)| entry & ENTRY_OFFSET).filter(|&place| place != 0) {
            let size = self.q.sc.cluster_size();
            self.free_clusters(place, size, DiscardType::Always)?;
        }
        Ok(())
    }

    /// `free_bitmap_clusters`
    fn free_bitmap(&mut self, offset: u64, size: u64) -> Res {
        if let Ok(table) = self.load_bitmap_table(offset, size).caught()? {
            self.free_bits(&table)?;
            self.free_clusters(offset, size * 8, DiscardType::Other)?;
        }
        Ok(())
    }

    /// `qcow2_co_remove_persistent_dirty_bitmap`; a bitmap that is not there is no error.
    pub fn remove_bitmap(&mut self, name: &str) -> Res {
        if self.q.sc.nb_bitmaps == 0 {
            return Ok(());
        }
        let mut list = match self.load_directory().caught()? {
            Ok(list) => list,
            Err(fault) => return Err(Fault { errno: Errno::EIO, ..fault }.into()),
        };
        let Some(at) = list.iter().position(|entry| entry.name == name) else { return Ok(()) };
        let gone = list.remove(at);
        self.update_directory(&list).say("Failed to update bitmap extension")?;
        self.free_bitmap(gone.table_offset, gone.table_size)
    }

    /// `qcow2_store_persistent_dirty_bitmaps`: stores the persistent, consistent bitmaps of the node, which come in
    /// the order of its list.
    pub fn store_bitmaps(&mut self, bitmaps: &[StoreBitmap]) -> Res {
        let mut list = if self.q.sc.nb_bitmaps == 0 { Vec::new() } else { self.load_directory()? };
        let (mut dropped, mut stored) = (Vec::new(), Vec::new());
        for bitmap in bitmaps.iter().filter(|bitmap| !bitmap.readonly) {
            let entry = self.claim_entry(&mut list, bitmap, &mut dropped)?;
            stored.push((entry, bitmap));
        }
        if stored.is_empty() {
            return Ok(());
        }
        if !self.q.sc.writable {
            return Err(Fault::new(Errno::EINVAL, "No write access").into());
        }
        stored.sort_by_key(|(entry, _)| *entry);
        if let Err(fault) = self.store_all(&mut list, &stored).caught()? {
            for (entry, _) in stored {
                let Entry { table_offset, table_size, .. } = list[entry];
                if table_offset != 0 {
                    self.free_bitmap(table_offset, table_size)?;
                }
            }
            return Err(fault.into());
        }
        for (offset, size) in dropped {
            self.free_bitmap(offset, size)?;
        }
        Ok(())
    }

    /// The directory entry for a bitmap, made new or taken over; what it pointed to is noted.
    fn claim_entry(
        &self,
        list: &mut Vec<Entry>,
        bitmap: &StoreBitmap,
        dropped: &mut Vec<(u64, u64)>,
    ) -> Result<usize, Fault> {
        let name = &bitmap.name;
        if let Err(fault) = self.q.sc.check_bitmap(name, bitmap.granularity) {
            let text = format!("Bitmap '{name}' doesn't satisfy the constraints: {fault}");
            return Err(Fault::new(fault.errno, text));
        }
        let at = list.iter().position(|entry| entry.name == *name);
        match at {
            None if list.len() as u64 >= MAX_BITMAPS => {
                return Err(Fault::new(Errno::EINVAL, "Too many persistent bitmaps"));
            }
            None if list.iter().map(Entry::dir_size).sum::<u64>() + dir_entry_size(name.len() as u64)
                > MAX_BITMAP_DIRECTORY =>
            {
                return Err(Fault::new(Errno::EINVAL, "Bitmap directory is too large"));
            }
            Some(at) if list[at].flags & FLAG_IN_USE == 0 => {
                return Err(Fault::new(Errno::EINVAL, format!("Bitmap '{name}' already exists in the image")));
            }
            Some(at) => dropped.push((list[at].table_offset, list[at].table_size)),
            None => {}
        }
        let entry = Entry {
            table_offset: 0,
            table_size: 0,
            flags: if bitmap.enabled { FLAG_AUTO } else { 0 },
            granularity_bits: bitmap.granularity.trailing_zeros(),
            name: name.clone(),
        };
        Ok(match at {
            Some(at) => {
                list[at] = entry;
                at
            }
            None => {
                list.push(entry);
                list.len() - 1
            }
        })
    }

    fn store_all(&mut self, list: &mut [Entry], stored: &[(usize, &StoreBitmap)]) -> Res {
        for (entry, bitmap) in stored {
            let (offset, size) = self.store_bitmap(bitmap)?;
            list[*entry].table_offset = offset;
            list[*entry].table_size = size;
        }
        self.update_directory(list).say("Failed to update bitmap extension")
    }

    /// `store_bitmap`: where its table is, and how many entries that has.
    fn store_bitmap(&mut self, bitmap: &StoreBitmap) -> Res<(u64, u64)> {
        let name = &bitmap.name;
        let entries = bitmap.bits.len().div_ceil(self.q.sc.cluster_size());
        let mut table = Table::new(8);
        if let Err(fault) = self.store_bits(bitmap, entries, &mut table).caught()? {
            self.free_bits(&table)?;
            return Err(Fault { errno: Errno::EINVAL, ..fault }.into());
        }
        let table = triomphe::Arc::new(table);
        let len = entries * 8;
        let offset = match errno_of(self.alloc_clusters(len).caught()?) {
            Ok(offset) => offset,
            Err(errno) => {
                self.free_bits(&table)?;
                return Err(Fault::of(errno, format!("Failed to allocate clusters for bitmap '{name}'")).into());
            }
        };
        let text = format!("Failed to write bitmap '{name}' to file");
        let written = match self.overlap_check(None, offset, len).say("Qcow2 overlap check failed").caught()? {
            Ok(()) => self.write(offset, || Data::table(table.clone(), len, WriteTag(0))).say(&text).caught()?,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = written {
            self.free_bits(&table)?;
            self.free_clusters(offset, len, DiscardType::Other)?;
            return Err(fault.into());
        }
        Ok((offset, entries))
    }

    /// `store_bitmap_data`: writes the clusters with set bits.
    fn store_bits(&mut self, bitmap: &StoreBitmap, entries: u64, table: &mut Table) -> Res {
        let name = &bitmap.name;
        let cluster_size = self.q.sc.cluster_size();
        if entries > MAX_TABLE || entries * cluster_size > MAX_PHYS {
            return Err(Fault::new(Errno::EINVAL, format!("Bitmap '{name}' is too big")).into());
        }
        // `g_try_new0` of no entries gives no memory: a bitmap of an empty image is lost.
        if entries == 0 {
            return Err(Fault::new(Errno::EINVAL, "No memory").into());
        }
        for (number, mut part) in bitmap.bits.nonzero_parts(cluster_size) {
            part.append(&Data::zeroes(cluster_size - part.len()));
            let text = format!("Failed to allocate clusters for bitmap '{name}'");
            let offset = self.alloc_clusters(cluster_size).say(&text)?;
            table.set(number as u32, offset);
            self.overlap_check(None, offset, cluster_size).say("Qcow2 overlap check failed")?;
            let text = format!("Failed to write bitmap '{name}' to file");
            self.write(offset, || Data::bytes(part.to_bytes().into(), WriteTag(0))).say(&text)?;
        }
        Ok(())
    }
}
