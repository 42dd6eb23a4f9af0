//! Steps of clients of the NBD server.

use super::{Act, Client};
use crate::choice::Choose;
use crate::scenario::nbd::{MAY_BE_REFUSED, NbdAction, NbdStep};
use crate::trace::compare::same_text;
use crate::world::World;

impl Client {
    /// A step of an NBD client: it sends when the process is at rest, or, by choice, earlier; servers act also while it polls.
    pub(super) fn nbd_step(&mut self, world: &mut World, choose: &mut dyn Choose, step: &NbdStep) -> Act {
        let name = &step.client;
        if let NbdAction::Answer(expected) = &step.action {
            let answered = self.nbd.answered(name, expected);
            if let Ok(Some(text)) = &answered {
                self.note(world, "nbd", format!("{name}: {text}").into());
            }
            return if answered == Ok(None) { Act::Waits } else { self.checked(answered.map(drop)) };
        }
        let serves = step.action.is_servers();
        let (vain, polls) = (serves && world.polls_in_vain(), !serves && !world.in_main_loop());
        if !vain && !self.nbd_connects && !self.at_rest(world) && (polls || self.decide(choose, 2) == 0) {
            return Act::Waits;
        }
        let done = match &step.action {
            NbdAction::Connect { export, replies, contexts, refused, silent } => {
                let lenient = refused.as_deref() == Some(MAY_BE_REFUSED);
                if !self.nbd_connects {
                    let connected = self.nbd.connect(world, name, export, (*replies, contexts), *silent);
                    if lenient && connected.is_err() {
                        self.nbd.nobody_listens(name);
                        return self.checked(Ok(()));
                    }
                    self.nbd_connects = connected.is_ok() && !*silent;
                    return if self.nbd_connects { Act::Acted } else { self.checked(connected) };
                }
                let negotiated = match self.nbd.negotiated(name) {
                    Ok(None) => return Act::Waits,
                    Ok(Some(())) => Ok(()),
                    Err(why) => Err(why),
                };
                self.nbd_connects = false;
                match (refused, negotiated) {
                    _ if lenient => Ok(()),
                    (None, negotiated) => negotiated,
                    (Some(_), Ok(())) => Err("the server did not refuse the client".to_owned()),
                    (Some(wanted), Err(why)) if same_text(wanted, &why) => Ok(()),
                    (Some(wanted), Err(why)) => Err(format!("expected to be refused with {wanted:?}, got {why:?}")),
                }
            }
            NbdAction::Ask { kind, offset, length, pattern, flags } => {
                self.nbd.ask(world, name, (*kind, *flags), (*offset, *length), *pattern)
            }
            NbdAction::Disconnect | NbdAction::Gone => {
                self.nbd.leave(world, name, step.action == NbdAction::Disconnect)
            }
            NbdAction::Stall(on) => self.nbd.stall(name, *on),
            NbdAction::Answer(_) => Ok(()),
            action @ (NbdAction::Serve(_) | NbdAction::Server(_)) => crate::sim::nbd::serve(world, name, action),
        };
        self.checked(done)
    }
}
