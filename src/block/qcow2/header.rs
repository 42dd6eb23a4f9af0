//! The header: reading its fields and extensions, writing it back (block/qcow2.c).

use super::exec::{Caught, Cx, Fault, Res};
use super::op::Qcow2Ask;
use super::state::{AUTOCLEAR_BITMAPS, Corruption, INCOMPAT_CORRUPT, INCOMPAT_DIRTY, MAGIC, Names};
use crate::base::errno::Errno;
use crate::block::content::{Data, WriteTag};
use std::sync::Arc;

/// `sizeof(QCowHeader)`
pub(super) const HEADER_LEN: u64 = 112;
/// Bytes of a version 2 header.
const V2_LEN: u64 = 72;
const EXT_END: u64 = 0;
const EXT_BACKING_FORMAT: u64 = 0xe279_2aca;
const EXT_FEATURES: u64 = 0x6803_f857;
const EXT_CRYPTO: u64 = 0x0537_be77;
const EXT_BITMAPS: u64 = 0x2385_2875;
const EXT_DATA_FILE: u64 = 0x4441_5441;
/// `QCOW2_MAX_BITMAPS`
pub(super) const MAX_BITMAPS: u64 = 65_535;
/// `QCOW2_MAX_BITMAP_DIRECTORY_SIZE`
pub(super) const MAX_BITMAP_DIRECTORY: u64 = 1024 * MAX_BITMAPS;

/// The feature names that QEMU writes into a new header: type (incompatible, compatible, autoclear), bit, name.
const FEATURES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// What stands in a header (`QCowHeader`).
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    pub version: u64,
    pub backing_offset: u64,
    pub backing_len: u64,
    pub cluster_bits: u64,
    pub size: u64,
    pub crypt_method: u64,
    pub l1_size: u64,
    pub l1_offset: u64,
    pub reft_offset: u64,
    pub reft_clusters: u64,
    pub nb_snapshots: u64,
    pub snapshots_offset: u64,
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
    pub refcount_order: u64,
    pub header_len: u64,
    pub compression_type: u64,
}

impl Header {
    /// Reads the first [`HEADER_LEN`] bytes; with the defaults of version 2 where that has no fields.
    pub fn parse(data: &Data) -> Result<Header, Fault> {
        let mut bytes = [0; HEADER_LEN as usize];
        data.copy_to(0, &mut bytes);
        let be = |at: usize, len: usize| bytes[at..at + len].iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
        let (be32, be64) = (|at| be(at, 4), |at| be(at, 8));
        if be32(0) != MAGIC {
            return Err(Fault::new(Errno::EINVAL, "Image is not in qcow2 format"));
        }
        let version = be32(4);
        if !(2..=3).contains(&version) {
            return Err(Fault::new(Errno::ENOTSUP, format!("Unsupported qcow2 version {version}")));
        }
        let mut header = Header {
            version,
            backing_offset: be64(8),
            backing_len: be32(16),
            cluster_bits: be32(20),
            size: be64(24),
            crypt_method: be32(32),
            l1_size: be32(36),
            l1_offset: be64(40),
            reft_offset: be64(48),
            reft_clusters: be32(56),
            nb_snapshots: be32(60),
            snapshots_offset: be64(64),
            refcount_order: 4,
            header_len: V2_LEN,
            ..Header::default()
        };
        if !(9..=21).contains(&header.cluster_bits) {
            let text = format!("Unsupported cluster size: 2^{}", header.cluster_bits);
            return Err(Fault::new(Errno::EINVAL, text));
        }
        if version >= 3 {
            header.incompatible = be64(72);
            header.compatible = be64(80);
            header.autoclear = be64(88);
            header.refcount_order = be32(96);
            header.header_len = be32(100);
            if header.header_len < 104 {
                return Err(Fault::new(Errno::EINVAL, "qcow2 header too short"));
            }
            if header.header_len > 104 {
                header.compression_type = be(104, 1);
            }
        }
        if header.header_len > 1 << header.cluster_bits {
            return Err(Fault::new(Errno::EINVAL, "qcow2 header exceeds cluster size"));
        }
        Ok(header)
    }
}

