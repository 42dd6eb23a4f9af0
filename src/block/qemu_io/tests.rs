//! Command lines and what the qemu-io of QEMU 10.0.2 says to them.

use super::*;

const READ_USAGE: &str =
    "read [-abCqrv] [-P pattern [-s off] [-l len]] off len -- reads a number of bytes at a specified offset\n";
const WRITE_USAGE: &str =
    "write [-bcCfnqruz] [-P pattern | -s source_file] off len -- writes a number of bytes at a specified offset\n";
const NO_NUMBER: &str = "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- ";
const TOO_LARGE: &str = "Parsing error: argument too large -- ";

fn what(line: &str) -> Result<QemuIo, Output> {
    parse(line).unwrap().what
}

#[test]
fn complaints_on_standard_output() {
    let table: &[(&str, String)] = &[
        ("read -- -5 512", format!("{TOO_LARGE}-5")),
        ("read - 512", format!("{NO_NUMBER}-")),
        ("truncate -m off", format!("{NO_NUMBER}-m")),
        ("truncate foo -m off", format!("{NO_NUMBER}-m")),
        ("truncate -- 5x", format!("{NO_NUMBER}--")),
        ("truncate 5x", format!("{NO_NUMBER}5x")),
        ("alloc 0 -5", format!("{TOO_LARGE}-5")),
        ("sleep -1", "-1 is not a valid number".into()),
        ("sleep 1x", "1x is not a valid number".into()),
        ("write -b -z 0 512", "-b and -z cannot be specified at the same time".into()),
        ("write -f -c 0 512", "-f and -b or -c cannot be specified at the same time".into()),
        ("read -b 1 1", "1 is not a sector-aligned value for 'offset'".into()),
        ("read -b 0 513", "513 is not a sector-aligned value for 'count'".into()),
        ("read -br 0 512", "I/O buffer registration is not supported when reading from vmstate".into()),
        ("write -c 1 512", "1 is not a sector-aligned value for 'offset'".into()),
        ("read -P 1 -l 5 -s 5 0 9", "pattern verification range exceeds end of read data".into()),
        ("read -P 1 -s 10 0 9", "pattern verification range exceeds end of read data".into()),
        ("read -P 256 0 512", "256 is not a valid pattern byte".into()),
        ("read -Pz 0 5", "z is not a valid pattern byte".into()),
        ("write -zr 0 512", "cannot combine zero write with registered I/O buffer".into()),
        ("write -zs f 0 512", "Only one of -z, -P, and -s can be specified at the same time".into()),
        ("write -u 0 512", "-u requires -z to be specified".into()),
        ("write -n 0 512", "-n requires -z to be specified".into()),
        ("aio_write -u 0 512", "-u requires -z to be specified".into()),
        ("aio_write -z 0 512 512", "-z supports only a single length parameter".into()),
        ("write 0 2G", "length cannot exceed 2147483136 without -n, given 2G".into()),
        ("write -z 0 3G", "length cannot exceed 2147483136 without -n, given 3G".into()),
        ("read 0 2G", "length cannot exceed 2147483136, given 2G".into()),
        ("discard 0 3G", "length cannot exceed 2147483136, given 3G".into()),
        ("readv 0 1G 1G", "The total number of bytes exceed the maximum size 2147483136".into()),
        ("readv 0 3G", "Argument '3G' exceeds maximum size 2147483136".into()),
        ("read -l 5 0 512", READ_USAGE.trim_end().into()),
        ("read 0 512 512", READ_USAGE.trim_end().into()),
    ];
    for (line, text) in table {
        assert_eq!(what(line), Err(Output::line(text)), "{line}");
    }
}

#[test]
fn invalid_requests_count() {
    let table = [
        ("aio_write -i 0 5", AcctType::Write, "injecting invalid write request"),
        ("aio_read -i 0 5", AcctType::Read, "injecting invalid read request"),
        (
            "aio_read 0 5x",
            AcctType::Read,
            "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- 5x",
        ),
        ("aio_write 0 3G", AcctType::Write, "Argument '3G' exceeds maximum size 2147483136"),
    ];
    for (line, kind, text) in table {
        assert_eq!(what(line), Err(Output { invalid: Some(kind), ..Output::line(text) }), "{line}");
    }
    // Where the offset is wrong, it does not come so far.
    assert_eq!(what("aio_read 5x 5").map_err(|out| out.invalid), Err(None));
}

#[test]
fn complaints_elsewhere() {
    let table = [
        ("badcmd", "command \"badcmd\" not found\n", ""),
        ("write -P", "bad argument count 1 to write, expected at least 2 arguments\n", ""),
        ("r 0", "bad argument count 1 to r, expected at least 2 arguments\n", ""),
        ("break a", "bad argument count 1 to break, expected 2 arguments\n", ""),
        ("map 1", "bad argument count 1 to map, expected 0 arguments\n", ""),
        ("zap 1", "bad argument count 1 to zap, expected between 3 and 4 arguments\n", ""),
        ("truncate", "bad argument count 0 to truncate, expected between 1 and 3 arguments\n", ""),
        ("write -5 512", "write: invalid option -- '5'\n", WRITE_USAGE),
        ("w -5 512", "w: invalid option -- '5'\n", WRITE_USAGE),
        ("read --foo 0 512", "read: invalid option -- '-'\n", READ_USAGE),
        ("read -: 0 5", "read: invalid option -- ':'\n", READ_USAGE),
        ("read 0 512 -P", "read: option requires an argument -- 'P'\n", READ_USAGE),
        (
            "truncate -5",
            "truncate: invalid option -- '5'\n",
            "truncate [-m prealloc_mode] off -- truncates the current file at the given offset\n",
        ),
    ];
    for (line, stderr, stdout) in table {
        let out = Output { stderr: stderr.into(), stdout: stdout.into(), ..Output::default() };
        assert_eq!(what(line), Err(out), "{line}");
    }
    let out = Output { report: Some("Invalid preallocation mode 'zap'".into()), ..Output::default() };
    assert_eq!(what("truncate -m zap 5"), Err(out));
}

