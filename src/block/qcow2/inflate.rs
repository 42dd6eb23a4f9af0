//! Compressed clusters (block/qcow2-threads.c).

use super::exec::Fault;
use crate::base::errno::Errno;
use crate::block::content::Data;

/// The contents of a compressed cluster.
pub(super) fn cluster(_input: &[u8], _compression_type: u8, _cluster_size: u64) -> Result<Data, Fault> {
    Err(Fault::new(Errno::ENOTSUP, "Compressed clusters are not simulated"))
}
