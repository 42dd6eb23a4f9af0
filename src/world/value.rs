//! What one frame hands to the next.

use super::World;
use super::arena::{BackendId, JobId, NodeId};
use crate::base::Json;
use crate::base::errno::{Errno, Ret};
use crate::block::content::Data;
use crate::block::qcow2::{Fault, StoredBitmap};
use crate::qmp::error::QmpError;

/// Block status flags (`BDRV_BLOCK_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockStatus {
    /// `BDRV_BLOCK_DATA`
    pub data: bool,
    /// `BDRV_BLOCK_ZERO`
    pub zero: bool,
    /// `BDRV_BLOCK_ALLOCATED`
    pub allocated: bool,
    /// `BDRV_BLOCK_EOF`
    pub eof: bool,
    /// `BDRV_BLOCK_RECURSE`: the layer below may know better
    pub recurse: bool,
    /// `BDRV_BLOCK_OFFSET_VALID`: where in the file below the range stands
    pub map: Option<u64>,
    /// In which layer the range is allocated, the top one being 1.
    pub depth: u32,
    /// How many bytes from the offset asked for have this status.
    pub pnum: u64,
}

/// The register between frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Val {
    /// Nothing was returned.
    #[default]
    None,
    /// A cell that nobody uses.
    Free,
    /// 0 or an errno.
    Ret(Ret),
    /// What a read found.
    Data(Ret<Data>),
    /// What a status query found.
    Status(Ret<BlockStatus>),
    /// A node, with a reference, or the reason why there is none.
    Node(Result<NodeId, QmpError>),
    /// A backend or the reason why there is none.
    Backend(Result<BackendId, QmpError>),
    /// A job or the reason why there is none.
    Job(Result<JobId, QmpError>),
    /// Success, or an error for the client.
    Done(Result<(), QmpError>),
    /// A command's return value.
    Json(Result<Json, QmpError>),
    /// A number such as a length.
    Num(Ret<u64>),
    /// A condition that was looked at.
    Bool(bool),
    /// What opening an image, or another operation with a message of its own, came to.
    Opened(Result<Vec<StoredBitmap>, Fault>),
}

/// What one frame leaves and another one expects.
pub(in crate::world) trait Returned: Sized {
    /// In words, for the message where something else was left.
    const WHAT: &'static str;

    /// The value, or what it is instead.
    fn from_val(value: Val) -> Result<Self, Val>;

    /// The value, where it can be had without taking what holds it.
    #[inline]
    fn copied(_: &Val) -> Option<Self> {
        None
    }
}

macro_rules! returned {
    ($($type:ty = $what:literal $([$as_is:pat => $copy:expr])?: $($pattern:pat => $value:expr),*;)*) => {
        $(impl Returned for $type {
            const WHAT: &'static str = $what;

            #[inline]
            fn from_val(value: Val) -> Result<Self, Val> {
                match value {
                    $($pattern => Ok($value),)*
                    other => Err(other),
                }
            }

            $(
                #[inline]
                fn copied(value: &Val) -> Option<Self> {
                    if let $as_is = value { Some($copy) } else { None }
                }
            )?
        })*
    };
}

returned! {
    Ret = "a status" [Val::Ret(ret) => *ret]:
        Val::Ret(ret) => ret,
        Val::None => Ok(()),
        Val::Done(done) => done.map_err(|err| err.errno.unwrap_or(Errno::EIO));
    Ret<Data> = "data": Val::Data(data) => data, Val::Ret(Err(errno)) => Err(errno);
    Ret<BlockStatus> = "a block status" [Val::Status(status) => *status]: Val::Status(status) => status;
    Ret<u64> = "a number" [Val::Num(number) => *number]: Val::Num(number) => number;
    Result<NodeId, QmpError> = "a node or an error": Val::Node(node) => node;
    Result<BackendId, QmpError> = "a backend or an error": Val::Backend(blk) => blk;
    Result<JobId, QmpError> = "a job or an error": Val::Job(job) => job;
    Result<(), QmpError> = "success or an error":
        Val::Done(done) => done,
        Val::None | Val::Ret(Ok(())) => Ok(()),
        Val::Ret(Err(errno)) => Err(QmpError::generic(errno.to_string()));
}

impl Val {
    /// Whether it is a failure.
    #[must_use]
    pub fn is_err(&self) -> bool {
        match self {
            Val::None | Val::Free | Val::Bool(_) => false,
            Val::Ret(ret) => ret.is_err(),
            Val::Data(data) => data.is_err(),
            Val::Status(status) => status.is_err(),
            Val::Node(node) => node.is_err(),
            Val::Backend(blk) => blk.is_err(),
            Val::Job(job) => job.is_err(),
            Val::Done(done) => done.is_err(),
            Val::Json(json) => json.is_err(),
            Val::Num(number) => number.is_err(),
            Val::Opened(opened) => opened.is_err(),
        }
    }

    /// The failure as an error for the client; `None` if it is none.
    #[must_use]
    pub fn error(self) -> Option<QmpError> {
        let of_errno = |errno: Errno| QmpError::generic(errno.to_string()).with_errno(errno);
        match self {
            Val::None | Val::Free | Val::Bool(_) => None,
            Val::Ret(ret) => ret.err().map(of_errno),
            Val::Data(data) => data.err().map(of_errno),
            Val::Status(status) => status.err().map(of_errno),
            Val::Num(number) => number.err().map(of_errno),
            Val::Node(node) => node.err(),
            Val::Backend(blk) => blk.err(),
            Val::Job(job) => job.err(),
            Val::Done(done) => done.err(),
            Val::Json(json) => json.err(),
            Val::Opened(opened) => opened.err().map(|fault| QmpError::generic(fault.to_string())),
        }
    }

    /// The failure as a number; `EIO` where an error has only words. `None` if it is no failure.
    #[must_use]
    pub fn errno(self) -> Option<Errno> {
        match self {
            Val::Opened(opened) => opened.err().map(|fault| fault.errno),
            other => other.error().map(|err| err.errno.unwrap_or(Errno::EIO)),
        }
    }

    /// A failure that has a number and no words of its own.
    #[must_use]
    pub fn err(errno: Errno) -> Val {
        Val::Ret(Err(errno))
    }
}

impl World {
    /// The result in the register as a plain status.
    #[track_caller]
    pub(in crate::world) fn take_ret(&mut self) -> Ret {
        self.take()
    }

    /// The result in the register as data.
    #[track_caller]
    pub(in crate::world) fn take_data(&mut self) -> Ret<Data> {
        self.take()
    }

    /// The plain success or failure that a frame left.
    #[track_caller]
    pub(in crate::world) fn take_done(&mut self) -> Result<(), QmpError> {
        self.take()
    }
}
