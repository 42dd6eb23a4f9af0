//! The filter that a mirror, and a commit of the active layer, put above their source (`block/mirror.c:bdrv_mirror_top`).

use crate::world::arena::JobId;

/// `MirrorBDSOpaque`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MirrorTop {
    /// The job, from the end of its initial scan to its end.
    pub job: Option<JobId>,
    /// `stop`: the job is at its end, and the filter takes no permissions any more.
    pub stop: bool,
    /// `is_commit`: it belongs to a commit of the active layer.
    pub is_commit: bool,
}