/// Text as C has it: it ends at the first NUL, if there is one.
pub(super) fn c_string(data: &Data) -> String {
    let bytes = data.to_bytes();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Puts a header extension behind `out` (`header_ext_add`).
fn add_extension(out: &mut Vec<u8>, magic: u64, data: &[u8]) {
    out.extend((magic as u32).to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn feature_table() -> Vec<u8> {
    let mut table = Vec::with_capacity(FEATURES.len() * 48);
    for (kind, bit, name) in FEATURES {
        table.extend([kind, bit]);
        table.extend(name.as_bytes());
        table.resize(table.len().next_multiple_of(48), 0);
    }
    table
}

impl super::Qcow2 {
    /// The header cluster as it would be written now; `ENOSPC` if it does not fit.
    fn header_bytes(&self) -> Result<Vec<u8>, Errno> {
        let sc = &self.sc;
        let mut out = Vec::with_capacity(640);
        let be32 = |out: &mut Vec<u8>, value: u64| out.extend((value as u32).to_be_bytes());
        let be64 = |out: &mut Vec<u8>, value: u64| out.extend(value.to_be_bytes());
        be32(&mut out, MAGIC);
        be32(&mut out, u64::from(sc.version));
        be64(&mut out, 0); // the backing file name is entered below
        be32(&mut out, 0);
        be32(&mut out, u64::from(sc.cluster_bits));
        be64(&mut out, sc.size);
        be32(&mut out, 0);
        be32(&mut out, sc.l1_size);
        be64(&mut out, sc.l1_offset);
        be64(&mut out, sc.reft_offset);
        be32(&mut out, sc.reft_size >> (sc.cluster_bits - 3));
        be32(&mut out, 0);
        be64(&mut out, 0);
        if sc.version >= 3 {
            be64(&mut out, sc.incompatible);
            be64(&mut out, sc.compatible);
            be64(&mut out, sc.autoclear);
            be32(&mut out, u64::from(sc.refcount_order));
            be32(&mut out, HEADER_LEN + sc.names.unknown_fields.len() as u64);
            out.push(sc.compression_type);
            out.resize(HEADER_LEN as usize, 0);
        }
        out.extend(&sc.names.unknown_fields);
        self.add_extensions(&mut out);
        if let Some(name) = &sc.names.backing_file {
            let at = out.len() as u64;
            out[8..16].copy_from_slice(&at.to_be_bytes());
            out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            out.extend(name.as_bytes());
        }
        if out.len() as u64 > sc.cluster_size() {
            return Err(Errno::ENOSPC);
        }
        Ok(out)
    }

    fn add_extensions(&self, out: &mut Vec<u8>) {
        let sc = &self.sc;
        if let Some(format) = &sc.names.backing_format {
            add_extension(out, EXT_BACKING_FORMAT, format.as_bytes());
        }
        if sc.version >= 3 && sc.cluster_size() > 4096 {
            add_extension(out, EXT_FEATURES, &feature_table());
        }
        if sc.nb_bitmaps > 0 {
            let mut ext = sc.nb_bitmaps.to_be_bytes().to_vec();
            ext.extend([0; 4]);
            ext.extend(sc.bitmap_dir_size.to_be_bytes());
            ext.extend(sc.bitmap_dir_offset.to_be_bytes());
            add_extension(out, EXT_BITMAPS, &ext);
        }
        for (magic, data) in &sc.names.unknown_extensions {
            add_extension(out, u64::from(*magic), data);
        }
        add_extension(out, EXT_END, &[]);
    }
}

impl Cx<'_> {
    /// `qcow2_update_header`: writes the header cluster.
    pub fn update_header(&mut self) -> Res {
        let bytes = self.q.header_bytes()?;
        let rest = self.q.sc.cluster_size() - bytes.len() as u64;
        self.write(0, || {
            let mut data = Data::bytes(bytes.into(), WriteTag(0));
            data.append(&Data::zeroes(rest));
            data
        })
    }

    /// `update_header_sync`
    pub fn update_header_sync(&mut self) -> Res {
        self.update_header()?;
        self.flush_file()
    }

    /// `qcow2_mark_dirty`
    pub fn mark_image_dirty(&mut self) -> Res {
        if self.q.sc.incompatible & INCOMPAT_DIRTY != 0 {
            return Ok(());
        }
        let features = self.q.sc.incompatible | INCOMPAT_DIRTY;
        self.write_sync(72, || super::refgrow::be64(&[features]))?;
        self.q.sc.incompatible = features;
        Ok(())
    }

    /// `qcow2_mark_clean`
    pub fn mark_image_clean(&mut self) -> Res {
        if self.q.sc.incompatible & INCOMPAT_DIRTY == 0 {
            return Ok(());
        }
        self.q.sc.incompatible &= !INCOMPAT_DIRTY;
        self.flush_caches()?;
        self.update_header()
    }

    /// `qcow2_signal_corruption`, fatal where the image may be written: it is marked corrupt, and the node loses its driver. Always fails.
    pub fn corrupt<T>(&mut self, message: String, place: Option<(u64, u64)>) -> Res<T> {
        let fatal = self.q.sc.writable;
        let marked = self.q.sc.incompatible & INCOMPAT_CORRUPT != 0;
        if self.q.sc.corruption.is_none() || (fatal && !marked) {
            let corruption = Arc::new(Corruption { message, fatal, place });
            self.ask(|| Qcow2Ask::Corrupted(corruption.clone()))?;
            if fatal {
                self.q.sc.incompatible |= INCOMPAT_CORRUPT;
                let _ = self.update_header().caught()?;
                self.ask(|| Qcow2Ask::DropDriver)?;
            }
            self.q.sc.corruption = Some(corruption);
        }
        Cx::fail(Errno::EIO)
    }

    /// `qcow2_signal_corruption`, not fatal: only reported, and only once.
    pub fn corrupt_mildly(&mut self, message: String) -> Res {
        if self.q.sc.corruption.is_none() {
            let corruption = Arc::new(Corruption { message, fatal: false, place: None });
            self.ask(|| Qcow2Ask::Corrupted(corruption.clone()))?;
            self.q.sc.corruption = Some(corruption);
        }
        Ok(())
    }

    /// `qcow2_read_extensions`: whether the header must be written anew.
    pub fn read_extensions(&mut self, mut at: u64, end: u64, names: &mut Names) -> Res<bool> {
        let einval = |message: &str| -> Res<bool> { Err(Fault::new(Errno::EINVAL, message).into()) };
        let mut update = false;
        while at < end {
            let head =
                self.read(at, 8).say_with(|| format!("qcow2_read_extension: ERROR: pread fail from offset {at}"))?;
            let (magic, len) = (head.be_at(0, 4), head.be_at(4, 4));
            at += 8;
            if at > end || len > end - at {
                return einval("Header extension too large");
            }
            match magic {
                EXT_END => return Ok(update),
                EXT_BACKING_FORMAT => {
                    if len >= 16 {
                        let text = format!("ERROR: ext_backing_format: len={len} too large (>=16)");
                        return einval(&text);
                    }
                    let data = self.read(at, len).say("ERROR: ext_backing_format: Could not read format name")?;
                    names.backing_format = Some(c_string(&data));
                }
                EXT_FEATURES => {}
                EXT_CRYPTO => return einval("CRYPTO header extension only expected with LUKS encryption method"),
                EXT_BITMAPS => {
                    let lost = self.read_bitmaps_extension(at, len)?;
                    names.lost_bitmaps |= lost;
                    update |= lost;
                }
                EXT_DATA_FILE => return einval("'data-file' is required for this image"),
                _ => {
                    let data = self.read(at, len).say("ERROR: unknown extension: Could not read data")?;
                    names.unknown_extensions.insert(0, (magic as u32, data.to_bytes()));
                }
            }
            at += len.next_multiple_of(8);
        }
        Ok(update)
    }

    /// The bitmaps extension; one that is not valid any more is dropped: whether it was.
    fn read_bitmaps_extension(&mut self, at: u64, len: u64) -> Res<bool> {
        let einval = |message: String| -> Res<bool> { Err(Fault::new(Errno::EINVAL, message).into()) };
        if len != 24 {
            return einval("bitmaps_ext: Invalid extension length".to_owned());
        }
        if self.q.sc.autoclear & AUTOCLEAR_BITMAPS == 0 {
            return Ok(true);
        }
        let ext = self.read(at, len).say("bitmaps_ext: Could not read ext header")?;
        let (nb, reserved) = (ext.be_at(0, 4), ext.be_at(4, 4));
        let (size, offset) = (ext.be_at(8, 8), ext.be_at(16, 8));
        if reserved != 0 {
            return einval("bitmaps_ext: Reserved field is not zero".to_owned());
        }
        if nb > MAX_BITMAPS {
            return einval(format!(
                "bitmaps_ext: Image has {nb} bitmaps, exceeding the QEMU supported maximum of {MAX_BITMAPS}"
            ));
        }
        if nb == 0 {
            return einval("found bitmaps extension with zero bitmaps".to_owned());
        }
        if self.q.sc.offset_into_cluster(offset) != 0 {
            return einval("bitmaps_ext: invalid bitmap directory offset".to_owned());
        }
        if size > MAX_BITMAP_DIRECTORY {
            return einval(format!(
                "bitmaps_ext: bitmap directory size ({size}) exceeds the maximum supported size ({MAX_BITMAP_DIRECTORY})"
            ));
        }
        self.q.sc.nb_bitmaps = nb as u32;
        self.q.sc.bitmap_dir_offset = offset;
        self.q.sc.bitmap_dir_size = size;
        Ok(false)
    }
}
