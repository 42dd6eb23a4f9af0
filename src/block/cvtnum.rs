//! Numbers as QEMU's C reads and prints them: sizes with suffixes and fractions (`util/cutils.c:qemu_strtosz`,
//! `qemu-io-cmds.c:cvtnum`, `cvtstr`) and C integers (`strtol` with base 0). All in integers.

/// `isspace` of the C locale.
#[must_use]
pub const fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t'..=b'\r')
}

/// Strips what `isspace` of the C locale calls blank from the start.
#[must_use]
pub fn skip_space(text: &str) -> &str {
    text.trim_start_matches(|c: char| u8::try_from(c).is_ok_and(is_space))
}

fn sign(text: &str) -> (bool, &str) {
    let text = skip_space(text);
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// An integer of C: sign and magnitude; no magnitude if it does not fit 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CInt {
    /// Whether there is a minus sign.
    pub negative: bool,
    /// The value without its sign.
    pub magnitude: Option<u64>,
}

/// Reads what `strtol` with base 0 reads to the end: blanks, a sign, then decimal, `0x…` or octal `0…` digits, with
/// nothing behind them.
#[must_use]
pub fn c_int(text: &str) -> Option<CInt> {
    let (negative, text) = sign(text);
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hex {
        Some(hex) => (hex, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    Some(CInt { negative, magnitude: u64::from_str_radix(digits, radix).ok() })
}

/// Why a size was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SizeError {
    /// EINVAL: no number, something behind it, or a fraction of a byte.
    Invalid,
    /// ERANGE: too large, or negative.
    Range,
}

/// qemu-io's message for a size it cannot read (`qemu-io-cmds.c:print_cvtnum_err`), without line end.
#[must_use]
pub fn cvtnum_error(error: SizeError, arg: &str) -> String {
    match error {
        SizeError::Invalid => {
            format!("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {arg}")
        }
        SizeError::Range => format!("Parsing error: argument too large -- {arg}"),
    }
}

/// Reads a size as qemu-io does: as [`strtosz`], but below 2^63 (`qemu-io-cmds.c:cvtnum`).
///
/// # Errors
/// Whether the text is no size, or one out of range.
pub fn cvtnum(text: &str) -> Result<u64, SizeError> {
    strtosz(text).and_then(|n| if i64::try_from(n).is_ok() { Ok(n) } else { Err(SizeError::Range) })
}

/// The scale of a size suffix.
fn suffix(c: char) -> Option<u64> {
    match c.to_ascii_uppercase() {
        'B' => Some(1),
        'K' => Some(1 << 10),
        'M' => Some(1 << 20),
        'G' => Some(1 << 30),
        'T' => Some(1 << 40),
        'P' => Some(1 << 50),
        'E' => Some(1 << 60),
        _ => None,
    }
}

/// Reads a size in bytes: `0x…`, or decimal with an optional fraction and an optional suffix out of `bBkKmMgGtTpPeE`,
/// powers of 1024 (`util/cutils.c:qemu_strtosz`).
///
/// # Errors
/// Whether the text is no size, or one out of range. QEMU calls trailing rubbish invalid even after a range error.
pub fn strtosz(text: &str) -> Result<u64, SizeError> {
    let (negative, rest) = sign(text);
    let (digits, after) = split_digits(rest, 10);
    if digits.is_empty() && !after.starts_with('.') {
        return Err(SizeError::Invalid);
    }
    let whole = if digits.is_empty() { Ok(0) } else { digits.parse::<u64>() };
    let out_of_range = |after: &str| if after.is_empty() { SizeError::Range } else { SizeError::Invalid };
    let Ok(whole) = whole else { return Err(out_of_range(after)) };
    if negative && !digits.is_empty() {
        return Err(out_of_range(after));
    }
    if whole == 0 && !digits.is_empty() && after.starts_with(['x', 'X']) {
        return hex_size(digits, &after[1..]);
    }
    let Some(after_point) = after.strip_prefix('.') else {
        return scale(whole, 0, after);
    };
    let (decimals, after) = split_digits(after_point, 10);
    if digits.is_empty() && decimals.is_empty() {
        return Err(SizeError::Invalid);
    }
    if negative {
        return Err(out_of_range(after));
    }
    let (carry, fraction) = fixed_point(decimals.as_bytes());
    let Some(whole) = whole.checked_add(u64::from(carry)) else { return Err(out_of_range(after)) };
    scale(whole, fraction, after)
}

fn split_digits(text: &str, radix: u32) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len()))
}

