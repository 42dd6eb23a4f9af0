//! The running stack and the register: what others may do with them.
//!
//! Between steps the stack is the main thread's; while a coroutine runs, it is that coroutine's (`co_run` exchanges them).

use crate::choice::Calm;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::frame::{Flow, Frame};
use crate::world::value::{Returned, Val};

impl World {
    /// Pushes a frame: it runs before those that are on the stack.
    pub(in crate::world) fn push(&mut self, frame: Frame) {
        self.aio.stack.push(frame);
    }

    /// Pushes frames so that they run in the order given.
    pub fn seq<const N: usize>(&mut self, frames: [Frame; N]) -> Flow {
        self.aio.stack.extend(frames.into_iter().rev());
        Flow::Go
    }

    /// [`World::seq`] of any number of frames.
    pub(in crate::world) fn push_all(&mut self, frames: Vec<Frame>) {
        self.aio.stack.extend(frames.into_iter().rev());
    }

    /// Ends the running frame with a result for the one below.
    pub fn ret(&mut self, value: Val) -> Flow {
        self.aio.reg = value;
        Flow::Go
    }

    /// Leaves a result for the frame that runs next, and goes on.
    pub(in crate::world) fn leave(&mut self, value: Val) {
        self.aio.reg = value;
    }

    /// The result in the register, whatever it is.
    pub(in crate::world) fn take_val(&mut self) -> Val {
        std::mem::take(&mut self.aio.reg)
    }

    /// The result in the register.
    ///
    /// # Panics
    /// If what ran before left something else.
    #[track_caller]
    pub(in crate::world) fn take<T: Returned>(&mut self) -> T {
        match T::from_val(self.take_val()) {
            Ok(value) => value,
            Err(other) => panic!("expected {}, found {other:?}", T::WHAT),
        }
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
                let then = self.aio.stack.pop().expect("it was pushed just before");
                then.run(self)
            }
            flow => flow,
        }
    }

    /// Before the main loop runs: runs frames until they are done, `between` their dispatches whatever the caller has to do. Gives the
    /// result of the last one, or an error where they have used all steps.
    pub(in crate::world) fn run_to_end(&mut self, frames: Vec<Frame>, between: &mut dyn FnMut(&mut World)) -> Val {
        self.push(Frame::Idle);
        self.push_all(frames);
        while self.aio.stack.last() != Some(&Frame::Idle) {
            between(self);
            self.step(&mut Calm);
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
