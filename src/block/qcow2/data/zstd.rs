//! Compressed clusters of images with `compression_type=zstd`: Zstandard frames (block/qcow2-threads.c).
//!
//! The library is QEMU's, at the level that QEMU uses. Its versions find frames of different lengths.

use zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_end;
use zstd_safe::{CCtx, DCtx, InBuffer, OutBuffer};

/// `qcow2_zstd_compress`: one frame; `None` if it is no shorter than `data`.
pub(in crate::block::qcow2) fn compress(data: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(data.len().checked_sub(1)?);
    let mut output = OutBuffer::around(&mut out);
    let left = CCtx::try_create()?.compress_stream2(&mut output, &mut InBuffer::around(data), ZSTD_e_end);
    // What is left did not find room.
    (left == Ok(0)).then_some(out)
}

/// `qcow2_zstd_decompress`: the first `len` bytes of the frames in `input`, the last of which must end there. What follows them in the
/// sector is not looked at.
pub(in crate::block::qcow2) fn decompress(input: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut context = DCtx::try_create()?;
    let mut out = Vec::with_capacity(len);
    let mut input = InBuffer::around(input);
    let mut output = OutBuffer::around(&mut out);
    let mut left = 0;
    while output.pos() < len {
        let before = (input.pos(), output.pos());
        left = context.decompress_stream(&mut output, &mut input).ok()?;
        if (input.pos(), output.pos()) == before {
            return None;
        }
    }
    (left == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_damage_is_an_error() {
        let data: Vec<u8> = (0..65_536u32).map(|i| (i / 100) as u8).collect();
        let mut small = compress(&data).expect("it repeats itself");
        assert!(small.len() < data.len() / 10);
        small.resize(small.len().next_multiple_of(512), 0xaa);
        assert_eq!(decompress(&small, data.len()).as_ref(), Some(&data));
        assert_eq!(decompress(&small, data.len() / 2), None, "the frame goes on");
        assert_eq!(decompress(&small[..100], data.len()), None, "the frame is cut");
        assert_eq!(decompress(&[0; 512], data.len()), None, "there is no frame");
        assert_eq!(decompress(&[], data.len()), None);
    }

    #[test]
    fn what_does_not_get_shorter_is_left_alone() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = (0..4096).map(|_| next()).collect();
        assert_eq!(compress(&noise), None);
    }
}
