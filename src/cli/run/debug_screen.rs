//! The screen of `blockjob-sim debug`.
#![expect(clippy::disallowed_methods, reason = "the shell writes to the terminal")]

use crate::debug::{Debugger, Goal, View};
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{execute, queue};
use std::io::{self, Write};

const KEYS: &str = "→ step  ← back  e event  j job  f fault  c choice  r record (capitals go back)  Tab which choice  0-9 take another  ? help  q quit";

/// The same for narrow screens.
const FEW_KEYS: &str = "← → step  e j f c r on (capitals back)  Tab 0-9  ? help  q quit";

/// What `?` shows.
const HELP: &[&str] = &[
    "→  Space  s       a dispatch further",
    "←  b              a dispatch back",
    "PgDn  PgUp        fifty dispatches further, back",
    "Home  End         to the start, to the end of the run",
    "e j f c r         to the next event, change of a job, fault, choice, record",
    "E J F C R         to the one before",
    "Tab               another of the choices that come next",
    "0 to 9            that choice takes this alternative: what comes after is another run",
    "↓  ↑              scrolls what does not fit into its part of the screen",
    ">  <              shows the right, the left end of long lines",
    "?                 this page; any key leaves it",
    "q  Esc  Ctrl-C    ends, and prints the choices that were made, for `run --replay`",
];

/// What of the screen is shown.
#[derive(Default)]
struct Looks {
    /// Which of the choices that come next a digit answers.
    choice: usize,
    note: String,
    /// Lines that the parts are scrolled down by.
    down: usize,
    /// Columns that they are scrolled to the right by.
    across: usize,
    help: bool,
}

/// Shows a run until the reader has seen enough; gives the choices that were made, as a list.
pub(in crate::cli) fn show(mut debugger: Debugger, title: &str) -> io::Result<String> {
    let mut out = io::stdout();
    terminal::enable_raw_mode()?;
    execute!(out, EnterAlternateScreen, Hide)?;
    let done = work(&mut debugger, title, &mut out);
    // The terminal is given back, whatever happened.
    let given_back = execute!(out, Show, LeaveAlternateScreen).and_then(|()| terminal::disable_raw_mode());
    done.and(given_back).map(|()| debugger.choices().deviations().to_string())
}

fn work(debugger: &mut Debugger, title: &str, out: &mut impl Write) -> io::Result<()> {
    let mut looks = Looks::default();
    loop {
        if looks.help {
            draw_help(out)?
        } else {
            draw(debugger, title, &looks, out)?
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        looks.note.clear();
        if std::mem::take(&mut looks.help) {
            continue;
        }
        let at = debugger.step();
        if !press(debugger, key, &mut looks) {
            return Ok(());
        }
        if debugger.step() != at {
            looks.down = 0;
        }
    }
}

/// Does what a key says; false to end.
fn press(debugger: &mut Debugger, key: KeyEvent, looks: &mut Looks) -> bool {
    let Looks { choice, note, down, across, help } = looks;
    let goals =
        [('e', Goal::Event), ('j', Goal::Job(None)), ('f', Goal::Fault), ('c', Goal::Choice), ('r', Goal::Record)];
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Right | KeyCode::Char(' ' | 's') => debugger.go_to(debugger.step() + 1),
        KeyCode::Left | KeyCode::Char('b') => debugger.go_to(debugger.step().saturating_sub(1)),
        KeyCode::PageDown => debugger.go_to(debugger.step() + 50),
        KeyCode::PageUp => debugger.go_to(debugger.step().saturating_sub(50)),
        KeyCode::Down => {
            *down += 1;
            return true;
        }
        KeyCode::Up => {
            *down = down.saturating_sub(1);
            return true;
        }
        KeyCode::Char('>') => {
            *across += 20;
            return true;
        }
        KeyCode::Char('<') => {
            *across = across.saturating_sub(20);
            return true;
        }
        KeyCode::Char('?') => {
            *help = true;
            return true;
        }
        KeyCode::Home => debugger.go_to(0),
        KeyCode::End => {
            debugger.forth_to(&Goal::End);
        }
        KeyCode::Tab => {
            *choice = (*choice + 1) % debugger.coming().len().max(1);
            return true;
        }
        KeyCode::Char(digit @ '0'..='9') => {
            let coming = debugger.coming();
            let pick = digit.to_digit(10).unwrap_or(0);
            *note = match coming.get(*choice) {
                None => "no choice comes next: press c".to_owned(),
                Some(asked) => match debugger.take(asked.index, pick) {
                    Ok(()) => format!("choice @{} takes {pick}: what comes now is another run", asked.index),
                    Err(problem) => problem,
                },
            };
            return true;
        }
        KeyCode::Char(letter) => {
            if let Some((_, goal)) = goals.iter().find(|(key, _)| *key == letter.to_ascii_lowercase()) {
                let met = if letter.is_ascii_lowercase() { debugger.forth_to(goal) } else { debugger.back_to(goal) };
                if !met {
                    "nothing more of that kind".clone_into(note);
                }
            }
        }
        _ => {}
    }
    *choice = 0;
    true
}

/// A part of the screen.
struct Pane {
    x: u16,
    y: u16,
    width: u16,
    height: u16,
}

