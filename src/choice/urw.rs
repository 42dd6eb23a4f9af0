//! The uniform random walk that weighs each task by the work it has left, so that every order of the tasks' steps is about as likely as
//! any other. An even choice at each step lets a long job run far behind a short one hardly ever; here it does as often as not.

use super::even::Even;
use super::stream::Stream;
use super::{AddresseeOf, ChoicePoint, Choose, MODE_ORDER, Subject, Tasks};

/// Draws tasks in proportion to what they have left to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Urw {
    stream: Stream,
    mode: u32,
}

/// Alternatives whose weights stand on the stack.
const FEW: usize = 16;

impl Urw {
    /// The schedule of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Urw {
        Urw { stream: Stream::new(seed, Even::STREAM), mode: MODE_ORDER }
    }

    /// The same with this answer to [`ChoicePoint::Mode`].
    #[must_use]
    pub fn with_mode(mut self, mode: u32) -> Urw {
        self.mode = mode;
        self
    }
}

impl Choose for Urw {
    fn choose(&mut self, point: ChoicePoint, among: u32) -> u32 {
        match point {
            ChoicePoint::Mode => self.mode,
            ChoicePoint::Latency(_) => 0,
            ChoicePoint::ClientRead if self.stream.below(2) == 0 => 0,
            _ => self.stream.below(among),
        }
    }

    /// A task's weight is shared by its alternatives.
    fn choose_of(&mut self, _point: ChoicePoint, among: u32, of: Tasks<'_>, _about: AddresseeOf<'_>) -> u32 {
        let n = (among as usize).min(FEW);
        let mut subjects = [Subject { task: 0, left: 1 }; FEW];
        for (i, subject) in subjects[..n].iter_mut().enumerate() {
            *subject = of(i as u32);
        }
        let subjects = &subjects[..n];
        let mut weights = [0u32; FEW];
        for (weight, subject) in weights.iter_mut().zip(subjects) {
            let same = subjects.iter().filter(|other| other.task == subject.task).count() as u32;
            *weight = (subject.left.clamp(1, 1 << 20) * 16 / same).max(1);
        }
        let mut draw = self.stream.below(weights[..n].iter().sum());
        for (i, weight) in weights[..n].iter().enumerate() {
            if draw < *weight {
                return i as u32;
            }
            draw -= weight;
        }
        unreachable!("the draw is below the sum of the weights")
    }

    fn wants_mode(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::Addressee;
    use super::*;

    #[test]
    fn the_longer_task_goes_first_more_often() {
        let left = [1, 9];
        let mut first = [0u32; 2];
        for seed in 0..1000 {
            let of = |i: u32| Subject { task: Subject::job(i), left: left[i as usize] };
            first[Urw::new(seed).choose_of(ChoicePoint::CompleteNext, 2, &of, &mut |_| Addressee::Nobody) as usize] +=
                1;
        }
        assert!((60..140).contains(&first[0]), "{first:?}");
    }

    #[test]
    fn a_task_weighs_as_much_however_many_requests_it_has() {
        let mut first = [0u32; 4];
        for seed in 0..1000 {
            let of = |i: u32| Subject { task: Subject::job(u32::from(i > 0)), left: 5 };
            first[Urw::new(seed).choose_of(ChoicePoint::CompleteNext, 4, &of, &mut |_| Addressee::Nobody) as usize] +=
                1;
        }
        assert!((450..550).contains(&first[0]), "{first:?}");
    }
}
