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
    /// A truth.
    Bool(bool),
    /// What opening an image, or another operation with a message of its own, came to.
    Opened(Result<Vec<StoredBitmap>, Fault>),
}

impl Val {
    /// A plain failure.
    #[must_use]
    pub fn err(errno: Errno) -> Val {
        Val::Ret(Err(errno))
    }
}

impl World {
    /// The result in the register as a plain status.
    pub(in crate::world) fn take_ret(&mut self) -> Ret {
        match std::mem::take(&mut self.reg) {
            Val::Ret(ret) => ret,
            Val::None => Ok(()),
            other => panic!("expected a status, found {other:?}"),
        }
    }

    /// The result in the register as data.
    pub(in crate::world) fn take_data(&mut self) -> Ret<Data> {
        match std::mem::take(&mut self.reg) {
            Val::Data(data) => data,
            Val::Ret(Err(errno)) => Err(errno),
            other => panic!("expected data, found {other:?}"),
        }
    }

    /// The plain success or failure that a frame left.
    pub(super) fn take_done(&mut self) -> Result<(), QmpError> {
        match std::mem::take(&mut self.reg) {
            Val::Done(done) => done,
            Val::None | Val::Ret(Ok(())) => Ok(()),
            Val::Ret(Err(errno)) => Err(QmpError::generic(errno.to_string())),
            other => panic!("expected success or an error, found {other:?}"),
        }
    }
}
