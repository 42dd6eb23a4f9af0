//! Formatting an image (block/qcow2.c:qcow2_co_create).

use super::exec::{Caught, Cx, Exec, Fault, Res};
use super::op::{Qcow2Answer, Qcow2Ask, Qcow2Result};
use super::open::OpenOptions;
use super::refgrow::be64;
use super::state::{COMPAT_LAZY, INCOMPAT_COMPRESSION, MAGIC, Qcow2};
use crate::base::errno::Errno;
use crate::base::units::BDRV_MAX_LENGTH;
use crate::block::content::{Data, WriteTag};
use crate::block::event::BlkdebugEvent as Event;

/// How to format an image (`BlockdevCreateOptionsQcow2`). The defaults are QEMU's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CreateOptions {
    /// Guest size in bytes.
    pub size: u64,
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: u32,
    /// In bytes.
    pub cluster_size: u64,
    /// Name of the backing file.
    pub backing_file: Option<String>,
    /// `backing-fmt`
    pub backing_format: Option<String>,
    /// `lazy-refcounts`
    pub lazy_refcounts: bool,
    /// Width of a refcount in bits.
    pub refcount_bits: u32,
    /// `compression_type=zstd`, instead of zlib.
    pub zstd: bool,
    /// `preallocation`, other than off: only for its check, as it is not simulated.
    pub preallocation: bool,
}

impl CreateOptions {
    /// An image of so many bytes, and all else as QEMU has it by default.
    #[must_use]
    pub fn new(size: u64) -> CreateOptions {
        CreateOptions {
            size,
            version: 3,
            cluster_size: 65_536,
            backing_file: None,
            backing_format: None,
            lazy_refcounts: false,
            refcount_bits: 16,
            zstd: false,
            preallocation: false,
        }
    }

    /// The checks of `qcow2_co_create`, in its order.
    ///
    /// # Errors
    ///
    /// What does not fit, in QEMU's words.
    pub fn check(&self) -> Result<(), Fault> {
        let newer = "compatibility level 1.1 and above (use version=v3 or greater)";
        let text = if !self.size.is_multiple_of(512) {
            "Image size must be a multiple of 512 bytes".to_owned()
        } else if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            "Cluster size must be a power of two between 512 and 2048k".to_owned()
        } else if self.preallocation && self.backing_file.is_some() {
            "Backing file and preallocation can only be used at the same time if extended_l2 is on".to_owned()
        } else if self.backing_format.is_some() && self.backing_file.is_none() {
            "Backing format cannot be used without backing file".to_owned()
        } else if self.version < 3 && self.lazy_refcounts {
            format!("Lazy refcounts only supported with {newer}")
        } else if self.refcount_bits > 64 || !self.refcount_bits.is_power_of_two() {
            "Refcount width must be a power of two and may not exceed 64 bits".to_owned()
        } else if self.version < 3 && self.refcount_bits != 16 {
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)"
                .to_owned()
        } else if self.version < 3 && self.zstd {
            format!("Non-zlib compression type is only supported with {newer}")
        } else {
            return Ok(());
        };
        Err(Fault::new(Errno::EINVAL, text))
    }

    /// The header of an image of no size, without extensions.
    #[must_use]
    pub fn first_header(&self) -> Data {
        let cluster = self.cluster_size;
        let mut out = Vec::with_capacity(112);
        let be32 = |out: &mut Vec<u8>, value: u64| out.extend((value as u32).to_be_bytes());
        be32(&mut out, MAGIC);
        be32(&mut out, u64::from(self.version));
        out.resize(20, 0);
        be32(&mut out, u64::from(cluster.trailing_zeros()));
        out.resize(48, 0);
        out.extend(cluster.to_be_bytes());
        be32(&mut out, 1);
        out.resize(72, 0);
        let incompatible = if self.zstd { INCOMPAT_COMPRESSION } else { 0 };
        out.extend(incompatible.to_be_bytes());
        let lazy = if self.lazy_refcounts { COMPAT_LAZY } else { 0 };
        out.extend(lazy.to_be_bytes());
        out.resize(96, 0);
        be32(&mut out, u64::from(self.refcount_bits.trailing_zeros()));
        be32(&mut out, super::header::HEADER_LEN);
        out.push(u8::from(self.zstd));
        out.resize(112, 0);
        let mut data = Data::bytes(out.into(), WriteTag(0));
        data.append(&Data::zeroes(cluster - 112));
        data
    }

    /// Where the first refcount table and block stand in bytes, and both: they count nothing yet.
    #[must_use]
    pub fn first_refcounts(&self) -> (u64, Data) {
        let cluster = self.cluster_size;
        let mut data = be64(&[2 * cluster]);
        data.append(&Data::zeroes(2 * cluster - 8));
        (cluster, data)
    }
}