/// What follows `0x`; `zeros` is what precedes the `x`. `00x1` is a zero with rubbish behind it.
fn hex_size(zeros: &str, text: &str) -> Result<u64, SizeError> {
    let (digits, after) = split_digits(text, 16);
    if zeros != "0" || digits.is_empty() || !after.is_empty() {
        return Err(SizeError::Invalid);
    }
    u64::from_str_radix(digits, 16).map_err(|_| SizeError::Range)
}

/// Applies the suffix to a 64.64 fixed-point number, rounding half a byte upward.
fn scale(whole: u64, fraction: u64, after: &str) -> Result<u64, SizeError> {
    let mut rest = after.chars();
    let unit = match rest.next() {
        None => 1,
        Some(c) => suffix(c).ok_or(SizeError::Invalid)?,
    };
    if !rest.as_str().is_empty() || (unit == 1 && fraction != 0) {
        return Err(SizeError::Invalid);
    }
    let scaled_fraction = u128::from(fraction) * u128::from(unit);
    let rounded = (scaled_fraction >> 64) + (scaled_fraction >> 63 & 1);
    u64::try_from(u128::from(whole) * u128::from(unit) + rounded).map_err(|_| SizeError::Range)
}

/// The decimal fraction `0.<digits>` in units of 2^-64, by way of the nearest `double` as QEMU has it: at most 53
/// significant bits, and never 0 unless the fraction is. The first value tells that it was rounded up to 1.
fn fixed_point(digits: &[u8]) -> (bool, u64) {
    let mut rest: Vec<u8> = digits.iter().map(|d| d - b'0').collect();
    let mut value: u64 = 0;
    let mut significant = 0;
    for place in 0..64 {
        if rest.iter().all(|d| *d == 0) {
            break;
        }
        let bit = double_in_place(&mut rest);
        if significant == 53 {
            // The bit behind the last one decides; at exactly one half the even neighbour.
            let half_or_more = bit && (rest.iter().any(|d| *d != 0) || value & (1 << (64 - place)) != 0);
            let ulp = 1u64 << (64 - place);
            return if half_or_more {
                let (sum, carry) = value.overflowing_add(ulp);
                (carry, sum)
            } else {
                (false, value)
            };
        }
        if bit {
            value |= 1 << (63 - place);
        }
        significant += u32::from(bit || significant > 0);
    }
    let nothing = value == 0 && rest.iter().any(|d| *d != 0);
    (false, if nothing { 1 } else { value })
}

/// Doubles a decimal fraction and returns the digit that leaves it at the point.
fn double_in_place(digits: &mut [u8]) -> bool {
    let mut carry = 0;
    for d in digits.iter_mut().rev() {
        let twice = *d * 2 + carry;
        *d = twice % 10;
        carry = twice / 10;
    }
    carry == 1
}

/// A quotient with so many decimals, rounded to the nearest, at exactly one half to the even neighbour.
/// `den` must not be 0.
#[must_use]
pub fn decimal(num: u128, den: u128, decimals: u32) -> String {
    let ten = 10u128.pow(decimals);
    let (quotient, rest) = (num * ten / den, num * ten % den);
    let up = rest > den - rest || (rest == den - rest && quotient % 2 == 1);
    let rounded = quotient + u128::from(up);
    if decimals == 0 {
        return rounded.to_string();
    }
    format!("{}.{:0width$}", rounded / ten, rounded % ten, width = decimals as usize)
}

/// A quotient of bytes (or bytes per second) as qemu-io prints it: `64 KiB`, `1.500 MiB`, `512 bytes`
/// (`qemu-io-cmds.c:cvtstr`). `den` must not be 0.
#[must_use]
pub fn cvtstr(num: u128, den: u128) -> String {
    const UNITS: [(u32, &str); 6] =
        [(60, " EiB"), (50, " PiB"), (40, " TiB"), (30, " GiB"), (20, " MiB"), (10, " KiB")];
    let (text, unit) = match UNITS.iter().find(|(shift, _)| num >= den << shift) {
        Some((shift, unit)) => (decimal(num, den << shift, 3), *unit),
        None => (decimal(num, den, 6), " bytes"),
    };
    let end = text.find(".000").unwrap_or(text.len());
    format!("{}{unit}", &text[..end])
}