fn a_write(offset: u64, bytes: u64, data: WriteData) -> Write {
    Write { submit: Submit::Plain, offset, bytes, data, fua: false, report: Report::Human }
}

fn a_read(offset: u64, bytes: u64) -> Read {
    Read { submit: Submit::Plain, offset, bytes, verify: None, dump: false, report: Report::Human }
}

#[test]
fn commands_are_understood() {
    let zeroes = |unmap, no_fallback| WriteData::Zeroes { unmap, no_fallback };
    let base = a_write(0, 512, WriteData::Pattern(0xcd));
    let table = [
        ("write  0 512", QemuIo::Write(base)),
        ("w 0x10000 0x200 -P 010", QemuIo::Write(a_write(65536, 512, WriteData::Pattern(8)))),
        ("write -qpf 0 512", QemuIo::Write(Write { fua: true, report: Report::Quiet, ..base })),
        ("write -zu 0 64k", QemuIo::Write(a_write(0, 65536, zeroes(true, false)))),
        ("write -zn 0 3G", QemuIo::Write(a_write(0, 3 << 30, zeroes(false, true)))),
        ("write -zc 0 512", QemuIo::Write(a_write(0, 512, zeroes(false, false)))),
        (
            "write -cC 0 1k",
            QemuIo::Write(Write { report: Report::Machine, ..a_write(0, 1024, WriteData::Compressed(0xcd)) }),
        ),
        (
            "aio_write -z -P 1 0 512",
            QemuIo::Write(Write { submit: Submit::Aio, ..a_write(0, 512, zeroes(false, false)) }),
        ),
        (
            "writev 0 1k 512",
            QemuIo::Write(Write { submit: Submit::Vector, ..a_write(0, 1536, WriteData::Pattern(0xcd)) }),
        ),
        ("read -v 512 1k", QemuIo::Read(Read { dump: true, ..a_read(512, 1024) })),
        (
            "read -P -0 -s 1k -l 0x10 0 1M",
            QemuIo::Read(Read { verify: Some(Verify { pattern: 0, start: 1024, bytes: 16 }), ..a_read(0, 1 << 20) }),
        ),
        (
            "aio_read -P 1 0 1k 1k",
            QemuIo::Read(Read {
                submit: Submit::Aio,
                verify: Some(Verify { pattern: 1, start: 0, bytes: 2048 }),
                ..a_read(0, 2048)
            }),
        ),
        ("d -C 0 1M", QemuIo::Discard { offset: 0, bytes: 1 << 20, report: Report::Machine }),
        ("truncate 2M 5 6", QemuIo::Truncate { offset: 2 << 20, prealloc: Prealloc::Off }),
        ("truncate -mfull 1", QemuIo::Truncate { offset: 1, prealloc: Prealloc::Full }),
        ("alloc 5", QemuIo::Alloc { offset: 5, bytes: 512 }),
        ("break l2_load A", QemuIo::Break { event: "l2_load".into(), tag: "A".into() }),
        ("resume A", QemuIo::Resume { tag: "A".into() }),
        ("sleep -0", QemuIo::Sleep { milliseconds: 0 }),
        ("sleep 0x10", QemuIo::Sleep { milliseconds: 16 }),
        ("f", QemuIo::Flush),
        ("write -b 0 512", QemuIo::NotSimulated("write -b")),
        ("write -s x 0 512", QemuIo::NotSimulated("write -s")),
        (
            "reopen -r -c none -o a=b",
            QemuIo::Reopen(Box::new(Reopen {
                cache: Some(CacheMode { direct: true, no_flush: false, writethrough: false }),
                read_only: Some(true),
                options: vec!["a=b".into()],
            })),
        ),
        ("?", QemuIo::NotSimulated("help")),
    ];
    for (line, command) in table {
        assert_eq!(what(line), Ok(command), "{line}");
    }
    assert_eq!(parse("  "), None);
}

#[test]
fn permissions_are_asked_for_before_the_arguments_are_read() {
    assert_eq!(parse("write x y").unwrap().perms, WRITE);
    assert_eq!(parse("write x").unwrap().perms, NONE);
    assert_eq!(parse("truncate x").unwrap().perms, RESIZE);
    assert_eq!(parse("read 0 1").unwrap().perms, NONE);
}

proptest::proptest! {
    #[test]
    fn any_line_is_read_or_refused(
        name in "(read|readv|write|writev|aio_read|aio_write|discard|truncate|alloc|sleep|break|\\PC{0,5})",
        rest in "( (-[a-zA-Z:]{0,3}|[0-9kM.x-]{1,6}|\\PC{0,4})){0,5}",
    ) {
        let _ = parse(&(name + &rest));
    }
}
