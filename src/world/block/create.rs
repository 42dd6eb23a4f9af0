//! Making images inside the process: `drive-backup`'s target, and `blockdev-create` jobs (`block.c:bdrv_img_create`,
//! `block/create.c`, `block/qcow2.c:qcow2_co_create_opts`).

use super::driver::{Driver, FileDriver};
use super::graph::{Node, OpenFlags, perm};
use super::open::spec::OpenSpec;
use super::open::unsupported;
use crate::base::errno::Errno;
use crate::base::units::{Nanos, align_up};
use crate::block::qcow2::CreateOptions as Qcow2Options;
use crate::job::status::JobType;
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockdevCreate, BlockdevRef, CreateOptions, CreateQcow2, Qcow2CompressionType, Qcow2Version};
use crate::world::World;
use crate::world::aio::DeviceOp;
use crate::world::arena::{JobId, NodeId};
use crate::world::frame::{Flow, Frame};
use crate::world::job::JobFlags;
use crate::world::job::hooks::{JobDriver, JobHooks, WatchHooks};
use crate::world::value::Val;
use std::sync::Arc;

/// How long a worker thread takes to set the length of a new file, in nanoseconds.
const TRUNCATE: Nanos = 40_000;

/// `BlockdevCreateJob`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CreateJob {
    /// What to create.
    pub options: CreateOptions,
}

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

/// `blockdev_create_job_driver`
pub(in crate::world) const HOOKS: JobHooks = JobHooks {
    job_type: JobType::Create,
    run: World::create_run,
    pause: None,
    resume: None,
    user_resume: None,
    complete: None,
    prepare: None,
    commit: None,
    abort: None,
    clean: None,
    cancel: None,
    block: None,
    watch: WatchHooks { may_rest: None, bitmap: None, target: None },
};

/// A bottom half that changes nothing: a reference taken or given up, also of a data file that is not there.
fn on_main_nothing() -> Frame {
    Frame::OnMain(Box::new(Frame::LockGraph(0)))
}

impl World {
    /// `bdrv_img_create`. `backing` is file name and format; with `look` it must be there (no `BDRV_O_NO_BACKING`). Leaves `Val::Done`.
    pub(in crate::world) fn img_create(
        &mut self,
        path: Arc<str>,
        format: &str,
        backing: Option<(Arc<str>, Arc<str>)>,
        look: bool,
        size: u64,
    ) -> Flow {
        let fail = |w: &mut World, text: String| w.ret(Val::Done(Err(QmpError::generic(text))));
        if matches!(format, "file" | "raw") && backing.is_some() {
            return fail(self, format!("Backing file not supported for file format '{format}'"));
        }
        if matches!(format, "file" | "raw" | "qcow2") && !self.files.look(&path, false) {
            return self.seq([Frame::ImgCreate { path, format: format.into(), backing, look, size }]);
        }
        if matches!(format, "file" | "raw" | "qcow2")
            && let Err(text) = self.may_create(&path)
        {
            return fail(self, text);
        }
        match format {
            "file" | "raw" => {
                self.console(&format!("Formatting '{path}', fmt={format} size={size}"));
                self.raw_create(path, align_up(size, 512), false, Box::new(AfterCreate::Image(format.into())))
            }
            "qcow2" => {
                if backing.as_ref().is_some_and(|(file, _)| *file == path) {
                    let text = "Error: Trying to create an image with the same filename as the backing file";
                    return fail(self, text.to_owned());
                }
                let create = Frame::ImgCreateQcow2 { path, backing: backing.clone(), size };
                match backing.filter(|_| look) {
                    None => self.seq([create]),
                    // The backing file is opened and closed to see whether it is there.
                    Some((file, format)) => {
                        let flags = OpenFlags { force_share: true, ..OpenFlags::default() };
                        let spec = OpenSpec::from_filename(&file, Some(&format), flags);
                        self.seq([
                            Frame::BdrvOpen(Arc::new(spec)),
                            Frame::ImgBackingOpened,
                            Frame::StopOnError(1),
                            create,
                        ])
                    }
                }
            }
            "null-co" | "null-aio" | "blkdebug" | "copy-before-write" => {
                fail(self, format!("Format driver '{format}' does not support image creation"))
            }
            other if super::open::spec::is_known_format(other) => fail(self, format!("not simulated: {other}")),
            other => fail(self, format!("Unknown file format '{other}'")),
        }
    }

    /// Why the host file `path` cannot be made anew (`block/file-posix.c:raw_co_create`).
    fn may_create(&self, path: &Arc<str>) -> Result<(), String> {
        if !self.files.can_create(path) {
            let errno = self.files.look_at(path).and_then(|look| look.create.err()).unwrap_or(Errno::ENOENT);
            return Err(format!("Could not create '{path}': {errno}"));
        }
        let (used, shared) = (perm::WRITE | perm::RESIZE, perm::ALL & !perm::RESIZE);
        self.graph.file_lock_conflict(&self.files.key(path), None, used, shared).map_or(Ok(()), Err)
    }