/// `qcow2_co_create`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CreateOp {
    options: CreateOptions,
    step: usize,
    /// The step before which it ends.
    end: usize,
}

type Procedure = fn(&mut Cx<'_>, &CreateOptions) -> Res;

/// The steps of the work, each of which begins with all of the one before on record.
const STEPS: [Procedure; 7] =
    [write_skeleton, open_skeleton, count_skeleton, resize, set_backing, close_without_flush, flush_all];

/// A step that stands by itself, for who opens and closes the image by other means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CreateStep {
    /// The open skeleton's own clusters are counted, and its header gets its extensions.
    Count = 2,
    /// It gets its size.
    Resize = 3,
    /// It gets the name of its backing file.
    SetBacking = 4,
}

impl CreateOp {
    /// All steps of formatting.
    pub fn new(options: CreateOptions) -> CreateOp {
        CreateOp { options, step: 0, end: STEPS.len() }
    }

    /// One step of it.
    pub fn one(options: CreateOptions, step: CreateStep) -> CreateOp {
        CreateOp { options, step: step as usize, end: step as usize + 1 }
    }

    pub fn step(&mut self, ex: &mut Exec, q: &mut Qcow2, _got: Qcow2Answer) -> Qcow2Ask {
        if self.step == 0
            && let Err(fault) = self.options.check()
        {
            return Qcow2Ask::Done(Err(fault));
        }
        for procedure in &STEPS[self.step..self.end] {
            match ex.run(q, |cx| procedure(cx, &self.options)) {
                None => return ex.take_ask(),
                Some(Err(fault)) => return Qcow2Ask::Done(Err(fault)),
                Some(Ok(())) => self.step += 1,
            }
        }
        Qcow2Ask::Done(Ok(Qcow2Result::Done))
    }
}

/// A header, a refcount table and a refcount block that counts nothing yet.
fn write_skeleton(cx: &mut Cx<'_>, options: &CreateOptions) -> Res {
    cx.write(0, || options.first_header()).say("Could not write qcow2 header")?;
    cx.write(options.cluster_size, || options.first_refcounts().1).say("Could not write refcount table")
}

fn open_skeleton(cx: &mut Cx<'_>, _: &CreateOptions) -> Res {
    cx.do_open(&OpenOptions::default()).map(drop)
}

fn count_skeleton(cx: &mut Cx<'_>, options: &CreateOptions) -> Res {
    cx.alloc_clusters(3 * options.cluster_size)
        .say("Could not allocate clusters for qcow2 header and refcount table")?;
    cx.update_header().say("Could not update qcow2 header")
}

fn resize(cx: &mut Cx<'_>, options: &CreateOptions) -> Res {
    if options.size > BDRV_MAX_LENGTH {
        // `bdrv_check_request32`, before the driver is asked.
        let text = match i64::try_from(options.size) {
            Ok(size) => format!("Could not resize image: offset({size}) exceeds maximum({BDRV_MAX_LENGTH})"),
            Err(_) => "Could not resize image: Image size cannot be negative".to_owned(),
        };
        return Err(Fault::new(Errno::EIO, text).into());
    }
    let resized = match cx.grow_to(options.size).caught()? {
        Ok(()) => cx.resize_header(options.size).caught()?,
        Err(fault) => Err(fault),
    };
    Ok(resized.map_err(|fault| Fault::new(fault.errno, format!("Could not resize image: {fault}")))?)
}

fn set_backing(cx: &mut Cx<'_>, options: &CreateOptions) -> Res {
    let Some(file) = &options.backing_file else { return Ok(()) };
    let format = options.backing_format.as_deref();
    let text = format!("Could not assign backing file '{file}' with format '{}'", format.unwrap_or("(null)"));
    cx.change_backing(Some(file), format).say(&text)
}

/// The image is closed; the node was opened with `BDRV_O_NO_FLUSH`, but what is below it is flushed all the same.
fn close_without_flush(cx: &mut Cx<'_>, _: &CreateOptions) -> Res {
    cx.event(Event::FlushToOs);
    if cx.write_caches().caught()?.is_ok() {
        let _ = cx.flush_file().caught()?;
    }
    cx.inactivate(None).map(drop)
}

/// Opened and closed once more, now with flushing.
fn flush_all(cx: &mut Cx<'_>, _: &CreateOptions) -> Res {
    cx.do_open(&OpenOptions::default())?;
    cx.event(Event::FlushToOs);
    if cx.write_caches().caught()?.is_ok() {
        let _ = cx.flush_file().caught()?;
    }
    cx.inactivate(None).map(drop)
}