/// A number of bytes as qemu-io prints it, after its way through a `double` (`qemu-io-cmds.c:cvtstr`).
#[must_use]
pub fn bytes_text(n: u64) -> String {
    let excess = (64 - n.leading_zeros()).saturating_sub(53);
    let unit = 1u128 << excess;
    let (quotient, rest) = (u128::from(n) / unit, u128::from(n) % unit);
    let up = rest * 2 > unit || (rest * 2 == unit && excess > 0 && quotient % 2 == 1);
    cvtstr((quotient + u128::from(up)) * unit, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_qemu_reads_them() {
        use SizeError::{Invalid, Range};
        let table: &[(&str, Result<u64, SizeError>)] = &[
            ("0", Ok(0)),
            ("512", Ok(512)),
            ("08", Ok(8)),
            ("64k", Ok(65536)),
            ("1K", Ok(1024)),
            ("1b", Ok(1)),
            ("2M", Ok(2 << 20)),
            ("1.5k", Ok(1536)),
            (".5k", Ok(512)),
            ("+.5k", Ok(512)),
            ("1.k", Ok(1024)),
            ("1.", Ok(1)),
            ("1.0", Ok(1)),
            ("0.1k", Ok(102)),
            ("0.3M", Ok(314_573)),
            ("0.1E", Ok(115_292_150_460_684_704)),
            ("0.99999999999999999999k", Ok(1024)),
            ("0.00000000000000000000000000001E", Ok(0)),
            ("0x10", Ok(16)),
            ("0X1b", Ok(27)),
            (" 5", Ok(5)),
            ("+5", Ok(5)),
            ("7.9E", Ok(9_108_079_886_394_091_136)),
            ("0.123456789E", Ok(142_335_986_927_810_032)),
            ("3.3E", Ok(3_804_640_965_202_595_008)),
            ("0.7P", Ok(788_129_934_789_837)),
            ("5.55555555555T", Ok(6_108_397_932_083)),
            ("0.333333333333333333333E", Ok(384_307_168_202_282_304)),
            ("1.00000000000000001E", Ok(1_152_921_504_606_846_988)),
            ("3.14159G", Ok(3_373_256_577)),
            ("8E", Err(Range)),
            ("16E", Err(Range)),
            ("-1", Err(Range)),
            ("-0", Err(Range)),
            ("-.5", Err(Range)),
            ("-.5k", Err(Invalid)),
            ("-1k", Err(Invalid)),
            ("99999999999999999999", Err(Range)),
            ("99999999999999999999k", Err(Invalid)),
            ("", Err(Invalid)),
            ("x", Err(Invalid)),
            (".", Err(Invalid)),
            ("1.5", Err(Invalid)),
            ("1.5b", Err(Invalid)),
            ("1kb", Err(Invalid)),
            ("1e3", Err(Invalid)),
            ("0x", Err(Invalid)),
            ("00x1", Err(Invalid)),
            ("0x1k", Err(Invalid)),
            ("0x1.8", Err(Invalid)),
            ("inf", Err(Invalid)),
            ("5 ", Err(Invalid)),
        ];
        for (text, expected) in table {
            assert_eq!(cvtnum(text), *expected, "{text}");
        }
    }

    #[test]
    fn bytes_print_as_qemu_prints_them() {
        for (n, text) in [
            (0, "0 bytes"),
            (512, "512 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.500 KiB"),
            (65537, "64.001 KiB"),
            (1 << 30, "1 GiB"),
            ((1 << 20) - 1, "1023.999 KiB"),
            ((1 << 30) - 1, "1024 MiB"),
            (u64::MAX >> 1, "8 EiB"),
        ] {
            assert_eq!(bytes_text(n), text);
        }
        assert_eq!(cvtstr(1, 3), "0.333333 bytes");
    }

    #[test]
    fn c_integers() {
        let ok = |n| Some(CInt { negative: false, magnitude: Some(n) });
        assert_eq!(c_int("10"), ok(10));
        assert_eq!(c_int("\t+0x1F"), ok(31));
        assert_eq!(c_int("010"), ok(8));
        assert_eq!(c_int("-5"), Some(CInt { negative: true, magnitude: Some(5) }));
        for wrong in ["", "08", "0x", "5k", "-", "0b1", "--5"] {
            assert_eq!(c_int(wrong), None, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-+]?[0-9x]{0,5}\\.?[0-9]{0,40}[kKMGTPEbx]?") {
            let _ = (cvtnum(&text), c_int(&text));
        }
    }
}