fn put(out: &mut impl Write, x: u16, y: u16, width: u16, text: &str) -> io::Result<()> {
    let width = usize::from(width);
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(width).collect();
    line.extend(std::iter::repeat_n(' ', width - line.chars().count()));
    queue!(out, MoveTo(x, y), Print(line))
}

fn pane(
    out: &mut impl Write,
    pane: &Pane,
    name: &str,
    lines: &[String],
    last: bool,
    scroll: (usize, usize),
) -> io::Result<()> {
    if pane.height == 0 {
        return Ok(());
    }
    queue!(out, SetForegroundColor(Color::Cyan), SetAttribute(Attribute::Bold))?;
    let room = usize::from(pane.height - 1);
    let rest = lines.len().saturating_sub(room);
    let (down, across) = scroll;
    // The end of a trace is what is shown first: there, down is towards its beginning.
    let skip = if last { rest - down.min(rest) } else { down.min(rest) };
    let more = if rest > 0 { format!(" ({} to {} of {})", skip + 1, skip + room, lines.len()) } else { String::new() };
    put(out, pane.x, pane.y, pane.width, &format!("{name}{more}"))?;
    queue!(out, SetAttribute(Attribute::Reset), ResetColor)?;
    for row in 0..pane.height - 1 {
        let none = if row == 0 && lines.is_empty() { "none" } else { "" };
        let line = lines.get(skip + usize::from(row)).map_or(none, String::as_str);
        if line.contains("inject-error") || line.contains("failed") || line.contains("aborting") {
            queue!(out, SetForegroundColor(Color::Red))?;
        } else if line.starts_with('*') {
            queue!(out, SetForegroundColor(Color::Green))?;
        }
        let seen: String = line.chars().skip(across).collect();
        put(out, pane.x, pane.y + 1 + row, pane.width, &seen)?;
        queue!(out, ResetColor)?;
    }
    Ok(())
}

fn draw_help(out: &mut impl Write) -> io::Result<()> {
    let (width, height) = terminal::size()?;
    queue!(out, Clear(ClearType::All))?;
    for (row, line) in HELP.iter().enumerate().take(usize::from(height)) {
        put(out, 0, u16::try_from(row).unwrap_or(u16::MAX), width, line)?;
    }
    out.flush()
}

fn draw(debugger: &Debugger, title: &str, looks: &Looks, out: &mut impl Write) -> io::Result<()> {
    let Looks { choice, note, down, across, .. } = looks;
    let (choice, scroll) = (*choice, (*down, *across));
    let (width, height) = terminal::size()?;
    let (width, height) = (width.max(40), height.max(12));
    queue!(out, Clear(ClearType::All), SetAttribute(Attribute::Bold))?;
    put(out, 0, 0, width, &format!("{title}  {}", debugger.view(View::Where).join("  ")))?;
    queue!(out, SetAttribute(Attribute::Reset))?;
    let body = height - 3;
    let left = width * 11 / 20;
    let mut choices = debugger.view(View::Choices);
    // The choice that a digit answers stands first.
    let heads: Vec<usize> = (0..choices.len()).filter(|i| choices[*i].starts_with('@')).collect();
    if let Some(head) = heads.get(choice) {
        choices[*head].push_str("  ← 0-9");
        choices.rotate_left(*head);
    }
    let low = u16::try_from(choices.len() + 1).unwrap_or(u16::MAX).clamp(4, body / 2);
    let trace = debugger.view_trace(usize::from(body) + *down);
    pane(out, &Pane { x: 0, y: 1, width: left - 1, height: body - low }, "trace", &trace, true, scroll)?;
    pane(
        out,
        &Pane { x: 0, y: 1 + body - low, width: left - 1, height: low },
        "choices that come next",
        &choices,
        false,
        scroll,
    )?;
    let views = [View::Jobs, View::Groups, View::Bitmaps, View::Requests, View::Waiting, View::Graph];
    let parts: Vec<Vec<String>> = views.iter().map(|view| debugger.view(*view)).collect();
    let mut y = 1;
    let mut room = body;
    for (i, (view, lines)) in views.iter().zip(&parts).enumerate() {
        let name = View::ALL.iter().find(|(_, known)| known == view).map_or("", |(name, _)| *name);
        let rest = u16::try_from(views.len() - i - 1).unwrap_or(0);
        // Each of those below keeps two lines.
        let wanted = u16::try_from(lines.len() + 1).unwrap_or(u16::MAX).max(2);
        let height = if rest == 0 { room } else { wanted.min(room.saturating_sub(2 * rest)) };
        pane(out, &Pane { x: left, y, width: width - left, height }, name, lines, false, scroll)?;
        y += height;
        room = room.saturating_sub(height);
    }
    queue!(out, SetForegroundColor(Color::Yellow))?;
    put(out, 0, height - 2, width, note)?;
    queue!(out, SetForegroundColor(Color::DarkGrey))?;
    let keys = if KEYS.chars().count() <= usize::from(width) { KEYS } else { FEW_KEYS };
    put(out, 0, height - 1, width, keys)?;
    queue!(out, ResetColor)?;
    out.flush()
}
