//! The human monitor's line editor, as far as a client sees it (`util/readline.c`).
//!
//! QEMU echoes each change by going back to the start of the line, printing it anew and clearing what stood behind.

/// In bytes (`READLINE_CMD_BUF_SIZE`).
const MAX: usize = 4095;
/// The history: lines that can be recalled.
const HISTORY: usize = 64;

/// What stands before each line.
pub(in crate::serve) const PROMPT: &str = "(qemu) ";

/// The editor of one connection.
#[derive(Debug, Default)]
pub(in crate::serve) struct Readline {
    line: Vec<u8>,
    cursor: usize,
    /// The line as the terminal shows it.
    shown_cursor: usize,
    history: Vec<Vec<u8>>,
    /// Which of them is being looked at.
    looked: Option<usize>,
    escape: Vec<u8>,
}

impl Readline {
    /// Takes a byte; appends what is echoed to `out`. A complete line, if this ended one.
    pub(in crate::serve) fn key(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<String> {
        if !self.escape.is_empty() {
            self.escape.push(byte);
            match (self.escape.as_slice(), byte) {
                ([_, b'[' | b'O'], _) => {}
                ([_, _], _) | (_, b'@'..=b'~') => self.escaped(),
                (bytes, _) if bytes.len() > 8 => self.escape.clear(),
                _ => {}
            }
            self.update(out);
            return None;
        }
        match byte {
            b'\r' | b'\n' => {
                let line = std::mem::take(&mut self.line);
                (self.cursor, self.shown_cursor, self.looked) = (0, 0, None);
                out.extend(b"\r\n");
                self.remember(&line);
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            27 => self.escape.push(byte),
            8 | 127 if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
                self.show(out);
            }
            1 => self.cursor = 0,
            5 => self.cursor = self.line.len(),
            4 if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
                self.show(out);
            }
            32..=126 | 128.. if self.line.len() < MAX => {
                self.line.insert(self.cursor, byte);
                self.cursor += 1;
                self.show(out);
            }
            _ => {}
        }
        self.update(out);
        None
    }

    fn escaped(&mut self) {
        match self.escape.get(1..) {
            Some(b"[A" | b"OA") => self.look(-1),
            Some(b"[B" | b"OB") => self.look(1),
            Some(b"[C" | b"OC") => self.cursor = (self.cursor + 1).min(self.line.len()),
            Some(b"[D" | b"OD") => self.cursor = self.cursor.saturating_sub(1),
            Some(b"[3~") if self.cursor < self.line.len() => drop(self.line.remove(self.cursor)),
            Some(b"[H" | b"[1~") => self.cursor = 0,
            Some(b"[F" | b"[4~") => self.cursor = self.line.len(),
            _ => {}
        }
        let redraw = matches!(self.escape.last(), Some(b'A' | b'B' | b'~'));
        self.escape.clear();
        if redraw {
            // The whole line is printed at the next update.
            self.escape.push(0);
        }
    }

    /// An older or a newer line.
    fn look(&mut self, by: isize) {
        let at = self.looked.unwrap_or(self.history.len());
        let Some(next) = at.checked_add_signed(by).filter(|next| *next <= self.history.len()) else { return };
        self.line = self.history.get(next).cloned().unwrap_or_default();
        self.cursor = self.line.len();
        self.looked = Some(next);
    }

    fn remember(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        self.history.retain(|old| old != line);
        if self.history.len() == HISTORY {
            self.history.remove(0);
        }
        self.history.push(line.to_owned());
    }

    /// Prints the line anew.
    fn show(&mut self, out: &mut Vec<u8>) {
        out.extend(b"\x1b[D".repeat(self.shown_cursor));
        out.extend(&self.line);
        out.extend(b"\x1b[K");
        self.shown_cursor = self.line.len();
    }

    /// Puts the terminal's cursor where it belongs.
    fn update(&mut self, out: &mut Vec<u8>) {
        if self.escape == [0] {
            self.escape.clear();
            self.show(out);
        }
        match self.shown_cursor.cmp(&self.cursor) {
            std::cmp::Ordering::Greater => out.extend(b"\x1b[D".repeat(self.shown_cursor - self.cursor)),
            std::cmp::Ordering::Less => out.extend(b"\x1b[C".repeat(self.cursor - self.shown_cursor)),
            std::cmp::Ordering::Equal => {}
        }
        self.shown_cursor = self.cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(editor: &mut Readline, keys: &[u8]) -> (String, Vec<String>) {
        let (mut out, mut lines) = (Vec::new(), Vec::new());
        for key in keys {
            lines.extend(editor.key(*key, &mut out));
        }
        (String::from_utf8(out).expect("text"), lines)
    }

    /// What QEMU 10.0.2 sent.
    #[test]
    fn echoes_as_recorded() {
        let mut editor = Readline::default();
        let (out, lines) = typed(&mut editor, b"foo\n");
        assert_eq!(out, "f\x1b[K\x1b[Dfo\x1b[K\x1b[D\x1b[Dfoo\x1b[K\r\n");
        assert_eq!(lines, ["foo"]);
        let (out, _) = typed(&mut editor, b"ab\x08\x7fc");
        assert_eq!(out, "a\x1b[K\x1b[Dab\x1b[K\x1b[D\x1b[Da\x1b[K\x1b[D\x1b[Kc\x1b[K");
        let (_, lines) = typed(&mut editor, b"\x7finfo version\n");
        assert_eq!(lines, ["info version"]);
        let (out, _) = typed(&mut editor, b"x\x1b[A");
        assert_eq!(out, "x\x1b[K\x1b[Dinfo version\x1b[K");
        let (out, lines) = typed(&mut editor, b"\n");
        assert_eq!((out.as_str(), lines), ("\r\n", vec!["info version".to_owned()]));
        assert_eq!(typed(&mut editor, b"\x04").0, "");
    }
}
