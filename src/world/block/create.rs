//! Making images inside the process: `drive-backup`'s target, and `blockdev-create` jobs (`block.c:bdrv_img_create`,
//! `block/create.c`, `block/qcow2.c:qcow2_co_create_opts`).

use crate::base::errno::Errno;
use crate::base::units::align_up;
use crate::block::qcow2::CreateOptions as Qcow2Options;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::driver::qcow2::create::Qcow2CreateFrame;
use crate::world::block::driver::qcow2::create::TRUNCATE;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::OpenFlags;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::spec::OpenSpec;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// For what a file was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AfterCreate {
    /// As an image of this format, which is the file.
    Image(Arc<str>),
    /// As a qcow2 image.
    Qcow2(Qcow2Options),
    /// By a `blockdev-create` job.
    Job,
}

impl AfterCreate {
    /// The format of which `bdrv_img_create` says that it cannot have that size.
    pub(in crate::world) fn format(&self) -> Option<&str> {
        match self {
            AfterCreate::Image(format) => Some(format),
            AfterCreate::Qcow2(_) => Some("qcow2"),
            AfterCreate::Job => None,
        }
    }
}

/// An image to be made (`bdrv_img_create`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NewImage {
    /// Path of the file on the host.
    pub path: Arc<str>,
    /// Name of the driver that formats it.
    pub format: Arc<str>,
    /// File name and format of its backing file.
    pub backing: Option<(Arc<str>, Arc<str>)>,
    /// The backing file must be there (no `BDRV_O_NO_BACKING`).
    pub look: bool,
    /// Size of the disk in bytes.
    pub size: u64,
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ImgCreateFrame {
    /// The end of making an image of that format: what is said where it is too large.
    ImgCreated(Arc<str>),
    ImgCreate(Box<NewImage>),
    ImgBackingOpened,
}

impl ImgCreateFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ImgCreateFrame::ImgCreated(format) => {
                if let Val::Done(Err(err)) = w.peek_mut()
                    && err.errno == Some(Errno::EFBIG)
                {
                    err.desc = crate::world::block::host_work::too_large(&format).into();
                }
                Flow::Go
            }
            ImgCreateFrame::ImgCreate(image) => w.img_create(image),
            ImgCreateFrame::ImgBackingOpened => w.img_backing_opened(),
        }
    }
}

impl World {
    /// `bdrv_img_create`. Leaves `Val::Done`.
    fn img_create(&mut self, image: Box<NewImage>) -> Flow {
        let (path, format, size) = (&image.path, &*image.format, image.size);
        let fail = |w: &mut World, text: String| w.ret(Val::Done(Err(QmpError::generic(text))));
        if let Some(err) = OpenSpec::unknown_protocol(path) {
            return self.ret(Val::Done(Err(err)));
        }
        if OpenSpec::is_nbd_name(path) {
            return fail(self, "not simulated: making an image on an NBD server".to_owned());
        }
        if matches!(format, "file" | "raw") && image.backing.is_some() {
            return fail(self, format!("Backing file not supported for file format '{format}'"));
        }
        // Before anybody looks at the file, whose lock the backing node may hold.
        if format == "qcow2" && image.backing.as_ref().is_some_and(|(file, _)| file == path) {
            let text = "Error: Trying to create an image with the same filename as the backing file";
            return fail(self, text.to_owned());
        }
        if matches!(format, "file" | "raw" | "qcow2") && !self.files.look(path, false) {
            return self.seq([ImgCreateFrame::ImgCreate(image).into()]);
        }
        if matches!(format, "file" | "raw" | "qcow2")
            && let Err(text) = self.may_create(path)
        {
            return fail(self, text);
        }
        match format {
            "file" | "raw" => {
                self.console(&format!("Formatting '{path}', fmt={format} size={size}"));
                let then = Box::new(AfterCreate::Image(image.format.clone()));
                self.raw_create(image.path, align_up(size, 512), false, then)
            }
            "qcow2" => {
                let look = image.backing.clone().filter(|_| image.look);
                let create = Qcow2CreateFrame::ImgCreateQcow2(image).into();
                match look {
                    None => self.seq([create]),
                    // The backing file is opened and closed to see whether it is there.
                    Some((file, format)) => {
                        let flags = OpenFlags { force_share: true, ..OpenFlags::default() };
                        let spec = OpenSpec::from_filename(&file, Some(&format), flags);
                        self.seq([
                            OpenFrame::BdrvOpen(Arc::new(spec)).into(),
                            ImgCreateFrame::ImgBackingOpened.into(),
                            Frame::if_ok([create]),
                        ])
                    }
                }
            }
            "null-co" | "null-aio" | "blkdebug" | "copy-before-write" => {
                fail(self, format!("Format driver '{format}' does not support image creation"))
            }
            other if crate::world::block::open::spec::is_known_format(other) => {
                fail(self, format!("not simulated: {other}"))
            }
            other => fail(self, format!("Unknown file format '{other}'")),
        }
    }

    /// Why the host file `path` cannot be made anew (`block/file-posix.c:raw_co_create`).
    pub(in crate::world) fn may_create(&self, path: &Arc<str>) -> Result<(), String> {
        if !self.files.can_create(path) {
            let errno = self.files.look_at(path).and_then(|look| look.create.err()).unwrap_or(Errno::ENOENT);
            return Err(format!("Could not create '{path}': {errno}"));
        }
        let (used, shared) = (perm::WRITE | perm::RESIZE, perm::ALL & !perm::RESIZE);
        self.graph.file_lock_conflict(&self.files.key(path), None, used, shared).map_or(Ok(()), Err)
    }

    /// `bdrv_img_create`, once the backing file was opened. Leaves `Val::Done`.
    fn img_backing_opened(&mut self) -> Flow {
        let opened: Result<NodeId, QmpError> = self.take();
        match opened {
            Ok(bs) => {
                self.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([GraphFrame::BdrvUnref(bs).into()])
            }
            Err(err) => self.ret(Val::Done(Err(err))),
        }
    }

    /// What comes after the file was made as long as it is to be, by worker threads.
    pub(super) fn raw_created(&mut self, path: Arc<str>, then: Box<AfterCreate>) -> Flow {
        let done = Frame::Give(Box::new(Val::Done(Ok(()))));
        match *then {
            // QEMU polls for them: what is ready runs here.
            AfterCreate::Image(_) => self.seq([Frame::BhPoll, done]),
            AfterCreate::Job => self.seq([Frame::Sleep(TRUNCATE), done]),
            AfterCreate::Qcow2(options) => self.qcow2_create_file(&path, options),
        }
    }
}
