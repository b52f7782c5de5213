//! Whose turn it is to change a part of the kernel.
//!
//! A change takes the turn of its sandbox or network while the kernel is changed for it, and gives it
//! back before anything else is waited for: a runtime, the resolver, a disk. Healing takes the turn
//! of the part that it heals. So nothing that hangs outside of the kernel holds up anybody else.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use cnm::controller::Subject;

/// Who is changing the kernel at the moment.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<Taken>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    subjects: Vec<Subject>,
    all: bool,
}

/// The turn of one, or of all; given back when dropped.
#[derive(Debug)]
#[must_use = "a turn is over when it is dropped"]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    /// Nobody in particular: all.
    subject: Option<Subject>,
}

impl Turns {
    /// Waits until nobody else changes the kernel for this subject.
    pub(super) fn take(&self, subject: &Subject) -> Turn<'_> {
        let mut taken = self.lock();
        while taken.all || taken.subjects.contains(subject) {
            taken = self.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        taken.subjects.push(subject.clone());
        Turn { turns: self, subject: Some(subject.clone()) }
    }

    /// Waits until nobody changes the kernel at all.
    pub(super) fn take_all(&self) -> Turn<'_> {
        let mut taken = self.lock();
        while taken.all {
            taken = self.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        taken.all = true;
        while !taken.subjects.is_empty() {
            taken = self.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { turns: self, subject: None }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = self.turns.lock();
        match &self.subject {
            None => taken.all = false,
            Some(own) => taken.subjects.retain(|subject| subject != own),
        }
        drop(taken);
        self.turns.given_back.notify_all();
    }
}