    /// `bdrv_img_create`, once the backing file was opened. Leaves `Val::Done`.
    pub(in crate::world) fn img_backing_opened(&mut self) -> Flow {
        match std::mem::take(&mut self.reg) {
            Val::Node(Ok(bs)) => {
                self.stack.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([Frame::BdrvUnref(bs)])
            }
            Val::Node(Err(err)) => self.ret(Val::Done(Err(err))),
            other => unreachable!("a node or an error, not {other:?}"),
        }
    }

    /// `bdrv_img_create`: the image itself. Leaves `Val::Done`.
    pub(in crate::world) fn img_create_qcow2(
        &mut self,
        path: &Arc<str>,
        backing: Option<(Arc<str>, Arc<str>)>,
        size: u64,
    ) -> Flow {
        let below = backing.as_ref().map(|(file, format)| format!(" backing_file={file} backing_fmt={format}"));
        self.console(&format!(
            "Formatting '{path}', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size={size}{} \
             lazy_refcounts=off refcount_bits=16",
            below.unwrap_or_default()
        ));
        let (file, format) = backing.map_or((None, None), |(file, format)| (Some(file), Some(format)));
        let options = Qcow2Options {
            backing_file: file.map(|f| f.to_string()),
            backing_format: format.map(|f| f.to_string()),
            ..Qcow2Options::new(align_up(size, 512))
        };
        self.raw_create(path.clone(), 0, false, Box::new(AfterCreate::Qcow2(options)))
    }

    /// What comes after the file was made as long as it is to be, by worker threads.
    pub(in crate::world) fn raw_created(&mut self, path: Arc<str>, then: Box<AfterCreate>) -> Flow {
        let done = Frame::Give(Box::new(Val::Done(Ok(()))));
        match *then {
            // QEMU polls for them: what is ready runs here.
            AfterCreate::Image(_) => self.seq([Frame::BhPoll, done]),
            AfterCreate::Job => self.seq([Frame::Sleep(TRUNCATE), done]),
            AfterCreate::Qcow2(options) => self.qcow2_create_file(&path, options),
        }
    }

    /// `qcow2_co_create_opts`: a node for the new file, formatted and given up again.
    fn qcow2_create_file(&mut self, path: &Arc<str>, options: Qcow2Options) -> Flow {
        let mut node = Node::new();
        node.flags = OpenFlags { rdwr: true, unmap: true, ..OpenFlags::default() };
        node.driver = Some(Driver::File(FileDriver {
            path: self.files.key(path),
            filename: path.clone(),
            locking: true,
            discards: (0, 0),
        }));
        node.size = 0;
        let file = self.bdrv_new(node);
        self.assign_node_name(file, None).expect("a made-up name is free");
        let create = Frame::Qcow2CreateFile { file, options: Box::new(options) };
        self.seq([Frame::RunCo(Box::new(create)), Frame::ImgCreated("qcow2".into())])
    }

    /// `qcow2_co_create_opts`, in its coroutine. What it does to the graph is done by the main thread, in bottom halves.
    pub(in crate::world) fn qcow2_create_file_co(&mut self, file: NodeId, options: Box<Qcow2Options>) -> Flow {
        self.seq([
            // `raw_co_create` empties the file, and makes it as long as it is to be.
            Frame::RawTruncate(file),
            Frame::RawTruncate(file),
            // `bdrv_co_open`: the node is there already, to have something that the file's requests are of.
            on_main_nothing(),
            // `qcow2_co_create` takes a reference and gives it up.
            on_main_nothing(),
            Frame::Qcow2Format { file, options },
            Frame::KeepOver(Box::new(on_main_nothing())),
            Frame::KeepOver(Box::new(on_main_nothing())),
            Frame::KeepOver(Box::new(Frame::OnMain(Box::new(Frame::BdrvUnref(file))))),
            Frame::KeepOver(Box::new(on_main_nothing())),
        ])
    }

    /// A worker thread sets the length of a new file.
    pub(in crate::world) fn raw_truncate(&mut self, file: NodeId) -> Flow {
        self.device_submit(file, DeviceOp::Nothing, 0, TRUNCATE)
    }

