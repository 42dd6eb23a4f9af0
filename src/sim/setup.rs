//! What a scenario does to files from outside of the process.

use crate::base::units::BDRV_MAX_LENGTH;
use crate::block::content::{Data, WriteTag};
use crate::block::qcow2::CreateOptions;
use crate::scenario::plan::{FileOp, ImageFormat, WriteData};
use crate::world::World;

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
    }
}

/// How many clusters of an image it changes; nothing where the image is no qcow2 image: the cost of all else does not depend on sizes.
pub fn file_cost(world: &World, op: &FileOp) -> u64 {
    let FileOp::Write { file, format: ImageFormat::Qcow2, length, .. } = op else { return 0 };
    let Some(image) = world.files.get(file) else { return 0 };
    let cluster_bits = image.content.read(20, 4).be_at(0, 4).clamp(9, 21);
    length >> cluster_bits
}

/// Does it.
///
/// # Errors
/// What the tool says.
pub fn file_op(world: &mut World, op: &FileOp) -> Result<(), String> {
    let files = &mut world.files;
    match op {
        FileOp::Create { file, format: ImageFormat::Raw, size, .. } => {
            let size = size.unwrap_or(0).checked_next_multiple_of(512).filter(|size| *size <= BDRV_MAX_LENGTH);
            let size = size.ok_or("The image size is too large for file format 'raw'")?;
            files.create(file, size);
            Ok(())
        }
        FileOp::Create { file, format: ImageFormat::Qcow2, size, options, backing } => {
            let create = CreateOptions {
                version: if options.compat_v3 == Some(false) { 2 } else { 3 },
                cluster_size: options.cluster_size.unwrap_or(65_536),
                lazy_refcounts: options.lazy_refcounts.unwrap_or(false),
                backing_file: backing.as_ref().map(|b| b.file.to_string()),
                backing_format: backing.as_ref().map(|b| name(b.format).to_owned()),
                ..CreateOptions::new(0)
            };
            files.create_qcow2(file, *size, &create).map_err(|err| err.to_string())
        }
        FileOp::Write { file, format, offset, length, data } => {
            if *format == ImageFormat::Raw {
                return write_raw(world, file, *offset, *length, *data);
            }
            match data {
                WriteData::Pattern(byte) => {
                    let tag = writer(world, file, *byte, *offset, *length);
                    world.files.write(file, *offset, *length, *byte, tag)
                }
                WriteData::Zero => files.write_zeroes(file, *offset, *length, false),
                WriteData::Discard => files.discard(file, *offset, *length),
            }
            .map_err(|err| err.to_string())
        }
        FileOp::Rebase { file, backing } => {
            let format = backing.as_ref().map(|b| name(b.format));
            let backing = backing.as_ref().map(|b| &*b.file);
            files.rebase_unsafe(file, backing, format).map_err(|err| err.to_string())
        }
        FileOp::Content { file, size, data } => {
            files.create_sparse(file, *size);
            for extent in data {
                let bytes = match extent.times {
                    1 => Data::bytes(extent.bytes.clone().into(), WriteTag(0)),
                    times => Data::pattern(extent.bytes[0], times, WriteTag(0)),
                };
                files.pwrite(file, extent.at, &bytes);
            }
            Ok(())
        }
        FileOp::Bytes { file, at, bytes } => {
            let end = at.checked_add(bytes.len() as u64);
            if end.is_none_or(|end| end > files.size(file)) {
                return Err(format!("'{file}': it does not reach so far"));
            }
            files.pwrite(file, *at, &Data::bytes(bytes.clone().into(), WriteTag(0)));
            Ok(())
        }
        FileOp::Resize { file, size } => files.resize(file, *size).map_err(|err| err.to_string()),
        FileOp::Check { file, leaks, corruptions } => {
            let found = files.check(file).map_err(|err| err.to_string())?;
            if (found.leaks, found.corruptions) == (*leaks, *corruptions) {
                return Ok(());
            }
            let said = found.messages.join("; ");
            Err(format!(
                "expected {leaks} leaks and {corruptions} corruptions in '{file}', found {} and {}: {said}",
                found.leaks, found.corruptions
            ))
        }
        FileOp::QemuImg(img) => {
            let ran = super::qemu_img::run(world, &img.words)?;
            img.fits(ran.status, &ran.out, &ran.err)
        }
        FileOp::Host(change) => files.change_host(change),
        FileOp::Text { file, content } => {
            files.import(file, content.as_bytes());
            Ok(())
        }
    }
}

fn writer(world: &mut World, file: &str, byte: u8, offset: u64, length: u64) -> WriteTag {
    world.writers.push(format!("qemu-io write of {byte:#04x} at {offset}+{length} to '{file}'").into());
    WriteTag(u32::try_from(world.writers.len()).expect("few writers"))
}

fn write_raw(world: &mut World, file: &str, offset: u64, length: u64, data: WriteData) -> Result<(), String> {
    if offset.checked_add(length).is_none_or(|end| end > world.files.size(file)) {
        return Err(format!("'{file}': Input/output error"));
    }
    match data {
        WriteData::Pattern(byte) => {
            let tag = writer(world, file, byte, offset, length);
            world.files.pwrite(file, offset, &crate::block::content::Data::pattern(byte, length, tag));
        }
        WriteData::Zero | WriteData::Discard => world.files.punch(file, offset, length),
    }
    Ok(())
}
