//! File descriptors that the process was started with: taking them over by their numbers, in safe code.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Takes over the descriptor with this number: the process sends it to itself, which gives an owned one for the same open file, and
/// closes the first. To be called before the process opens anything of its own, since only then all numbers above 2 are inherited ones.
///
/// # Errors
/// There is no such descriptor.
pub(in crate::serve) fn take(number: i32) -> io::Result<OwnedFd> {
    let (from, to) = UnixStream::pair()?;
    let rights = [ControlMessage::ScmRights(&[number])];
    sendmsg::<()>(from.as_raw_fd(), &[IoSlice::new(b"f")], &rights, MsgFlags::empty(), None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&to, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    if number > 2 {
        // Else the peer would never see the end of the connection.
        let _ = nix::unistd::close(number);
    }
    fd.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}