    /// `qmp_blockdev_create`
    pub(in crate::world) fn blockdev_create(&mut self, args: BlockdevCreate) -> Flow {
        let refused = match (unsupported::create_option(&args.options), &args.options) {
            (Some(name), _) => Some(format!("not simulated: {name}")),
            (None, CreateOptions::Other(..)) => Some("Driver does not support blockdev-create".to_owned()),
            (None, _) => None,
        };
        if let Some(text) = refused {
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        if let CreateOptions::File(file) = &args.options
            && !self.files.look(&file.filename, false)
        {
            return self.seq([Frame::QmpCommand]);
        }
        let flags = JobFlags { id: Some(args.job_id), auto_finalize: true, auto_dismiss: false, speed: 0 };
        match self.job_create(&flags, JobType::Create, None) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(job) => {
                self.jobs[job].driver = JobDriver::Create(Box::new(CreateJob { options: args.options }));
                self.stack.push(Frame::Give(Box::new(Val::Done(Ok(())))));
                self.seq([Frame::JobStart(job)])
            }
        }
    }

    /// `blockdev_create_run`
    pub(in crate::world) fn create_run(&mut self, job: JobId) -> Flow {
        self.job_progress_set_remaining(job, 1);
        let JobDriver::Create(create) = &self.jobs[job].driver else { unreachable!("a create job") };
        let options = create.options.clone();
        self.stack.push(Frame::CreateDone(job));
        match options {
            CreateOptions::File(file) => {
                if let Err(text) = self.may_create(&file.filename) {
                    return self.ret(Val::Done(Err(QmpError::generic(text))));
                }
                // `raw_co_create` leaves the rounding to its callers; a worker thread makes the file as long as it is to be.
                self.raw_create(file.filename.clone(), file.size, false, Box::new(AfterCreate::Job))
            }
            CreateOptions::Qcow2(qcow2) => self.create_qcow2(&qcow2),
            CreateOptions::Other(driver, _) => unreachable!("{} was refused by the command", driver.name()),
        }
    }

    /// `qcow2_co_create` for a job, in its coroutine.
    fn create_qcow2(&mut self, q: &CreateQcow2) -> Flow {
        match &q.file {
            // `bdrv_co_open_blockdev_ref`: opened for this, and closed again.
            BlockdevRef::Definition(options) => {
                let spec = Arc::new(OpenSpec::from_options(options, None));
                let open = Frame::OnMain(Box::new(Frame::BdrvOpen(spec)));
                self.seq([open, Frame::CreateOver(Box::new(q.clone()))])
            }
            BlockdevRef::Reference(name) => {
                // A reference is taken and given up by the main thread, too.
                match self.lookup_bs(name) {
                    Ok(file) => {
                        self.stack.push(Frame::KeepOver(Box::new(on_main_nothing())));
                        self.stack.push(Frame::KeepOver(Box::new(on_main_nothing())));
                        let _ = self.create_over_node(q, file);
                    }
                    Err(err) => self.stack.push(Frame::Give(Box::new(Val::Done(Err(err))))),
                }
                self.seq([on_main_nothing()])
            }
        }
    }

    /// The same, over a file that was opened.
    pub(in crate::world) fn create_over(&mut self, q: &CreateQcow2) -> Flow {
        match std::mem::take(&mut self.reg) {
            Val::Node(Ok(file)) => {
                let unref = Frame::OnMain(Box::new(Frame::BdrvUnref(file)));
                self.stack.push(Frame::KeepOver(Box::new(on_main_nothing())));
                self.stack.push(Frame::KeepOver(Box::new(unref)));
                self.create_over_node(q, file)
            }
            Val::Node(Err(err)) => self.ret(Val::Done(Err(err))),
            other => unreachable!("a node or an error, not {other:?}"),
        }
    }

    fn create_over_node(&mut self, q: &CreateQcow2, file: NodeId) -> Flow {
        let options = Qcow2Options {
            size: q.size,
            version: if q.version == Some(Qcow2Version::V2) { 2 } else { 3 },
            cluster_size: q.cluster_size.unwrap_or(65_536),
            backing_file: q.backing_file.as_ref().map(ToString::to_string),
            backing_format: q.backing_fmt.map(|d| d.name().to_owned()),
            lazy_refcounts: q.lazy_refcounts.unwrap_or(false),
            refcount_bits: u32::try_from(q.refcount_bits.unwrap_or(16)).unwrap_or(0),
            zstd: q.compression_type == Some(Qcow2CompressionType::Zstd),
        };
        self.seq([Frame::Qcow2Format { file, options: Box::new(options) }])
    }

    /// The end of `blockdev_create_run`.
    pub(in crate::world) fn create_done(&mut self, job: JobId) -> Flow {
        let done = self.take_done();
        self.jobs[job].progress_current += 1;
        match done {
            Ok(()) => self.ret(Val::Ret(Ok(()))),
            Err(err) => {
                self.jobs[job].err = Some(err.desc);
                self.ret(Val::err(Errno::EINVAL))
            }
        }
    }
}
