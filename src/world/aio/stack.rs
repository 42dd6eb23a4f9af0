//! The running stack and the register: what others may do with them.
//!
//! Between steps the stack is the main thread's; while a coroutine runs, it is that coroutine's (`co_run` exchanges them).

use crate::choice::{Calm, ChoicePoint, Choose};
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::frame::{Flow, Frame};
use crate::world::value::{Returned, Val};

/// Frames in the order in which they run. They are written where they stand on the stack, one by one, where they are
/// few: an array of them that is made first and copied then costs more than all else that is done to push them.
pub(in crate::world) trait Frames {
    /// Pushes them, the last one first.
    fn push_onto(self, stack: &mut Vec<Frame>);
}

macro_rules! frames {
    ($($n:literal: $($first:ident)* | $($reversed:ident)*;)*) => {
        $(impl Frames for [Frame; $n] {
            #[inline(always)]
            fn push_onto(self, stack: &mut Vec<Frame>) {
                let [$($first),*] = self;
                $(stack.push($reversed);)*
            }
        })*
    };
}

frames! {
    1: a | a;
    2: a b | b a;
    3: a b c | c b a;
    4: a b c d | d c b a;
}

macro_rules! many_frames {
    ($($n:literal)*) => {
        $(impl Frames for [Frame; $n] {
            fn push_onto(self, stack: &mut Vec<Frame>) {
                stack.extend(self.into_iter().rev());
            }
        })*
    };
}

many_frames! { 5 6 7 8 9 10 11 12 }

/// What the shell does between two dispatches while the process starts. It says whether timers must not go off yet, as somebody outside
/// is waited for.
pub(in crate::world) type Between<'a> = &'a mut dyn FnMut(&mut World) -> bool;

/// The calm schedule, while the process starts.
#[derive(Debug)]
struct Starting {
    sleeps_wait: bool,
}

impl Choose for Starting {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        Calm.choose(point, among)
    }

    fn sleeps_wait(&self) -> bool {
        self.sleeps_wait
    }
}

impl World {
    /// Pushes a frame: it runs before those that are on the stack.
    #[inline]
    pub(in crate::world) fn push(&mut self, frame: Frame) {
        self.aio.stack.push(frame);
    }

    /// Pushes frames so that they run in the order given.
    #[inline(always)]
    pub(in crate::world) fn seq(&mut self, frames: impl Frames) -> Flow {
        frames.push_onto(&mut self.aio.stack);
        Flow::Go
    }

    /// [`World::seq`] of any number of frames.
    pub(in crate::world) fn push_all(&mut self, frames: Vec<Frame>) {
        self.aio.stack.extend(frames.into_iter().rev());
    }

    /// Ends the running frame with a result for the one below.
    #[inline]
    pub fn ret(&mut self, value: Val) -> Flow {
        self.leave(value);
        Flow::Go
    }

    /// Leaves a result for the frame that runs next, and goes on.
    #[inline]
    pub(in crate::world) fn leave(&mut self, value: Val) {
        // What stood there was taken before, nearly always, so that there is nothing to give up.
        match std::mem::replace(&mut self.aio.reg, value) {
            none @ Val::None => std::mem::forget(none),
            other => drop(other),
        }
    }

    /// The result in the register, whatever it is.
    #[inline]
    pub(in crate::world) fn take_val(&mut self) -> Val {
        std::mem::take(&mut self.aio.reg)
    }

    /// The result in the register.
    ///
    /// # Panics
    /// If what ran before left something else.
    #[inline]
    #[track_caller]
    pub(in crate::world) fn take<T: Returned>(&mut self) -> T {
        if let Some(value) = T::copied(&self.aio.reg) {
            self.forget_reg();
            return value;
        }
        match T::from_val(self.take_val()) {
            Ok(value) => value,
            Err(other) => left_another(T::WHAT, &other),
        }
    }

    /// Empties the register, where what stands in it has nothing to give up.
    #[inline]
    pub(in crate::world) fn forget_reg(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.aio.reg, Val::None));
    }

    /// Takes the frame that runs next.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Frame {
        // As a whole: `Vec::pop` has its variant taken apart from the rest to tell it from `None`, and to put the two together again a
        // processor has to wait until both are written.
        let top = self.aio.stack.last_mut().expect("a frame is on the stack");
        let frame = std::mem::replace(top, Frame::Idle);
        std::mem::forget(self.aio.stack.pop());
        frame
    }

    /// A look at the register; the result stays there.
    pub(in crate::world) fn peek(&self) -> &Val {
        &self.aio.reg
    }

    /// The result of what ran before, to be changed in the register.
    pub(in crate::world) fn peek_mut(&mut self) -> &mut Val {
        &mut self.aio.reg
    }

    /// The frame below would give a result of its own ([`Frame::Give`]): this one takes its place.
    ///
    /// # Panics
    /// If the frame below is another one.
    pub(in crate::world) fn give_instead(&mut self, value: Val) -> Flow {
        let below = self.aio.stack.pop();
        assert!(matches!(below, Some(Frame::Give(_))), "expected the frame of a result, found {below:?}");
        self.ret(value)
    }

    /// Calls a function of the world, then runs a frame: at once if the function is done, as a function call in QEMU takes no turn of the
    /// loop either.
    pub(in crate::world) fn call_then(&mut self, call: impl FnOnce(&mut World) -> Flow, then: Frame) -> Flow {
        self.push(then);
        let depth = self.aio.stack.len();
        match call(self) {
            Flow::Go if self.aio.stack.len() == depth => {
                let then = self.pop();
                then.call(self)
            }
            flow => flow,
        }
    }

    /// Before the main loop runs: runs frames until they are done, `between` their dispatches whatever the caller has to do. Gives the
    /// result of the last one, or an error where they have used all steps.
    pub(in crate::world) fn run_to_end(&mut self, frames: Vec<Frame>, between: Between<'_>) -> Val {
        self.push(Frame::Idle);
        self.push_all(frames);
        while self.aio.stack.last() != Some(&Frame::Idle) {
            let sleeps_wait = between(self);
            self.step(&mut Starting { sleeps_wait });
            if self.steps > self.most_steps {
                while self.aio.stack.last() != Some(&Frame::Idle) {
                    self.aio.stack.pop();
                }
                self.leave(Val::Done(Err(QmpError::generic("it has used all steps"))));
            }
        }
        self.aio.stack.pop();
        self.take_val()
    }

    /// The frames of the running stack, the one that runs next first.
    pub(in crate::world) fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.aio.stack.iter().rev()
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn left_another(wanted: &str, found: &Val) -> ! {
    panic!("expected {wanted}, found {found:?}")
}
